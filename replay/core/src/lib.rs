//! The replay table: which items are kept, which are drawn, and who has to wait.
//!
//! No clock, thread, file or socket is here, and every random draw comes from a generator seeded by
//! the caller: the same calls give the same table. The parts are those of Reverb (Cassirer et al.
//! 2021): a [`Selector`](selector::Selector) for sampling and one for removal, and a [`RateLimiter`].
//! Unlike Reverb, steps live in columns of raw little-endian bytes, so a batch is one gather per
//! column; the table numbers every writer's steps, so what is delivered twice is stored once; and it
//! can write down all it does, as bytes for its owner to keep, and go on from them ([`Restorer`]). Or it
//! is copied as a whole, to the next draw ([`Table::save`]).

mod config;
mod configure;
mod error;
mod items;
mod kind;
mod log;
mod maintenance;
mod rate_limiter;
mod restore;
mod rows;
mod saved;
pub mod selector;
mod steps;
mod store;
mod table;
mod writers;

pub use config::TableConfig;
pub use configure::Changes;
pub use error::Error;
pub use items::key_ordinal;
pub use log::{Run, is_of_an_older_version};
pub use rate_limiter::{Blocked, Hold, LimiterKind, LimiterState, RateLimiter};
pub use restore::{Believed, Found, Loader, Restorer};
pub use table::{Removed, Table};
