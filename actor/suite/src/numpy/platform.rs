//! Which variants of its kernels NumPy would choose on this machine.
//!
//! NumPy and its OpenBLAS pick kernels by CPU, and the variants round differently, so that two
//! machines' dm_control differ in last places. This module decides as they do (NumPy 2.4 and
//! OpenBLAS 0.3.31), including their environment variables, so that the suite equals the dm_control
//! beside it.

use std::sync::LazyLock;

/// The kernels in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Platform {
    /// OpenBLAS accumulates dot products with fused multiply-adds (its SkylakeX kernels), instead
    /// of rounding each product.
    pub(crate) fused_dot: bool,
}

/// The kernels that NumPy would choose.
pub(crate) fn platform() -> Platform {
    static PLATFORM: LazyLock<Platform> = LazyLock::new(Platform::detect);
    *PLATFORM
}

impl Platform {
    fn detect() -> Self {
        let fused_dot = match std::env::var("OPENBLAS_CORETYPE") {
            Ok(core) => ["skylakex", "cooperlake"].contains(&core.to_lowercase().as_str()),
            Err(_) => has_avx512() && !is_zen5_or_later(),
        };
        Self { fused_dot }
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
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// AMD's family 26 and up, which this OpenBLAS does not know: it falls back to Haswell's kernels.
#[cfg(target_arch = "x86_64")]
fn is_zen5_or_later() -> bool {
    use std::arch::x86_64::__cpuid;
    const FIRST_UNKNOWN_FAMILY: u32 = 26;
    let vendor = __cpuid(0);
    let amd = [vendor.ebx, vendor.edx, vendor.ecx]
        .map(u32::to_le_bytes)
        .concat()
        == b"AuthenticAMD";
    let signature = __cpuid(1).eax;
    let family = ((signature >> 8) & 0xf) + ((signature >> 20) & 0xff);
    amd && family >= FIRST_UNKNOWN_FAMILY
}

#[cfg(not(target_arch = "x86_64"))]
fn is_zen5_or_later() -> bool {
    false
}
