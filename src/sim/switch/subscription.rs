//! What one connection has asked to hear.

use std::collections::BTreeSet;

use super::super::recording::Event;

/// Event names and CUSTOM subclasses, narrowed by filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscription {
    all: bool,
    names: BTreeSet<String>,
    subclasses: BTreeSet<String>,
    /// Header and value; an event that fits none of them is withheld. None at all lets everything through.
    pub(super) filters: Vec<(String, String)>,
    only_leg: Option<String>,
}

/// What a list of names comes to.
pub(super) struct Wanted {
    pub(super) names: BTreeSet<String>,
    subclasses: BTreeSet<String>,
}

impl Wanted {
    /// Unknown names are ignored. Everything after CUSTOM is a subclass.
    pub(super) fn read<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut wanted = Self { names: BTreeSet::new(), subclasses: BTreeSet::new() };
        let mut custom = false;
        for word in words {
            let name = word.to_ascii_uppercase();
            if custom {
                wanted.subclasses.insert(word.to_owned());
            } else if KNOWN.contains(&name.as_str()) {
                custom = name == "CUSTOM";
                wanted.names.insert(name);
            }
        }
        wanted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl Subscription {
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    pub(super) fn add(&mut self, wanted: Wanted) {
        self.all |= wanted.names.contains("ALL");
        self.names.extend(wanted.names);
        self.subclasses.extend(wanted.subclasses);
    }

    pub(super) fn remove(&mut self, wanted: &Wanted) {
        if wanted.names.contains("ALL") {
            self.all = false;
        }
        self.names.retain(|name| !wanted.names.contains(name));
        self.subclasses.retain(|subclass| !wanted.subclasses.contains(subclass));
    }

    /// `myevents`: the events of one leg.
    pub(super) fn follow(&mut self, leg: &str) {
        self.only_leg = Some(leg.to_owned());
        self.names.extend(KNOWN.iter().filter(|n| n.starts_with("CHANNEL_")).map(|n| (*n).to_owned()));
    }

    pub(super) fn wants(&self, event: &Event) -> bool {
        self.asked_for(event) && self.lets_through(event)
    }

    fn asked_for(&self, event: &Event) -> bool {
        if self.all {
            return true;
        }
        if !self.names.contains(event.name()) {
            return false;
        }
        event.name() != "CUSTOM"
            || event.header("Event-Subclass").is_some_and(|subclass| self.subclasses.contains(&subclass))
    }

    fn lets_through(&self, event: &Event) -> bool {
        let of_leg = self.only_leg.as_ref().is_none_or(|leg| event.header("Unique-ID").as_ref() == Some(leg));
        let fits = |(name, value): &(String, String)| event.header(name).as_ref() == Some(value);
        of_leg && (self.filters.is_empty() || self.filters.iter().any(fits))
    }
}

/// Every event name the switch knows.
#[rustfmt::skip]
const KNOWN: [&str; 93] = [
    "CUSTOM", "CLONE", "CHANNEL_CREATE", "CHANNEL_DESTROY", "CHANNEL_STATE", "CHANNEL_CALLSTATE",
    "CHANNEL_ANSWER", "CHANNEL_HANGUP", "CHANNEL_HANGUP_COMPLETE", "CHANNEL_EXECUTE", "CHANNEL_EXECUTE_COMPLETE",
    "CHANNEL_HOLD", "CHANNEL_UNHOLD", "CHANNEL_BRIDGE", "CHANNEL_UNBRIDGE", "CHANNEL_PROGRESS",
    "CHANNEL_PROGRESS_MEDIA", "CHANNEL_OUTGOING", "CHANNEL_PARK", "CHANNEL_UNPARK", "CHANNEL_APPLICATION",
    "CHANNEL_ORIGINATE", "CHANNEL_UUID", "API", "LOG", "INBOUND_CHAN", "OUTBOUND_CHAN", "STARTUP", "SHUTDOWN",
    "PUBLISH", "UNPUBLISH", "TALK", "NOTALK", "SESSION_CRASH", "MODULE_LOAD", "MODULE_UNLOAD", "DTMF", "MESSAGE",
    "PRESENCE_IN", "NOTIFY_IN", "PRESENCE_OUT", "PRESENCE_PROBE", "MESSAGE_WAITING", "MESSAGE_QUERY", "ROSTER",
    "CODEC", "BACKGROUND_JOB", "DETECTED_SPEECH", "DETECTED_TONE", "PRIVATE_COMMAND", "HEARTBEAT", "TRAP",
    "ADD_SCHEDULE", "DEL_SCHEDULE", "EXE_SCHEDULE", "RE_SCHEDULE", "RELOADXML", "NOTIFY", "PHONE_FEATURE",
    "PHONE_FEATURE_SUBSCRIBE", "SEND_MESSAGE", "RECV_MESSAGE", "REQUEST_PARAMS", "CHANNEL_DATA", "GENERAL",
    "COMMAND", "SESSION_HEARTBEAT", "CLIENT_DISCONNECTED", "SERVER_DISCONNECTED", "SEND_INFO", "RECV_INFO",
    "RECV_RTCP_MESSAGE", "SEND_RTCP_MESSAGE", "CALL_SECURE", "NAT", "RECORD_START", "RECORD_STOP",
    "PLAYBACK_START", "PLAYBACK_STOP", "CALL_UPDATE", "FAILURE", "SOCKET_DATA", "MEDIA_BUG_START",
    "MEDIA_BUG_STOP", "CONFERENCE_DATA_QUERY", "CONFERENCE_DATA", "CALL_SETUP_REQ", "CALL_SETUP_RESULT",
    "CALL_DETAIL", "DEVICE_STATE", "TEXT", "SHUTDOWN_REQUESTED", "ALL",
];
