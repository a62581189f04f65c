//! Matrix products into fresh or borrowed buffers, on the `gemm` crate, which is also what the tensor
//! library's CPU backend multiplies with.
//!
//! A product runs on one thread; callers share work by splitting rows of the result, so that every
//! element is summed in the same order whatever the number of threads.

use std::mem::MaybeUninit;

use gemm::{Parallelism, gemm};

/// A matrix somewhere in a slice.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` values one after the other.
    pub fn new(values: &'a [f32], columns: usize) -> Self {
        assert_eq!(values.len() % columns, 0, "whole rows");
        Self {
            values,
            rows: values.len() / columns,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// The same matrix with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// `count` rows from `first` on.
    #[must_use]
    pub fn rows(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "rows within the matrix");
        Self {
            values: &self.values[first * self.row_stride..],
            rows: count,
            ..self
        }
    }
}

/// Fills `output` with `left right`, row after row.
pub fn multiply<'o>(
    left: Matrix<'_>,
    right: Matrix<'_>,
    output: &'o mut [MaybeUninit<f32>],
) -> &'o mut [f32] {
    let [rows, inner, columns] = [left.rows, left.columns, right.columns];
    assert_eq!(right.rows, inner, "inner sizes agree");
    assert_eq!(output.len(), rows * columns, "one number a row and column");
    // SAFETY: a `Matrix` lies within its slice, since it is made of whole rows and only ever narrowed;
    // the output is as long as was just checked and borrowed mutably. Without `read_dst` the product
    // only writes there, and writes all of it.
    unsafe {
        gemm(
            rows,
            columns,
            inner,
            output.as_mut_ptr().cast::<f32>(),
            1,
            columns as isize,
            false,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
        output.assume_init_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, so that sums are exact in whatever order.
    #[test]
    fn multiplies_transposed_and_narrowed_matrices() {
        let left: Vec<f32> = (0..15).map(|i| (i % 7) as f32 - 3.0).collect();
        let right: Vec<f32> = (0..6).map(|i| i as f32).collect();
        // left^T is 5 x 3 and right 3 x 2; of the product, rows 1 to 3.
        let (left, right) = (Matrix::new(&left, 5), Matrix::new(&right, 2));
        let mut output = Box::new_uninit_slice(6);
        let output = multiply(left.transposed().rows(1, 3), right, &mut output);
        let mut expected = Vec::new();
        for i in 1..4 {
            for j in 0..2 {
                let term = |k: usize| left.values[k * 5 + i] * right.values[k * 2 + j];
                expected.push((0..3).map(term).sum::<f32>());
            }
        }
        assert_eq!(*output, expected);
    }
}
