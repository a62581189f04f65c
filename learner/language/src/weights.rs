//! A model's numbers as safetensors: in its file, and as they go from a learner to its generators.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize, serialize_to_file};
use safetensors::{SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::parameters::{Spec, specs};

/// How a number is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsDtype {
    /// As it is.
    #[default]
    F32,
    /// Its upper half, rounded to the nearest: half of the bytes.
    Bf16,
}

/// The numbers of each tensor, in the order of [`specs`], as one file.
///
/// # Panics
/// If there are not as many as the model has.
pub fn encode<'a>(
    config: &ModelConfig,
    values: impl Iterator<Item = &'a [f32]>,
    dtype: WeightsDtype,
) -> Vec<u8> {
    let halves = |values: &[f32]| -> Vec<u8> {
        let halves = values.iter().map(|x| bf16::from_f32(*x).to_le_bytes());
        halves.flatten().collect()
    };
    let bytes: Vec<Cow<'a, [u8]>> = values
        .map(|values| match dtype {
            WeightsDtype::F32 => bytemuck::cast_slice(values).into(),
            WeightsDtype::Bf16 => halves(values).into(),
        })
        .collect();
    let dtype = match dtype {
        WeightsDtype::F32 => Dtype::F32,
        WeightsDtype::Bf16 => Dtype::BF16,
    };
    let specs = specs(config);
    serialize(views(&specs, &bytes, dtype), Some(metadata())).expect("names and shapes of a model")
}

/// Writes them as they are.
pub(crate) fn write(
    config: &ModelConfig,
    values: &[Vec<f32>],
    path: &Path,
) -> Result<(), SafeTensorError> {
    let bytes: Vec<Cow<'_, [u8]>> = values
        .iter()
        .map(|values| bytemuck::cast_slice(values).into())
        .collect();
    let specs = specs(config);
    serialize_to_file(views(&specs, &bytes, Dtype::F32), Some(metadata()), path)
}

fn views<'a>(
    specs: &'a [Spec],
    bytes: &'a [Cow<'a, [u8]>],
    dtype: Dtype,
) -> Vec<(&'a str, TensorView<'a>)> {
    assert_eq!(specs.len(), bytes.len(), "values for each tensor");
    let each = specs.iter().zip(bytes).map(|(spec, bytes)| {
        let view = TensorView::new(dtype, spec.shape.clone(), bytes);
        (spec.name.as_str(), view.expect("as long as its shape says"))
    });
    each.collect()
}

/// What transformers asks of a file.
fn metadata() -> HashMap<String, String> {
    HashMap::from([("format".to_owned(), "pt".to_owned())])
}

/// The numbers of each tensor of such a file.
///
/// # Errors
/// It is no such file, or another model's; in words, which tensor it is.
pub fn decode(config: &ModelConfig, bytes: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let tensors =
        SafeTensors::deserialize(bytes).map_err(|error| format!("no weights: {error}"))?;
    let each = specs(config);
    let read = each.iter().map(|spec| {
        let tensor = tensors.tensor(&spec.name);
        let tensor = tensor.map_err(|error| format!("{}: {error}", spec.name))?;
        numbers(spec, &tensor)
    });
    read.collect()
}

/// The numbers of one tensor.
pub(crate) fn numbers(spec: &Spec, tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    if tensor.shape() != spec.shape {
        let (name, got, expected) = (&spec.name, tensor.shape(), &spec.shape);
        return Err(format!("{name} is {got:?}; config.json says {expected:?}"));
    }
    let fours = tensor.data().as_chunks::<4>().0.iter();
    let twos = tensor.data().as_chunks::<2>().0.iter();
    match tensor.dtype() {
        Dtype::F32 => Ok(fours.map(|four| f32::from_le_bytes(*four)).collect()),
        Dtype::BF16 => Ok(twos.map(|two| bf16::from_le_bytes(*two).to_f32()).collect()),
        Dtype::F16 => Ok(twos.map(|two| f16::from_le_bytes(*two).to_f32()).collect()),
        other => Err(format!(
            "{} is {other:?}; expected F32, F16 or BF16",
            spec.name
        )),
    }
}
