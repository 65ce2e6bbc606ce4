//! File, environment and flags in; one [`Config`] out that cannot be wrong, or every fault at once.
//!
//! Weakest first: systemd's credentials, the TOML file, the environment, the flags. A value that a stronger
//! layer gives replaces the weaker one whole: a `--freeswitch-password-file` also hides the file's
//! `password`.
//!
//! ```text
//! file ─ document ─▶ raw ─┐
//! environment ────────────┼─ overlay ─▶ raw ─ check ─▶ Config + warnings | all the faults
//! flags ──────────────────┘
//! ```
//!
//! Touches nothing but the files it is told of: the configuration, password and URL files, CA certificates.
//! The environment is an argument. Knows no socket and no clock. What the layers below have a type for (a country,
//! a rule, a cause) is theirs; `settings` puts together what they are run by.

mod admin;
mod change;
mod check;
mod client;
mod document;
mod fault;
mod measure;
mod needs;
mod outbox;
mod overlay;
mod raw;
mod secret;
mod settings;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::call::number::Country;
use crate::call::route::Route;
use crate::call::rule::Rule;
use crate::cti::cause::Cause;
use crate::cti::client::Tls;
use crate::outbox::Server;
use crate::queue::line::LatePolicy;

pub use crate::cti::url::CtiUrl;
pub use client::EnvironmentError;
pub use document::Kind;
pub use fault::{ConfigError, Fault, Origin, Unfit, Warning};
pub use needs::Needs;
pub use overlay::{Environment, Overrides, VARIABLES};
pub use raw::known_keys;
pub use secret::{Password, Secret};
pub use values::{Address, CauseName, EslUser, Extension, LogLevel, Number, SwitchName, ZammadName};

/// Read if no file is named, and only if it exists.
pub const DEFAULT_FILE: &str = "/etc/freeswitch-zammad/config.toml";

/// A checked configuration: every reference leads somewhere, every value is in its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the store lives. Not yet created.
    pub state_dir: PathBuf,
    /// How numbers are read and written.
    pub country: Country,
    /// At least one; names and addresses differ.
    pub switches: Vec<SwitchConfig>,
    /// At least one; names and URLs differ.
    pub zammads: Vec<ZammadConfig>,
    /// Which Zammad some calls go to instead of their switch's; the first that matches decides.
    pub routes: Vec<Route>,
    /// How events are delivered, the same for every Zammad.
    pub delivery: Delivery,
    /// Which calls are told.
    pub calls: Calls,
    /// What the operator calls some causes, instead of the built-in table.
    pub causes: BTreeMap<CauseName, Cause>,
    /// Our own people; extensions differ.
    pub agents: Vec<Agent>,
    /// Names for called numbers; numbers differ.
    pub queues: Vec<QueueName>,
    /// What the daemon says of itself.
    pub log: Log,
    /// Where it shows itself over HTTP, if anywhere.
    pub admin: Option<AdminConfig>,
    /// The outbox that it shares with other nodes, if any.
    pub outbox: Option<OutboxConfig>,
}

impl Config {
    /// Reads and checks all that there is. `default_file` is [`DEFAULT_FILE`] outside of tests; it is read
    /// only if it exists and neither a flag nor the environment names another.
    ///
    /// # Errors
    /// Every fault at once. A file that cannot be read or is not TOML hides what it says: then nothing else
    /// is judged.
    pub fn load(
        overrides: &Overrides,
        environment: &Environment,
        default_file: &Path,
    ) -> Result<Loaded, ConfigError> {
        Self::load_for(Needs::Everything, overrides, environment, default_file)
    }

    /// As [`Config::load`], but complete only as far as it is needed.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_for(
        needs: Needs,
        overrides: &Overrides,
        environment: &Environment,
        default_file: &Path,
    ) -> Result<Loaded, ConfigError> {
        let mut report = fault::Report::default();
        let raw = overlay::read_all(overrides, environment, default_file, &mut report);
        let config = raw.and_then(|mut raw| {
            needs::stand_in(&mut raw, needs);
            check::config(raw, &mut report)
        });
        let warnings = report.close()?;
        Ok(Loaded { config: config.expect("what could not be checked was reported"), warnings })
    }

    /// As [`Config::load`], but of a `text` that is at hand, as if it stood in the file `path`; and no file is read.
    /// For every secret in a file of its own something harmless stands in, and certificates count as not given, so
    /// this says what a text is worth and is nothing to run with. No credentials of systemd are looked for either.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn judge(
        text: &str,
        path: &Path,
        overrides: &Overrides,
        environment: &Environment,
    ) -> Result<Loaded, ConfigError> {
        let mut report = fault::Report::default();
        let raw = overlay::judge(text, path, overrides, environment, &mut report);
        let config = raw.and_then(|mut raw| {
            needs::stand_in_for_files(&mut raw);
            check::config(raw, &mut report)
        });
        let warnings = report.close()?;
        Ok(Loaded { config: config.expect("what could not be checked was reported"), warnings })
    }

    /// The Zammad that `switch` tells its calls to.
    ///
    /// # Panics
    /// If `switch` belongs to another configuration.
    #[must_use]
    pub fn zammad_of(&self, switch: &SwitchConfig) -> &ZammadConfig {
        let found = self.zammads.iter().find(|z| z.name == switch.zammad);
        found.expect("a switch of this configuration names a Zammad of it")
    }
}

/// A configuration, and what an operator should look at all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What to run with.
    pub config: Config,
    /// To be shown at every start.
    pub warnings: Vec<Warning>,
}

/// One FreeSWITCH, by its event socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// Unique.
    pub name: SwitchName,
    /// Where the event socket listens.
    pub address: Address,
    /// The event socket's, or the user's if there is one.
    pub password: Password,
    /// Log in as this user with `userauth`; with `auth` if `None`.
    pub user: Option<EslUser>,
    /// Where this switch's calls go; always one of [`Config::zammads`], see [`Config::zammad_of`].
    pub zammad: ZammadName,
    /// Silence that ends the connection. FreeSWITCH beats every 20 s.
    pub heartbeat_timeout: Duration,
    /// Where its mod_json_cdr or mod_xml_cdr writes: calls of which nothing was heard are read there. Need not be there
    /// yet.
    pub cdr_dir: Option<PathBuf>,
    /// How to judge a leg before any built-in mark; the first that matches decides.
    pub rules: Vec<Rule>,
}

/// One Zammad, by its CTI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZammadConfig {
    /// Unique.
    pub name: ZammadName,
    /// Where events are posted. Holds the token.
    pub url: CtiUrl,
    /// A credential for Zammad's REST interface, to look into its caller log. Only needed where a hangup's fate
    /// is unknown.
    pub rest_token: Option<Secret>,
    /// How the other end must prove itself.
    pub tls: Tls,
    /// From the start of a request to the end of its answer.
    pub timeout: Duration,
}

/// An outbox that several nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Its PostgreSQL. Holds the password.
    pub server: Server,
    /// This node's name.
    pub node: String,
    /// How long a call that this node works on is no other's.
    pub lease: Duration,
}

/// How events are delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Calls posted at the same time, per Zammad.
    pub concurrency: NonZeroUsize,
    /// Wait before the first repeat.
    pub retry_wait_min: Duration,
    /// Longest wait between repeats; not less than `retry_wait_min`.
    pub retry_wait_max: Duration,
    /// How long a delivered event is remembered.
    pub delivered_keep: Duration,
    /// How long a dead letter is kept.
    pub dead_keep: Duration,
    /// How many dead letters are kept.
    pub dead_keep_max: NonZeroUsize,
    /// An event older than this at its first post goes out without what opens screens.
    pub late_after: Duration,
    /// What is done with calls that were over before they could be told in time.
    pub late_policy: LatePolicy,
    /// Most events of a backlog that are posted in a second, per Zammad.
    pub backlog_per_s: NonZeroU32,
    /// Events older than this are given up.
    pub max_age: Duration,
    /// Most events that wait, over all Zammads.
    pub max_events: u64,
    /// Which events go when it is full.
    pub when_full: WhenFull,
}

/// Which events go when the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// What happens now is not taken in.
    #[default]
    DropNew,
    /// The oldest events go.
    DropOld,
}

/// Which calls are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Also those without an outside party.
    pub report_internal: bool,
    /// FreeSWITCH's cause to end a live call with whose caller is on Zammad's block list; `None` lets it go on.
    pub end_blocked_with: Option<&'static str>,
}

/// One of our own people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Where they are called. Unique; one with a domain goes before the same one without.
    pub extension: Extension,
    /// Their display name or Zammad login.
    pub user: Option<String>,
    /// The number that Zammad knows them by; their extension if `None`.
    pub number: Option<Number>,
}

/// What a called number is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueName {
    /// Unique.
    pub number: Number,
    /// Sent as the call's queue.
    pub name: String,
}

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Which lines are written.
    pub level: LogLevel,
    /// How they look.
    pub format: LogFormat,
}

/// How log lines look, and where they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// systemd's journal with a field for each thing that is said, where standard error goes there; else plain lines.
    #[default]
    Auto,
    /// systemd's journal.
    Journald,
    /// One JSON object on a line, on standard error.
    Json,
    /// Lines for people, on standard error.
    Plain,
}

/// Where the daemon shows itself over HTTP: status page, metrics, health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Loopback unless the configuration says in so many words that it may be another; port 0 takes a free one.
    pub listen: SocketAddr,
    /// One more name under which it may be asked, besides its addresses and `localhost`.
    pub host: Option<String>,
}
