//! The whole road for tests: a switch and a Zammad to talk to, a daemon between them, and what must come out.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

mod patience;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use freeswitch_zammad::config::{Config, Environment, Overrides, Secret};
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{self, Pace, Switch};
use freeswitch_zammad::sim::zammad::{self, Row, Seen, Zammad};
use freeswitch_zammad::store::Store;
#[allow(unused_imports, reason = "not every test waits")]
pub(crate) use patience::{PATIENCE, until, within};
use serde_json::Value;
use tempfile::TempDir;

/// A switch, a Zammad, and a place for the daemon's store.
pub(crate) struct Road {
    pub(crate) switch: Switch,
    pub(crate) zammad: Zammad,
    pub(crate) dir: TempDir,
}

impl Road {
    pub(crate) fn new() -> Self {
        Self::with(switch::Settings::default())
    }

    pub(crate) fn with(settings: switch::Settings) -> Self {
        Self::of(settings, zammad::Settings::default())
    }

    /// Whose switch and Zammad ask for these.
    pub(crate) fn guarded(password: &str, token: &str) -> Self {
        let switch = switch::Settings { password: password.into(), ..switch::Settings::default() };
        Self::of(switch, zammad::Settings { token: token.into(), ..zammad::Settings::default() })
    }

    pub(crate) fn of(switch: switch::Settings, zammad: zammad::Settings) -> Self {
        Self {
            switch: Switch::start(switch).unwrap(),
            zammad: Zammad::start(zammad).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// What the command line `--zammad-url … --freeswitch … --state-dir … --country DE` makes, but impatient.
    pub(crate) fn config(&self) -> Config {
        config(&self.zammad.url(), &self.switch.addr().to_string(), "ClueCon", self.dir.path())
    }

    /// A daemon that listens to the switch.
    pub(crate) async fn daemon(&self) -> Daemon {
        let daemon = Daemon::start(self.config()).await.unwrap();
        within("the daemon subscribes", self.switch.wait_subscribed()).await;
        daemon
    }

    pub(crate) async fn play(&self, recording: &Recording) {
        within("the recording is on the wire", self.switch.play(recording, Pace::AtOnce)).await;
    }

    /// Returns once each of these calls is hung up in Zammad's log.
    pub(crate) async fn all_ended(&self, calls: usize) {
        let what = format!("{calls} calls end in Zammad");
        let ended = |rows: &[Row], _: &[Seen]| rows.iter().filter(|r| r.state == "hangup").count() >= calls;
        let patience = tokio::time::timeout(PATIENCE, self.zammad.wait_until(ended)).await;
        assert!(patience.is_ok(), "{what}: {:#?}", self.zammad.log());
    }
}

pub(crate) fn config(url: &str, switch: &str, password: &str, dir: &Path) -> Config {
    let overrides = Overrides {
        zammad_url: Some(Secret::new(url)),
        freeswitch: Some(switch.to_owned()),
        freeswitch_password: Some(Secret::new(password)),
        state_dir: Some(dir.to_owned()),
        country: Some("DE".into()),
        ..Overrides::default()
    };
    let nothing = Environment::from_iter(std::iter::empty::<(String, String)>());
    let nowhere = Path::new("/nonexistent/freeswitch-zammad.toml");
    let mut config = Config::load(&overrides, &nothing, nowhere).unwrap().config;
    config.delivery.retry_wait_min = Duration::from_millis(50);
    config.delivery.retry_wait_max = Duration::from_millis(200);
    config
}

/// Nothing waits in the store any more.
pub(crate) async fn drained(store: &Store) {
    until("the queue is empty", || store.counts().pending == 0).await;
}

/// A recording as other legs, of this run of the switch.
pub(crate) fn renamed(switch: &Switch, bytes: &[u8], suffix: &str) -> Recording {
    let suffix: String = suffix.chars().filter(char::is_ascii_alphanumeric).collect();
    Recording::parse(bytes).unwrap().renamed(&suffix).with_core_uuid(&switch.core_uuid())
}

/// The rows that are about legs of `recording`.
pub(crate) fn rows_of<'a>(rows: &'a [Row], recording: &Recording) -> Vec<&'a Row> {
    let created = recording.events().iter().filter(|e| e.name() == "CHANNEL_CREATE");
    let legs: BTreeSet<String> = created.filter_map(|e| e.header("Unique-ID")).collect();
    // An id that an application chose is followed by the moment of its creation.
    let ours = |id: &str| legs.contains(id) || id.rsplit_once('-').is_some_and(|(leg, _)| legs.contains(leg));
    rows.iter().filter(|row| ours(&row.call_id)).collect()
}

/// How the rows of one recording differ from what a person watching would say; empty if they do not.
pub(crate) fn differences(rows: &[&Row], seen: &[Seen], want: &Value) -> Vec<String> {
    differences_but(rows, seen, want, |answers, told| answers == told)
}

/// The same where what was told is `like` what is right.
pub(crate) fn differences_but(
    rows: &[&Row],
    seen: &[Seen],
    want: &Value,
    like: fn(&[String], &[String]) -> bool,
) -> Vec<String> {
    let mut left: Vec<&Value> = want.as_array().unwrap().iter().collect();
    if rows.len() != left.len() {
        return vec![format!("{} rows, expected {}: {rows:#?}", rows.len(), left.len())];
    }
    let mut wrong = Vec::new();
    for row in rows {
        let likeness = |want: &&Value| {
            let columns = [("direction", 4, &row.direction), ("to", 2, &row.to), ("from", 1, &row.from)];
            columns.iter().map(|(key, weight, got)| i32::from(fits(got, &want[*key])) * weight).sum::<i32>()
        };
        let best = (0..left.len()).max_by_key(|at| likeness(&left[*at])).unwrap();
        wrong.extend(row_differences(row, seen, left.remove(best), like));
    }
    wrong
}

fn row_differences(
    row: &Row,
    seen: &[Seen],
    want: &Value,
    like: fn(&[String], &[String]) -> bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut claim = |right: bool, what: String| {
        if !right {
            wrong.push(what);
        }
    };
    for (key, got) in [("direction", &row.direction), ("from", &row.from), ("to", &row.to)] {
        claim(fits(got, &want[key]), format!("{key} is {got}, expected {}", want[key]));
    }
    claim(row.state == "hangup", format!("it is left in state {}", row.state));
    let cause = row.comment.as_deref().unwrap_or_default();
    claim(fits(cause, &want["cause"]), format!("cause is {cause}, expected {}", want["cause"]));

    let inbound = row.direction == "in";
    let answers = answers(seen, &row.call_id);
    if inbound {
        let right = choices(&want["answers"]).iter().any(|choice| like(choice, &answers));
        claim(right, format!("answered by {answers:?}, expected {}", want["answers"]));
        let last = answers.last();
        claim(row.to_comment.as_ref() == last, format!("shown as {:?}, expected {last:?}", row.to_comment));
        let to_return = match last.map(String::as_str) {
            None => cause != "forwarded",
            Some(by) => by == "voicemail",
        };
        claim(
            row.missed_mark() == to_return,
            format!("missed is {}, expected {to_return}", row.missed_mark()),
        );
    } else {
        let answered = want["answered"] == true;
        claim(row.start_at.is_some() == answered, format!("answered is {}, expected {answered}", !answered));
        claim(!row.missed_mark(), "an outbound call is marked as missed".to_owned());
        claim(row.to_comment.is_none(), format!("the customer's name is wiped by {:?}", row.to_comment));
    }
    wrong
}

/// Who answered a call, as Zammad was told, in order; a repeat of the same is one answer.
fn answers(seen: &[Seen], call_id: &str) -> Vec<String> {
    let told = seen.iter().filter(|s| s.processed && s.event.as_deref() == Some("answer"));
    let mut answers: Vec<String> = told
        .filter(|s| s.call_id.as_deref() == Some(call_id))
        .filter_map(|s| serde_json::from_str::<Value>(&s.body).unwrap()["user"].as_str().map(str::to_owned))
        .collect();
    answers.dedup();
    answers
}

/// A list of lists is a choice of right ones.
fn choices(want: &Value) -> Vec<Vec<String>> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let all = want.as_array().unwrap();
    if all.iter().any(Value::is_array) { all.iter().map(list).collect() } else { vec![list(want)] }
}

fn fits(got: &str, want: &Value) -> bool {
    want.as_array().map_or_else(|| want == got, |choice| choice.iter().any(|w| w == got))
}
