//! Tables that are created while the service runs, and copies of all: what is refused has changed nothing.

use std::path::Path;

use bytes::Bytes;
use pmpo_proto::replay::v1;
use pmpo_proto::{signature_to_wire, steps_to_wire};
use pmpo_replay::{LimiterKind, ReplayConfig, SelectorKind, TableConfig, config_to_wire};
use pmpo_types::StepBatch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::common::{PATIENCE, Service, acknowledged, batch, roomy, signature, writer};

/// In memory, or in a data directory.
fn start(data_dir: Option<&Path>) -> Service {
    let config = ReplayConfig {
        data_dir: data_dir.map(Path::to_owned),
        max_tables: 2,
        table: roomy(),
        ..ReplayConfig::default()
    };
    Service::start_at("127.0.0.1:0", config)
}

/// Each item leaves with its first draw, the oldest first.
fn table(name: &str) -> v1::TableConfig {
    let mut config = config_to_wire(&TableConfig {
        name: name.to_owned(),
        limiter: LimiterKind::None,
        sampler: SelectorKind::Fifo,
        max_times_sampled: 1,
        ..TableConfig::default()
    });
    // What is absent has its default.
    config.max_size = None;
    config.remover = v1::Selector::Unspecified.into();
    config
}

fn create(service: &Service, config: v1::TableConfig) -> Result<v1::TableInfo, Status> {
    let mut client = service.client();
    let request = v1::CreateTableRequest {
        config: Some(config),
    };
    let created = service.runtime.block_on(client.create_table(request));
    created.map(|created| created.into_inner().table.unwrap())
}

fn checkpoint(service: &Service) -> Result<v1::CheckpointResponse, Status> {
    let mut client = service.client();
    let made = client.checkpoint(v1::CheckpointRequest::default());
    service
        .runtime
        .block_on(made)
        .map(tonic::Response::into_inner)
}

/// Writes ten items into a table, as one writer of many.
fn write(service: &Service, table: &str) {
    let steps = StepBatch::transitions(batch(0..10));
    let open = v1::OpenWriter {
        table: table.to_owned(),
        writer_id: Bytes::from_static(&[3; 16]),
        signature: Some(signature_to_wire(&signature())),
        ..Default::default()
    };
    let steps = steps_to_wire(&signature(), 0, &steps);
    let requests = [
        v1::insert_request::Request::Open(open),
        v1::insert_request::Request::Steps(steps),
    ];
    let requests = requests.map(|request| v1::InsertRequest {
        request: Some(request),
    });
    let mut client = service.client();
    service.runtime.block_on(async {
        let requests = tokio_stream::iter(requests);
        let mut responses = client.insert(requests).await.unwrap().into_inner();
        while let Some(response) = responses.message().await.unwrap() {
            acknowledged(response);
        }
    });
}

fn names(service: &Service) -> Vec<String> {
    let tables = service.tables().into_iter();
    tables.map(|table| table.config.unwrap().name).collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}

#[test]
fn a_created_table_outlives_the_service_and_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let service = start(Some(folder.path()));
    let created = create(&service, table("made")).unwrap();
    let config = created.config.unwrap();
    assert!(created.durable);
    assert_eq!(
        (config.max_size(), config.remover()),
        (1_000_000, v1::Selector::Fifo)
    );
    write(&service, "made");
    service.stop().unwrap();

    let service = start(Some(folder.path()));
    assert_eq!(names(&service), ["made", "replay"]);
    let again = create(&service, table("made")).unwrap();
    assert_eq!(again.config.unwrap(), config);
    assert_eq!(again.counters.unwrap().size, 10);
    let other = v1::TableConfig {
        max_size: Some(7),
        ..table("made")
    };
    let refused = create(&service, other).unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert!(refused.message().contains("`made`"), "{refused}");
    service.stop().unwrap();

    // A configuration that has a table of its name is in force.
    let configured = ReplayConfig {
        data_dir: Some(folder.path().to_owned()),
        table: TableConfig {
            name: "made".to_owned(),
            ..roomy()
        },
        ..ReplayConfig::default()
    };
    let service = Service::start_at("127.0.0.1:0", configured);
    assert_eq!(
        (names(&service), service.counters().0),
        (vec!["made".to_owned()], 10)
    );
    service.stop().unwrap();
}

#[test]
fn in_memory_a_created_table_is_as_good_and_not_durable() {
    let service = start(None);
    assert!(!create(&service, table("made")).unwrap().durable);
    write(&service, "made");
    assert_eq!(service.counters().0, 10);
    let refused = checkpoint(&service).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    service.stop().unwrap();
}

#[test]
fn tables_that_are_refused_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let service = start(Some(folder.path()));
    // It has opened by the time that it answers.
    assert_eq!(names(&service), ["replay"]);
    let before = entries(folder.path());
    let refused = |change: fn(&mut v1::TableConfig)| {
        let mut config = table("made");
        change(&mut config);
        let refused = create(&service, config).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        refused.message().to_owned()
    };
    let cases = [
        (
            refused(|c| c.name = "../up".to_owned()),
            "config.name: expected 1 to 128 letters",
        ),
        (
            refused(|c| c.name = ".run".to_owned()),
            "config.name: expected 1 to 128 letters",
        ),
        (
            refused(|c| c.name = "a".repeat(129)),
            "config.name: expected 1 to 128 letters",
        ),
        (
            refused(|c| c.sequence_length = Some(0)),
            "config.sequence_length: expected 1 to 65536",
        ),
        (
            refused(|c| c.max_size = Some(u64::MAX)),
            "config.max_size: expected 1 to 4294967295",
        ),
        (
            refused(|c| c.max_bytes = Some(u64::MAX)),
            "config.max_bytes: expected 0, no bound, to",
        ),
        (
            refused(|c| c.sampler = 99),
            "config.sampler: expected a number that the protocol names",
        ),
        (
            refused(|c| c.limiter = -1),
            "config.limiter: expected a number that the protocol names",
        ),
        (
            refused(|c| c.samples_per_insert = Some(f64::NAN)),
            "config.samples_per_insert: expected a finite number, got NaN",
        ),
        (
            refused(|c| c.error_buffer = Some(f64::INFINITY)),
            "config.error_buffer: expected a finite number, got inf",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.starts_with(expected), "{message}");
    }
    let mut client = service.client();
    let absent = client.create_table(v1::CreateTableRequest::default());
    let absent = service.runtime.block_on(absent).unwrap_err();
    assert_eq!(
        absent.message(),
        "config: expected a table's configuration, got nothing"
    );

    // What the next start would read cannot be written: neither is there a table, nor its folder.
    let list = folder.path().join(".tables.toml");
    std::fs::create_dir(&list).unwrap();
    let failed = create(&service, table("made")).unwrap_err();
    assert_eq!(failed.code(), Code::Internal, "{failed}");
    std::fs::remove_dir(&list).unwrap();
    // And where its folder cannot be made.
    std::fs::write(folder.path().join("made"), "").unwrap();
    let failed = create(&service, table("made")).unwrap_err();
    assert_eq!(failed.code(), Code::Internal, "{failed}");
    std::fs::remove_file(folder.path().join("made")).unwrap();

    assert_eq!(names(&service), ["replay"]);
    assert_eq!(entries(folder.path()), before);
    create(&service, table("made")).unwrap();
    let full = create(&service, table("another")).unwrap_err();
    assert_eq!(
        (full.code(), full.message()),
        (
            Code::FailedPrecondition,
            "max_tables: there are 2 tables, no more fit"
        )
    );
    assert_eq!(names(&service), ["made", "replay"]);
    service.stop().unwrap();
}

/// Items of a table that the configuration no longer names are nobody's to be served by surprise.
#[test]
fn a_table_that_was_served_before_is_not_created_over() {
    let folder = tempfile::tempdir().unwrap();
    let service = start(Some(folder.path()));
    write(&service, "replay");
    service.stop().unwrap();
    let renamed = ReplayConfig {
        data_dir: Some(folder.path().to_owned()),
        table: TableConfig {
            name: "other".to_owned(),
            ..roomy()
        },
        ..ReplayConfig::default()
    };
    let service = Service::start_at("127.0.0.1:0", renamed);
    let refused = create(&service, table("replay")).unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert!(refused.message().contains("has 10 inserts"), "{refused}");
    assert_eq!(names(&service), ["other"]);
    service.stop().unwrap();
    let service = start(Some(folder.path()));
    assert_eq!(service.counters(), (10, 10, 0), "they are still there");
    service.stop().unwrap();
}

#[test]
fn a_checkpoint_that_fails_leaves_nothing_and_the_service_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let service = start(Some(folder.path()));
    write(&service, "replay");
    let checkpoints = folder.path().join(".checkpoints");
    std::fs::write(&checkpoints, "").unwrap();
    let failed = checkpoint(&service).unwrap_err();
    assert_eq!(failed.code(), Code::Internal, "{failed}");
    std::fs::remove_file(&checkpoints).unwrap();
    // The log is not where it was, so it cannot be copied.
    let log = folder.path().join("replay");
    std::fs::rename(&log, folder.path().join("away")).unwrap();
    let failed = checkpoint(&service).unwrap_err();
    assert!(
        failed.message().contains("log of table `replay`: "),
        "{failed}"
    );
    assert_eq!(entries(&checkpoints), [""; 0]);
    std::fs::rename(folder.path().join("away"), &log).unwrap();
    // Another that was being made when a process ended is in nobody's way.
    std::fs::create_dir_all(checkpoints.join(".new/replay")).unwrap();
    let made = checkpoint(&service).unwrap();
    assert_eq!(Path::new(&made.path), checkpoints.join("000000"));
    assert_eq!(entries(&checkpoints), ["000000"]);
    service.stop().unwrap();
}

#[test]
fn checkpoints_are_served_as_they_were_while_a_writer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let service = start(Some(folder.path()));
    create(&service, table("made")).unwrap();
    write(&service, "made");
    let shutdown = CancellationToken::new();
    let mut writer = writer(&service.runtime, &service.address, 64, &shutdown);
    let (mut written, mut copies) = (0, Vec::new());
    for _ in 0..3 {
        for _ in 0..20 {
            writer.push(batch(written..written + 10)).unwrap();
            written += 10;
        }
        let acknowledged = writer.acknowledged_items();
        let made = checkpoint(&service).unwrap();
        copies.push((made, acknowledged, written as u64));
    }
    writer.flush(PATIENCE).unwrap();
    service.stop().unwrap();
    for (made, acknowledged, written) in copies {
        let copy = start(Some(Path::new(&made.path)));
        let [first, second] = &made.tables[..] else {
            panic!("expected two tables, got {made:?}");
        };
        let told = second.counters.unwrap();
        assert!((acknowledged..=written).contains(&told.inserts), "{told:?}");
        assert_eq!(
            (&first.table[..], first.counters.unwrap().size),
            ("made", 10)
        );
        assert_eq!(copy.tables().len(), 2);
        let found = copy.tables()[1].counters.unwrap();
        assert_eq!(found, told);
        let seen = copy.contents(found.size as usize);
        assert_eq!(
            seen.into_keys().collect::<Vec<_>>(),
            (0..found.size as i64).collect::<Vec<_>>()
        );
        copy.stop().unwrap();
    }
}
