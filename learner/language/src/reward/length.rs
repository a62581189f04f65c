//! Length: how near a completion's number of words is to a target.
//!
//! Of no paper; a reward whose best completion is known, for trying a run out.

use super::{RewardError, Sample, Scorer};

/// Rewards completions for having a number of words.
///
/// A completion of `n` words gets `min(n, target) / max(n, target)`: 1 at the target, 0 for no words,
/// a half at half and at double the target. It falls strictly on both sides and nowhere levels off, so
/// that of two completions the nearer one (as a ratio) is always preferred. Words are what white space
/// separates.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    target: u32,
}

impl Length {
    /// With a target in words, at least 1; 0 is taken as 1.
    pub fn new(target_words: u32) -> Self {
        Self {
            target: target_words.max(1),
        }
    }

    /// The reward of one completion, in [0, 1].
    pub fn of(&self, completion: &str) -> f32 {
        let words = completion.split_whitespace().count() as f64;
        let target = f64::from(self.target);
        (words.min(target) / words.max(target)) as f32
    }
}

impl Scorer for Length {
    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, RewardError> {
        Ok(samples.iter().map(|s| self.of(s.completion)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reward_is_highest_at_the_target_and_falls_on_both_sides() {
        let length = Length::new(8);
        let rewards: Vec<f32> = (0..40).map(|n| length.of(&"word ".repeat(n))).collect();
        assert_eq!(
            [rewards[0], rewards[4], rewards[8], rewards[16]],
            [0.0, 0.5, 1.0, 0.5]
        );
        assert!(rewards[..=8].windows(2).all(|pair| pair[0] < pair[1]));
        assert!(rewards[8..].windows(2).all(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn the_prompt_does_not_count() {
        let sample = Sample {
            prompt: "three more words",
            completion: " one\ntwo ",
        };
        assert_eq!(Length::new(2).score(&[sample]).unwrap(), [1.0]);
    }
}
