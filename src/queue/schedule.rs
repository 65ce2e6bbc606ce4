//! One Zammad's schedule: which event goes next, and what follows from its answer. A pure state machine.
//!
//! - Each call is a *line*: its events go one after the other, one request in flight. Lines do not wait for
//!   each other. Fresh events and the backlog take turns, each oldest first, so that neither starves the other.
//!   The backlog is what waited while nothing could be posted, what is late, and what failed; it keeps a pace.
//! - Whether Zammad can be reached is one question ([`super::breaker`]): while it is open, nothing is posted
//!   but a probe that changes nothing.
//! - An event that fails while Zammad is well is repeated [`ATTEMPTS_MAX`] times and then becomes a dead
//!   letter with its story; the call's other events go on. Where Zammad does not know the call, its newCall is
//!   posted again first.
//! - The hangup of an inbound call that nobody answered must not be repeated once it may have been processed:
//!   Zammad would take back the missed mark. Its attempt is recorded before it is sent (`guarded`); when its
//!   fate is unknown it is looked up in Zammad's log, if we may, and otherwise left alone and said so.
//! - Memory is bounded: at most [`WINDOW`] events are held, and [`ASIDE`] of fresh calls beside a backlog; the
//!   rest waits in the store and is asked for ([`Output::Load`]) in its order.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::backoff::Backoff;
use super::breaker::{Breaker, Link};
use super::line::{Item, LatePolicy, Lateness, Line, Step, is_unrepeatable};
use crate::cti::event::{CallId, What};
use crate::cti::reply::{Done, Looked, Outcome, Verdict, judge, judge_probe, unknown_words};
use crate::time::UnixMillis;

/// Most events held in memory of what was accepted in order.
pub const WINDOW: usize = 8192;
/// Most events held in memory of calls that began while older events wait in the store only.
pub const ASIDE: usize = 2048;
/// How often an event is posted while Zammad is well, before it becomes a dead letter.
pub const ATTEMPTS_MAX: u32 = 16;
/// Longest story of a dead letter, in bytes.
const STORY_MAX: usize = 2000;
const TOO_OLD: &str = "older than the queue keeps events";
/// Wait before the store is read again after it could not be.
const UNREADABLE_WAIT: Duration = Duration::from_secs(5);

/// What a schedule is run by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most requests in flight.
    pub concurrency: usize,
    /// Waits between attempts, and between probes.
    pub backoff: Backoff,
    /// How late events are told.
    pub lateness: Lateness,
    /// Shortest time between two posts of the backlog: every event makes every agent's browser look again.
    pub backlog_gap: Duration,
    /// Events older than this are given up.
    pub age_max: Duration,
    /// Whether Zammad's log can be looked into.
    pub can_look: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Post `body`; give the outcome to [`Schedule::handle_outcome`].
    Post {
        /// Which event.
        seq: u64,
        /// The JSON.
        body: String,
        /// The attempt must be on disk before the request is sent.
        guarded: bool,
    },
    /// Look in Zammad's log what has become of a call; give the answer to [`Schedule::handle_looked`].
    Look {
        /// The event in question: its hangup.
        seq: u64,
        /// Which call.
        call_id: CallId,
    },
    /// Post the probe; give the outcome to [`Schedule::handle_probe`].
    Probe,
    /// Record that this event needs nothing more.
    Settle {
        /// Which event.
        seq: u64,
        /// How.
        fate: Fate,
    },
    /// The guarded attempt of this event surely did not reach Zammad: take the record back.
    Unguard {
        /// Which event.
        seq: u64,
    },
    /// The caller of this call, which goes on now, is on Zammad's block list.
    Blocked {
        /// Which call.
        call_id: CallId,
    },
    /// Zammad had lost this restored event's call: from now on it is one like any other.
    Missing {
        /// Which event.
        seq: u64,
    },
    /// Read on from the store, and give what is there to [`Schedule::handle_loaded`].
    Load {
        /// The first event wanted.
        from: u64,
        /// How many.
        limit: usize,
    },
    /// Whether Zammad can be reached has changed; for the log.
    Link(Link),
}

/// How an event ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Zammad has it.
    Delivered(Done),
    /// Zammad still had the call of this restored event, so it was not sent again.
    LeftAlone,
    /// A hangup that may have been processed and must not be repeated.
    Ambiguous(String),
    /// A policy keeps it from being told; which one.
    Dropped(String),
    /// It will not be accepted; kept as a dead letter with this story.
    Dead(String),
}

/// Figures for status and metrics, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events that Zammad has, repeats of known newCalls included.
    pub delivered: u64,
    /// Dead letters made.
    pub dead: u64,
    /// Hangups left alone because their fate is unknown.
    pub ambiguous: u64,
    /// Events not told because a policy says so.
    pub dropped: u64,
    /// Posts that failed and were, or will be, repeated.
    pub repeated: u64,
    /// newCalls posted again because Zammad did not know the call.
    pub healed: u64,
    /// Hangups whose fate was found in Zammad's log.
    pub looked_up: u64,
}

/// The state machine. One per Zammad.
pub struct Schedule {
    settings: Settings,
    lines: HashMap<CallId, Line>,
    owners: HashMap<u64, CallId>,
    /// Lines that may go now, by their first event: those it happened to lately, and the others.
    fresh: BTreeSet<u64>,
    backlog: BTreeSet<u64>,
    /// Events before this one waited while nothing could be posted, or in the store only.
    backlog_end: u64,
    /// Behind the last event that was heard of.
    heard_to: u64,
    /// Events that were refused in unknown words, and those words: the probe shows whose fault it is.
    suspects: Vec<(CallId, u64, String)>,
    /// Restored calls that Zammad had lost, until their hangup: what is read of them later is not asked again.
    lost: HashSet<CallId>,
    /// Lines that wait after a failure.
    resting: BTreeSet<(UnixMillis, u64)>,
    in_flight: usize,
    window: Window,
    breaker: Breaker,
    paused: bool,
    backlog_turn: bool,
    backlog_due: UnixMillis,
    counters: Counters,
    outputs: VecDeque<Output>,
    dice: fastrand::Rng,
}

/// Which part of the queue is in memory: a stretch from its beginning, and fresh calls beside it.
#[derive(Default)]
struct Window {
    /// The first event that may be in the store only; `None` when all that is accepted is here.
    beyond: Option<u64>,
    /// The first place that was never read from the store. What lies before it was taken in by reading.
    unread: u64,
    /// Behind the last event that was accepted but not taken in.
    skipped_to: u64,
    loading: bool,
    load_at: UnixMillis,
    /// Fresh calls that were taken in past `beyond`, and their events that are done with.
    aside: HashSet<CallId>,
    aside_order: VecDeque<CallId>,
    aside_done: BTreeSet<u64>,
}

impl Schedule {
    /// Nothing is held yet; the store is asked from its beginning. `seed` feeds the jitter.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        let breaker = Breaker::new(settings.concurrency, settings.backoff);
        Self {
            settings,
            lines: HashMap::new(),
            owners: HashMap::new(),
            fresh: BTreeSet::new(),
            backlog: BTreeSet::new(),
            backlog_end: 0,
            heard_to: 0,
            suspects: Vec::new(),
            lost: HashSet::new(),
            resting: BTreeSet::new(),
            in_flight: 0,
            window: Window { beyond: Some(0), ..Window::default() },
            breaker,
            paused: false,
            backlog_turn: false,
            backlog_due: UnixMillis::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    /// An event was accepted: it is safe in the store.
    pub fn handle_accepted(&mut self, item: Item, now: UnixMillis) {
        self.heard_to = self.heard_to.max(item.seq + 1);
        // Reading was quicker than this word of it; the event may be delivered already.
        if item.seq < self.window.unread {
            return;
        }
        let held = self.owners.len();
        if self.window.beyond.is_none() && held >= WINDOW {
            self.window.beyond = Some(item.seq);
        }
        if self.window.beyond.is_none() {
            return self.take(item, now);
        }
        // Older events wait in the store only. A call that begins now has none among them.
        let begins = matches!(item.event.what, What::NewCall { .. }) && !item.restored;
        if begins && (held < WINDOW + ASIDE || self.make_room()) {
            self.window.aside.insert(item.event.call_id.clone());
            self.window.aside_order.push_back(item.event.call_id.clone());
        }
        if self.window.aside.contains(&item.event.call_id) {
            self.take(item, now);
        } else {
            self.window.skipped_to = self.window.skipped_to.max(item.seq + 1);
        }
    }

    /// What the store holds from where [`Output::Load`] asked, for this Zammad. `next` is the first place that
    /// was not read; `at_end` says that nothing was there.
    pub fn handle_loaded(&mut self, items: Vec<Item>, next: u64, at_end: bool, now: UnixMillis) {
        self.window.loading = false;
        self.window.unread = self.window.unread.max(next);
        self.heard_to = self.heard_to.max(next);
        self.backlog_end = self.backlog_end.max(items.last().map_or(0, |last| last.seq + 1));
        // What was accepted while the store was being read may lie behind its end.
        let all = at_end && self.window.skipped_to <= next;
        for item in items {
            if !self.window.aside_done.contains(&item.seq) {
                self.take(item, now);
            }
        }
        self.window.beyond = if all { None } else { Some(next) };
        if all {
            self.window.aside.clear();
            self.window.aside_order.clear();
            self.window.aside_done.clear();
        } else {
            self.window.aside_done = self.window.aside_done.split_off(&next);
        }
    }

    /// The store could not be read: asked again later.
    pub fn handle_unreadable(&mut self, now: UnixMillis) {
        self.window.loading = false;
        self.window.load_at = now.after(UNREADABLE_WAIT);
    }

    /// What came of a post.
    pub fn handle_outcome(&mut self, seq: u64, outcome: &Outcome, now: UnixMillis) {
        let Some((id, item, step)) = self.returned(seq) else { return };
        let posted = match step {
            Step::Healing | Step::Restoring => item.event.as_new_call(),
            Step::Idle
            | Step::Posting
            | Step::MustHeal
            | Step::MustLook
            | Step::Looking
            | Step::Suspected
            | Step::SuspectedHealing
            | Step::SuspectedRestoring => item.event.clone(),
        };
        if let Some(words) = unknown_words(outcome) {
            return self.suspect(&id, seq, step, words, now);
        }
        let verdict = judge(&posted.what, outcome);
        self.mind_link(&verdict, now);
        match step {
            Step::Healing => self.healed(&id, &item, verdict, now),
            Step::Restoring => self.restored(&id, &item, verdict, now),
            Step::Idle
            | Step::Posting
            | Step::MustHeal
            | Step::MustLook
            | Step::Looking
            | Step::Suspected
            | Step::SuspectedHealing
            | Step::SuspectedRestoring => self.posted(&id, &item, verdict, now),
        }
    }

    /// What Zammad's log says of a hangup whose fate was unknown.
    pub fn handle_looked(&mut self, seq: u64, looked: Looked, now: UnixMillis) {
        let Some((id, _, _)) = self.returned(seq) else { return };
        match looked {
            Looked::Processed => {
                self.counters.looked_up += 1;
                self.finish(&id, Fate::Delivered(Done::Accepted), now);
            }
            Looked::Unprocessed => {
                self.counters.looked_up += 1;
                self.counters.repeated += 1;
                if let Some(first) = self.line(&id).items.front_mut() {
                    first.attempted = false;
                }
                self.requeue(&id, now);
            }
            Looked::NotListed => {
                let why = "Zammad's log no longer shows the call".to_owned();
                self.finish(&id, Fate::Ambiguous(why), now);
            }
            Looked::Failed(why) => {
                self.breaker.doubt(now);
                self.line(&id).step = Step::MustLook;
                if self.retell(&id, &format!("looking it up failed: {why}"), Last::Ambiguous, now) {
                    self.requeue(&id, now);
                }
            }
        }
    }

    /// What came of the probe.
    pub fn handle_probe(&mut self, outcome: &Outcome, now: UnixMillis) {
        let before = self.breaker.link().clone();
        let dice = self.dice.f64();
        match self.judge_probe(outcome, now) {
            Verdict::Done(_) => {
                self.breaker.probe_went_well();
                if before != Link::Up {
                    self.all_is_backlog();
                }
            }
            Verdict::Misconfigured(why) => self.breaker.misconfigured(why, now),
            Verdict::Away { why, after } => self.breaker.probe_failed(why, after, dice, now),
            Verdict::Unsure(why) | Verdict::RowUnknown(why) | Verdict::Refused(why) => {
                self.breaker.probe_failed(why, None, dice, now);
            }
        }
        self.say_link(&before);
    }

    /// An operator took this event out of the queue. What is on its way is not taken back.
    pub fn handle_removed(&mut self, seq: u64, now: UnixMillis) {
        self.change(seq, now, |line| line.items.retain(|i| i.seq != seq));
    }

    /// An operator wants this event, and so what follows it in its call, to wait, or to go on.
    pub fn handle_held(&mut self, seq: u64, held: bool, now: UnixMillis) {
        let Some(id) = self.owners.get(&seq).cloned() else { return };
        self.unlist(&id);
        for item in self.line(&id).items.iter_mut().filter(|i| i.seq == seq) {
            item.held = held;
        }
        self.requeue(&id, now);
    }

    /// How many events are held in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.owners.len()
    }

    /// Stops posting, or goes on. An operator's word; nothing is lost meanwhile.
    pub fn set_paused(&mut self, paused: bool) {
        if self.paused && !paused {
            self.all_is_backlog();
        }
        self.paused = paused;
    }

    /// What to do next. Call until `None` after every `handle_*`, and when [`Schedule::poll_timeout`] has come.
    pub fn poll_output(&mut self, now: UnixMillis) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if let Some(from) = self.wants_more().filter(|_| self.window.load_at <= now) {
            self.window.loading = true;
            return Some(Output::Load { from, limit: WINDOW / 2 });
        }
        if self.paused {
            return None;
        }
        self.give_up_the_oldest(now);
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.breaker.take_probe(now) {
            return Some(Output::Probe);
        }
        self.next(now)
    }

    /// When [`Schedule::poll_output`] may have something new without anything having come in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<UnixMillis> {
        let load = self.wants_more().map(|_| self.window.load_at);
        if self.paused {
            return load;
        }
        let idle = self.in_flight < self.breaker.width();
        let fresh = (!self.fresh.is_empty()).then(UnixMillis::default);
        let backlog = (!self.backlog.is_empty()).then_some(self.backlog_due);
        let rested = self.resting.first().map(|(due, _)| *due);
        let post = [fresh, backlog, rested].into_iter().flatten().min().filter(|_| idle);
        [load, self.breaker.probe_due(), post].into_iter().flatten().min()
    }

    /// Whether Zammad can be reached.
    #[must_use]
    pub const fn link(&self) -> &Link {
        self.breaker.link()
    }

    /// Whether an operator stopped it.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Figures since the start.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Requests in flight.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What waits now has waited long enough to be told at a measured pace, behind calls that begin now.
    fn all_is_backlog(&mut self) {
        self.backlog_end = self.heard_to;
        self.backlog.append(&mut self.fresh);
    }

    /// The probe's answer, and with it the verdict on events that were refused in unknown words.
    fn judge_probe(&mut self, outcome: &Outcome, now: UnixMillis) -> Verdict {
        let verdict = judge_probe(outcome);
        let words = unknown_words(outcome);
        let clear = words.is_some() || matches!(verdict, Verdict::Done(_) | Verdict::Misconfigured(_));
        if !clear {
            // Zammad is away: the suspects go again when it is back.
            for (id, seq, _) in std::mem::take(&mut self.suspects) {
                self.acquit(&id, seq, now);
            }
            return verdict;
        }
        let mut guilty = None;
        for (id, seq, said) in std::mem::take(&mut self.suspects) {
            if words.as_ref() == Some(&said)
                || words.is_none() && matches!(verdict, Verdict::Misconfigured(_))
            {
                self.acquit(&id, seq, now);
                guilty = Some(said);
            } else if self.is_first(&id, seq) {
                // Not processed: a replay may send it like any other.
                self.outputs.push_back(Output::Unguard { seq });
                self.finish(&id, Fate::Dead(said), now);
            }
        }
        match (words, guilty) {
            (None, _) => verdict,
            (Some(words), Some(_)) => Verdict::Misconfigured(refused_alike(&words)),
            (Some(words), None) => match self.breaker.link() {
                Link::Misconfigured { why, .. } if *why == refused_alike(&words) => {
                    Verdict::Misconfigured(refused_alike(&words))
                }
                // Perhaps no more than the direction, in another language: the next event shows it.
                Link::Up | Link::Away { .. } | Link::Misconfigured { .. } => Verdict::Done(Done::Accepted),
            },
        }
    }

    /// It was refused in words that are not known: the probe shows whether it is to blame.
    fn suspect(&mut self, id: &CallId, seq: u64, step: Step, words: String, now: UnixMillis) {
        // It stays on its way until the probe is back.
        self.line(id).step = match step {
            Step::Healing => Step::SuspectedHealing,
            Step::Restoring => Step::SuspectedRestoring,
            Step::Idle | Step::Posting | Step::MustHeal | Step::MustLook | Step::Looking => Step::Suspected,
            Step::Suspected | Step::SuspectedHealing | Step::SuspectedRestoring => step,
        };
        self.suspects.push((id.clone(), seq, words));
        self.breaker.doubt(now);
    }

    /// The configuration was to blame: as if it had never been sent.
    fn acquit(&mut self, id: &CallId, seq: u64, now: UnixMillis) {
        if !self.is_first(id, seq) {
            return;
        }
        let line = self.line(id);
        let healing = line.step == Step::SuspectedHealing;
        let guarded = line.step == Step::SuspectedRestoring;
        line.step = if healing { Step::MustHeal } else { Step::Idle };
        let item = line.items.front().expect("it was looked at just now").clone();
        if guarded {
            self.outputs.push_back(Output::Unguard { seq });
        }
        self.unsent(id, &item, now);
    }

    fn is_first(&self, id: &CallId, seq: u64) -> bool {
        self.lines.get(id).and_then(|l| l.items.front()).is_some_and(|first| first.seq == seq)
    }

    /// Whether a place beside the backlog could be freed for a call that begins now: the oldest call there of
    /// which nothing was told goes back to wait in the store, from where it is read in its turn.
    fn make_room(&mut self) -> bool {
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
    fn give_up_the_oldest(&mut self, now: UnixMillis) {
        while let Some(seq) = self.backlog.first().or_else(|| self.fresh.first()).copied() {
            let id = self.owners[&seq].clone();
            let item = self.lines[&id].items.front().expect("a line in wait has an event");
            if now.since(item.happened) < self.settings.age_max {
                return;
            }
            self.finish(&id, Fate::Dropped(TOO_OLD.into()), now);
        }
    }

    fn wants_more(&self) -> Option<u64> {
        self.window.beyond.filter(|_| !self.window.loading && self.owners.len() <= WINDOW / 2)
    }

    fn take(&mut self, item: Item, now: UnixMillis) {
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

    fn next(&mut self, now: UnixMillis) -> Option<Output> {
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
    fn next_line(&mut self, now: UnixMillis) -> Option<u64> {
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
    fn begin(&mut self, id: &CallId, now: UnixMillis) {
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
        let unsure = item.attempted && (item.restored || is_unrepeatable(&item));
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
            self.send(id, Step::Restoring, Output::Post { seq, body, guarded: true });
        } else if step == Step::MustHeal {
            self.counters.healed += 1;
            let body = item.event.as_new_call().body();
            self.send(id, Step::Healing, Output::Post { seq, body, guarded: false });
        } else {
            let body = self.lines[id].body(&item, &self.settings.lateness, now);
            let guarded = is_unrepeatable(&item);
            self.send(id, Step::Posting, Output::Post { seq, body, guarded });
        }
    }

    fn send(&mut self, id: &CallId, step: Step, output: Output) {
        self.line(id).step = step;
        self.in_flight += 1;
        self.outputs.push_back(output);
    }

    /// A request has come back: its line, its event, and what it was sent for.
    fn returned(&mut self, seq: u64) -> Option<(CallId, Item, Step)> {
        self.in_flight -= 1;
        let id = self.owners.get(&seq)?.clone();
        let line = self.line(&id);
        let step = std::mem::take(&mut line.step);
        let item = line.items.front().expect("the event on its way is its line's first").clone();
        Some((id, item, step))
    }

    fn mind_link(&mut self, verdict: &Verdict, now: UnixMillis) {
        let before = self.breaker.link().clone();
        let dice = self.dice.f64();
        match verdict {
            Verdict::Done(_) => self.breaker.widen(),
            Verdict::Away { why, after } => self.breaker.away(why.clone(), *after, dice, now),
            Verdict::Misconfigured(why) => self.breaker.misconfigured(why.clone(), now),
            Verdict::Unsure(_) => self.breaker.doubt(now),
            Verdict::RowUnknown(_) | Verdict::Refused(_) => {}
        }
        self.say_link(&before);
    }

    fn say_link(&mut self, before: &Link) {
        if self.breaker.link() != before {
            self.outputs.push_back(Output::Link(self.breaker.link().clone()));
        }
    }

    fn posted(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
        match verdict {
            Verdict::Done(done) => {
                // Of a call that is told late nobody should be surprised now; it may be over.
                let live = now.since(item.happened) < self.settings.lateness.after && !self.lines[id].burst;
                if live && matches!(done, Done::Rejected { .. }) {
                    self.outputs.push_back(Output::Blocked { call_id: id.clone() });
                }
                self.finish(id, Fate::Delivered(done), now);
            }
            Verdict::RowUnknown(why) => {
                if self.retell(id, &why, Last::Dead, now) {
                    let line = self.line(id);
                    line.step = Step::MustHeal;
                    line.due = now;
                    self.requeue(id, now);
                }
            }
            Verdict::Unsure(why) if is_unrepeatable(item) => self.unsure(id, why, now),
            Verdict::Unsure(why) => self.again(id, &why, now),
            Verdict::Away { .. } | Verdict::Misconfigured(_) => self.unsent(id, item, now),
            Verdict::Refused(why) => {
                // Not processed: a replay may send it like any other.
                if is_unrepeatable(item) {
                    self.outputs.push_back(Output::Unguard { seq: item.seq });
                }
                self.finish(id, Fate::Dead(why), now);
            }
        }
    }

    /// The newCall of a call that Zammad seemed not to know was posted again.
    fn healed(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
        match verdict {
            // The row was there all along: what failed was the event itself, perhaps after it was saved.
            Verdict::Done(Done::AlreadyKnown) if is_unrepeatable(item) => {
                self.unsure(id, "Zammad failed inside while it processed this hangup".into(), now);
            }
            // The failure was counted when it came; now it has its wait.
            Verdict::Done(Done::AlreadyKnown) => {
                let dice = self.dice.f64();
                let backoff = self.settings.backoff;
                let line = self.line(id);
                line.due = now.after(backoff.wait(line.failures, dice));
                self.requeue(id, now);
            }
            Verdict::Done(Done::Accepted | Done::Rejected { .. } | Done::Dial { .. }) => {
                // Without a row it cannot have been processed.
                if is_unrepeatable(item) {
                    self.outputs.push_back(Output::Unguard { seq: item.seq });
                }
                self.requeue(id, now);
            }
            Verdict::Away { .. } | Verdict::Misconfigured(_) => {
                self.line(id).step = Step::MustHeal;
                self.requeue(id, now);
            }
            Verdict::Unsure(why) => {
                if self.retell(id, &format!("its newCall: {why}"), Last::Dead, now) {
                    self.line(id).step = Step::MustHeal;
                    self.requeue(id, now);
                }
            }
            Verdict::RowUnknown(why) | Verdict::Refused(why) => self.finish(id, Fate::Dead(why), now),
        }
    }

    /// The newCall of a restored event was posted: only if Zammad had lost the call is it told again.
    fn restored(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
        match verdict {
            Verdict::Done(Done::AlreadyKnown) => {
                while self.lines.get(id).and_then(|l| l.items.front()).is_some_and(|i| i.restored) {
                    self.finish(id, Fate::LeftAlone, now);
                }
            }
            Verdict::Done(done) => {
                self.lost.insert(id.clone());
                let line = self.line(id);
                // What follows was restored with it. Its screens are long closed.
                line.burst = true;
                let mut missing = Vec::new();
                for item in line.items.iter_mut().filter(|i| i.restored) {
                    item.restored = false;
                    item.attempted = false;
                    missing.push(Output::Missing { seq: item.seq });
                }
                self.outputs.extend(missing);
                if matches!(item.event.what, What::NewCall { .. }) {
                    self.finish(id, Fate::Delivered(done), now);
                } else {
                    self.outputs.push_back(Output::Unguard { seq: item.seq });
                    self.requeue(id, now);
                }
            }
            Verdict::Away { .. } | Verdict::Misconfigured(_) => {
                self.outputs.push_back(Output::Unguard { seq: item.seq });
                self.requeue(id, now);
            }
            // Whether a row that is there now was there before, nobody can tell any more.
            Verdict::Unsure(why) | Verdict::RowUnknown(why) => self.finish(id, Fate::Ambiguous(why), now),
            Verdict::Refused(why) => self.finish(id, Fate::Dead(why), now),
        }
    }

    /// It may have been processed and must not be repeated blindly: look, or leave it.
    fn unsure(&mut self, id: &CallId, why: String, now: UnixMillis) {
        if self.settings.can_look {
            self.line(id).step = Step::MustLook;
            self.requeue(id, now);
        } else {
            self.finish(id, Fate::Ambiguous(why), now);
        }
    }

    /// Surely not processed: it goes again as if it had never been sent.
    fn unsent(&mut self, id: &CallId, item: &Item, now: UnixMillis) {
        self.counters.repeated += 1;
        if is_unrepeatable(item) {
            self.outputs.push_back(Output::Unguard { seq: item.seq });
        }
        self.requeue(id, now);
    }

    /// It failed and may be repeated, a bounded number of times.
    fn again(&mut self, id: &CallId, why: &str, now: UnixMillis) {
        if self.retell(id, why, Last::Dead, now) {
            self.requeue(id, now);
        }
    }

    /// Counts a failure on a line, adds it to the story and sets the wait. Whether the event lives on.
    fn retell(&mut self, id: &CallId, why: &str, last: Last, now: UnixMillis) -> bool {
        let dice = self.dice.f64();
        let backoff = self.settings.backoff;
        let line = self.line(id);
        line.failures += 1;
        line.due = now.after(backoff.wait(line.failures, dice));
        if line.story.len() < STORY_MAX {
            line.story.push_str(&format!("{now}: {why}\n"));
        }
        if line.failures >= ATTEMPTS_MAX {
            let story = line.story.trim_end().to_owned();
            let fate = match last {
                Last::Dead => Fate::Dead(story),
                Last::Ambiguous => Fate::Ambiguous(why.to_owned()),
            };
            self.finish(id, fate, now);
            return false;
        }
        self.counters.repeated += 1;
        true
    }

    /// A late call that a policy keeps from being told: all of it, up to its hangup.
    fn drop_story(&mut self, id: &CallId, now: UnixMillis) {
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
    fn finish(&mut self, id: &CallId, fate: Fate, now: UnixMillis) {
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
        self.outputs.push_back(Output::Settle { seq: item.seq, fate });
        self.requeue(id, now);
    }

    /// A line with events goes on when it is due; one without is dropped.
    fn requeue(&mut self, id: &CallId, now: UnixMillis) {
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

    fn unlist(&mut self, id: &CallId) {
        let Some(line) = self.lines.get(id) else { return };
        if let Some(first) = line.items.front() {
            self.fresh.remove(&first.seq);
            self.backlog.remove(&first.seq);
            self.resting.remove(&(line.due, first.seq));
        }
    }

    /// Changes an event that is not on its way.
    fn change(&mut self, seq: u64, now: UnixMillis, change: impl FnOnce(&mut Line)) {
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

    fn line(&mut self, id: &CallId) -> &mut Line {
        self.lines.get_mut(id).expect("an event in hand has a line")
    }
}

fn refused_alike(words: &str) -> String {
    format!(
        "Zammad refuses events and the probe alike: look at its settings, System > Integrations > CTI ({words})"
    )
}

/// What an event becomes that has failed for the last time.
enum Last {
    Dead,
    Ambiguous,
}
