//! Preferences out of values: which of a state's action samples are accepted and which are rejected
//! (section "Extracting preferences from evaluation functions").
//!
//! By rank, the best `accepted` and the worst `rejected` of a state's samples; or by a baseline
//! `b(x)`, where a sample is accepted if its value is at least the mean or the median of its state's.
//! A rank says nothing of how far apart values are: where a critic tells a state's actions hardly apart, it
//! ranks its own error. So a floor may be put under the difference of a state's best and worst sample, in
//! terms of the critic's spread, the standard deviation of all values `Q` `[N, B]` at hand: the state's
//! samples are divided only if
//!
//! `max_n Q(x, a_n) - min_n Q(x, a_n) >= min_difference std(Q)`,
//!
//! and else none of them is accepted or rejected. The floor is this project's, not the paper's.
//! Everything is computed by counting, without a sort and without reading anything back; `N` is small.

use burn::tensor::{Bool, Tensor};
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

/// How samples are divided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Preference {
    /// By rank; samples between the two groups are left out.
    Rank(RankPreference),
    /// Against a baseline.
    Baseline(BaselinePreference),
}

/// The best are accepted, the worst are rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RankPreference {
    /// How many of a state's samples are accepted: those of highest value.
    pub accepted: usize,
    /// How many of a state's samples are rejected: those of lowest value.
    pub rejected: usize,
    /// Least difference of a state's best and worst sample, as a share of the standard deviation of all
    /// values of the batch, for any of them to be accepted or rejected. 0: whatever it is.
    pub min_difference: f64,
}

/// Samples are compared with a statistic of their state's samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BaselinePreference {
    /// Which statistic.
    pub statistic: BaselineStatistic,
}

/// The baseline `b(x)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineStatistic {
    /// Mean of the sampled values: of the state's value under the reference policy.
    #[default]
    Mean,
    /// Median of the sampled values; between the two middle ones if their number is even.
    Median,
}

impl Default for RankPreference {
    fn default() -> Self {
        Self {
            accepted: 2,
            rejected: 2,
            min_difference: 0.0,
        }
    }
}

impl Default for Preference {
    fn default() -> Self {
        Self::Rank(RankPreference::default())
    }
}

impl Preference {
    /// Refuses contradictions, given the number of action samples a state and the weight `alpha` of
    /// the accepted ones.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, samples: usize, alpha: f64) -> Result<(), ConfigError> {
        let Self::Rank(RankPreference {
            accepted,
            rejected,
            min_difference,
        }) = *self
        else {
            if samples < 2 {
                let expected = "rank, since one action per state is its own baseline";
                return Err(ConfigError::new("preference.kind", expected, "baseline"));
            }
            return Ok(());
        };
        for (field, count, weight) in [
            ("preference.accepted", accepted, alpha),
            ("preference.rejected", rejected, 1.0 - alpha),
        ] {
            if count == 0 && weight > 0.0 {
                let expected = format!("at least 1, since alpha is {alpha}");
                return Err(ConfigError::new(field, expected, count));
            }
        }
        ConfigError::not_negative("preference.min_difference", min_difference)?;
        if accepted.saturating_add(rejected) > samples {
            return Err(ConfigError::new(
                "preference.accepted + rejected",
                format!("at most the {samples} actions per state"),
                format!("{accepted} + {rejected}"),
            ));
        }
        Ok(())
    }

    /// Which of the samples with `values` `[N, B]` are accepted and which are rejected, as ones and
    /// zeros `[N, B]`. Of samples with equal values, by rank, each has the same share of the places that
    /// they take together: actions that the environment clips to one and the same are worth the same,
    /// and are common where policies saturate.
    pub fn divide(&self, values: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let values = values.without_autodiff();
        let [samples, _] = values.dims();
        match *self {
            Self::Rank(RankPreference {
                accepted,
                rejected,
                min_difference,
            }) => {
                assert!(
                    accepted + rejected <= samples,
                    "accepted + rejected must be at most N = {samples}"
                );
                let Ranks { better, equal } = Ranks::new(&values);
                // Samples of equal values take the ranks from `better` to `better + equal`.
                let up_to = |places: usize| {
                    let taken = (-better.clone() + places as f64).clamp_min(0.0);
                    taken.min_pair(equal.clone()) / equal.clone()
                };
                let groups = (up_to(accepted), -up_to(samples - rejected) + 1.0);
                if min_difference == 0.0 {
                    return groups;
                }
                let told_apart = told_apart(&values, min_difference);
                (groups.0 * told_apart.clone(), groups.1 * told_apart)
            }
            Self::Baseline(BaselinePreference { statistic }) => {
                // Relative to the first, for the rounded mean of equal numbers can be above them all.
                let values = values.clone() - values.narrow(0, 0, 1);
                let baseline = match statistic {
                    BaselineStatistic::Mean => values.clone().mean_dim(0),
                    BaselineStatistic::Median => median(&values),
                };
                let accepted = ones(values.clone().greater_equal(baseline), &values);
                (accepted.clone(), -accepted + 1.0)
            }
        }
    }
}

/// The factor of each sample's log-likelihood in eq. 10, from the values `[N, B]` of the samples:
/// `alpha / |D_a|` for the accepted, `-(1 - alpha) / |D_r|` for the rejected, else 0; `[N, B]`. Each
/// expectation is the mean over a state's own samples, so unbalanced splits need no reweighting.
pub fn preference_weights(values: Tensor<2>, preference: &Preference, alpha: f64) -> Tensor<2> {
    let (accepted, rejected) = preference.divide(values);
    // A state whose samples are all worth the same rejects none of them.
    let mean = |chosen: Tensor<2>| chosen.clone() / chosen.sum_dim(0).clamp_min(1.0);
    mean(accepted) * alpha - mean(rejected) * (1.0 - alpha)
}

/// The factor of each labelled action's log-likelihood, from labels `[N, B]`: `alpha / |D_a|` for the
/// accepted of the batch, `-(1 - alpha) / |D_r|` for the rejected, else 0; `[N, B]`.
pub(crate) fn label_weights(accepted: Tensor<2>, rejected: Tensor<2>, alpha: f64) -> Tensor<2> {
    let mean = |chosen: Tensor<2>| {
        let count = chosen.clone().sum().clamp_min(1.0);
        chosen / count.unsqueeze::<2>()
    };
    mean(accepted) * alpha - mean(rejected) * (1.0 - alpha)
}

/// The samples of highest and of lowest value, as ones and zeros `[N, B]` with a single one a state,
/// or shares of it among equals.
pub(crate) fn best_and_worst(values: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let pair = Preference::Rank(RankPreference {
        accepted: 1,
        rejected: 1,
        ..RankPreference::default()
    });
    pair.divide(values)
}

/// How each sample compares with the others of its state, `[N, B]`.
struct Ranks {
    /// Samples of higher value.
    better: Tensor<2>,
    /// Samples of the same value, itself included.
    equal: Tensor<2>,
}

impl Ranks {
    fn new(values: &Tensor<2>) -> Self {
        let [samples, batch] = values.dims();
        let of = values.clone().reshape([samples, 1, batch]);
        let against = values.clone().reshape([1, samples, batch]);
        let count = |mask: Tensor<3, Bool>| {
            let ones = mask.float().cast(values.dtype());
            ones.sum_dim(1).reshape([samples, batch])
        };
        Self {
            better: count(against.clone().greater(of.clone())),
            equal: count(against.equal(of)),
        }
    }
}

/// 1 for states whose values `[N, B]` differ by at least so many standard deviations of all of them, else
/// 0; `[1, B]`.
fn told_apart(values: &Tensor<2>, deviations: f64) -> Tensor<2> {
    let difference = values.clone().max_dim(0) - values.clone().min_dim(0);
    let centred = values.clone() - values.clone().mean().unsqueeze::<2>();
    let std = centred.square().mean().sqrt().unsqueeze::<2>();
    ones(difference.greater_equal(std * deviations), values)
}

/// Median of each state's values, `[1, B]`.
fn median(values: &Tensor<2>) -> Tensor<2> {
    let [samples, _] = values.dims();
    let Ranks { better, equal } = Ranks::new(values);
    let at = |place: usize| {
        // Whose ranks, from `better` to `better + equal`, hold the place; equals share it.
        let above = better.clone().lower_equal_scalar(place as f64);
        let below = (better.clone() + equal.clone()).greater_scalar(place as f64);
        let chosen = ones(above, values) * ones(below, values) / equal.clone();
        (values.clone() * chosen).sum_dim(0)
    };
    (at((samples - 1) / 2) + at(samples / 2)) * 0.5
}

fn ones(chosen: Tensor<2, Bool>, like: &Tensor<2>) -> Tensor<2> {
    chosen.float().cast(like.dtype())
}

#[cfg(test)]
mod tests;
