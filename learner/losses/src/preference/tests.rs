//! Tests of the division into accepted and rejected.

use super::*;
use crate::testing::{assert_close, constant, values};

fn rank(accepted: usize, rejected: usize) -> Preference {
    Preference::Rank(RankPreference {
        accepted,
        rejected,
        ..RankPreference::default()
    })
}

fn baseline(statistic: BaselineStatistic) -> Preference {
    Preference::Baseline(BaselinePreference { statistic })
}

/// Two states, four samples each, columns `[0.3, 1, -2, 0.5]` and `[5, 5, 5, 1]`.
fn two_states() -> Tensor<2> {
    constant(&[0.3, 5.0, 1.0, 5.0, -2.0, 5.0, 0.5, 1.0], [4, 2])
}

/// Of the second state's three best, two are accepted and one rejected: each is 2/3 and 1/3.
#[test]
fn the_best_are_accepted_and_the_worst_rejected_and_equals_share() {
    let weights = values(preference_weights(two_states(), &rank(2, 2), 0.5));
    let equal = 0.25 * (2.0 / 3.0) - 0.25 * (1.0 / 3.0);
    let expected = [-0.25, equal, 0.25, equal, -0.25, equal, 0.25, -0.25];
    assert_close(&weights, &expected, 1e-12);
}

#[test]
fn unbalanced_splits_average_over_their_own_samples() {
    let weights = values(preference_weights(two_states(), &rank(1, 2), 0.75));
    let equal = 0.75 * (1.0 / 3.0) - 0.125 * (1.0 / 3.0);
    let expected = [-0.125, equal, 0.75, equal, -0.125, equal, 0.0, -0.125];
    assert_close(&weights, &expected, 1e-12);
}

/// Accept-only (alpha 1) and reject-only (alpha 0), eq. 6 and eq. 9.
#[test]
fn alpha_one_and_zero_leave_one_side() {
    let q = constant(&[1.0, 4.0, 3.0, 2.0], [4, 1]);
    for (alpha, preference, expected) in [
        (1.0, rank(2, 0), [0.0, 0.5, 0.5, 0.0]),
        (0.0, rank(0, 2), [-0.5, 0.0, 0.0, -0.5]),
    ] {
        preference.validate(4, alpha).unwrap();
        let weights = values(preference_weights(q.clone(), &preference, alpha));
        assert_close(&weights, &expected, 1e-12);
    }
}

/// Means are -0.05 and 4: three and three samples reach them.
#[test]
fn the_mean_as_a_baseline() {
    let preference = baseline(BaselineStatistic::Mean);
    let weights = values(preference_weights(two_states(), &preference, 0.5));
    let third = 0.5 / 3.0;
    let expected = [third, third, third, third, -0.5, third, third, -0.5];
    assert_close(&weights, &expected, 1e-12);
}

/// Medians are 0.4 and 5; of three samples the middle one is accepted.
#[test]
fn the_median_as_a_baseline() {
    let preference = baseline(BaselineStatistic::Median);
    let (accepted, rejected) = preference.divide(two_states());
    assert_close(&values(accepted), &[0., 1., 1., 1., 0., 1., 1., 0.], 0.0);
    assert_close(&values(rejected), &[1., 0., 0., 0., 1., 0., 0., 1.], 0.0);
    let (accepted, _) = preference.divide(constant(&[2.0, 3.0, 1.0], [3, 1]));
    assert_close(&values(accepted), &[1.0, 1.0, 0.0], 0.0);
}

/// `f(x, y) >= b(x)` accepts a sample that equals the baseline; the loss stays finite.
#[test]
fn a_state_of_equal_values_rejects_nothing() {
    let preference = baseline(BaselineStatistic::Mean);
    let weights = preference_weights(constant(&[3.0; 4], [4, 1]), &preference, 0.5);
    assert_close(&values(weights), &[0.125; 4], 1e-12);
}

/// In float32 the mean of equal numbers is above them in a seventh of the draws.
#[test]
fn a_state_of_equal_values_rejects_nothing_in_single_precision_either() {
    let preference = baseline(BaselineStatistic::Mean);
    for n in [3, 5, 6, 8] {
        for i in 1..200 {
            let equal = Tensor::<2>::full([n, 1], 0.1 * i as f32, &burn::tensor::Device::flex());
            let (accepted, rejected) = preference.divide(equal);
            assert_eq!(
                accepted.sum().into_scalar::<f32>(),
                n as f32,
                "0.1 * {i}, {n}"
            );
            assert_eq!(rejected.sum().into_scalar::<f32>(), 0.0);
        }
    }
}

/// Three of four actions beyond a bound are one and the same to the critic: ranks 0 to 2 share the
/// two accepted places, and the third and the worst what is rejected.
#[test]
fn equals_share_the_places_that_they_take() {
    let (accepted, rejected) = rank(2, 2).divide(constant(&[5.0, 5.0, 1.0, 5.0], [4, 1]));
    let third = 1.0 / 3.0;
    assert_close(
        &values(accepted),
        &[2.0 * third, 2.0 * third, 0.0, 2.0 * third],
        1e-12,
    );
    assert_close(&values(rejected), &[third, third, 1.0, third], 1e-12);
    // All equal: nothing is preferred.
    let weights = preference_weights(constant(&[3.0; 4], [4, 1]), &rank(2, 2), 0.5);
    assert_close(&values(weights), &[0.0; 4], 1e-12);
}

/// Values of 10, 10.1, 20 and 20.5: a standard deviation of 5.1, differences of 0.0196 and 0.098 of it.
#[test]
fn states_whose_samples_are_hardly_told_apart_have_no_preference() {
    let q = || constant(&[10.0, 20.5, 10.1, 20.0], [2, 2]);
    let weights = |min_difference| {
        let preference = Preference::Rank(RankPreference {
            accepted: 1,
            rejected: 1,
            min_difference,
        });
        preference.validate(2, 0.5).unwrap();
        values(preference_weights(q(), &preference, 0.5))
    };
    let all = [-0.5, 0.5, 0.5, -0.5];
    for (min_difference, expected) in [
        (0.0, all),
        (0.019, all),
        (0.021, [0.0, 0.5, 0.0, -0.5]),
        (0.096, [0.0, 0.5, 0.0, -0.5]),
        (0.1, [0.0; 4]),
    ] {
        assert_close(&weights(min_difference), &expected, 1e-12);
    }
    // In other units, and from another zero, the same are left.
    let preference = Preference::Rank(RankPreference {
        accepted: 1,
        rejected: 1,
        min_difference: 0.05,
    });
    let moved = preference_weights(q() * 1e-3 - 7.0, &preference, 0.5);
    assert_close(&values(moved), &[0.0, 0.5, 0.0, -0.5], 1e-12);
}

/// Four to sixteen samples and any split of them.
#[test]
fn every_split_averages_its_own() {
    for samples in 4..=16 {
        let q: Vec<f64> = (0..samples).map(|n| n as f64 * 0.3 - 1.0).collect();
        for accepted in 1..samples {
            for rejected in 1..=samples - accepted {
                let preference = rank(accepted, rejected);
                preference.validate(samples, 0.25).unwrap();
                let q = constant(&q, [samples, 1]);
                let weights = values(preference_weights(q, &preference, 0.25));
                let expected: Vec<f64> = (0..samples)
                    .map(|n| match n {
                        n if n < rejected => -0.75 / rejected as f64,
                        n if n >= samples - accepted => 0.25 / accepted as f64,
                        _ => 0.0,
                    })
                    .collect();
                assert_close(&weights, &expected, 1e-12);
            }
        }
    }
}

/// Two accepted of the batch and one rejected, whatever states they are in.
#[test]
fn labels_are_averaged_over_the_batch() {
    let accepted = constant(&[1.0, 0.0, 1.0, 0.0], [1, 4]);
    let rejected = constant(&[0.0, 1.0, 0.0, 0.0], [1, 4]);
    let weights = label_weights(accepted, rejected.clone(), 0.5);
    assert_close(&values(weights), &[0.25, -0.5, 0.25, 0.0], 1e-12);
    let none = constant(&[0.0; 4], [1, 4]);
    assert_close(
        &values(label_weights(none.clone(), none, 1.0)),
        &[0.0; 4],
        0.0,
    );
}

#[test]
fn refuses_contradictions_and_quotes_them() {
    let refused = |preference: Preference, samples, alpha| {
        preference.validate(samples, alpha).unwrap_err().to_string()
    };
    let cases = [
        (
            refused(rank(2, 0), 4, 0.5),
            "preference.rejected: expected at least 1, since alpha is 0.5, got 0",
        ),
        (
            refused(rank(3, 2), 4, 0.5),
            "preference.accepted + rejected: expected at most the 4 actions per state, \
             got 3 + 2",
        ),
        (
            refused(baseline(BaselineStatistic::Mean), 1, 0.5),
            "preference.kind: expected rank, since one action per state is its own \
             baseline, got baseline",
        ),
        (
            refused(
                Preference::Rank(RankPreference {
                    min_difference: -0.1,
                    ..RankPreference::default()
                }),
                4,
                0.5,
            ),
            "preference.min_difference: expected a finite number, at least 0, got -0.1",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
}
