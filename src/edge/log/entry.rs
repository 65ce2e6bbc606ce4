//! One event with all that is around it, as far as its level may show it. The only place that masks.

use std::fmt::Debug;

use serde_json::Value;
use tracing::field::{Field as Named, Visit};
use tracing::{Event, Level, Metadata};

use super::Secrets;
use crate::edge::mask;

/// A name and what it has.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: Value,
    /// It was given as a text, not as something's way of showing itself.
    pub(super) quoted: bool,
}

/// What a span says, for everybody and for debugging.
pub(super) struct SpanFields {
    masked: Vec<Field>,
    whole: Vec<Field>,
}

/// One event.
pub(super) struct Entry {
    pub(super) about: &'static Metadata<'static>,
    pub(super) message: String,
    pub(super) fields: Vec<Field>,
    /// From the outermost in.
    pub(super) spans: Vec<(&'static str, Vec<Field>)>,
}

impl SpanFields {
    /// `record` hands over the fields.
    pub(super) fn of(record: impl Fn(&mut dyn Visit), secrets: &Secrets) -> Self {
        let collected = |masked| {
            let mut all = Collect { masked, secrets, message: String::new(), fields: vec![] };
            record(&mut all);
            all.fields
        };
        Self { masked: collected(true), whole: collected(false) }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.masked.extend(more.masked);
        self.whole.extend(more.whole);
    }
}

impl Entry {
    pub(super) fn of(event: &Event<'_>, secrets: &Secrets) -> Self {
        let about = event.metadata();
        let mut all = Collect { masked: is_for_all(about), secrets, message: String::new(), fields: vec![] };
        event.record(&mut all);
        Self { about, message: all.message, fields: all.fields, spans: vec![] }
    }

    /// It happened within this span, which is within those that were named before.
    pub(super) fn within(&mut self, name: &'static str, fields: &SpanFields) {
        let fields = if is_for_all(self.about) { &fields.masked } else { &fields.whole };
        self.spans.push((name, fields.clone()));
    }

    /// The event's own name, if it was given one.
    pub(super) fn name(&self) -> Option<&'static str> {
        // tracing's own says where it stands: `event src/main.rs:7`.
        Some(self.about.name()).filter(|name| !name.contains(' '))
    }
}

fn is_for_all(about: &Metadata<'_>) -> bool {
    *about.level() <= Level::INFO
}

struct Collect<'a> {
    masked: bool,
    secrets: &'a Secrets,
    message: String,
    fields: Vec<Field>,
}

impl Collect<'_> {
    fn text(&mut self, field: &Named, text: &str, quoted: bool) {
        let mut text = self.secrets.masked(text);
        if self.masked {
            text = mask::runs(&text);
        }
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push(Field { name, value: Value::String(text), quoted }),
        }
    }

    /// What is logged as a number is one of ours: a position, a count.
    fn number(&mut self, field: &Named, value: impl Into<Value>) {
        self.fields.push(Field { name: field.name(), value: value.into(), quoted: false });
    }
}

impl Visit for Collect<'_> {
    fn record_u64(&mut self, field: &Named, value: u64) {
        self.number(field, value);
    }

    fn record_i64(&mut self, field: &Named, value: i64) {
        self.number(field, value);
    }

    fn record_f64(&mut self, field: &Named, value: f64) {
        self.number(field, value);
    }

    fn record_bool(&mut self, field: &Named, value: bool) {
        self.number(field, value);
    }

    fn record_str(&mut self, field: &Named, value: &str) {
        self.text(field, value, true);
    }

    fn record_debug(&mut self, field: &Named, value: &dyn Debug) {
        self.text(field, &format!("{value:?}"), false);
    }
}
