//! Wire to domain and back.

use std::collections::HashSet;

use bytes::Bytes;
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, SpecDigest};

use crate::WireError;
use crate::compression::decompress;
use crate::replay::v1;

const MAX_COLUMNS: usize = 64;
const MAX_NAME_BYTES: usize = 256;
const MAX_AXES: usize = 16;
/// Largest step, in bytes.
const MAX_STEP_BYTES: usize = 16 << 20;

/// The wire's form of a signature.
pub fn signature_to_wire(signature: &Signature) -> v1::Signature {
    let columns = signature.columns.iter().map(|column| v1::ColumnSpec {
        name: column.name.clone(),
        dtype: dtype_to_wire(column.dtype).into(),
        shape: shape_to_wire(&column.shape),
        allow_nonfinite: column.allow_nonfinite,
    });
    v1::Signature {
        columns: columns.collect(),
    }
}

/// Reads a signature.
///
/// # Errors
/// It is absent, has no column or more than 64, a name twice, an empty one or one of more than 256 bytes,
/// more than 16 axes, an unknown dtype, or a step of no byte or more than 16 MiB.
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
    let mut step_bytes = 0usize;
    for (i, column) in wire.columns.into_iter().enumerate() {
        let field = |name: &str| format!("signature.columns[{i}].{name}");
        if !names.insert(column.name.clone()) {
            let got = format!("`{}` again", column.name);
            return Err(WireError::field(field("name"), "a unique name", got));
        }
        let column = column_from_wire(column, field)?;
        let bytes = column
            .shape
            .iter()
            .try_fold(column.dtype.size(), |bytes, &axis| bytes.checked_mul(axis));
        let bytes = bytes.and_then(|bytes| step_bytes.checked_add(bytes));
        step_bytes = bytes
            .filter(|&bytes| bytes <= MAX_STEP_BYTES)
            .ok_or_else(|| {
                let expected = format!("a step of at most {MAX_STEP_BYTES} bytes");
                WireError::field(field("shape"), expected, format!("{:?}", column.shape))
            })?;
        columns.push(column);
    }
    if step_bytes == 0 {
        let expected = "a step of at least one byte";
        return Err(WireError::field("signature", expected, "0 bytes"));
    }
    Ok(Signature { columns })
}

/// Reads one column of a signature; `field` makes paths of its fields.
fn column_from_wire(
    wire: v1::ColumnSpec,
    field: impl Fn(&str) -> String,
) -> Result<ColumnSpec, WireError> {
    if wire.name.is_empty() || wire.name.len() > MAX_NAME_BYTES {
        let expected = format!("1 to {MAX_NAME_BYTES} bytes");
        return Err(WireError::field(field("name"), expected, wire.name.len()));
    }
    if wire.shape.len() > MAX_AXES {
        let expected = format!("at most {MAX_AXES} axes");
        return Err(WireError::field(field("shape"), expected, wire.shape.len()));
    }
    let dtype = dtype_from_wire(wire.dtype, || field("dtype"))?;
    // An axis too long for memory makes a step that is: then as long as can be is as good.
    let axis = |axis: u64| usize::try_from(axis).unwrap_or(usize::MAX);
    Ok(ColumnSpec {
        name: wire.name,
        dtype,
        shape: wire.shape.into_iter().map(axis).collect(),
        allow_nonfinite: wire.allow_nonfinite && dtype.is_float(),
    })
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
            "steps.columns",
            format!("{} columns", signature.columns.len()),
            columns.len(),
        ));
    }
    let len = columns[0].shape.first().copied().unwrap_or_default();
    let mut left = max_bytes;
    let mut data: Vec<Bytes> = Vec::with_capacity(columns.len());
    for (spec, tensor) in signature.columns.iter().zip(columns) {
        let field = |name: &str| format!("steps.column `{}`.{name}", spec.name);
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
        .map_err(|_| WireError::field("steps.columns", "a length that fits memory", len))?;
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
        DType::U8 => v1::DType::U8,
        DType::I8 => v1::DType::I8,
        DType::I16 => v1::DType::I16,
        DType::I32 => v1::DType::I32,
        DType::I64 => v1::DType::I64,
        DType::U32 => v1::DType::U32,
        DType::Bool => v1::DType::Bool,
        DType::F16 => v1::DType::F16,
        DType::Bf16 => v1::DType::Bf16,
        DType::F32 => v1::DType::F32,
        DType::F64 => v1::DType::F64,
    }
}

fn dtype_from_wire(wire: i32, field: impl FnOnce() -> String) -> Result<DType, WireError> {
    let known = DType::ALL
        .into_iter()
        .find(|&dtype| i32::from(dtype_to_wire(dtype)) == wire);
    known.ok_or_else(|| {
        let names = DType::ALL.map(DType::as_str).join(", ");
        WireError::field(field(), format!("one of {names}"), format!("dtype {wire}"))
    })
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

        let sent = v1::Steps {
            first_sequence: 7,
            columns: items(&signature, 5),
            ..v1::Steps::default()
        };
        let received = v1::Steps::decode(&sent.encode_to_vec()[..]).unwrap();
        let batch = batch_from_wire(&signature, received.columns, MAX).unwrap();
        assert_eq!(batch.len(), 5);
        assert_eq!(batch_to_wire(&signature, batch), sent.columns);
    }

    #[test]
    fn every_dtype_and_what_floats_may_hold_survive_the_wire() {
        let columns = DType::ALL.iter().map(|&dtype| ColumnSpec {
            allow_nonfinite: dtype.is_float(),
            ..ColumnSpec::new(dtype.as_str(), dtype, &[2])
        });
        let signature = Signature {
            columns: columns.collect(),
        };
        let mut wire = signature_to_wire(&signature);
        assert_eq!(signature_from_wire(Some(wire.clone())).unwrap(), signature);
        // Of integers it says nothing, and makes no difference.
        let integers = wire
            .columns
            .iter_mut()
            .filter(|c| c.name.contains(['i', 'u']));
        integers.for_each(|column| column.allow_nonfinite = true);
        assert_eq!(signature_from_wire(Some(wire)).unwrap(), signature);
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
                "steps.columns: expected 6 columns, got 5",
            ),
            (
                refused(&|c| c[1].dtype = v1::DType::I64.into()),
                "steps.column `action`.dtype: expected f32, got i64",
            ),
            (
                refused(&|c| c[1].dtype = 99),
                "steps.column `action`.dtype: expected one of f32, i64, u8, i8, i16, i32, u32, bool, f16, \
                 bf16, f64, got dtype 99",
            ),
            (
                refused(&|c| c[4].shape = vec![2, 4]),
                "steps.column `next_observation`.shape: expected [2, 3], got [2, 4]",
            ),
            (
                refused(&|c| c[0].data = Bytes::from_static(b"123")),
                "steps.column `observation`: expected 24 bytes for 2 items, got 3",
            ),
            (
                refused(&|c| c[2].data = f32::NAN.to_le_bytes().repeat(2).into()),
                "steps.column `reward`: expected finite values, got NaN in item 0",
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
            allow_nonfinite: false,
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
            vec![column(&"a".repeat(257), f32, &[])],
            vec![column("a", f32, &[1; 17])],
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
