//! Who may connect, and what they may call: TLS and tokens, both read again when their files change,
//! rights by role, and limits that no peer can exceed.
//!
//! [`Credentials`] is what a process shows and what it asks for. Servers take it through
//! [`grpc::Listener`](crate::grpc::Listener), clients through
//! [`grpc::connect_lazy`](crate::grpc::connect_lazy). Nothing that a peer sent gets into a log, except
//! its address, the names of methods and roles that we know, and the cleaned name of its run.

mod config;
mod connection;
mod credentials;
mod door;
mod error;
mod guard;
mod limits;
pub mod metrics;
mod refusals;
mod rights;
mod role;
mod tls;
mod tokens;

pub use config::SecurityConfig;
pub use credentials::Credentials;
pub use error::SecurityError;
pub use role::{Role, UnknownRole};

pub(crate) use connection::Server;
pub(crate) use door::Door;
pub(crate) use guard::Guard;
pub(crate) use limits::Limits;
pub(crate) use refusals::{Reason, Refusals};
pub(crate) use tls::connector;
