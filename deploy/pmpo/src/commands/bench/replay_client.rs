//! A client process of `pmpo bench replay`: says `ready`, waits for a line, measures itself and prints
//! the figures as JSON.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use pmpo_replay_client::{Sampler, SamplerConfig, StepBatch, Writer, WriterConfig};
use pmpo_service::process::cpu_seconds;
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, transition};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::partner;
use crate::cli::{BenchItem, BenchRole, ReplayClientArgs};
use crate::output::answer;

const OBSERVATIONS: usize = 24;
const ACTIONS: usize = 6;
/// Items in a sampled batch.
const BATCH: usize = 256;
/// Different steps; then they repeat. Of images there are fewer, for they are large.
const STEPS: usize = 4096;
const IMAGES: usize = 256;
/// Pixels of an image, each of three bytes.
const IMAGE: [usize; 3] = [80, 80, 3];
/// Inserted before the measurement, so that connections, memory and code are warm.
const WARM_UP_ITEMS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

impl BenchItem {
    pub(super) fn sequence_length(self) -> usize {
        match self {
            Self::Transition | Self::Image => 1,
            Self::Seq64 | Self::Seq64Overlapping | Self::Seq64Ragged => 64,
        }
    }

    /// The fewest steps of an item, where they differ.
    pub(super) fn min_sequence_length(self) -> Option<usize> {
        (self == Self::Seq64Ragged).then_some(1)
    }

    /// Steps from the end of the item before to that of item `index`.
    fn stride(self, index: usize) -> usize {
        match self {
            Self::Transition | Self::Image => 1,
            Self::Seq64 => 64,
            Self::Seq64Overlapping => 8,
            // All lengths in turn, in no order.
            Self::Seq64Ragged => 1 + index * 37 % 64,
        }
    }

    /// Bytes of a step; a sequence has no next observation, and no policy version.
    pub(super) fn signature(self) -> Signature {
        let mut signature = transition::signature(OBSERVATIONS, ACTIONS);
        if self == Self::Image {
            signature.columns[0] = ColumnSpec::new("observation", DType::U8, &IMAGE);
        }
        if self != Self::Transition {
            signature.columns.truncate(transition::NEXT_OBSERVATION);
        }
        signature
    }

    /// Bytes that an item adds, on average.
    pub(super) fn raw_bytes(self) -> usize {
        let strides = (0..64).map(|index| self.stride(index));
        strides.sum::<usize>() * self.signature().item_bytes() / 64
    }

    fn different_steps(self) -> usize {
        match self {
            Self::Image => IMAGES,
            _ => STEPS,
        }
    }
}

/// What one client did.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Figures {
    pub(super) items: u64,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
}

/// Runs one client.
pub(crate) fn run(args: &ReplayClientArgs) -> Result<()> {
    let runtime = Runtime::new()?;
    let figures = match args.role {
        BenchRole::Writer => write(args, &runtime)?,
        BenchRole::Sampler => sample(args, &runtime)?,
    };
    answer!("{}", serde_json::to_string(&figures)?)?;
    Ok(())
}

fn write(args: &ReplayClientArgs, runtime: &Runtime) -> Result<Figures> {
    let signature = args.item.signature();
    let config = WriterConfig {
        max_in_flight_items: args.in_flight_steps,
        sequence_length: args.item.sequence_length(),
        ..WriterConfig::default()
    };
    let (addresses, shutdown) = ([args.replay.clone()], CancellationToken::new());
    let (handle, specs) = (runtime.handle(), signature.clone());
    let mut writer = Writer::new(&addresses, config, specs, handle, &shutdown)?;
    let mut steps = Steps::new(args.item, args.seed);
    while steps.items < WARM_UP_ITEMS {
        writer.push_steps(&steps.batch(args.item.sequence_length())?)?;
    }
    writer.flush(PATIENCE)?;
    let before = writer.acknowledged_items();
    measured(args.seconds, |until| {
        while Instant::now() < until {
            writer.push_steps(&steps.batch(args.batch_steps)?)?;
        }
        writer.flush(PATIENCE)?;
        Ok(writer.acknowledged_items() - before)
    })
}

fn sample(args: &ReplayClientArgs, runtime: &Runtime) -> Result<Figures> {
    let config = SamplerConfig {
        batch_size: BATCH,
        prefetch_batches: 4,
        sequence_length: args.item.sequence_length(),
        ragged: args.item.min_sequence_length().is_some(),
        compression: args.compression.into(),
        ..SamplerConfig::default()
    };
    let (addresses, shutdown) = ([args.replay.clone()], CancellationToken::new());
    let (handle, signature) = (runtime.handle(), args.item.signature());
    let mut sampler = Sampler::new(&addresses, config, signature, handle, &shutdown)?;
    sampler.next()?;
    measured(args.seconds, |until| {
        let mut items = 0;
        while Instant::now() < until {
            let batch = sampler.next()?;
            let lengths: usize = batch
                .items
                .lengths
                .iter()
                .map(|&steps| steps as usize)
                .sum();
            let rows = match args.item.min_sequence_length() {
                Some(_) => lengths,
                None => BATCH * args.item.sequence_length(),
            };
            ensure!(batch.columns.len() == rows, "{} rows", batch.columns.len());
            items += BATCH as u64;
        }
        Ok(items)
    })
}

/// Measures `work`, which returns the items it moved, once the parent says so.
fn measured(seconds: f64, work: impl FnOnce(Instant) -> Result<u64>) -> Result<Figures> {
    partner::tell_and_hear("ready")?;
    let (start, cpu) = (Instant::now(), cpu_seconds(std::process::id())?);
    let items = work(start + Duration::from_secs_f64(seconds))?;
    Ok(Figures {
        items,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds(std::process::id())? - cpu,
    })
}

/// Steps of a smooth random walk, like joint angles but with live mantissas: they compress no better
/// than experience does.
struct Steps {
    item: BenchItem,
    signature: Signature,
    /// For each column the values of all steps.
    values: Vec<Vec<u8>>,
    /// Steps and items so far.
    next: usize,
    items: usize,
    /// Steps at which the next item ends.
    ends_at: usize,
}

impl Steps {
    fn new(item: BenchItem, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let signature = item.signature();
        let columns = signature.columns.iter().map(|spec| {
            let mut walk = vec![0.0f32; spec.elements()];
            let steps = item.different_steps();
            let mut bytes = Vec::with_capacity(steps * spec.item_bytes());
            for step in 0..steps as i64 {
                if spec.dtype == DType::I64 {
                    bytes.extend(step.to_le_bytes());
                    continue;
                }
                if spec.dtype == DType::U8 {
                    bytes.extend((0..spec.elements()).map(|_| rng.random::<u8>()));
                    continue;
                }
                for x in &mut walk {
                    *x = 0.98 * *x + rng.random_range(-0.2..0.2);
                    bytes.extend(x.to_le_bytes());
                }
            }
            bytes
        });
        Self {
            item,
            values: columns.collect(),
            signature,
            next: 0,
            items: 0,
            ends_at: match item.min_sequence_length() {
                Some(_) => item.stride(0),
                None => item.sequence_length(),
            },
        }
    }

    /// The next steps, put together one by one as an adder does.
    fn batch(&mut self, steps: usize) -> Result<StepBatch> {
        let specs = &self.signature.columns;
        let mut columns: Vec<Vec<u8>> = specs
            .iter()
            .map(|spec| Vec::with_capacity(steps * spec.item_bytes()))
            .collect();
        let (mut ends, mut lengths) = (Vec::new(), Vec::new());
        let length = self.item.sequence_length();
        for position in 0..steps {
            let at = self.next % self.item.different_steps();
            for ((column, values), spec) in columns.iter_mut().zip(&self.values).zip(specs) {
                let bytes = spec.item_bytes();
                column.extend_from_slice(&values[at * bytes..(at + 1) * bytes]);
            }
            self.next += 1;
            if self.next < self.ends_at {
                continue;
            }
            if length > 1 {
                ends.push(position as u32);
            }
            if self.item.min_sequence_length().is_some() {
                lengths.push(self.item.stride(self.items) as u32);
            }
            self.items += 1;
            self.ends_at += self.item.stride(self.items);
        }
        let columns = columns.into_iter().map(Bytes::from).collect();
        let batch = ColumnBatch::new(&self.signature, steps, columns)?;
        let batch = StepBatch::new(length, batch, ends, Vec::new())?;
        Ok(batch.with_lengths(1..=length as u32, lengths)?)
    }
}
