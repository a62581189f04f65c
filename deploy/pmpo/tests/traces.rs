//! Traces as a collector gets them: a real receiver of OTLP, and the real processes of a run.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// From the newest to what it came from: the span, and whose it is.
const CHAIN: [(&str, &str); 7] = [
    ("apply weights", "pmpo-actor"),
    ("publish weights", "pmpo-learner"),
    ("update", "pmpo-learner"),
    ("sample batch", "pmpo-replay"),
    ("store batch", "pmpo-replay"),
    ("insert batch", "pmpo-actor"),
    ("collect batch", "pmpo-actor"),
];

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A span, and the process that it is of.
struct Received {
    resource: HashMap<String, String>,
    span: Span,
}

fn text(attributes: &[KeyValue]) -> HashMap<String, String> {
    let pair = |attribute: &KeyValue| {
        let value = match attribute.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        Some((attribute.key.clone(), value))
    };
    attributes.iter().filter_map(pair).collect()
}

impl Collector {
    fn received(&self) -> HashMap<Vec<u8>, Received> {
        let mut received = HashMap::new();
        let requests = std::mem::take(&mut *self.0.lock().unwrap());
        for of_process in requests.into_iter().flat_map(|r| r.resource_spans) {
            let resource = text(&of_process.resource.unwrap().attributes);
            for span in of_process.scope_spans.into_iter().flat_map(|s| s.spans) {
                let id = span.span_id.clone();
                let resource = resource.clone();
                received.insert(id, Received { resource, span });
            }
        }
        received
    }
}

/// The spans from one to where its trace began.
fn ancestry<'a>(spans: &'a HashMap<Vec<u8>, Received>, last: &'a Received) -> Vec<&'a Received> {
    let mut ancestry = vec![last];
    while let Some(parent) = spans.get(&ancestry.last().unwrap().span.parent_span_id) {
        ancestry.push(parent);
    }
    ancestry
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_steps_over_replay_and_update_to_the_weights_acted_with() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(collector.clone());
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    command
        .args(["train", "cartpole-swingup", "--learner-steps", "400"])
        .arg("--run-dir")
        .arg(folder.path().join("walk"))
        .args(["--set", "policy.hidden_sizes=[16, 16]"])
        .args(["--set", "learner.batch_size=32"])
        .args(["--set", "learner.publish_period_steps=20"])
        .args(["--set", "replay.table.min_size_to_sample=200"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .env("OTEL_TRACES_SAMPLER_ARG", "0.5")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let spans = collector.received();
    let whole: Vec<_> = spans
        .values()
        .map(|last| ancestry(&spans, last))
        .filter(|ancestry| {
            let names = ancestry
                .iter()
                .map(|r| (r.span.name.as_str(), r.resource["service.name"].as_str()));
            names.eq(CHAIN)
        })
        .collect();
    let mut names: Vec<_> = spans.values().map(|r| r.span.name.as_str()).collect();
    names.sort_unstable();
    assert!(!whole.is_empty(), "no whole trace among {names:?}");
    for ancestry in whole {
        let trace_id = &ancestry[0].span.trace_id;
        for (later, earlier) in ancestry.iter().zip(&ancestry[1..]) {
            assert_eq!(&earlier.span.trace_id, trace_id);
            assert!(later.span.start_time_unix_nano >= earlier.span.start_time_unix_nano);
        }
        assert!(ancestry[6].span.parent_span_id.is_empty());
        for received in &ancestry {
            assert_eq!(received.resource["pmpo.run.id"], "walk");
            assert_eq!(received.resource["pmpo.index"], "0");
        }
        let version = &text(&ancestry[0].span.attributes)["pmpo.policy_version"];
        assert_eq!(
            version,
            &text(&ancestry[1].span.attributes)["pmpo.policy_version"]
        );
    }
    // A batch mixes the items of many inserts, and a publication is made of many updates.
    for name in ["sample batch", "publish weights"] {
        let mut named = spans.values().filter(|r| r.span.name == name);
        assert!(named.any(|r| !r.span.links.is_empty()), "{name}: no links");
    }
}
