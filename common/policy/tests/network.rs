//! The network against a reference written straight from its definition, in `f64`.

use pmpo_policy::{
    Activation, GaussianHead, HeadConfig, NamedTensor, NetworkConfig, PolicyNetwork, snapshot,
    torso::LAYER_NORM_EPSILON,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

fn random_tensors(
    network: &NetworkConfig,
    (observation_size, action_size): (usize, usize),
    rng: &mut ChaCha8Rng,
) -> Vec<NamedTensor> {
    snapshot::expected_tensors(network, observation_size, action_size)
        .into_iter()
        .map(|(name, shape)| {
            let scale = 1.0 / (shape[0] as f32).sqrt();
            let values = (0..shape.iter().product())
                .map(|_| scale * rng.sample::<f32, _>(StandardNormal))
                .collect();
            NamedTensor {
                name,
                shape,
                values,
            }
        })
        .collect()
}

fn linear(input: &[f64], name: &str, tensors: &[NamedTensor]) -> Vec<f64> {
    let find = |suffix: &str| {
        let name = format!("{name}.{suffix}");
        &tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .expect("a known tensor")
            .values
    };
    let (weight, bias) = (find("weight"), find("bias"));
    (0..bias.len())
        .map(|k| {
            let products = input
                .iter()
                .enumerate()
                .map(|(i, x)| x * f64::from(weight[i * bias.len() + k]));
            products.sum::<f64>() + f64::from(bias[k])
        })
        .collect()
}

fn reference(
    network: &NetworkConfig,
    tensors: &[NamedTensor],
    observation: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let mut x: Vec<f64> = observation.iter().map(|&x| x.into()).collect();
    for i in 0..network.hidden_sizes.len() {
        x = linear(&x, &format!("torso.{i}"), tensors);
        if i == 0 {
            let n = x.len() as f64;
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let find = |name: &str| &tensors.iter().find(|t| t.name == name).unwrap().values;
            let (gamma, beta) = (find("torso.norm.gamma"), find("torso.norm.beta"));
            for (j, x) in x.iter_mut().enumerate() {
                let unit = (*x - mean) / (variance + LAYER_NORM_EPSILON).sqrt();
                *x = unit * f64::from(gamma[j]) + f64::from(beta[j]);
            }
        }
        for x in &mut x {
            *x = match network.activation {
                Activation::LayerNormRelu => x.max(0.0),
                Activation::LayerNormTanhElu if i == 0 => x.tanh(),
                Activation::LayerNormTanhElu => {
                    if *x > 0.0 {
                        *x
                    } else {
                        x.exp_m1()
                    }
                }
            };
        }
    }
    let HeadConfig::Gaussian(head) = &network.head;
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

#[test]
fn forward_agrees_with_the_definition() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for activation in [Activation::LayerNormTanhElu, Activation::LayerNormRelu] {
        for (hidden_sizes, tanh_mean, sizes) in [
            (vec![256, 256], true, (24, 6)),
            (vec![17], false, (1, 1)),
            (vec![33, 5, 64], true, (67, 21)),
        ] {
            let head = HeadConfig::Gaussian(GaussianHead {
                tanh_mean,
                ..Default::default()
            });
            let config = NetworkConfig {
                hidden_sizes,
                activation,
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
                let output = network.forward(&observation);
                for (got, expected) in output
                    .mean
                    .iter()
                    .zip(&mean)
                    .chain(output.std.iter().zip(&std))
                {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(error < 5e-6, "{config:?}: {got} instead of {expected}");
                }
            }
        }
    }
}

/// A network whose weights are all zero has mean 0 and the configured initial deviation.
fn blank(head: GaussianHead) -> PolicyNetwork {
    let config = NetworkConfig {
        head: HeadConfig::Gaussian(head),
        ..NetworkConfig::default()
    };
    let tensors: Vec<NamedTensor> = snapshot::expected_tensors(&config, 3, 2)
        .into_iter()
        .map(|(name, shape)| {
            let values = vec![0.0; shape.iter().product()];
            NamedTensor {
                name,
                shape,
                values,
            }
        })
        .collect();
    PolicyNetwork::from_snapshot(&snapshot::encode(&config, 3, 2, &tensors).unwrap()).unwrap()
}

#[test]
fn samples_have_the_distribution_of_the_head_and_are_clipped() {
    let mut network = blank(GaussianHead {
        init_std: 0.3,
        ..Default::default()
    });
    let output = network.forward(&[1.0, -2.0, 3.0]);
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
