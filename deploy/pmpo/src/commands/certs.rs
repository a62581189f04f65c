//! `pmpo certs`: a CA of one's own, and for each role a certificate that names it and a token. Called
//! again it leaves alone what is still good, so that it can run before every start.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use pmpo_service::files::{write_atomically, write_secret_atomically};
use pmpo_service::security::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::cli::CertsArgs;
use crate::failure::{self, Usage};
use crate::output::answer;

const CA_NAME: &str = "PMPO lab CA";

/// Clocks of the lab may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

const DAY: Duration = Duration::from_secs(86_400);

/// The CA lives as many times as long as what it signs.
const CA_LIVES: u32 = 10;

/// A certificate with less than this part of its life left is made anew.
const RENEWED_PART: u32 = 10;

const TOKEN_BYTES: usize = 32;

/// Makes what is missing or no longer good, and says what that was.
pub(crate) fn certs(args: &CertsArgs) -> Result<()> {
    for host in &args.host {
        ServerName::try_from(host.as_str())
            .map_err(|_| anyhow::anyhow!("--host {host}: expected a name or an IP address"))
            .map_err(Usage::new)?;
    }
    std::fs::create_dir_all(&args.out).map_err(failure::storage(&args.out))?;
    let lab = Lab {
        folder: &args.out,
        life: DAY * args.days,
        hosts: &args.host,
    };
    let mut made = Vec::new();
    let (authority, is_new) = lab.authority()?;
    if is_new {
        made.push("ca");
    }
    let mut tokens = String::new();
    for role in Role::ALL {
        if lab.certificate(role, &authority)? {
            made.push(role.as_str());
        }
        tokens += &format!("{role} {}\n", lab.token(role)?);
    }
    // More lines than these are the operator's, such as tokens on their way out.
    let path = args.out.join("tokens");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    if !tokens
        .lines()
        .all(|line| old.lines().any(|old| old == line))
    {
        write_secret_atomically(&path, tokens.as_bytes()).map_err(failure::storage(&path))?;
    }
    let folder = args.out.display();
    if made.is_empty() {
        answer!("{folder}: all there")?;
    } else {
        answer!("{folder}: made {}", made.join(", "))?;
    }
    Ok(())
}

struct Lab<'a> {
    folder: &'a Path,
    life: Duration,
    hosts: &'a [String],
}

/// Who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Lab<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The CA of the folder, and whether it was made now.
    fn authority(&self) -> Result<(Authority, bool)> {
        let (path, key_path) = (self.path("ca.pem"), self.path("ca-key.pem"));
        let is_new = !path.exists() || !key_path.exists();
        ensure!(
            is_new != path.exists(),
            "{}: is there without {}, so nothing can be signed; remove it to have a new CA",
            path.display(),
            key_path.display()
        );
        let key = if is_new {
            let key = KeyPair::generate()?;
            let certificate = ca_params(self.life * CA_LIVES)?.self_signed(&key)?;
            write_secret_atomically(&key_path, key.serialize_pem().as_bytes())
                .map_err(failure::storage(&key_path))?;
            write_atomically(&path, certificate.pem().as_bytes())
                .map_err(failure::storage(&path))?;
            key
        } else {
            read_key(&key_path)?
        };
        let authority = Authority {
            certificate: read_certificate(&path)?,
            issuer: Issuer::new(ca_params(self.life * CA_LIVES)?, key),
        };
        Ok((authority, is_new))
    }

    /// Makes the role's certificate and key unless they are good; whether it did.
    fn certificate(&self, role: Role, authority: &Authority) -> Result<bool> {
        let path = self.path(&format!("{role}.pem"));
        let key_path = self.path(&format!("{role}-key.pem"));
        let soon = SystemTime::now() + self.life / RENEWED_PART;
        if self
            .check(role, authority, [&path, &key_path], soon)
            .is_ok()
        {
            return Ok(false);
        }
        let key = KeyPair::generate()?;
        let certificate = self
            .role_params(role)
            .map_err(Usage::new)?
            .signed_by(&key, &authority.issuer)?;
        // A server that reads them meanwhile finds that they do not fit, and reads them again.
        write_secret_atomically(&key_path, key.serialize_pem().as_bytes())
            .map_err(failure::storage(&key_path))?;
        write_atomically(&path, certificate.pem().as_bytes()).map_err(failure::storage(&path))?;
        self.check(role, authority, [&path, &key_path], SystemTime::now())
            .with_context(|| format!("{}: just made", path.display()))?;
        Ok(true)
    }

    /// Whether the files are the role's, of this CA, for all hosts and good at that time.
    fn check(
        &self,
        role: Role,
        authority: &Authority,
        [path, key_path]: [&Path; 2],
        time: SystemTime,
    ) -> Result<()> {
        let der = read_certificate(path)?;
        let certificate = EndEntityCert::try_from(&der)?;
        let anchor = anchor_from_trusted_cert(&authority.certificate)?;
        let time = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH)?);
        certificate.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            time,
            KeyUsage::client_auth(),
            None,
            None,
        )?;
        for host in self.names(role) {
            certificate.verify_is_valid_for_subject_name(&ServerName::try_from(host)?)?;
        }
        let uri = role.uri();
        ensure!(
            certificate.valid_uri_names().any(|name| name == uri),
            "names another role"
        );
        ensure!(
            *certificate.subject_public_key_info() == read_key(key_path)?.subject_public_key_info(),
            "has another key"
        );
        Ok(())
    }

    /// What the role's processes are reached as.
    fn names(&self, role: Role) -> Vec<String> {
        let own = ["localhost", "127.0.0.1", "::1", role.as_str()].map(str::to_owned);
        own.into_iter().chain(self.hosts.iter().cloned()).collect()
    }

    fn role_params(&self, role: Role) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(self.names(role)).context("--host")?;
        params
            .subject_alt_names
            .push(SanType::URI(role.uri().try_into()?));
        params
            .distinguished_name
            .push(DnType::CommonName, role.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // An actor's certificate must not pass for a server's.
        if !role.only_calls() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, self.life);
        Ok(params)
    }

    /// The role's token; made where there is none.
    fn token(&self, role: Role) -> Result<String> {
        let path = self.path(&format!("{role}.token"));
        let place = || path.display().to_string();
        if path.exists() {
            return Ok(std::fs::read_to_string(&path)
                .with_context(place)?
                .trim()
                .to_owned());
        }
        let mut bytes = [0; TOKEN_BYTES];
        let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
        random.context("/dev/urandom")?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_secret_atomically(&path, format!("{token}\n").as_bytes())
            .map_err(failure::storage(&path))?;
        Ok(token)
    }
}

/// The same for every CA made here, so that its key is enough to go on signing.
fn ca_params(life: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, life);
    Ok(params)
}

fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + life).into();
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(path).with_context(|| path.display().to_string())
}

fn read_key(path: &Path) -> Result<KeyPair> {
    let place = || path.display().to_string();
    let pem = std::fs::read_to_string(path).with_context(place)?;
    KeyPair::from_pem(&pem).with_context(place)
}
