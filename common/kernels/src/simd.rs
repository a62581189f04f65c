//! Runs a kernel with the widest vectors at hand.
//!
//! Kernels are plain loops that the compiler vectorises. They are compiled several times: for the
//! target's baseline, and on x86-64 for AVX2 with FMA and, with [`dispatch_widest`], for AVX-512, chosen
//! when the program runs. [`Kernel::run`] is generic
//! in `FMA`, because a fused multiply-add without the instruction is a slow library call.

/// Work to be compiled for several instruction sets. Implementations inline all they call.
pub trait Kernel {
    /// Does the work; `FMA` tells whether [`multiply_add`] may fuse.
    fn run<const FMA: bool>(self);
}

/// Runs `kernel` with the best instructions of this machine.
#[inline]
pub fn dispatch(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the machine has both features.
            return unsafe { run_avx2(kernel) };
        }
        kernel.run::<false>();
    }
    #[cfg(not(target_arch = "x86_64"))]
    kernel.run::<{ cfg!(target_arch = "aarch64") }>();
}

/// As [`dispatch`], with AVX-512 where there is some: for kernels that compute more than they load.
#[inline]
pub fn dispatch_widest(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
        // SAFETY: the machine has both features.
        return unsafe { run_avx512(kernel) };
    }
    dispatch(kernel);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn run_avx512(kernel: impl Kernel) {
    kernel.run::<true>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run::<true>();
}

/// `a * b + c`, rounded once where `FMA`.
#[inline(always)]
pub fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
