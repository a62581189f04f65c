//! Inference without allocation: what an actor runs between two steps, for one environment or a batch of them.

use pmpo_kernels::simd::{self, Kernel};
use rand::Rng;

use crate::heads::{HeadNetwork, HeadOutput};
use crate::snapshot::Tensors;
use crate::torso::Torso;
use crate::{PolicyWeights, SnapshotError, snapshot};

/// A policy network ready to act.
#[derive(Clone, Debug)]
pub struct PolicyNetwork {
    observation_size: usize,
    action_size: usize,
    torso: Torso,
    head: HeadNetwork,
}

impl PolicyNetwork {
    /// Decodes a snapshot, see [`snapshot::decode`].
    ///
    /// # Errors
    /// The bytes are no valid snapshot.
    pub fn from_snapshot(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        Self::from_weights(&snapshot::decode(snapshot)?)
    }

    fn from_weights(weights: &PolicyWeights) -> Result<Self, SnapshotError> {
        let tensors = Tensors::new(&weights.tensors);
        let network = &weights.network;
        let plan = network.plan(weights.observation_size, weights.action_size)?;
        Ok(Self {
            observation_size: weights.observation_size,
            action_size: weights.action_size,
            torso: Torso::new(&plan.network, plan.normaliser, &tensors)?,
            head: HeadNetwork::new(network, &plan, &tensors)?,
        })
    }

    /// Length of an observation.
    pub fn observation_size(&self) -> usize {
        self.observation_size
    }

    /// Length of an action.
    pub fn action_size(&self) -> usize {
        self.action_size
    }

    /// The distribution over actions given `observation`.
    ///
    /// # Panics
    /// If `observation` has not [`Self::observation_size`] elements.
    pub fn forward(&mut self, observation: &[f32]) -> HeadOutput<'_> {
        assert_eq!(
            observation.len(),
            self.observation_size,
            "length of the observation"
        );
        self.batch(observation).head(0);
        self.head.output()
    }

    /// Draws an action given `observation`, clipped to [-1, 1].
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn sample<R: Rng + ?Sized>(
        &mut self,
        observation: &[f32],
        rng: &mut R,
        action: &mut [f32],
    ) {
        self.sample_with_log_prob(observation, rng, action);
        clip(action);
    }

    /// Draws an action given `observation`, as the distribution has it: a Gaussian's may be outside
    /// [-1, 1]. Returns the logarithm of its density, or of its probability for a categorical head.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn sample_with_log_prob<R: Rng + ?Sized>(
        &mut self,
        observation: &[f32],
        rng: &mut R,
        action: &mut [f32],
    ) -> f32 {
        assert_eq!(observation.len(), self.observation_size);
        self.batch(observation).sample(0, rng, action)
    }

    /// The most likely action given `observation`, clipped to [-1, 1].
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn mode(&mut self, observation: &[f32], action: &mut [f32]) {
        assert_eq!(observation.len(), self.observation_size);
        self.batch(observation).mode(0, action);
    }

    /// Looks at `observations` `[rows, observation_size]`, all in one pass over the weights. What it says of each
    /// is, bit for bit, what it says of it alone.
    ///
    /// # Panics
    /// If their length is no multiple of [`Self::observation_size`], or 0.
    pub fn batch(&mut self, observations: &[f32]) -> Rows<'_> {
        let rows = observations.len() / self.observation_size;
        assert!(
            rows > 0 && observations.len() == rows * self.observation_size,
            "length of the observations"
        );
        simd::dispatch(Forward {
            network: self,
            observations,
            rows,
        });
        Rows {
            network: self,
            row: 0,
        }
    }
}

/// What a policy says of a batch of observations.
#[derive(Debug)]
pub struct Rows<'a> {
    network: &'a mut PolicyNetwork,
    /// The one that the head has looked at.
    row: usize,
}

impl Rows<'_> {
    /// Draws an action for observation `row`, as [`PolicyNetwork::sample_with_log_prob`].
    ///
    /// # Panics
    /// If there is no such row, or `action` has the wrong length.
    pub fn sample<R: Rng + ?Sized>(&mut self, row: usize, rng: &mut R, action: &mut [f32]) -> f32 {
        assert_eq!(
            action.len(),
            self.network.action_size,
            "length of the action"
        );
        self.head(row).sample(rng, action)
    }

    /// The most likely action for observation `row`, clipped to [-1, 1].
    ///
    /// # Panics
    /// If there is no such row, or `action` has the wrong length.
    pub fn mode(&mut self, row: usize, action: &mut [f32]) {
        assert_eq!(
            action.len(),
            self.network.action_size,
            "length of the action"
        );
        self.head(row).mode(action);
        clip(action);
    }

    fn head(&mut self, row: usize) -> &HeadNetwork {
        if row != self.row {
            let PolicyNetwork { torso, head, .. } = &mut *self.network;
            let features = torso.features(row);
            simd::dispatch(Head { head, features });
            self.row = row;
        }
        &self.network.head
    }
}

/// Clips a canonical action to its range, as it is carried out.
pub fn clip(action: &mut [f32]) {
    action.iter_mut().for_each(|a| *a = a.clamp(-1.0, 1.0));
}

/// The torso for all rows, and the head for the first, which is all of them as a rule.
struct Forward<'a> {
    network: &'a mut PolicyNetwork,
    observations: &'a [f32],
    rows: usize,
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let PolicyNetwork { torso, head, .. } = self.network;
        torso.forward::<FMA>(self.observations, self.rows);
        head.forward::<FMA>(torso.features(0));
    }
}

struct Head<'a> {
    head: &'a mut HeadNetwork,
    features: &'a [f32],
}

impl Kernel for Head<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.head.forward::<FMA>(self.features);
    }
}
