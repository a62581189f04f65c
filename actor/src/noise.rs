//! The noise of actions, which may stay the same for several steps: what is explored is then where a push
//! in one direction leads, not where a tremble does.
//!
//! What is repeated is the draw, not the action: of a Gaussian the standard normal numbers, so that the
//! action still follows the observation and is, taken by itself, a draw from the policy. For how many steps
//! of the policy, is a number, or drawn anew each time from a zeta distribution up to a bound,
//!
//! `P(k) = k^-2 / sum_{j=1}^{16} j^-2`,
//!
//! after FlashSAC (and Dabney et al. 2021, Temporally-extended epsilon-greedy exploration, who repeat
//! actions). Its mean is 2.1 steps; one draw in twenty-two is for eight or more.

use pmpo_types::ConfigError;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// Steps that a draw is kept for: a number, or `"zeta"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NoiseRepeat {
    /// So many.
    Fixed(u32),
    /// Each time others.
    Drawn(RepeatRule),
}

/// What numbers of steps are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepeatRule {
    /// The zeta distribution of exponent 2, up to 16.
    Zeta,
}

/// Most steps that are drawn.
const LONGEST_DRAWN: u32 = 16;

impl Default for NoiseRepeat {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl NoiseRepeat {
    /// Most steps that a draw may be kept for.
    pub const MAX: u32 = 1000;

    pub(crate) fn validate(self) -> Result<(), ConfigError> {
        match self {
            Self::Fixed(steps) if !(1..=Self::MAX).contains(&steps) => {
                let expected = format!("1 to {} steps, or zeta", Self::MAX);
                Err(ConfigError::new("noise_repeat", expected, steps))
            }
            Self::Fixed(_) | Self::Drawn(RepeatRule::Zeta) => Ok(()),
        }
    }

    fn steps(self, rng: &mut ChaCha8Rng) -> u32 {
        match self {
            Self::Fixed(steps) => steps,
            Self::Drawn(RepeatRule::Zeta) => {
                let weight = |k: u32| f64::from(k).powi(-2);
                let total: f64 = (1..=LONGEST_DRAWN).map(weight).sum();
                let mut left = rng.random::<f64>() * total;
                let passed = (1..LONGEST_DRAWN).take_while(|&k| {
                    left -= weight(k);
                    left >= 0.0
                });
                1 + passed.count() as u32
            }
        }
    }
}

/// A generator whose draws are repeated.
#[derive(Clone, Debug)]
pub struct Noise {
    repeat: NoiseRepeat,
    /// Where the draw that is kept begins, or the next one if none is.
    rng: ChaCha8Rng,
    /// Steps that it is still kept for.
    left: u32,
}

impl Noise {
    /// Nothing is drawn yet.
    pub fn new(repeat: NoiseRepeat, rng: ChaCha8Rng) -> Self {
        Self::resumed(repeat, rng, 0)
    }

    /// As it was when it answered these from [`state`](Self::state).
    pub fn resumed(repeat: NoiseRepeat, rng: ChaCha8Rng, left: u32) -> Self {
        Self { repeat, rng, left }
    }

    /// The generator, and how many steps what it draws next is for, if it was drawn before.
    pub fn state(&self) -> (&ChaCha8Rng, u32) {
        (&self.rng, self.left)
    }

    /// From here on its draws are others.
    pub(crate) fn reseed(&mut self, seed: u64) {
        *self = Self::new(self.repeat, ChaCha8Rng::seed_from_u64(seed));
    }

    /// Draws for one step.
    pub(crate) fn draw<T>(&mut self, draw: impl FnOnce(&mut ChaCha8Rng) -> T) -> T {
        if self.left == 0 {
            self.left = self.repeat.steps(&mut self.rng);
        }
        self.left -= 1;
        if self.left == 0 {
            draw(&mut self.rng)
        } else {
            draw(&mut self.rng.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    const ZETA: NoiseRepeat = NoiseRepeat::Drawn(RepeatRule::Zeta);

    fn noise(repeat: NoiseRepeat) -> Noise {
        Noise::new(repeat, ChaCha8Rng::seed_from_u64(5))
    }

    fn draws(noise: &mut Noise, steps: usize) -> Vec<u64> {
        (0..steps).map(|_| noise.draw(Rng::next_u64)).collect()
    }

    #[test]
    fn a_draw_is_kept_for_so_many_steps_and_one_step_is_the_bare_generator() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let bare: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();
        assert_eq!(draws(&mut noise(NoiseRepeat::Fixed(1)), 4), bare);
        let thrice: Vec<u64> = bare.iter().flat_map(|&draw| [draw; 3]).collect();
        assert_eq!(draws(&mut noise(NoiseRepeat::Fixed(3)), 12), thrice);
    }

    #[test]
    fn it_goes_on_from_wherever_it_was() {
        for repeat in [NoiseRepeat::Fixed(1), NoiseRepeat::Fixed(4), ZETA] {
            let expected = draws(&mut noise(repeat), 50);
            for at in 0..20 {
                let mut before = noise(repeat);
                draws(&mut before, at);
                let (rng, left) = before.state();
                let mut after = Noise::resumed(repeat, rng.clone(), left);
                assert_eq!(draws(&mut after, 50 - at), expected[at..], "{at}");
            }
        }
    }

    /// Pearson's chi-squared against `k^-2`; 37.7 is the 0.999 quantile for 15 degrees of freedom.
    #[test]
    fn numbers_of_steps_have_the_zeta_distribution() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (count, mut seen) = (100_000, [0u32; 16]);
        for _ in 0..count {
            seen[ZETA.steps(&mut rng) as usize - 1] += 1;
        }
        let weights: Vec<f64> = (1..=16).map(|k| f64::from(k * k).recip()).collect();
        let total: f64 = weights.iter().sum();
        let chi_squared: f64 = seen
            .iter()
            .zip(weights)
            .map(|(&seen, weight)| {
                let expected = f64::from(count) * weight / total;
                (f64::from(seen) - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_squared < 37.7, "{chi_squared}: {seen:?}");
    }
}
