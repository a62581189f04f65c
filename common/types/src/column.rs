//! Items in columns: how experience is laid out from the adder to the learner.
//!
//! A [`ColumnBatch`] holds `len` items of one [`Signature`]; every column is one contiguous,
//! row-major, little-endian array `[len, ..shape]`. The same bytes go over the wire, into the replay
//! table and to the learner's device, so no station parses what another has laid out.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::DType;
use crate::dtype::first_nonfinite;

/// One column of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSpec {
    /// Field name, unique in its signature.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape of one item's value, without the batch axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// Whether NaN and infinities may stand in it. False where the dtype has none.
    #[serde(default)]
    pub allow_nonfinite: bool,
}

impl ColumnSpec {
    /// A column of finite values.
    pub fn new(name: &str, dtype: DType, shape: &[usize]) -> Self {
        Self {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            allow_nonfinite: false,
        }
    }

    /// Elements one item's value has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes one item's value takes.
    pub fn item_bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// Refuses values that the column may not hold.
    ///
    /// # Errors
    /// A value is not finite where that is not allowed, or a boolean is neither 0 nor 1.
    pub fn check_values(&self, data: &[u8]) -> Result<(), ColumnError> {
        let item = |position: usize| position / self.elements().max(1);
        if self.dtype == DType::Bool {
            let bad = data.iter().enumerate().find(|&(_, &byte)| byte > 1);
            return bad.map_or(Ok(()), |(position, &value)| {
                Err(ColumnError::NotBool {
                    column: self.name.clone(),
                    item: item(position),
                    value,
                })
            });
        }
        if self.allow_nonfinite || !self.dtype.is_float() {
            return Ok(());
        }
        let Some((position, value)) = first_nonfinite(self.dtype, data) else {
            return Ok(());
        };
        Err(ColumnError::NotFinite {
            column: self.name.clone(),
            item: item(position),
            value: value.to_string(),
        })
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
    /// A floating-point column that may not holds NaN or an infinity.
    #[error("column `{column}`: expected finite values, got {value} in item {item}")]
    NotFinite {
        /// The column's name.
        column: String,
        /// Position of the item in the batch.
        item: usize,
        /// The offending value.
        value: String,
    },
    /// A column of booleans holds a byte that is none.
    #[error("column `{column}`: expected bytes of 0 or 1, got {value} in item {item}")]
    NotBool {
        /// The column's name.
        column: String,
        /// Position of the item in the batch.
        item: usize,
        /// The offending byte.
        value: u8,
    },
}

/// `len` items in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnBatch {
    len: usize,
    columns: Vec<Bytes>,
}

impl ColumnBatch {
    /// Checks lengths and values against `signature` and takes the columns.
    ///
    /// # Errors
    /// [`ColumnError`] names the column, and what was expected.
    pub fn new(
        signature: &Signature,
        len: usize,
        columns: Vec<Bytes>,
    ) -> Result<Self, ColumnError> {
        let batch = Self::of_known_values(signature, len, columns)?;
        for (spec, data) in signature.columns.iter().zip(&batch.columns) {
            spec.check_values(data)?;
        }
        Ok(batch)
    }

    /// Checks lengths against `signature` and takes the columns, whose values were checked before.
    ///
    /// # Errors
    /// [`ColumnError`] names the column, and what was expected.
    pub fn of_known_values(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transition;

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

    /// Which bit patterns are finite: IEEE 754-2019, section 3.4; of bfloat16, those of the binary32 whose
    /// upper half they are.
    #[test]
    fn what_is_not_finite_is_stored_where_the_column_allows_it() {
        /// An element, and its name.
        type Bad<'a> = (&'a [u8], &'a str);
        let cases: [(DType, &[u8], &[Bad]); 4] = [
            (
                DType::F16,
                &[0xff, 0x7b],
                &[
                    (&[0x00, 0x7c], "inf"),
                    (&[0x01, 0x7e], "NaN"),
                    (&[0x00, 0xfc], "-inf"),
                ],
            ),
            (
                DType::Bf16,
                &[0x7f, 0x7f],
                &[
                    (&[0x80, 0x7f], "inf"),
                    (&[0xc0, 0x7f], "NaN"),
                    (&[0x80, 0xff], "-inf"),
                ],
            ),
            (
                DType::F32,
                &f32::MAX.to_le_bytes(),
                &[
                    (&f32::NAN.to_le_bytes(), "NaN"),
                    (&f32::NEG_INFINITY.to_le_bytes(), "-inf"),
                ],
            ),
            (
                DType::F64,
                &f64::MAX.to_le_bytes(),
                &[
                    (&f64::NAN.to_le_bytes(), "NaN"),
                    (&f64::INFINITY.to_le_bytes(), "inf"),
                ],
            ),
        ];
        for (dtype, largest, bad) in cases {
            let mut spec = ColumnSpec::new("x", dtype, &[2]);
            let checked = |spec: &ColumnSpec, last: &[u8]| {
                let signature = Signature {
                    columns: vec![spec.clone()],
                };
                let data = [largest, largest, largest, last].concat();
                ColumnBatch::new(&signature, 2, vec![data.into()])
            };
            assert!(checked(&spec, largest).is_ok(), "{dtype:?}");
            for (bytes, name) in bad {
                let error = checked(&spec, bytes).unwrap_err().to_string();
                let expected = format!("column `x`: expected finite values, got {name} in item 1");
                assert_eq!(error, expected, "{dtype:?}");
            }
            spec.allow_nonfinite = true;
            assert!(bad.iter().all(|(bytes, _)| checked(&spec, bytes).is_ok()));
        }
    }

    #[test]
    fn a_boolean_is_0_or_1_and_integers_are_anything() {
        for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
            let signature = Signature {
                columns: vec![ColumnSpec::new("x", dtype, &[])],
            };
            let batch = |byte: u8| {
                let data = [vec![0; dtype.size()], vec![byte; dtype.size()]].concat();
                ColumnBatch::new(&signature, 2, vec![data.into()])
            };
            assert!(batch(1).is_ok());
            let full = batch(0xff).map_err(|error| error.to_string());
            if dtype == DType::Bool {
                let expected = "column `x`: expected bytes of 0 or 1, got 255 in item 1";
                assert_eq!(full, Err(expected.to_owned()));
            } else {
                assert!(full.is_ok(), "{dtype:?}");
            }
        }
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
