//! The three events of Zammad's Generic CTI, as they are posted.
//!
//! Limits are Zammad's own: a `callId` over 250 characters is cut on save and never found again, `from` and
//! `to` hold 100. Values are cut to them here, before anything is stored or sent.

use std::fmt;

use serde::Serialize;

use super::cause::Cause;

/// Longest `callId` that Zammad stores whole, in characters.
pub const CALL_ID_MAX: usize = 250;
/// Longest `from`, `to`, `user`, `queue` that we send, in characters.
pub const TEXT_MAX: usize = 100;
/// Longest `cause` that Zammad stores, in characters.
pub const CAUSE_MAX: usize = 500;

/// One call's name, the same in each of its events. At most [`CALL_ID_MAX`] characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(Box<str>);

impl CallId {
    /// Takes `id` as it is, cut to [`CALL_ID_MAX`] characters.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(cut(id, CALL_ID_MAX).into())
    }

    /// The text that is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who called whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A customer calls us.
    In,
    /// We call a customer.
    Out,
}

impl Direction {
    /// The text that Zammad expects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What happened to the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The call began.
    NewCall {
        /// Shown beside `to` of an inbound call, beside `from` of an outbound one.
        user: Option<String>,
        /// Decides which agents see the entry; without one Zammad takes `to` (in) or `from` (out).
        queue: Option<String>,
    },
    /// Somebody was connected to the outside party.
    Answer {
        /// Inbound only: opens the customer's screen for the agent with this phone number.
        answering_number: Option<String>,
        /// Inbound only: replaces the callee's display. On an outbound answer it would wipe the customer's name.
        user: Option<String>,
    },
    /// The call ended.
    Hangup {
        /// Why.
        cause: Cause,
    },
}

impl What {
    /// The `event` text that Zammad expects.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NewCall { .. } => "newCall",
            Self::Answer { .. } => "answer",
            Self::Hangup { .. } => "hangup",
        }
    }
}

/// One event of one call, complete: each carries direction and both numbers, as Zammad asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The call it belongs to.
    pub call_id: CallId,
    /// Never changes within a call.
    pub direction: Direction,
    /// E.164 digits without `+`, an extension, or `anonymous`. Never changes within a call.
    pub from: String,
    /// E.164 digits without `+`, or what was dialled. Never changes within a call.
    pub to: String,
    /// What happened.
    pub what: What,
}

impl Event {
    /// The one event whose repetition does harm: Zammad takes the missed mark back when a call that is hung up already is
    /// hung up again. `answered` says whether somebody is known to have answered the call.
    #[must_use]
    pub fn is_unrepeatable(&self, answered: bool) -> bool {
        match self.what {
            What::Hangup { cause } => {
                self.direction == Direction::In && !answered && cause != Cause::Forwarded
            }
            What::NewCall { .. } | What::Answer { .. } => false,
        }
    }

    /// The JSON object that is posted, fields in a fixed order, on one line.
    #[must_use]
    pub fn body(&self) -> String {
        self.body_with_cause(None)
    }

    /// As [`Event::body`], with `text` in place of the bare cause of a hangup.
    #[must_use]
    pub fn body_with_cause(&self, text: Option<&str>) -> String {
        let mut body = Body {
            event: self.what.name(),
            call_id: self.call_id.as_str(),
            direction: self.direction.as_str(),
            from: cut(&self.from, TEXT_MAX),
            to: cut(&self.to, TEXT_MAX),
            user: None,
            queue: None,
            answering_number: None,
            cause: None,
        };
        match &self.what {
            What::NewCall { user, queue } => {
                body.user = user.as_deref().map(|u| cut(u, TEXT_MAX));
                body.queue = queue.as_deref().map(|q| cut(q, TEXT_MAX));
            }
            What::Answer { answering_number, user } => {
                if self.direction == Direction::In {
                    body.answering_number = answering_number.as_deref().map(|n| cut(n, TEXT_MAX));
                    body.user = user.as_deref().map(|u| cut(u, TEXT_MAX));
                }
            }
            What::Hangup { cause } => body.cause = Some(cut(text.unwrap_or(cause.as_str()), CAUSE_MAX)),
        }
        serde_json::to_string(&body).expect("a struct of strings always serializes")
    }

    /// The same call's newCall, rebuilt from any of its events: what is posted when Zammad does not know the call.
    #[must_use]
    pub fn as_new_call(&self) -> Self {
        Self { what: What::NewCall { user: None, queue: None }, ..self.clone() }
    }

    /// The same event without what would open a screen or change a name: for a repeat or a late delivery.
    #[must_use]
    pub fn without_identity(&self) -> Self {
        match &self.what {
            What::Answer { user, .. } => {
                // The mailbox is no person: its name decides the missed mark and opens no screen.
                let user = user.clone().filter(|u| u == VOICEMAIL);
                Self { what: What::Answer { answering_number: None, user }, ..self.clone() }
            }
            What::NewCall { .. } | What::Hangup { .. } => self.clone(),
        }
    }
}

/// The `user` that makes Zammad treat an answered call as missed: exactly this, in lower case.
pub const VOICEMAIL: &str = "voicemail";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    event: &'a str,
    call_id: &'a str,
    direction: &'a str,
    from: &'a str,
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answering_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

/// The first `max` characters, or all of it if there are fewer.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).map_or(text, |(end, _)| &text[..end])
}
