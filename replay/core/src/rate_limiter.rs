//! Keeps sampling and inserting in step. Pure arithmetic over counters, after Reverb's
//! `SampleToInsertRatio` (Cassirer et al. 2021, section 3.4).
//!
//! With `diff = inserts * samples_per_insert - samples` and
//! `offset = min_size_to_sample * samples_per_insert`, once `min_size_to_sample` items are held
//!
//! ```text
//! offset - error_buffer <= diff <= offset + error_buffer
//! ```
//!
//! An insert that would pass the upper bound waits for samples, a batch that would pass the lower one
//! waits for inserts. Both wait at once only if some diff is above `max_diff - samples_per_insert` and
//! below `min_diff + batch`; there is none when `samples_per_insert + batch <= 2 * error_buffer`,
//! which bounds the batches a limiter can serve. Unlike Reverb's, the limiter knows batches: a batch is
//! drawn whole or waits whole, while of a batch of inserts as many are let in as fit. And its bounds
//! may change while it runs: diff is counted from a base, which is set anew so that the side that was
//! ahead stays ahead, by no more than the new buffer.
//!
//! Where items are removed once they have been drawn often enough, draws may run out while inserts
//! are ahead, for instance because items left unsampled. The table then lets inserts through, as it
//! does below `min_size_to_sample`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::TableConfig;

/// Counts are whole, their product with a fractional `samples_per_insert` is rounded. A thousandth of
/// a sample keeps rounding from blocking both sides at once, for 10^12 samples.
const ROUNDING: f64 = 1e-3;

/// The rules there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimiterKind {
    /// Either side waits when it is ahead of the ratio by `error_buffer`.
    SamplesPerInsert,
    /// Samples wait for `min_size_to_sample` items; inserts never wait.
    MinSize,
    /// Inserts wait while `max_size` items are held, so none leaves before it was drawn
    /// `max_times_sampled` times.
    Queue,
    /// Nobody waits, but samples for something to draw.
    None,
}

impl LimiterKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::SamplesPerInsert,
        Self::MinSize,
        Self::Queue,
        Self::None,
    ];

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SamplesPerInsert => "samples_per_insert",
            Self::MinSize => "min_size",
            Self::Queue => "queue",
            Self::None => "none",
        }
    }
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocked {
    /// A sampler, for `min_size_to_sample` items.
    MinSize,
    /// A sampler, for inserts: samples are ahead by `error_buffer`, or there is nothing to draw.
    Inserts,
    /// A writer, for samples: inserts are ahead by `error_buffer`, or the queue is full.
    Samples,
}

impl Blocked {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::MinSize, Self::Inserts, Self::Samples];

    /// Lower-case name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MinSize => "min_size",
            Self::Inserts => "inserts",
            Self::Samples => "samples",
        }
    }
}

/// Why a call is held back: the counter in its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hold {
    /// What it waits for.
    pub reason: Blocked,
    /// The counter.
    pub counter: &'static str,
    /// Its value.
    pub value: f64,
    /// The value it has to reach: samplers wait for more, writers for less.
    pub bound: f64,
}

const DIFF: &str = "inserts * samples_per_insert - samples";

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, order) = match self.reason {
            Blocked::MinSize => ("min_size_to_sample items", "at least"),
            Blocked::Inserts => ("inserts", "at least"),
            Blocked::Samples => ("samples", "at most"),
        };
        let Self {
            counter,
            value,
            bound,
            ..
        } = self;
        write!(
            f,
            "waiting for {what}: {counter} is {value}, {order} {bound} is needed"
        )
    }
}

/// The bounds of [`LimiterKind::SamplesPerInsert`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    samples_per_insert: f64,
    offset: f64,
    error_buffer: f64,
}

impl Ratio {
    pub(crate) fn new(config: &TableConfig) -> Self {
        Self {
            samples_per_insert: config.samples_per_insert,
            offset: config.min_size_to_sample as f64 * config.samples_per_insert,
            error_buffer: config.error_buffer(),
        }
    }

    /// The largest batch that cannot be blocked for ever.
    pub(crate) fn max_batch(&self) -> u64 {
        // Negative and NaN become 0.
        (2.0 * self.error_buffer - self.samples_per_insert + ROUNDING) as u64
    }

    fn min_diff(&self) -> f64 {
        self.offset - self.error_buffer
    }

    fn max_diff(&self) -> f64 {
        self.offset + self.error_buffer
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Ratio { ratio: Ratio, min_size: u64 },
    MinSize(u64),
    Queue(u64),
    None,
}

/// Counters, and where `diff` is counted from: all that outlives the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LimiterState {
    /// Items ever inserted.
    pub inserts: u64,
    /// Items ever sampled.
    pub samples: u64,
    /// Items ever removed.
    pub removals: u64,
    /// `inserts` at the base.
    pub base_inserts: u64,
    /// `samples` at the base.
    pub base_samples: u64,
    /// `diff` at the base.
    pub base_diff: f64,
}

/// Counters and bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimiter {
    rule: Rule,
    state: LimiterState,
}

impl RateLimiter {
    /// A limiter that has seen nothing, for a valid configuration.
    pub fn new(config: &TableConfig) -> Self {
        let min_size = config.min_size_to_sample as u64;
        let rule = match config.limiter {
            LimiterKind::SamplesPerInsert => Rule::Ratio {
                ratio: Ratio::new(config),
                min_size,
            },
            LimiterKind::MinSize => Rule::MinSize(min_size),
            LimiterKind::Queue => Rule::Queue(config.max_size as u64),
            LimiterKind::None => Rule::None,
        };
        Self {
            rule,
            state: LimiterState::default(),
        }
    }

    /// The rules of `config`, from now on.
    pub fn reconfigure(&mut self, config: &TableConfig) {
        let new = Self::new(config).rule;
        if new == self.rule {
            return;
        }
        if let Rule::Ratio { ratio, min_size } = new {
            let size = self.size();
            let ahead = match self.rule {
                _ if size < min_size => (size as f64 - min_size as f64) * ratio.samples_per_insert,
                Rule::Ratio { ratio: old, .. } => {
                    let ahead = self.diff(&old) - old.offset;
                    ahead.clamp(-ratio.error_buffer, ratio.error_buffer)
                }
                _ => 0.0,
            };
            self.state.base_inserts = self.state.inserts;
            self.state.base_samples = self.state.samples;
            self.state.base_diff = ratio.offset + ahead;
        }
        self.rule = new;
    }

    /// The items have all left, and their ratio is counted from nothing again.
    pub fn reset(&mut self) {
        let LimiterState {
            inserts, samples, ..
        } = self.state;
        self.state = LimiterState {
            inserts,
            samples,
            removals: inserts,
            base_inserts: inserts,
            base_samples: samples,
            base_diff: 0.0,
        };
    }

    /// All that outlives the process.
    pub fn state(&self) -> LimiterState {
        self.state
    }

    /// Goes on from a state that a limiter with the rules of `stored` had.
    pub fn restore(&mut self, state: LimiterState, stored: &TableConfig, config: &TableConfig) {
        self.rule = Self::new(stored).rule;
        self.state = state;
        self.reconfigure(config);
    }

    /// The largest batch that cannot be blocked for ever, and what bounds it.
    pub fn max_batch(&self) -> (u64, &'static str) {
        match &self.rule {
            Rule::Ratio { ratio, .. } => {
                (ratio.max_batch(), "2 * error_buffer - samples_per_insert")
            }
            Rule::Queue(max_size) => (*max_size, "max_size"),
            Rule::MinSize(_) | Rule::None => (u64::MAX, "no bound"),
        }
    }

    /// Items ever inserted.
    pub fn inserts(&self) -> u64 {
        self.state.inserts
    }

    /// Items ever sampled.
    pub fn samples(&self) -> u64 {
        self.state.samples
    }

    /// Items held.
    pub fn size(&self) -> u64 {
        self.state.inserts - self.state.removals
    }

    /// How many of `items` may be inserted now. `short` of them are needed before the table can give
    /// anybody a batch again, whatever the ratio says.
    pub fn insertable(&self, items: u64, short: u64) -> u64 {
        match &self.rule {
            Rule::Ratio { ratio, min_size } => {
                let to_min_size = min_size.saturating_sub(self.size());
                let room = ratio.max_diff() - self.diff(ratio) + ROUNDING;
                let most = (room / ratio.samples_per_insert) as u64;
                to_min_size.max(short).max(most).min(items)
            }
            Rule::Queue(max_size) => max_size.saturating_sub(self.size()).min(items),
            Rule::MinSize(_) | Rule::None => items,
        }
    }

    /// What an insert that may not go on waits for.
    pub fn insert_hold(&self) -> Hold {
        let (counter, value, bound) = match &self.rule {
            Rule::Ratio { ratio, .. } => {
                let bound = ratio.max_diff() - ratio.samples_per_insert;
                (DIFF, self.diff(ratio), bound)
            }
            Rule::Queue(max_size) => ("size", self.size() as f64, *max_size as f64 - 1.0),
            Rule::MinSize(_) | Rule::None => ("size", self.size() as f64, f64::INFINITY),
        };
        Hold {
            reason: Blocked::Samples,
            counter,
            value,
            bound,
        }
    }

    /// Whether `items` may be sampled now.
    ///
    /// # Errors
    /// What the sampler has to wait for.
    pub fn check_sample(&self, items: u64) -> Result<(), Hold> {
        let min_size = match self.rule {
            Rule::Ratio { min_size, .. } | Rule::MinSize(min_size) => min_size,
            Rule::Queue(_) | Rule::None => 1,
        };
        if self.size() < min_size {
            return Err(Hold {
                reason: Blocked::MinSize,
                counter: "size",
                value: self.size() as f64,
                bound: min_size as f64,
            });
        }
        if let Rule::Ratio { ratio, .. } = &self.rule {
            let (value, bound) = (self.diff(ratio), ratio.min_diff() + items as f64);
            if value < bound - ROUNDING {
                return Err(Hold {
                    reason: Blocked::Inserts,
                    counter: DIFF,
                    value,
                    bound,
                });
            }
        }
        Ok(())
    }

    /// Counts items that were inserted.
    pub fn inserted(&mut self, items: u64) {
        self.state.inserts += items;
    }

    /// Counts items that were sampled.
    pub fn sampled(&mut self, items: u64) {
        self.state.samples += items;
    }

    /// Counts items that were removed.
    pub fn removed(&mut self, items: u64) {
        self.state.removals += items;
    }

    fn diff(&self, ratio: &Ratio) -> f64 {
        let inserts = (self.state.inserts - self.state.base_inserts) as f64;
        let samples = (self.state.samples - self.state.base_samples) as f64;
        self.state.base_diff + inserts * ratio.samples_per_insert - samples
    }
}

#[cfg(test)]
mod tests;
