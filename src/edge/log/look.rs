//! How an event looks: a line for people, a line of JSON, or an entry of systemd's journal.

use std::fmt::Write;

use serde_json::Value;
use tracing::Level;

use super::entry::{Entry, Field};
use super::journal;
use crate::edge::{clock, mask};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A line for people.
    Plain {
        /// With a terminal's colours.
        colours: bool,
        /// With the moment in front.
        time: bool,
    },
    /// One object on a line: `time`, `level`, `event` (the name that stays), `message`, `target`, then the fields, those
    /// of the spans around it first.
    Json,
    /// Fields of the journal: what [`Look::Json`] has, as `FSZ_` and the name in capitals.
    Journal,
}

impl Look {
    /// The bytes of one event, whole.
    pub(super) fn render(self, entry: &Entry) -> Vec<u8> {
        match self {
            Self::Plain { colours, time } => plain(entry, colours, time).into_bytes(),
            Self::Json => json(entry).into_bytes(),
            Self::Journal => journal::entry(entry, &sentence(entry)),
        }
    }
}

fn plain(entry: &Entry, colours: bool, time: bool) -> String {
    let (dim, off) = if colours { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let mut line = String::new();
    if time {
        line.push_str(&format!("{dim}{}{off} ", clock::now()));
    }
    let level = entry.about.level();
    let colour = match *level {
        _ if !colours => "",
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    };
    line.push_str(&format!("{colour}{level:>5}{off} "));
    for (name, fields) in &entry.spans {
        line.push_str(name);
        if !fields.is_empty() {
            line.push_str(&format!("{{{}}}", shown(fields).join(" ")));
        }
        line.push_str(": ");
    }
    line.push_str(&words(entry).join(" "));
    line.push('\n');
    line
}

/// The message and the event's fields, then those of the spans: what the journal shows of it.
fn sentence(entry: &Entry) -> String {
    let around = entry.spans.iter().flat_map(|(_, fields)| shown(fields));
    words(entry).into_iter().chain(around).collect::<Vec<_>>().join(" ")
}

fn words(entry: &Entry) -> Vec<String> {
    let message = Some(mask::one_line(&entry.message)).filter(|message| !message.is_empty());
    message.into_iter().chain(shown(&entry.fields)).collect()
}

fn shown(fields: &[Field]) -> Vec<String> {
    let one = |field: &Field| match &field.value {
        Value::String(text) if field.quoted => format!("{}={text:?}", field.name),
        Value::String(text) => format!("{}={}", field.name, mask::one_line(text)),
        value => format!("{}={value}", field.name),
    };
    fields.iter().map(one).collect()
}

fn json(entry: &Entry) -> String {
    let mut line = String::from("{");
    let mut names: Vec<&str> = Vec::new();
    let mut put = |name: &'static str, value: Value| {
        // What the event itself says goes before its spans, and an inner one before those around it.
        if names.contains(&name) {
            return;
        }
        let comma = if names.is_empty() { "" } else { "," };
        names.push(name);
        // Writing into a text cannot fail.
        let _ = write!(line, "{comma}{}:{value}", Value::from(name));
    };
    put("time", clock::now().to_string().into());
    put("level", entry.about.level().as_str().into());
    if let Some(name) = entry.name() {
        put("event", name.into());
    }
    put("message", entry.message.as_str().into());
    put("target", entry.about.target().into());
    for field in entry.fields.iter().chain(entry.spans.iter().rev().flat_map(|(_, fields)| fields)) {
        put(field.name, field.value.clone());
    }
    line.push_str("}\n");
    line
}
