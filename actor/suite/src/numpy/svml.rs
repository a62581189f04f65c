//! `log1p`, `arcsinh` and `arctan2` as NumPy computes them on processors with AVX-512: there it
//! calls Intel's short vector math library (NumPy's `umath/svml`, the high-accuracy variants).
//!
//! Same reductions, coefficients and order of operations, so the same bits; one value at a time.
//! The processor's own approximate reciprocals are part of the result. Arguments outside the range
//! of the fast path go to the C library, as the suite never has them.

use std::arch::x86_64::{_mm_cvtsd_f64, _mm_rcp14_sd, _mm_rsqrt14_sd, _mm_set_sd};
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

use super::functions::libm;

/// ln 2 with its last bits cut off, so that a multiple by an exponent is exact.
const LN_2_HIGH: f64 = 0.6931471805582987;
/// The rest of ln 2.
const LN_2_LOW: f64 = 1.6465949582866463e-12;

/// -ln r for a reciprocal r of 1 + index / 16: cut to 40 binary places, and the rest.
#[rustfmt::skip]
const MINUS_LN_HIGH: [f64; 16] = [
    0.0, -0.06062462181671435, -0.11778303565643, -0.17185025692651834,
    -0.22314355131402408, -0.27193371548401046, -0.3184537311180975, -0.3629054936891407,
    -0.4054651081078191, -0.44628710262804816, -0.4855078157816024, -0.5232481437642491,
    -0.5596157879353996, -0.5947071077471264, -0.6286086594227527, -0.6613984822452039,
];
#[rustfmt::skip]
const MINUS_LN_LOW: [f64; 16] = [
    0.0, 2.795098818345971e-13, 4.654729747598445e-14, -1.4088127937111135e-13,
    -1.856757095979601e-13, 3.687042831583768e-13, -4.3712191957429144e-13, -2.2774076114039556e-13,
    -3.452764795203977e-13, -3.713514191959202e-13, -9.840465278232627e-14, -2.987291820444133e-13,
    -2.3119493838005378e-14, 4.336393617286218e-13, 3.785425126545704e-13, -1.6108575753932459e-13,
];
/// The upper half of the tables for r / 2 instead of r.
#[rustfmt::skip]
const MINUS_LN_HALVED_HIGH: [f64; 8] = [
    0.2876820724513891, 0.24686007793116005, 0.2076393647785153, 0.1698990367949591,
    0.13353139262471814, 0.09844007281299127, 0.06453852113736502, 0.03174869831491378,
];
#[rustfmt::skip]
const MINUS_LN_HALVED_LOW: [f64; 8] = [
    3.918237769963822e-13, 3.657488373208597e-13, -2.707990980384746e-13, 4.383710744723666e-13,
    -1.9551393909415374e-13, 2.6124491647247346e-13, 2.0614806739842207e-13,
    -3.334802027954729e-13,
];

/// Binary places that the rounded reciprocals keep.
const INDEX_BITS: u32 = 4;

/// `np.log1p(x)`: with r near 1 / m, ln(m 2^e) = e ln 2 - ln r + ln(1 + (m r - 1)).
#[target_feature(enable = "avx512f,fma")]
pub(super) fn log1p(x: f64) -> f64 {
    const SERIES: [f64; 8] = [
        0.11135561406034511,
        -0.125220000081181,
        0.14285690939597326,
        -0.16666650546695666,
        0.20000000009280938,
        -0.2500000000437373,
        0.33333333333332005,
        -0.4999999999999968,
    ];
    const LARGEST: f64 = 1e300;
    if !(-1.0 < x && x <= LARGEST) {
        return libm::log1p(x);
    }
    let (sum, sum_low) = two_sum(x.max(1.0), x.min(1.0));
    let (mantissa, exponent) = split(sum);
    let reciprocal = (rcp14(mantissa) * 32.0).round_ties_even() / 32.0;
    let reduced_high = mantissa.mul_add(reciprocal, -1.0);
    let scaled_low = reciprocal * (sum_low * power_of_two(-exponent));
    let reduced = reduced_high + scaled_low;
    let reduced_low = scaled_low - (reduced - reduced_high);

    let index = table_index(reciprocal);
    let (minus_ln_high, minus_ln_low) = if index < 8 {
        (MINUS_LN_HIGH[index], MINUS_LN_LOW[index])
    } else {
        (
            MINUS_LN_HALVED_HIGH[index - 8],
            MINUS_LN_HALVED_LOW[index - 8],
        )
    };
    let exponent = f64::from(exponent) + if reciprocal < 0.75 { 1.0 } else { 0.0 };
    let table_high = exponent.mul_add(LN_2_HIGH, minus_ln_high);
    let table_low = exponent.mul_add(LN_2_LOW, minus_ln_low + reduced_low);
    let high = table_high + reduced;
    let high_low = reduced - (high - table_high);

    let square = reduced * reduced;
    let pair = |index: usize| reduced.mul_add(SERIES[index], SERIES[index + 1]);
    let upper = square.mul_add(pair(0), pair(2));
    let lower = square.mul_add(pair(4), pair(6));
    let series = (square * square).mul_add(upper, lower);
    let low = square.mul_add(series, high_low) + table_low;
    (high + low).copysign(x)
}

/// `np.arcsinh(x)`: ln(|x| + sqrt(1 + x^2)), the sum carried in two parts.
#[target_feature(enable = "avx512f,fma")]
pub(super) fn arcsinh(x: f64) -> f64 {
    const SMALL: f64 = 0.0220947265625;
    const SMALL_SERIES: [f64; 3] = [
        -0.04461320260298888,
        0.07499999095181989,
        -0.16666666666578314,
    ];
    const ROOT_SERIES: [f64; 4] = [0.2734375014705118, 0.3125000011459633, 0.375, 0.5];
    const LN_SERIES: [f64; 9] = [
        -0.10024549070045696,
        0.11133423031841783,
        -0.12499973411222166,
        0.14285695137066726,
        -0.1666666667945777,
        0.20000000006706162,
        -0.24999999999997438,
        0.3333333333333251,
        -0.5,
    ];
    const LARGEST: f64 = 1e150;
    let size = x.abs();
    let square = x * x;
    if size < SMALL {
        let series = horner(&SMALL_SERIES, square) * square;
        return size.mul_add(series, size).copysign(x);
    }
    if size.is_nan() || size > LARGEST {
        return libm::asinh(x);
    }

    // 1 + x^2 and its square root, by an approximate inverse root and its error's series.
    let square_low = x.mul_add(x, -square);
    let (sum, sum_low) = two_sum(square.max(1.0), square.min(1.0));
    let inverse_root = rsqrt14(sum);
    let root = sum * inverse_root;
    let root_low = sum.mul_add(inverse_root, -root);
    let root_low = inverse_root.mul_add(sum_low + square_low, root_low);
    let error = (-inverse_root).mul_add(root, 1.0);
    let error = (-inverse_root).mul_add(root_low, error);
    let correction = (root * error).mul_add(horner(&ROOT_SERIES, error), root_low);

    let rough = root + size;
    let rough_low = size - (rough - root);
    let argument = rough + correction;
    let argument_low = correction - (argument - rough) + rough_low;

    let reciprocal = round_to_index(rcp14(argument));
    let reduced_high = reciprocal.mul_add(argument, -1.0);
    let reduced = argument_low.mul_add(reciprocal, reduced_high);
    let index = table_index(reciprocal);
    let exponent = f64::from(split(reciprocal).1);
    let table_low = argument_low.mul_add(reciprocal, MINUS_LN_LOW[index]);
    let table_low = (-LN_2_LOW).mul_add(exponent, table_low);
    let table_high = (-exponent).mul_add(LN_2_HIGH, MINUS_LN_HIGH[index]);
    let high = table_high + reduced_high;
    let high_low = reduced_high + (table_high - high);

    let low = (reduced * reduced).mul_add(horner(&LN_SERIES, reduced), table_low) + high_low;
    (high + low).copysign(x)
}

/// `np.arctan2(y, x)`: the quotient is moved near 0, 1/2, 1, 3/2 or infinity, whose arcus tangents
/// are tabled.
#[target_feature(enable = "avx512f,fma")]
pub(super) fn arctan2(y: f64, x: f64) -> f64 {
    const SERIES: [f64; 12] = [
        0.013620346040990536,
        -0.03183624515899973,
        0.044291178811409156,
        -0.05199019199118939,
        0.05873828916435921,
        -0.06665880662004371,
        0.07692257854969578,
        -0.09090906973094913,
        0.11111111053617004,
        -0.1428571428479737,
        0.19999999999992654,
        -0.33333333333333315,
    ];
    const PI_LOW: f64 = 1.2246741164581576e-16;
    const ORDINARY: std::ops::Range<f64> = 1e-300..1e290;
    let (width, height) = (x.abs(), y.abs());
    if !(ORDINARY.contains(&width) && ORDINARY.contains(&height)) {
        return libm::atan2(y, x);
    }
    let center = Center::near(width, height);
    let (numerator, denominator) = match center.quotient {
        Quotient::Zero => (height, width),
        Quotient::Number(q) => ((-q).mul_add(width, height), q.mul_add(height, width)),
        Quotient::Infinity => (-width, height),
    };

    let inverse = rcp14(denominator);
    let error = (-inverse).mul_add(denominator, 1.0);
    let inverse = error.mul_add(inverse, inverse);
    let error = (-inverse).mul_add(denominator, 1.0);
    let inverse = error.mul_add(inverse, inverse);
    let ratio = inverse * numerator;
    let remainder = (-ratio).mul_add(denominator, numerator);

    let square = ratio * ratio;
    let fourth = square * square;
    let every_other = |first: usize| {
        let coefficients = SERIES[first..].iter().step_by(2);
        coefficients
            .copied()
            .reduce(|sum, next| sum.mul_add(fourth, next))
            .unwrap_or_default()
    };
    let series = square.mul_add(every_other(0), every_other(1)) * square;

    let mut low = remainder * inverse;
    if !matches!(center.quotient, Quotient::Zero) {
        low += center.low;
    }
    let leftwards = x < 0.0;
    if leftwards {
        low -= PI_LOW;
    }
    let mut angle = ratio + ratio.mul_add(series, low);
    if !matches!(center.quotient, Quotient::Zero) {
        angle += center.high;
    }
    if leftwards {
        angle = PI - angle;
    }
    angle.copysign(y)
}

/// A quotient whose arcus tangent is known to twice the precision.
struct Center {
    quotient: Quotient,
    high: f64,
    low: f64,
}

enum Quotient {
    Zero,
    Number(f64),
    Infinity,
}

impl Center {
    /// The center next to `height / width`.
    fn near(width: f64, height: f64) -> Self {
        let at = |quotient, high, low| Self {
            quotient,
            high,
            low,
        };
        if height <= 7.0 / 16.0 * width {
            at(Quotient::Zero, 0.0, 0.0)
        } else if height <= 11.0 / 16.0 * width {
            at(
                Quotient::Number(0.5),
                0.4636476090008061,
                2.2698777452961687e-17,
            )
        } else if height <= 19.0 / 16.0 * width {
            at(Quotient::Number(1.0), FRAC_PI_4, 3.061616997868383e-17)
        } else if height <= 39.0 / 16.0 * width {
            at(
                Quotient::Number(1.5),
                0.982793723247329,
                1.3903311031230998e-17,
            )
        } else {
            at(Quotient::Infinity, FRAC_PI_2, 6.123233995736766e-17)
        }
    }
}

/// The sum of two positive numbers, the larger first, and what its rounding lost.
fn two_sum(larger: f64, smaller: f64) -> (f64, f64) {
    let sum = larger + smaller;
    (sum, smaller - (sum - larger))
}

/// Highest power first.
#[target_feature(enable = "fma")]
fn horner(coefficients: &[f64], x: f64) -> f64 {
    coefficients
        .iter()
        .copied()
        .reduce(|sum, next| sum.mul_add(x, next))
        .unwrap_or_default()
}

/// The processor's reciprocal of 14 bits.
#[target_feature(enable = "avx512f")]
fn rcp14(x: f64) -> f64 {
    let x = _mm_set_sd(x);
    _mm_cvtsd_f64(_mm_rcp14_sd(x, x))
}

/// The processor's reciprocal square root of 14 bits.
#[target_feature(enable = "avx512f")]
fn rsqrt14(x: f64) -> f64 {
    let x = _mm_set_sd(x);
    _mm_cvtsd_f64(_mm_rsqrt14_sd(x, x))
}

const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const EXPONENT_BIAS: i32 = f64::MAX_EXP - 1;

/// Mantissa in [1, 2) and exponent of a positive normal number.
fn split(x: f64) -> (f64, i32) {
    let exponent = (x.to_bits() >> MANTISSA_BITS) as i32 - EXPONENT_BIAS;
    (x * power_of_two(-exponent), exponent)
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + EXPONENT_BIAS) as u64) << MANTISSA_BITS)
}

/// `x` with `INDEX_BITS` binary places of its mantissa, halves up.
fn round_to_index(x: f64) -> f64 {
    let dropped = MANTISSA_BITS - INDEX_BITS;
    f64::from_bits((x.to_bits() + (1 << (dropped - 1))) >> dropped << dropped)
}

/// The first `INDEX_BITS` binary places of the mantissa.
fn table_index(x: f64) -> usize {
    (x.to_bits() >> (MANTISSA_BITS - INDEX_BITS)) as usize % (1 << INDEX_BITS)
}
