//! What we say to the switch. Commands are line-based: a line feed in a value would start a second command,
//! so it is refused here, whatever was checked before.

use bytes::Bytes;

/// A value that must not be put on the wire.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line feed, carriage return or NUL inside an event socket command")]
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

/// Any command, as one line.
pub fn line(command: &str) -> Result<Bytes, UnsafeCommand> {
    if command.contains(['\n', '\r', '\0']) {
        return Err(UnsafeCommand);
    }
    Ok(Bytes::from(format!("{command}\n\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_feed_in_a_password_never_becomes_a_second_command() {
        assert_eq!(auth("x\n\napi shutdown"), Err(UnsafeCommand));
        assert_eq!(userauth("a@b", "x\r\n"), Err(UnsafeCommand));
        assert_eq!(auth("ClueCon").unwrap(), "auth ClueCon\n\n");
    }
}
