//! `pmpo.replay`: the product's replay server and client for programs in Python. One file a class; what they are
//! called with and answer is between NumPy's arrays and columns of bytes, and nothing of the protocol is here but
//! the calls with one answer.

mod buffer;
mod client;
mod columns;
mod error;
mod link;
mod message;
mod process;
mod sampler;
mod server;
mod tables;
mod writer;

pub(crate) use client::Client;
pub(crate) use sampler::{Batch, Sampler};
pub(crate) use server::Server;
pub(crate) use writer::Writer;
