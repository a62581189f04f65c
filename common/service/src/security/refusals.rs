//! What was refused: counted each time, logged at most once a second for each reason.

use std::net::IpAddr;
use std::time::Instant;

use ::metrics::counter;

use super::metrics;
use crate::sparse::Sparse;

/// Why a connection or a call was refused; the name is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The listening socket could not give a connection.
    Accept,
    /// `max_connections`.
    Connections,
    /// `max_connections_per_peer`.
    ConnectionsPerPeer,
    /// Not this machine, where nothing keeps strangers out and nobody has said `insecure`.
    Elsewhere,
    /// Not TLS where TLS is spoken.
    Plaintext,
    /// Not HTTP/2: TLS on a plaintext port, or another protocol.
    Protocol,
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
    /// A token or a CA that is no longer in the files.
    Withdrawn,
    /// `max_requests_per_second_per_connection`.
    Rate,
}

impl Reason {
    const COUNT: usize = Self::Rate as usize + 1;

    const ALL: [Self; Self::COUNT] = [
        Self::Accept,
        Self::Connections,
        Self::ConnectionsPerPeer,
        Self::Elsewhere,
        Self::Plaintext,
        Self::Protocol,
        Self::FirstCallTimeout,
        Self::NoCertificate,
        Self::ExpiredCertificate,
        Self::WrongCertificate,
        Self::Handshake,
        Self::NoToken,
        Self::WrongToken,
        Self::Role,
        Self::Withdrawn,
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
            Self::Elsewhere => "elsewhere",
            Self::Plaintext => "plaintext",
            Self::Protocol => "protocol",
            Self::FirstCallTimeout => "first_call_timeout",
            Self::NoCertificate => "no_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::WrongCertificate => "wrong_certificate",
            Self::Handshake => "handshake",
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::Role => "role",
            Self::Withdrawn => "withdrawn",
            Self::Rate => "rate",
        }
    }
}

/// Why, and what is said of it; nothing that the peer has sent.
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Refused {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// The log's share of the refusals of one server: a line a second for each reason.
#[derive(Default)]
pub(crate) struct Refusals([Sparse; Reason::COUNT]);

impl Refusals {
    /// Counts a refusal and perhaps logs it. `detail` holds nothing that the peer has sent.
    pub(crate) fn note(&self, reason: Reason, peer: Option<IpAddr>, detail: &str) {
        counter!(metrics::REFUSALS, "reason" => reason.as_str()).increment(1);
        let Some(suppressed) = self.0[reason as usize].line(Instant::now()) else {
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
}
