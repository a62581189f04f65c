//! The transformer's arithmetic on plain slices, forward and backward: what the tensor library leaves slow or
//! keeps too much of. [`super::operation`] makes operations of the tensor library of it.
//!
//! Work is split by rows, sequences or columns of the vocabulary, and sums over parts are taken in the parts'
//! order: results are the same bit for bit whatever the number of threads.

pub(crate) mod attention;
pub(crate) mod gated;
pub(crate) mod rms_norm;
pub(crate) mod tokens;

use pmpo_kernels::matrix::{Matrix, multiply};

/// `left right` in a fresh buffer, row after row.
fn product(left: Matrix<'_>, right: Matrix<'_>, columns: usize) -> Vec<f32> {
    let mut output = Vec::with_capacity(left.row_count() * columns);
    multiply(
        left,
        right,
        &mut output.spare_capacity_mut()[..left.row_count() * columns],
    );
    // SAFETY: `multiply` has written all of it.
    unsafe { output.set_len(left.row_count() * columns) };
    output
}

/// `values += terms`.
fn add(values: &mut [f32], terms: &[f32]) {
    for (value, term) in values.iter_mut().zip(terms) {
        *value += term;
    }
}
