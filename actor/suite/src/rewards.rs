//! Soft indicator functions. Source: dm_control's `utils/rewards.py`.
//!
//! A [`Tolerance`] is built once with its task, so that the sigmoid's scale is not derived anew at
//! every step.

use std::f64::consts::PI;

/// How fast the value falls outside the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sigmoid {
    Gaussian,
    LongTail,
    Reciprocal,
    Linear,
    Quadratic,
}

/// One inside an interval, falling to zero with the distance from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    lower: f64,
    upper: f64,
    margin: f64,
    sigmoid: Sigmoid,
    scale: f64,
}

impl Tolerance {
    /// One within `[lower, upper]`, zero outside unless a margin is set.
    pub(crate) fn between(lower: f64, upper: f64) -> Self {
        debug_assert!(lower <= upper);
        Self {
            lower,
            upper,
            margin: 0.0,
            sigmoid: Sigmoid::Gaussian,
            scale: 0.0,
        }
    }

    /// One from `lower` upwards.
    pub(crate) fn at_least(lower: f64) -> Self {
        Self::between(lower, f64::INFINITY)
    }

    /// One at `target` alone.
    pub(crate) fn at(target: f64) -> Self {
        Self::between(target, target)
    }

    /// Lets the value fall as a Gaussian to 0.1 at `margin` from the interval.
    pub(crate) fn margin(self, margin: f64) -> Self {
        self.falling(margin, Sigmoid::Gaussian, 0.1)
    }

    /// Lets the value fall as `sigmoid` to `value_at_margin` at `margin` from the interval.
    pub(crate) fn falling(self, margin: f64, sigmoid: Sigmoid, value_at_margin: f64) -> Self {
        debug_assert!(margin > 0.0 && (0.0..1.0).contains(&value_at_margin));
        let scale = match sigmoid {
            Sigmoid::Gaussian => (-2.0 * value_at_margin.ln()).sqrt(),
            Sigmoid::LongTail => (1.0 / value_at_margin - 1.0).sqrt(),
            Sigmoid::Reciprocal => 1.0 / value_at_margin - 1.0,
            Sigmoid::Linear => 1.0 - value_at_margin,
            Sigmoid::Quadratic => (1.0 - value_at_margin).sqrt(),
        };
        Self {
            margin,
            sigmoid,
            scale,
            ..self
        }
    }

    /// The value at `x`.
    pub(crate) fn of(&self, x: f64) -> f64 {
        if self.lower <= x && x <= self.upper {
            return 1.0;
        }
        if self.margin == 0.0 {
            return 0.0;
        }
        let outside = if x < self.lower {
            self.lower - x
        } else {
            x - self.upper
        };
        let distance = outside / self.margin * self.scale;
        match self.sigmoid {
            Sigmoid::Gaussian => (-0.5 * (distance * distance)).exp(),
            Sigmoid::LongTail => 1.0 / (distance * distance + 1.0),
            Sigmoid::Reciprocal => 1.0 / (distance.abs() + 1.0),
            Sigmoid::Linear if distance < 1.0 => 1.0 - distance,
            Sigmoid::Quadratic if distance < 1.0 => 1.0 - distance * distance,
            Sigmoid::Linear | Sigmoid::Quadratic => 0.0,
        }
    }
}

/// Radians of `degrees`.
pub(crate) fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(tolerance: &Tolerance, expected: &[(f64, f64)]) {
        for (x, value) in expected {
            let got = tolerance.of(*x);
            assert!(
                (got - value).abs() < 1e-15,
                "{tolerance:?} at {x}: {got}, not {value}"
            );
        }
    }

    /// Values of dm_control's `tolerance` with the same arguments.
    #[test]
    fn values_are_dm_controls() {
        let gaussian = Tolerance::between(1.0, 2.0).margin(0.5);
        assert_close(
            &gaussian,
            &[
                (0.5, 0.1),
                (0.75, 0.5623413251903491),
                (1.5, 1.0),
                (3.0, 1e-4),
            ],
        );
        let falls = |sigmoid, value| Tolerance::between(0.0, 1.0).falling(2.0, sigmoid, value);
        let long_tail = falls(Sigmoid::LongTail, 0.1);
        assert_close(
            &long_tail,
            &[(-3.0, 0.047058823529411764), (3.0, 0.1), (0.5, 1.0)],
        );
        let reciprocal = falls(Sigmoid::Reciprocal, 0.1);
        assert_close(
            &reciprocal,
            &[(-1.0, 0.18181818181818182), (9.0, 0.02702702702702703)],
        );
        let linear = falls(Sigmoid::Linear, 0.5);
        assert_close(&linear, &[(-3.0, 0.25), (2.0, 0.75), (9.0, 0.0)]);
        let quadratic = falls(Sigmoid::Quadratic, 0.0);
        assert_close(&quadratic, &[(-3.0, 0.0), (-1.0, 0.75), (1.0, 1.0)]);
    }

    #[test]
    fn bounds_are_inclusive_and_without_a_margin_nothing_else_counts() {
        let sharp = Tolerance::between(-1.0, 1.0);
        assert_close(&sharp, &[(-1.0, 1.0), (1.0, 1.0), (1.0 + 1e-9, 0.0)]);
        assert_close(&Tolerance::at_least(2.0), &[(1e300, 1.0), (1.9, 0.0)]);
    }
}
