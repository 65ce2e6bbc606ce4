//! Which event goes next: the lines, what waits in which, and what is kept in memory.

use super::{Fate, Output, Schedule, TOO_OLD, WINDOW};
use crate::cti::event::{CallId, What};
use crate::queue::line::{Item, LatePolicy, Line, Step};
use crate::time::UnixMillis;

impl Schedule {
    /// What waits now has waited long enough to be told at a measured pace, behind calls that begin now.
    pub(super) fn all_is_backlog(&mut self) {
        self.backlog_end = self.heard_to;
        self.backlog.append(&mut self.fresh);
    }

    /// Whether a place beside the backlog could be freed for a call that begins now: the oldest call there of
    /// which nothing was told goes back to wait in the store, from where it is read in its turn.
    pub(super) fn make_room(&mut self) -> bool {
        const TRIES: usize = 64;
        for _ in 0..TRIES {
            let Some(id) = self.window.aside_order.pop_front() else { return false };
            let Some(line) = self.lines.get(&id).filter(|_| self.window.aside.contains(&id)) else {
                continue;
            };
            let Some(first) = line.items.front() else { continue };
            // What the reading has passed by would not be read again.
            if self.window.beyond.is_none_or(|beyond| first.seq < beyond) {
                continue;
            }
            let told = !matches!(first.event.what, What::NewCall { .. });
            if told || line.is_busy() || line.failures > 0 {
                self.window.aside_order.push_back(id);
                continue;
            }
            self.unlist(&id);
            self.window.aside.remove(&id);
            for item in self.lines.remove(&id).map(|line| line.items).unwrap_or_default() {
                self.owners.remove(&item.seq);
                self.window.skipped_to = self.window.skipped_to.max(item.seq + 1);
            }
            return true;
        }
        false
    }

    /// Events that have waited too long go, whether or not Zammad is there: the queue must not grow for ever.
    pub(super) fn give_up_the_oldest(&mut self, now: UnixMillis) {
        while let Some(seq) = self.backlog.first().or_else(|| self.fresh.first()).copied() {
            let id = self.owners[&seq].clone();
            let item = self.lines[&id].items.front().expect("a line in wait has an event");
            if now.since(item.happened) < self.settings.age_max {
                return;
            }
            self.finish(&id, Fate::Dropped(TOO_OLD.into()), now);
        }
    }

    pub(super) fn wants_more(&self) -> Option<u64> {
        self.window.beyond.filter(|_| !self.window.loading && self.owners.len() <= WINDOW / 2)
    }

    pub(super) fn take(&mut self, item: Item, now: UnixMillis) {
        self.heard_to = self.heard_to.max(item.seq + 1);
        if self.owners.contains_key(&item.seq) {
            return;
        }
        let id = item.event.call_id.clone();
        let item = if item.restored && self.lost.contains(&id) {
            self.outputs.push_back(Output::Missing { seq: item.seq });
            Item { restored: false, attempted: false, ..item }
        } else {
            item
        };
        let line = self.lines.entry(id.clone()).or_default();
        self.owners.insert(item.seq, id.clone());
        line.items.push_back(item);
        if line.items.len() == 1 {
            self.requeue(&id, now);
        }
    }

    pub(super) fn next(&mut self, now: UnixMillis) -> Option<Output> {
        while let Some((_, seq)) = self.resting.first().filter(|(due, _)| *due <= now).copied() {
            self.resting.pop_first();
            self.backlog.insert(seq);
        }
        while self.in_flight < self.breaker.width() {
            let seq = self.next_line(now)?;
            let id = self.owners[&seq].clone();
            self.begin(&id, now);
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
        }
        None
    }

    /// Fresh lines and the backlog take turns; the backlog also keeps its pace.
    pub(super) fn next_line(&mut self, now: UnixMillis) -> Option<u64> {
        while let Some(seq) = self.fresh.first().copied() {
            let item = self.lines[&self.owners[&seq]].items.front().expect("a line in wait has an event");
            if now.since(item.happened) < self.settings.lateness.after {
                break;
            }
            self.fresh.remove(&seq);
            self.backlog.insert(seq);
        }
        let backlog_may = self.backlog_due <= now && !self.backlog.is_empty();
        if backlog_may && (self.backlog_turn || self.fresh.is_empty()) {
            self.backlog_turn = false;
            self.backlog_due = now.after(self.settings.backlog_gap);
            return self.backlog.pop_first();
        }
        self.backlog_turn = true;
        self.fresh.pop_first()
    }

    /// The first event of a line that is due.
    pub(super) fn begin(&mut self, id: &CallId, now: UnixMillis) {
        let line = &self.lines[id];
        let item = line.items.front().expect("a line in wait has an event").clone();
        let seq = item.seq;
        if now.since(item.happened) >= self.settings.age_max {
            return self.finish(id, Fate::Dropped(TOO_OLD.into()), now);
        }
        if line.step == Step::Idle && line.is_late_story(&self.settings.lateness, now) {
            if line.is_unwanted(self.settings.lateness.policy) {
                return self.drop_story(id, now);
            }
            self.line(id).burst = true;
        }
        let unsure = item.attempted && (item.restored || item.is_unrepeatable());
        let step = self.lines[id].step;
        if step == Step::MustLook || (step == Step::Idle && unsure && !item.restored) {
            let why = "the program stopped while this hangup was on its way";
            if step == Step::Idle && !self.settings.can_look {
                return self.finish(id, Fate::Ambiguous(why.into()), now);
            }
            self.send(id, Step::Looking, Output::Look { seq, call_id: id.clone() });
        } else if item.restored && unsure {
            self.finish(id, Fate::LeftAlone, now);
        } else if item.restored {
            let body = item.event.as_new_call().body();
            self.send(id, Step::Restoring, Output::Post { seq, call_id: id.clone(), body, guarded: true });
        } else if step == Step::MustHeal {
            self.counters.healed += 1;
            let body = item.event.as_new_call().body();
            self.send(id, Step::Healing, Output::Post { seq, call_id: id.clone(), body, guarded: false });
        } else {
            let body = self.lines[id].body(&item, &self.settings.lateness, now);
            let guarded = item.is_unrepeatable();
            self.send(id, Step::Posting, Output::Post { seq, call_id: id.clone(), body, guarded });
        }
    }

    pub(super) fn send(&mut self, id: &CallId, step: Step, output: Output) {
        self.line(id).step = step;
        self.in_flight += 1;
        self.outputs.push_back(output);
    }

    /// A request has come back: its line, its event, and what it was sent for.
    pub(super) fn returned(&mut self, seq: u64) -> Option<(CallId, Item, Step)> {
        self.in_flight -= 1;
        let id = self.owners.get(&seq)?.clone();
        let line = self.line(&id);
        let step = std::mem::take(&mut line.step);
        let item = line.items.front().expect("the event on its way is its line's first").clone();
        Some((id, item, step))
    }

    /// A late call that a policy keeps from being told: all of it, up to its hangup.
    pub(super) fn drop_story(&mut self, id: &CallId, now: UnixMillis) {
        let policy = match self.settings.lateness.policy {
            LatePolicy::MissedOnly => "late, and only missed calls are told late",
            LatePolicy::Drop | LatePolicy::Deliver => "late, and late calls are not told",
        };
        loop {
            let Some(item) = self.lines.get(id).and_then(|l| l.items.front()) else { return };
            let last = matches!(item.event.what, What::Hangup { .. });
            self.finish(id, Fate::Dropped(policy.to_owned()), now);
            if last {
                return;
            }
        }
    }

    /// The line's first event needs nothing more.
    pub(super) fn finish(&mut self, id: &CallId, fate: Fate, now: UnixMillis) {
        self.unlist(id);
        let line = self.line(id);
        let item = line.shift().expect("an event that is finished is its line's first");
        self.owners.remove(&item.seq);
        if matches!(item.event.what, What::Hangup { .. }) {
            self.window.aside.remove(id);
            self.lost.remove(id);
        }
        if self.window.beyond.is_some_and(|beyond| item.seq >= beyond) {
            self.window.aside_done.insert(item.seq);
        }
        match &fate {
            Fate::Delivered(_) | Fate::LeftAlone => self.counters.delivered += 1,
            Fate::Ambiguous(_) => self.counters.ambiguous += 1,
            Fate::Dropped(_) => self.counters.dropped += 1,
            Fate::Dead(_) => self.counters.dead += 1,
        }
        self.outputs.push_back(Output::Settle { seq: item.seq, call_id: id.clone(), fate });
        self.requeue(id, now);
    }

    /// A line with events goes on when it is due; one without is dropped.
    pub(super) fn requeue(&mut self, id: &CallId, now: UnixMillis) {
        let late = self.settings.lateness.after;
        let Some(line) = self.lines.get(id) else { return };
        let due = line.due;
        let Some(item) = line.items.front() else {
            self.lines.remove(id);
            return;
        };
        let seq = item.seq;
        if line.is_busy() || item.held {
            return;
        }
        if due > now {
            self.resting.insert((due, seq));
        } else if now.since(item.happened) < late && line.failures == 0 && seq >= self.backlog_end {
            self.fresh.insert(seq);
        } else {
            self.backlog.insert(seq);
        }
    }

    pub(super) fn unlist(&mut self, id: &CallId) {
        let Some(line) = self.lines.get(id) else { return };
        if let Some(first) = line.items.front() {
            self.fresh.remove(&first.seq);
            self.backlog.remove(&first.seq);
            self.resting.remove(&(line.due, first.seq));
        }
    }

    /// Changes an event that is not on its way.
    pub(super) fn change(&mut self, seq: u64, now: UnixMillis, change: impl FnOnce(&mut Line)) {
        let Some(id) = self.owners.get(&seq).cloned() else { return };
        let line = &self.lines[&id];
        if line.is_busy() && line.items.front().is_some_and(|i| i.seq == seq) {
            return;
        }
        self.unlist(&id);
        let line = self.line(&id);
        change(line);
        if !line.items.iter().any(|i| i.seq == seq) {
            self.owners.remove(&seq);
        }
        self.requeue(&id, now);
    }

    pub(super) fn line(&mut self, id: &CallId) -> &mut Line {
        self.lines.get_mut(id).expect("an event in hand has a line")
    }
}
