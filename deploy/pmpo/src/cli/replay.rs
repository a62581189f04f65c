//! Arguments of the replay's tools: `pmpo tables` and `pmpo bench replay`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pmpo_replay_client::Compression;

use super::SecurityArgs;

#[derive(Debug, Args)]
pub(crate) struct TablesArgs {
    /// Addresses of the replay service's shards; repeatable.
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7001"
    )]
    pub(crate) replay: Vec<String>,
    /// Name of the table.
    #[arg(long, default_value = "replay")]
    pub(crate) table: String,
    /// Create the table that this file (TOML) describes as `[[replay.tables]]` of a configuration does, and
    /// show it.
    #[arg(long, value_name = "FILE", conflicts_with = "table")]
    pub(crate) create: Option<PathBuf>,
    /// Copy all tables of each service into a new folder of its data directory, while they are served.
    #[arg(long)]
    pub(crate) checkpoint: bool,
    /// Of such copies, leave so many, the new one among them, and remove older ones.
    #[arg(long, value_name = "COPIES", requires = "checkpoint", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep: Option<u32>,
    /// List the writers too, with the steps that each has stored.
    #[arg(long)]
    pub(crate) writers: bool,
    /// Change the samples per insert, until the service restarts; so do the others.
    #[arg(long)]
    pub(crate) samples_per_insert: Option<f64>,
    /// Change the items needed before the first is drawn.
    #[arg(long)]
    pub(crate) min_size_to_sample: Option<u64>,
    /// Change how far either side may run ahead.
    #[arg(long)]
    pub(crate) error_buffer: Option<f64>,
    /// Change the bound in items, of each shard.
    #[arg(long)]
    pub(crate) max_size: Option<u64>,
    /// Change the bound in bytes, of each shard; 0: none.
    #[arg(long)]
    pub(crate) max_bytes: Option<u64>,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

/// What an item of the replay benchmark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchItem {
    /// An n-step transition between observations of 24 floats, with 6 actions.
    Transition,
    /// 64 steps of the same sizes, which no other item shares.
    Seq64,
    /// The same with an item each 8 steps: each step is in 8 items and stored once.
    Seq64Overlapping,
    /// 1 to 64 steps of the same sizes, each item of its own length, which no other item shares.
    Seq64Ragged,
    /// A step with an image of 80 x 80 pixels and three bytes each, and 6 actions.
    Image,
}

/// How the columns of sampled batches come over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchCompression {
    /// As they are.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl From<BenchCompression> for Compression {
    fn from(compression: BenchCompression) -> Self {
        match compression {
            BenchCompression::None => Self::None,
            BenchCompression::Lz4 => Self::Lz4,
            BenchCompression::Zstd => Self::Zstd,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReplayBenchArgs {
    /// What is inserted.
    #[arg(long, value_enum, default_value = "transition")]
    pub(crate) item: BenchItem,
    /// Writer processes.
    #[arg(long, default_value_t = 4)]
    pub(crate) writers: usize,
    /// Seconds to insert, and again to sample.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Items the table holds; more are inserted than that, so that removing is measured too.
    #[arg(long)]
    pub(crate) max_size: Option<usize>,
    /// Steps a writer hands over at once, as an actor does.
    #[arg(long, default_value_t = 32)]
    pub(crate) batch_steps: usize,
    /// Steps a writer may have in flight.
    #[arg(long, default_value_t = 1024)]
    pub(crate) in_flight_steps: usize,
    /// Compression of sampled batches.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) compression: BenchCompression,
    /// Keep the table in this folder, which must be empty or absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Kill the server at the end, start it again on its folder and time that.
    #[arg(long, requires = "data_dir")]
    pub(crate) recovery: bool,
    /// Set one configuration key of the replay, for example `replay.table.remover="lifo"`; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// One JSON object on the last line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether a client of the benchmark writes or samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchRole {
    /// Inserts.
    Writer,
    /// Draws batches.
    Sampler,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayClientArgs {
    #[arg(value_enum)]
    pub(crate) role: BenchRole,
    #[arg(long)]
    pub(crate) replay: String,
    #[arg(long, value_enum)]
    pub(crate) item: BenchItem,
    #[arg(long, value_enum)]
    pub(crate) compression: BenchCompression,
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Seed of the data.
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) batch_steps: usize,
    #[arg(long)]
    pub(crate) in_flight_steps: usize,
}
