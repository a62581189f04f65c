//! Between the environment's numbers and the policy's: observations are narrowed to `f32`, and
//! canonical actions in [-1, 1] become actions within the task's bounds (Acme's
//! `CanonicalSpecWrapper`; unlike there, a dimension without bounds takes the canonical value itself).

use pmpo_types::ActionSpec;

/// Bounds beyond this are none: dm_control writes MuJoCo's `mjMAXVAL` for an unlimited control.
const UNBOUNDED: f64 = 1e10;

/// Scales canonical actions to a task's bounds.
#[derive(Clone, Debug)]
pub struct ActionScale {
    bounds: Vec<(f64, f64)>,
    action: Vec<f64>,
}

impl ActionScale {
    /// For actions within these bounds.
    pub fn new(spec: &ActionSpec) -> Self {
        let bounds = spec
            .minimum
            .iter()
            .zip(&spec.maximum)
            .map(|(&minimum, &maximum)| {
                let bounded = minimum > -UNBOUNDED && maximum < UNBOUNDED;
                if bounded {
                    (minimum, maximum)
                } else {
                    (-1.0, 1.0)
                }
            });
        Self {
            bounds: bounds.collect(),
            action: vec![0.0; spec.minimum.len()],
        }
    }

    /// -1 becomes the minimum, 1 the maximum; `[action_size]` both ways.
    pub fn scale(&mut self, canonical: &[f32]) -> &[f64] {
        let values = self.action.iter_mut().zip(&self.bounds).zip(canonical);
        for ((action, &(minimum, maximum)), &value) in values {
            let share = 0.5 * (f64::from(value) + 1.0);
            // Rounding must not leave the bounds, which the environment enforces.
            *action = (minimum + share * (maximum - minimum)).clamp(minimum, maximum);
        }
        &self.action
    }
}

impl ActionScale {
    /// Of actions within the bounds, `[T * action_size]`, what they are between -1 and 1: the inverse of
    /// [`scale`](Self::scale).
    pub fn canonical(&self, actions: &[f32]) -> Vec<f32> {
        let values = actions.iter().zip(self.bounds.iter().cycle());
        values
            .map(|(&action, &(minimum, maximum))| {
                let range = maximum - minimum;
                if range > 0.0 {
                    (2.0 * (f64::from(action) - minimum) / range - 1.0) as f32
                } else {
                    0.0
                }
            })
            .collect()
    }
}

/// Writes `values` to `narrowed`; whether all of them are finite there.
pub fn narrow(values: &[f64], narrowed: &mut Vec<f32>) -> bool {
    narrowed.clear();
    narrowed.extend(values.iter().map(|&value| value as f32));
    narrowed.iter().all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_actions_reach_the_bounds_and_no_further() {
        let spec = ActionSpec {
            minimum: vec![-1.0, 0.0, -0.3, -1e10, f64::NEG_INFINITY],
            maximum: vec![1.0, 5.0, 0.7, 1e10, f64::INFINITY],
        };
        let mut scale = ActionScale::new(&spec);
        assert_eq!(scale.scale(&[-1.0; 5]), [-1.0, 0.0, -0.3, -1.0, -1.0]);
        assert_eq!(scale.scale(&[1.0; 5]), [1.0, 5.0, 0.7, 1.0, 1.0]);
        assert_eq!(scale.scale(&[0.5; 5])[..2], [0.5, 3.75]);
    }

    #[test]
    fn narrowing_finds_what_f32_cannot_hold() {
        let mut narrowed = vec![9.0; 7];
        assert!(narrow(&[1.5, -2.0], &mut narrowed));
        assert_eq!(narrowed, [1.5, -2.0]);
        for bad in [f64::NAN, f64::INFINITY, 1e300] {
            assert!(!narrow(&[0.0, bad], &mut narrowed));
        }
    }
}
