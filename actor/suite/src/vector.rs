//! Vectors of space and rotation matrices, as MuJoCo lays them out.

/// `a - b`.
pub(crate) fn difference<const N: usize>(a: [f64; N], b: [f64; N]) -> [f64; N] {
    std::array::from_fn(|index| a[index] - b[index])
}
