//! Why a process cannot be as safe as it was told to be.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Security that cannot be had as it was asked for.
#[derive(Debug, Error)]
pub enum SecurityError {
    /// A key of the configuration.
    #[error("security.{field}: expected {expected}, got {got}")]
    Config {
        /// The key.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A file that a key names.
    #[error("security.{field}: {}: {reason}", path.display())]
    File {
        /// The key.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never its content.
        reason: String,
    },
    /// Files that are each in order and do not fit together.
    #[error("security.{field}: {reason}")]
    Tls {
        /// The key.
        field: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Others could reach the port, and nothing would keep them out.
    #[error(
        "cannot listen on {0} without mutual TLS or tokens, since other machines can reach it: give \
         --tls-cert, --tls-key and --tls-ca, or --token-file (`pmpo certs` makes all of them), or say \
         --insecure"
    )]
    Open(SocketAddr),
    /// The socket.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}
