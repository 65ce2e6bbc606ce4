//! Why each event is sent or not, for whoever asks: one line at least for every event, before the news it explains.

use super::{Output, Tracker};
use crate::call::model::LegKey;
use crate::esl::event::Event;

/// What is being explained.
#[derive(Default)]
pub(super) struct Explaining {
    event: String,
    noted: bool,
}

impl Tracker {
    pub(super) fn note(&mut self, key: LegKey, text: impl FnOnce() -> String) {
        if self.explains.is_some() {
            let id = self.book.leg(key).map(|leg| leg.id.clone()).unwrap_or_default();
            self.note_on(&id, text);
        }
    }

    /// Whether this event has been explained already.
    pub(super) fn has_noted(&self) -> bool {
        self.explains.as_ref().is_some_and(|explaining| explaining.noted)
    }

    pub(super) fn note_on(&mut self, leg: &str, text: impl FnOnce() -> String) {
        if let Some(explaining) = &mut self.explains {
            explaining.noted = true;
            let text = format!("{}: {}", explaining.event, text());
            self.outputs.push_back(Output::Note { leg: leg.to_owned(), text });
        }
    }

    pub(super) fn begin_explaining(&mut self, event: &Event) {
        if let Some(explaining) = &mut self.explains {
            explaining.event = event.get("Event-Name").unwrap_or_default().into_owned();
            explaining.noted = false;
        }
    }

    pub(super) fn end_explaining(&mut self, event: &Event) {
        if self.explains.as_ref().is_some_and(|explaining| !explaining.noted) {
            let leg = event.some("Unique-ID").unwrap_or("-".into());
            self.note_on(&leg, || "nothing is sent: no call begins, is answered or ends by it".into());
        }
        if let Some(explaining) = &mut self.explains {
            "meanwhile".clone_into(&mut explaining.event);
        }
    }
}
