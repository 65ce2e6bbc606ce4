//! `docs/what-zammad-hears.md` is made from the recordings: what the program would post for each, and what Zammad makes
//! of it. What happened in a recording is said in the README beside it.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod common;
mod docs;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::sync::Arc;

use common::stream::settings;
use freeswitch_zammad::call::tracker::{FAILOVER_MAX, Output, Tracker};
use freeswitch_zammad::sim::zammad::{Log, Routing, Row};
use freeswitch_zammad::time::UnixMillis;
use serde_json::Value;

const HEAD: &str = include_str!("docs/what-zammad-hears.head.md");
/// Shown whole, as it is posted.
const SHOWN_WHOLE: &str = "in_answered_caller_hangs_up";

#[test]
fn the_table_of_what_zammad_hears_is_what_comes_of_the_recordings() {
    let mut groups: BTreeMap<Group, Vec<String>> = BTreeMap::new();
    let (mut rows, mut whole) = (0, String::new());
    for folder in ["captures", "captures-fusionpbx"] {
        let happened = descriptions(folder);
        let recordings = common::recordings(folder);
        assert_eq!(
            happened.len(),
            recordings.len(),
            "{folder}: each recording is described, and nothing else"
        );
        for (name, bytes) in recordings {
            let calls = calls(&bytes);
            let what =
                happened.get(&name).unwrap_or_else(|| panic!("{folder}/README.md does not know {name}"));
            groups.entry(Group::of(&calls)).or_default().push(row(what, &name, &calls));
            rows += 1;
            if name == SHOWN_WHOLE {
                whole = calls.iter().flat_map(|call| &call.posted).map(|body| format!("{body}\n")).collect();
            }
        }
    }
    assert!(rows > 100 && !whole.is_empty(), "{rows}");
    let mut tables = String::new();
    for (group, rows) in &groups {
        let (title, text) = group.words();
        write!(tables, "## {title}\n\n{text}\n\n").unwrap();
        tables.push_str("| what happened | from → to | what is posted | what Zammad shows | recording |\n|---|---|---|---|---|\n");
        for row in rows {
            writeln!(tables, "{row}").unwrap();
        }
        tables.push('\n');
    }
    let page = HEAD
        .replace("{ROWS}", &rows.to_string())
        .replace("{WHOLE}", whole.trim_end())
        .replace("{TABLES}", tables.trim_end());
    docs::hold("docs/what-zammad-hears.md", "docs_what_zammad_hears", &page);
}

/// One call: what is posted for it, and the row that it leaves in Zammad.
struct Call {
    posted: Vec<String>,
    events: Vec<Value>,
    row: Row,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Talked,
    SeveralTalked,
    Mailbox,
    Missed,
    Forwarded,
    OutTalked,
    OutVain,
    SeveralCalls,
    Nothing,
}

impl Group {
    fn of(calls: &[Call]) -> Self {
        let call = match calls {
            [] => return Self::Nothing,
            [call] => call,
            [_, _, ..] => return Self::SeveralCalls,
        };
        let answers = call.answers();
        match (&*call.row.direction, answers.last().map(String::as_str)) {
            ("out", Some(_)) => Self::OutTalked,
            ("out", None) => Self::OutVain,
            (_, Some("voicemail")) => Self::Mailbox,
            (_, Some(_)) if answers.len() > 1 => Self::SeveralTalked,
            (_, Some(_)) => Self::Talked,
            (_, None) if call.row.missed_mark() => Self::Missed,
            (_, None) => Self::Forwarded,
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Talked => (
                "A customer calls, and one person talks to them",
                "One `newCall`, one `answer` by whoever is connected to the customer, one `hangup`. What happens before that \
                 (menus, announcements, queues, phones that ring in vain) is not told.",
            ),
            Self::SeveralTalked => (
                "A customer is put through to somebody else",
                "Each person who is newly connected to the customer is a further `answer` of the same call.",
            ),
            Self::Mailbox => (
                "The mailbox takes it",
                "The mailbox is an `answer` by `voicemail`, which Zammad takes for a missed call.",
            ),
            Self::Missed => (
                "Nobody takes it",
                "No `answer`: Zammad marks the call as missed. The cause is judged from the whole call.",
            ),
            Self::Forwarded => (
                "It is moved off the switch before anybody here takes it",
                "The cause is `forwarded`, and Zammad does not mark the call as missed.",
            ),
            Self::OutTalked => (
                "We call a customer, who answers",
                "The `answer` of an outbound call names nobody: in Zammad a name there would replace the customer's.",
            ),
            Self::OutVain => ("We call a customer in vain", "Zammad marks no outbound call as missed."),
            Self::SeveralCalls => (
                "More than one call",
                "Each stay of an outside party is a call of its own; the events of one go out in order.",
            ),
            Self::Nothing => (
                "Nothing is told",
                "No outside party takes part: colleagues among themselves, service codes. `[calls] internal = true` tells calls \
                 between two of our phones as well.",
            ),
        }
    }
}

impl Call {
    /// Who answered, in order.
    fn answers(&self) -> Vec<String> {
        let told = self.events.iter().filter(|event| event["event"] == "answer");
        told.map(|event| event["user"].as_str().unwrap_or("somebody").to_owned()).collect()
    }

    fn posts(&self) -> String {
        let one = |event: &Value| match event["event"].as_str().unwrap() {
            "answer" => match event["user"].as_str() {
                Some(user) => format!("answer {user}"),
                None => "answer".to_owned(),
            },
            "hangup" => format!("hangup {}", event["cause"].as_str().unwrap()),
            other => other.to_owned(),
        };
        self.events.iter().map(|event| format!("`{}`", one(event))).collect::<Vec<_>>().join(" ")
    }

    fn shown(&self) -> String {
        match (&*self.row.direction, self.row.missed_mark()) {
            ("out", _) if self.row.start_at.is_some() => "outbound, talked".to_owned(),
            ("out", _) => "outbound, not answered".to_owned(),
            (_, true) => "**missed**".to_owned(),
            (_, false) => match &self.row.to_comment {
                Some(by) => format!("taken by {by}"),
                None => "forwarded".to_owned(),
            },
        }
    }
}

fn row(what: &str, name: &str, calls: &[Call]) -> String {
    let each = |of: &dyn Fn(&Call) -> String| calls.iter().map(of).collect::<Vec<_>>().join("<br>");
    let numbers = each(&|call| format!("{} → {}", call.row.from, call.row.to));
    format!("| {what} | {numbers} | {} | {} | `{name}` |", each(&Call::posts), each(&Call::shown))
}

/// What the README beside the recordings says of each.
fn descriptions(folder: &str) -> BTreeMap<String, String> {
    let path = docs::root().join("tests").join(folder).join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, what) = row.trim_end_matches(" |").split_once("` | ").unwrap();
        (name.to_owned(), what.to_owned())
    })
    .collect()
}

/// What is posted for a recording, call by call in the order in which they begin, each given to a Zammad.
fn calls(bytes: &[u8]) -> Vec<Call> {
    let mut tracker = Tracker::new(Arc::new(settings()));
    let mut now = UnixMillis(0);
    for event in common::events(bytes) {
        now = event.timestamp_ms().map_or(now, UnixMillis).max(now);
        tracker.handle_event(&event, now);
    }
    tracker.handle_timeout(now.after(FAILOVER_MAX));
    let mut zammad = Log::default();
    let mut calls: Vec<(String, Vec<String>, Vec<Value>)> = Vec::new();
    while let Some(output) = tracker.poll_output() {
        let Output::News(news) = output else { continue };
        let body = news.event.body();
        let event: Value = serde_json::from_str(&body).unwrap();
        zammad.post(event.as_object().unwrap(), &Routing::default(), now);
        let id = event["callId"].as_str().unwrap().to_owned();
        match calls.iter_mut().find(|(known, ..)| *known == id) {
            Some((_, posted, events)) => {
                posted.push(body);
                events.push(event);
            }
            None => calls.push((id, vec![body], vec![event])),
        }
    }
    let row = |id: &str| zammad.rows().iter().find(|row| row.call_id == id).unwrap().clone();
    calls.into_iter().map(|(id, posted, events)| Call { row: row(&id), posted, events }).collect()
}
