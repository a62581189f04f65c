//! A lab: the credentials of `pmpo certs`, and some that are not good.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use pmpo_service::security::{Credentials, Role, SecurityConfig};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};

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
