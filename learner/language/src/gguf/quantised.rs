//! ggml's tensor types: how many bytes a block of values takes, and what values the bytes stand for.
//!
//! The layouts are those of ggml's `ggml-common.h`, the arithmetic that of its `dequantize_row_*`
//! functions in single precision and in their order, so the values are the same to the bit. All
//! numbers are little endian; `scale` and `minimum` are half-precision numbers.
//!
//! Left out: encoding, and the types that [`Encoding`] does not have.

/// ggml's names of all types in the order of their codes, those that it has removed included.
const NAMES: &str = "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K \
    IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 \
    Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 IQ4_NL_4_4 IQ4_NL_4_8 IQ4_NL_8_8 MXFP4 NVFP4 Q1_0";

/// ggml's name of the tensor type with this code.
pub(super) fn name(code: u32) -> String {
    let found = NAMES.split(' ').zip(0..).find(|(_, known)| *known == code);
    found.map_or_else(
        || format!("unknown type {code}"),
        |(name, _)| name.to_owned(),
    )
}

/// A tensor type that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q8_0,
    Q4K,
    Q6K,
}

impl Encoding {
    /// Names of the types that can be decoded.
    pub(super) const ALL: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K or Q6_K";

    /// The type with this code, where it can be decoded.
    pub(super) fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Number of values in a block, and number of bytes that they take.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    /// Decodes whole blocks: `raw` has the bytes of as many as `values` has room for.
    pub(super) fn decode(self, raw: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => blocks(raw, values, |b, v: &mut [f32; 1]| {
                v[0] = f32::from_le_bytes(*b);
            }),
            Self::F16 => blocks(raw, values, |b, v: &mut [f32; 1]| v[0] = half(*b)),
            // A bfloat16 is the upper half of an f32.
            Self::Bf16 => blocks(raw, values, |&[low, high], v: &mut [f32; 1]| {
                v[0] = f32::from_le_bytes([0, 0, low, high]);
            }),
            Self::Q4_0 => blocks(raw, values, q4_0),
            Self::Q4_1 => blocks(raw, values, q4_1),
            Self::Q5_0 => blocks(raw, values, q5_0),
            Self::Q8_0 => blocks(raw, values, q8_0),
            Self::Q4K => blocks(raw, values, q4_k),
            Self::Q6K => blocks(raw, values, q6_k),
        }
    }
}

/// Decodes blocks of `B` bytes into `V` values each.
fn blocks<const B: usize, const V: usize>(
    raw: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; V]),
) {
    let (raw, _) = raw.as_chunks::<B>();
    let (values, _) = values.as_chunks_mut::<V>();
    for (block, values) in raw.iter().zip(values) {
        decode(block, values);
    }
}

/// A half-precision number, exactly.
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let sign = (bits & 0x8000) << 16;
    let exponent = (bits >> 10) & 0x1f;
    let fraction = bits & 0x3ff;
    let magnitude = match exponent {
        // Zero and the subnormal numbers count in units of 2^-24.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        // Infinity and the NaNs, with their payload.
        0x1f => (0xff << 23) | (fraction << 13),
        // The exponent is biased by 15 here, by 127 there.
        _ => ((exponent + 127 - 15) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | magnitude)
}

/// 2 bytes of scale, then 16 bytes: the low halves are values 0 to 15, the high ones 16 to 31.
fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let scale = half([block[0], block[1]]);
    for (index, byte) in block[2..].iter().enumerate() {
        values[index] = scale * f32::from((byte & 0xf) as i8 - 8);
        values[index + 16] = scale * f32::from((byte >> 4) as i8 - 8);
    }
}

/// As [`q4_0`], but with 2 bytes of minimum after the scale, to which unsigned values are added.
fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let scale = half([block[0], block[1]]);
    let minimum = half([block[2], block[3]]);
    for (index, byte) in block[4..].iter().enumerate() {
        values[index] = scale * f32::from(byte & 0xf) + minimum;
        values[index + 16] = scale * f32::from(byte >> 4) + minimum;
    }
}

/// As [`q4_0`], but with 4 bytes after the scale whose bit `i` is the fifth bit of value `i`.
fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let scale = half([block[0], block[1]]);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (index, byte) in block[6..].iter().enumerate() {
        let low = (byte & 0xf) | ((fifth >> index) as u8 & 1) << 4;
        let high = (byte >> 4) | ((fifth >> (index + 16)) as u8 & 1) << 4;
        values[index] = scale * f32::from(low as i8 - 16);
        values[index + 16] = scale * f32::from(high as i8 - 16);
    }
}

/// 2 bytes of scale, then 32 signed bytes.
fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let scale = half([block[0], block[1]]);
    for (value, byte) in values.iter_mut().zip(&block[2..]) {
        *value = scale * f32::from(*byte as i8);
    }
}

/// Scale and minimum of the scales, 12 bytes of eight 6-bit scales and minima, then 128 bytes: of
/// every 32, the low halves are a group of 32 values and the high halves the next group.
fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let scale = half([block[0], block[1]]);
    let minimum = half([block[2], block[3]]);
    let (scales, packed) = block[4..].split_at(12);
    let groups = values.as_chunks_mut::<64>().0.iter_mut();
    for (pair, (group, packed)) in groups.zip(packed.as_chunks::<32>().0).enumerate() {
        let (low, high) = group.split_at_mut(32);
        let (step, least) = q4_k_group(scales, 2 * pair);
        let (step, least) = (scale * step, minimum * least);
        for (value, byte) in low.iter_mut().zip(packed) {
            *value = step * f32::from(byte & 0xf) - least;
        }
        let (step, least) = q4_k_group(scales, 2 * pair + 1);
        let (step, least) = (scale * step, minimum * least);
        for (value, byte) in high.iter_mut().zip(packed) {
            *value = step * f32::from(byte >> 4) - least;
        }
    }
}

/// Scale and minimum of one of the eight groups. Those of the first four are the low six bits of
/// bytes 0 to 3 and 4 to 7; those of the last four take their upper two bits from what is left
/// there, their lower four from bytes 8 to 11.
fn q4_k_group(scales: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (scales[group] & 0x3f, scales[group + 4] & 0x3f)
    } else {
        let low = scales[group + 4];
        (
            (low & 0xf) | (scales[group - 4] >> 6) << 4,
            (low >> 4) | (scales[group] >> 6) << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// 128 bytes of low halves, 64 bytes of upper two bits, 16 signed bytes of scales for 16 values
/// each, then 2 bytes of the scales' scale. Either half of the block holds 128 values: byte `i` of
/// its 64 and byte `i` of its 32 have the bits of the values `i`, `i + 32`, `i + 64` and `i + 96`.
fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let scale = half([block[208], block[209]]);
    let halves = values.as_chunks_mut::<128>().0.iter_mut();
    for (index, values) in halves.enumerate() {
        let low = &block[64 * index..][..64];
        let upper = &block[128 + 32 * index..][..32];
        let scales = &block[192 + 8 * index..][..8];
        for (quarter, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = &low[32 * (quarter % 2)..][..32];
            for (sixteen, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let step = scale * f32::from(scales[2 * quarter + sixteen] as i8);
                for (value, at) in values.iter_mut().zip(16 * sixteen..) {
                    let bits = low[at] >> (4 * (quarter / 2)) & 0xf;
                    let bits = bits | (upper[at] >> (2 * quarter) & 3) << 4;
                    *value = step * f32::from(bits as i8 - 32);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes 41, 130, 219, 52, ... for a block, with half-precision numbers at some places.
    fn block(length: usize, numbers: &[(usize, u16)]) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|index| (index * 89 + 41) as u8).collect();
        for (at, number) in numbers {
            bytes[*at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Decodes one block, and compares its ends and a sum over the bits of all values with those
    /// of `gguf.quants.dequantize` (the Python package gguf 0.19.0, numpy 2.4.6) for these bytes.
    fn check(encoding: Encoding, numbers: &[(usize, u16)], ends: [[f32; 3]; 2], sum: u32) {
        let (count, bytes) = encoding.block();
        let mut values = vec![f32::NAN; count];
        encoding.decode(&block(bytes, numbers), &mut values);
        assert_eq!([&values[..3], &values[count - 3..]], ends, "{encoding:?}");
        let add = |sum: u32, value: &f32| sum.rotate_left(5) ^ value.to_bits();
        assert_eq!(values.iter().fold(0, add), sum, "{encoding:?}");
    }

    #[test]
    fn blocks_have_the_values_that_the_reference_has() {
        let first = [0.29992676, -0.39990234, 0.49987793];
        let last = [-0.19995117, 0.29992676, -0.6998291];
        check(Encoding::Q4_0, &[(0, 0x2e66)], [first, last], 0x34f0_f339);
        let first = [0.69958496, -0.00024414062, 0.89953613];
        let last = [-0.5001221, -0.00024414062, 0.5996094];
        let numbers = [(0, 0x2e66), (2, 0xb8cd)];
        check(Encoding::Q4_1, &numbers, [first, last], 0x5194_8412);
        let first = [1.4996338, 0.7998047, -1.4996338];
        let last = [1.199707, 0.099975586, 0.6998291];
        check(Encoding::Q5_0, &[(0, 0x2e66)], [first, last], 0xbc8e_cc0e);
        let first = [-3.6990967, 5.1987305, -11.497192];
        let last = [-1.5996094, 7.298218, -9.397705];
        check(Encoding::Q8_0, &[(0, 0x2e66)], [first, last], 0x0c1c_c217);
        let first = [-17.707642, -26.80542, -15.108276];
        let last = [-26.006836, -6.8115234, 12.383789];
        let numbers = [(0, 0x2e66), (2, 0x38cd)];
        check(Encoding::Q4K, &numbers, [first, last], 0x4191_bb07);
        let first = [-16.09607, 4.598877, 62.08484];
        let last = [-79.98047, 54.38672, -15.996094];
        check(Encoding::Q6K, &[(208, 0xae66)], [first, last], 0x28b8_6609);
    }

    #[test]
    fn blocks_follow_each_other() {
        for code in 0..64 {
            let Some(encoding) = Encoding::of(code) else {
                continue;
            };
            let (count, bytes) = encoding.block();
            let raw = block(3 * bytes, &[]);
            let mut together = vec![0.0; 3 * count];
            encoding.decode(&raw, &mut together);
            for (raw, together) in raw.chunks(bytes).zip(together.chunks(count)) {
                let mut alone = vec![0.0; count];
                encoding.decode(raw, &mut alone);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&alone), bits(together), "{encoding:?}");
            }
        }
    }

    /// Against the definition, in double precision: every value that is finite has its sign, and
    /// fraction and exponent as a product of numbers that are exact.
    #[test]
    fn every_half_is_what_ieee_754_says() {
        for bits in 0..=u16::MAX {
            let found = half(bits.to_le_bytes());
            let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
            let exponent = i32::from(bits >> 10 & 0x1f);
            let fraction = f64::from(bits & 0x3ff) / 1024.0;
            let expected = match exponent {
                0 => sign * fraction * 2.0_f64.powi(-14),
                0x1f if fraction == 0.0 => sign * f64::INFINITY,
                0x1f => f64::NAN,
                _ => sign * (1.0 + fraction) * 2.0_f64.powi(exponent - 15),
            };
            if expected.is_nan() {
                assert!(found.is_nan(), "{bits:#06x}");
            } else {
                assert_eq!(
                    f64::from(found).to_bits(),
                    expected.to_bits(),
                    "{bits:#06x}"
                );
            }
        }
    }

    #[test]
    fn known_halves() {
        let known = [
            (0x0001, 5.9604645e-8),
            (0x03ff, 6.097555e-5),
            (0x0400, 6.1035156e-5),
            (0x3555, 0.333_251_95),
            (0x3c00, 1.0),
            (0x7bff, 65504.0),
            (0xc000, -2.0),
        ];
        for (bits, expected) in known {
            assert_eq!(half(u16::to_le_bytes(bits)), expected, "{bits:#06x}");
        }
    }

    #[test]
    fn types_have_their_names() {
        for (code, expected) in [(0, "F32"), (3, "Q4_1"), (14, "Q6_K"), (28, "F64")] {
            assert_eq!(name(code), expected);
        }
        for (code, expected) in [(30, "BF16"), (34, "TQ1_0"), (39, "MXFP4"), (41, "Q1_0")] {
            assert_eq!(name(code), expected);
        }
        assert_eq!(name(42), "unknown type 42");
        assert_eq!(name(u32::MAX), "unknown type 4294967295");
    }
}
