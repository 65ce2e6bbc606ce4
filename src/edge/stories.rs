//! Why each call was told as it was: the trackers' notes, kept by call, for `explain`.
//!
//! While a call goes on its notes are in memory; when it ends they go into the store with its hangup, where the
//! newest 2000 stay. After a restart the notes of calls that were going on begin anew.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::call::model::FamilyKey;
use crate::cti::event::{CallId, What};
use crate::store::StateChange;

/// Ended calls whose notes are kept.
const KEPT: usize = 2000;
/// Most notes of legs that belong together.
const LINES_MAX: usize = 200;
/// Keys of stories in the store begin with this; no switch is called so.
const PREFIX: &str = "story//";

/// Shared with whoever answers questions.
pub type Shelf = Arc<Mutex<Stories>>;

/// The notes.
#[derive(Debug, Default)]
pub struct Stories {
    open: HashMap<(usize, FamilyKey), Open>,
    /// Ended calls with notes in the store, oldest first.
    kept: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Open {
    lines: Vec<String>,
    calls: Vec<CallId>,
}

/// The store's key for an ended call's notes.
#[must_use]
pub fn key(call: &str) -> String {
    format!("{PREFIX}{call}")
}

/// The call whose notes stand under this key, if it is such a key.
#[must_use]
pub fn call_of(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)
}

impl Stories {
    /// The store has notes of this ended call.
    pub fn found(&mut self, call: &str) {
        self.kept.push_back(call.to_owned());
    }

    /// A note on legs of a switch.
    pub fn note(&mut self, switch: usize, family: FamilyKey, line: String) {
        let open = self.open.entry((switch, family)).or_default();
        if open.lines.len() < LINES_MAX {
            open.lines.push(line);
        }
    }

    /// Something was told of a call. If it has ended, what the store is to keep and to forget.
    pub fn told(&mut self, switch: usize, family: FamilyKey, call: &CallId, what: &What) -> Vec<StateChange> {
        let open = self.open.entry((switch, family)).or_default();
        match what {
            What::NewCall { .. } => open.calls.push(call.clone()),
            What::Answer { .. } => {}
            What::Hangup { .. } => {
                open.calls.retain(|c| c != call);
                let mut changes = Vec::new();
                while self.kept.len() >= KEPT
                    && let Some(oldest) = self.kept.pop_front()
                {
                    changes.push(StateChange { key: key(&oldest), value: None });
                }
                self.kept.push_back(call.as_str().to_owned());
                let value = Some(open.lines.join("\n").into_bytes());
                changes.push(StateChange { key: key(call.as_str()), value });
                return changes;
            }
        }
        Vec::new()
    }

    /// These legs are forgotten.
    pub fn forget(&mut self, switch: usize, family: FamilyKey) {
        self.open.remove(&(switch, family));
    }

    /// The notes so far of a call that goes on.
    #[must_use]
    pub fn of(&self, call: &str) -> Option<Vec<String>> {
        self.open
            .values()
            .find(|open| open.calls.iter().any(|c| c.as_str() == call))
            .map(|open| open.lines.clone())
    }
}

/// The shelf, for a moment.
pub fn lock(shelf: &Shelf) -> std::sync::MutexGuard<'_, Stories> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}
