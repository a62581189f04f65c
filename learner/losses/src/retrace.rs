//! Retrace(lambda) targets (Munos et al., 2016), which MPO's paper evaluates its policies with.
//!
//! Along a stretch of a trajectory, with the target critic `Q`, the target policy `pi` and the policy
//! that acted `mu`:
//!
//! `y_t = r_t + d_t (V(s_{t+1}) + c_{t+1} (y_{t+1} - Q(s_{t+1}, a_{t+1})))`,
//! `c = lambda min(1, pi(a|s) / mu(a|s))`, `V(s) = E_{a ~ pi} Q(s, a)`,
//!
//! and at the stretch's end `y = r + d V`. Where an episode ends in the middle of a stretch, a discount
//! of 0 (termination) or a mask (a time limit) cuts the trace.

use burn::tensor::Tensor;

/// A stretch of `T` steps for each of `B` trajectories, all constants.
#[derive(Clone, Debug)]
pub struct Trajectory {
    /// `r_t`, `[B, T]`.
    pub reward: Tensor<2>,
    /// `d_t`, gamma included, `[B, T]`.
    pub discount: Tensor<2>,
    /// `Q(s_t, a_t)` of the target critic, `[B, T]`.
    pub value: Tensor<2>,
    /// `V(s_{t+1})` under the target policy, `[B, T]`.
    pub next_state_value: Tensor<2>,
    /// `ln pi(a_t|s_t) - ln mu(a_t|s_t)`, `[B, T]`. The first of each, as the first value, is used by
    /// no target.
    pub log_ratio: Tensor<2>,
}

/// The targets `y_t`, `[B, T]`. `lambda`, in [0, 1], is how far corrections reach.
pub fn retrace(lambda: f64, trajectory: Trajectory) -> Tensor<2> {
    let [batch, steps] = trajectory.reward.dims();
    for (name, tensor) in [
        ("discount", &trajectory.discount),
        ("value", &trajectory.value),
        ("next state value", &trajectory.next_state_value),
        ("log ratio", &trajectory.log_ratio),
    ] {
        assert_eq!(tensor.dims(), [batch, steps], "{name} must be [B, T]");
    }
    let trace = trajectory.log_ratio.clamp_max(0.0).exp() * lambda;
    let at = |tensor: &Tensor<2>, t: usize| tensor.clone().narrow(1, t, 1);
    // What the next step's target adds to its state's value; nothing beyond the stretch.
    let mut correction: Option<Tensor<2>> = None;
    let mut targets = Vec::with_capacity(steps);
    for t in (0..steps).rev() {
        let state_value = at(&trajectory.next_state_value, t);
        let next = match correction {
            Some(correction) => state_value + correction,
            None => state_value,
        };
        let target = at(&trajectory.reward, t) + at(&trajectory.discount, t) * next;
        correction = Some(at(&trace, t) * (target.clone() - at(&trajectory.value, t)));
        targets.push(target);
    }
    targets.reverse();
    Tensor::cat(targets, 1).without_autodiff()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, values};

    fn trajectory(log_ratio: &[f64]) -> Trajectory {
        Trajectory {
            reward: constant(&[1.0, 2.0, 3.0], [1, 3]),
            discount: constant(&[0.9, 0.8, 0.5], [1, 3]),
            value: constant(&[10.0, 20.0, 30.0], [1, 3]),
            next_state_value: constant(&[4.0, 5.0, 6.0], [1, 3]),
            log_ratio: constant(log_ratio, [1, 3]),
        }
    }

    /// `y_2 = 3 + 0.5 * 6 = 6`; `c_2 = 1/2`: `y_1 = 2 + 0.8 (5 + (6 - 30) / 2) = -3.6`; `c_1 = 1`, for
    /// ratios are cut at 1: `y_0 = 1 + 0.9 (4 + (-3.6 - 20)) = -16.64`. The first ratio matters to none.
    #[test]
    fn targets_by_hand() {
        let log_ratio = [5.0, 3f64.ln(), 0.5f64.ln()];
        let target = retrace(1.0, trajectory(&log_ratio));
        assert_close(&values(target), &[-16.64, -3.6, 6.0], 1e-12);
    }

    /// With lambda 0 each target is one step's.
    #[test]
    fn lambda_zero_is_temporal_difference() {
        let target = retrace(0.0, trajectory(&[0.0; 3]));
        assert_close(&values(target), &[1.0 + 3.6, 2.0 + 4.0, 3.0 + 3.0], 1e-12);
    }

    /// On policy and with `V = Q` along the stretch the corrections telescope to the n-step return.
    #[test]
    fn on_policy_it_is_the_n_step_return() {
        let mut on_policy = trajectory(&[0.0; 3]);
        on_policy.next_state_value = constant(&[20.0, 30.0, 6.0], [1, 3]);
        let target = retrace(1.0, on_policy);
        let last = 3.0 + 0.5 * 6.0;
        let middle = 2.0 + 0.8 * last;
        assert_close(&values(target), &[1.0 + 0.9 * middle, middle, last], 1e-12);
    }

    #[test]
    #[should_panic(expected = "log ratio must be [B, T]")]
    fn a_shape_that_would_broadcast_is_refused() {
        let mut bad = trajectory(&[0.0; 3]);
        bad.log_ratio = constant(&[0.0], [1, 1]);
        retrace(1.0, bad);
    }
}
