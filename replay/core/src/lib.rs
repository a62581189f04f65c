//! The replay table: which items are kept, which are drawn, and who has to wait.
//!
//! No clock, thread or socket is here, and every random draw comes from a generator seeded by the
//! caller: the same calls give the same table. The parts are those of Reverb (Cassirer et al. 2021):
//! a [`Selector`](selector::Selector) for sampling and one for removal, and a [`RateLimiter`]. Unlike
//! Reverb, items live in columns of raw little-endian bytes, so a batch is one gather per column, and
//! the table numbers every writer's items, so what is delivered twice is stored once.

mod config;
mod error;
mod rate_limiter;
pub mod selector;
mod storage;
mod table;
mod writers;

pub use config::TableConfig;
pub use error::Error;
pub use rate_limiter::{Blocked, RateLimiter};
pub use table::Table;
