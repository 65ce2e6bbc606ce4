//! What this node has of the shared outbox: which calls, which of their events, and until when. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::edge::accept::Accepted;
use crate::outbox::{Claimed, Settled, Standing};
use crate::store::{Pending, Seq, Settle};

/// Outcomes that could not be recorded in time, and are remembered.
const UNRECORDED_MAX: usize = 10_000;
/// Past the lease of a line that was given back no answer about it is on its way.
const LEFT: Duration = Duration::from_secs(30);

/// What this node has.
#[derive(Default)]
pub(super) struct Table {
    /// The last position given out: they are this process's own.
    pub(super) last: u64,
    pub(super) events: BTreeMap<u64, Held>,
    pub(super) lines: HashMap<String, Line>,
    /// Until when all of it may be worked on.
    pub(super) until: Option<Instant>,
    /// What became of events whose call was lost meanwhile.
    pub(super) unrecorded: BTreeMap<String, Settled>,
    /// Zammad is not reached, or an operator pauses: what this node has is for others.
    pub(super) shut: bool,
    /// Lines that were given back, until what was said of them before has surely come.
    left: HashMap<String, (i64, Instant)>,
}

pub(super) struct Held {
    pub(super) id: String,
    pub(super) call_id: String,
    /// A person wants it to wait.
    pub(super) waits: bool,
}

/// What has to be told to the drain of an operator's orders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heeded {
    pub(super) held: Vec<Seq>,
    pub(super) released: Vec<Seq>,
    pub(super) gone: Vec<Seq>,
}

pub(super) struct Line {
    pub(super) fence: i64,
    pub(super) events: BTreeSet<u64>,
    /// It is being given back: nothing of it is sent any more, what became of its events is still recorded.
    pub(super) leaving: bool,
}

impl Line {
    const fn new(fence: i64) -> Self {
        Self { fence, events: BTreeSet::new(), leaving: false }
    }
}

impl Table {
    pub(super) fn holds(&self, seq: u64, now: Instant) -> bool {
        let line = self.events.get(&seq).and_then(|held| self.lines.get(&held.call_id));
        self.until.is_some_and(|until| now < until) && line.is_some_and(|line| !line.leaving)
    }

    /// The calls of these events are to be given back; those that were not yet.
    pub(super) fn leave(&mut self, seqs: &[Seq]) -> Vec<String> {
        let mut leaving = Vec::new();
        for Seq(seq) in seqs {
            let Some(held) = self.events.get(seq) else { continue };
            if let Some(line) = self.lines.get_mut(&held.call_id).filter(|line| !line.leaving) {
                line.leaving = true;
                leaving.push(held.call_id.clone());
            }
        }
        leaving
    }

    /// These were given back, or nearly.
    pub(super) fn left(&mut self, lines: Vec<Claimed>, now: Instant) {
        for Claimed { call_id, fence } in lines {
            if self.lines.get(&call_id).is_some_and(|line| line.fence == fence) {
                self.lose(&call_id);
                self.left.insert(call_id, (fence, now));
            }
        }
    }

    /// The calls that are not to be kept.
    pub(super) fn leaving(&mut self, now: Instant, lease: Duration) -> Vec<String> {
        self.left.retain(|_, (_, since)| now.saturating_duration_since(*since) < lease + LEFT);
        let leaving = self.lines.iter().filter(|(_, line)| line.leaving).map(|(call, _)| call);
        leaving.chain(self.left.keys()).cloned().collect()
    }

    /// Takes a line's new events in; what became of one before is recorded instead.
    pub(super) fn take(&mut self, pending: Vec<Pending>) -> (Vec<Accepted>, Vec<Settle>) {
        let (mut new, mut over) = (Vec::new(), Vec::new());
        for event in pending {
            let line = self.lines.get_mut(event.event.call_id.as_str()).filter(|line| !line.leaving);
            let Some(line) = line else { continue };
            self.last += 1;
            let seq = self.last;
            line.events.insert(seq);
            let call_id = event.event.call_id.to_string();
            let held = Held { id: event.id.clone(), call_id, waits: event.held };
            self.events.insert(seq, held);
            match self.unrecorded.remove(&event.id) {
                Some(Settled::Delivered { at, note }) => {
                    over.push(Settle::Delivered { seq: Seq(seq), at, note })
                }
                Some(Settled::Dead { at, story }) => over.push(Settle::Dead { seq: Seq(seq), at, story }),
                Some(Settled::Attempt { .. } | Settled::Unattempted | Settled::Missing) | None => {
                    new.push((Seq(seq), event));
                }
            }
        }
        (new, over)
    }

    /// Lets go of a line; its events.
    pub(super) fn lose(&mut self, call_id: &str) -> Vec<Seq> {
        let events = self.lines.remove(call_id).map(|line| line.events).unwrap_or_default();
        for seq in &events {
            self.events.remove(seq);
        }
        events.into_iter().map(Seq).collect()
    }

    /// The event is over. Its line stays until the server says that nobody has it.
    pub(super) fn end(&mut self, seq: u64) {
        let Some(held) = self.events.remove(&seq) else { return };
        if let Some(line) = self.lines.get_mut(&held.call_id) {
            line.events.remove(&seq);
        }
    }

    /// What was renewed is ours until `until`; the events of the others.
    pub(super) fn compare(&mut self, kept: Vec<Claimed>, until: Instant) -> Vec<Seq> {
        let kept: HashMap<String, i64> = kept.into_iter().map(|line| (line.call_id, line.fence)).collect();
        let gone = |call: &String, line: &Line| !line.leaving && kept.get(call) != Some(&line.fence);
        let lost = self.lines.iter().filter(|(call, line)| gone(call, line));
        let lost: Vec<String> = lost.map(|(call, _)| call.clone()).collect();
        let events = lost.iter().flat_map(|call| self.lose(call)).collect();
        for (call, fence) in kept {
            // What was asked before it was given back says that it is ours still.
            if self.left.get(&call).is_none_or(|(left, _)| *left != fence) {
                self.lines.entry(call).or_insert(Line::new(fence));
            }
        }
        self.until = Some(until);
        events
    }

    /// These are ours anew; the events of those that were before: the lease was over in between, and what another node may
    /// have made of them is read anew.
    pub(super) fn claim(&mut self, new: &[Claimed]) -> Vec<Seq> {
        let before = new.iter().flat_map(|line| self.lose(&line.call_id)).collect();
        for Claimed { call_id, fence } in new {
            self.left.remove(call_id);
            self.lines.insert(call_id.clone(), Line::new(*fence));
        }
        before
    }

    /// Nobody has these any more.
    pub(super) fn free(&mut self, lines: Vec<Claimed>) {
        for freed in lines {
            // It may have been claimed anew meanwhile.
            if self.lines.get(&freed.call_id).is_some_and(|line| line.fence == freed.fence) {
                self.lines.remove(&freed.call_id);
            }
        }
    }

    /// The identities of the events that it has, of these calls or of all.
    pub(super) fn known(&self, calls: Option<&[String]>) -> Vec<String> {
        let Some(calls) = calls else { return self.events.values().map(|held| held.id.clone()).collect() };
        let events = calls.iter().filter_map(|call| self.lines.get(call)).flat_map(|line| &line.events);
        events.filter_map(|seq| self.events.get(seq)).map(|held| held.id.clone()).collect()
    }

    /// What has changed of the events that were asked for; those that are not there any more are given up.
    pub(super) fn heed(&mut self, asked: &[String], standing: Vec<Standing>) -> Heeded {
        let asked: HashSet<&str> = asked.iter().map(String::as_str).collect();
        let there: HashMap<String, bool> = standing.into_iter().map(|it| (it.id, it.held)).collect();
        let mut heeded = Heeded::default();
        for (seq, event) in self.events.iter_mut().filter(|(_, event)| asked.contains(event.id.as_str())) {
            match there.get(&event.id) {
                None => heeded.gone.push(Seq(*seq)),
                Some(held) if *held == event.waits => {}
                Some(held) => {
                    event.waits = *held;
                    let list = if *held { &mut heeded.held } else { &mut heeded.released };
                    list.push(Seq(*seq));
                }
            }
        }
        for seq in &heeded.gone {
            self.end(seq.0);
        }
        heeded
    }

    pub(super) fn remember(&mut self, id: String, settled: Settled) {
        if self.unrecorded.len() < UNRECORDED_MAX {
            self.unrecorded.insert(id, settled);
        }
    }
}

pub(super) fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cti::event::{CallId, Direction, Event, What};
    use crate::time::UnixMillis;

    #[test]
    fn what_is_claimed_may_be_sent_until_the_lease_is_over_and_is_read_anew_when_it_is_claimed_again() {
        let now = crate::edge::clock::monotonic();
        let (soon, later) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        let mut table = Table { until: Some(soon), ..Table::default() };
        assert_eq!(table.claim(&[line(1)]), []);
        let (new, over) = table.take(vec![newcall()]);
        assert_eq!((new.len(), over.len(), table.known(None).len()), (1, 0, 1));
        let first = new[0].0;
        assert!(table.holds(first.0, now) && !table.holds(first.0, soon) && !table.holds(first.0 + 1, now));

        // Renewed, it goes on as it was.
        assert_eq!(table.compare(vec![line(1)], later), []);
        assert!(table.holds(first.0, soon));
        // Claimed anew, whatever was known of it is not.
        assert_eq!(table.claim(&[line(2)]), [first]);
        assert!(table.known(None).is_empty() && !table.holds(first.0, now));
        let second = table.take(vec![newcall()]).0[0].0;
        assert_ne!(first, second);
        // Another has it.
        assert_eq!(table.compare(vec![], later), [second]);
        assert!(table.take(vec![newcall()]).0.is_empty());
    }

    #[test]
    fn what_could_not_be_recorded_in_time_is_recorded_when_the_call_comes_back_and_not_sent_again() {
        let mut table = Table::default();
        table.remember(newcall().id, Settled::Delivered { at: UnixMillis(7), note: None });
        table.claim(&[line(1)]);
        let (new, over) = table.take(vec![newcall()]);
        assert!(
            new.is_empty() && matches!(over[..], [Settle::Delivered { at: UnixMillis(7), .. }]),
            "{over:?}"
        );
    }

    #[test]
    fn what_is_given_back_is_not_sent_any_more_and_no_late_answer_makes_it_ours_again() {
        let now = crate::edge::clock::monotonic();
        let (later, lease) = (now + Duration::from_secs(9), Duration::from_secs(2));
        let mut table = Table { until: Some(later), ..Table::default() };
        table.claim(&[line(1)]);
        let seq = table.take(vec![newcall()]).0[0].0;
        assert_eq!(table.leave(&[seq]), ["c"]);
        assert_eq!(table.leave(&[seq]), [""; 0], "once");
        // What became of it is still recorded, but nothing is begun, taken in or kept.
        assert!(!table.holds(seq.0, now) && table.events.contains_key(&seq.0));
        assert!(table.take(vec![newcall()]).0.is_empty());
        assert_eq!(table.leaving(now, lease), ["c"]);
        assert_eq!(table.compare(vec![], later), [], "nor is it lost");

        table.left(vec![line(1)], now);
        assert!(table.events.is_empty() && table.lines.is_empty());
        // An answer to what was asked before.
        table.compare(vec![line(1)], later);
        assert!(table.lines.is_empty() && table.leaving(now, lease) == ["c"]);
        // Claimed anew it is as any other.
        table.claim(&[line(2)]);
        assert!(table.leaving(now, lease).is_empty());
        let fresh = table.take(vec![newcall()]).0[0].0;
        assert!(table.holds(fresh.0, now));
        // What was not given back after all may be kept when its lease is long over.
        table.leave(&[fresh]);
        table.left(vec![line(2)], now);
        assert!(table.leaving(now + lease + LEFT, lease).is_empty());
        table.compare(vec![line(2)], later);
        assert_eq!(table.lines.len(), 1);
    }

    #[test]
    fn what_an_operator_orders_of_an_event_is_told_once() {
        let mut table = Table::default();
        table.claim(&[line(1)]);
        let seq = table.take(vec![newcall()]).0[0].0;
        let known = table.known(Some(&["other".into(), "c".into()]));
        assert_eq!(known, [newcall().id]);
        let stands = |held| vec![Standing { id: newcall().id, held }];
        assert_eq!(table.heed(&known, stands(false)), Heeded::default());
        assert_eq!(table.heed(&known, stands(true)), Heeded { held: vec![seq], ..Heeded::default() });
        assert_eq!(table.heed(&known, stands(true)), Heeded::default());
        assert_eq!(table.heed(&known, stands(false)), Heeded { released: vec![seq], ..Heeded::default() });
        // What was not asked for is not missed.
        assert_eq!(table.heed(&[], vec![]), Heeded::default());
        assert_eq!(table.heed(&known, vec![]), Heeded { gone: vec![seq], ..Heeded::default() });
        assert!(table.known(None).is_empty());
    }

    fn line(fence: i64) -> Claimed {
        Claimed { call_id: "c".into(), fence }
    }

    pub(in crate::edge::claims) fn newcall() -> Pending {
        Pending {
            id: "c/newCall".into(),
            zammad: "main".into(),
            switch: "pbx".into(),
            event: Event {
                call_id: CallId::new("c"),
                direction: Direction::In,
                from: "1".into(),
                to: "2".into(),
                what: What::NewCall { user: None, queue: None },
            },
            happened: UnixMillis(1),
            answered: false,
            attempt: None,
            held: false,
            restored: false,
        }
    }
}
