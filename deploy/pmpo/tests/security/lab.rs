//! A lab: the credentials of `pmpo certs`, some that are not good, and roles as processes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use pmpo_service::announce::Announcement;
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};

pub const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(
            start.elapsed() < LIMIT,
            "{what} did not happen within {LIMIT:?}"
        );
        std::thread::sleep(POLL);
    }
}

/// A folder of credentials, by `pmpo certs`.
pub struct Lab {
    pub folder: PathBuf,
}

impl Lab {
    pub fn new(pmpo: &Path, folder: &Path) -> Self {
        let made = Command::new(pmpo)
            .arg("certs")
            .arg("--out")
            .arg(folder)
            .output();
        let made = made.expect("pmpo certs");
        assert!(made.status.success(), "{made:?}");
        let folder = folder.to_owned();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file of the lab")
    }

    /// What a process of this role is configured with.
    pub fn config(&self, role: Role) -> SecurityConfig {
        SecurityConfig {
            tls_cert: Some(self.path(&format!("{role}.pem"))),
            tls_key: Some(self.path(&format!("{role}-key.pem"))),
            tls_ca: Some(self.path("ca.pem")),
            token_file: Some(self.path(&format!("{role}.token"))),
            ..SecurityConfig::default()
        }
    }

    pub fn credentials(&self, role: Role) -> Credentials {
        Credentials::load(&self.config(role), role).expect("the lab's credentials")
    }

    /// The flags of a server of this role.
    pub fn server_flags(&self, role: Role) -> Vec<String> {
        let config = self.config(role);
        let flag = |name: &str, path: Option<PathBuf>| {
            [name.to_owned(), path.expect("a path").display().to_string()]
        };
        [
            flag("--tls-cert", config.tls_cert),
            flag("--tls-key", config.tls_key),
            flag("--tls-ca", config.tls_ca),
            flag("--token-file", Some(self.path("tokens"))),
        ]
        .concat()
    }

    /// A certificate of this lab's CA for an actor that was good until an hour ago.
    pub fn expired(&self) -> SecurityConfig {
        let ca_key = KeyPair::from_pem(&self.read("ca-key.pem")).expect("the CA's key");
        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, "PMPO lab CA");
        let issuer = Issuer::new(ca, ca_key);
        let mut params = CertificateParams::default();
        let uri = Role::Actor.uri().try_into().expect("ASCII");
        params.subject_alt_names.push(SanType::URI(uri));
        let hour = Duration::from_secs(3600);
        params.not_before = (SystemTime::now() - 2 * hour).into();
        params.not_after = (SystemTime::now() - hour).into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let (cert, key_path) = (self.path("expired.pem"), self.path("expired-key.pem"));
        std::fs::write(&cert, certificate.pem()).expect("expired.pem");
        std::fs::write(&key_path, key.serialize_pem()).expect("expired-key.pem");
        SecurityConfig {
            tls_cert: Some(cert),
            tls_key: Some(key_path),
            ..self.config(Role::Actor)
        }
    }
}

/// A role as a process, its log in a file; ended when dropped.
pub struct Process {
    pub announcement: Announcement,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `pmpo <role> <flags>` on ports that the system chooses; its files are in `folder`.
    pub fn start(pmpo: &Path, folder: &Path, role: &str, flags: &[String]) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let (announce, log) = (folder.join("announce.json"), folder.join("log"));
        let stderr = std::fs::File::create(&log).expect("a log");
        let mut child = Command::new(pmpo)
            .arg(role)
            .args(["--metrics", "127.0.0.1:0", "--announce"])
            .arg(&announce)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("pmpo");
        let announcement = wait_for("the start", || {
            let ended = child.try_wait().expect("wait");
            assert!(
                ended.is_none(),
                "{ended:?}: {}",
                std::fs::read_to_string(&log).expect("log")
            );
            Announcement::read(&announce).expect("announcement")
        });
        Self {
            announcement,
            log,
            child,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.announcement.listen.expect("it serves")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Of its metrics, the sum of those that `line` begins.
    pub fn metric(&self, line: &str) -> f64 {
        let metrics = metrics(self.announcement.metrics.expect("metrics"));
        let values = metrics.lines().filter(|found| found.starts_with(line));
        let values = values.filter_map(|found| found.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    pub fn refusals(&self, reason: &str) -> f64 {
        self.metric(&format!(
            "pmpo_security_refusals_total{{reason=\"{reason}\"}}"
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("pid {} could not be ended: {error}", self.child.id());
        }
    }
}

/// What `/metrics` at `address` says.
pub fn metrics(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).expect("the metrics' port");
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request).expect("a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}
