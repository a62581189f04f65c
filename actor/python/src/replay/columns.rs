//! Steps as Python has them, `{name: array}`, to bytes of columns.

use pmpo_proto::{signature_from_wire, signature_to_wire};
use pmpo_types::{ColumnSpec, DType, Signature};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyString};

use crate::array::View;

/// A signature, and what finds its columns in a step.
pub(crate) struct Layout {
    pub(crate) signature: Signature,
    names: Vec<Py<PyString>>,
}

impl Layout {
    pub(crate) fn new(py: Python<'_>, signature: Signature) -> Self {
        let columns = signature.columns.iter();
        Self {
            names: columns
                .map(|column| PyString::intern(py, &column.name).unbind())
                .collect(),
            signature,
        }
    }

    /// The bytes of a step, column after column. Whatever of Python it calls, nothing of ours is locked meanwhile.
    pub(crate) fn row(&self, py: Python<'_>, step: &Bound<'_, PyDict>) -> PyResult<Vec<u8>> {
        let mut row = Vec::with_capacity(self.signature.item_bytes());
        for (spec, name) in self.signature.columns.iter().zip(&self.names) {
            let Some(value) = step.get_item(name.bind(py))? else {
                return Err(self.other_columns(step));
            };
            let start = row.len();
            write(spec, &value, &mut row)?;
            let values = spec.check_values(&row[start..]);
            values.map_err(|error| PyValueError::new_err(format!("step: {error}")))?;
        }
        if step.len() == self.names.len() {
            return Ok(row);
        }
        Err(self.other_columns(step))
    }

    fn other_columns(&self, step: &Bound<'_, PyDict>) -> PyErr {
        let names: Vec<&str> = self.signature.columns.iter().map(|c| &c.name[..]).collect();
        let got = step.keys();
        PyValueError::new_err(format!("step: expected the columns {names:?}, got {got}"))
    }
}

/// A signature that is given, `{name: Column | (dtype, shape) | array}`, or, of a step, made of its values.
pub(crate) fn signature(given: &Bound<'_, PyAny>) -> PyResult<Signature> {
    static COLUMNS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let columns = COLUMNS
        .import(given.py(), "pmpo.replay", "_columns")?
        .call1((given,))?;
    let columns: Vec<(String, String, Vec<usize>, bool)> = columns.extract()?;
    let columns = columns
        .into_iter()
        .map(|(name, dtype, shape, allow_nonfinite)| {
            let Some(dtype) = DType::ALL
                .into_iter()
                .find(|&known| numpy_name(known) == dtype)
            else {
                let known = DType::ALL.map(numpy_name).join(", ");
                return Err(PyValueError::new_err(format!(
                    "column `{name}`: expected a dtype of {known}, got {dtype}"
                )));
            };
            Ok(ColumnSpec {
                name,
                dtype,
                shape,
                allow_nonfinite,
            })
        });
    let signature = Signature {
        columns: columns.collect::<PyResult<_>>()?,
    };
    // The server's own rules.
    signature_from_wire(Some(signature_to_wire(&signature)))
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The name of a type in NumPy, and in `ml_dtypes` that of the one that NumPy lacks.
pub(crate) fn numpy_name(dtype: DType) -> &'static str {
    match dtype {
        DType::U8 => "uint8",
        DType::I8 => "int8",
        DType::I16 => "int16",
        DType::I32 => "int32",
        DType::I64 => "int64",
        DType::U32 => "uint32",
        DType::Bool => "bool",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        DType::F32 => "float32",
        DType::F64 => "float64",
    }
}

/// Appends a value: as it lies in memory where it is what the column holds, and otherwise as NumPy makes it that.
fn write(spec: &ColumnSpec, value: &Bound<'_, PyAny>, row: &mut Vec<u8>) -> PyResult<()> {
    if spec.shape.is_empty() && write_number(spec.dtype, value, row) {
        return Ok(());
    }
    if let Some(view) = View::of(value).filter(|view| is(spec, view)) {
        row.extend_from_slice(view.bytes());
        return Ok(());
    }
    static ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let array = ARRAY.import(value.py(), "pmpo.replay", "_array")?.call1((
        value,
        &spec.name,
        numpy_name(spec.dtype),
        &spec.shape,
    ))?;
    let view = View::of(&array).ok_or_else(|| PyTypeError::new_err("expected an array"))?;
    row.extend_from_slice(view.bytes());
    Ok(())
}

/// Appends one of Python's own numbers, if it is one, and of the kind that the column holds.
fn write_number(dtype: DType, value: &Bound<'_, PyAny>, row: &mut Vec<u8>) -> bool {
    let Ok(number) = value.cast::<PyFloat>() else {
        return false;
    };
    match dtype {
        DType::F32 => row.extend_from_slice(&(number.value() as f32).to_le_bytes()),
        DType::F64 => row.extend_from_slice(&number.value().to_le_bytes()),
        _ => return false,
    }
    true
}

/// Whether an array is what a column holds of a step.
fn is(spec: &ColumnSpec, view: &View<'_>) -> bool {
    let format: &[&[u8]] = match spec.dtype {
        DType::U8 => &[b"B"],
        DType::I8 => &[b"b"],
        DType::I16 => &[b"h"],
        DType::I32 => &[b"i"],
        DType::I64 => &[b"l", b"q"],
        DType::U32 => &[b"I"],
        DType::Bool => &[b"?"],
        DType::F16 => &[b"e"],
        DType::F32 => &[b"f"],
        DType::F64 => &[b"d"],
        // No format is for it.
        DType::Bf16 => &[],
    };
    let shape = view.shape();
    format.contains(&view.format())
        && shape.len() == spec.shape.len()
        && shape
            .iter()
            .zip(&spec.shape)
            .all(|(&got, &expected)| got as usize == expected)
}

/// Keys of items, from anything that NumPy takes for such.
pub(crate) fn of_keys(keys: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    elements(keys, "keys", "uint64", u64::from_ne_bytes)
}

/// Priorities of items, likewise.
pub(crate) fn of_priorities(priorities: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    elements(priorities, "priorities", "float64", f64::from_ne_bytes)
}

fn elements<T>(
    values: &Bound<'_, PyAny>,
    field: &str,
    dtype: &str,
    read: fn([u8; 8]) -> T,
) -> PyResult<Vec<T>> {
    static FLAT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let flat = FLAT
        .import(values.py(), "pmpo.replay", "_flat")?
        .call1((values, field, dtype))?;
    let view = View::of(&flat)
        .ok_or_else(|| PyValueError::new_err(format!("{field}: expected an array of {dtype}")))?;
    let (elements, _) = view.bytes().as_chunks();
    Ok(elements.iter().copied().map(read).collect())
}
