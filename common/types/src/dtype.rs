//! Element types of columns, and which of their values are numbers.

use serde::{Deserialize, Serialize};

/// Element type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// A byte, 0 or 1.
    Bool,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// IEEE 754 binary64.
    F64,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::I64,
        Self::U8,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::U32,
        Self::Bool,
        Self::F16,
        Self::Bf16,
        Self::F64,
    ];

    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// Lower-case name, as in messages to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::Bool => "bool",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
        }
    }

    /// Whether it has NaN and infinities.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

/// The first NaN or infinity in a column of floats, and its position.
pub(crate) fn first_nonfinite(dtype: DType, data: &[u8]) -> Option<(usize, f64)> {
    // The upper half of a binary32 is one whose lower half is zero.
    let bf16 = |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    // Of a binary16 only the kind of what is not finite is needed.
    let f16 = |bytes| match u16::from_le_bytes(bytes) {
        bits if bits & 0x3ff != 0 => f64::NAN,
        bits if bits >> 15 == 1 => f64::NEG_INFINITY,
        _ => f64::INFINITY,
    };
    let position = match dtype {
        DType::F16 => full_exponent(data, |bytes| u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00),
        DType::Bf16 => full_exponent(data, |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80),
        DType::F32 => full_exponent(data, |bytes| {
            u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000
        }),
        DType::F64 => full_exponent(data, |bytes| {
            (u64::from_le_bytes(bytes) >> 52) & 0x7ff == 0x7ff
        }),
        _ => None,
    }?;
    let value = match dtype {
        DType::F16 => f16(at(data, position)),
        DType::Bf16 => f64::from(bf16(at(data, position))),
        DType::F32 => f64::from(f32::from_le_bytes(at(data, position))),
        _ => f64::from_le_bytes(at(data, position)),
    };
    Some((position, value))
}

fn at<const N: usize>(data: &[u8], position: usize) -> [u8; N] {
    let bytes = &data[position * N..(position + 1) * N];
    bytes.try_into().expect("that many were taken")
}

/// The first element whose exponent's bits are all set, as those of NaN and infinities are.
fn full_exponent<const N: usize>(data: &[u8], is_full: impl Fn([u8; N]) -> bool) -> Option<usize> {
    let (elements, _) = data.as_chunks::<N>();
    // Integer arithmetic without an early exit vectorises; a sum of floats would not, since its order
    // matters.
    let any = elements
        .iter()
        .fold(false, |any, &bytes| any | is_full(bytes));
    any.then(|| elements.iter().position(|&bytes| is_full(bytes)))?
}
