//! Zammad's caller log: what each event does to it and what Zammad says to that.
//!
//! Pure. Knows no HTTP: the answer is a status and a JSON value, time is an argument. Checked row by row
//! against recorded runs of Zammad's own code (`tests/zammad/exchanges.json`); what was not recorded but only
//! read in its source is marked "source".

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::time::UnixMillis;

/// Longest text a column keeps, in characters; longer ones are cut on save without a word.
const CALL_ID_MAX: usize = 250;
const NUMBER_MAX: usize = 100;
const DISPLAY_MAX: usize = 250;
const COMMENT_MAX: usize = 500;

/// Rows that `GET /api/v1/cti/log` shows.
const LIST_MAX: usize = 60;

/// One call in the caller log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Zammad's own number for the row, from 1.
    pub id: u64,
    /// The call, cut to 250 characters.
    pub call_id: String,
    /// `in` or `out`, as the newCall said.
    pub direction: String,
    /// The last event that was applied: `newCall`, `answer` or `hangup`.
    pub state: String,
    /// The caller's number; the routing table's caller id if one applied.
    pub from: String,
    /// The caller's display.
    pub from_comment: Option<String>,
    /// The called number.
    pub to: String,
    /// The callee's display.
    pub to_comment: Option<String>,
    /// Decides which agents see the entry.
    pub queue: Option<String>,
    /// The last event's cause.
    pub comment: Option<String>,
    /// False is what Zammad shows as missed (or as ringing, before the hangup).
    pub done: bool,
    /// When the newCall arrived.
    pub initialized_at: UnixMillis,
    /// When the last answer arrived.
    pub start_at: Option<UnixMillis>,
    /// When the last hangup arrived.
    pub end_at: Option<UnixMillis>,
}

impl Row {
    /// Whether an agent sees the call marked as one to return.
    #[must_use]
    pub fn missed_mark(&self) -> bool {
        !self.done
    }

    /// Whether an agent sees the call ringing.
    #[must_use]
    pub fn ringing(&self) -> bool {
        self.state == "newCall" && !self.done
    }

    /// The row as `GET /api/v1/cti/log` shows it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let at = |t: UnixMillis| t.to_string();
        json!({
            "id": self.id, "call_id": self.call_id, "direction": self.direction, "state": self.state,
            "from": self.from, "from_comment": self.from_comment, "to": self.to,
            "to_comment": self.to_comment, "queue": self.queue, "comment": self.comment, "done": self.done,
            "initialized_at": at(self.initialized_at), "start_at": self.start_at.map(at),
            "end_at": self.end_at.map(at), "preferences": {},
        })
    }
}

/// What an administrator entered in Zammad's Generic CTI page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Callers whose inbound calls are answered with `reject`, compared character by character.
    pub block: Vec<String>,
    /// Destination pattern (`41*`) and the caller id it sets on outbound calls; the first match counts.
    pub table: Vec<(String, String)>,
    /// The caller id of every other outbound call (not recorded).
    pub default_caller_id: Option<String>,
}

/// What Zammad says: the status and how the body is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// 200 with this object.
    Ok(Value),
    /// An error Zammad words itself, always JSON: status and text.
    Said(u16, &'static str),
    /// An exception with a text of its own: JSON, or an HTML page for a client that did not ask for JSON.
    Raised(u16, String),
    /// An inner fault: `Error ID …`, JSON or an HTML page likewise.
    Fault(u16),
}

/// All rows, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Log {
    rows: Vec<Row>,
    /// Where in `rows` a stored call id is, counted from the first row ever: load tests keep many thousands.
    by_call: HashMap<String, usize>,
    /// Rows that are no longer there.
    forgotten: usize,
    tally: BTreeMap<String, u64>,
}

impl Log {
    /// Every row, oldest first.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The newest 60 rows, newest first.
    #[must_use]
    pub fn newest(&self) -> Vec<&Row> {
        self.rows.iter().rev().take(LIST_MAX).collect()
    }

    /// How often each thing took effect, since the beginning: `newCall in`, `answer out`, `hangup in cancel` (the
    /// cause up to its first comma); `missed` for a hangup that left the mark, `again` for a newCall that was known.
    #[must_use]
    pub const fn tally(&self) -> &BTreeMap<String, u64> {
        &self.tally
    }

    /// Forgets the oldest rows, as Zammad itself does after a year; at least `newest` stay, at most twice as many, and
    /// what comes after a call that goes on.
    pub fn forget(&mut self, newest: usize) {
        if self.rows.len() <= newest.saturating_mul(2) {
            return;
        }
        let ended = self.rows.iter().take_while(|row| row.state == "hangup").count();
        let gone = ended.min(self.rows.len() - newest);
        for row in self.rows.drain(..gone) {
            self.by_call.remove(&row.call_id);
        }
        self.forgotten += gone;
    }

    /// Sets a row's mark by hand; false if there is no such row.
    pub fn set_done(&mut self, id: u64, done: bool) -> bool {
        self.rows.iter_mut().find(|r| r.id == id).map(|r| r.done = done).is_some()
    }

    /// One posted event, after the token was found right.
    pub fn post(&mut self, params: &Map<String, Value>, routing: &Routing, now: UnixMillis) -> Verdict {
        let mut event = Event::read(params);
        if !matches!(event.direction.as_deref(), Some("in" | "out")) {
            return Verdict::Said(422, "Invalid 'direction'!");
        }
        let answer = routing.advice(&mut event);
        let verdict = match event.name.as_deref() {
            Some("newCall") => self.new_call(&event, now).map_or(Verdict::Ok(answer), |refused| refused),
            Some("answer") => self.answer(&event, now),
            Some("hangup") => self.hangup(&event, now),
            _ => Verdict::Fault(422),
        };
        if matches!(verdict, Verdict::Ok(_)) {
            self.count(event.kind());
        }
        verdict
    }

    fn count(&mut self, what: String) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn new_call(&mut self, event: &Event, now: UnixMillis) -> Option<Verdict> {
        if self.find(event).is_some() {
            self.count("again".to_owned());
            return Some(already_exists(500));
        }
        let columns = (&event.from, &event.to, &event.call_id);
        let (from, to, call_id) = match columns {
            (None, ..) => return Some(required("from")),
            (_, None, _) => return Some(required("to")),
            (.., None) => return Some(required("call_id")),
            (Some(from), Some(to), Some(call_id)) => (from, to, cut(call_id, CALL_ID_MAX)),
        };
        if self.by_call.contains_key(&call_id) {
            // A longer id passed the look-up and met the unique index instead (not recorded).
            return Some(already_exists(422));
        }
        let inbound = event.is_inbound();
        let shown = event.user.as_ref().filter(|u| !u.is_empty());
        let (from_comment, to_comment) = if inbound {
            (None, shown.or(event.queue.as_ref().filter(|q| !q.is_empty())).cloned())
        } else {
            (event.user.clone(), None)
        };
        let fallback = if inbound { to } else { from };
        let queue = event.queue.as_ref().filter(|q| !q.is_empty()).unwrap_or(fallback);
        let number = self.forgotten + self.rows.len();
        self.by_call.insert(call_id.clone(), number);
        self.rows.push(Row {
            id: number as u64 + 1,
            call_id,
            direction: if inbound { "in" } else { "out" }.to_owned(),
            state: "newCall".to_owned(),
            from: cut(from, NUMBER_MAX),
            from_comment: from_comment.map(|c| cut(&c, DISPLAY_MAX)),
            to: cut(to, NUMBER_MAX),
            to_comment: to_comment.map(|c| cut(&c, DISPLAY_MAX)),
            queue: Some(cut(queue, DISPLAY_MAX)),
            comment: event.comment(),
            done: !inbound,
            initialized_at: now,
            start_at: None,
            end_at: None,
        });
        None
    }

    fn answer(&mut self, event: &Event, now: UnixMillis) -> Verdict {
        let Some(row) = self.find(event) else { return Verdict::Fault(500) };
        if row.state != "hangup" {
            row.state = "answer".to_owned();
            row.start_at = Some(now);
            row.done = true;
            row.comment = event.comment();
            if let Some(user) = &event.user {
                row.to_comment = Some(cut(user, DISPLAY_MAX));
            }
        }
        // Looking for the agent to show a screen to trips over an array, after the row was saved.
        if event.user_is_array && event.is_inbound() { Verdict::Fault(500) } else { Verdict::Ok(json!({})) }
    }

    fn hangup(&mut self, event: &Event, now: UnixMillis) -> Verdict {
        let Some(row) = self.find(event) else { return Verdict::Fault(500) };
        let unanswered = row.state == "newCall" && event.cause.as_deref() != Some("forwarded");
        let mailbox = row.to_comment.as_deref() == Some("voicemail");
        let missed = event.is_inbound() && (unanswered || mailbox);
        row.done = !missed;
        row.state = "hangup".to_owned();
        row.end_at = Some(now);
        row.comment = event.comment();
        if missed {
            self.count("missed".to_owned());
        }
        Verdict::Ok(json!({}))
    }

    fn find(&mut self, event: &Event) -> Option<&mut Row> {
        let row = *self.by_call.get(event.call_id.as_deref()?)?;
        self.rows.get_mut(row - self.forgotten)
    }
}

impl Routing {
    /// What the answer to a newCall carries; rewrites `from` if the table says so.
    fn advice(&self, event: &mut Event) -> Value {
        if event.name.as_deref() != Some("newCall") {
            return json!({});
        }
        if event.is_inbound() {
            let blocked = event.from.as_ref().is_some_and(|from| self.block.contains(from));
            return if blocked { json!({"action": "reject", "reason": "busy"}) } else { json!({}) };
        }
        let Some(to) = event.to.clone().filter(|to| !to.is_empty()) else { return json!({}) };
        let row = self.table.iter().find(|(pattern, _)| fits(pattern, &to)).map(|(_, id)| id);
        let Some(caller_id) = row.or(self.default_caller_id.as_ref()) else { return json!({}) };
        event.from = Some(caller_id.clone());
        json!({"action": "dial", "caller_id": caller_id, "number": to})
    }
}

/// The parameters of one post, as Zammad reads them.
struct Event {
    name: Option<String>,
    direction: Option<String>,
    call_id: Option<String>,
    from: Option<String>,
    to: Option<String>,
    user: Option<String>,
    user_is_array: bool,
    queue: Option<String>,
    cause: Option<String>,
}

impl Event {
    fn read(params: &Map<String, Value>) -> Self {
        let get = |key: &str| params.get(key).and_then(text);
        Self {
            name: get("event"),
            direction: get("direction"),
            call_id: get("callId").or_else(|| get("call_id")),
            from: get("from"),
            to: get("to"),
            user: get("user"),
            user_is_array: params.get("user").is_some_and(Value::is_array),
            queue: get("queue"),
            cause: get("cause"),
        }
    }

    /// See [`Log::tally`].
    fn kind(&self) -> String {
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut kind = format!("{} {}", word(&self.name), word(&self.direction));
        if let Some(cause) = self.cause.as_ref().filter(|_| self.name.as_deref() == Some("hangup")) {
            kind.push(' ');
            kind.push_str(cause.split(',').next().unwrap_or_default());
        }
        kind
    }

    fn is_inbound(&self) -> bool {
        self.direction.as_deref() == Some("in")
    }

    fn comment(&self) -> Option<String> {
        self.cause.as_ref().map(|c| cut(c, COMMENT_MAX))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        Value::Array(all) => Some(all.iter().filter_map(text).collect::<Vec<_>>().join(", ")),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}

fn already_exists(status: u16) -> Verdict {
    Verdict::Raised(status, "This object already exists.".to_owned())
}

fn required(column: &str) -> Verdict {
    Verdict::Raised(422, format!("Attribute '{column}\" of relation \"cti_logs' required!"))
}

/// `*` stands for one character or more.
fn fits(pattern: &str, number: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == number,
        Some((head, rest)) => number
            .strip_prefix(head)
            .is_some_and(|tail| tail.char_indices().any(|(i, c)| fits(rest, &tail[i + c.len_utf8()..]))),
    }
}

fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(log: &mut Log, routing: &Routing, body: &Value) -> Verdict {
        log.post(body.as_object().unwrap(), routing, UnixMillis(1_000))
    }

    #[test]
    fn a_star_in_the_routing_table_stands_for_one_character_or_more() {
        assert!(fits("41*", "41446681800"));
        assert!(!fits("41*", "41"));
        assert!(!fits("41*", "0041446681800"));
        assert!(fits("*99", "41099"));
        assert!(!fits("41", "4144"));
    }

    #[test]
    fn default_caller_id_applies_where_no_row_of_the_table_does() {
        let routing = Routing { default_caller_id: Some("4930".into()), ..Routing::default() };
        let call =
            json!({"event": "newCall", "direction": "out", "from": "1001", "to": "4915", "callId": "c1"});
        let mut log = Log::default();
        let expected = json!({"action": "dial", "caller_id": "4930", "number": "4915"});
        assert_eq!(post(&mut log, &routing, &call), Verdict::Ok(expected));
        assert_eq!(log.rows()[0].from, "4930");
    }

    #[test]
    fn log_shows_the_newest_sixty_rows_newest_first() {
        let mut log = Log::default();
        for n in 1..=61 {
            let id = n.to_string();
            let call = json!({"event": "newCall", "direction": "in", "from": "1", "to": "2", "callId": id});
            assert_eq!(post(&mut log, &Routing::default(), &call), Verdict::Ok(json!({})));
        }
        let shown: Vec<u64> = log.newest().iter().map(|r| r.id).collect();
        assert_eq!(shown, (2..=61).rev().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_forgotten_is_still_counted_and_what_is_kept_still_found() {
        let mut log = Log::default();
        let event = |name: &str, id: u32| {
            let cause = "cancel, 12:03, reported late";
            json!({"event": name, "direction": "in", "from": "1", "to": "2", "callId": id.to_string(), "cause": cause})
        };
        for id in 1..=10 {
            post(&mut log, &Routing::default(), &event("newCall", id));
            log.forget(3);
            assert!(log.rows().iter().any(|row| row.id == 8) == (id >= 8), "it goes on and is forgotten");
            if ![8, 9, 10].contains(&id) {
                post(&mut log, &Routing::default(), &event("hangup", id));
            }
            assert!((id.min(3)..=6).contains(&u32::try_from(log.rows().len()).unwrap()), "{id}");
        }
        let ids: Vec<u64> = log.rows().iter().map(|row| row.id).collect();
        assert_eq!(ids, (11 - ids.len() as u64..=10).collect::<Vec<_>>());
        assert_eq!(post(&mut log, &Routing::default(), &event("hangup", 1)), Verdict::Fault(500));
        assert_eq!(post(&mut log, &Routing::default(), &event("answer", 9)), Verdict::Ok(json!({})));
        assert_eq!(post(&mut log, &Routing::default(), &event("hangup", 10)), Verdict::Ok(json!({})));
        assert_ne!(post(&mut log, &Routing::default(), &event("newCall", 10)), Verdict::Ok(json!({})));
        let found: Vec<&str> = log.rows().iter().rev().take(2).map(|row| row.state.as_str()).collect();
        assert_eq!(found, ["hangup", "answer"]);
        let tally: Vec<(&str, u64)> = log.tally().iter().map(|(what, n)| (what.as_str(), *n)).collect();
        let expected =
            [("again", 1), ("answer in", 1), ("hangup in cancel", 8), ("missed", 8), ("newCall in", 10)];
        assert_eq!(tally, expected);
    }

    #[test]
    fn mark_can_be_restored_by_hand() {
        let mut log = Log::default();
        let mut call = json!({"event": "newCall", "direction": "in", "from": "1", "to": "2", "callId": "c"});
        post(&mut log, &Routing::default(), &call);
        call["event"] = "hangup".into();
        post(&mut log, &Routing::default(), &call);
        post(&mut log, &Routing::default(), &call);
        assert!(!log.rows()[0].missed_mark());
        assert!(log.set_done(1, false));
        assert!(log.rows()[0].missed_mark());
        assert!(!log.set_done(2, false));
    }
}
