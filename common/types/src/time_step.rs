//! What an environment returns. Follows `dm_env.TimeStep`; the observation is borrowed from the
//! environment, which keeps one flat buffer, so that a step allocates nothing.

/// Position of a [`TimeStep`] within its episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepType {
    /// The reset: no reward and no discount.
    First,
    /// Neither first nor last.
    Mid,
    /// The episode ended, by termination (discount 0) or by a time limit (discount 1).
    Last,
}

impl StepType {
    /// dm_env's number, as in a column of steps.
    pub fn number(self) -> i64 {
        match self {
            Self::First => 0,
            Self::Mid => 1,
            Self::Last => 2,
        }
    }

    /// The one of a number.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::First, Self::Mid, Self::Last]
            .into_iter()
            .find(|kind| kind.number() == number)
    }

    /// dm_env's spelling, as written to trace files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "FIRST",
            Self::Mid => "MID",
            Self::Last => "LAST",
        }
    }
}

/// One step of an environment.
///
/// Termination is `discount == 0`; a time limit is [`StepType::Last`] with `discount == 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeStep<'a> {
    /// Position within the episode.
    pub step_type: StepType,
    /// Reward of the transition into this step; `None` at [`StepType::First`].
    pub reward: Option<f64>,
    /// Discount of the transition into this step, in [0, 1]; `None` at [`StepType::First`].
    pub discount: Option<f64>,
    /// Flat observation, `[observation_size]`, fields in the task's order.
    pub observation: &'a [f64],
}

impl TimeStep<'_> {
    /// Whether this step ends its episode.
    pub fn is_last(&self) -> bool {
        self.step_type == StepType::Last
    }
}
