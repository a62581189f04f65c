//! A model's tensors by name and in the order of their use; and the reading of them in that order.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use pmpo_kernels::adam::AdamFactors;
use pmpo_kernels::fused::adam_step;
use rand::Rng;
use rand_distr::{Distribution, Normal};

use crate::config::{Family, ModelConfig};

/// What a tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name in Hugging Face's checkpoints.
    pub name: String,
    /// One axis, or `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// The layer it belongs to; `None` for the embedding, the last normalisation and the head.
    pub layer: Option<usize>,
}

impl Spec {
    /// Numbers in it.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The tensors of a model, in the order of their use.
pub fn specs(config: &ModelConfig) -> Vec<Spec> {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let gemma = config.family == Family::Gemma3;
    let top = |name: &str, shape: &[usize]| Spec {
        name: name.to_owned(),
        shape: shape.to_vec(),
        layer: None,
    };
    let mut all = vec![top("model.embed_tokens.weight", &[config.vocab_size, d])];
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| {
            all.push(Spec {
                name: format!("model.layers.{layer}.{name}.weight"),
                shape: shape.to_vec(),
                layer: Some(layer),
            });
        };
        add("input_layernorm", &[d]);
        add("self_attn.q_proj", &[queries, d]);
        add("self_attn.k_proj", &[keys, d]);
        add("self_attn.v_proj", &[keys, d]);
        if gemma {
            add("self_attn.q_norm", &[config.head_dim]);
            add("self_attn.k_norm", &[config.head_dim]);
        }
        add("self_attn.o_proj", &[d, queries]);
        add("post_attention_layernorm", &[d]);
        if gemma {
            add("pre_feedforward_layernorm", &[d]);
        }
        add("mlp.gate_proj", &[f, d]);
        add("mlp.up_proj", &[f, d]);
        add("mlp.down_proj", &[d, f]);
        if gemma {
            add("post_feedforward_layernorm", &[d]);
        }
    }
    all.push(top("model.norm.weight", &[d]));
    if !config.tie_word_embeddings {
        all.push(top("lm_head.weight", &[config.vocab_size, d]));
    }
    all
}

/// Which tensors are trained where the last so many layers are; 0: all.
pub(crate) fn trained(config: &ModelConfig, last_layers: usize) -> Vec<bool> {
    let from = match last_layers {
        0 => None,
        last => Some(config.num_hidden_layers.saturating_sub(last)),
    };
    let is_trained = |spec: &Spec| match (from, spec.layer) {
        (None, _) => true,
        (Some(from), Some(layer)) => layer >= from,
        // The embedding, which makes logits too, stays as it is; so does the last normalisation.
        (Some(_), None) => false,
    };
    specs(config).iter().map(is_trained).collect()
}

/// One tensor, of one or two axes.
#[derive(Clone, Debug)]
pub(crate) enum Parameter {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

impl Parameter {
    fn new(values: Vec<f32>, shape: &[usize], device: &Device) -> Self {
        match *shape {
            [size] => Self::Vector(Tensor::from_data(TensorData::new(values, [size]), device)),
            [outputs, inputs] => {
                let data = TensorData::new(values, [outputs, inputs]);
                Self::Matrix(Tensor::from_data(data, device))
            }
            _ => unreachable!("tensors of a model have one or two axes"),
        }
    }

    fn tracked(&self) -> Self {
        match self.clone() {
            Self::Vector(tensor) => Self::Vector(tensor.autodiff().require_grad()),
            Self::Matrix(tensor) => Self::Matrix(tensor.autodiff().require_grad()),
        }
    }

    fn zeros_like(&self) -> Self {
        match self {
            Self::Vector(tensor) => Self::Vector(tensor.zeros_like()),
            Self::Matrix(tensor) => Self::Matrix(tensor.zeros_like()),
        }
    }

    fn square_sum(&self) -> Tensor<1> {
        match self {
            Self::Vector(tensor) => tensor.clone().square().sum(),
            Self::Matrix(tensor) => tensor.clone().square().sum(),
        }
    }

    fn gradient(&self, gradients: &mut Gradients) -> Option<Self> {
        match self {
            Self::Vector(tensor) => tensor.grad_remove(gradients).map(Self::Vector),
            Self::Matrix(tensor) => tensor.grad_remove(gradients).map(Self::Matrix),
        }
    }

    fn times(self, factor: f32) -> Self {
        match self {
            Self::Vector(tensor) => Self::Vector(tensor * factor),
            Self::Matrix(tensor) => Self::Matrix(tensor * factor),
        }
    }

    /// The values, row after row.
    fn to_vec(&self) -> Vec<f32> {
        let data = match self {
            Self::Vector(tensor) => tensor.to_data(),
            Self::Matrix(tensor) => tensor.to_data(),
        };
        data.try_into_vec().expect("parameters are f32")
    }
}

/// The tensors of a model.
#[derive(Clone, Debug)]
pub struct Parameters {
    tensors: Vec<Parameter>,
}

impl Parameters {
    /// Fresh ones: normal with a variance of one over the inputs (LeCun et al. 1998), drawn on the host so that a seed
    /// gives the same model everywhere; normalisations do nothing.
    pub fn new(config: &ModelConfig, rng: &mut impl Rng, device: &Device) -> Self {
        let identity = match config.family {
            Family::Llama => 1.0,
            Family::Gemma3 => 0.0,
        };
        let draw = |spec: &Spec| match spec.shape[..] {
            [_, inputs] => {
                let normal = Normal::new(0.0, (inputs as f32).sqrt().recip());
                let normal = normal.expect("a standard deviation");
                let count = spec.elements();
                normal.sample_iter(&mut *rng).take(count).collect()
            }
            _ => vec![identity; spec.elements()],
        };
        let values: Vec<_> = specs(config).iter().map(draw).collect();
        Self::from_values(config, values, device)
    }

    /// Those with these values, in the order of [`specs`].
    ///
    /// # Panics
    /// If there are not as many numbers as that says.
    pub fn from_values(config: &ModelConfig, values: Vec<Vec<f32>>, device: &Device) -> Self {
        let specs = specs(config);
        assert_eq!(specs.len(), values.len(), "values for each tensor");
        let tensors = specs.iter().zip(values);
        Self {
            tensors: tensors
                .map(|(spec, values)| Parameter::new(values, &spec.shape, device))
                .collect(),
        }
    }

    /// Tensors that are no model's, with these values and shapes.
    pub(crate) fn of_shapes<'a>(
        tensors: impl Iterator<Item = (Vec<f32>, &'a [usize])>,
        device: &Device,
    ) -> Self {
        Self {
            tensors: tensors
                .map(|(values, shape)| Parameter::new(values, shape, device))
                .collect(),
        }
    }

    /// An optimiser's moments with these values: as [`Self::from_values`], but a number for what is not trained.
    pub(crate) fn from_state(
        config: &ModelConfig,
        values: Vec<Vec<f32>>,
        trained: &[bool],
        device: &Device,
    ) -> Self {
        let tensors = specs(config).into_iter().zip(values).zip(trained);
        Self {
            tensors: tensors
                .map(|((spec, values), trained)| match trained {
                    true => Parameter::new(values, &spec.shape, device),
                    false => Parameter::new(values, &[1], &Device::flex()),
                })
                .collect(),
        }
    }

    /// The values of each tensor, in the order of [`specs`].
    pub fn values(&self) -> impl Iterator<Item = Vec<f32>> {
        self.tensors.iter().map(Parameter::to_vec)
    }

    /// Leaves of a graph, where `trained` says so; the others stay constants.
    pub(crate) fn tracked(&self, trained: &[bool]) -> Self {
        let tensors = self.tensors.iter().zip(trained);
        Self {
            tensors: tensors
                .map(|(parameter, trained)| match trained {
                    true => parameter.tracked(),
                    false => parameter.clone(),
                })
                .collect(),
        }
    }

    /// Takes the tensors in the order of their use.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader(self.tensors.iter())
    }

    /// What makes logits of hidden states.
    pub(crate) fn head(&self, config: &ModelConfig) -> &Tensor<2> {
        let place = match config.tie_word_embeddings {
            true => self.tensors.first(),
            false => self.tensors.last(),
        };
        match place {
            Some(Parameter::Matrix(tensor)) => tensor,
            _ => unreachable!("a model has an embedding, and a head where that is not tied"),
        }
    }
}

/// Takes tensors in the order of [`specs`].
pub(crate) struct Reader<'a>(std::slice::Iter<'a, Parameter>);

impl<'a> Reader<'a> {
    pub(crate) fn vector(&mut self) -> &'a Tensor<1> {
        match self.0.next() {
            Some(Parameter::Vector(tensor)) => tensor,
            _ => unreachable!("the model takes its tensors in the order of their specification"),
        }
    }

    pub(crate) fn matrix(&mut self) -> &'a Tensor<2> {
        match self.0.next() {
            Some(Parameter::Matrix(tensor)) => tensor,
            _ => unreachable!("the model takes its tensors in the order of their specification"),
        }
    }
}

/// Adam's state (Kingma and Ba 2015) for the tensors that are trained.
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    pub(crate) first: Parameters,
    pub(crate) second: Parameters,
    pub(crate) steps: u64,
}

/// What a step of the optimiser needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamSettings {
    pub(crate) learning_rate: f64,
    pub(crate) betas: [f64; 2],
    pub(crate) weight_decay: f64,
    /// 0 leaves gradients as they are.
    pub(crate) max_grad_norm: f64,
}

const EPSILON: f64 = 1e-8;

impl Adam {
    /// No steps yet. Tensors that are not trained have a number for a state.
    pub(crate) fn new(parameters: &Parameters, trained: &[bool]) -> Self {
        let zeros = parameters.tensors.iter().zip(trained);
        let zeros = zeros.map(|(parameter, trained)| match trained {
            true => parameter.zeros_like(),
            false => Parameter::Vector(Tensor::zeros([1], &Device::flex())),
        });
        let zeros = Parameters {
            tensors: zeros.collect(),
        };
        Self {
            first: zeros.clone(),
            second: zeros,
            steps: 0,
        }
    }

    /// Moves `parameters` down the gradients of `leaves`; answers the gradients' norm before it is shortened.
    /// A norm that is not finite moves nothing.
    pub(crate) fn step(
        &mut self,
        parameters: &mut Parameters,
        leaves: &Parameters,
        gradients: &mut Gradients,
        settings: AdamSettings,
    ) -> f32 {
        let gradients: Vec<Option<Parameter>> = leaves
            .tensors
            .iter()
            .map(|leaf| leaf.gradient(gradients))
            .collect();
        let squares = gradients.iter().flatten().map(Parameter::square_sum);
        let total: f32 = squares.map(|sum| sum.into_scalar::<f32>()).sum();
        let norm = total.sqrt();
        if !norm.is_finite() {
            return norm;
        }
        self.steps += 1;
        let most = settings.max_grad_norm as f32;
        let factor = match most > 0.0 && norm > most {
            true => most / norm,
            false => 1.0,
        };
        let factors = settings.factors(self.steps);
        let moments = self.first.tensors.iter_mut().zip(&mut self.second.tensors);
        for ((parameter, gradient), (first, second)) in
            parameters.tensors.iter_mut().zip(gradients).zip(moments)
        {
            if let Some(gradient) = gradient {
                let gradient = gradient.times(factor);
                move_one([parameter, first, second], gradient, factors);
            }
        }
        norm
    }
}

impl AdamSettings {
    fn factors(&self, steps: u64) -> AdamFactors {
        let steps = i32::try_from(steps).unwrap_or(i32::MAX);
        let [beta_1, beta_2] = self.betas;
        AdamFactors {
            beta_1,
            beta_2,
            epsilon: EPSILON,
            rate: self.learning_rate / (1.0 - beta_1.powi(steps)),
            root: (1.0 - beta_2.powi(steps)).sqrt(),
            decay: self.learning_rate * self.weight_decay,
        }
    }
}

fn move_one(state: [&mut Parameter; 3], gradient: Parameter, factors: AdamFactors) {
    // Taken out first, so that nobody else holds the storage that is moved in place.
    let nothing = || Parameter::Vector(Tensor::zeros([1], &Device::flex()));
    let [value, first, second] = state;
    let taken =
        [&mut *value, &mut *first, &mut *second].map(|held| std::mem::replace(held, nothing()));
    match (taken, gradient) {
        (
            [
                Parameter::Vector(v),
                Parameter::Vector(m),
                Parameter::Vector(s),
            ],
            Parameter::Vector(g),
        ) => {
            // What scales and shifts is not drawn to zero.
            let factors = AdamFactors {
                decay: 0.0,
                ..factors
            };
            let [v, m, s] = adam_step([v, m, s, g], factors);
            (*value, *first, *second) = (
                Parameter::Vector(v),
                Parameter::Vector(m),
                Parameter::Vector(s),
            );
        }
        (
            [
                Parameter::Matrix(v),
                Parameter::Matrix(m),
                Parameter::Matrix(s),
            ],
            Parameter::Matrix(g),
        ) => {
            let [v, m, s] = adam_step([v, m, s, g], factors);
            (*value, *first, *second) = (
                Parameter::Matrix(v),
                Parameter::Matrix(m),
                Parameter::Matrix(s),
            );
        }
        _ => unreachable!("a parameter, its moments and its gradient have the same axes"),
    }
}
