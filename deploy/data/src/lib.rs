//! Data sets of recorded episodes, with or without labels: what offline learning reads.
//!
//! Three layouts are read:
//!
//! - Minari's (minari.farama.org, version 0.5.4), in Parquet, Arrow and HDF5;
//! - LeRobot's v3 (github.com/huggingface/lerobot, `CODEBASE_VERSION` "v3.0"), without images;
//! - D4RL's flat HDF5 files (github.com/Farama-Foundation/D4RL).
//!
//! What is written is Minari's Parquet layout, so that its users need nothing new, and two things that
//! Minari passes over: a nullable Boolean column `label` (accepted, rejected, neither) and in the metadata
//! the specification of the environment under the key `pmpo`. LeRobot's layout is written for its users.
//!
//! Episodes are read one at a time and checked whole, so a data set may be larger than memory, and nothing
//! that is damaged passes. Nothing half-written is seen under a data set's path: it is made in a hidden folder
//! beside it, synced, and renamed.

mod columns;
mod d4rl;
mod dataset;
mod episode;
mod error;
mod folder;
mod hdf5;
mod json;
mod lerobot;
mod minari;
mod relabel;
mod table;

pub use dataset::{About, DataSet, Format, export, import};
pub use episode::Episode;
pub use error::DataError;
pub use lerobot::export_lerobot;
pub use minari::Writer;
pub use relabel::relabel;
