//! What a GGUF file has before its tensors: the metadata, and where each tensor is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::quantised::Encoding;
use super::{GgufError, Value};

/// The metadata's key of the tensors' alignment in bytes.
const ALIGNMENT_KEY: &str = "general.alignment";
/// The alignment of files that do not name one, in bytes.
const DEFAULT_ALIGNMENT: u64 = 32;
/// How deep lists may lie in lists: a bound for the stack, far above what files have.
const MOST_NESTED: usize = 8;
/// The specification's bound on a tensor's number of dimensions.
const MOST_DIMENSIONS: u32 = 4;
/// Least bytes of a key and its value: the key's length, the value's type, one byte.
const LEAST_ENTRY: u64 = 8 + 4 + 1;
/// Least bytes of a tensor's entry: its name's length, number of dimensions, type, offset.
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Number of bytes up to which a text gets its memory at once.
const LONG_TEXT: u64 = 4096;
/// The code of a list among the types of values.
const LIST: u32 = 9;

/// Where a tensor is and how to read it.
#[derive(Debug)]
pub(super) struct Tensor {
    /// Dimensions, the slowest first.
    pub(super) shape: Vec<usize>,
    /// Product of the dimensions.
    pub(super) elements: usize,
    /// The code of its type.
    pub(super) code: u32,
    /// Its first byte, counted from the beginning of the tensors' data until that is known, from
    /// then on from the beginning of the file.
    pub(super) start: u64,
}

type Values = BTreeMap<String, Value>;
type Tensors = BTreeMap<String, Tensor>;

/// Reads the metadata, and the tensors' places. Of every tensor whose type can be decoded, all
/// bytes are then known to be in the file, which has `length` bytes.
pub(super) fn read(file: &File, path: &Path, length: u64) -> Result<(Values, Tensors), GgufError> {
    let mut cursor = Cursor {
        file: BufReader::new(file),
        path,
        offset: 0,
        length,
    };
    cursor.magic_and_version()?;
    let tensors = cursor.u64("the number of tensors")?;
    let keys = cursor.u64("the number of keys")?;
    let values = cursor.values(keys)?;
    let alignment = alignment(path, &values)?;
    let tensors = cursor.tensors(tensors, alignment)?;
    Ok((values, tensors))
}

/// The alignment of the tensors in bytes.
fn alignment(path: &Path, values: &Values) -> Result<u64, GgufError> {
    match values.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U64(alignment)) if *alignment > 0 && alignment.is_multiple_of(8) => {
            Ok(*alignment)
        }
        Some(found) => Err(GgufError::Value {
            path: path.to_owned(),
            key: ALIGNMENT_KEY.to_owned(),
            expected: "an unsigned multiple of 8 above 0",
            found: found.describe(),
        }),
    }
}

/// Least bytes of a value of this type, where there is such a type.
fn least_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        // A text has at least its length, a list its type and its length.
        8 | 10..=12 => Some(8),
        LIST => Some(12),
        _ => None,
    }
}

/// A name from the file for an error: on one line, and not longer than one.
fn quoted(name: &str) -> String {
    match name.char_indices().nth(64) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}...", &name[..end]),
    }
}

/// Reads from front to back, and never past the end.
struct Cursor<'a> {
    file: BufReader<&'a File>,
    path: &'a Path,
    /// Number of bytes that were read.
    offset: u64,
    /// Number of bytes of the file.
    length: u64,
}

impl Cursor<'_> {
    fn malformed(
        &self,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> GgufError {
        GgufError::Malformed {
            path: self.path.to_owned(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Refuses to go on with fewer than `count` bytes left.
    fn check_left(&self, count: u64, what: &str) -> Result<(), GgufError> {
        let left = self.length - self.offset;
        if count <= left {
            return Ok(());
        }
        Err(self.malformed(
            format!("byte {}", self.offset),
            format!("{what} of {count} bytes"),
            format!("{left} bytes up to the end of the file"),
        ))
    }

    /// Refuses a count of what cannot all be in the rest of the file, at `least` bytes each.
    fn check_count(&self, count: u64, least: u64, what: &str) -> Result<(), GgufError> {
        let most = (self.length - self.offset) / least;
        if count <= most {
            return Ok(());
        }
        Err(self.malformed(
            format!("byte {}", self.offset),
            format!("at most {most} {what} in the rest of the file"),
            format!("a count of {count}"),
        ))
    }

    fn cannot_read(&self, error: io::Error) -> GgufError {
        GgufError::Read {
            path: self.path.to_owned(),
            error,
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        let read = self.file.read_exact(bytes);
        read.map_err(|error| self.cannot_read(error))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        self.check_left(N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<String, GgufError> {
        let length = self.u64("a text's length")?;
        self.check_left(length, what)?;
        let place = self.offset;
        // A long text grows as it is read, so that no memory is taken that the file does not fill.
        let mut bytes = Vec::with_capacity(length.min(LONG_TEXT) as usize);
        let read = self.file.by_ref().take(length).read_to_end(&mut bytes);
        let read = read.map_err(|error| self.cannot_read(error))? as u64;
        if read < length {
            return Err(self.cannot_read(io::ErrorKind::UnexpectedEof.into()));
        }
        self.offset += read;
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            self.malformed(
                format!("byte {place}"),
                format!("{what} in UTF-8"),
                format!("invalid bytes after the first {valid}"),
            )
        })
    }

    fn magic_and_version(&mut self) -> Result<(), GgufError> {
        let magic: [u8; 4] = self.array("the mark \"GGUF\"")?;
        if magic != *b"GGUF" {
            let found = format!("\"{}\"", magic.escape_ascii());
            return Err(self.malformed("byte 0", "the mark \"GGUF\"", found));
        }
        let version = self.u32("the version")?;
        if matches!(version, 2 | 3) {
            return Ok(());
        }
        let found = match version.swap_bytes() {
            swapped @ 1..=0xffff => format!("version {swapped}, big endian"),
            _ => format!("version {version}"),
        };
        Err(self.malformed("byte 4", "version 2 or 3, little endian", found))
    }

    fn values(&mut self, count: u64) -> Result<Values, GgufError> {
        self.check_count(count, LEAST_ENTRY, "keys")?;
        let mut values = Values::new();
        for _ in 0..count {
            let place = format!("byte {}", self.offset);
            let key = self.text("a key")?;
            let kind = self.u32("a value's type")?;
            let value = self.value(kind, 0)?;
            match values.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => {
                    let found = format!("{} again", quoted(entry.key()));
                    return Err(self.malformed(place, "a new key", found));
                }
            };
        }
        Ok(values)
    }

    /// A value of the type `kind`, in `depth` lists.
    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, GgufError> {
        let what = "a value";
        Ok(match kind {
            0 => Value::U64(u8::from_le_bytes(self.array(what)?).into()),
            1 => Value::I64(i8::from_le_bytes(self.array(what)?).into()),
            2 => Value::U64(u16::from_le_bytes(self.array(what)?).into()),
            3 => Value::I64(i16::from_le_bytes(self.array(what)?).into()),
            4 => Value::U64(u32::from_le_bytes(self.array(what)?).into()),
            5 => Value::I64(i32::from_le_bytes(self.array(what)?).into()),
            6 => Value::F64(f32::from_le_bytes(self.array(what)?).into()),
            7 => self.flag()?,
            8 => Value::Text(self.text("a text")?),
            LIST => self.list(depth)?,
            10 => Value::U64(u64::from_le_bytes(self.array(what)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            _ => return Err(self.unknown_kind(kind)),
        })
    }

    fn unknown_kind(&self, kind: u32) -> GgufError {
        let place = format!("the type before byte {}", self.offset);
        self.malformed(place, "a type of value from 0 to 12", kind.to_string())
    }

    fn flag(&mut self) -> Result<Value, GgufError> {
        let place = format!("byte {}", self.offset);
        match self.array("a flag")? {
            [0] => Ok(Value::Bool(false)),
            [1] => Ok(Value::Bool(true)),
            [other] => Err(self.malformed(place, "a flag, 0 or 1", other.to_string())),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, GgufError> {
        if depth == MOST_NESTED {
            let place = format!("byte {}", self.offset);
            let expected = format!("lists at most {MOST_NESTED} deep");
            return Err(self.malformed(place, expected, "one more"));
        }
        let kind = self.u32("a list's type")?;
        let least = least_bytes(kind).ok_or_else(|| self.unknown_kind(kind))?;
        let count = self.u64("a list's length")?;
        self.check_count(count, least, "values of a list")?;
        // Grows as values are read: a value takes more memory than its bytes in the file, and the
        // file may end in malformed ones.
        let mut values = Vec::new();
        for _ in 0..count {
            let reserved = values.try_reserve(1);
            reserved.map_err(|_| self.cannot_read(io::ErrorKind::OutOfMemory.into()))?;
            values.push(self.value(kind, depth + 1)?);
        }
        values.shrink_to_fit();
        Ok(Value::List(values))
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<Tensors, GgufError> {
        self.check_count(count, LEAST_TENSOR, "tensors")?;
        let mut tensors = Tensors::new();
        for _ in 0..count {
            let place = format!("byte {}", self.offset);
            let name = self.text("a tensor's name")?;
            let tensor = self.tensor(&name)?;
            match tensors.entry(name) {
                Entry::Vacant(entry) => entry.insert(tensor),
                Entry::Occupied(entry) => {
                    let found = format!("{} again", quoted(entry.key()));
                    return Err(self.malformed(place, "a new tensor", found));
                }
            };
        }
        for (name, tensor) in &mut tensors {
            self.place(name, tensor, alignment)?;
        }
        Ok(tensors)
    }

    /// What the file says of a tensor after its name.
    fn tensor(&mut self, name: &str) -> Result<Tensor, GgufError> {
        let place = || format!("tensor {}", quoted(name));
        let dimensions = self.u32("a tensor's number of dimensions")?;
        if dimensions > MOST_DIMENSIONS {
            let expected = format!("at most {MOST_DIMENSIONS} dimensions");
            return Err(self.malformed(place(), expected, dimensions.to_string()));
        }
        let mut shape = Vec::new();
        let mut elements = Some(1_usize);
        for _ in 0..dimensions {
            let size = self.u64("a tensor's dimension")?;
            // What does not fit makes the product unknown, which is refused below.
            let size = usize::try_from(size).ok();
            elements = elements
                .zip(size)
                .and_then(|(all, size)| all.checked_mul(size));
            shape.push(size.unwrap_or(usize::MAX));
        }
        let code = self.u32("a tensor's type")?;
        let start = self.u64("a tensor's offset")?;
        let elements = elements.ok_or_else(|| {
            let found = format!("dimensions {shape:?}");
            self.malformed(place(), "fewer than 2^64 values", found)
        })?;
        let (block, _) = Encoding::of(code).map_or((1, 0), Encoding::block);
        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(block) {
            let expected = format!("rows of whole blocks of {block} values");
            return Err(self.malformed(place(), expected, format!("rows of {row}")));
        }
        shape.reverse();
        Ok(Tensor {
            shape,
            elements,
            code,
            start,
        })
    }

    /// Finds the tensor's place in the file, and that it is all there. The data begin at the next
    /// multiple of the alignment.
    fn place(&self, name: &str, tensor: &mut Tensor, alignment: u64) -> Result<(), GgufError> {
        let wrong = |expected, found| {
            Err(self.malformed(format!("tensor {}", quoted(name)), expected, found))
        };
        let offset = tensor.start;
        if !offset.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return wrong(expected, offset.to_string());
        }
        let (values, bytes) = Encoding::of(tensor.code).map_or((1, 0), Encoding::block);
        let data = self.offset.checked_next_multiple_of(alignment);
        let start = data.and_then(|data| data.checked_add(offset));
        let bytes = (tensor.elements / values).checked_mul(bytes);
        let end = start
            .zip(bytes)
            .and_then(|(start, bytes)| start.checked_add(u64::try_from(bytes).ok()?));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.length => {
                tensor.start = start;
                Ok(())
            }
            _ => wrong(
                format!("its {} values from offset {offset} on", tensor.elements),
                format!("the end of the file, at byte {}", self.length),
            ),
        }
    }
}
