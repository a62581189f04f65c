//! The network against a reference written straight from its definition, in `f64`.

use pmpo_kernels::LAYER_NORM_EPSILON;
use pmpo_policy::{
    Activation, CategoricalHead, GaussianHead, HeadConfig, HeadOutput, Layer, NORMALISER_EPSILON,
    NORMALISER_LIMIT, NamedTensor, NetworkConfig, PolicyNetwork, TorsoConfig, snapshot,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

fn random_tensors(
    network: &NetworkConfig,
    (observation_size, action_size): (usize, usize),
    rng: &mut ChaCha8Rng,
) -> Vec<NamedTensor> {
    let specs = network.tensors(observation_size, action_size).unwrap();
    specs
        .iter()
        .map(|spec| {
            let scale = 1.0 / (spec.shape[0] as f32).sqrt();
            let mut tensor = spec.filled(|_| scale * rng.sample::<f32, _>(StandardNormal));
            if spec.name == "normaliser.variance" {
                tensor.values.iter_mut().for_each(|x| *x = x.abs() + 0.1);
            }
            tensor
        })
        .collect()
}

/// The values of a tensor, in `f64`.
fn find(name: &str, tensors: &[NamedTensor]) -> Vec<f64> {
    let tensor = tensors.iter().find(|tensor| tensor.name == name);
    let values = &tensor.unwrap_or_else(|| panic!("no tensor {name}")).values;
    values.iter().map(|&x| x.into()).collect()
}

fn linear(input: &[f64], name: &str, tensors: &[NamedTensor]) -> Vec<f64> {
    let weight = find(&format!("{name}.weight"), tensors);
    let bias = find(&format!("{name}.bias"), tensors);
    (0..bias.len())
        .map(|k| {
            let products = input.iter().enumerate();
            let products = products.map(|(i, x)| x * weight[i * bias.len() + k]);
            products.sum::<f64>() + bias[k]
        })
        .collect()
}

fn layer_norm(input: &[f64], name: &str, tensors: &[NamedTensor]) -> Vec<f64> {
    let n = input.len() as f64;
    let mean = input.iter().sum::<f64>() / n;
    let variance = input.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let gamma = find(&format!("{name}.gamma"), tensors);
    let beta = find(&format!("{name}.beta"), tensors);
    let unit = |x: &f64| (x - mean) / (variance + LAYER_NORM_EPSILON).sqrt();
    let scaled = input.iter().map(unit).zip(gamma).zip(beta);
    scaled
        .map(|((unit, gamma), beta)| unit * gamma + beta)
        .collect()
}

/// A list of layers, as each is defined.
fn run(layers: &[Layer], name: &str, tensors: &[NamedTensor], input: &[f64]) -> Vec<f64> {
    let mut x = input.to_vec();
    for (i, layer) in layers.iter().enumerate() {
        let name = format!("{name}.{i}");
        let each = |f: fn(f64) -> f64, x: &[f64]| x.iter().map(|x| f(*x)).collect();
        x = match layer {
            Layer::Linear(_) => linear(&x, &name, tensors),
            Layer::LayerNorm => layer_norm(&x, &name, tensors),
            Layer::Relu => each(|x| x.max(0.0), &x),
            Layer::Elu => each(|x| if x > 0.0 { x } else { x.exp_m1() }, &x),
            Layer::Tanh => each(f64::tanh, &x),
            Layer::Residual(inner) => {
                let inner = run(inner, &name, tensors, &x);
                x.iter().zip(inner).map(|(x, f)| x + f).collect()
            }
        };
    }
    x
}

fn reference(
    network: &NetworkConfig,
    tensors: &[NamedTensor],
    observation: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let mut x: Vec<f64> = observation.iter().map(|&x| x.into()).collect();
    if network.normalise_observations {
        let mean = find("normaliser.mean", tensors);
        let variance = find("normaliser.variance", tensors);
        let statistics = mean.into_iter().zip(variance);
        for (x, (mean, variance)) in x.iter_mut().zip(statistics) {
            let limit = f64::from(NORMALISER_LIMIT);
            let deviation = (variance + f64::from(NORMALISER_EPSILON)).sqrt();
            *x = ((*x - mean) / deviation).clamp(-limit, limit);
        }
    }
    let x = run(&network.torso.layers(), "torso", tensors, &x);
    let HeadConfig::Gaussian(head) = &network.head else {
        let logits = linear(&x, "head.logits", tensors);
        return (logits, Vec::new());
    };
    let mean = linear(&x, "head.mean", tensors);
    let mean = mean
        .iter()
        .map(|m| if head.tanh_mean { m.tanh() } else { *m })
        .collect();
    let softplus = |x: f64| x.exp().ln_1p();
    let scale = (head.init_std - head.min_std) / softplus(0.0);
    let std = linear(&x, "head.std", tensors);
    (
        mean,
        std.iter()
            .map(|s| head.min_std + scale * softplus(*s))
            .collect(),
    )
}

/// Hidden layers of every kind, residual blocks, and layers of one's own.
fn torsos() -> Vec<TorsoConfig> {
    use Layer::{Elu, LayerNorm, Linear, Relu, Residual, Tanh};
    let torso = |hidden: &[usize], activation, blocks| TorsoConfig {
        activation,
        blocks,
        expansion: 2,
        ..TorsoConfig::hidden(hidden)
    };
    let own = TorsoConfig {
        layers: vec![
            LayerNorm,
            Tanh,
            Linear(9),
            Elu,
            Residual(vec![Residual(vec![Linear(9), LayerNorm, Relu]), Tanh]),
            Relu,
            Linear(5),
        ],
        ..TorsoConfig::default()
    };
    vec![
        torso(&[256, 256], Activation::LayerNormTanhElu, 0),
        torso(&[17], Activation::LayerNormRelu, 0),
        torso(&[33, 5, 64], Activation::LayerNormReluEach, 0),
        torso(&[40], Activation::None, 2),
        torso(&[33, 20], Activation::LayerNormRelu, 1),
        own,
    ]
}

#[test]
fn forward_agrees_with_the_definition() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let variants = [
        (true, false, (24, 6)),
        (false, true, (3, 1)),
        (true, true, (67, 21)),
    ];
    for torso in torsos() {
        for (tanh_mean, normalise_observations, sizes) in variants {
            let head = HeadConfig::Gaussian(GaussianHead {
                tanh_mean,
                ..Default::default()
            });
            let config = NetworkConfig {
                torso: torso.clone(),
                normalise_observations,
                head,
            };
            let tensors = random_tensors(&config, sizes, &mut rng);
            let bytes = snapshot::encode(&config, sizes.0, sizes.1, &tensors).unwrap();
            let mut network = PolicyNetwork::from_snapshot(&bytes).unwrap();
            for _ in 0..20 {
                let observation: Vec<f32> = (0..sizes.0)
                    .map(|_| 3.0 * rng.sample::<f32, _>(StandardNormal))
                    .collect();
                let (mean, std) = reference(&config, &tensors, &observation);
                let HeadOutput::Gaussian(output) = network.forward(&observation) else {
                    panic!("a Gaussian head");
                };
                for (got, expected) in output
                    .mean
                    .iter()
                    .zip(&mean)
                    .chain(output.std.iter().zip(&std))
                {
                    let error = (f64::from(*got) - expected).abs();
                    let allowed = 1e-5 * expected.abs().max(1.0);
                    assert!(error < allowed, "{config:?}: {got} instead of {expected}");
                }
            }
        }
    }
}

/// A network whose weights are all zero has mean 0 and the configured initial deviation.
/// Five at once, then two, as an actor whose vector of environments became shorter.
#[test]
fn a_batch_says_of_each_row_what_is_said_of_it_alone() {
    for torso in torsos() {
        for head in [
            HeadConfig::default(),
            HeadConfig::Categorical(CategoricalHead { bins: 3 }),
        ] {
            let network = NetworkConfig {
                torso: torso.clone(),
                head,
                normalise_observations: true,
            };
            let (observations, actions) = (7, 3);
            let mut rng = ChaCha8Rng::seed_from_u64(11);
            let tensors = random_tensors(&network, (observations, actions), &mut rng);
            let bytes = snapshot::encode(&network, observations, actions, &tensors).unwrap();
            let mut policy = PolicyNetwork::from_snapshot(&bytes).unwrap();
            let mut alone = policy.clone();
            for rows in [5, 2] {
                let batch: Vec<f32> = (0..rows * observations)
                    .map(|_| rng.sample(StandardNormal))
                    .collect();
                let mut outcome = policy.batch(&batch);
                for (row, observation) in batch.chunks_exact(observations).enumerate() {
                    let draw = || ChaCha8Rng::seed_from_u64(row as u64);
                    let mut both = [[0.0; 3]; 2];
                    let of_row = outcome.sample(row, &mut draw(), &mut both[0]);
                    let expected =
                        alone.sample_with_log_prob(observation, &mut draw(), &mut both[1]);
                    assert_eq!(
                        (of_row, both[0]),
                        (expected, both[1]),
                        "{torso:?}, row {row}"
                    );
                    outcome.mode(row, &mut both[0]);
                    alone.mode(observation, &mut both[1]);
                    assert_eq!(both[0], both[1], "{torso:?}, row {row}");
                }
            }
        }
    }
}

fn blank(head: GaussianHead) -> PolicyNetwork {
    let config = NetworkConfig {
        head: HeadConfig::Gaussian(head),
        ..NetworkConfig::default()
    };
    let specs = config.tensors(3, 2).unwrap();
    let tensors: Vec<NamedTensor> = specs.iter().map(|spec| spec.filled(|_| 0.0)).collect();
    PolicyNetwork::from_snapshot(&snapshot::encode(&config, 3, 2, &tensors).unwrap()).unwrap()
}

#[test]
fn samples_have_the_distribution_of_the_head_and_are_clipped() {
    let mut network = blank(GaussianHead {
        init_std: 0.3,
        ..Default::default()
    });
    let HeadOutput::Gaussian(output) = network.forward(&[1.0, -2.0, 3.0]) else {
        panic!("a Gaussian head");
    };
    assert_eq!(output.mean, [0.0; 2]);
    assert!((output.std[0] - 0.3).abs() < 1e-6);

    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut action = [0.0; 2];
    let n = 20_000;
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..n {
        network.sample(&[0.0; 3], &mut rng, &mut action);
        sum += f64::from(action[0]);
        squares += f64::from(action[1]).powi(2);
    }
    // Standard errors: 0.3 / sqrt(n) = 0.002, and 0.3 / sqrt(2n) = 0.0015.
    assert!((sum / n as f64).abs() < 0.01);
    assert!(((squares / n as f64).sqrt() - 0.3).abs() < 0.01);

    let mut wide = blank(GaussianHead {
        init_std: 9.0,
        ..Default::default()
    });
    let mut clipped = 0;
    for _ in 0..100 {
        wide.sample(&[0.0; 3], &mut rng, &mut action);
        assert!(action.iter().all(|a| (-1.0..=1.0).contains(a)));
        clipped += action.iter().filter(|a| a.abs() == 1.0).count();
    }
    assert!(
        clipped > 150,
        "of 200 draws with std 9 about 182 leave [-1, 1]: {clipped}"
    );
    wide.mode(&[0.0; 3], &mut action);
    assert_eq!(action, [0.0; 2]);
}

#[test]
fn the_same_generator_gives_the_same_actions() {
    let mut network = blank(GaussianHead::default());
    let mut draw = |seed| {
        let mut action = [0.0; 2];
        network.sample(&[0.5; 3], &mut ChaCha8Rng::seed_from_u64(seed), &mut action);
        action
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

fn categorical(bins: usize) -> NetworkConfig {
    NetworkConfig {
        torso: TorsoConfig::hidden(&[33, 20]),
        head: HeadConfig::Categorical(CategoricalHead { bins }),
        ..NetworkConfig::default()
    }
}

#[test]
fn a_categorical_head_agrees_with_the_definition() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (config, sizes, bins) = (categorical(7), (5, 3), 7);
    let tensors = random_tensors(&config, sizes, &mut rng);
    let bytes = snapshot::encode(&config, sizes.0, sizes.1, &tensors).unwrap();
    let mut network = PolicyNetwork::from_snapshot(&bytes).unwrap();
    let observation = [0.5, -1.0, 2.0, 0.1, -0.3];
    let (logits, _) = reference(&config, &tensors, &observation);
    let HeadOutput::Categorical(output) = network.forward(&observation) else {
        panic!("a categorical head");
    };
    let got = output.probabilities.to_vec();
    let mut modes = Vec::new();
    for (logits, got) in logits.chunks(bins).zip(got.chunks(bins)) {
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        for (logit, got) in logits.iter().zip(got) {
            let expected = logit.exp() / sum;
            assert!(
                (f64::from(*got) - expected).abs() < 1e-5,
                "{got}, {expected}"
            );
        }
        let best = (0..bins).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        modes.push(2.0 * best.unwrap() as f32 / 6.0 - 1.0);
    }
    let mut action = [0.0; 3];
    network.mode(&observation, &mut action);
    for (action, mode) in action.iter().zip(&modes) {
        assert!((action - mode).abs() < 1e-6, "{action}, {mode}");
    }
}

/// Frequencies of the bins against their probabilities, with Pearson's chi-squared: for 6 degrees of
/// freedom 22.5 is passed once in a thousand seeds. And the log-probability is that of the bins drawn.
#[test]
fn categorical_samples_have_the_head_s_probabilities() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let config = categorical(7);
    let tensors = random_tensors(&config, (2, 1), &mut rng);
    let bytes = snapshot::encode(&config, 2, 1, &tensors).unwrap();
    let mut network = PolicyNetwork::from_snapshot(&bytes).unwrap();
    let (observation, n) = ([0.4, -0.2], 20_000);
    let (mut counts, mut action) = ([0u32; 7], [0.0]);
    let mut log_probs = [0.0; 7];
    for _ in 0..n {
        let log_prob = network.sample_with_log_prob(&observation, &mut rng, &mut action);
        let bin = ((action[0] + 1.0) * 3.0).round() as usize;
        counts[bin] += 1;
        log_probs[bin] = log_prob;
    }
    let HeadOutput::Categorical(output) = network.forward(&observation) else {
        panic!("a categorical head");
    };
    let mut chi_squared = 0.0;
    for ((&count, &p), log_prob) in counts.iter().zip(output.probabilities).zip(log_probs) {
        let expected = f64::from(p) * f64::from(n);
        chi_squared += (f64::from(count) - expected).powi(2) / expected;
        assert!(count == 0 || (log_prob - p.ln()).abs() < 1e-5);
    }
    assert!(chi_squared < 22.5, "{chi_squared}");
}

/// `ln N(a; 0, 0.3)` of the action as drawn, summed over both dimensions.
#[test]
fn a_gaussian_sample_comes_with_its_log_density() {
    let mut network = blank(GaussianHead {
        init_std: 0.3,
        ..Default::default()
    });
    let mut action = [0.0; 2];
    let log_prob =
        network.sample_with_log_prob(&[0.0; 3], &mut ChaCha8Rng::seed_from_u64(5), &mut action);
    let expected: f64 = action
        .iter()
        .map(|&a| {
            let z = f64::from(a) / 0.3;
            -0.5 * z * z - 0.3f64.ln() - 0.5 * std::f64::consts::TAU.ln()
        })
        .sum();
    assert!((f64::from(log_prob) - expected).abs() < 1e-5);
}
