//! NumPy arrays over memory of Rust's: no copy but the one that takes a column out of the message it came in.
//!
//! By `__array_interface__`, which every NumPy reads: of the limited API, Python's buffer protocol is a part only
//! from 3.11 on.

use std::any::Any;

use bytes::Bytes;
use pmpo_types::DType;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

/// Of a column that is copied: what JAX takes over without a copy of its own.
const ALIGNMENT: usize = 64;
/// Of one that is not: as allocators give it, and enough for every element.
const LEAST_ALIGNMENT: usize = 16;

#[repr(C, align(64))]
struct Line([u8; ALIGNMENT]);

/// Memory that nobody else looks at, and what lies there.
#[pyclass(module = "pmpo.replay", frozen)]
pub(crate) struct Buffer {
    address: usize,
    /// Keeps it where it is.
    _owner: Box<dyn Any + Send + Sync>,
    kind: &'static str,
    shape: Vec<usize>,
}

#[pymethods]
impl Buffer {
    /// <https://numpy.org/doc/stable/reference/arrays.interface.html>
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", self.kind)?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        let read_only = false;
        interface.set_item("data", (self.address, read_only))?;
        Ok(interface)
    }
}

/// The array of a column, `[shape]`, writable and aligned.
pub(crate) fn column(
    py: Python<'_>,
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
) -> PyResult<Bound<'_, PyAny>> {
    let (address, owner) = alone(data);
    let array = array(py, kind(dtype), shape, address, owner)?;
    if dtype == DType::Bf16 {
        static BFLOAT16: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        return BFLOAT16
            .import(py, "pmpo.replay", "_bfloat16")?
            .call1((array,));
    }
    Ok(array)
}

/// The array of numbers, one for each item.
pub(crate) fn numbers<T: Number>(py: Python<'_>, mut values: Vec<T>) -> PyResult<Bound<'_, PyAny>> {
    let (address, shape) = (values.as_mut_ptr() as usize, vec![values.len()]);
    array(py, T::KIND, shape, address, Box::new(values))
}

/// An element of such an array.
pub(crate) trait Number: Send + Sync + 'static {
    /// Its type as NumPy writes it.
    const KIND: &'static str;
}

impl Number for u64 {
    const KIND: &'static str = "<u8";
}

impl Number for f64 {
    const KIND: &'static str = "<f8";
}

impl Number for u32 {
    const KIND: &'static str = "<u4";
}

fn array<'py>(
    py: Python<'py>,
    kind: &'static str,
    shape: Vec<usize>,
    address: usize,
    owner: Box<dyn Any + Send + Sync>,
) -> PyResult<Bound<'py, PyAny>> {
    static ASARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let buffer = Buffer {
        address,
        _owner: owner,
        kind,
        shape,
    };
    ASARRAY.import(py, "numpy", "asarray")?.call1((buffer,))
}

/// The bytes, at an address where nobody else has them. Those of a batch that came in parts were put together for
/// it alone; those of a small one lie side by side in its message, wherever that put them.
fn alone(data: Bytes) -> (usize, Box<dyn Any + Send + Sync>) {
    let data = match data.try_into_mut() {
        Ok(mut own) if own.as_ptr().addr().is_multiple_of(LEAST_ALIGNMENT) => {
            return (own.as_mut_ptr() as usize, Box::new(own));
        }
        Ok(own) => own.freeze(),
        Err(shared) => shared,
    };
    let mut lines = Vec::<Line>::with_capacity(data.len().div_ceil(ALIGNMENT));
    let start = lines.as_mut_ptr().cast::<u8>();
    // SAFETY: so many bytes are allocated, here.
    unsafe { data.as_ptr().copy_to_nonoverlapping(start, data.len()) };
    (start as usize, Box::new(lines))
}

fn kind(dtype: DType) -> &'static str {
    match dtype {
        DType::U8 => "|u1",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U32 => "<u4",
        DType::Bool => "|b1",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        // Its bits; NumPy itself does not know it.
        DType::Bf16 => "<u2",
    }
}
