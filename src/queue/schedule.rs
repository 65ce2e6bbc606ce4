//! One Zammad's schedule: which event goes next, and what follows from its answer. A pure state machine.
//!
//! - Each call is a *line*: its events go one after the other, one request in flight. Lines do not wait for
//!   each other; of those that are due the one with the oldest event goes first.
//! - Whether Zammad can be reached is one question, asked once: while it cannot, nothing is posted but a probe
//!   that changes nothing ([`Output::Probe`]), with growing waits. When it answers, posting begins with one
//!   request and widens with each success.
//! - An event that fails while Zammad is well is repeated [`ATTEMPTS_MAX`] times and then becomes a dead
//!   letter with its story; the call's other events go on.
//! - The hangup of an inbound call that nobody answered must not be repeated once it may have been processed:
//!   Zammad would take back the missed mark. Its attempt is recorded before it is sent
//!   ([`Output::Post::guarded`]), and when its fate is unknown it is left alone and said so.
//! - Memory is bounded: at most [`WINDOW`] events are held; the rest waits in the store and is asked for
//!   ([`Output::Load`]) in its order.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::backoff::Backoff;
use crate::cti::cause::Cause;
use crate::cti::event::{CallId, Direction, Event, What};
use crate::cti::reply::{Done, Outcome, Verdict, judge, judge_probe};
use crate::time::UnixMillis;

/// Most events held in memory.
pub const WINDOW: usize = 8192;
/// How often an event is posted while Zammad is well, before it becomes a dead letter.
pub const ATTEMPTS_MAX: u32 = 8;
/// Longest story of a dead letter, in characters.
const STORY_MAX: usize = 2000;
/// Wait between probes while only a person can help.
const MISCONFIGURED_WAIT: Duration = Duration::from_secs(30);

/// What a schedule is run by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most requests in flight.
    pub concurrency: usize,
    /// Waits between attempts, and between probes.
    pub backoff: Backoff,
    /// An answer older than this when first posted goes without identity: no screen pops up for a call long over.
    pub late_after: Duration,
}

/// An accepted event, as the schedule needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place in the store; rises with the order of acceptance.
    pub seq: u64,
    /// The event.
    pub event: Event,
    /// When it happened.
    pub happened: UnixMillis,
    /// The call had been answered before.
    pub answered: bool,
    /// A guarded attempt was begun and its end was never recorded.
    pub attempted: bool,
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
    /// A hangup that may have been processed and must not be repeated.
    Ambiguous(String),
    /// It will not be accepted; kept as a dead letter with this story.
    Dead(String),
}

/// Whether Zammad can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It answers.
    Up,
    /// It does not, or not sensibly.
    Away {
        /// The last reason.
        why: String,
        /// Since when.
        since: UnixMillis,
    },
    /// Only a person can help: token, URL, certificate, integration switched off.
    Misconfigured {
        /// What to mend.
        why: String,
        /// Since when.
        since: UnixMillis,
    },
}

/// Figures for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events that Zammad has, repeats of known newCalls included.
    pub delivered: u64,
    /// Dead letters made.
    pub dead: u64,
    /// Hangups left alone because their fate is unknown.
    pub ambiguous: u64,
    /// Posts that failed and were, or will be, repeated.
    pub repeated: u64,
    /// newCalls posted again because Zammad did not know the call.
    pub healed: u64,
}

/// The state machine. One per Zammad.
pub struct Schedule {
    settings: Settings,
    lines: HashMap<CallId, Line>,
    owners: HashMap<u64, CallId>,
    /// Lines that may be posted now, by their oldest event.
    ready: BTreeSet<u64>,
    /// Lines that wait after a failure.
    resting: BTreeSet<(UnixMillis, u64)>,
    in_flight: usize,
    width: usize,
    held: usize,
    /// The first event that is in the store only; `None` when all that is accepted is here.
    beyond: Option<u64>,
    /// The first place that was never read from the store. What lies before it was taken in by reading.
    unread: u64,
    /// The last event that was accepted but not taken in, if there was one.
    newest: Option<u64>,
    loading: bool,
    load_at: UnixMillis,
    link: Link,
    probe: Probe,
    paused: bool,
    counters: Counters,
    outputs: VecDeque<Output>,
    dice: fastrand::Rng,
}

#[derive(Default)]
struct Line {
    items: VecDeque<Item>,
    due: UnixMillis,
    failures: u32,
    story: String,
    step: Step,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    /// The first event is being posted.
    Posting,
    /// Zammad did not know the call: its newCall is to be posted again, then the event.
    MustHeal,
    /// That newCall is being posted.
    Healing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    No,
    At(UnixMillis, u32),
    InFlight(u32),
}

impl Schedule {
    /// Nothing is held yet; the store is asked from its beginning. `seed` feeds the jitter.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            lines: HashMap::new(),
            owners: HashMap::new(),
            ready: BTreeSet::new(),
            resting: BTreeSet::new(),
            in_flight: 0,
            width: 1,
            held: 0,
            beyond: Some(0),
            unread: 0,
            newest: None,
            loading: false,
            load_at: UnixMillis::default(),
            link: Link::Up,
            probe: Probe::No,
            paused: false,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    /// An event was accepted: it is safe in the store.
    pub fn handle_accepted(&mut self, item: Item, now: UnixMillis) {
        // Reading was quicker than this word of it; the event may be delivered already.
        if item.seq < self.unread {
            return;
        }
        // While older events wait in the store only, this one waits there with them.
        if self.beyond.is_none() && self.held >= WINDOW {
            self.beyond = Some(item.seq);
        }
        if self.beyond.is_some() {
            self.newest = self.newest.max(Some(item.seq));
        } else {
            self.take(item, now);
        }
    }

    /// What the store holds from where [`Output::Load`] asked, for this Zammad. `next` is the first place that
    /// was not read; `at_end` says that nothing was there.
    pub fn handle_loaded(&mut self, items: Vec<Item>, next: u64, at_end: bool, now: UnixMillis) {
        self.loading = false;
        self.unread = self.unread.max(next);
        // What was accepted while the store was being read may lie behind its end.
        self.beyond = (!at_end || self.newest >= Some(next)).then_some(next);
        for item in items {
            self.take(item, now);
        }
    }

    /// The store could not be read: asked again later.
    pub fn handle_unreadable(&mut self, now: UnixMillis) {
        self.loading = false;
        self.load_at = now.after(self.settings.backoff.max.min(Duration::from_secs(5)));
    }

    /// What came of a post.
    pub fn handle_outcome(&mut self, seq: u64, outcome: &Outcome, now: UnixMillis) {
        self.in_flight -= 1;
        let Some(id) = self.owners.get(&seq).cloned() else { return };
        let line = self.lines.get_mut(&id).expect("an owned event has a line");
        let item = line.items.front().expect("the posted event is the line's first").clone();
        let healing = line.step == Step::Healing;
        line.step = Step::Idle;
        let posted = if healing { item.event.as_new_call() } else { item.event.clone() };
        let verdict = judge(&posted.what, outcome);
        if healing {
            self.healed(&id, &item, verdict, now);
        } else {
            self.posted(&id, &item, verdict, now);
        }
    }

    /// What came of the probe.
    pub fn handle_probe(&mut self, outcome: &Outcome, now: UnixMillis) {
        let Probe::InFlight(failures) = self.probe else { return };
        match judge_probe(outcome) {
            Verdict::Done(_) => {
                self.probe = Probe::No;
                if self.link != Link::Up {
                    self.width = 1; // no storm on a Zammad that has just come back
                }
                self.set_link(Link::Up);
            }
            Verdict::Misconfigured(why) => self.misconfigured(why, now),
            Verdict::Away { why, after } => self.away(why, after, failures + 1, now),
            Verdict::Unsure(why) | Verdict::RowUnknown(why) | Verdict::Refused(why) => {
                self.away(why, None, failures + 1, now);
            }
        }
    }

    /// An operator took this event out of the queue.
    pub fn handle_removed(&mut self, seq: u64, now: UnixMillis) {
        let Some(id) = self.owners.get(&seq).cloned() else { return };
        let line = self.lines.get_mut(&id).expect("an owned event has a line");
        // What is being posted is no longer ours to remove.
        if line.step == Step::Idle || line.items.front().is_none_or(|i| i.seq != seq) {
            if let Some(first) = line.items.front() {
                self.ready.remove(&first.seq);
                self.resting.remove(&(line.due, first.seq));
            }
            line.items.retain(|i| i.seq != seq);
            let idle = line.step == Step::Idle;
            self.owners.remove(&seq);
            self.held -= 1;
            if idle {
                self.requeue(&id, now);
            }
        }
    }

    /// Stops posting, or goes on. An operator's word; nothing is lost meanwhile.
    pub const fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// What to do next. Call until `None` after every `handle_*`, and when [`Schedule::poll_timeout`] has come.
    pub fn poll_output(&mut self, now: UnixMillis) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if let Some(from) = self.beyond
            && !self.loading
            && self.load_at <= now
            && self.held <= WINDOW / 2
        {
            self.loading = true;
            return Some(Output::Load { from, limit: WINDOW - self.held });
        }
        if self.paused {
            return None;
        }
        match (&self.link, self.probe) {
            (Link::Up, Probe::No) => self.next_post(now),
            (_, Probe::At(due, failures)) if due <= now => {
                self.probe = Probe::InFlight(failures);
                Some(Output::Probe)
            }
            (_, Probe::At(..) | Probe::InFlight(_) | Probe::No) => None,
        }
    }

    /// When [`Schedule::poll_output`] may have something new without anything having come in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<UnixMillis> {
        let load = self.beyond.filter(|_| !self.loading && self.held <= WINDOW / 2).map(|_| self.load_at);
        let post = match self.probe {
            _ if self.paused => None,
            Probe::At(due, _) => Some(due),
            Probe::InFlight(_) => None,
            Probe::No if self.in_flight >= self.width => None,
            Probe::No if !self.ready.is_empty() => Some(UnixMillis::default()),
            Probe::No => self.resting.first().map(|(due, _)| *due),
        };
        load.into_iter().chain(post).min()
    }

    /// Whether Zammad can be reached.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
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

    /// Nothing is held, nothing waits in the store, nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held == 0 && self.beyond.is_none() && self.in_flight == 0
    }

    fn take(&mut self, item: Item, now: UnixMillis) {
        if self.owners.contains_key(&item.seq) {
            return;
        }
        let id = item.event.call_id.clone();
        let line = self.lines.entry(id.clone()).or_default();
        self.owners.insert(item.seq, id.clone());
        self.held += 1;
        line.items.push_back(item);
        if line.items.len() == 1 {
            self.requeue(&id, now);
        }
    }

    fn next_post(&mut self, now: UnixMillis) -> Option<Output> {
        while let Some((_, seq)) = self.resting.first().filter(|(due, _)| *due <= now).copied() {
            self.resting.pop_first();
            self.ready.insert(seq);
        }
        if self.in_flight < self.width {
            let seq = self.ready.pop_first()?;
            let id = self.owners[&seq].clone();
            let line = self.lines.get_mut(&id).expect("an owned event has a line");
            let item = line.items.front().expect("a ready line has an event");
            let guarded = is_unrepeatable(item) && line.step == Step::Idle;
            if guarded && item.attempted {
                let why = "the program stopped while this hangup was on its way".to_owned();
                self.finish(&id, Fate::Ambiguous(why), now);
                return self.outputs.pop_front();
            }
            let body = if line.step == Step::MustHeal {
                line.step = Step::Healing;
                self.counters.healed += 1;
                item.event.as_new_call().body()
            } else {
                line.step = Step::Posting;
                let late = now.since(item.happened) >= self.settings.late_after;
                if late || line.failures > 0 {
                    item.event.without_identity().body()
                } else {
                    item.event.body()
                }
            };
            self.in_flight += 1;
            return Some(Output::Post { seq, body, guarded });
        }
        None
    }

    fn posted(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
        let unrepeatable = is_unrepeatable(item);
        match verdict {
            Verdict::Done(done) => {
                self.width = (self.width + 1).min(self.settings.concurrency);
                self.finish(id, Fate::Delivered(done), now);
            }
            Verdict::RowUnknown(why) => {
                if self.retell(id, &why, now) {
                    let line = self.line(id);
                    line.step = Step::MustHeal;
                    line.due = now;
                    self.requeue(id, now);
                }
            }
            Verdict::Unsure(why) if unrepeatable => {
                self.finish(id, Fate::Ambiguous(why.clone()), now);
                self.away(why, None, 0, now);
            }
            Verdict::Unsure(why) => {
                self.again(id, &why, now);
                self.away(why, None, 0, now);
            }
            Verdict::Away { why, after } => {
                self.unsent(id, item, now);
                self.away(why, after, 1, now);
            }
            Verdict::Misconfigured(why) => {
                self.unsent(id, item, now);
                self.misconfigured(why, now);
            }
            Verdict::Refused(why) => self.finish(id, Fate::Dead(why), now),
        }
    }

    /// The newCall of a call that Zammad seemed not to know was posted again.
    fn healed(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
        match verdict {
            // The row was there all along: what failed was the event itself, perhaps after it was saved.
            Verdict::Done(Done::AlreadyKnown) if is_unrepeatable(item) => {
                let why = "Zammad failed inside while it processed this hangup".to_owned();
                self.finish(id, Fate::Ambiguous(why), now);
            }
            Verdict::Done(Done::AlreadyKnown) => {
                self.again(id, "the call is known, yet Zammad fails on it", now)
            }
            Verdict::Done(Done::Accepted | Done::Rejected { .. } | Done::Dial { .. }) => {
                self.requeue(id, now);
            }
            Verdict::Away { why, after } => {
                self.heal_later(id, now);
                self.away(why, after, 1, now);
            }
            Verdict::Unsure(why) => {
                self.heal_later(id, now);
                self.away(why, None, 0, now);
            }
            Verdict::Misconfigured(why) => {
                self.heal_later(id, now);
                self.misconfigured(why, now);
            }
            Verdict::RowUnknown(why) | Verdict::Refused(why) => self.finish(id, Fate::Dead(why), now),
        }
    }

    fn heal_later(&mut self, id: &CallId, now: UnixMillis) {
        self.line(id).step = Step::MustHeal;
        self.requeue(id, now);
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
        if self.retell(id, why, now) {
            self.requeue(id, now);
        }
    }

    /// Counts a failure on a line, adds it to the story and sets the wait; the last one makes a dead letter.
    /// Whether the event lives on.
    fn retell(&mut self, id: &CallId, why: &str, now: UnixMillis) -> bool {
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
            self.finish(id, Fate::Dead(story), now);
            return false;
        }
        self.counters.repeated += 1;
        true
    }

    /// The line's first event needs nothing more.
    fn finish(&mut self, id: &CallId, fate: Fate, now: UnixMillis) {
        let line = self.line(id);
        let item = line.items.pop_front().expect("the posted event is the line's first");
        *line = Line { items: std::mem::take(&mut line.items), ..Line::default() };
        self.owners.remove(&item.seq);
        self.held -= 1;
        match &fate {
            Fate::Delivered(_) => self.counters.delivered += 1,
            Fate::Ambiguous(_) => self.counters.ambiguous += 1,
            Fate::Dead(_) => self.counters.dead += 1,
        }
        self.outputs.push_back(Output::Settle { seq: item.seq, fate });
        self.requeue(id, now);
    }

    /// A line with events goes on when it is due; one without is dropped.
    fn requeue(&mut self, id: &CallId, now: UnixMillis) {
        let line = self.line(id);
        let due = line.due;
        match line.items.front().map(|item| item.seq) {
            Some(seq) if due <= now => {
                self.ready.insert(seq);
            }
            Some(seq) => {
                self.resting.insert((due, seq));
            }
            None => {
                self.lines.remove(id);
            }
        }
    }

    fn line(&mut self, id: &CallId) -> &mut Line {
        self.lines.get_mut(id).expect("an event in hand has a line")
    }

    fn away(&mut self, why: String, after: Option<Duration>, failures: u32, now: UnixMillis) {
        let dice = self.dice.f64();
        let wait = match failures {
            0 => Duration::ZERO, // one event failed; ask at once whether Zammad is well otherwise
            n => self.settings.backoff.wait(n, dice),
        };
        if self.probe == Probe::No || matches!(self.probe, Probe::InFlight(_)) {
            self.probe = Probe::At(now.after(wait.max(after.unwrap_or_default())), failures);
        }
        if failures > 0 {
            let since = self.down_since(now);
            self.set_link(Link::Away { why, since });
        }
    }

    fn misconfigured(&mut self, why: String, now: UnixMillis) {
        self.probe = Probe::At(now.after(MISCONFIGURED_WAIT), 1);
        let since = self.down_since(now);
        self.set_link(Link::Misconfigured { why, since });
    }

    const fn down_since(&self, now: UnixMillis) -> UnixMillis {
        match self.link {
            Link::Up => now,
            Link::Away { since, .. } | Link::Misconfigured { since, .. } => since,
        }
    }

    fn set_link(&mut self, link: Link) {
        if self.link != link {
            self.link = link.clone();
            self.outputs.push_back(Output::Link(link));
        }
    }
}

/// The one event whose repetition does harm: see Zammad's rule for a hangup of a call that is hung up already.
fn is_unrepeatable(item: &Item) -> bool {
    match item.event.what {
        What::Hangup { cause } => {
            item.event.direction == Direction::In && !item.answered && cause != Cause::Forwarded
        }
        What::NewCall { .. } | What::Answer { .. } => false,
    }
}
