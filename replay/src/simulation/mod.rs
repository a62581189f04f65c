//! The service without its sockets and threads, on a file system that loses what was not synced: the
//! product's own owner of a table, its disk, its syncer and its recovery, let work step by step.

mod durability;
mod files;
mod shard;
mod verdict;
mod world;

pub(crate) use shard::signature;
