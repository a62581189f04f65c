//! The columns of experience, as actors write and the learner reads them.

/// The n-step transition, the item that actors insert and the learner samples.
pub mod transition {
    use crate::{ColumnSpec, DType, Signature};

    /// Index of `observation`, f32 `[observation_size]`.
    pub const OBSERVATION: usize = 0;
    /// Index of `action`, f32 `[action_size]`, in [-1, 1] per dimension (canonical).
    pub const ACTION: usize = 1;
    /// Index of `reward`, f32: the n-step discounted sum of rewards.
    pub const REWARD: usize = 2;
    /// Index of `discount`, f32: the product of the environment's discounts and gamma^n, which
    /// multiplies the value of `next_observation`.
    pub const DISCOUNT: usize = 3;
    /// Index of `next_observation`, f32 `[observation_size]`.
    pub const NEXT_OBSERVATION: usize = 4;
    /// Index of `policy_version`, i64: the version that chose `action`.
    pub const POLICY_VERSION: usize = 5;

    /// The signature of transitions between vectors of these sizes.
    pub fn signature(observation_size: usize, action_size: usize) -> Signature {
        Signature {
            columns: vec![
                ColumnSpec::new("observation", DType::F32, &[observation_size]),
                ColumnSpec::new("action", DType::F32, &[action_size]),
                ColumnSpec::new("reward", DType::F32, &[]),
                ColumnSpec::new("discount", DType::F32, &[]),
                ColumnSpec::new("next_observation", DType::F32, &[observation_size]),
                ColumnSpec::new("policy_version", DType::I64, &[]),
            ],
        }
    }
}

/// One step of an environment: the row that actors write. Items are windows of such rows.
///
/// Everything is as the environment gave it: discounting over steps, and any scaling of rewards, is the
/// learner's, so that a changed setting is right for what is stored. An episode of `N` steps is `N` rows
/// and one or more after them whose `step_type` is LAST: those hold the state the episode ended in, and
/// no action was taken there.
pub mod step {
    use crate::{ColumnSpec, DType, Signature};

    /// Index of `observation`, f32 `[observation_size]`: the state the step was taken in.
    pub const OBSERVATION: usize = 0;
    /// Index of `action`, f32 `[action_size]`: canonical, as the policy drew it, before clipping.
    pub const ACTION: usize = 1;
    /// Index of `reward`, f32.
    pub const REWARD: usize = 2;
    /// Index of `discount`, f32: the environment's discount, 0 at a termination.
    pub const DISCOUNT: usize = 3;
    /// Index of `log_prob`, f32: the logarithm of the density or probability that the acting policy
    /// gave `action`.
    pub const LOG_PROB: usize = 4;
    /// Index of `policy_version`, i64: the version that chose `action`.
    pub const POLICY_VERSION: usize = 5;
    /// Index of `step_type`, i64: a [`StepType`](crate::StepType) by its number, of the state the step
    /// was taken in.
    pub const STEP_TYPE: usize = 6;

    /// Index of `label`, f32, of data sets alone: 1 accepted, -1 rejected, 0 neither.
    pub const LABEL: usize = 7;

    /// The signature of steps of a data set.
    pub fn labelled_signature(observation_size: usize, action_size: usize) -> Signature {
        let mut signature = signature(observation_size, action_size);
        let label = ColumnSpec::new("label", DType::F32, &[]);
        signature.columns.push(label);
        signature
    }

    /// The signature of steps with vectors of these sizes.
    pub fn signature(observation_size: usize, action_size: usize) -> Signature {
        Signature {
            columns: vec![
                ColumnSpec::new("observation", DType::F32, &[observation_size]),
                ColumnSpec::new("action", DType::F32, &[action_size]),
                ColumnSpec::new("reward", DType::F32, &[]),
                ColumnSpec::new("discount", DType::F32, &[]),
                ColumnSpec::new("log_prob", DType::F32, &[]),
                ColumnSpec::new("policy_version", DType::I64, &[]),
                ColumnSpec::new("step_type", DType::I64, &[]),
            ],
        }
    }
}
