//! The shell every process wears: configuration, identity, logs, metrics, traces, gRPC defaults, security,
//! health, readiness, backoff, shutdown and files. No role's logic is here.

pub mod announce;
pub mod backoff;
pub mod config;
pub mod files;
pub mod folder_lock;
pub mod grpc;
pub mod health;
pub mod http;
pub mod identity;
mod log_line;
pub mod metrics;
pub mod process;
pub mod readiness;
pub mod security;
pub mod shutdown;
pub mod sparse;
mod tcp;
pub mod telemetry;
pub mod traces;
pub mod worker_time;
