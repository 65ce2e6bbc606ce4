//! Which PostgreSQL, and whether the way there is encrypted: with `sslmode=require` (or libpq's `verify-full`, which is the
//! same here) it is, and the server's certificate is checked, its name too, against the system's roots and those given. In
//! any other mode it is not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A PostgreSQL, from `postgres://USER:PASSWORD@HOST/DATABASE` or libpq's `host=… dbname=…`. Holds the password, which it
/// does not show.
#[derive(Clone)]
pub struct Server {
    pub(super) config: tokio_postgres::Config,
    /// Where it is encrypted.
    pub(super) tls: Option<MakeRustlsConnect>,
    /// Roots besides the system's, in PEM.
    ca: Option<String>,
}

impl Server {
    /// With these roots besides the system's, in PEM.
    ///
    /// # Errors
    /// Why it leads nowhere, without the password.
    pub fn new(text: &str, ca: Option<String>) -> Result<Self, String> {
        let text = text.replace("sslmode=verify-full", "sslmode=require");
        // The error's own words may quote what stood there; its cause says which part it is.
        let mut config: tokio_postgres::Config =
            text.parse().map_err(|_| "it is not written as one".to_owned())?;
        if config.get_hosts().is_empty() {
            return Err("it names no host".to_owned());
        }
        config.application_name("freeswitch-zammad");
        config.connect_timeout(CONNECT_MAX);
        let tls = match config.get_ssl_mode() {
            SslMode::Require => Some(MakeRustlsConnect::new(tls(ca.as_deref())?)),
            _ => None,
        };
        Ok(Self { config, tls, ca })
    }

    /// Whether what goes there is encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether what goes there can be read by others on its way.
    #[must_use]
    pub fn is_open_to_others(&self) -> bool {
        let near = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        };
        self.config.get_ssl_mode() == SslMode::Prefer && !self.config.get_hosts().iter().all(near)
    }
}

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text, None)
    }
}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config && self.ca == other.ca
    }
}

impl Eq for Server {}

impl std::fmt::Debug for Server {
    /// As the library shows it: without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

fn tls(ca: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = Vec::new();
    for root in CertificateDer::pem_slice_iter(ca.unwrap_or_default().as_bytes()) {
        roots.push(root.map_err(|why| format!("the CA file holds no certificate that can be used: {why}"))?);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
        .map_err(|why| format!("TLS cannot be set up: {why}"))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| format!("TLS cannot be set up: {why}"))?;
    // The one that the system has.
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(config.with_no_client_auth())
}
