//! Sums and products in NumPy's order of operations.
//!
//! `np.sum` adds eight partial sums once there are eight elements (`pairwise_sum` in NumPy's
//! `loops_utils.h.src`). Products are OpenBLAS's, whose kernels differ by machine.

use super::platform::platform;

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
    let pairs = a.iter().zip(b);
    if platform().fused_dot {
        pairs.fold(0.0, |total, (x, y)| x.mul_add(*y, total))
    } else {
        pairs.fold(0.0, |total, (x, y)| total + x * y)
    }
}

/// `np.linalg.norm(vector)`.
pub(crate) fn norm(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}

/// `vector.dot(frame)`: a vector of the world in the axes of `frame`, a row-major rotation matrix.
pub(crate) fn into_frame(vector: [f64; 3], frame: &[f64; 9]) -> [f64; 3] {
    std::array::from_fn(|axis| dot(&vector, &[frame[axis], frame[3 + axis], frame[6 + axis]]))
}

/// `rows.dot(frame)` for several vectors at once. OpenBLAS's matrix product is fused everywhere.
pub(crate) fn rows_into_frame<const N: usize>(
    rows: [[f64; 3]; N],
    frame: &[f64; 9],
) -> [[f64; 3]; N] {
    rows.map(|[x, y, z]| {
        std::array::from_fn(|axis| {
            z.mul_add(frame[6 + axis], y.mul_add(frame[3 + axis], x * frame[axis]))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_grouped_by_eights() {
        // 1e16 + 1 is 1e16: from eight values on, 1e16 and the ones meet late, and two of them count.
        assert_eq!(sum([1e16, 1.0, 1.0].into_iter()), 1e16);
        assert_eq!(
            sum([1e16, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0].into_iter()),
            1e16 + 2.0
        );
        assert_eq!(
            sum((1..=21).map(f64::from).collect::<Vec<_>>().into_iter()),
            231.0
        );
        assert_eq!(mean([1.0, 2.0, 6.0].into_iter()), 3.0);
    }

    #[test]
    fn vectors_are_taken_into_the_frames_axes() {
        // A quarter turn about z: the frame's x axis is the world's y axis.
        let frame = [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(into_frame([1.0, 2.0, 3.0], &frame), [2.0, -1.0, 3.0]);
        assert_eq!(
            rows_into_frame([[1.0, 2.0, 3.0]], &frame),
            [[2.0, -1.0, 3.0]]
        );
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
    }
}
