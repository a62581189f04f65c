//! Snapshots: what is written reads back, and what does not fit is refused by name.

use std::collections::HashMap;

use pmpo_policy::{
    GaussianHead, HeadConfig, NamedTensor, NetworkConfig, PolicyNetwork, SnapshotError,
    TorsoConfig, snapshot,
};
use safetensors::tensor::{Dtype, TensorView};

fn config() -> NetworkConfig {
    NetworkConfig {
        torso: TorsoConfig::hidden(&[4, 3]),
        ..NetworkConfig::default()
    }
}

fn tensors() -> Vec<NamedTensor> {
    let specs = config().tensors(2, 1).unwrap();
    specs.iter().map(|spec| spec.filled(|i| i as f32)).collect()
}

/// A file that `encode` would refuse to write.
fn file(tensors: &[NamedTensor], dtype: Dtype, metadata: Option<(&str, &str)>) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&data).map(|(tensor, data)| {
        let view = TensorView::new(dtype, tensor.shape.clone(), data).unwrap();
        (tensor.name.as_str(), view)
    });
    let metadata = metadata.map(|(key, json)| HashMap::from([(key.to_owned(), json.to_owned())]));
    safetensors::serialize(views, metadata).unwrap()
}

const DESCRIPTION: &str =
    r#"{"network":{"torso":{"hidden_sizes":[4,3]}},"observation_size":2,"action_size":1}"#;

fn refusal(bytes: &[u8]) -> String {
    PolicyNetwork::from_snapshot(bytes).unwrap_err().to_string()
}

#[test]
fn names_and_shapes_are_those_the_learner_and_the_actors_agreed_on() {
    let normalising = NetworkConfig {
        normalise_observations: true,
        ..config()
    };
    let specs = normalising.tensors(2, 1).unwrap();
    let trained = specs.iter().filter(|spec| spec.trained).count();
    assert_eq!(trained, specs.len() - 2);
    let listed: Vec<String> = specs
        .into_iter()
        .map(|spec| format!("{} {:?}", spec.name, spec.shape))
        .collect();
    assert_eq!(
        listed,
        [
            "torso.0.weight [2, 4]",
            "torso.0.bias [4]",
            "torso.1.gamma [4]",
            "torso.1.beta [4]",
            "torso.3.weight [4, 3]",
            "torso.3.bias [3]",
            "head.mean.weight [3, 1]",
            "head.mean.bias [1]",
            "head.std.weight [3, 1]",
            "head.std.bias [1]",
            "normaliser.mean [2]",
            "normaliser.variance [2]",
        ]
    );
}

#[test]
fn what_is_written_reads_back_whatever_the_order() {
    let mut shuffled = tensors();
    shuffled.reverse();
    let bytes = snapshot::encode(&config(), 2, 1, &shuffled).unwrap();
    let back = snapshot::decode(&bytes).unwrap();
    assert_eq!(back.network, config());
    assert_eq!((back.observation_size, back.action_size), (2, 1));
    assert_eq!(back.tensors, tensors());
    let network = PolicyNetwork::from_snapshot(&bytes).unwrap();
    assert_eq!((network.observation_size(), network.action_size()), (2, 1));
}

#[test]
fn refuses_damaged_tensors_and_names_them() {
    let metadata = Some(("pmpo.policy", DESCRIPTION));
    assert!(PolicyNetwork::from_snapshot(&file(&tensors(), Dtype::F32, metadata)).is_ok());
    let changed = |change: &dyn Fn(&mut Vec<NamedTensor>)| {
        let mut tensors = tensors();
        change(&mut tensors);
        let written = snapshot::encode(&config(), 2, 1, &tensors);
        assert!(written.is_err(), "encode must refuse what decode refuses");
        refusal(&file(&tensors, Dtype::F32, metadata))
    };
    let cases = [
        (
            changed(&|t| t.truncate(9)),
            "policy snapshot: tensor `head.std.bias`: expected a tensor of this name, got none",
        ),
        (
            changed(&|t| t[1].name = "torso.9.bias".to_owned()),
            "policy snapshot: tensor `torso.9.bias`: expected no tensor of this name, got one",
        ),
        (
            changed(&|t| t[0].shape = vec![4, 2]),
            "policy snapshot: tensor `torso.0.weight`: expected shape [2, 4], got [4, 2]",
        ),
        (
            changed(&|t| t[5].values[2] = f32::NAN),
            "policy snapshot: tensor `torso.3.bias`: expected finite values, got NaN at element 2",
        ),
        (
            changed(&|t| t[9].values[0] = f32::INFINITY),
            "policy snapshot: tensor `head.std.bias`: expected finite values, got inf at element 0",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
    assert_eq!(
        refusal(&file(&tensors(), Dtype::I32, metadata)),
        "policy snapshot: tensor `torso.0.weight`: expected F32, got I32"
    );
}

#[test]
fn refuses_files_that_do_not_describe_a_network() {
    let described =
        |json: &str| refusal(&file(&tensors(), Dtype::F32, Some(("pmpo.policy", json))));
    let bytes = snapshot::encode(&config(), 2, 1, &tensors()).unwrap();
    for end in [0, 7, 8, 100, bytes.len() - 1] {
        let error = PolicyNetwork::from_snapshot(&bytes[..end]).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Container(_)),
            "{end} bytes: {error}"
        );
    }
    for message in [
        refusal(&file(&tensors(), Dtype::F32, None)),
        refusal(&file(&tensors(), Dtype::F32, Some(("other", DESCRIPTION)))),
    ] {
        assert_eq!(message, "policy snapshot: metadata `pmpo.policy`: absent");
    }
    assert!(described("{}").contains("missing field `network`"));
    assert!(described(&DESCRIPTION.replace("hidden_sizes", "hidden")).contains("unknown field"));
    assert_eq!(
        described(&DESCRIPTION.replace("[4,3]", "[]")),
        "policy snapshot: network.torso.hidden_sizes: expected 1 to 16 layers, got 0"
    );
    assert!(
        described(&DESCRIPTION.replace("\"action_size\":1", "\"action_size\":9999999999"))
            .contains("action_size: expected 1 to 16384, got 9999999999")
    );
}

#[test]
fn networks_that_cannot_be_built_are_refused_with_field_and_value() {
    let gaussian = |init_std, min_std| NetworkConfig {
        head: HeadConfig::Gaussian(GaussianHead {
            init_std,
            min_std,
            ..Default::default()
        }),
        ..config()
    };
    let hidden = |hidden_sizes: &[usize]| NetworkConfig {
        torso: TorsoConfig::hidden(hidden_sizes),
        ..config()
    };
    let cases = [
        (
            hidden(&[]),
            "torso.hidden_sizes: expected 1 to 16 layers, got 0",
        ),
        (
            hidden(&[8, 0]),
            "torso.hidden_sizes: expected widths from 1 to 16384, got 0",
        ),
        (
            gaussian(0.7, 0.0),
            "head.min_std: expected more than 0, at most 10, got 0",
        ),
        (
            gaussian(0.7, f64::NAN),
            "head.min_std: expected more than 0, at most 10, got NaN",
        ),
        (
            gaussian(0.1, 0.2),
            "head.init_std: expected more than head.min_std = 0.2, at most 10, got 0.1",
        ),
    ];
    for (config, expected) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), expected);
    }
    assert_eq!(NetworkConfig::default().validate(), Ok(()));
}

#[test]
fn configurations_read_back_and_unknown_keys_are_refused() {
    let json = serde_json::to_string(&NetworkConfig::default()).unwrap();
    assert_eq!(
        json,
        concat!(
            r#"{"torso":{"hidden_sizes":[128,128],"activation":"layer_norm_tanh_elu","#,
            r#""blocks":0,"expansion":4},"normalise_observations":false,"#,
            r#""head":{"kind":"gaussian","tanh_mean":true,"init_std":0.7,"min_std":0.02,"squash":false}}"#
        )
    );
    assert_eq!(
        serde_json::from_str::<NetworkConfig>(&json).unwrap(),
        NetworkConfig::default()
    );
    for bad in [
        r#"{"hidden":[1]}"#,
        r#"{"head":{"kind":"gaussian","std":1}}"#,
    ] {
        assert!(serde_json::from_str::<NetworkConfig>(bad).is_err(), "{bad}");
    }
}
