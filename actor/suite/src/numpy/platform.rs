//! Which variants of its kernels NumPy would choose on this machine.
//!
//! NumPy and its OpenBLAS pick kernels by CPU, and the variants round differently, so that two
//! machines' dm_control differ in last places. This module decides as they do (NumPy 2.4 and
//! OpenBLAS 0.3.31), including `OPENBLAS_CORETYPE`, so that the suite equals the dm_control beside
//! it.

use std::sync::LazyLock;

/// The kernels in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Platform {
    /// OpenBLAS accumulates dot products with fused multiply-adds (its SkylakeX kernels), instead
    /// of rounding each product.
    pub(crate) fused_dot: bool,
    /// NumPy calls SVML for elementary functions.
    pub(crate) avx512: bool,
    /// NumPy's own vectorised functions have fused multiply-adds.
    pub(crate) fma: bool,
}

/// The kernels that NumPy would choose.
pub(crate) fn platform() -> Platform {
    static PLATFORM: LazyLock<Platform> = LazyLock::new(Platform::detect);
    *PLATFORM
}

/// Cores that `OPENBLAS_CORETYPE` may name and whose dot products are not fused. OpenBLAS ignores
/// names that it does not know.
const UNFUSED_CORES: [&str; 9] = [
    "prescott",
    "core2",
    "nehalem",
    "sandybridge",
    "haswell",
    "zen",
    "barcelona",
    "bulldozer",
    "excavator",
];

impl Platform {
    fn detect() -> Self {
        let forced = std::env::var("OPENBLAS_CORETYPE")
            .unwrap_or_default()
            .to_lowercase();
        let avx512 = has_avx512();
        Self {
            fused_dot: avx512 && !UNFUSED_CORES.contains(&forced.as_str()),
            avx512,
            fma: has_fma(),
        }
    }
}

/// The AVX-512 subsets that NumPy and OpenBLAS ask for (x86-64-v4).
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && has_fma()
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// What NumPy asks for on x86-64-v3; every 64-bit ARM processor has it.
#[cfg(target_arch = "x86_64")]
fn has_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_fma() -> bool {
    cfg!(target_arch = "aarch64")
}
