//! The section `[security]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SecurityError;

/// Where a process's credentials are, and what one peer may take of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityConfig {
    /// Certificate chain (PEM). A server shows it to everyone, a client to servers that ask.
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Certificates of the CA (PEM). A client trusts servers of this CA alone; a server then takes
    /// only clients with a certificate of this CA.
    pub tls_ca: Option<PathBuf>,
    /// Tokens: lines `role token` for a server; one line, the token, is enough for a client.
    pub token_file: Option<PathBuf>,
    /// Serve beyond this machine although nothing keeps strangers out.
    pub insecure: bool,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections from one address, or of one /64 of IPv6.
    pub max_connections_per_peer: usize,
    /// Calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// Calls a second on one connection, each stream counted once.
    pub max_requests_per_second_per_connection: u32,
    /// Seconds within which a connection must make a call that is allowed, TLS included.
    pub first_call_timeout_s: f64,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            token_file: None,
            insecure: false,
            max_connections: 8192,
            max_connections_per_peer: 1024,
            max_streams_per_connection: 256,
            max_requests_per_second_per_connection: 10_000,
            first_call_timeout_s: 30.0,
        }
    }
}

impl SecurityConfig {
    /// Refuses what cannot be. Files are looked at by [`Credentials::load`](super::Credentials::load).
    ///
    /// # Errors
    /// [`SecurityError::Config`] names the key and its value.
    pub fn validate(&self) -> Result<(), SecurityError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), None) => {
                let got = format!("only security.tls_cert = {}", cert.display());
                return Err(refused("tls_key", "a file, as tls_cert is given", got));
            }
            (None, Some(key)) => {
                let got = format!("only security.tls_key = {}", key.display());
                return Err(refused("tls_cert", "a file, as tls_key is given", got));
            }
            _ => {}
        }
        let counts = [
            ("max_connections", self.max_connections as u64),
            (
                "max_connections_per_peer",
                self.max_connections_per_peer as u64,
            ),
            (
                "max_streams_per_connection",
                self.max_streams_per_connection.into(),
            ),
            (
                "max_requests_per_second_per_connection",
                self.max_requests_per_second_per_connection.into(),
            ),
        ];
        for (field, count) in counts {
            if count == 0 {
                return Err(refused(field, "at least 1", "0".to_owned()));
            }
        }
        let seconds = self.first_call_timeout_s;
        if !(0.001..=86_400.0).contains(&seconds) {
            let (field, got) = ("first_call_timeout_s", seconds.to_string());
            return Err(refused(field, "0.001 to 86400 seconds", got));
        }
        Ok(())
    }

    /// Whether a server with this configuration asks for a certificate.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.tls_cert.is_some() && self.tls_ca.is_some()
    }

    /// Whether a server with this configuration lets in only whom it knows.
    pub(crate) fn keeps_strangers_out(&self) -> bool {
        self.asks_for_certificates() || self.token_file.is_some()
    }

    pub(crate) fn first_call_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.first_call_timeout_s)
    }
}

fn refused(field: &'static str, expected: &'static str, got: String) -> SecurityError {
    SecurityError::Config {
        field,
        expected,
        got,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_be_and_quotes_it() {
        assert!(SecurityConfig::default().validate().is_ok());
        let refused = |change: fn(&mut SecurityConfig)| {
            let mut config = SecurityConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (
                refused(|c| c.tls_cert = Some("a.pem".into())),
                "security.tls_key: expected a file, as tls_cert is given, got only \
                 security.tls_cert = a.pem",
            ),
            (
                refused(|c| c.max_connections = 0),
                "security.max_connections: expected at least 1, got 0",
            ),
            (
                refused(|c| c.first_call_timeout_s = -1.0),
                "security.first_call_timeout_s: expected 0.001 to 86400 seconds, got -1",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }
}
