//! Wire to domain and back.

use std::collections::HashSet;

use bytes::Bytes;
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, SpecDigest};

use crate::compression::decompress;
use crate::{WireError, v1};

const MAX_COLUMNS: usize = 64;
const MAX_ITEM_BYTES: usize = 16 << 20;

/// The wire's form of a signature.
pub fn signature_to_wire(signature: &Signature) -> v1::Signature {
    let columns = signature.columns.iter().map(|column| v1::ColumnSpec {
        name: column.name.clone(),
        dtype: dtype_to_wire(column.dtype).into(),
        shape: shape_to_wire(&column.shape),
    });
    v1::Signature {
        columns: columns.collect(),
    }
}

/// Reads a signature.
///
/// # Errors
/// It is absent, has no column or more than 64, a name twice or an empty one, an unknown dtype, or an
/// item of more than 16 MiB.
pub fn signature_from_wire(wire: Option<v1::Signature>) -> Result<Signature, WireError> {
    let wire = wire.ok_or_else(|| WireError::field("signature", "a signature", "nothing"))?;
    if wire.columns.is_empty() || wire.columns.len() > MAX_COLUMNS {
        return Err(WireError::field(
            "signature.columns",
            format!("1 to {MAX_COLUMNS} columns"),
            wire.columns.len(),
        ));
    }
    let mut names = HashSet::new();
    let mut columns = Vec::with_capacity(wire.columns.len());
    let mut item_bytes = 0usize;
    for (i, column) in wire.columns.into_iter().enumerate() {
        let field = |name: &str| format!("signature.columns[{i}].{name}");
        if column.name.is_empty() || !names.insert(column.name.clone()) {
            return Err(WireError::field(
                field("name"),
                "a unique name",
                column.name,
            ));
        }
        let dtype = dtype_from_wire(column.dtype, || field("dtype"))?;
        let bytes = column
            .shape
            .iter()
            .try_fold(dtype.size() as u64, |bytes, &axis| bytes.checked_mul(axis))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .and_then(|bytes| item_bytes.checked_add(bytes))
            .filter(|&bytes| bytes <= MAX_ITEM_BYTES);
        item_bytes = bytes.ok_or_else(|| {
            WireError::field(
                field("shape"),
                format!("an item of at most {MAX_ITEM_BYTES} bytes"),
                format!("{:?}", column.shape),
            )
        })?;
        // Bounded by MAX_ITEM_BYTES unless another axis is zero; such a column holds nothing.
        let shape = column.shape.iter().map(|&axis| axis as usize).collect();
        columns.push(ColumnSpec {
            name: column.name,
            dtype,
            shape,
        });
    }
    if item_bytes == 0 {
        return Err(WireError::field(
            "signature",
            "an item of at least one byte",
            "0 bytes",
        ));
    }
    Ok(Signature { columns })
}

/// The wire's form of a batch; shares the bytes.
pub fn batch_to_wire(signature: &Signature, batch: ColumnBatch) -> Vec<v1::Tensor> {
    let len = batch.len();
    signature
        .columns
        .iter()
        .zip(batch.into_columns())
        .map(|(spec, data)| v1::Tensor {
            dtype: dtype_to_wire(spec.dtype).into(),
            shape: std::iter::once(len as u64)
                .chain(shape_to_wire(&spec.shape))
                .collect(),
            data,
            compression: v1::Compression::None.into(),
        })
        .collect()
}

/// Reads a batch of items; shares the bytes of columns that are not compressed. Where the signature
/// bounds no length, `max_bytes` does: a few compressed bytes may claim to be many.
///
/// # Errors
/// A column is missing, or its dtype, shape or length differ from the signature's, or a value is not
/// finite, or what is compressed cannot be read or is more than `max_bytes`.
pub fn batch_from_wire(
    signature: &Signature,
    columns: Vec<v1::Tensor>,
    max_bytes: usize,
) -> Result<ColumnBatch, WireError> {
    if columns.len() != signature.columns.len() {
        return Err(WireError::field(
            "items.columns",
            format!("{} columns", signature.columns.len()),
            columns.len(),
        ));
    }
    let len = columns[0].shape.first().copied().unwrap_or_default();
    let mut left = max_bytes;
    let mut data: Vec<Bytes> = Vec::with_capacity(columns.len());
    for (spec, tensor) in signature.columns.iter().zip(columns) {
        let field = |name: &str| format!("items.column `{}`.{name}", spec.name);
        let dtype = dtype_from_wire(tensor.dtype, || field("dtype"))?;
        if dtype != spec.dtype {
            return Err(WireError::field(
                field("dtype"),
                spec.dtype.as_str(),
                dtype.as_str(),
            ));
        }
        let expected: Vec<u64> = std::iter::once(len)
            .chain(shape_to_wire(&spec.shape))
            .collect();
        if tensor.shape != expected {
            return Err(WireError::field(
                field("shape"),
                format!("{expected:?}"),
                format!("{:?}", tensor.shape),
            ));
        }
        let bytes = len
            .saturating_mul(spec.item_bytes() as u64)
            .min(left as u64);
        let column = decompress(tensor.data, tensor.compression, bytes as usize)
            .map_err(|(expected, got)| WireError::field(field("data"), expected, got))?;
        left = left.saturating_sub(column.len());
        data.push(column);
    }
    let len = usize::try_from(len)
        .map_err(|_| WireError::field("items.columns", "a length that fits memory", len))?;
    Ok(ColumnBatch::new(signature, len, data)?)
}

/// Reads a spec digest.
///
/// # Errors
/// It is not 32 bytes long.
pub fn digest_from_wire(wire: &[u8]) -> Result<SpecDigest, WireError> {
    wire.try_into()
        .map(SpecDigest)
        .map_err(|_| WireError::field("spec_digest", "32 bytes", format!("{} bytes", wire.len())))
}

fn shape_to_wire(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|&axis| axis as u64).collect()
}

fn dtype_to_wire(dtype: DType) -> v1::DType {
    match dtype {
        DType::F32 => v1::DType::F32,
        DType::I64 => v1::DType::I64,
    }
}

fn dtype_from_wire(wire: i32, field: impl FnOnce() -> String) -> Result<DType, WireError> {
    match v1::DType::try_from(wire) {
        Ok(v1::DType::F32) => Ok(DType::F32),
        Ok(v1::DType::I64) => Ok(DType::I64),
        Ok(v1::DType::Unspecified) | Err(_) => Err(WireError::field(
            field(),
            "f32 or i64",
            format!("dtype {wire}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnError, transition};
    use prost::Message;

    use super::*;

    const MAX: usize = 1 << 20;

    fn items(signature: &Signature, len: usize) -> Vec<v1::Tensor> {
        let columns = signature
            .columns
            .iter()
            .map(|c| vec![1; c.item_bytes() * len].into())
            .collect();
        batch_to_wire(
            signature,
            ColumnBatch::new(signature, len, columns).unwrap(),
        )
    }

    #[test]
    fn signatures_and_batches_survive_the_wire() {
        let signature = transition::signature(3, 2);
        let wire = signature_to_wire(&signature).encode_to_vec();
        let back = v1::Signature::decode(&wire[..]).unwrap();
        assert_eq!(signature_from_wire(Some(back)).unwrap(), signature);

        let sent = v1::Items {
            first_sequence: 7,
            columns: items(&signature, 5),
            ..v1::Items::default()
        };
        let received = v1::Items::decode(&sent.encode_to_vec()[..]).unwrap();
        let batch = batch_from_wire(&signature, received.columns, MAX).unwrap();
        assert_eq!(batch.len(), 5);
        assert_eq!(batch_to_wire(&signature, batch), sent.columns);
    }

    #[test]
    fn refuses_batches_that_do_not_fit_and_names_the_field() {
        let signature = transition::signature(3, 2);
        let refused = |change: &dyn Fn(&mut Vec<v1::Tensor>)| {
            let mut columns = items(&signature, 2);
            change(&mut columns);
            batch_from_wire(&signature, columns, MAX)
                .unwrap_err()
                .to_string()
        };
        let cases: [(String, &str); 6] = [
            (
                refused(&|c| drop(c.pop())),
                "items.columns: expected 6 columns, got 5",
            ),
            (
                refused(&|c| c[1].dtype = v1::DType::I64.into()),
                "items.column `action`.dtype: expected f32, got i64",
            ),
            (
                refused(&|c| c[1].dtype = 99),
                "items.column `action`.dtype: expected f32 or i64, got dtype 99",
            ),
            (
                refused(&|c| c[4].shape = vec![2, 4]),
                "items.column `next_observation`.shape: expected [2, 3], got [2, 4]",
            ),
            (
                refused(&|c| c[0].data = Bytes::from_static(b"123")),
                "items.column `observation`: expected 24 bytes for 2 items, got 3",
            ),
            (
                refused(&|c| c[2].data = f32::NAN.to_le_bytes().repeat(2).into()),
                "items.column `reward`: expected finite values, got NaN in item 0",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn a_length_beyond_memory_is_refused_without_allocating() {
        let signature = transition::signature(3, 2);
        let mut columns = items(&signature, 2);
        for column in &mut columns {
            column.shape[0] = u64::MAX;
        }
        assert!(matches!(
            batch_from_wire(&signature, columns, MAX),
            Err(WireError::Columns(ColumnError::Length { .. }))
        ));
    }

    #[test]
    fn refuses_signatures_that_cannot_be_stored() {
        let column = |name: &str, dtype: i32, shape: &[u64]| v1::ColumnSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        };
        let f32 = v1::DType::F32.into();
        let cases = [
            vec![],
            vec![column("", f32, &[])],
            vec![column("a", f32, &[]), column("a", f32, &[])],
            vec![column("a", 0, &[])],
            vec![column("a", f32, &[0])],
            vec![column("a", f32, &[u64::MAX, 2])],
            vec![column("a", f32, &[1 << 40])],
        ];
        for columns in cases {
            let wire = v1::Signature { columns };
            assert!(signature_from_wire(Some(wire.clone())).is_err(), "{wire:?}");
        }
        assert!(signature_from_wire(None).is_err());
    }

    #[test]
    fn digests_of_the_wrong_length_are_refused() {
        assert!(digest_from_wire(&[0; 31]).is_err());
        assert_eq!(digest_from_wire(&[7; 32]), Ok(SpecDigest([7; 32])));
    }
}
