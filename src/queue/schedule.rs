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

mod lines;
mod verdicts;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use verdicts::Last;

use super::backoff::Backoff;
use super::breaker::{Breaker, Link};
use super::line::{Item, Lateness, Line, Step};
use crate::cti::event::{CallId, What};
use crate::cti::reply::{Done, Looked, Outcome, Verdict, judge, unknown_words};
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
/// Wait before the store is read again while what comes next is not in it yet.
const TO_COME_WAIT: Duration = Duration::from_millis(100);

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
        /// Of which call.
        call_id: CallId,
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
        /// Of which call.
        call_id: CallId,
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

    /// Goes on by other settings. `elsewhere` says that Zammad is reached in another way from now on: it is probed before
    /// anything is posted.
    pub fn set(&mut self, settings: Settings, elsewhere: bool, now: UnixMillis) {
        self.breaker.set(settings.concurrency, settings.backoff);
        self.settings = settings;
        if elsewhere {
            self.breaker.ask_anew(now);
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
        // What an operator puts back may be heard of after what came then; reading would not come by it any more.
        if self.window.beyond.is_none_or(|beyond| item.seq < beyond) {
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
    /// was not read; `at_end` says that nothing was there. Neither means that something older than what is accepted now
    /// is still to come: the store is asked again soon, and so long only calls that begin are taken in beside it.
    pub fn handle_loaded(&mut self, items: Vec<Item>, next: u64, at_end: bool, now: UnixMillis) {
        self.window.loading = false;
        if items.is_empty() && !at_end {
            self.window.load_at = now.after(TO_COME_WAIT);
        }
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

    /// A post was not begun, because the event is not this schedule's any more: it goes.
    pub fn handle_not_ours(&mut self, seq: u64, now: UnixMillis) {
        if self.returned(seq).is_some() {
            self.handle_removed(seq, now);
        }
    }

    /// Takes out all events of calls of which nothing is on its way, so that somebody else can go on with them; which, and
    /// whether it may have arrived.
    pub fn give_back(&mut self) -> Vec<(u64, bool)> {
        let idle = self.lines.iter().filter(|(_, line)| !line.is_busy());
        let idle: Vec<CallId> = idle.map(|(id, _)| id.clone()).collect();
        let mut given = Vec::new();
        for id in idle {
            self.unlist(&id);
            let Some(line) = self.lines.remove(&id) else { continue };
            let first = line.items.front().map(|item| item.seq).filter(|_| line.failures > 0);
            given.extend(line.items.iter().map(|item| (item.seq, Some(item.seq) == first)));
        }
        for (seq, _) in &given {
            self.owners.remove(seq);
        }
        given
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
}
