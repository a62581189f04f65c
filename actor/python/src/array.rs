//! NumPy arrays without a copy, by Python's buffer protocol. The limited API has it from Python 3.11 on; every
//! CPython has had these two functions and this structure since 3.0, and 3.11 has frozen them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::slice;

use pyo3::exceptions::PyValueError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

/// `Py_buffer` of `pybuffer.h`.
#[repr(C)]
struct RawBuffer {
    buf: *mut c_void,
    obj: *mut PyObject,
    len: isize,
    itemsize: isize,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut isize,
    strides: *mut isize,
    suboffsets: *mut isize,
    internal: *mut c_void,
}

unsafe extern "C" {
    fn PyObject_GetBuffer(object: *mut PyObject, view: *mut RawBuffer, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut RawBuffer);
}

const WRITABLE: c_int = 0x1;
/// `PyBUF_C_CONTIGUOUS | PyBUF_FORMAT`: shape and format are there, the elements lie one after the other.
const CONTIGUOUS: c_int = 0x38 | 0x4;

/// The elements of an array, row-major.
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

/// An array that stays where it is while this lives, and the interpreter is attached.
pub(crate) struct View<'py> {
    // At one place, for its owner may have kept the address.
    raw: Box<RawBuffer>,
    attached: PhantomData<Python<'py>>,
}

impl<'py> View<'py> {
    /// A contiguous array; `None` for what is none.
    pub(crate) fn of(object: &Bound<'py, PyAny>) -> Option<Self> {
        Self::with(object, CONTIGUOUS)
    }

    /// A contiguous array to write to; `None` for what is none.
    pub(crate) fn to_write(object: &Bound<'py, PyAny>) -> Option<Self> {
        Self::with(object, CONTIGUOUS | WRITABLE)
    }

    fn with(object: &Bound<'py, PyAny>, flags: c_int) -> Option<Self> {
        let mut raw = Box::<RawBuffer>::new_uninit();
        // SAFETY: the object is alive, and on success the structure is filled.
        let raw = unsafe {
            if PyObject_GetBuffer(object.as_ptr(), raw.as_mut_ptr(), flags) != 0 {
                // What it says is that this is no such array, which the caller says better.
                drop(PyErr::take(object.py()));
                return None;
            }
            raw.assume_init()
        };
        Some(Self {
            raw,
            attached: PhantomData,
        })
    }

    /// The sizes of its axes.
    pub(crate) fn shape(&self) -> &[isize] {
        let axes = usize::try_from(self.raw.ndim).unwrap_or_default();
        if axes == 0 {
            return &[];
        }
        // SAFETY: asked for contiguous, it has a size for each axis.
        unsafe { slice::from_raw_parts(self.raw.shape, axes) }
    }

    /// Its elements where they are floating-point numbers of the machine's.
    pub(crate) fn numbers(&self) -> Option<Numbers<'_>> {
        match self.format() {
            b"f" => self.elements().map(Numbers::F32),
            b"d" => self.elements().map(Numbers::F64),
            _ => None,
        }
    }

    /// Its elements, to write, where they are `float64`.
    pub(crate) fn numbers_mut(&mut self) -> Option<&mut [f64]> {
        if self.raw.readonly != 0 || self.format() != b"d" {
            return None;
        }
        let length = self.elements::<f64>()?.len();
        // SAFETY: as `elements`, the array may be written to, and nobody else does while the interpreter
        // is attached here.
        Some(unsafe { slice::from_raw_parts_mut(self.raw.buf.cast(), length) })
    }

    /// The type of its elements, as the module `struct` writes it.
    pub(crate) fn format(&self) -> &[u8] {
        if self.raw.format.is_null() {
            return b"B";
        }
        // SAFETY: a format is a C string.
        unsafe { CStr::from_ptr(self.raw.format) }.to_bytes()
    }

    /// Its elements as they lie in memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.raw.len).unwrap_or_default();
        if length == 0 {
            return &[];
        }
        // SAFETY: asked for contiguous, so many bytes lie there, and stay while the view does.
        unsafe { slice::from_raw_parts(self.raw.buf.cast(), length) }
    }

    fn elements<T>(&self) -> Option<&[T]> {
        let size = size_of::<T>();
        let length = usize::try_from(self.raw.len).ok()? / size;
        if length == 0 {
            return Some(&[]);
        }
        let start = self.raw.buf.cast::<T>();
        if self.raw.itemsize != size as isize || !start.is_aligned() {
            return None;
        }
        // SAFETY: so many elements of this size lie there, and stay while the view does.
        Some(unsafe { slice::from_raw_parts(start, length) })
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // SAFETY: it was filled by `PyObject_GetBuffer`, and the interpreter is attached.
        unsafe { PyBuffer_Release(&mut *self.raw) };
    }
}

/// Writes `values` to a new NumPy array of this shape.
pub(crate) fn filled<'py>(
    empty: &Bound<'py, PyAny>,
    shape: &[usize],
    values: &[f64],
) -> PyResult<Bound<'py, PyAny>> {
    let array = match *shape {
        [columns] => empty.call1((columns,)),
        _ => empty.call1((shape.to_vec(),)),
    }?;
    let mut view = View::to_write(&array);
    match view.as_mut().and_then(View::numbers_mut) {
        Some(numbers) if numbers.len() == values.len() => numbers.copy_from_slice(values),
        _ => {
            return Err(PyValueError::new_err(
                "numpy.empty gave no array of float64",
            ));
        }
    }
    drop(view);
    Ok(array)
}
