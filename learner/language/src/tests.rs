//! The kernels against the tensor library's operations, values and gradients; the cache against whole sequences; the
//! update against finite differences.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Completion;
use crate::config::{Family, ModelConfig};
use crate::kernels::tokens::Rows;
use crate::model::{Model, Tokens};
use crate::operation::{
    Gate, Logits, Rotation, Shape, attention, composed_attention, composed_gated,
    composed_rms_norm, composed_token_loss, gated, measure_tokens, rms_norm, token_loss,
};
use crate::parameters::Parameters;
use crate::update::{Group, Label, Labelled, LossType, Objective, Trainer};
use crate::{Policy, Sampling};

fn config(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        vocab_size: 23,
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        query_pre_attn_scalar: 6.0,
        rope_theta: 1e4,
        rope_local_base_freq: 1e3,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 64,
        sliding_window: (family == Family::Gemma3).then_some(3),
        sliding_window_pattern: 2,
        tie_word_embeddings: family == Family::Gemma3,
        eos_token_id: vec![1],
    }
}

/// Larger weights than a fresh model's, so that nothing is nearly linear.
fn parameters(config: &ModelConfig, seed: u64) -> Parameters {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let fresh = Parameters::new(config, &mut rng, &Device::flex());
    let values = fresh.values().map(|values| {
        let moved = values
            .iter()
            .map(|x| 1.3 * x + 0.2 * (rng.random::<f32>() - 0.5));
        moved.collect()
    });
    let values = values.collect();
    Parameters::from_values(config, values, &Device::flex())
}

fn random(rng: &mut impl Rng, shape: [usize; 2]) -> Tensor<2> {
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| 2.0 * rng.random::<f32>() - 1.0)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn host<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().without_autodiff().into_data();
    data.try_into_vec().expect("f32")
}

fn assert_close(left: &[f32], right: &[f32], tolerance: f32, what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    for (i, (a, b)) in left.iter().zip(right).enumerate() {
        let bound = tolerance * (1.0 + b.abs());
        assert!((a - b).abs() <= bound, "{what}, number {i}: {a} and {b}");
    }
}

/// A function of matrices both ways: values and gradients of a weighted sum.
fn assert_alike(
    inputs: &[Tensor<2>],
    fused: impl Fn(&[Tensor<2>]) -> Tensor<2>,
    composed: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) {
    let mut results = [&fused as &dyn Fn(&[Tensor<2>]) -> Tensor<2>, &composed].map(|function| {
        let leaves: Vec<_> = inputs
            .iter()
            .map(|input| input.clone().autodiff().require_grad())
            .collect();
        let output = function(&leaves);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let weights = random(&mut rng, output.dims());
        let gradients = (output.clone() * weights).sum().backward();
        let of = |leaf: &Tensor<2>| host(&leaf.grad(&gradients).expect("it depends on each"));
        let mut all = vec![host(&output)];
        all.extend(leaves.iter().map(of));
        all
    });
    let [fused, composed] = &mut results;
    for (i, (fused, composed)) in fused.iter().zip(composed).enumerate() {
        assert_close(fused, composed, 2e-5, &format!("result {i}"));
    }
}

#[test]
fn normalisation_and_gates_are_those_of_the_tensor_library() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // More rows and numbers than a task has.
    let [x, y] = [(); 2].map(|()| random(&mut rng, [150, 130]));
    let gain = random(&mut rng, [1, 130]);
    assert_alike(
        &[x.clone(), gain],
        |inputs| rms_norm(inputs[0].clone(), &inputs[1].clone().reshape([130]), 1e-5),
        |inputs| composed_rms_norm(inputs[0].clone(), &inputs[1].clone().reshape([130]), 1e-5),
    );
    for gate in [Gate::Silu, Gate::GeluTanh] {
        assert_alike(
            &[x.clone() * 4.0, y.clone()],
            |inputs| gated(gate, inputs[0].clone(), inputs[1].clone()),
            |inputs| composed_gated(gate, inputs[0].clone(), inputs[1].clone()),
        );
    }
}

#[test]
fn attention_is_that_of_the_tensor_library() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for window in [None, Some(4)] {
        let shape = Shape {
            length: 11,
            heads: 4,
            kv_heads: 2,
            head_size: 6,
            scale: 0.7,
            window,
        };
        let config = config(Family::Llama);
        let angles = config.angles(11, false);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [11, 3]), &Device::flex())
        };
        let rotation = Rotation {
            cosines: table(f64::cos),
            sines: table(f64::sin),
        };
        let inputs = [24, 12, 12].map(|columns| random(&mut rng, [3 * 11, columns]) * 2.0);
        let three = |inputs: &[Tensor<2>]| [0, 1, 2].map(|i| inputs[i].clone());
        assert_alike(
            &inputs,
            |inputs| attention(shape, three(inputs), &rotation),
            |inputs| composed_attention(shape, three(inputs), &rotation),
        );
    }
}

/// Equations 10 and 20: the loss and its gradients, over more rows and tokens than a task has.
#[test]
fn the_tokens_loss_is_that_of_the_tensor_library() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (rows, vocabulary) = (140, 2500);
    let policy = [rows, vocabulary].map(|count| random(&mut rng, [count, 8]));
    let other = [rows, vocabulary].map(|count| random(&mut rng, [count, 8]));
    let reference = Logits {
        hidden: other[0].clone(),
        matrix: other[1].clone(),
    };
    let targets: Vec<u32> = (0..rows).map(|_| rng.random_range(0..2500)).collect();
    let weights: Vec<f32> = (0..rows).map(|_| rng.random::<f32>() - 0.5).collect();
    let kl_weights: Vec<f32> = (0..rows).map(|_| rng.random()).collect();
    for reference in [None, Some(&reference)] {
        let zeros = vec![0.0; rows];
        let asked = Rows {
            targets: &targets,
            weights: &weights,
            kl_weights: if reference.is_some() {
                &kl_weights
            } else {
                &zeros
            },
        };
        let logits = |inputs: &[Tensor<2>]| Logits {
            hidden: inputs[0].clone(),
            matrix: inputs[1].clone(),
        };
        assert_alike(
            &policy,
            |inputs| token_loss(logits(inputs), reference, asked).0.unsqueeze() * 1.5,
            |inputs| {
                composed_token_loss(&logits(inputs), reference, asked)
                    .0
                    .unsqueeze()
                    * 1.5
            },
        );
        let measured = measure_tokens(&logits(&policy), reference, &targets);
        let (_, expected) = composed_token_loss(&logits(&policy), reference, asked);
        for (got, expected) in [
            (&measured.log_probabilities, &expected.log_probabilities),
            (&measured.kl, &expected.kl),
            (&measured.entropies, &expected.entropies),
        ] {
            assert_close(got, expected, 1e-4, "of each row");
        }
    }
}

/// Positions that come one by one over a cache, after padding on the left, have the logits of the whole sequence.
#[test]
fn the_cache_gives_what_whole_sequences_give() {
    for family in [Family::Llama, Family::Gemma3] {
        let config = config(family);
        let parameters = parameters(&config, 4);
        let model = Model::new(&config, 16, &Device::flex());
        let policy = Policy::new(&config, parameters.clone(), 16, &Device::flex());
        let texts: [&[u32]; 2] = [&[2, 3, 4, 5, 6, 7, 8], &[9, 10, 11, 12, 13]];
        // The first three of one text and the first of the other at once, the others one by one.
        let mut cache = model.cache(vec![0, 2], 7);
        let mut ids = vec![2, 3, 4, 0, 0, 9];
        for step in 0..5 {
            let length = ids.len() / 2;
            let hidden = model.hidden(&parameters, &Tokens { ids, length }, Some(&mut cache));
            let last = [length - 1, 2 * length - 1];
            let logits = model.logits(&parameters, hidden, Some(&last));
            let got = host(&logits.hidden.matmul(logits.matrix.transpose()));
            for (row, (text, seen)) in texts.iter().zip([3 + step, 1 + step]).enumerate() {
                let whole = policy.logits(&text[..seen]).unwrap();
                let expected = &whole[(seen - 1) * 23..];
                let got = &got[row * 23..][..23];
                assert_close(
                    got,
                    expected,
                    1e-4,
                    &format!("{family:?}, step {step}, text {row}"),
                );
            }
            if step == 4 {
                break;
            }
            ids = vec![texts[0][3 + step], texts[1][1 + step]];
        }
    }
}

fn labelled(prompt: &[u32], completion: &[u32], label: Label) -> Labelled {
    Labelled {
        prompt: prompt.to_vec(),
        completion: completion.to_vec(),
        label,
    }
}

/// With one step of plain descent in place of Adam's the change of the loss is the gradient's square: here the
/// gradient's norm itself is held to differences of the loss along it.
#[test]
fn a_step_goes_down_the_objective_and_its_gradient_is_that_of_differences() {
    for family in [Family::Llama, Family::Gemma3] {
        let config = config(family);
        let batch = [
            labelled(&[2, 3], &[4, 5, 1], Label::Accepted),
            labelled(&[2, 3], &[6, 7, 8, 9], Label::Rejected),
            labelled(&[10], &[11], Label::None),
        ];
        let start = parameters(&config, 6);
        let reference = parameters(&config, 7);
        let update = Objective {
            alpha: 0.3,
            beta: 0.7,
            max_grad_norm: 0.0,
            learning_rate: 1e-3,
            ..Objective::default()
        };
        let trainer = |values: Vec<Vec<f32>>| {
            let parameters = Parameters::from_values(&config, values, &Device::flex());
            let mut trainer =
                Trainer::new(&config, parameters, update.clone(), 16, &Device::flex());
            trainer.reference = reference.clone();
            trainer
        };
        let values: Vec<Vec<f32>> = start.values().collect();
        let first = trainer(values.clone()).step_on_labels(&batch).unwrap();
        // Adam's first moment after one step is a tenth of the gradient.
        let mut after = trainer(values.clone());
        after.step_on_labels(&batch).unwrap();
        let gradient: Vec<Vec<f32>> = after
            .adam
            .first
            .values()
            .map(|moment| moment.iter().map(|m| m / 0.1).collect())
            .collect();
        let norm = |all: &[Vec<f32>]| {
            let squares = all.iter().flatten().map(|x| f64::from(*x).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let length = norm(&gradient);
        assert!((length / f64::from(first.grad_norm) - 1.0).abs() < 1e-3);
        let epsilon = 3e-4;
        let moved = |sign: f64| {
            let values = values.iter().zip(&gradient).map(|(values, gradient)| {
                let step = (sign * epsilon / length) as f32;
                values
                    .iter()
                    .zip(gradient)
                    .map(|(x, g)| x + step * g)
                    .collect()
            });
            let mut trainer = trainer(values.collect());
            f64::from(trainer.step_on_labels(&batch).unwrap().loss)
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * epsilon);
        assert!(
            (slope / length - 1.0).abs() < 0.02,
            "{family:?}: {slope} and {length}"
        );
        let again = after.step_on_labels(&batch).unwrap();
        assert!(again.loss < first.loss, "{} and {}", again.loss, first.loss);
    }
}

/// The paper, section 3: the best of the samples are accepted, the worst rejected; where all are alike there is no
/// preference.
#[test]
fn groups_are_split_by_rewards() {
    let config = config(Family::Llama);
    let group = |rewards: &[f32]| Group {
        prompt: vec![2, 3],
        completions: (0..rewards.len() as u32)
            .map(|i| Completion {
                tokens: vec![4 + i, 1],
                log_probabilities: vec![0.0; 2],
                finished: true,
            })
            .collect(),
        rewards: rewards.to_vec(),
    };
    let step = |rewards: &[f32], loss_type, beta| {
        let update = Objective {
            loss_type,
            beta,
            learning_rate: 1e-4,
            ..Objective::default()
        };
        let parameters = parameters(&config, 8);
        let mut trainer = Trainer::new(&config, parameters, update, 16, &Device::flex());
        let before = trainer.parameters().clone();
        trainer.step_on_groups(&[group(rewards)]).unwrap();
        let ask = |parameters: &Parameters| {
            let policy = Policy::new(&config, parameters.clone(), 16, &Device::flex());
            let texts: Vec<Vec<u32>> = (0..4).map(|i| vec![2, 3, 4 + i, 1]).collect();
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let all = policy.log_probabilities(&texts).unwrap();
            all.iter().map(|of| of[1] + of[2]).collect::<Vec<f32>>()
        };
        let (before, after) = (ask(&before), ask(trainer.parameters()));
        before
            .iter()
            .zip(&after)
            .map(|(a, b)| b - a)
            .collect::<Vec<f32>>()
    };
    for (loss_type, beta) in [
        (LossType::Pmpo, 0.1),
        (LossType::Dpo, 0.5),
        (LossType::Ipo, 0.5),
    ] {
        let change = step(&[0.1, 0.9, -0.5, 0.8], loss_type, beta);
        assert!(
            change[1] > 0.0 && change[1] > change[2],
            "{loss_type:?}: {change:?}"
        );
        assert!(change[2] < 0.0, "{loss_type:?}: {change:?}");
        let change = step(&[0.5; 4], loss_type, beta);
        assert!(
            change.iter().all(|change| change.abs() < 1e-5),
            "{loss_type:?}: {change:?}"
        );
    }
}

/// A run that is stopped and goes on takes the same steps, bit for bit.
#[test]
fn a_restored_trainer_takes_the_same_steps() {
    let config = config(Family::Llama);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for train_last_layers in [0, 1] {
        let update = Objective {
            ref_model_sync_steps: 2,
            train_last_layers,
            learning_rate: 1e-2,
            ..Objective::default()
        };
        let new = |seed| {
            let parameters = parameters(&config, seed);
            Trainer::new(&config, parameters, update.clone(), 16, &Device::flex())
        };
        let batch = [
            labelled(&[2, 3], &[4, 5, 1], Label::Accepted),
            labelled(&[2, 3], &[6, 7], Label::Rejected),
        ];
        let mut one = new(9);
        for _ in 0..3 {
            one.step_on_labels(&batch).unwrap();
        }
        one.save(&path, "words").unwrap();
        let mut other = new(10);
        assert_eq!(other.restore(&path, &Device::flex()).unwrap(), "words");
        for _ in 0..3 {
            assert_eq!(
                one.step_on_labels(&batch).unwrap(),
                other.step_on_labels(&batch).unwrap()
            );
        }
        let values = |trainer: &Trainer| trainer.parameters().values().collect::<Vec<_>>();
        assert_eq!(values(&one), values(&other));
        if train_last_layers == 1 {
            assert_eq!(values(&one)[0], values(&new(9))[0], "the embedding stays");
        }
        let broken = folder.path().join("broken.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
        let before = values(&other);
        assert!(other.restore(&broken, &Device::flex()).is_err());
        assert_eq!(values(&other), before, "a refused file changes nothing");
    }
}

/// Tokens are drawn by their probabilities; a text ends where its end is drawn; the noted log-probabilities are the
/// model's.
#[test]
fn completions_are_drawn_from_the_model() {
    let config = config(Family::Llama);
    let parameters = parameters(&config, 11);
    let policy = Policy::new(&config, parameters, 24, &Device::flex());
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let sampling = Sampling {
        max_completion_length: 1,
        ..Sampling::default()
    };
    let prompts = vec![&[2_u32, 3, 4][..]; 4000];
    let drawn = policy.complete(&prompts, &sampling, &mut rng).unwrap();
    let logits = policy.logits(prompts[0]).unwrap();
    let last = &logits[2 * 23..];
    let total: f32 = last.iter().map(|x| x.exp()).sum();
    for token in 0..23_u32 {
        let expected = last[token as usize].exp() / total;
        let count = drawn.iter().filter(|one| one.tokens == [token]).count();
        let bound = 5.0 * (expected * (1.0 - expected) / 4000.0).sqrt() + 1e-3;
        let share = count as f32 / 4000.0;
        assert!(
            (share - expected).abs() < bound,
            "{token}: {share} and {expected}"
        );
    }
    let sampling = Sampling {
        max_completion_length: 12,
        top_p: 0.8,
        temperature: 1.3,
    };
    let prompts: Vec<&[u32]> = vec![&[2, 3, 4], &[5], &[6, 7]];
    for (prompt, one) in prompts
        .iter()
        .zip(policy.complete(&prompts, &sampling, &mut rng).unwrap())
    {
        assert_eq!(one.finished, one.tokens.last() == Some(&1));
        assert!(one.tokens.len() == 12 || one.finished);
        assert!(!one.tokens[..one.tokens.len() - 1].contains(&1));
        let text: Vec<u32> = prompt.iter().chain(&one.tokens).copied().collect();
        let expected = policy.log_probabilities(&[&text]).unwrap();
        let expected = &expected[0][prompt.len() - 1..];
        assert_close(&one.log_probabilities, expected, 1e-3, "log-probabilities");
    }
    let refused = policy
        .complete(&[&[2; 20]], &sampling, &mut rng)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a prompt has 20 tokens; expected 1 to 12, which leaves 12 to complete it"
    );
}
