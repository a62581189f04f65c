//! TLS 1.3 with rustls: what a server and a client show and ask for, and the role in a certificate.
//! Sessions are not resumed, so that every connection shows its certificate anew.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;
use webpki::EndEntityCert;

use super::refusals::{Reason, Refused};
use super::{Credentials, Role, SecurityConfig, SecurityError};
use crate::tcp::{self, BoxError, Connecting};

const ALPN: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What a server asks of a client's certificate; `None` where it asks for none.
pub(crate) fn verifier(config: &SecurityConfig) -> Result<Option<Verifier>, SecurityError> {
    if !config.asks_for_certificates() {
        return Ok(None);
    }
    let roots = roots(config)?.map(Arc::new);
    let verifier = |roots| {
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        builder.build().map_err(tls("tls_ca"))
    };
    roots.map(verifier).transpose()
}

/// Whether a client would get in with these certificates, its own and those up to the CA.
pub(crate) fn trusts(verifier: &Verifier, certificates: &[CertificateDer<'_>]) -> bool {
    let Some((own, others)) = certificates.split_first() else {
        return false;
    };
    let verified = verifier.verify_client_cert(own, others, UnixTime::now());
    verified.is_ok()
}

pub(crate) type Verifier = Arc<dyn ClientCertVerifier>;

/// What a server speaks; `None` where it speaks plaintext.
pub(crate) fn server(
    config: &SecurityConfig,
    verifier: Option<&Verifier>,
) -> Result<Option<Arc<ServerConfig>>, SecurityError> {
    let Some((certificates, key)) = identity(config)? else {
        return Ok(None);
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls("tls_cert"))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder
        .with_single_cert(certificates, key)
        .map_err(tls("tls_cert"))?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Some(Arc::new(server)))
}

/// What a client speaks; `None` where it speaks plaintext.
pub(crate) fn client(config: &SecurityConfig) -> Result<Option<Arc<ClientConfig>>, SecurityError> {
    let Some(roots) = roots(config)? else {
        return Ok(None);
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls("tls_ca"))?
        .with_root_certificates(roots);
    let mut client = match identity(config)? {
        Some((certificates, key)) => builder
            .with_client_auth_cert(certificates, key)
            .map_err(tls("tls_cert"))?,
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(Some(Arc::new(client)))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(config: &SecurityConfig) -> Result<Option<Identity>, SecurityError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok(None);
    };
    let certificates = certificates("tls_cert", cert)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| file("tls_key", key, format!("no usable private key: {error}")))?;
    Ok(Some((certificates, key)))
}

fn roots(config: &SecurityConfig) -> Result<Option<RootCertStore>, SecurityError> {
    let Some(path) = &config.tls_ca else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca", path)? {
        roots
            .add(certificate)
            .map_err(|error| file("tls_ca", path, error))?;
    }
    Ok(Some(roots))
}

fn certificates(
    field: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| file(field, path, error))?;
    if found.is_empty() {
        return Err(file(field, path, "no certificate in it"));
    }
    Ok(found)
}

fn file(field: &'static str, path: &Path, reason: impl ToString) -> SecurityError {
    SecurityError::File {
        field,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn tls<E: ToString>(field: &'static str) -> impl FnOnce(E) -> SecurityError {
    move |error| SecurityError::Tls {
        field,
        reason: error.to_string(),
    }
}

/// The role that a verified certificate names.
pub(crate) fn role(certificates: &[CertificateDer<'_>]) -> Option<Role> {
    let certificate = EndEntityCert::try_from(certificates.first()?).ok()?;
    certificate.valid_uri_names().find_map(Role::from_uri)
}

/// Why a handshake failed, from the server's side. What rustls says of it may quote what the peer has
/// sent, such as the names in its certificate, so it is not said again.
pub(crate) fn refused(error: &io::Error) -> Refused {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    let reason = match error {
        Some(rustls::Error::NoCertificatesPresented) => Reason::NoCertificate,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => Reason::ExpiredCertificate,
        Some(rustls::Error::InvalidCertificate(_)) => Reason::WrongCertificate,
        Some(rustls::Error::InvalidMessage(_)) => Reason::Plaintext,
        _ => Reason::Handshake,
    };
    Refused::new(reason, "TLS failed")
}

/// Connects with TLS, with the credentials of that moment.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    tcp: tcp::Connector,
    credentials: Credentials,
    name: ServerName<'static>,
}

/// A connector to `host`, whose certificate must name it; an error says what a host is.
pub(crate) fn connector(credentials: &Credentials, host: &str) -> Result<Connector, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    Ok(Connector {
        tcp: tcp::Connector::new(),
        credentials: credentials.clone(),
        name,
    })
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.tcp.call(address);
        let client = self.credentials.material().client.clone();
        let name = self.name.clone();
        Box::pin(async move {
            // The files that say so are the configuration's, which does not change.
            let client = client.ok_or(io::Error::from(io::ErrorKind::Unsupported))?;
            let socket = connecting.await?.into_inner();
            let tls = TlsConnector::from(client);
            Ok(TokioIo::new(tls.connect(name, socket).await?))
        })
    }
}
