//! The calls that are going on, as Zammad is told of them: for status, `top` and the page.
//!
//! Follows the same news that go into the queue, so it never differs from what is told. After a restart it begins
//! with what the store remembers; of a call that was answered before then, neither the moment nor the name is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::call::model::{Call as Tracked, Leg, LegKey};
use crate::cti::event::{CallId, Direction, Event, VOICEMAIL, What};
use crate::time::UnixMillis;

/// Shared with whoever shows them.
pub type Ongoing = Arc<Mutex<Calls>>;

/// The calls. As many as the trackers have open, no more.
#[derive(Debug, Default)]
pub struct Calls {
    open: HashMap<CallId, Call>,
    /// In the order in which they began.
    order: BTreeMap<(UnixMillis, u64), CallId>,
    count: u64,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// As Zammad knows it.
    pub id: CallId,
    /// The switch's configured name.
    pub switch: String,
    /// Who called whom.
    pub direction: Direction,
    /// The calling number.
    pub from: String,
    /// The called number.
    pub to: String,
    /// What the called number is called.
    pub queue: Option<String>,
    /// When it began.
    pub since: UnixMillis,
    /// The last who answered it.
    pub answer: Option<Answer>,
    at: (UnixMillis, u64),
}

/// Who answered a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Their name.
    pub user: Option<String>,
    /// Their number.
    pub number: Option<String>,
    /// When.
    pub since: Option<UnixMillis>,
}

impl Answer {
    /// Whether it was the mailbox.
    #[must_use]
    pub fn is_mailbox(&self) -> bool {
        self.user.as_deref() == Some(VOICEMAIL)
    }
}

impl Calls {
    /// Something was told of a call on this switch.
    pub fn told(&mut self, switch: &str, event: &Event, at: UnixMillis) {
        match &event.what {
            What::NewCall { queue, .. } => self.open(Call {
                id: event.call_id.clone(),
                switch: switch.to_owned(),
                direction: event.direction,
                from: event.from.clone(),
                to: event.to.clone(),
                queue: queue.clone(),
                since: at,
                answer: None,
                at: (at, 0),
            }),
            What::Answer { answering_number, user } => {
                if let Some(call) = self.open.get_mut(&event.call_id) {
                    let (user, number) = (user.clone(), answering_number.clone());
                    call.answer = Some(Answer { user, number, since: Some(at) });
                }
            }
            What::Hangup { .. } => {
                if let Some(call) = self.open.remove(&event.call_id) {
                    self.order.remove(&call.at);
                }
            }
        }
    }

    /// The store remembers these calls of this switch, and their legs.
    pub fn restored(&mut self, switch: &str, legs: &[(LegKey, Leg)], calls: &[(CallId, Tracked)]) {
        for (id, call) in calls {
            let begun = |key: &LegKey| legs.iter().find(|(k, _)| k == key).map(|(_, leg)| leg.created);
            let since = call.parties.first().or(call.dialler.as_ref()).and_then(begun).unwrap_or_default();
            let answer = call.answered_by.last().map(|by| Answer {
                user: (by == VOICEMAIL).then(|| by.clone()),
                number: call.last_answer.clone(),
                since: None,
            });
            self.open(Call {
                id: id.clone(),
                switch: switch.to_owned(),
                direction: call.direction,
                from: call.from.clone(),
                to: call.to.clone(),
                queue: None,
                since,
                answer,
                at: (since, 0),
            });
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The newest, at most `limit`, newest first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<Call> {
        let ids = self.order.values().rev().take(limit);
        ids.filter_map(|id| self.open.get(id)).cloned().collect()
    }

    fn open(&mut self, mut call: Call) {
        self.count += 1;
        call.at.1 = self.count;
        self.order.insert(call.at, call.id.clone());
        if let Some(before) = self.open.insert(call.id.clone(), call) {
            self.order.remove(&before.at);
        }
    }
}

/// The calls, for a moment.
pub fn lock(calls: &Ongoing) -> MutexGuard<'_, Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cti::cause::Cause;

    #[test]
    fn a_call_is_there_from_its_beginning_to_its_end() {
        let mut calls = Calls::default();
        for (number, id) in (1..).zip(["a", "b", "c"]) {
            calls.told("pbx", &event(id, What::NewCall { user: None, queue: None }), UnixMillis(number));
        }
        let user = Some("Eva".to_owned());
        calls.told("pbx", &event("b", What::Answer { answering_number: None, user }), UnixMillis(7));
        calls.told("pbx", &event("c", What::Hangup { cause: Cause::Cancel }), UnixMillis(8));
        let ids: Vec<String> = calls.newest(5).iter().map(|call| call.id.to_string()).collect();
        assert_eq!(ids, ["b", "a"]);
        assert_eq!(calls.newest(1)[0].answer.as_ref().unwrap().since, Some(UnixMillis(7)));
        // Told of anew it is still one.
        calls.told("pbx", &event("a", What::NewCall { user: None, queue: None }), UnixMillis(9));
        assert_eq!((calls.len(), calls.newest(9).len()), (2, 2));
        for id in ["a", "b", "b"] {
            calls.told("pbx", &event(id, What::Hangup { cause: Cause::Cancel }), UnixMillis(10));
        }
        assert!(calls.is_empty() && calls.newest(9).is_empty() && calls.order.is_empty());
    }

    fn event(id: &str, what: What) -> Event {
        let (from, to) = ("4915112345678".to_owned(), "4930555".to_owned());
        Event { call_id: CallId::new(id), direction: Direction::In, from, to, what }
    }
}
