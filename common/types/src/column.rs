//! Items in columns: how experience is laid out from the adder to the learner.
//!
//! A [`ColumnBatch`] holds `len` items of one [`Signature`]; every column is one contiguous,
//! row-major, little-endian array `[len, ..shape]`. The same bytes go over the wire, into the replay
//! table and to the learner's device, so no station parses what another has laid out.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Element type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32; must be finite.
    F32,
    /// Signed 64-bit integer.
    I64,
}

impl DType {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }

    /// Lower-case name, as in messages to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I64 => "i64",
        }
    }
}

/// One column of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSpec {
    /// Field name, unique in its signature.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape of one item's value, without the batch axis; empty for a scalar.
    pub shape: Vec<usize>,
}

impl ColumnSpec {
    /// Elements one item's value has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes one item's value takes.
    pub fn item_bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// The columns of an item, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The columns; names are unique.
    pub columns: Vec<ColumnSpec>,
}

impl Signature {
    /// Bytes one item takes over all columns.
    pub fn item_bytes(&self) -> usize {
        self.columns.iter().map(ColumnSpec::item_bytes).sum()
    }
}

fn column(name: &str, dtype: DType, shape: &[usize]) -> ColumnSpec {
    ColumnSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    }
}

/// The n-step transition, the item that actors insert and the learner samples.
pub mod transition {
    use super::{DType, Signature, column};

    /// Index of `observation`, f32 `[observation_size]`.
    pub const OBSERVATION: usize = 0;
    /// Index of `action`, f32 `[action_size]`, in [-1, 1] per dimension (canonical).
    pub const ACTION: usize = 1;
    /// Index of `reward`, f32: the n-step discounted sum of rewards.
    pub const REWARD: usize = 2;
    /// Index of `discount`, f32: the product of the environment's discounts and gamma^n, which
    /// multiplies the value of `next_observation`.
    pub const DISCOUNT: usize = 3;
    /// Index of `next_observation`, f32 `[observation_size]`.
    pub const NEXT_OBSERVATION: usize = 4;
    /// Index of `policy_version`, i64: the version that chose `action`.
    pub const POLICY_VERSION: usize = 5;

    /// The signature of transitions between vectors of these sizes.
    pub fn signature(observation_size: usize, action_size: usize) -> Signature {
        Signature {
            columns: vec![
                column("observation", DType::F32, &[observation_size]),
                column("action", DType::F32, &[action_size]),
                column("reward", DType::F32, &[]),
                column("discount", DType::F32, &[]),
                column("next_observation", DType::F32, &[observation_size]),
                column("policy_version", DType::I64, &[]),
            ],
        }
    }
}

/// One step of an environment: the row that actors write. Items are windows of such rows.
///
/// Everything is as the environment gave it: discounting over steps, and any scaling of rewards, is the
/// learner's, so that a changed setting is right for what is stored. An episode of `N` steps is `N` rows
/// and one or more after them whose `step_type` is LAST: those hold the state the episode ended in, and
/// no action was taken there.
pub mod step {
    use super::{DType, Signature, column};

    /// Index of `observation`, f32 `[observation_size]`: the state the step was taken in.
    pub const OBSERVATION: usize = 0;
    /// Index of `action`, f32 `[action_size]`: canonical, as the policy drew it, before clipping.
    pub const ACTION: usize = 1;
    /// Index of `reward`, f32.
    pub const REWARD: usize = 2;
    /// Index of `discount`, f32: the environment's discount, 0 at a termination.
    pub const DISCOUNT: usize = 3;
    /// Index of `log_prob`, f32: the logarithm of the density or probability that the acting policy
    /// gave `action`.
    pub const LOG_PROB: usize = 4;
    /// Index of `policy_version`, i64: the version that chose `action`.
    pub const POLICY_VERSION: usize = 5;
    /// Index of `step_type`, i64: a [`StepType`](crate::StepType) by its number, of the state the step
    /// was taken in.
    pub const STEP_TYPE: usize = 6;

    /// The signature of steps with vectors of these sizes.
    pub fn signature(observation_size: usize, action_size: usize) -> Signature {
        Signature {
            columns: vec![
                column("observation", DType::F32, &[observation_size]),
                column("action", DType::F32, &[action_size]),
                column("reward", DType::F32, &[]),
                column("discount", DType::F32, &[]),
                column("log_prob", DType::F32, &[]),
                column("policy_version", DType::I64, &[]),
                column("step_type", DType::I64, &[]),
            ],
        }
    }
}

/// Why a batch does not fit its signature.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ColumnError {
    /// The number of columns differs.
    #[error("expected {expected} columns, got {got}")]
    Count {
        /// Columns of the signature.
        expected: usize,
        /// Columns of the batch.
        got: usize,
    },
    /// A column has the wrong number of bytes.
    #[error("column `{column}`: expected {expected} bytes for {len} items, got {got}")]
    Length {
        /// The column's name.
        column: String,
        /// Bytes expected.
        expected: usize,
        /// Bytes received.
        got: usize,
        /// Items in the batch.
        len: usize,
    },
    /// A floating-point column holds NaN or an infinity.
    #[error("column `{column}`: expected finite values, got {value} in item {item}")]
    NotFinite {
        /// The column's name.
        column: String,
        /// Position of the item in the batch.
        item: usize,
        /// The offending value.
        value: String,
    },
}

/// `len` items in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnBatch {
    len: usize,
    columns: Vec<Bytes>,
}

impl ColumnBatch {
    /// Checks lengths and finiteness against `signature` and takes the columns.
    ///
    /// # Errors
    /// [`ColumnError`] names the column, and what was expected.
    pub fn new(
        signature: &Signature,
        len: usize,
        columns: Vec<Bytes>,
    ) -> Result<Self, ColumnError> {
        if columns.len() != signature.columns.len() {
            return Err(ColumnError::Count {
                expected: signature.columns.len(),
                got: columns.len(),
            });
        }
        for (spec, data) in signature.columns.iter().zip(&columns) {
            let expected = spec.item_bytes().checked_mul(len);
            if expected != Some(data.len()) {
                return Err(ColumnError::Length {
                    column: spec.name.clone(),
                    expected: expected.unwrap_or(usize::MAX),
                    got: data.len(),
                    len,
                });
            }
            if spec.dtype == DType::F32 {
                check_finite(spec, data)?;
            }
        }
        Ok(Self { len, columns })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the batch holds no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The columns, each `[len, ..shape]`, in the signature's order.
    pub fn columns(&self) -> &[Bytes] {
        &self.columns
    }

    /// Gives the columns away.
    pub fn into_columns(self) -> Vec<Bytes> {
        self.columns
    }

    /// The items in `range`, without copying.
    ///
    /// # Panics
    /// If the range ends beyond `len` or before it starts.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "slice {range:?} of {} items",
            self.len
        );
        let columns = self.columns.iter().map(|data| {
            // Every column holds `len` rows of equal size.
            let row = data.len().checked_div(self.len).unwrap_or(0);
            data.slice(range.start * row..range.end * row)
        });
        Self {
            len: range.len(),
            columns: columns.collect(),
        }
    }

    /// The items from `start` on, without copying.
    ///
    /// # Panics
    /// If `start > len`.
    pub fn skip(&self, start: usize) -> Self {
        self.slice(start..self.len)
    }
}

const EXPONENT_BITS: u32 = 0x7f80_0000;

fn check_finite(spec: &ColumnSpec, data: &[u8]) -> Result<(), ColumnError> {
    let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
    // Infinities and NaN are the values whose exponent bits are all set. Integer arithmetic without
    // an early exit vectorises; a sum of floats would not, since its order matters.
    let any = data.chunks_exact(4).fold(false, |any, bytes| {
        any | (value(bytes).to_bits() & EXPONENT_BITS == EXPONENT_BITS)
    });
    if !any {
        return Ok(());
    }
    let (position, bad) = data
        .chunks_exact(4)
        .map(value)
        .enumerate()
        .find(|(_, value)| !value.is_finite())
        .expect("an element's exponent bits are all set");
    Err(ColumnError::NotFinite {
        column: spec.name.clone(),
        item: position / spec.elements().max(1),
        value: bad.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(len: usize, reward: f32) -> Result<ColumnBatch, ColumnError> {
        let signature = transition::signature(2, 1);
        let mut columns: Vec<Bytes> = signature
            .columns
            .iter()
            .map(|c| vec![0; c.item_bytes() * len].into())
            .collect();
        columns[transition::REWARD] = (0..len)
            .flat_map(|i| (if i == 1 { reward } else { 0.0 }).to_le_bytes())
            .collect();
        ColumnBatch::new(&signature, len, columns)
    }

    #[test]
    fn refuses_values_that_are_not_finite_and_names_the_item() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = batch(3, bad).unwrap_err();
            assert!(
                matches!(&error, ColumnError::NotFinite { column, item: 1, .. } if column == "reward"),
                "{error}"
            );
        }
        assert_eq!(batch(3, 1.0).unwrap().len(), 3);
    }

    #[test]
    fn refuses_wrong_lengths_and_counts() {
        let signature = transition::signature(2, 1);
        let good = batch(2, 0.0).unwrap().into_columns();
        assert!(matches!(
            ColumnBatch::new(&signature, 3, good.clone()),
            Err(ColumnError::Length { len: 3, .. })
        ));
        assert!(matches!(
            ColumnBatch::new(&signature, usize::MAX, good.clone()),
            Err(ColumnError::Length { .. })
        ));
        assert_eq!(
            ColumnBatch::new(&signature, 2, good[1..].to_vec()),
            Err(ColumnError::Count {
                expected: 6,
                got: 5
            })
        );
    }

    #[test]
    fn skip_drops_the_first_items_of_every_column() {
        let rest = batch(3, 7.0).unwrap().skip(1);
        assert_eq!(rest.len(), 2);
        assert_eq!(rest.columns()[transition::REWARD][..4], 7f32.to_le_bytes());
        assert_eq!(rest.columns()[transition::OBSERVATION].len(), 2 * 2 * 4);
    }

    #[test]
    fn slice_keeps_the_items_of_its_range() {
        let batch = batch(4, 7.0).unwrap();
        let middle = batch.slice(1..3);
        assert_eq!(middle.len(), 2);
        assert_eq!(
            middle.columns()[transition::REWARD][..4],
            7f32.to_le_bytes()
        );
        assert_eq!(middle.columns()[transition::ACTION].len(), 2 * 4);
        assert!(batch.slice(4..4).is_empty());
    }
}
