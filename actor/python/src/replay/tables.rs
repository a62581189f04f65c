//! What tables are, from the protocol to the data classes of `pmpo.replay`.

use pmpo_proto::replay::v1;
use pmpo_proto::signature_from_wire;
use pmpo_types::Signature;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::replay::columns::numpy_name;

/// A server names its tables.
pub(crate) fn name(info: &v1::TableInfo) -> &str {
    info.config.as_ref().map_or("", |config| &config.name)
}

/// A table's signature; `None` before its first step.
pub(crate) fn signature(info: &v1::TableInfo) -> PyResult<Option<Signature>> {
    let Some(wire) = &info.signature else {
        return Ok(None);
    };
    let read = signature_from_wire(Some(wire.clone()));
    read.map(Some)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// `pmpo.replay.TableInfo`.
pub(crate) fn table_info(py: Python<'_>, info: v1::TableInfo) -> PyResult<Bound<'_, PyAny>> {
    let replay = py.import("pmpo.replay")?;
    let columns = match signature(&info)? {
        None => None,
        Some(signature) => {
            let columns = PyDict::new(py);
            let class = replay.getattr("Column")?;
            for column in signature.columns {
                let shape = PyTuple::new(py, column.shape)?;
                let of = class.call1((numpy_name(column.dtype), shape, column.allow_nonfinite))?;
                columns.set_item(column.name, of)?;
            }
            Some(columns)
        }
    };
    let class = replay.getattr("Waiting")?;
    let waiting = info.blocked.iter().map(|blocked| {
        let v1::Blocked {
            counter,
            value,
            bound,
            seconds,
            callers,
            ..
        } = blocked;
        let reason = reason(blocked.reason());
        class.call1((reason, counter, *value, *bound, *seconds, *callers))
    });
    let waiting: Vec<_> = waiting.collect::<PyResult<_>>()?;
    let counters = info.counters.unwrap_or_default();
    let fields = PyDict::new(py);
    fields.set_item("config", config(py, info.config.unwrap_or_default())?)?;
    fields.set_item("signature", columns)?;
    fields.set_item("size", counters.size)?;
    fields.set_item("inserts", counters.inserts)?;
    fields.set_item("samples", counters.samples)?;
    fields.set_item("bytes", info.bytes)?;
    fields.set_item("durable", info.durable)?;
    fields.set_item("blocked", PyTuple::new(py, waiting)?)?;
    replay.getattr("TableInfo")?.call((), Some(&fields))
}

/// `pmpo.replay.Table`; the server has said every field.
fn config(py: Python<'_>, config: v1::TableConfig) -> PyResult<Bound<'_, PyAny>> {
    let fields = PyDict::new(py);
    let named = |value: &str, kind: &str| value.trim_start_matches(kind).to_ascii_lowercase();
    let selector = |selector: v1::Selector| named(selector.as_str_name(), "SELECTOR_");
    fields.set_item("sampler", selector(config.sampler()))?;
    fields.set_item("remover", selector(config.remover()))?;
    fields.set_item("limiter", named(config.limiter().as_str_name(), "LIMITER_"))?;
    fields.set_item("name", config.name)?;
    fields.set_item("sequence_length", config.sequence_length)?;
    fields.set_item("min_sequence_length", config.min_sequence_length)?;
    fields.set_item("max_size", config.max_size)?;
    fields.set_item("max_bytes", config.max_bytes)?;
    fields.set_item("max_times_sampled", config.max_times_sampled)?;
    fields.set_item("priority_exponent", config.priority_exponent)?;
    fields.set_item("age_decay", config.age_decay)?;
    fields.set_item("age_floor", config.age_floor)?;
    fields.set_item("samples_per_insert", config.samples_per_insert)?;
    fields.set_item("min_size_to_sample", config.min_size_to_sample)?;
    fields.set_item("error_buffer", config.error_buffer)?;
    fields.set_item("max_batch_size", config.max_batch_size)?;
    fields.set_item("max_writers", config.max_writers)?;
    py.import("pmpo.replay")?
        .getattr("Table")?
        .call((), Some(&fields))
}

/// What callers wait for, in a word.
pub(crate) fn reason(reason: v1::BlockedReason) -> &'static str {
    match reason {
        v1::BlockedReason::MinSize => "min_size",
        v1::BlockedReason::Inserts => "inserts",
        v1::BlockedReason::Samples => "samples",
        v1::BlockedReason::Unspecified => "of a later version",
    }
}
