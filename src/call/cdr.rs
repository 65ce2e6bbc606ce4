//! What FreeSWITCH writes of a leg when it is over: the files of mod_json_cdr and mod_xml_cdr.
//!
//! [`read`] takes the bytes of one file; [`replay`] makes of many the events that were not heard, so that a call
//! is told by the same tracker in the same way, heard or read. Pure: knows no file names, no folders and no clock.
//!
//! **The shape** is taken from FreeSWITCH's sources (`switch_ivr.c`, both modules, 1.0 to 1.10) and samples that
//! others published; it was not recorded. Both formats say the same:
//!
//! | in JSON | in XML | what it is |
//! |---|---|---|
//! | `core-uuid` | attribute of `<cdr>` | the run of the switch |
//! | `channel_data.direction` | the same | `inbound` or `outbound`, as Call-Direction |
//! | `variables` | the same | the leg's variables **at its end**; an array is `ARRAY::a\|:b`, in XML several elements |
//! | `callflow`, an array; before 1.6 the key stood several times | `<callflow>`, several | one for each time the leg entered the dialplan, **newest first** |
//! | `callflow.caller_profile` | the same | the numbers of that time |
//! | `….originator.originator_caller_profiles[]` | `<originator_caller_profile>` | the leg that caused this one |
//! | `….originatee.originatee_caller_profiles[]` | `<originatee_caller_profile>` | legs that it caused, newest first |
//! | `callflow.times` | the same | moments in microseconds since 1970, 0 for never |
//! | `app_log.applications[]` | `<application app_name= …>` | what it executed, and when |
//!
//! The values of variables are percent-encoded in XML always and in JSON by default (`encode-values`); which it is
//! shows in them. Everything else is not encoded. Bytes that are no UTF-8 (a Latin-1 caller name) become U+FFFD.
//!
//! **What deceives.** Variables are those of the end: the bridge has put the agent's `dialed_user` on the caller,
//! the queue its `cc_queue`. What a leg was at its creation is therefore taken from its **first** `callflow`, and
//! of the variables only what keeps. What is not written at all: whether the caller asked for privacy by other
//! means than a header, who was talked to in between where one stay in the dialplan saw several, when a leg that
//! has no file of its own ended.

mod node;
mod replay;

use std::collections::HashMap;

use percent_encoding::percent_decode_str;

pub use replay::{replay, runs, tell};

use node::Node;

use super::HEADERS;
use crate::time::UnixMillis;

/// Most times that a leg enters the dialplan, legs it causes, and applications of it, each: a loop in a dialplan
/// makes thousands.
const PARTS_MAX: usize = 1000;
/// Longest Unique-ID, in bytes; applications choose them now and then.
const ID_MAX: usize = 255;
/// Most ties that are followed from leg to leg. Forwards run over three.
const HOPS_MAX: usize = 16;

/// Variables that are read besides those that events are read for.
const VARIABLES: [&str; 13] = [
    "answer_uepoch",
    "bridge_channel",
    "bridge_hangup_cause",
    "bridge_uepoch",
    "end_uepoch",
    "hangup_cause",
    "last_bridge_to",
    "originate_causes",
    "originated_legs",
    "presence_id",
    "signal_bond",
    "start_uepoch",
    "uuid",
];

/// A file that is no record of a leg.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unreadable {
    /// Neither JSON nor XML, or broken off: it may be in the middle of being written.
    #[error("it is damaged or not written to its end")]
    Damaged,
    /// JSON or XML, but not what the modules write.
    #[error("it is no call detail record: {0} is missing")]
    Foreign(&'static str),
}

/// One leg, as it was when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cdr {
    core: String,
    id: String,
    outbound: bool,
    variables: HashMap<String, String>,
    /// Oldest first; never empty.
    stays: Vec<Stay>,
    applications: Vec<Application>,
    begun: Micros,
    answered: Option<Micros>,
    ended: Micros,
}

/// Moments of the switch are in microseconds, and their order counts.
type Micros = u64;

/// One time that a leg was in the dialplan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stay {
    index: Option<u32>,
    own: Profile,
    originator: Option<Profile>,
    /// Newest first.
    originatees: Vec<Profile>,
    entered: Micros,
    created: Micros,
    answered: Micros,
    bridged: Micros,
    hung_up: Micros,
}

/// A leg's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Profile {
    id: String,
    caller: String,
    /// The caller as the leg began with them; a trunk writes something else here, a bridge leaves it alone.
    ani: String,
    dialled: String,
    context: String,
    channel: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Application {
    name: String,
    arguments: String,
    at: Micros,
}

/// Reads one file, of either module.
///
/// # Errors
/// [`Unreadable`]; never panics, whatever the bytes.
pub fn read(bytes: &[u8]) -> Result<Cdr, Unreadable> {
    let text = String::from_utf8_lossy(bytes);
    let file = match text.trim_start().chars().next() {
        Some('{') => Node::from_json(&text),
        Some('<') => Node::from_xml(&text),
        Some(_) | None => None,
    };
    Cdr::new(&file.ok_or(Unreadable::Damaged)?)
}

impl Cdr {
    fn new(file: &Node) -> Result<Self, Unreadable> {
        let variables = variables(file.first("variables").ok_or(Unreadable::Foreign("variables"))?);
        let mut stays: Vec<Stay> = file.all("callflow").take(PARTS_MAX).map(Stay::new).collect();
        stays.reverse();
        let first = stays.first().ok_or(Unreadable::Foreign("callflow"))?;
        let moment = |name: &str| variables.get(name).and_then(|v| v.parse().ok()).unwrap_or_default();
        let either = |a: Micros, b: Micros| if a > 0 { a } else { b };
        let begun = either(first.created, moment("start_uepoch"));
        let ended = either(stays.iter().map(|s| s.hung_up).max().unwrap_or_default(), moment("end_uepoch"));
        let answered = stays.iter().map(|s| s.answered).find(|at| *at > 0);
        let answered = answered.or(Some(moment("answer_uepoch")).filter(|at| *at > 0));
        if begun == 0 || ended < begun {
            return Err(Unreadable::Foreign("when it began and ended"));
        }
        let id = variables.get("uuid").filter(|id| !id.is_empty()).unwrap_or(&first.own.id).clone();
        if id.is_empty() || id.len() > ID_MAX {
            return Err(Unreadable::Foreign("uuid"));
        }
        let direction = file.first("channel_data").and_then(|node| node.text("direction"));
        let direction = direction.or(variables.get("direction").map(String::as_str));
        let applications = file.first("app_log").into_iter().flat_map(|log| {
            log.all("applications").chain(log.all("application")).take(PARTS_MAX).map(Application::new)
        });
        Ok(Self {
            core: file.text("core-uuid").unwrap_or_default().to_owned(),
            outbound: direction.ok_or(Unreadable::Foreign("direction"))? == "outbound",
            applications: applications.collect(),
            id,
            variables,
            stays,
            begun,
            answered,
            ended,
        })
    }

    /// Unique-ID of the leg.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it was created, by the switch's clock.
    #[must_use]
    pub const fn begun(&self) -> UnixMillis {
        UnixMillis(self.begun / 1000)
    }

    /// When it was hung up, by the switch's clock.
    #[must_use]
    pub const fn ended(&self) -> UnixMillis {
        UnixMillis(self.ended / 1000)
    }

    /// Unique-IDs of the legs that may have caused this one, likeliest first. None for a leg that began by itself.
    pub fn ties(&self) -> impl Iterator<Item = &str> {
        let first = self.first();
        // Whoever calls in came by themselves; who picked them up is noted as their originator.
        let has_cause = self.outbound || first.own.channel.starts_with("loopback/");
        let originator = first.originator.as_ref().map(|profile| profile.id.as_str());
        let named = [
            "originating_leg_uuid",
            "originator",
            "ent_originate_aleg_uuid",
            "other_loopback_from_uuid",
            "cc_member_session_uuid",
            "fifo_bridge_uuid",
        ];
        let named = named.into_iter().filter_map(|name| self.variable(name));
        let ties = originator.into_iter().chain(named);
        ties.filter(move |tie| has_cause && !tie.is_empty() && *tie != self.id)
    }

    fn first(&self) -> &Stay {
        self.stays.iter().find(|stay| stay.index == Some(1)).unwrap_or(&self.stays[0])
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl Stay {
    fn new(node: &Node) -> Self {
        let own = node.first("caller_profile");
        let profiles = |part: &str, several: &str, one: &str| -> Vec<Profile> {
            let part = own.and_then(|own| own.first(part));
            let profiles = part.into_iter().flat_map(|part| part.all(several).chain(part.all(one)));
            profiles.take(PARTS_MAX).map(Profile::new).collect()
        };
        let times = node.first("times");
        let moment = |name: &str| times.and_then(|t| t.text(name)?.parse().ok()).unwrap_or_default();
        Self {
            index: node.text("profile_index").and_then(|index| index.parse().ok()),
            own: own.map(Profile::new).unwrap_or_default(),
            originator: profiles("originator", "originator_caller_profiles", "originator_caller_profile")
                .into_iter()
                .next(),
            originatees: profiles("originatee", "originatee_caller_profiles", "originatee_caller_profile"),
            entered: moment("profile_created_time"),
            created: moment("created_time"),
            answered: moment("answered_time"),
            bridged: moment("bridged_time"),
            hung_up: moment("hangup_time"),
        }
    }
}

impl Profile {
    fn new(node: &Node) -> Self {
        let text = |name: &str| node.text(name).unwrap_or_default().to_owned();
        Self {
            id: Some(text("uuid")).filter(|id| id.len() <= ID_MAX).unwrap_or_default(),
            caller: text("caller_id_number"),
            ani: text("ani"),
            dialled: text("destination_number"),
            context: text("context"),
            channel: text("chan_name"),
        }
    }
}

impl Application {
    fn new(node: &Node) -> Self {
        let text = |name: &str| node.text(name).unwrap_or_default().to_owned();
        let at = node.text("app_stamp").and_then(|at| at.parse().ok()).unwrap_or_default();
        Self { name: text("app_name"), arguments: text("app_data"), at }
    }
}

/// The variables that are asked for, decoded if the file has them encoded.
fn variables(node: &Node) -> HashMap<String, String> {
    // An encoded value holds none of these, and one of several hundred values is a date or an address.
    let plain = node.texts().any(|(_, value)| value.contains([' ', '<', '"', '@']));
    let mut variables: HashMap<String, String> = HashMap::new();
    for (name, value) in node.texts() {
        let header = |header: &&str| header.strip_prefix("variable_") == Some(name);
        if !VARIABLES.contains(&name) && name != "direction" && !HEADERS.iter().any(header) {
            continue;
        }
        let value = if plain { value.into() } else { percent_decode_str(value).decode_utf8_lossy() };
        match variables.get_mut(name) {
            None => drop(variables.insert(name.to_owned(), value.into_owned())),
            Some(array) if array.starts_with(ARRAY) => array.extend(["|:", &value]),
            Some(first) => *first = format!("{ARRAY}{first}|:{value}"),
        }
    }
    variables
}

const ARRAY: &str = "ARRAY::";

/// The values of an array, or the one value that is none.
fn array(value: &str) -> impl Iterator<Item = &str> {
    value.strip_prefix(ARRAY).unwrap_or(value).split("|:").take(PARTS_MAX)
}
