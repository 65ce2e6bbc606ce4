//! Rows of the store as JSON objects: for `queue list`, `queue show`, and, whole and loss-free, for export and
//! import.

use serde_json::{Value, json};

use super::control::Kind;
use crate::cti::event::{CallId, Direction, Event, What};
use crate::outbox::{Entry, State};
use crate::store::{Dead, Delivered, Pending, Seq, Settle};
use crate::time::UnixMillis;

/// A pending event.
#[must_use]
pub fn pending(seq: Seq, event: &Pending) -> Value {
    let mut row = json!({
        "seq": seq.0,
        "state": "pending",
        "id": event.id,
        "switch": event.switch,
        "zammad": event.zammad,
        "happened": event.happened.to_string(),
        "happened_ms": event.happened.0,
        "answered": event.answered,
        "attempt_ms": event.attempt.map(|t| t.0),
        "held": event.held,
        "restored": event.restored,
        "body": serde_json::from_str::<Value>(&event.event.body()).unwrap_or_default(),
    });
    // What is kept of an outbound answer but never posted.
    if let (Direction::Out, What::Answer { answering_number, user }) =
        (event.event.direction, &event.event.what)
    {
        let unsaid = [("answeringNumber", answering_number), ("user", user)];
        for (key, value) in unsaid.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))) {
            row["unsaid"][key] = value.into();
        }
    }
    row
}

/// A dead letter.
#[must_use]
pub fn dead(seq: Seq, dead: &Dead) -> Value {
    let mut row = pending(seq, &dead.pending);
    row["state"] = "dead".into();
    row["settled_ms"] = dead.died.0.into();
    row["story"] = dead.story.as_str().into();
    row
}

/// A delivered event.
#[must_use]
pub fn delivered(seq: Seq, delivered: &Delivered) -> Value {
    let mut row = pending(seq, &delivered.pending);
    row["state"] = "delivered".into();
    row["settled_ms"] = delivered.delivered.0.into();
    row["note"] = delivered.note.as_deref().into();
    row
}

/// An event in the shared outbox. It has no position there: its identity names it.
#[must_use]
pub fn in_outbox(entry: &Entry) -> Value {
    let mut row = match &entry.event {
        Ok(event) => pending(Seq(0), event),
        Err(why) => json!({
            "id": entry.id, "zammad": entry.zammad, "happened": entry.happened.to_string(),
            "happened_ms": entry.happened.0, "body": { "callId": entry.call_id }, "unreadable": why,
        }),
    };
    row["seq"] = Value::Null;
    row["in"] = "outbox".into();
    row["state"] = entry.state.as_str().into();
    row["shipped_by"] = entry.shipped_by.as_str().into();
    let over = match entry.state {
        State::Pending => return row,
        State::Dead => "story",
        State::Delivered => "note",
    };
    row[over] = entry.note.as_deref().into();
    row["settled_ms"] = entry.settled.map(|at| at.0).into();
    row["settled_by"] = entry.settled_by.as_deref().into();
    row
}

/// What an exported row says: the event, and what became of it.
///
/// # Errors
/// One sentence that names the field.
pub fn read(row: &Value) -> Result<(Pending, Kind, UnixMillis, Option<String>), String> {
    let moment = |key: &str| row[key].as_u64().map(UnixMillis);
    let flag = |key: &str| row[key].as_bool().unwrap_or_default();
    let event = event(&row["body"], &row["unsaid"])?;
    let pending = Pending {
        id: text(row, "id")?,
        zammad: text(row, "zammad")?,
        switch: text(row, "switch")?,
        event,
        happened: moment("happened_ms").ok_or("\"happened_ms\" is missing or no number")?,
        answered: flag("answered"),
        attempt: moment("attempt_ms"),
        held: flag("held"),
        restored: flag("restored"),
    };
    let settled = moment("settled_ms").unwrap_or_default();
    let note = ["story", "note"].iter().find_map(|key| row[*key].as_str()).map(str::to_owned);
    let kind = match text(row, "state")?.as_str() {
        "pending" => Kind::Pending,
        "dead" => Kind::Dead,
        "delivered" => Kind::Delivered,
        other => return Err(format!("{other:?} is no state; use pending, dead or delivered")),
    };
    Ok((pending, kind, settled, note))
}

/// The event that a body says. What is in `unsaid` is kept and never posted.
///
/// # Errors
/// One sentence that names the field.
pub fn event(body: &Value, unsaid: &Value) -> Result<Event, String> {
    let maybe = |key: &str| body[key].as_str().or_else(|| unsaid[key].as_str()).map(str::to_owned);
    let what = match text(body, "event")?.as_str() {
        "newCall" => What::NewCall { user: maybe("user"), queue: maybe("queue") },
        "answer" => What::Answer { answering_number: maybe("answeringNumber"), user: maybe("user") },
        "hangup" => What::Hangup { cause: text(body, "cause")?.parse().map_err(|why| format!("{why}"))? },
        other => return Err(format!("{other:?} is no event")),
    };
    let direction = match text(body, "direction")?.as_str() {
        "in" => Direction::In,
        "out" => Direction::Out,
        other => return Err(format!("{other:?} is no direction")),
    };
    let call_id = CallId::new(&text(body, "callId")?);
    Ok(Event { call_id, direction, from: text(body, "from")?, to: text(body, "to")?, what })
}

fn text(at: &Value, key: &str) -> Result<String, String> {
    at[key].as_str().map(str::to_owned).ok_or_else(|| format!("{key:?} is missing or no text"))
}

/// What is to be recorded of an imported event beyond its being pending.
#[must_use]
pub fn settle(seq: Seq, kind: Kind, at: UnixMillis, note: Option<String>) -> Option<Settle> {
    match kind {
        Kind::Pending => None,
        Kind::Dead => Some(Settle::Dead { seq, at, story: note.unwrap_or_default() }),
        Kind::Delivered => Some(Settle::Delivered { seq, at, note }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cti::cause::Cause;

    #[test]
    fn what_is_exported_is_read_back_whole() {
        let whats = [
            What::NewCall { user: Some("Eva".into()), queue: Some("Support".into()) },
            What::NewCall { user: None, queue: None },
            What::Answer { answering_number: Some("1001".into()), user: Some("Bob".into()) },
            What::Hangup { cause: Cause::NoAnswer },
        ];
        for (number, what) in (1..).zip(whats) {
            let event = Pending {
                id: format!("c/{number}"),
                zammad: "main".into(),
                switch: "pbx".into(),
                event: Event {
                    call_id: CallId::new("c"),
                    direction: if number == 3 { Direction::Out } else { Direction::In },
                    from: "4915112345678".into(),
                    to: "4930555".into(),
                    what,
                },
                happened: UnixMillis(1_795_444_000_123),
                answered: number % 2 == 0,
                attempt: Some(UnixMillis(number)),
                held: number % 2 == 1,
                restored: number % 3 == 0,
            };
            let at = UnixMillis(9);
            assert_eq!(
                read(&pending(Seq(number), &event)).unwrap(),
                (event.clone(), Kind::Pending, UnixMillis(0), None)
            );
            let story = Dead { pending: event.clone(), died: at, story: "no".into() };
            assert_eq!(
                read(&dead(Seq(number), &story)).unwrap(),
                (event.clone(), Kind::Dead, at, Some("no".into()))
            );
            let done = Delivered { pending: event.clone(), delivered: at, note: None };
            assert_eq!(read(&delivered(Seq(number), &done)).unwrap(), (event, Kind::Delivered, at, None));
        }
        assert_eq!(read(&json!({"body": {"event": "ring"}})).unwrap_err(), "\"ring\" is no event");
    }
}
