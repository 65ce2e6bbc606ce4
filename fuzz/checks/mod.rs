//! What must hold of each parser, whatever comes in. The fuzz targets run these on what the fuzzer invents, and
//! `tests/fuzz_corpus.rs` on what was kept of it: one text, so that the two cannot say different things.
//!
//! Each `check` takes an input apart as its first lines say and panics if a promise is broken.
#![allow(dead_code, reason = "each target runs one of them")]

pub(crate) mod cdr;
pub(crate) mod config;
pub(crate) mod event;
pub(crate) mod frame;
pub(crate) mod recording;
pub(crate) mod reply;
pub(crate) mod session;
pub(crate) mod stored;
pub(crate) mod tracker;

use freeswitch_zammad::call::cause::Table;
use freeswitch_zammad::call::people::People;
use freeswitch_zammad::call::tracker::Settings;

/// Panics if a promise is broken for this input.
pub(crate) type Check = fn(&[u8]);

/// Every target, by its name.
pub(crate) const ALL: [(&str, Check); 9] = [
    ("frame", frame::check),
    ("event", event::check),
    ("session", session::check),
    ("reply", reply::check),
    ("config", config::check),
    ("tracker", tracker::check),
    ("stored", stored::check),
    ("recording", recording::check),
    ("cdr", cdr::check),
];

/// Germany, nobody known, no rules; internal calls are told.
pub(crate) fn settings() -> Settings {
    Settings {
        country: "DE".parse().expect("a country"),
        rules: vec![],
        causes: Table::default(),
        people: People::default(),
        routes: vec![],
        internal: true,
    }
}

/// An input that is taken apart from its front. Behind its end stand zeroes.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn pair(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// At most `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// As many bytes as the next one says.
    pub(crate) fn short(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte());
        self.bytes(count)
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Whether a line for the log could hold a telephone number: seven digits side by side.
pub(crate) fn holds_number(text: &str) -> bool {
    text.as_bytes().windows(7).any(|digits| digits.iter().all(u8::is_ascii_digit))
}
