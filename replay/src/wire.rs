//! Tables to the protocol and back.

use pmpo_proto::replay::v1;
use pmpo_proto::{counters_to_wire, signature_to_wire};
use pmpo_replay_core::selector::SelectorKind;
use pmpo_replay_core::{Blocked, Changes, LimiterKind, TableConfig};

use crate::table::{BlockedCalls, Description};

/// What a table is and holds.
pub(crate) fn table_to_wire(description: Description) -> v1::TableInfo {
    let Description {
        config,
        signature,
        counters,
        bytes,
        blocked,
        durable,
    } = description;
    let blocked = blocked.iter();
    v1::TableInfo {
        signature: signature.as_ref().map(signature_to_wire),
        counters: Some(counters_to_wire(counters)),
        bytes,
        durable,
        blocked: blocked
            .map(|calls| blocked_to_wire(&config.name, calls))
            .collect(),
        config: Some(config_to_wire(&config)),
    }
}

/// Who waits for what in the table of this name.
pub(crate) fn blocked_to_wire(table: &str, blocked: &BlockedCalls) -> v1::Blocked {
    let (hold, seconds) = (blocked.hold, blocked.waited.as_secs_f64());
    let reason = match hold.reason {
        Blocked::MinSize => v1::BlockedReason::MinSize,
        Blocked::Inserts => v1::BlockedReason::Inserts,
        Blocked::Samples => v1::BlockedReason::Samples,
    };
    v1::Blocked {
        reason: reason.into(),
        seconds,
        counter: hold.counter.to_owned(),
        value: hold.value,
        bound: hold.bound,
        callers: blocked.callers as u64,
        message: format!("table `{table}`: blocked for {seconds:.3} s, {hold}"),
    }
}

fn config_to_wire(config: &TableConfig) -> v1::TableConfig {
    v1::TableConfig {
        name: config.name.clone(),
        sequence_length: Some(config.sequence_length as u32),
        max_size: Some(config.max_size as u64),
        max_bytes: Some(config.max_bytes),
        max_times_sampled: Some(config.max_times_sampled),
        sampler: selector_to_wire(config.sampler).into(),
        remover: selector_to_wire(config.remover).into(),
        priority_exponent: Some(config.priority_exponent),
        age_decay: Some(config.age_decay),
        age_floor: Some(config.age_floor),
        limiter: limiter_to_wire(config.limiter).into(),
        samples_per_insert: Some(config.samples_per_insert),
        min_size_to_sample: Some(config.min_size_to_sample as u64),
        error_buffer: Some(config.error_buffer()),
        max_batch_size: Some(config.max_batch_size as u64),
        max_writers: Some(config.max_writers as u64),
    }
}

fn selector_to_wire(kind: SelectorKind) -> v1::Selector {
    match kind {
        SelectorKind::Uniform => v1::Selector::Uniform,
        SelectorKind::Prioritized => v1::Selector::Prioritized,
        SelectorKind::AgeWeighted => v1::Selector::AgeWeighted,
        SelectorKind::Fifo => v1::Selector::Fifo,
        SelectorKind::Lifo => v1::Selector::Lifo,
        SelectorKind::MaxHeap => v1::Selector::MaxHeap,
        SelectorKind::MinHeap => v1::Selector::MinHeap,
    }
}

fn limiter_to_wire(kind: LimiterKind) -> v1::Limiter {
    match kind {
        LimiterKind::SamplesPerInsert => v1::Limiter::SamplesPerInsert,
        LimiterKind::MinSize => v1::Limiter::MinSize,
        LimiterKind::Queue => v1::Limiter::Queue,
        LimiterKind::None => v1::Limiter::None,
    }
}

/// The changes that a request asks for, and of which table.
pub(crate) fn changes_from_wire(request: v1::ConfigureTableRequest) -> (String, Changes) {
    // Whatever fits no usize is no size either.
    let size = |size: Option<u64>| size.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    let changes = Changes {
        samples_per_insert: request.samples_per_insert,
        min_size_to_sample: size(request.min_size_to_sample),
        error_buffer: request.error_buffer,
        max_size: size(request.max_size),
        max_bytes: request.max_bytes,
    };
    (request.table, changes)
}
