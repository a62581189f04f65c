//! What a process shows and asks for, read from its files and read again when they change.

use std::fmt;
use std::fs::Metadata;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::metrics::counter;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use super::tokens::Tokens;
use super::{Role, SecurityConfig, SecurityError, metrics, tls};

/// How old what is known of the files may be. Looking takes a few microseconds, and reading them once they
/// have changed a millisecond, so that a caller does it where it is; the others do not wait for it.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// The same where something unknown was shown, which the files may have come to know.
const URGENT_CHECK_PERIOD: Duration = Duration::from_millis(50);

/// A cheap handle to the credentials of one process; the default is none, and asks for none.
#[derive(Clone)]
pub struct Credentials(Arc<Store>);

struct Store {
    config: SecurityConfig,
    role: Role,
    state: Mutex<State>,
    /// Told whenever what the files say has come into force.
    changed: watch::Sender<()>,
    warned: AtomicBool,
}

struct State {
    material: Arc<Material>,
    /// Of the files that `material` is made of.
    stamps: Vec<Option<Stamp>>,
    /// Of those that could not be used, so that it is said once.
    failed: Option<Vec<Option<Stamp>>>,
    checked: Instant,
}

/// What the files said last.
#[derive(Default)]
pub(crate) struct Material {
    pub(crate) server: Option<Arc<ServerConfig>>,
    verifier: Option<tls::Verifier>,
    pub(crate) client: Option<Arc<ClientConfig>>,
    pub(crate) tokens: Option<Tokens>,
    /// What this process shows as a client.
    pub(crate) authorization: Option<HeaderValue>,
}

/// Changes when the file does, or is replaced.
#[derive(Clone, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(of: Metadata) -> Self {
        Self {
            device: of.dev(),
            inode: of.ino(),
            bytes: of.len(),
            modified: (of.mtime(), of.mtime_nsec()),
        }
    }
}

impl Default for Credentials {
    fn default() -> Self {
        Self(Arc::new(Store {
            config: SecurityConfig::default(),
            role: Role::Admin,
            state: Mutex::new(State {
                material: Arc::default(),
                stamps: Vec::new(),
                failed: None,
                checked: Instant::now(),
            }),
            changed: watch::Sender::default(),
            warned: AtomicBool::new(false),
        }))
    }
}

impl fmt::Debug for Credentials {
    /// Names of files, never their content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("role", &self.0.role)
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        (self.0.role, &self.0.config) == (other.0.role, &other.0.config)
    }
}

impl Credentials {
    /// Reads the files that `config` names, for a process of this role.
    ///
    /// # Errors
    /// The configuration contradicts itself, or a file cannot be used.
    pub fn load(config: &SecurityConfig, role: Role) -> Result<Self, SecurityError> {
        config.validate()?;
        if config.tls_cert.is_some() && config.tls_ca.is_none() && role.only_calls() {
            return Err(SecurityError::Config {
                field: "tls_ca",
                expected: "a file, as tls_cert is given and this process only connects",
                got: "none".to_owned(),
            });
        }
        let stamps = stamps(config);
        Ok(Self(Arc::new(Store {
            state: Mutex::new(State {
                material: Arc::new(Material::read(config, role)?),
                stamps,
                failed: None,
                checked: Instant::now(),
            }),
            changed: watch::Sender::default(),
            config: config.clone(),
            role,
            warned: AtomicBool::new(false),
        })))
    }

    pub(crate) fn config(&self) -> &SecurityConfig {
        &self.0.config
    }

    /// Whether connections of this process are TLS.
    pub(crate) fn use_tls(&self) -> bool {
        self.0.config.tls_ca.is_some()
    }

    /// Says once that the token goes over the network for everyone to read, where it does.
    pub(crate) fn warn_of_plaintext(&self, host: &str) {
        let exposed = self.0.config.token_file.is_some() && !self.use_tls() && !is_loopback(host);
        if exposed && !self.0.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                host,
                "the token is sent without TLS: whoever is on the way can read it; give --tls-ca"
            );
        }
    }

    /// Whether a server may listen at `address`, with a warning where it should not.
    pub(crate) fn check_listening(&self, address: SocketAddr) -> Result<(), SecurityError> {
        let config = &self.0.config;
        if config.tls_ca.is_some() && config.tls_cert.is_none() {
            return Err(SecurityError::Config {
                field: "tls_cert",
                expected: "a file, as tls_ca is given and this process serves",
                got: "none".to_owned(),
            });
        }
        if let (Some(path), Some(tokens)) = (&config.token_file, &self.material().tokens)
            && !tokens.name_roles()
        {
            let expected = "expected lines `role token`, as this process serves";
            return Err(token_file(path, expected));
        }
        if address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        if !config.keeps_strangers_out() {
            if !config.insecure {
                return Err(SecurityError::Open(address));
            }
            tracing::warn!(%address, "insecure: whoever reaches this port may do everything");
        } else if config.tls_cert.is_none() {
            tracing::warn!(
                %address,
                "tokens without TLS: whoever is on the way can read them; give --tls-cert and --tls-key"
            );
        }
        Ok(())
    }

    /// What the files say, or said not longer than a second ago.
    pub(crate) fn material(&self) -> Arc<Material> {
        self.0.material(CHECK_PERIOD)
    }

    /// Looks at the files for as long as it is polled, so that those hear of a change who wait for one.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(CHECK_PERIOD).await;
            self.newest_material();
        }
    }

    /// Hears of changes from here on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// The same, where it matters that it is not old.
    pub(crate) fn newest_material(&self) -> Arc<Material> {
        self.0.material(URGENT_CHECK_PERIOD)
    }
}

impl Store {
    fn material(&self, period: Duration) -> Arc<Material> {
        let former = {
            let mut state = self.lock();
            if state.checked.elapsed() < period {
                return Arc::clone(&state.material);
            }
            // Whoever comes while the files are looked at goes on with what there is.
            state.checked = Instant::now();
            Arc::clone(&state.material)
        };
        let stamps = stamps(&self.config);
        let is_news =
            |state: &State| stamps != state.stamps && state.failed.as_ref() != Some(&stamps);
        if !is_news(&self.lock()) {
            return former;
        }
        let read = Material::read(&self.config, self.role)
            .and_then(|material| self.still_serves(&former, material));
        let mut state = self.lock();
        match read {
            Ok(material) => {
                state.material = Arc::new(material);
                state.stamps = stamps;
                state.failed = None;
                self.changed.send_replace(());
                counter!(metrics::RELOADS).increment(1);
                tracing::info!("credentials have changed and are in force");
            }
            Err(error) => {
                // A certificate may be there before its key: the next change tries again.
                counter!(metrics::RELOAD_FAILURES).increment(1);
                tracing::warn!(%error, "changed credentials cannot be used, the former stay");
                state.failed = Some(stamps);
            }
        }
        Arc::clone(&state.material)
    }

    /// A server's tokens go on naming roles, or nobody would have one.
    fn still_serves(&self, former: &Material, new: Material) -> Result<Material, SecurityError> {
        let names = |material: &Material| material.tokens.as_ref().is_some_and(Tokens::name_roles);
        match &self.config.token_file {
            Some(path) if names(former) && !names(&new) => {
                Err(token_file(path, "expected lines `role token`, as before"))
            }
            _ => Ok(new),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("holders of the lock do not panic")
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn files(config: &SecurityConfig) -> impl Iterator<Item = &PathBuf> {
    let files = [
        &config.tls_cert,
        &config.tls_key,
        &config.tls_ca,
        &config.token_file,
    ];
    files.into_iter().flatten()
}

/// Taken before the files are read: what changes meanwhile is then seen the next time.
fn stamps(config: &SecurityConfig) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| std::fs::metadata(path).ok().map(Stamp::from);
    files(config).map(stamp).collect()
}

impl Material {
    /// Whose bearer token this is, as it stands in a call's header.
    pub(crate) fn token_role(&self, authorization: &HeaderValue) -> Option<Role> {
        let token = authorization.as_bytes().strip_prefix(b"Bearer ")?;
        self.tokens.as_ref()?.role(token)
    }

    /// Whether a client that has shown these certificates would still get in with them.
    pub(crate) fn trusts(&self, certificates: &[CertificateDer<'_>]) -> bool {
        let verifier = self.verifier.as_ref();
        verifier.is_none_or(|verifier| tls::trusts(verifier, certificates))
    }

    fn read(config: &SecurityConfig, role: Role) -> Result<Self, SecurityError> {
        let verifier = tls::verifier(config)?;
        let mut material = Self {
            server: tls::server(config, verifier.as_ref())?,
            verifier,
            client: tls::client(config)?,
            ..Self::default()
        };
        if let Some(path) = &config.token_file {
            let tokens = read_tokens(path)?;
            let own = tokens.own(role);
            // A replay calls nobody.
            if own.is_none() && role != Role::Replay {
                return Err(token_file(path, format!("no token of role {role} in it")));
            }
            material.authorization = own
                .map(bearer)
                .transpose()
                .map_err(|()| token_file(path, "expected visible ASCII characters"))?;
            material.tokens = Some(tokens);
        }
        Ok(material)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ()> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(drop)?;
    // Not in logs, and in no table of compressed headers.
    value.set_sensitive(true);
    Ok(value)
}

fn read_tokens(path: &Path) -> Result<Tokens, SecurityError> {
    let text = std::fs::read_to_string(path).map_err(|error| token_file(path, error))?;
    Tokens::parse(&text).map_err(|error| token_file(path, error))
}

fn token_file(path: &Path, reason: impl ToString) -> SecurityError {
    SecurityError::File {
        field: "token_file",
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "oooooooooooooooooooooooo";
    const NEW: &str = "nnnnnnnnnnnnnnnnnnnnnnnn";

    #[test]
    fn changed_files_are_read_again_and_broken_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let write = |text: String| {
            crate::files::write_atomically(&path, text.as_bytes()).unwrap();
        };
        write(format!("actor {OLD}"));
        let config = SecurityConfig {
            token_file: Some(path.clone()),
            ..SecurityConfig::default()
        };
        let credentials = Credentials::load(&config, Role::Actor).unwrap();
        let shown = || {
            let material = credentials.0.material(Duration::ZERO);
            material.authorization.clone().unwrap()
        };
        assert_eq!(shown(), format!("Bearer {OLD}"));
        write(format!("actor {OLD}\nactor {NEW}"));
        assert_eq!(shown(), format!("Bearer {NEW}"));
        write("actor".to_owned());
        assert_eq!(shown(), format!("Bearer {NEW}"));
        write(format!("actor {OLD}"));
        assert_eq!(shown(), format!("Bearer {OLD}"));
        assert!(shown().is_sensitive());
        assert!(!format!("{credentials:?}").contains(OLD));

        let message = Credentials::load(&config, Role::Learner).unwrap_err();
        assert!(
            message
                .to_string()
                .ends_with("no token of role learner in it")
        );
        assert!(Credentials::load(&config, Role::Replay).is_ok());
    }
}
