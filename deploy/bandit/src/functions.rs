//! The functions of the paper's Figure 1, as Hansen, Müller and Koumoutsakos (2003, "Reducing the time
//! complexity of the derandomized evolution strategy with covariance matrix adaptation", table 1)
//! define them, whom the paper cites. All are to be minimised and are 0 at their optimum.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use pmpo_types::ConfigError;

/// A function of `n >= 2` numbers. Indices in the formulas count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// `sum_{i<n} 100 (x_i^2 - x_{i+1})^2 + (x_i - 1)^2`: a bent valley; its optimum is at ones.
    Rosenbrock,
    /// `sum x_i^2`.
    Sphere,
    /// `x_1^2 + sum_{i>1} (1000 x_i)^2`: one long axis.
    Cigar,
    /// `sum |x_i|^(2 + 10 (i-1)/(n-1))`: sensitivities that differ ever more near the optimum.
    DiffPow,
    /// `sum (1000^((i-1)/(n-1)) x_i)^2`: axes of lengths from 1 to 1000.
    Elli,
    /// `sum_i (sum_{j<=i} x_j)^2`, Schwefel's problem 1.2: not separable.
    Schwefel,
}

impl Function {
    /// All of them, in the paper's order.
    pub const ALL: [Self; 6] = [
        Self::Rosenbrock,
        Self::Sphere,
        Self::Cigar,
        Self::DiffPow,
        Self::Elli,
        Self::Schwefel,
    ];

    /// The value at `x`.
    pub fn value(self, x: &[f64]) -> f64 {
        // (i-1)/(n-1) of every coordinate.
        let last = (x.len() - 1) as f64;
        let graded = || x.iter().enumerate().map(|(i, &x)| (i as f64 / last, x));
        let sphere = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        match self {
            Self::Rosenbrock => x
                .windows(2)
                .map(|x| 100.0 * (x[0] * x[0] - x[1]).powi(2) + (x[0] - 1.0).powi(2))
                .sum(),
            Self::Sphere => sphere(x),
            Self::Cigar => x[0] * x[0] + 1e6 * sphere(&x[1..]),
            Self::DiffPow => graded()
                .map(|(share, x)| x.abs().powf(2.0 + 10.0 * share))
                .sum(),
            Self::Elli => graded()
                .map(|(share, x)| (1000f64.powf(share) * x).powi(2))
                .sum(),
            Self::Schwefel => {
                let partial = x.iter().scan(0.0, |sum, x| {
                    *sum += x;
                    Some(*sum)
                });
                partial.map(|sum| sum * sum).sum()
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rosenbrock => "rosenbrock",
            Self::Sphere => "sphere",
            Self::Cigar => "cigar",
            Self::DiffPow => "diffpow",
            Self::Elli => "elli",
            Self::Schwefel => "schwefel",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Function {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|function| function.name() == text.to_lowercase())
            .ok_or_else(|| ConfigError::new("function", format!("all or one of {names}"), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_optimum_is_zero_and_its_neighbours_are_worse() {
        for function in Function::ALL {
            let optimum = match function {
                Function::Rosenbrock => 1.0,
                _ => 0.0,
            };
            for n in [2, 5, 10] {
                let mut x = vec![optimum; n];
                assert_eq!(function.value(&x), 0.0, "{function} of {n}");
                for i in 0..n {
                    for step in [-0.1, 0.1] {
                        x[i] = optimum + step;
                        assert!(function.value(&x) > 0.0, "{function} of {n} at {x:?}");
                    }
                    x[i] = optimum;
                }
            }
        }
    }

    /// At (1, 2, 3), with exponents 2, 7 and 12 and scales 1, sqrt 1000 and 1000.
    #[test]
    fn values_by_hand() {
        let cases = [
            (Function::Rosenbrock, 100.0 * (1.0 + 1.0) + 0.0 + 1.0),
            (Function::Sphere, 14.0),
            (Function::Cigar, 1.0 + 13e6),
            (Function::DiffPow, 1.0 + 128.0 + 531_441.0),
            (Function::Elli, 1.0 + 4e3 + 9e6),
            (Function::Schwefel, 1.0 + 9.0 + 36.0),
        ];
        for (function, expected) in cases {
            let value = function.value(&[1.0, 2.0, 3.0]);
            let error = (value - expected).abs();
            assert!(error <= 1e-12 * expected, "{function}: {value}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for function in Function::ALL {
            assert_eq!(function.to_string().parse(), Ok(function));
        }
        let message = "ackley".parse::<Function>().unwrap_err().to_string();
        assert!(message.ends_with("schwefel, got ackley"), "{message}");
    }
}
