//! `numpy.random.RandomState`: MT19937 with NumPy's frozen ("legacy") distributions, so that a seed
//! gives the episode that it gives in dm_control.
//!
//! Source: NumPy's `_legacy_seeding`, `legacy-distributions.c` and `distributions.c`. Unlike NumPy's,
//! a seed may have 64 bits: one above 32 bits equals `RandomState([low, high])`.

use rand_mt::Mt;

/// NumPy's legacy generator.
#[derive(Clone, Debug)]
pub(crate) struct RandomState {
    twister: Mt,
    /// The second deviate of the last pair drawn by [`RandomState::standard_normal`].
    spare_normal: Option<f64>,
}

impl RandomState {
    /// `RandomState(seed)`; for seeds above `u32::MAX`, `RandomState([seed & 0xffffffff, seed >> 32])`.
    pub(crate) fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let twister = if high == 0 {
            Mt::new(low)
        } else {
            Mt::new_with_key([low, high])
        };
        Self {
            twister,
            spare_normal: None,
        }
    }

    /// `rand()`: uniform in [0, 1) with 53 bits.
    pub(crate) fn standard_uniform(&mut self) -> f64 {
        let high = f64::from(self.twister.next_u32() >> 5);
        let low = f64::from(self.twister.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// `uniform(low, high)`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.standard_uniform()
    }

    /// `randn()`: Marsaglia's polar method; each pair's second deviate comes first.
    pub(crate) fn standard_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        loop {
            let x = 2.0 * self.standard_uniform() - 1.0;
            let y = 2.0 * self.standard_uniform() - 1.0;
            let radius = x * x + y * y;
            if radius < 1.0 && radius != 0.0 {
                let factor = (-2.0 * radius.ln() / radius).sqrt();
                self.spare_normal = Some(factor * x);
                return factor * y;
            }
        }
    }

    /// `randn(N)`.
    pub(crate) fn normals<const N: usize>(&mut self) -> [f64; N] {
        std::array::from_fn(|_| self.standard_normal())
    }

    /// `randint(bound)`: masked rejection over 32-bit draws. A bound of one draws nothing.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let largest = bound
            .checked_sub(1)
            .expect("the bound is a positive constant of a task");
        if largest == 0 {
            return 0;
        }
        let mask = u32::MAX >> largest.leading_zeros();
        loop {
            let value = self.twister.next_u32() & mask;
            if value <= largest {
                return value;
            }
        }
    }

    /// `choice(N, p=probabilities)`: the index drawn.
    pub(crate) fn choice<const N: usize>(&mut self, probabilities: [f64; N]) -> usize {
        let mut cumulative = probabilities;
        for index in 1..N {
            cumulative[index] += cumulative[index - 1];
        }
        let total = cumulative[N - 1];
        let draw = self.standard_uniform();
        cumulative
            .iter()
            .filter(|edge| **edge / total <= draw)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One stream through all distributions, as `np.random.RandomState(42)` gives it.
    #[test]
    fn one_stream_equals_numpys() {
        let mut random = RandomState::new(42);
        let uniform = [0.3745401188473625, 0.9507143064099162, 0.7319939418114051];
        assert_eq!(uniform.map(|_| random.standard_uniform()), uniform);
        let ranged = [0.993292420985183, -1.2199067977878175];
        assert_eq!(ranged.map(|_| random.uniform(-2.0, 3.0)), ranged);
        let normal = [0.2790412922001377, 1.0105152848065264, -0.580878134023515];
        assert_eq!(random.normals::<3>(), normal);
        let below_four = [0, 0, 3, 1, 1, 0, 3, 0];
        assert_eq!(below_four.map(|_| random.below(4)), below_four);
        assert_eq!(random.below(1), 0);
        let below_five = [0, 2, 2, 1, 3, 3, 2, 3];
        assert_eq!(below_five.map(|_| random.below(5)), below_five);
        let chosen = [2, 2, 0, 2, 1, 0, 2, 2, 2, 2, 0, 2];
        assert_eq!(
            chosen.map(|_| random.choice([0.1, 0.1, 1.0 - 0.1 - 0.1])),
            chosen
        );
        assert_eq!(random.standard_uniform(), 0.4401524937396013);
    }

    #[test]
    fn a_long_seed_is_numpys_array_seed() {
        // np.random.RandomState([5, 9])
        let mut random = RandomState::new((9 << 32) + 5);
        assert_eq!(random.standard_uniform(), 0.018887748472003252);
        assert_eq!(random.standard_normal(), -0.32282695507739434);
    }
}
