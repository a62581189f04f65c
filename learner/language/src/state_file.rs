//! A training's state as a file: all that the next step depends on but its data, so that a run goes on as if it had
//! never stopped.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};

use crate::parameters::{Adam, Parameters, specs};
use crate::update::Trainer;
use crate::{Checkpoint, LanguageError, ModelConfig};

impl Trainer {
    /// Writes the policy, its reference and the optimiser's moments, with words of the caller's beside them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, words: &str) -> Result<(), LanguageError> {
        let specs = specs(self.model.config());
        let sets = [
            ("policy", &self.parameters),
            ("reference", &self.reference),
            ("first", &self.adam.first),
            ("second", &self.adam.second),
        ];
        let mut all = Vec::new();
        for (set, parameters) in sets {
            for (spec, values) in specs.iter().zip(parameters.values()) {
                all.push((format!("{set}.{}", spec.name), values));
            }
        }
        let views = all.iter().map(|(name, values)| {
            let view =
                TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values));
            (name.as_str(), view.expect("as long as its shape says"))
        });
        let metadata = HashMap::from([
            ("step".to_owned(), self.step.to_string()),
            ("adam_steps".to_owned(), self.adam.steps.to_string()),
            ("words".to_owned(), words.to_owned()),
        ]);
        let views: Vec<_> = views.collect();
        serialize_to_file(views, Some(metadata), path).map_err(|error| broken(path, error))
    }

    /// Goes on from such a file; answers the caller's words.
    ///
    /// # Errors
    /// The file cannot be read, or is another model's.
    pub fn restore(&mut self, path: &Path, device: &Device) -> Result<String, LanguageError> {
        let file = StateFile::read(path)?;
        let (step, adam_steps) = (file.number("step")?, file.number("adam_steps")?);
        let words = file.word("words")?;
        let config = self.model.config().clone();
        let everything = vec![true; self.trained.len()];
        let parameters = |name| {
            let values = file.set(name, &config, &everything)?;
            Ok::<_, LanguageError>(Parameters::from_values(&config, values, device))
        };
        let (policy, reference) = (parameters("policy")?, parameters("reference")?);
        let moments = |name| {
            let values = file.set(name, &config, &self.trained)?;
            let parameters = Parameters::from_state(&config, values, &self.trained, device);
            Ok::<_, LanguageError>(parameters)
        };
        let (first, second) = (moments("first")?, moments("second")?);
        self.parameters = policy;
        self.reference = reference;
        self.adam = Adam {
            first,
            second,
            steps: adam_steps,
        };
        self.step = step;
        Ok(words)
    }
}

impl Checkpoint {
    /// The same model with the policy of a training's state.
    ///
    /// # Errors
    /// The file cannot be read, or is another model's.
    pub fn with_state(self, path: &Path) -> Result<Self, LanguageError> {
        let everything = vec![true; self.values.len()];
        let values = StateFile::read(path)?.set("policy", &self.config, &everything)?;
        Ok(Self { values, ..self })
    }
}

/// A state's file in memory.
struct StateFile<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl<'a> StateFile<'a> {
    fn read(path: &'a Path) -> Result<Self, LanguageError> {
        let bytes = std::fs::read(path).map_err(|error| LanguageError::Io {
            path: path.to_owned(),
            error,
        })?;
        // All of it, so that a file that was cut is found out here.
        SafeTensors::deserialize(&bytes).map_err(|error| broken(path, error))?;
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| broken(path, error))?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Ok(Self {
            path,
            bytes,
            metadata,
        })
    }

    fn word(&self, key: &str) -> Result<String, LanguageError> {
        let word = self.metadata.get(key).cloned();
        word.ok_or_else(|| {
            let why = format!("it has no {key}; expected a training's state");
            broken(self.path, why)
        })
    }

    fn number(&self, key: &str) -> Result<u64, LanguageError> {
        let word = self.word(key)?;
        let number = word.parse();
        number.map_err(|_| {
            let why = format!("its {key} is {word:?}; expected a number");
            broken(self.path, why)
        })
    }

    /// The numbers of a set of tensors; one number where there is no `whole` tensor.
    fn set(
        &self,
        set: &str,
        config: &ModelConfig,
        whole: &[bool],
    ) -> Result<Vec<Vec<f32>>, LanguageError> {
        let wrong = |why: String| broken(self.path, why);
        let tensors =
            SafeTensors::deserialize(&self.bytes).map_err(|error| wrong(error.to_string()))?;
        let specs = specs(config);
        let named = specs.iter().zip(whole);
        named
            .map(|(spec, whole)| {
                let name = format!("{set}.{}", spec.name);
                let tensor = tensors
                    .tensor(&name)
                    .map_err(|error| wrong(error.to_string()))?;
                let expected = if *whole { spec.elements() } else { 1 };
                if tensor.dtype() != Dtype::F32 || tensor.shape() != [expected] {
                    let (got, dtype) = (tensor.shape(), tensor.dtype());
                    let why = format!("{name} is {dtype:?} {got:?}; expected F32 [{expected}]");
                    return Err(wrong(why));
                }
                let fours = tensor.data().as_chunks::<4>().0.iter();
                Ok(fours.map(|four| f32::from_le_bytes(*four)).collect())
            })
            .collect()
    }
}

fn broken(path: &Path, why: impl ToString) -> LanguageError {
    LanguageError::File {
        path: path.to_owned(),
        why: why.to_string(),
    }
}
