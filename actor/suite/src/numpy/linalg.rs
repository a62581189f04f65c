//! Sums and products in NumPy's order of operations.
//!
//! `np.sum` adds eight partial sums once there are eight elements (`pairwise_sum` in NumPy's
//! `loops_utils.h.src`; the suite never sums more than 128). `np.dot` is OpenBLAS's `ddot`, whose
//! scalar tail is compiled to fused multiply-adds.

/// `np.sum(values)`, of at most 128 values.
pub(crate) fn sum(mut values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let mut p = [0.0; 8];
    for _ in 0..values.len() / 8 {
        for (partial, value) in p.iter_mut().zip(values.by_ref()) {
            *partial += value;
        }
    }
    let eights = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
    values.fold(eights, |total, value| total + value)
}

/// `np.mean(values)`.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    sum(values) / count
}

/// `np.dot(a, b)` of two short vectors.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .fold(0.0, |total, (x, y)| x.mul_add(*y, total))
}

/// `np.linalg.norm(vector)`.
pub(crate) fn norm(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}
