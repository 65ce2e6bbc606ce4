//! What can be wrong with a configuration: where it stands, what it is, what to do about it.
//!
//! A fault never repeats a secret: whoever reports one names the key, not the value.

use std::fmt;
use std::path::PathBuf;

use crate::cti::url::UnfitUrl;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In the configuration file, or in a file that it names; a line, counted from 1, where one is known.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line of the value, of its key, or of the table that lacks it.
        line: Option<usize>,
    },
    /// A file in systemd's `CREDENTIALS_DIRECTORY`.
    Credential(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
    /// Nothing gives the value.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}: line {line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Credential(path) => write!(f, "credential {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// Something that keeps the daemon from starting, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub origin: Origin,
    /// The key as the file writes it (`switch[0].address`), also when a flag or a variable gave the value.
    /// Empty if the fault is in no one key: the file is missing, or is not TOML.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.origin, &self.key, &self.what, &self.remedy)
    }
}

/// Something that works and that an operator should look at all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub origin: Origin,
    /// As [`Fault::key`].
    pub key: String,
    /// What is doubtful.
    pub what: String,
    /// What would settle it.
    pub remedy: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.origin, &self.key, &self.what, &self.remedy)
    }
}

/// Every fault that was found, those of the file first and in its order. Displays one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A text that is not what it should be: said without where it stood, because its reader cannot know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct Unfit {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl Unfit {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl From<UnfitUrl> for Unfit {
    fn from(UnfitUrl { what, remedy }: UnfitUrl) -> Self {
        Self::new(what, remedy)
    }
}

/// Where faults and warnings gather while the configuration is read and checked.
#[derive(Debug, Default)]
pub(super) struct Report {
    faults: Vec<Fault>,
    warnings: Vec<Warning>,
}

impl Report {
    pub(super) fn fault(
        &mut self,
        origin: &Origin,
        key: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (origin, key) = (origin.clone(), key.into());
        self.faults.push(Fault { origin, key, what: what.into(), remedy: remedy.into() });
    }

    pub(super) fn unfit(&mut self, origin: &Origin, key: impl Into<String>, unfit: Unfit) {
        self.fault(origin, key, unfit.what, unfit.remedy);
    }

    /// Reports a key that nothing gives, unless what was given has been refused already.
    pub(super) fn missing(&mut self, origin: &Origin, key: &str, what: &str, remedy: &str) {
        if !self.has_fault_in(key) {
            self.fault(origin, key, what, remedy);
        }
    }

    pub(super) fn warn(
        &mut self,
        origin: &Origin,
        key: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (origin, key) = (origin.clone(), key.into());
        self.warnings.push(Warning { origin, key, what: what.into(), remedy: remedy.into() });
    }

    pub(super) fn has_fault_in(&self, key: &str) -> bool {
        self.faults.iter().any(|fault| fault.key == key)
    }

    /// The warnings, or all the faults if there is one.
    pub(super) fn close(mut self) -> Result<Vec<Warning>, ConfigError> {
        if self.faults.is_empty() {
            return Ok(self.warnings);
        }
        self.faults.sort_by(|a, b| a.origin.cmp(&b.origin));
        Err(ConfigError { faults: self.faults })
    }
}

fn line(f: &mut fmt::Formatter<'_>, origin: &Origin, key: &str, what: &str, remedy: &str) -> fmt::Result {
    write!(f, "{origin}: ")?;
    if !key.is_empty() {
        write!(f, "{key}: ")?;
    }
    write!(f, "{what}; {remedy}")
}
