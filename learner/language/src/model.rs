//! The transformer: hidden states of whole sequences, and of positions that follow on a cache of keys and values.
//!
//! `B` sequences of `T` positions, `D` hidden numbers, `V` tokens.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::config::{Family, ModelConfig};
use crate::operation::{Gate, Logits, Rotation, Shape, attention, gated, rms_norm};
use crate::parameters::{Parameters, Reader};

/// Sequences of one length, one after the other: `[B, T]`. Shorter ones are padded, on the right where a whole
/// sequence is run, on the left where it is to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    pub(crate) length: usize,
}

/// A model without its tensors: what is done with them.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    config: ModelConfig,
    device: Device,
    /// The rotary angles of layers that see everything, and of those that see a window.
    rotations: [Rotation; 2],
    positions: usize,
}

/// Keys and values of the positions so far, of each layer, `[B, G, most, E]`.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<Option<[Tensor<4>; 2]>>,
    /// Positions so far.
    length: usize,
    most: usize,
    /// Where each sequence begins, after its padding.
    begins: Vec<usize>,
}

impl Model {
    /// For sequences of at most so many positions.
    pub(crate) fn new(config: &ModelConfig, positions: usize, device: &Device) -> Self {
        let rotations = [false, true].map(|windowed| {
            let angles = config.angles(positions, windowed);
            let table = |f: fn(f64) -> f64| {
                let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
                let data = TensorData::new(values, [positions, config.head_dim / 2]);
                Tensor::from_data(data, device)
            };
            Rotation {
                cosines: table(f64::cos),
                sines: table(f64::sin),
            }
        });
        Self {
            config: config.clone(),
            device: device.clone(),
            rotations,
            positions,
        }
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Positions of a sequence at most.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// An empty cache for sequences of which each begins at its own position.
    pub(crate) fn cache(&self, begins: Vec<usize>, most: usize) -> Cache {
        let shape = [
            begins.len(),
            self.config.num_key_value_heads,
            most,
            self.config.head_dim,
        ];
        let layer = || {
            Some([
                Tensor::zeros(shape, &self.device),
                Tensor::zeros(shape, &self.device),
            ])
        };
        Cache {
            layers: (0..self.config.num_hidden_layers)
                .map(|_| layer())
                .collect(),
            length: 0,
            most,
            begins,
        }
    }

    /// The last hidden states, `[B T, D]`, normalised: what logits are made of. With a cache the tokens follow what
    /// is in it and are added.
    pub(crate) fn hidden(
        &self,
        parameters: &Parameters,
        tokens: &Tokens,
        mut cache: Option<&mut Cache>,
    ) -> Tensor<2> {
        let config = &self.config;
        let mut read = parameters.reader();
        let ids: Vec<i64> = tokens.ids.iter().map(|&id| i64::from(id)).collect();
        let ids =
            Tensor::<1, Int>::from_data(TensorData::new(ids, [tokens.ids.len()]), &self.device);
        let mut x = read.matrix().clone().select(0, ids);
        if config.family == Family::Gemma3 {
            x = x * (config.hidden_size as f64).sqrt();
        }
        for layer in 0..config.num_hidden_layers {
            x = self.layer(layer, x, tokens.length, &mut read, cache.as_deref_mut());
        }
        if let Some(cache) = cache {
            cache.length += tokens.length;
        }
        self.norm(x, &mut read)
    }

    /// What makes logits of those of `rows` of the hidden states.
    pub(crate) fn logits(
        &self,
        parameters: &Parameters,
        hidden: Tensor<2>,
        rows: Option<&[usize]>,
    ) -> Logits {
        let hidden = match rows {
            Some(rows) => {
                let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
                let count = rows.len();
                let rows =
                    Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &self.device);
                hidden.select(0, rows)
            }
            None => hidden,
        };
        Logits {
            hidden,
            matrix: parameters.head(&self.config).clone(),
        }
    }

    fn layer(
        &self,
        layer: usize,
        x: Tensor<2>,
        length: usize,
        read: &mut Reader<'_>,
        cache: Option<&mut Cache>,
    ) -> Tensor<2> {
        let config = &self.config;
        let gemma = config.family == Family::Gemma3;
        let h = self.norm(x.clone(), read);
        let [mut queries, mut keys, values] =
            std::array::from_fn(|_| linear(h.clone(), read.matrix()));
        if gemma {
            queries = self.head_norm(queries, read);
            keys = self.head_norm(keys, read);
        }
        let shape = self.shape(layer, length);
        let rotation = &self.rotations[usize::from(config.windowed(layer))];
        let attended = match cache {
            None => {
                let rotation = rotation.positions(0, length);
                attention(shape, [queries, keys, values], &rotation)
            }
            Some(cache) => cache.attend(layer, shape, [queries, keys, values], rotation),
        };
        let mut attended = linear(attended, read.matrix());
        if gemma {
            attended = self.norm(attended, read);
        }
        let x = x + attended;
        let h = self.norm(x.clone(), read);
        let gate = linear(h.clone(), read.matrix());
        let up = linear(h, read.matrix());
        let kind = match config.family {
            Family::Llama => Gate::Silu,
            Family::Gemma3 => Gate::GeluTanh,
        };
        let mut out = linear(gated(kind, gate, up), read.matrix());
        if gemma {
            out = self.norm(out, read);
        }
        x + out
    }

    fn shape(&self, layer: usize, length: usize) -> Shape {
        let config = &self.config;
        Shape {
            length,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_size: config.head_dim,
            scale: config.query_pre_attn_scalar.sqrt().recip() as f32,
            window: config.sliding_window.filter(|_| config.windowed(layer)),
        }
    }

    fn norm(&self, x: Tensor<2>, read: &mut Reader<'_>) -> Tensor<2> {
        let weight = read.vector();
        match self.config.family {
            Family::Llama => rms_norm(x, weight, self.config.rms_norm_eps),
            Family::Gemma3 => rms_norm(x, &(weight.clone() + 1.0), self.config.rms_norm_eps),
        }
    }

    /// Normalises each head on its own.
    fn head_norm(&self, x: Tensor<2>, read: &mut Reader<'_>) -> Tensor<2> {
        let [rows, columns] = x.dims();
        let size = self.config.head_dim;
        let x = x.reshape([rows * columns / size, size]);
        self.norm(x, read).reshape([rows, columns])
    }
}

/// `x W^T`.
fn linear(x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    x.matmul(weight.clone().transpose())
}

impl Cache {
    /// Positions that are still free.
    pub(crate) fn left(&self) -> usize {
        self.most - self.length
    }

    /// Adds keys and values of the positions that follow, and attends to all so far.
    fn attend(
        &mut self,
        layer: usize,
        shape: Shape,
        [queries, keys, values]: [Tensor<2>; 3],
        rotation: &Rotation,
    ) -> Tensor<2> {
        let (start, end) = (self.length, self.length + shape.length);
        let rotation = rotation.positions(start, shape.length);
        let queries = rotation.turn(shape.split(queries, shape.heads));
        let new = [
            rotation.turn(shape.split(keys, shape.kv_heads)),
            shape.split(values, shape.kv_heads),
        ];
        // Taken out, so that they are written in place.
        let held = self.layers[layer].take().expect("put back below");
        let mut new = new.into_iter();
        let held = held.map(|all| {
            let [batch, heads, _, size] = all.dims();
            let new = new.next().expect("keys, then values");
            all.slice_assign([0..batch, 0..heads, start..end, 0..size], new)
        });
        let so_far = held.clone().map(|all| all.narrow(2, 0, end));
        let device = queries.device();
        let seen = shape.seen(start, shape.length, end, &self.begins, &device);
        let attended = shape.attend(queries, so_far, seen);
        self.layers[layer] = Some(held);
        attended
    }
}
