//! A language model's metadata and weights, read from a GGUF file.
//!
//! Follows the GGUF specification of ggml (`docs/gguf.md` in ggml's repository), versions 2 and 3 in
//! little-endian order. Weights come as single precision, whatever type the file has them in.
//!
//! Nothing that the file says is trusted: counts, lengths and offsets are checked against the size of
//! the file before anything is allocated or read for them. What is held in memory is the metadata, in
//! which a value of a list takes at least 32 bytes, and the tensors that were asked for, which take up to
//! 8 times their bytes in the file.
//!
//! Left out: version 1, big-endian files, models in several files (each file opens by itself), writing,
//! and tensor types other than F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K and Q6_K. A file with other
//! types opens, only those tensors cannot be read, and only their beginning is checked to be in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use header::Tensor;
use quantised::Encoding;

mod header;
mod quantised;

/// How many values are read at once, a multiple of every block's.
const VALUES_AT_ONCE: usize = 1 << 16;

/// What can go wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file is not what the specification says.
    #[error("{}, {place}: expected {expected}, found {found}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file: a byte, a key or a tensor.
        place: String,
        /// What would have been accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The metadata lacks a value, or has it with another type.
    #[error("{}, key {key:?}: expected {expected}, found {found}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key that was asked for.
        key: String,
        /// What would have been accepted.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The file has no tensor of this name.
    #[error("{}: expected a tensor {name:?}, found none among its {count}", .path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        name: String,
        /// Number of tensors in the file.
        count: usize,
    },
    /// The tensor has a type that cannot be decoded.
    #[error("{}, tensor {name:?}: expected type {}, found {found}", .path.display(), Encoding::ALL)]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// ggml's name of its type.
        found: String,
    },
    /// There is no memory for the tensor.
    #[error("{}, tensor {name:?}: no memory for its {elements} values", .path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Number of its values.
        elements: usize,
    },
}

/// A value of the metadata. Integers and floating-point numbers of all widths are widened, exactly.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer.
    U64(u64),
    /// A signed integer.
    I64(i64),
    /// A floating-point number.
    F64(f64),
    /// A flag.
    Bool(bool),
    /// A text.
    Text(String),
    /// Values of one type, which may be lists themselves.
    List(Vec<Value>),
}

impl Value {
    /// The value for an error: numbers and flags whole, of what may be long only the kind.
    fn describe(&self) -> String {
        match self {
            Self::U64(value) => format!("the integer {value}"),
            Self::I64(value) => format!("the integer {value}"),
            Self::F64(value) => format!("the number {value:?}"),
            Self::Bool(value) => format!("the flag {value}"),
            Self::Text(text) => format!("a text of {} bytes", text.len()),
            Self::List(values) => format!("a list of {} values", values.len()),
        }
    }
}

/// An open GGUF file: its metadata, and access to its tensors. Threads can share it.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

impl Gguf {
    /// Opens a file and reads its metadata and where its tensors are, but no tensor.
    ///
    /// # Errors
    /// The file cannot be read or is malformed; it ends before the last tensor of a type that can be
    /// decoded does; two keys or two tensors have the same name.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let cannot_read = |error| GgufError::Read {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(cannot_read)?;
        let length = file.metadata().map_err(cannot_read)?.len();
        let (values, tensors) = header::read(&file, path, length)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            values,
            tensors,
        })
    }

    /// The metadata's value of a key, where there is one.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A text of the metadata.
    ///
    /// # Errors
    /// There is no such key, or its value is no text.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        match self.value(key) {
            Some(Value::Text(text)) => Ok(text),
            found => Err(self.unexpected(key, "a text", found)),
        }
    }

    /// A count or an index of the metadata: an integer of any type, at least 0.
    ///
    /// # Errors
    /// There is no such key, or its value is no such integer.
    pub fn count(&self, key: &str) -> Result<usize, GgufError> {
        let found = self.value(key);
        let count = match found {
            Some(Value::U64(count)) => usize::try_from(*count).ok(),
            Some(Value::I64(count)) => usize::try_from(*count).ok(),
            _ => None,
        };
        count.ok_or_else(|| self.unexpected(key, "an integer, at least 0", found))
    }

    /// A number of the metadata, an integer or not. Integers beyond 2^53 are rounded.
    ///
    /// # Errors
    /// There is no such key, or its value is no number.
    pub fn number(&self, key: &str) -> Result<f64, GgufError> {
        match self.value(key) {
            Some(Value::F64(value)) => Ok(*value),
            Some(Value::U64(value)) => Ok(*value as f64),
            Some(Value::I64(value)) => Ok(*value as f64),
            found => Err(self.unexpected(key, "a number", found)),
        }
    }

    /// A list of texts of the metadata, in its order.
    ///
    /// # Errors
    /// There is no such key, its value is no list, or the list has other values than texts.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        let expected = "a list of texts";
        let values = match self.value(key) {
            Some(Value::List(values)) => values,
            found => return Err(self.unexpected(key, expected, found)),
        };
        let mut texts = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let Value::Text(text) = value else {
                return Err(GgufError::Value {
                    path: self.path.clone(),
                    key: key.to_owned(),
                    expected,
                    found: format!("{} at index {index}", value.describe()),
                });
            };
            texts.push(text.as_str());
        }
        Ok(texts)
    }

    /// Names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's dimensions, the slowest first: a matrix that takes `in` values to `out` is
    /// `[out, in]`. (ggml has them the other way round.) At most four; none for a single value.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, GgufError> {
        Ok(self.find(name)?.shape.clone())
    }

    /// A tensor's values as single precision, the last dimension of [`shape`](Self::shape) fastest.
    /// Values of F16 and BF16 are exact, those of the quantised types ggml's to the bit. What the
    /// file has as infinite or NaN is so here.
    ///
    /// # Errors
    /// There is no such tensor, its type cannot be decoded, there is no memory for it, or the file
    /// cannot be read (which includes that it has shrunk since it was opened).
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>, GgufError> {
        let tensor = self.find(name)?;
        let encoding = Encoding::of(tensor.code).ok_or_else(|| GgufError::TensorType {
            path: self.path.clone(),
            name: name.to_owned(),
            found: quantised::name(tensor.code),
        })?;
        let elements = tensor.elements;
        let mut values = Vec::new();
        values
            .try_reserve_exact(elements)
            .map_err(|_| GgufError::Memory {
                path: self.path.clone(),
                name: name.to_owned(),
                elements,
            })?;
        let (block_values, block_bytes) = encoding.block();
        let bytes_of = |values: usize| values / block_values * block_bytes;
        let mut raw = vec![0; bytes_of(elements.min(VALUES_AT_ONCE))];
        let mut offset = tensor.start;
        while values.len() < elements {
            let from = values.len();
            let count = (elements - from).min(VALUES_AT_ONCE);
            let raw = &mut raw[..bytes_of(count)];
            self.file
                .read_exact_at(raw, offset)
                .map_err(|error| GgufError::Read {
                    path: self.path.clone(),
                    error,
                })?;
            values.resize(from + count, 0.0);
            encoding.decode(raw, &mut values[from..]);
            offset += raw.len() as u64;
        }
        Ok(values)
    }

    fn find(&self, name: &str) -> Result<&Tensor, GgufError> {
        self.tensors.get(name).ok_or_else(|| GgufError::NoTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            count: self.tensors.len(),
        })
    }

    fn unexpected(&self, key: &str, expected: &'static str, found: Option<&Value>) -> GgufError {
        GgufError::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: found.map_or_else(|| "no such key".to_owned(), Value::describe),
        }
    }
}

#[cfg(test)]
mod tests;
