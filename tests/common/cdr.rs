//! Call detail records as mod_json_cdr and mod_xml_cdr would have written them for the legs of a recording.
//!
//! What is in them is recorded: a leg's CHANNEL_HANGUP_COMPLETE has every variable that the modules write, and each
//! stay of a leg in the dialplan shows in its events. Their form is FreeSWITCH's by its source (see
//! `call::cdr`), not recorded. A stay during which no event was sent is missing, and so is `app_log` but for what
//! an event found running.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]
#![allow(clippy::unwrap_used, reason = "the records are the test's own")]

use std::collections::BTreeMap;
use std::fmt::Write;

use freeswitch_zammad::sim::recording::{Event, Recording};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

/// The record of one leg.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// What both modules take for a b-leg, and leave out with `log-b-leg = false`.
    pub(crate) is_b_leg: bool,
    core: String,
    direction: String,
    pub(crate) variables: Vec<(String, String)>,
    stays: Vec<Stay>,
    applications: Vec<(String, String, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Stay {
    index: String,
    own: Profile,
    originator: Option<Profile>,
    /// Newest first.
    originatees: Vec<Profile>,
    times: Vec<(&'static str, String)>,
}

type Profile = Vec<(&'static str, String)>;

/// Every leg of a recording that was heard to its end, in the order of their ends.
pub(crate) fn records(recording: &Recording) -> Vec<Record> {
    let mut stays: BTreeMap<String, BTreeMap<u32, Stay>> = BTreeMap::new();
    let mut applications: BTreeMap<String, Vec<(String, String, u64)>> = BTreeMap::new();
    let mut records = Vec::new();
    for event in recording.events() {
        let headers = headers(event);
        let get = |name: &str| headers.get(name).cloned().unwrap_or_default();
        let id = get("Unique-ID");
        if id.is_empty() || get("Caller-Unique-ID").is_empty() {
            continue;
        }
        let index = get("Caller-Profile-Index");
        let legs = stays.entry(id.clone()).or_default();
        let stay = legs.entry(index.parse().unwrap_or(1)).or_default();
        stay.index = index;
        stay.own = profile(&get, "Caller");
        let times = [
            ("created_time", "Caller-Channel-Created-Time"),
            ("profile_created_time", "Caller-Profile-Created-Time"),
            ("progress_time", "Caller-Channel-Progress-Time"),
            ("progress_media_time", "Caller-Channel-Progress-Media-Time"),
            ("answered_time", "Caller-Channel-Answered-Time"),
            ("bridged_time", "Caller-Channel-Bridged-Time"),
            ("last_hold_time", "Caller-Channel-Last-Hold"),
            ("hold_accum_time", "Caller-Channel-Hold-Accum"),
            ("hangup_time", "Caller-Channel-Hangup-Time"),
            ("resurrect_time", "Caller-Channel-Resurrect-Time"),
            ("transfer_time", "Caller-Channel-Transfer-Time"),
        ];
        stay.times = times
            .into_iter()
            .map(|(name, header)| (name, Some(get(header)).filter(|t| !t.is_empty()).unwrap_or("0".into())))
            .collect();
        let other = profile(&get, "Other-Leg");
        match &*get("Other-Type") {
            "originator" => drop(stay.originator.get_or_insert(other)),
            "originatee" => {
                stay.originatees.retain(|known| uuid_of(known) != uuid_of(&other));
                stay.originatees.insert(0, other);
            }
            _ => {}
        }
        let running = get("variable_current_application");
        let log = applications.entry(id.clone()).or_default();
        let arguments = get("variable_current_application_data");
        if !running.is_empty()
            && log.last().is_none_or(|(name, data, _)| (name, data) != (&running, &arguments))
        {
            log.push((running, arguments, get("Event-Date-Timestamp").parse().unwrap_or_default()));
        }
        if event.name() == "CHANNEL_HANGUP_COMPLETE" {
            let mut stays: Vec<Stay> = legs.values().cloned().collect();
            noted_legs(&mut stays, recording, &id);
            stays.reverse();
            records.push(Record {
                // As mod_json_cdr asks: the profile of the last stay has an originator.
                is_b_leg: stays[0].originator.is_some(),
                core: get("Core-UUID"),
                direction: get("Call-Direction"),
                variables: headers
                    .iter()
                    .filter_map(|(name, value)| Some((name.strip_prefix("variable_")?.into(), value.clone())))
                    .collect(),
                stays,
                applications: applications.remove(&id).unwrap_or_default(),
                id,
            });
        }
    }
    records
}

fn headers(event: &Event) -> BTreeMap<String, String> {
    let body = String::from_utf8_lossy(event.body());
    let lines = body.lines().filter_map(|line| line.split_once(": "));
    let decoded = |value: &str| percent_decode_str(value).decode_utf8_lossy().into_owned();
    // Where a name stands twice the first counts.
    lines.rev().map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}

/// The core notes every leg that a leg dials in its stay, also those that no event of its own names.
fn noted_legs(stays: &mut [Stay], recording: &Recording, id: &str) {
    for event in recording.events().iter().filter(|e| e.name() == "CHANNEL_CREATE") {
        let headers = headers(event);
        let get = |name: &str| headers.get(name).cloned().unwrap_or_default();
        if get("Other-Type") != "originator" || get("Other-Leg-Unique-ID") != id {
            continue;
        }
        let dialled = profile(&get, "Caller");
        let begun = get("Caller-Channel-Created-Time").parse::<u64>().unwrap_or_default();
        let entered = |stay: &Stay| stay.times[1].1.parse::<u64>().unwrap_or_default();
        let Some(stay) = stays.iter_mut().rfind(|stay| entered(stay) <= begun) else { continue };
        stay.originatees.retain(|known| uuid_of(known) != uuid_of(&dialled));
        stay.originatees.insert(0, dialled);
    }
}

fn profile(get: &dyn Fn(&str) -> String, prefix: &str) -> Profile {
    [
        ("username", "Username"),
        ("dialplan", "Dialplan"),
        ("caller_id_name", "Caller-ID-Name"),
        ("ani", "ANI"),
        ("aniii", "ANI-II"),
        ("caller_id_number", "Caller-ID-Number"),
        ("network_addr", "Network-Addr"),
        ("rdnis", "RDNIS"),
        ("destination_number", "Destination-Number"),
        ("uuid", "Unique-ID"),
        ("source", "Source"),
        ("context", "Context"),
        ("chan_name", "Channel-Name"),
    ]
    .map(|(name, header)| (name, get(&format!("{prefix}-{header}"))))
    .into()
}

fn uuid_of(profile: &Profile) -> &str {
    profile.iter().find(|(name, _)| *name == "uuid").map_or("", |(_, uuid)| uuid)
}

/// What `switch_url_encode` leaves alone.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b'!')
    .remove(b'$');

fn encoded(value: &str) -> String {
    utf8_percent_encode(value, PLAIN).to_string()
}

impl Record {
    /// The same leg earlier or later, by microseconds.
    pub(crate) fn moved(mut self, by: i64) -> Self {
        // What is shorter than this is a duration, or never.
        let shift = |text: &mut String| {
            if let Some(at) = text.parse::<u64>().ok().filter(|at| *at > 1_000_000_000_000_000) {
                *text = at.saturating_add_signed(by).to_string();
            }
        };
        self.stays.iter_mut().flat_map(|stay| &mut stay.times).for_each(|(_, at)| shift(at));
        let moments = self.variables.iter_mut().filter(|(name, _)| name.ends_with("_uepoch"));
        moments.for_each(|(_, at)| shift(at));
        for (_, _, at) in &mut self.applications {
            *at = at.saturating_add_signed(by);
        }
        self
    }

    /// The same leg, begun so much earlier.
    pub(crate) fn longer(mut self, by: std::time::Duration) -> Self {
        let by = u64::try_from(by.as_micros()).unwrap();
        for (name, at) in self.stays.iter_mut().flat_map(|stay| &mut stay.times) {
            if ["created_time", "profile_created_time"].contains(name) {
                *at = (at.parse::<u64>().unwrap() - by).to_string();
            }
        }
        self
    }

    /// The same leg as it would be if it said nothing of those that it was joined with.
    pub(crate) fn without_others(&self) -> Self {
        let mut record = self.clone();
        record.stays.iter_mut().for_each(|stay| stay.originatees.clear());
        record
    }

    /// When the leg was hung up, in microseconds.
    pub(crate) fn ended(&self) -> u64 {
        self.stays[0].times.iter().find(|(name, _)| *name == "hangup_time").unwrap().1.parse().unwrap()
    }

    /// As mod_json_cdr names its file.
    pub(crate) fn json_name(&self, prefix_a: bool) -> String {
        format!("{}{}.cdr.json", if prefix_a && !self.is_b_leg { "a_" } else { "" }, self.id)
    }

    /// As mod_xml_cdr names its file.
    pub(crate) fn xml_name(&self, prefix_a: bool) -> String {
        format!("{}{}.cdr.xml", if prefix_a && !self.is_b_leg { "a_" } else { "" }, self.id)
    }

    /// What mod_json_cdr writes, with or without `encode-values`.
    pub(crate) fn json(&self, encode: bool) -> String {
        let object = |profile: &Profile| {
            let entries = profile.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
            Value::Object(entries.collect())
        };
        let variables: serde_json::Map<String, Value> = self
            .variables
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.clone(), json!(if encode { encoded(value) } else { value.clone() })))
            .collect();
        let applications: Vec<Value> = self
            .applications
            .iter()
            .map(|(name, data, at)| json!({"app_name": name, "app_data": data, "app_stamp": at.to_string()}))
            .collect();
        let callflow: Vec<Value> = self
            .stays
            .iter()
            .map(|stay| {
                let mut own = object(&stay.own);
                if let Some(originator) = &stay.originator {
                    own["originator"] = json!({"originator_caller_profiles": [object(originator)]});
                }
                if !stay.originatees.is_empty() {
                    let all: Vec<Value> = stay.originatees.iter().map(object).collect();
                    own["originatee"] = json!({ "originatee_caller_profiles": all });
                }
                let times: Profile = stay.times.clone();
                json!({
                    "dialplan": "XML",
                    "profile_index": stay.index,
                    "caller_profile": own,
                    "times": object(&times),
                })
            })
            .collect();
        let cdr = json!({
            "core-uuid": self.core,
            "switchname": "pbx",
            "channel_data": {
                "state": "CS_REPORTING",
                "direction": self.direction,
                "state_number": "11",
                "flags": "0=1;1=1;20=1",
                "caps": "1=1;2=1",
            },
            "callStats": {"audio": {"inbound": {"mos": 4.5, "raw_bytes": 505_772}, "outbound": {}}},
            "variables": variables,
            "app_log": {"applications": applications},
            "callflow": callflow,
        });
        format!("{cdr}\n")
    }

    /// What mod_xml_cdr writes.
    pub(crate) fn xml(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\"?>\n");
        writeln!(out, "<cdr core-uuid=\"{}\" switchname=\"pbx\">", self.core).unwrap();
        writeln!(out, "  <channel_data>\n    <state>CS_REPORTING</state>").unwrap();
        writeln!(out, "    <direction>{}</direction>", self.direction).unwrap();
        writeln!(out, "    <flags>0=1;1=1</flags>\n  </channel_data>\n  <call-stats></call-stats>").unwrap();
        out.push_str("  <variables>\n");
        for (name, value) in &self.variables {
            let values = value.strip_prefix("ARRAY::").unwrap_or(value).split("|:");
            for value in values.filter(|_| !value.is_empty()) {
                writeln!(out, "    <{name}>{}</{name}>", encoded(value)).unwrap();
            }
        }
        out.push_str("  </variables>\n  <app_log>\n");
        for (name, data, at) in &self.applications {
            let data = escaped(data);
            writeln!(
                out,
                "    <application app_name=\"{name}\" app_data=\"{data}\" app_stamp=\"{at}\"></application>"
            )
            .unwrap();
        }
        out.push_str("  </app_log>\n");
        for stay in &self.stays {
            let index = &stay.index;
            writeln!(out, "  <callflow dialplan=\"XML\" unique-id=\"x\" profile_index=\"{index}\">").unwrap();
            out.push_str("    <extension name=\"&quot;a&quot; &amp; b\" number=\"1\"></extension>\n");
            out.push_str("    <caller_profile>\n");
            children(&mut out, &stay.own);
            if let Some(originator) = &stay.originator {
                out.push_str("<originator><originator_caller_profile>");
                children(&mut out, originator);
                out.push_str("</originator_caller_profile></originator>\n");
            }
            if !stay.originatees.is_empty() {
                out.push_str("<originatee>");
                for originatee in &stay.originatees {
                    out.push_str("<originatee_caller_profile>");
                    children(&mut out, originatee);
                    out.push_str("</originatee_caller_profile>");
                }
                out.push_str("</originatee>\n");
            }
            out.push_str("    </caller_profile>\n    <times>\n");
            children(&mut out, &stay.times);
            out.push_str("    </times>\n  </callflow>\n");
        }
        out.push_str("</cdr>\n");
        out
    }
}

fn children(out: &mut String, entries: &[(&'static str, String)]) {
    for (name, value) in entries {
        writeln!(out, "      <{name}>{}</{name}>", escaped(value)).unwrap();
    }
}

/// As FreeSWITCH's own XML writer has it: what is not ASCII becomes a reference.
fn escaped(value: &str) -> String {
    value.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#xA;"),
            c if c.is_ascii() => out.push(c),
            c => write!(out, "&#x{:X};", u32::from(c)).unwrap(),
        }
        out
    })
}
