//! Weights as they go from a learner to its generators: as they are, or by their upper halves.

use pmpo_language::{Device, ModelConfig, WeightsDtype, over_grammar, weights};

fn model() -> (ModelConfig, Vec<Vec<f32>>) {
    let (checkpoint, _) = over_grammar(1, 3, &Device::flex()).expect("a model");
    (checkpoint.config, checkpoint.values)
}

#[test]
fn weights_arrive_as_they_are_or_rounded_to_their_upper_halves() {
    let (config, values) = model();
    let send = |dtype| {
        let bytes = weights::encode(&config, values.iter().map(Vec::as_slice), dtype);
        (
            bytes.len(),
            weights::decode(&config, &bytes).expect("weights"),
        )
    };
    let (whole, same) = send(WeightsDtype::F32);
    assert_eq!(same, values);
    let (half, rounded) = send(WeightsDtype::Bf16);
    let count: usize = values.iter().map(Vec::len).sum();
    // Beside their headers, in which places have other digits.
    assert!(
        (whole - half).abs_diff(2 * count) < 1024,
        "{whole} and {half}"
    );
    for (x, y) in values.iter().flatten().zip(rounded.iter().flatten()) {
        // Eight bits of precision, rounded to the nearest: half a unit of the last place.
        assert!((x - y).abs() <= x.abs() / 256.0, "{x} became {y}");
        assert_eq!(y.to_bits() & 0xffff, 0);
    }
}

#[test]
fn weights_of_another_model_are_refused_by_their_tensor() {
    let (config, values) = model();
    let slices = values.iter().map(Vec::as_slice);
    let bytes = weights::encode(&config, slices, WeightsDtype::F32);
    let more = ModelConfig {
        num_hidden_layers: config.num_hidden_layers + 1,
        ..config.clone()
    };
    let missing = weights::decode(&more, &bytes).unwrap_err();
    let first = format!("model.layers.{}.", config.num_hidden_layers);
    assert!(missing.starts_with(&first), "{missing}");
    let wider = ModelConfig {
        intermediate_size: 2 * config.intermediate_size,
        ..config.clone()
    };
    let other = weights::decode(&wider, &bytes).unwrap_err();
    assert!(other.contains("config.json says"), "{other}");
    let cut = weights::decode(&config, &bytes[..bytes.len() - 1]).unwrap_err();
    assert!(cut.contains("no weights"), "{cut}");
}
