//! NumPy's elementary functions, where the suite's observations and initial states use them.
//!
//! NumPy has vectorised variants for some processors, which round differently from the C library's
//! functions that it calls elsewhere. Its `sin`, `cos` and `sqrt` are the C library's everywhere.

use super::hyperbolic;
use super::platform::platform;

/// `np.log1p(x)`.
pub(crate) fn log1p(x: f64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if platform().avx512 {
        // SAFETY: the platform has what the function is compiled for.
        return unsafe { super::svml::log1p(x) };
    }
    libm::log1p(x)
}

/// `np.arcsinh(x)`.
pub(crate) fn arcsinh(x: f64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if platform().avx512 {
        // SAFETY: the platform has what the function is compiled for.
        return unsafe { super::svml::arcsinh(x) };
    }
    libm::asinh(x)
}

/// `np.arctan2(y, x)`.
pub(crate) fn arctan2(y: f64, x: f64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if platform().avx512 {
        // SAFETY: the platform has what the function is compiled for.
        return unsafe { super::svml::arctan2(y, x) };
    }
    libm::atan2(y, x)
}

/// `np.tanh(x)`.
pub(crate) fn tanh(x: f64) -> f64 {
    if platform().fma {
        hyperbolic::tanh(x)
    } else {
        libm::tanh(x)
    }
}

/// The C library's functions (Rust's own `asinh` is another).
pub(super) mod libm {
    unsafe extern "C" {
        pub(in crate::numpy) safe fn log1p(x: f64) -> f64;
        pub(in crate::numpy) safe fn asinh(x: f64) -> f64;
        pub(in crate::numpy) safe fn atan2(y: f64, x: f64) -> f64;
        pub(in crate::numpy) safe fn tanh(x: f64) -> f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NumPy 2.4.6 on a processor with AVX-512 gave these. The C library gives others.
    #[test]
    fn equals_numpy_on_avx512() {
        if !platform().avx512 {
            return;
        }
        assert_eq!(log1p(5.14672), 1.8159186062122827);
        assert_eq!(log1p(90.2834), 4.513968952888175);
        assert_eq!(arcsinh(246.746), 6.201510754174095);
        assert_eq!(arcsinh(-134.059), -5.591441092495432);
        assert_eq!(arctan2(-0.884537, -0.834258), -2.3269503592784595);
        assert_eq!(arctan2(-0.721066, -0.372362), -2.047481542714703);
        assert_eq!(tanh(0.538745), 0.49203739065788415);
        assert_eq!(tanh(1.30791), 0.8637456281058845);
    }

    /// Whatever the processor, the C library agrees but for a few units in the last place.
    #[test]
    fn is_close_to_the_c_library() {
        let close = |ours: f64, theirs: f64| {
            let bound = 4.0 * f64::EPSILON * theirs.abs();
            assert!(
                (ours - theirs).abs() <= bound,
                "{ours:e} against {theirs:e}"
            );
        };
        for index in -2000..=2000 {
            let x = f64::from(index) * 0.037;
            close(log1p(x.abs()), libm::log1p(x.abs()));
            close(arcsinh(x), libm::asinh(x));
            close(tanh(x), libm::tanh(x));
            for other in [-30.0, -0.9, 0.0, 1e-3, 2.0] {
                close(arctan2(x, other), libm::atan2(x, other));
            }
        }
    }
}
