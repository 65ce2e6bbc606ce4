//! A client for one Zammad from what the configuration, or the environment alone, says of it.

use std::path::Path;

use super::{Config, ConfigError, Environment, Needs, Overrides, ZammadConfig};
use crate::cti::{Builder, ClientError, CtiClient};

/// Why the environment makes no client.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// What it says is incomplete or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it says cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl CtiClient {
    /// As the environment of this process says: `FREESWITCH_ZAMMAD_ZAMMAD_URL` (or `…_URL_FILE`, a file that holds it) and
    /// `FREESWITCH_ZAMMAD_ZAMMAD_VERIFY_SSL`; or py-zammad-cti's `ZammadCTI_URL` and `ZammadCTI_VERIFY_SSL`, in its
    /// README's spelling or in the capitals that it reads. Certificates are checked unless it says otherwise. Where
    /// `FREESWITCH_ZAMMAD_CONFIG` names a file, what that says holds too (`ca_file`, `timeout_s`), and of several
    /// Zammads in it the first is meant.
    ///
    /// # Errors
    /// Nothing says where Zammad is, or something is wrong with what does.
    pub fn from_env() -> Result<Self, EnvironmentError> {
        Ok(Builder::from_environment(&Environment::from_os(std::env::vars_os()))?.build()?)
    }
}

impl Builder {
    /// As [`CtiClient::from_env`], from an environment that is at hand, and with more to say before it is built.
    ///
    /// ```
    /// use freeswitch_zammad::{cti::Builder, config::Environment};
    ///
    /// let variables = [("ZammadCTI_URL", "https://zammad.example.com/api/v1/cti/TOKEN")];
    /// let client = Builder::from_environment(&variables.into_iter().collect::<Environment>())?.build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`CtiClient::from_env`].
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let loaded = Config::load_for(Needs::Zammads, &Overrides::default(), environment, Path::new(""))?;
        for warning in &loaded.warnings {
            tracing::warn!(name: "configuration_warning", warning = %warning, "the environment's configuration");
        }
        Ok(Self::from(loaded.config.zammads.first().expect("a checked configuration has a Zammad")))
    }
}

impl From<&ZammadConfig> for Builder {
    fn from(zammad: &ZammadConfig) -> Self {
        CtiClient::builder(zammad.url.expose()).tls(zammad.tls.clone()).timeout(zammad.timeout)
    }
}
