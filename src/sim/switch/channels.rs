//! The legs that are alive, told from the events that were sent: what `show channels` and `uuid_dump` answer.
//!
//! Pure. `uuid_dump` is exact at every moment; the list may lag behind, as the real one does.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::super::recording::Event;

/// All live legs.
#[derive(Default)]
pub(super) struct Channels {
    live: HashMap<String, Channel>,
    /// Legs that have ended, latest last: they are listed for a while.
    ended: VecDeque<(Instant, String, Channel)>,
    /// Legs ever created: a heartbeat's Session-Since-Startup.
    pub(super) created: u64,
}

/// Most ended legs that a list which lags can still show.
const ENDED_MAX: usize = 1000;

struct Channel {
    number: u64,
    began: Instant,
    first: Event,
    last: Event,
    /// The leg it is joined with.
    bridged: Option<String>,
    /// The last CALL_UPDATE that told this leg whom it talks to.
    update: Option<Event>,
}

impl Channels {
    pub(super) fn apply(&mut self, event: &Event, now: Instant) {
        let Some(id) = event.header("Unique-ID") else { return };
        match event.name() {
            "CHANNEL_CREATE" => {
                self.created += 1;
                let (first, last) = (event.clone(), event.clone());
                let (number, began) = (self.created, now);
                let channel = Channel { number, began, first, last, bridged: None, update: None };
                self.live.insert(id, channel);
            }
            "CHANNEL_HANGUP" | "CHANNEL_HANGUP_COMPLETE" | "CHANNEL_DESTROY" => {
                if let Some(channel) = self.live.remove(&id) {
                    self.ended.push_back((now, id, channel));
                    if self.ended.len() > ENDED_MAX {
                        self.ended.pop_front();
                    }
                }
            }
            "CHANNEL_UUID" => {
                let old = event.header("Old-Unique-ID").and_then(|old| self.live.remove(&old));
                if let Some(channel) = old {
                    self.live.insert(id, Channel { last: event.clone(), ..channel });
                }
            }
            "CHANNEL_BRIDGE" | "CHANNEL_UNBRIDGE" => {
                let joined = event.name() == "CHANNEL_BRIDGE";
                if let [Some(a), Some(b)] =
                    ["Bridge-A-Unique-ID", "Bridge-B-Unique-ID"].map(|name| event.header(name))
                {
                    for (leg, other) in [(&a, &b), (&b, &a)] {
                        if let Some(channel) = self.live.get_mut(leg) {
                            channel.bridged = joined.then(|| other.clone());
                        }
                    }
                }
                self.note(&id, event);
            }
            "CALL_UPDATE" => {
                if let Some(channel) = self.live.get_mut(&id) {
                    channel.update = Some(event.clone());
                }
                self.note(&id, event);
            }
            name if name.starts_with("CHANNEL_") => self.note(&id, event),
            _ => {}
        }
    }

    pub(super) fn count(&self) -> usize {
        self.live.len()
    }

    pub(super) fn clear(&mut self) {
        self.live.clear();
        self.ended.clear();
        self.created = 0;
    }

    pub(super) fn exists(&self, id: &str) -> bool {
        self.live.contains_key(id)
    }

    /// The last event of a live leg.
    pub(super) fn last(&self, id: &str) -> Option<&Event> {
        self.live.get(id).map(|channel| &channel.last)
    }

    /// `show channels`, oldest leg first, as it was `lag` ago.
    pub(super) fn rows(&self, now: Instant, lag: Duration) -> Vec<Row> {
        let is_listed = |channel: &Channel| now.duration_since(channel.began) >= lag;
        let ended = self.ended.iter().filter(|(ended, ..)| now.duration_since(*ended) < lag);
        let ended = ended.map(|(_, id, channel)| (id, channel));
        let mut listed: Vec<_> = self.live.iter().chain(ended).filter(|(_, c)| is_listed(c)).collect();
        listed.sort_by_key(|(_, channel)| channel.number);
        listed.into_iter().map(|(id, channel)| channel.row(id)).collect()
    }

    /// `show calls`: each leg with the one it is joined with, if any; a pair once, its older leg first.
    pub(super) fn calls(&self) -> Vec<Row> {
        let in_order = self.in_order();
        let is_second = |channel: &Channel| {
            let other = channel.bridged.as_ref().and_then(|other| self.live.get(other));
            other.is_some_and(|other| other.number < channel.number)
        };
        let firsts = in_order.into_iter().filter(|(_, channel)| !is_second(channel));
        firsts.map(|(id, channel)| self.call(id, channel)).collect()
    }

    fn call(&self, id: &str, channel: &Channel) -> Row {
        const NOT_IN_B: [&str; 2] = ["call_uuid", "hostname"];
        let other = channel.bridged.as_ref().and_then(|other| Some((other, self.live.get(other)?)));
        let other = other.map(|(id, other)| other.row(id)).unwrap_or_default();
        let mut call = Row::new();
        let columns = |row: Row| row.into_iter().filter(|(name, _)| CALL_COLUMNS.contains(&name.as_ref()));
        call.extend(columns(channel.row(id)));
        for name in CALL_COLUMNS.iter().filter(|name| !NOT_IN_B.contains(name)) {
            let value = other.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            call.push((format!("b_{name}").into(), value.unwrap_or_default()));
        }
        call
    }

    fn in_order(&self) -> Vec<(&String, &Channel)> {
        let mut all: Vec<(&String, &Channel)> = self.live.iter().collect();
        all.sort_by_key(|(_, channel)| channel.number);
        all
    }

    fn note(&mut self, id: &str, event: &Event) {
        if let Some(channel) = self.live.get_mut(id) {
            channel.last = event.clone();
        }
    }
}

impl Channel {
    fn row(&self, id: &str) -> Row {
        let last = |name: &str| self.last.header(name).unwrap_or_default();
        let first = |name: &str| self.first.header(name).unwrap_or_default();
        let update = |name: &str| self.update.as_ref().and_then(|e| e.header(name)).unwrap_or_default();
        let epoch = first("Caller-Channel-Created-Time").parse::<i64>().unwrap_or_default() / 1_000_000;
        let created = Timestamp::from_second(epoch).unwrap_or_default();
        // The switch's table learns of an inbound leg's call only when it is bridged.
        let inbound = first("Call-Direction") == "inbound";
        let known = self.bridged.is_some() || !inbound;
        // The event itself still says what was before it.
        let answers = self.last.name() == "CHANNEL_ANSWER";
        let row = [
            ("uuid", id.to_owned()),
            ("direction", first("Call-Direction")),
            ("created", created.strftime("%Y-%m-%d %H:%M:%S").to_string()),
            ("created_epoch", epoch.to_string()),
            ("name", last("Channel-Name")),
            ("state", last("Channel-State")),
            ("cid_name", last("Caller-Caller-ID-Name")),
            ("cid_num", last("Caller-Caller-ID-Number")),
            ("ip_addr", last("Caller-Network-Addr")),
            ("dest", last("Caller-Destination-Number")),
            ("application", last("variable_current_application")),
            ("application_data", last("variable_current_application_data")),
            ("dialplan", last("Caller-Dialplan")),
            ("context", last("Caller-Context")),
            ("read_codec", last("Channel-Read-Codec-Name")),
            ("read_rate", last("Channel-Read-Codec-Rate")),
            ("read_bit_rate", last("Channel-Read-Codec-Bit-Rate")),
            ("write_codec", last("Channel-Write-Codec-Name")),
            ("write_rate", last("Channel-Write-Codec-Rate")),
            ("write_bit_rate", last("Channel-Write-Codec-Bit-Rate")),
            ("secure", String::new()),
            ("hostname", last("FreeSWITCH-Hostname")),
            ("presence_id", last("Channel-Presence-ID")),
            ("presence_data", String::new()),
            ("accountcode", if inbound { first("variable_accountcode") } else { String::new() }),
            ("callstate", if answers { "ACTIVE".to_owned() } else { last("Channel-Call-State") }),
            ("callee_name", last("Caller-Callee-ID-Name")),
            ("callee_num", last("Caller-Callee-ID-Number")),
            ("callee_direction", update("Direction")),
            ("call_uuid", if known { last("Channel-Call-UUID") } else { String::new() }),
            ("sent_callee_name", update("Sent-Callee-ID-Name")),
            ("sent_callee_num", update("Sent-Callee-ID-Number")),
            ("initial_cid_name", first("Caller-Caller-ID-Name")),
            ("initial_cid_num", first("Caller-Caller-ID-Number")),
            ("initial_ip_addr", first("Caller-Network-Addr")),
            ("initial_dest", first("Caller-Destination-Number")),
            ("initial_dialplan", first("Caller-Dialplan")),
            ("initial_context", first("Caller-Context")),
        ];
        row.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }
}

/// Columns and values, in the switch's order.
pub(super) type Row = Vec<(Cow<'static, str>, String)>;

/// What `show calls` has of each leg.
const CALL_COLUMNS: [&str; 21] = [
    "uuid",
    "direction",
    "created",
    "created_epoch",
    "name",
    "state",
    "cid_name",
    "cid_num",
    "ip_addr",
    "dest",
    "presence_id",
    "presence_data",
    "accountcode",
    "callstate",
    "callee_name",
    "callee_num",
    "callee_direction",
    "call_uuid",
    "hostname",
    "sent_callee_name",
    "sent_callee_num",
];
