//! The seven words Zammad's CTI has for how a call ended.

use std::fmt;
use std::str::FromStr;

/// Why a call ended, in the CTI's words. Zammad shows the text; only `forwarded` changes what it does
/// (an unanswered inbound call is then not marked as missed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// People talked and hung up.
    NormalClearing,
    /// The called side was busy or refused.
    Busy,
    /// The caller gave up before anybody answered.
    Cancel,
    /// Nobody answered.
    NoAnswer,
    /// The network or the switch could not carry the call.
    Congestion,
    /// The number does not exist or leads nowhere.
    NotFound,
    /// The call was moved elsewhere.
    Forwarded,
}

impl Cause {
    /// Every cause, in the order of the CTI documentation.
    pub const ALL: [Self; 7] = [
        Self::NormalClearing,
        Self::Busy,
        Self::Cancel,
        Self::NoAnswer,
        Self::Congestion,
        Self::NotFound,
        Self::Forwarded,
    ];

    /// The exact text that Zammad expects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NormalClearing => "normalClearing",
            Self::Busy => "busy",
            Self::Cancel => "cancel",
            Self::NoAnswer => "noAnswer",
            Self::Congestion => "congestion",
            Self::NotFound => "notFound",
            Self::Forwarded => "forwarded",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is none of the seven causes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no CTI cause; use one of normalClearing, busy, cancel, noAnswer, congestion, notFound, forwarded"
)]
pub struct UnknownCause(pub String);

impl FromStr for Cause {
    type Err = UnknownCause;

    fn from_str(text: &str) -> Result<Self, UnknownCause> {
        Self::ALL.into_iter().find(|c| c.as_str() == text).ok_or_else(|| UnknownCause(text.to_owned()))
    }
}
