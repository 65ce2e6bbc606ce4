//! What we say to the switch. Commands are line-based: a line feed in a value would start a second command,
//! so it is refused here, whatever was checked before, and every other control character with it: none has business
//! in a command, and what the switch makes of it is not known for each.
//!
//! The name of a leg goes into commands as well, and it is not the switch's own in every case: an application can
//! choose it, and with `inbound-use-callid-as-uuid` a caller does, as SIP's Call-ID. So it must be one word, without
//! what FreeSWITCH reads as a space, a quote or an escape between an API command's arguments.

use bytes::Bytes;

/// A value that must not be put on the wire.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line feed, another control character or a malformed argument inside an event socket command")]
pub struct UnsafeCommand;

/// The events that the call model needs, and no more.
///
/// HEARTBEAT tells a dead link from a quiet one. Legs in a conference are never bridged, so who
/// talks to whom there is known from its members. CUSTOM comes last: everything behind it is a subclass.
pub const SUBSCRIPTION: &str = "event plain CHANNEL_CREATE CHANNEL_ANSWER CHANNEL_BRIDGE CHANNEL_UNBRIDGE \
     CHANNEL_HANGUP_COMPLETE CHANNEL_UUID HEARTBEAT SHUTDOWN CUSTOM conference::maintenance";

/// `auth PASSWORD`.
pub fn auth(password: &str) -> Result<Bytes, UnsafeCommand> {
    line(&format!("auth {password}"))
}

/// `userauth USER@DOMAIN:PASSWORD`: a directory user with `esl-password` and an allow-list of its own.
pub fn userauth(user: &str, password: &str) -> Result<Bytes, UnsafeCommand> {
    line(&format!("userauth {user}:{password}"))
}

/// `uuid_dump LEG`, to be asked as an `api` command: how a leg is.
pub fn dump(leg: &str) -> Result<String, UnsafeCommand> {
    Ok(format!("uuid_dump {}", word(leg)?))
}

/// `uuid_kill LEG CAUSE`, to be asked as an `api` command: ends a leg.
pub fn kill(leg: &str, cause: &str) -> Result<String, UnsafeCommand> {
    Ok(format!("uuid_kill {} {}", word(leg)?, word(cause)?))
}

/// Whether a leg of this name can be asked for. One that cannot is only known by its own events.
#[must_use]
pub fn can_name(leg: &str) -> bool {
    word(leg).is_ok()
}

/// FreeSWITCH's own limit for the name of a leg.
const WORD_MAX: usize = 256;

/// U+FFFD stands for bytes that were no text: the switch knows no leg of that name.
fn word(text: &str) -> Result<&str, UnsafeCommand> {
    let splits =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '\'' | '"' | '`' | '\\' | '\u{fffd}');
    if text.is_empty() || text.len() > WORD_MAX || text.contains(splits) {
        Err(UnsafeCommand)
    } else {
        Ok(text)
    }
}

/// Any command, as one line.
pub fn line(command: &str) -> Result<Bytes, UnsafeCommand> {
    if command.contains(char::is_control) {
        return Err(UnsafeCommand);
    }
    Ok(Bytes::from(format!("{command}\n\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_becomes_a_second_command() {
        for bad in ["x\n\napi shutdown", "x\r\n", "x\ry", "x\0", "x\x0b", "x\x1b[2J", "x\x7f", "x\u{85}y"] {
            assert_eq!(auth(bad), Err(UnsafeCommand), "{bad:?}");
            assert_eq!(userauth("a@b", bad), Err(UnsafeCommand), "{bad:?}");
            assert_eq!(userauth(bad, "x"), Err(UnsafeCommand), "{bad:?}");
            assert_eq!(line(bad), Err(UnsafeCommand), "{bad:?}");
            assert_eq!(dump(bad), Err(UnsafeCommand), "{bad:?}");
            assert_eq!(kill(bad, "USER_BUSY"), Err(UnsafeCommand), "{bad:?}");
            assert_eq!(kill("a", bad), Err(UnsafeCommand), "{bad:?}");
        }
        assert_eq!(auth("ClueCon").unwrap(), "auth ClueCon\n\n");
        assert_eq!(auth("with spaces, 'ümläuts'").unwrap(), "auth with spaces, 'ümläuts'\n\n");
    }

    #[test]
    fn the_name_of_a_leg_is_one_argument_or_none() {
        let long = "x".repeat(WORD_MAX + 1);
        for bad in ["", " ", "a b", "a\tb", "a\u{a0}b", "'a", "a\"", "a\\s", "`a`", "a\u{fffd}", &long] {
            assert_eq!(dump(bad), Err(UnsafeCommand), "{bad:?}");
            assert_eq!(kill(bad, "USER_BUSY"), Err(UnsafeCommand), "{bad:?}");
            assert!(!can_name(bad), "{bad:?}");
        }
        for good in [
            "82ac7419-a888-417e-88d9-a0bd613f105d",
            "c2c_4915112345678",
            "a84b4c76e66710@192.0.2.17",
            "%7B${x}",
        ] {
            assert_eq!(dump(good).unwrap(), format!("uuid_dump {good}"));
            assert!(can_name(good));
        }
        assert_eq!(kill("a-1", "USER_BUSY").unwrap(), "uuid_kill a-1 USER_BUSY");
    }
}
