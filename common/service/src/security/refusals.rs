//! What was refused: counted each time, logged at most once a second for each reason.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::metrics::counter;

use super::metrics;

const LOG_PERIOD: Duration = Duration::from_secs(1);

/// Why a connection or a call was refused; the name is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The listening socket could not give a connection.
    Accept,
    /// `max_connections`.
    Connections,
    /// `max_connections_per_peer`.
    ConnectionsPerPeer,
    /// Not TLS where TLS is spoken.
    Plaintext,
    /// Not HTTP/2: TLS on a plaintext port, or another protocol.
    Protocol,
    /// Neither TLS nor HTTP/2 within `handshake_timeout_s`.
    HandshakeTimeout,
    /// No call within `first_call_timeout_s`.
    FirstCallTimeout,
    /// No client certificate, or one that names no role.
    NoCertificate,
    /// A client certificate that is no longer or not yet valid.
    ExpiredCertificate,
    /// A client certificate of another CA, or a broken one.
    WrongCertificate,
    /// The peer does not want our certificate, or TLS failed otherwise.
    Handshake,
    /// No bearer token.
    NoToken,
    /// A bearer token that is nobody's.
    WrongToken,
    /// A known role that may not call this.
    Role,
    /// `max_requests_per_second_per_peer`.
    Rate,
}

impl Reason {
    const COUNT: usize = Self::Rate as usize + 1;

    const ALL: [Self; Self::COUNT] = [
        Self::Accept,
        Self::Connections,
        Self::ConnectionsPerPeer,
        Self::Plaintext,
        Self::Protocol,
        Self::HandshakeTimeout,
        Self::FirstCallTimeout,
        Self::NoCertificate,
        Self::ExpiredCertificate,
        Self::WrongCertificate,
        Self::Handshake,
        Self::NoToken,
        Self::WrongToken,
        Self::Role,
        Self::Rate,
    ];

    /// Lets all reasons be seen before anyone is refused, so that the first one counts as an increase.
    pub(crate) fn show_all() {
        for reason in Self::ALL {
            counter!(metrics::REFUSALS, "reason" => reason.as_str()).absolute(0);
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Connections => "connections",
            Self::ConnectionsPerPeer => "connections_per_peer",
            Self::Plaintext => "plaintext",
            Self::Protocol => "protocol",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::FirstCallTimeout => "first_call_timeout",
            Self::NoCertificate => "no_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::WrongCertificate => "wrong_certificate",
            Self::Handshake => "handshake",
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::Role => "role",
            Self::Rate => "rate",
        }
    }
}

/// The log's share of the refusals of one server.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<[Lines; Reason::COUNT]>);

#[derive(Clone, Copy, Default)]
struct Lines {
    last: Option<Instant>,
    suppressed: u64,
}

impl Refusals {
    /// Counts a refusal and perhaps logs it. `detail` holds nothing that the peer has sent.
    pub(crate) fn note(&self, reason: Reason, peer: Option<IpAddr>, detail: &str) {
        counter!(metrics::REFUSALS, "reason" => reason.as_str()).increment(1);
        let Some(suppressed) = self.line(reason, Instant::now()) else {
            return;
        };
        tracing::warn!(
            reason = reason.as_str(),
            peer = peer.map(tracing::field::display),
            detail,
            suppressed,
            "refused"
        );
    }

    /// How many lines were left out since the last one; `None` where this one is left out too.
    fn line(&self, reason: Reason, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().expect("holders of the lock do not panic");
        let lines = &mut lines[reason as usize];
        if lines.last.is_some_and(|last| now < last + LOG_PERIOD) {
            lines.suppressed += 1;
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_for_each_reason() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.line(Reason::Rate, start), Some(0));
        for _ in 0..1000 {
            assert_eq!(refusals.line(Reason::Rate, start), None);
        }
        assert_eq!(refusals.line(Reason::Role, start), Some(0));
        assert_eq!(refusals.line(Reason::Rate, start + LOG_PERIOD), Some(1000));
    }
}
