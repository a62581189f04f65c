//! Every decoder of bytes from the network or the disk, as a function of bytes. It must neither panic
//! nor take memory that the bytes do not account for, and answers whether it accepted them. What it
//! accepts must survive being encoded and decoded again.

use pmpo_policy::PolicyNetwork;
use pmpo_proto::replay::v1::{self, insert_request, sample_request, sample_response};
use pmpo_proto::{
    BatchShape, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, SampledParts, signature_from_wire,
    signature_to_wire, steps_from_wire, steps_to_wire, writer_id_from_wire,
};
use pmpo_replay_core::{Restorer, Table, TableConfig};
use pmpo_service::announce::Announcement;
use pmpo_types::{Signature, check_priorities, transition};
use prost::Message;

/// Whether a decoder takes the bytes.
pub type Decoder = fn(&[u8]) -> bool;

/// Name of the corpus, and the decoder.
pub const DECODERS: [(&str, Decoder); 8] = [
    ("insert_request", insert_request),
    ("sample_request", sample_request),
    ("sample_response", sample_response),
    ("update_priorities", update_priorities),
    ("policy_snapshot", policy_snapshot),
    ("announcement", announcement),
    ("replay_log", replay_log),
    ("replay_log_sequences", replay_log_sequences),
];

/// The table that messages are for.
pub fn table() -> (Signature, usize) {
    (transition::signature(3, 2), 2)
}

/// Items of the batches that are asked for.
pub const BATCH: usize = 4;

fn accepts_signature(wire: Option<v1::Signature>) -> bool {
    let Ok(signature) = signature_from_wire(wire) else {
        return false;
    };
    let again = signature_from_wire(Some(signature_to_wire(&signature)));
    assert_eq!(again.as_ref(), Ok(&signature));
    true
}

/// What a writer sends.
pub fn insert_request(bytes: &[u8]) -> bool {
    let Ok(request) = v1::InsertRequest::decode(bytes) else {
        return false;
    };
    match request.request {
        None => false,
        Some(insert_request::Request::Open(open)) => {
            writer_id_from_wire(&open.writer_id).is_ok() & accepts_signature(open.signature)
        }
        Some(insert_request::Request::Steps(steps)) => {
            let (signature, length) = table();
            let first = steps.first_sequence;
            let read = |steps| steps_from_wire(&signature, length, steps, MAX_MESSAGE_BYTES);
            let Ok(steps) = read(steps) else {
                return false;
            };
            let again = read(steps_to_wire(&signature, first, &steps));
            assert_eq!(again.as_ref(), Ok(&steps));
            true
        }
    }
}

/// What a sampler sends.
pub fn sample_request(bytes: &[u8]) -> bool {
    let Ok(request) = v1::SampleRequest::decode(bytes) else {
        return false;
    };
    match request.request {
        None => false,
        Some(sample_request::Request::Open(open)) => accepts_signature(open.signature),
        Some(sample_request::Request::Demand(_)) => true,
    }
}

/// What a sampler receives: one part that is a whole batch.
pub fn sample_response(bytes: &[u8]) -> bool {
    let Ok(response) = v1::SampleResponse::decode(bytes) else {
        return false;
    };
    let (signature, sequence_length) = table();
    let shape = BatchShape {
        items: BATCH,
        sequence_length,
        ragged: false,
    };
    assert!(shape.rows() * signature.item_bytes() <= MAX_BATCH_BYTES);
    let part = match response.response {
        Some(sample_response::Response::Part(part)) => part,
        Some(sample_response::Response::Blocked(_)) => return true,
        None => return false,
    };
    match SampledParts::default().push(&signature, shape, part) {
        Ok(Some(batch)) => batch.columns.len() == shape.rows(),
        Ok(None) | Err(_) => false,
    }
}

/// What a learner tells of priorities.
pub fn update_priorities(bytes: &[u8]) -> bool {
    v1::UpdatePrioritiesRequest::decode(bytes).is_ok_and(|request| {
        request.keys.len() == request.priorities.len()
            && check_priorities(&request.priorities).is_ok()
    })
}

/// What an actor receives from the learner, and finds in a checkpoint.
pub fn policy_snapshot(bytes: &[u8]) -> bool {
    PolicyNetwork::from_snapshot(bytes).is_ok()
}

/// What a process writes of itself.
pub fn announcement(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Announcement>(bytes).is_ok()
}

/// A segment of a table of transitions, after a crash.
pub fn replay_log(bytes: &[u8]) -> bool {
    log(1, bytes)
}

/// A segment of a table of sequences, after a crash.
pub fn replay_log_sequences(bytes: &[u8]) -> bool {
    log(table().1, bytes)
}

/// The table whose log is read.
pub fn table_config(sequence_length: usize) -> TableConfig {
    TableConfig {
        sequence_length,
        min_size_to_sample: 1,
        ..TableConfig::default()
    }
}

/// Whatever is found, the table that comes of it must work: it gives what it holds and takes more.
fn log(sequence_length: usize, bytes: &[u8]) -> bool {
    let config = table_config(sequence_length);
    let mut restorer = Restorer::new(config).expect("the configuration is good");
    restorer.survey(bytes);
    if restorer.scan(0, bytes).is_err() {
        return false;
    }
    let Ok(mut loader) = restorer.finish(1) else {
        return false;
    };
    loader.load(0, bytes);
    let (mut table, found) = loader.finish();
    assert_eq!(table.counters().size, found.items);
    use_table(&mut table);
    found.damaged == 0 && found.torn_bytes == 0 && found.items > 0
}

fn use_table(table: &mut Table) {
    let length = table.config().sequence_length;
    let signature = table.signature().cloned();
    let signature = signature.unwrap_or_else(|| self::table().0);
    if table.open_sampler(1, &signature, length).is_ok() && table.counters().size > 0 {
        for _ in 0..8 {
            if let Ok(batch) = table.sample(1) {
                assert_eq!(batch.columns.len(), length);
            }
        }
    }
}
