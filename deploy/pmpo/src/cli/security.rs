//! Arguments that say who this process is and whom it lets in, and those of `pmpo certs`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct SecurityArgs {
    /// Certificate to show (PEM); a server then speaks TLS.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM).
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA of the other side (PEM); a server then asks for certificates, a client speaks TLS.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Tokens: lines `role token` for a server, this process's token for a client.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Serve beyond this machine although nothing keeps strangers out.
    #[arg(long)]
    insecure: bool,
}

impl SecurityArgs {
    /// The flags as assignments.
    pub(crate) fn assignments(&self) -> impl Iterator<Item = String> + '_ {
        let files = [
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
            ("tls_ca", &self.tls_ca),
            ("token_file", &self.token_file),
        ];
        let files = files.into_iter().filter_map(|(key, file)| {
            let file = toml::Value::from(file.as_ref()?.to_string_lossy().into_owned());
            Some(format!("security.{key}={file}"))
        });
        let insecure = self.insecure.then(|| "security.insecure=true".to_owned());
        files.chain(insecure)
    }
}

#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    /// Folder to write to; made if absent. What is in it and still good stays as it is.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Name or address of a machine that serves, beside localhost and the role's own name; repeatable.
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// Days that the roles' certificates are good for; the CA's is good for ten times as many.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
}
