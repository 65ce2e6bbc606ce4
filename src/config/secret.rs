//! Texts that must not show: masked in Debug and Display, given out only by `expose()`.
//!
//! Memory is not wiped: whoever can read this process can read the secret from its sockets as well.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::fault::Unfit;

/// What stands in place of a secret.
pub(super) const MASK: &str = "****";

/// Any text that must not show, as it was given and not yet checked. A flag's value can be parsed into it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` as it is.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// The event socket's password: not empty, and on one line, because the socket's commands are lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Password(Secret);

impl Password {
    /// The text to send after `auth`. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<Secret> for Password {
    type Error = Unfit;

    fn try_from(secret: Secret) -> Result<Self, Unfit> {
        let text = secret.expose();
        if text.is_empty() {
            return Err(Unfit::new("the password is empty", "write the one of event_socket.conf.xml"));
        }
        if text.chars().any(char::is_control) {
            return Err(Unfit::new(
                "the password holds a line break or another control character, which would end the command \
                 that sends it",
                "keep the password on one line, in the file and in event_socket.conf.xml",
            ));
        }
        Ok(Self(secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("hunter2");
        let password = Password::try_from(secret.clone()).unwrap();
        for shown in
            [format!("{secret}"), format!("{secret:?}"), format!("{password}"), format!("{password:#?}")]
        {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(password.expose(), "hunter2");
    }

    #[test]
    fn a_password_is_one_line() {
        for bad in ["", "a\nb", "a\r", "a\0", "\n"] {
            let unfit = Password::try_from(Secret::new(bad)).unwrap_err();
            assert!(!unfit.remedy.is_empty());
        }
        assert!(Password::try_from(Secret::new("with spaces, ümläuts: and = signs")).is_ok());
    }
}
