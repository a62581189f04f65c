//! Tables to the protocol and back.

use pmpo_proto::replay::v1;
use pmpo_proto::{WireError, counters_to_wire, signature_to_wire};
use pmpo_replay_core::selector::SelectorKind;
use pmpo_replay_core::{Blocked, Changes, Error, LimiterKind, TableConfig};
use tonic::Status;

use crate::error::status;
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

/// What a table is, with nothing absent.
pub fn config_to_wire(config: &TableConfig) -> v1::TableConfig {
    v1::TableConfig {
        name: config.name.clone(),
        sequence_length: Some(config.sequence_length as u32),
        min_sequence_length: Some(config.min_sequence_length() as u32),
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

/// A table to be made, checked as one of the configuration file is.
pub(crate) fn config_from_wire(config: Option<v1::TableConfig>) -> Result<TableConfig, Status> {
    let config =
        config.ok_or_else(|| WireError::field("config", "a table's configuration", "nothing"))?;
    let default = TableConfig::default();
    let selector = |field, got, default| {
        let number = |kind| selector_to_wire(kind).into();
        kind_from_wire(field, got, default, &SelectorKind::ALL, number)
    };
    let limiter = |kind| limiter_to_wire(kind).into();
    let config = TableConfig {
        sampler: selector("config.sampler", config.sampler, default.sampler)?,
        remover: selector("config.remover", config.remover, default.remover)?,
        limiter: kind_from_wire(
            "config.limiter",
            config.limiter,
            default.limiter,
            &LimiterKind::ALL,
            limiter,
        )?,
        name: config.name,
        sequence_length: size_from_wire(config.sequence_length.map(u64::from))
            .unwrap_or(default.sequence_length),
        min_sequence_length: size_from_wire(config.min_sequence_length.map(u64::from)),
        max_size: size_from_wire(config.max_size).unwrap_or(default.max_size),
        max_bytes: config.max_bytes.unwrap_or(default.max_bytes),
        max_times_sampled: config
            .max_times_sampled
            .unwrap_or(default.max_times_sampled),
        priority_exponent: config
            .priority_exponent
            .unwrap_or(default.priority_exponent),
        age_decay: config.age_decay.unwrap_or(default.age_decay),
        age_floor: config.age_floor.unwrap_or(default.age_floor),
        samples_per_insert: config
            .samples_per_insert
            .unwrap_or(default.samples_per_insert),
        min_size_to_sample: size_from_wire(config.min_size_to_sample)
            .unwrap_or(default.min_size_to_sample),
        error_buffer: config.error_buffer,
        max_batch_size: size_from_wire(config.max_batch_size).unwrap_or(default.max_batch_size),
        max_writers: size_from_wire(config.max_writers).unwrap_or(default.max_writers),
    };
    let checked = config.validate();
    checked.map_err(|error| status(&Error::from(error.within("config"))))?;
    Ok(config)
}

/// The kind whose number in the protocol this is; 0 stands for `default`.
fn kind_from_wire<K: Copy>(
    field: &str,
    got: i32,
    default: K,
    all: &[K],
    number: impl Fn(K) -> i32,
) -> Result<K, WireError> {
    if got == 0 {
        return Ok(default);
    }
    let found = all.iter().copied().find(|&kind| number(kind) == got);
    found.ok_or_else(|| WireError::field(field, "a number that the protocol names", got))
}

/// Whatever fits no usize is no size either.
fn size_from_wire(size: Option<u64>) -> Option<usize> {
    size.map(|size| usize::try_from(size).unwrap_or(usize::MAX))
}

/// The changes that a request asks for, and of which table.
pub(crate) fn changes_from_wire(request: v1::ConfigureTableRequest) -> (String, Changes) {
    let changes = Changes {
        samples_per_insert: request.samples_per_insert,
        min_size_to_sample: size_from_wire(request.min_size_to_sample),
        error_buffer: request.error_buffer,
        max_size: size_from_wire(request.max_size),
        max_bytes: request.max_bytes,
    };
    (request.table, changes)
}
