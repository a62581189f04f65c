//! The discounted returns of an episode, for those who scale rewards by them.

/// Of the discounted returns `G_t = r_t + gamma d_t G_{t+1}` from each step of an episode on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EpisodeReturns {
    /// Their mean.
    pub mean: f64,
    /// The mean of their squares.
    pub square: f64,
    /// The largest of their sizes.
    pub largest: f64,
}

/// A return of a larger size than this is taken for nonsense. Squares and sums of smaller ones are finite.
pub const MAX_RETURN: f64 = 1e100;

/// Whether a return is a number that can be worked with.
pub fn usable_return(value: f64) -> bool {
    value.abs() <= MAX_RETURN
}

impl EpisodeReturns {
    /// Whether all of them can be worked with.
    pub fn usable(&self) -> bool {
        usable_return(self.mean) && usable_return(self.square.sqrt()) && usable_return(self.largest)
    }

    /// Of an episode's rewards and the environment's discounts, the first step first. What would have
    /// come after a time limit is not known and counts as nothing.
    pub fn new(steps: &[(f64, f64)], gamma: f64) -> Self {
        let (mut returns, mut episode) = (0.0, Self::default());
        for &(reward, discount) in steps.iter().rev() {
            returns = reward + gamma * discount * returns;
            episode.mean += returns;
            episode.square += returns * returns;
            episode.largest = episode.largest.max(f64::abs(returns));
        }
        let count = steps.len().max(1) as f64;
        Self {
            mean: episode.mean / count,
            square: episode.square / count,
            ..episode
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the end: 4, -2 + 4 / 2 = 0, 1 + 0 = 1.
    #[test]
    fn returns_are_summed_from_the_end() {
        let returns = EpisodeReturns::new(&[(1.0, 1.0), (-2.0, 1.0), (4.0, 1.0)], 0.5);
        assert_eq!(returns.mean, 5.0 / 3.0);
        assert_eq!(returns.square, 17.0 / 3.0);
        assert_eq!(returns.largest, 4.0);
        assert_eq!(EpisodeReturns::new(&[], 0.5), EpisodeReturns::default());
    }
}
