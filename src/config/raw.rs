//! What the file says: every key, each value with its line, nothing checked but its type.
//!
//! The functions here are the list of known keys; [`known_keys`] reads it off them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::document::{self, Given, Kind, Section};
use super::fault::{Origin, Report};
use super::secret::Secret;

/// Every key that the file may have, as `switch.rule.profile`, with what it holds. The keys of `[causes]` are the
/// operator's own.
#[must_use]
pub fn known_keys() -> BTreeMap<String, Kind> {
    document::keys_asked_for(config)
}

/// Reads `text` of the file `path`. `None`, with faults, if it is not TOML.
pub(super) fn read(path: &Path, text: &str, report: &mut Report) -> Option<RawConfig> {
    document::read_document(path, text, report, config)
}

#[derive(Debug, Default)]
pub(super) struct RawConfig {
    pub(super) state_dir: Option<Given<PathBuf>>,
    pub(super) country: Option<Given<String>>,
    pub(super) switches: Vec<RawSwitch>,
    pub(super) zammads: Vec<RawZammad>,
    pub(super) routes: Vec<RawRoute>,
    pub(super) delivery: RawDelivery,
    pub(super) calls: RawCalls,
    pub(super) causes: Vec<(Given<String>, Given<String>)>,
    pub(super) agents: Vec<RawAgent>,
    pub(super) queues: Vec<RawQueue>,
    pub(super) log: RawLog,
    pub(super) admin: RawAdmin,
    pub(super) outbox: RawOutbox,
}

#[derive(Debug, Default)]
pub(super) struct RawLog {
    pub(super) level: Option<Given<String>>,
    pub(super) format: Option<Given<String>>,
}

/// Where a table stands: what a fault says about a key that it lacks.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) origin: Origin,
}

impl Place {
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.key)
    }
}

/// A secret as one layer gives it: itself, or the file that holds it. Both is a fault.
#[derive(Clone, Debug, Default)]
pub(super) struct RawSecret {
    pub(super) text: Option<Given<Secret>>,
    pub(super) file: Option<Given<PathBuf>>,
}

impl RawSecret {
    pub(super) fn is_given(&self) -> bool {
        self.text.is_some() || self.file.is_some()
    }
}

#[derive(Debug)]
pub(super) struct RawSwitch {
    pub(super) place: Place,
    pub(super) name: Option<Given<String>>,
    pub(super) address: Option<Given<String>>,
    pub(super) password: RawSecret,
    pub(super) user: Option<Given<String>>,
    pub(super) zammad: Option<Given<String>>,
    pub(super) heartbeat_timeout_s: Option<Given<i64>>,
    pub(super) cdr_dir: Option<Given<PathBuf>>,
    pub(super) rules: Vec<RawRule>,
}

#[derive(Debug)]
pub(super) struct RawRule {
    pub(super) place: Place,
    pub(super) profile: Option<Given<String>>,
    pub(super) context: Option<Given<String>>,
    pub(super) gateway: Option<Given<String>>,
    pub(super) channel: Option<Given<String>>,
    pub(super) user: Option<Given<String>>,
    pub(super) number: Option<Given<String>>,
    pub(super) direction: Option<Given<String>>,
    pub(super) side: Option<Given<String>>,
}

#[derive(Debug)]
pub(super) struct RawZammad {
    pub(super) place: Place,
    pub(super) name: Option<Given<String>>,
    pub(super) url: RawSecret,
    pub(super) rest_token: RawSecret,
    pub(super) tls: Option<Given<String>>,
    pub(super) ca_file: Option<Given<PathBuf>>,
    pub(super) timeout_s: Option<Given<i64>>,
}

#[derive(Debug, Default)]
pub(super) struct RawDelivery {
    pub(super) concurrency: Option<Given<i64>>,
    pub(super) retry_wait_ms_min: Option<Given<i64>>,
    pub(super) retry_wait_ms_max: Option<Given<i64>>,
    pub(super) delivered_keep_h: Option<Given<i64>>,
    pub(super) dead_keep_d: Option<Given<i64>>,
    pub(super) dead_keep_max: Option<Given<i64>>,
    pub(super) late_after_s: Option<Given<i64>>,
    pub(super) late_policy: Option<Given<String>>,
    pub(super) backlog_per_s: Option<Given<i64>>,
    pub(super) max_age_d: Option<Given<i64>>,
    pub(super) max_events: Option<Given<i64>>,
    pub(super) when_full: Option<Given<String>>,
}

#[derive(Debug, Default)]
pub(super) struct RawCalls {
    pub(super) internal: Option<Given<bool>>,
    pub(super) end_blocked_with: Option<Given<String>>,
}

#[derive(Debug, Default)]
pub(super) struct RawAdmin {
    pub(super) listen: Option<Given<String>>,
    pub(super) allow_remote: Option<Given<bool>>,
    pub(super) host: Option<Given<String>>,
}

#[derive(Debug, Default)]
pub(super) struct RawOutbox {
    pub(super) url: RawSecret,
    pub(super) ca_file: Option<Given<PathBuf>>,
    pub(super) node: Option<Given<String>>,
    pub(super) lease_s: Option<Given<i64>>,
}

#[derive(Debug)]
pub(super) struct RawRoute {
    pub(super) place: Place,
    pub(super) domain: Option<Given<String>>,
    pub(super) context: Option<Given<String>>,
    pub(super) gateway: Option<Given<String>>,
    pub(super) number: Option<Given<String>>,
    pub(super) zammad: Option<Given<String>>,
}

#[derive(Debug)]
pub(super) struct RawAgent {
    pub(super) place: Place,
    pub(super) extension: Option<Given<String>>,
    pub(super) user: Option<Given<String>>,
    pub(super) number: Option<Given<String>>,
}

#[derive(Debug)]
pub(super) struct RawQueue {
    pub(super) place: Place,
    pub(super) number: Option<Given<String>>,
    pub(super) name: Option<Given<String>>,
}

impl RawSwitch {
    /// The one switch of a configuration without a `[[switch]]`.
    pub(super) fn implied() -> Self {
        Self {
            place: Place { key: "switch[0]".into(), origin: Origin::Nowhere },
            name: None,
            address: None,
            password: RawSecret::default(),
            user: None,
            zammad: None,
            heartbeat_timeout_s: None,
            cdr_dir: None,
            rules: Vec::new(),
        }
    }
}

impl RawZammad {
    /// The one Zammad of a configuration without a `[[zammad]]`.
    pub(super) fn implied() -> Self {
        Self {
            place: Place { key: "zammad[0]".into(), origin: Origin::Nowhere },
            name: None,
            url: RawSecret::default(),
            rest_token: RawSecret::default(),
            tls: None,
            ca_file: None,
            timeout_s: None,
        }
    }
}

fn config(s: &mut Section<'_, '_>) -> RawConfig {
    RawConfig {
        state_dir: s.path("state_dir"),
        country: s.text("country"),
        switches: s.tables("switch", switch),
        zammads: s.tables("zammad", zammad),
        delivery: s.table("delivery", delivery),
        routes: s.tables("route", route),
        calls: s.table("calls", calls),
        causes: s.table("causes", |s| s.pairs()),
        agents: s.tables("agent", agent),
        queues: s.tables("queue", queue),
        log: s.table("log", log),
        admin: s.table("admin", admin),
        outbox: s.table("outbox", outbox),
    }
}

fn log(s: &mut Section<'_, '_>) -> RawLog {
    RawLog { level: s.text("level"), format: s.text("format") }
}

fn switch(s: &mut Section<'_, '_>) -> RawSwitch {
    RawSwitch {
        place: place(s),
        name: s.text("name"),
        address: s.text("address"),
        password: RawSecret { text: s.secret("password"), file: s.path("password_file") },
        user: s.text("user"),
        zammad: s.text("zammad"),
        heartbeat_timeout_s: s.count("heartbeat_timeout_s"),
        cdr_dir: s.path("cdr_dir"),
        rules: s.tables("rule", rule),
    }
}

fn rule(s: &mut Section<'_, '_>) -> RawRule {
    RawRule {
        place: place(s),
        profile: s.text("profile"),
        context: s.text("context"),
        gateway: s.text("gateway"),
        channel: s.text("channel"),
        user: s.text("user"),
        number: s.text("number"),
        direction: s.text("direction"),
        side: s.text("side"),
    }
}

fn zammad(s: &mut Section<'_, '_>) -> RawZammad {
    RawZammad {
        place: place(s),
        name: s.text("name"),
        url: RawSecret { text: s.secret("url"), file: s.path("url_file") },
        rest_token: RawSecret { text: s.secret("rest_token"), file: s.path("rest_token_file") },
        tls: s.text("tls"),
        ca_file: s.path("ca_file"),
        timeout_s: s.count("timeout_s"),
    }
}

fn delivery(s: &mut Section<'_, '_>) -> RawDelivery {
    RawDelivery {
        concurrency: s.count("concurrency"),
        retry_wait_ms_min: s.count("retry_wait_ms_min"),
        retry_wait_ms_max: s.count("retry_wait_ms_max"),
        delivered_keep_h: s.count("delivered_keep_h"),
        dead_keep_d: s.count("dead_keep_d"),
        dead_keep_max: s.count("dead_keep_max"),
        late_after_s: s.count("late_after_s"),
        late_policy: s.text("late_policy"),
        backlog_per_s: s.count("backlog_per_s"),
        max_age_d: s.count("max_age_d"),
        max_events: s.count("max_events"),
        when_full: s.text("when_full"),
    }
}

fn calls(s: &mut Section<'_, '_>) -> RawCalls {
    RawCalls { internal: s.switch("internal"), end_blocked_with: s.text("end_blocked_with") }
}

fn admin(s: &mut Section<'_, '_>) -> RawAdmin {
    RawAdmin { listen: s.text("listen"), allow_remote: s.switch("allow_remote"), host: s.text("host") }
}

fn outbox(s: &mut Section<'_, '_>) -> RawOutbox {
    RawOutbox {
        url: RawSecret { text: s.secret("url"), file: s.path("url_file") },
        ca_file: s.path("ca_file"),
        node: s.text("node"),
        lease_s: s.count("lease_s"),
    }
}

fn route(s: &mut Section<'_, '_>) -> RawRoute {
    RawRoute {
        place: place(s),
        domain: s.text("domain"),
        context: s.text("context"),
        gateway: s.text("gateway"),
        number: s.text("number"),
        zammad: s.text("zammad"),
    }
}

fn agent(s: &mut Section<'_, '_>) -> RawAgent {
    RawAgent {
        place: place(s),
        extension: s.text("extension"),
        user: s.text("user"),
        number: s.text("number"),
    }
}

fn queue(s: &mut Section<'_, '_>) -> RawQueue {
    RawQueue { place: place(s), number: s.text("number"), name: s.text("name") }
}

fn place(s: &Section<'_, '_>) -> Place {
    Place { key: s.key().to_owned(), origin: s.origin().clone() }
}
