//! Follows every leg of one switch and says what happened to calls, as it happens: a pure state machine.
//!
//! Events and moments go in, [`Output`]s come out: what Zammad must learn, and on request an explanation of
//! every leg and event. Time is an argument. What must survive a restart is handed out family by family
//! ([`Tracker::poll_changed`]) and taken back by [`Tracker::restore`].
//!
//! ```text
//! event ─▶ tracker ── admission: which leg is it ──▶ book       legs, families, ids
//!             │                                       ├ kin        who caused this leg
//!             ▼                                       └ connection who hears whom
//!           calls: begin, answer, end ──▶ outputs (with an explanation, if asked)
//! ```
//!
//! What holds whatever comes in: a call's newCall is its first event and its hangup the last, each once; its
//! direction and numbers never change; memory is bounded by [`LEGS_MAX`]; no event costs a walk over all legs,
//! except the first of a new run of the switch.

mod admission;
mod calls;
mod explain;
mod witness;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use explain::Explaining;
use witness::Witness;

use super::book::Book;
pub use super::book::{Kept, REMEMBERED};
use super::cause::{Ending, Table};
use super::leg::Created;
use super::model::{Call, FamilyKey, Leg, LegKey};
use super::number::Country;
use super::people::People;
use super::route::Route;
use super::rule::Rule;
use crate::cti::event::{CallId, Event as Told, cut};
use crate::esl::event::{Event, Name};
use crate::time::UnixMillis;

/// Most legs that are remembered. Beyond it ended ones are forgotten early, then the oldest are given up and their
/// calls ended.
pub const LEGS_MAX: usize = 200_000;
/// How long an unanswered outbound call waits for another trunk to be tried, while our leg stands.
pub const FAILOVER_MAX: Duration = Duration::from_secs(10);
/// Most characters of a leg's id in a call's name that says more than the id: what it says besides must fit, too.
const NAME_MAX: usize = 200;

/// What one switch's calls are told by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose way of writing numbers the switch uses.
    pub country: Country,
    /// Asked before the built-in marks; the first that matches decides.
    pub rules: Vec<Rule>,
    /// Hangup causes.
    pub causes: Table,
    /// Agents and queues.
    pub people: People,
    /// Which Zammad some calls go to.
    pub routes: Vec<Route>,
    /// Calls between two of our phones are told too. It adds calls and changes none.
    pub internal: bool,
}

/// Something Zammad must learn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The same whenever the same thing is heard again, here or by another listener.
    pub id: String,
    /// The event.
    pub event: Told,
    /// The legs that its call belongs to.
    pub family: FamilyKey,
    /// The Zammad that a route names for its call; the switch's own without one.
    pub zammad: Option<String>,
    /// When it was heard.
    pub at: UnixMillis,
    /// The call had been answered before, by a person or the mailbox.
    pub answered: bool,
    /// Something of its call may have gone unheard here: another listener may know better.
    pub in_doubt: bool,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To be sent.
    News(News),
    /// A leg ended with a cause that is not in the table; said once of each.
    UnknownCause(String),
    /// Why something was taken for what it was, or why nothing is sent; only after [`Tracker::explain`]. It stands
    /// before the news that it explains. At least one for every event.
    Note {
        /// Unique-ID of the leg it is about; a dash if it is about none.
        leg: String,
        /// The event's name, then one sentence.
        text: String,
    },
}

/// The state machine. One per switch.
pub struct Tracker {
    settings: Arc<Settings>,
    book: Book,
    outputs: VecDeque<Output>,
    /// Causes that are not in the table and were said to be so.
    strange: BTreeSet<String>,
    core: Option<Arc<str>>,
    legs_max: usize,
    explains: Option<Explaining>,
}

impl Tracker {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self::bounded(settings, LEGS_MAX)
    }

    /// As [`Tracker::new`], with another bound than [`LEGS_MAX`].
    #[must_use]
    pub fn bounded(settings: Arc<Settings>, legs_max: usize) -> Self {
        Self {
            settings,
            book: Book::default(),
            outputs: VecDeque::new(),
            strange: BTreeSet::new(),
            core: None,
            legs_max: legs_max.max(2),
            explains: None,
        }
    }

    /// From now on every leg and event is also explained.
    pub fn explain(&mut self) {
        self.explains = Some(Explaining::default());
    }

    /// Goes by other settings from now on. What was decided about a leg or a call stays as it is.
    pub fn set(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    /// An event was heard. The switch's own clock is not asked: it may differ from the one that ends our waits.
    pub fn handle_event(&mut self, event: &Event, at: UnixMillis) {
        self.handle_timeout(at);
        self.begin_explaining(event);
        self.check_core(event, at);
        match event.name() {
            Name::ChannelCreate => self.created(event, at),
            Name::ChannelAnswer => self.answered(event, at),
            Name::ChannelData => self.found(event, at),
            Name::ChannelBridge => self.bridged(event, at),
            Name::ChannelUnbridge => self.unbridged(event, at),
            Name::ChannelHangupComplete => self.hung_up(event, at),
            Name::ChannelUuid => self.renamed(event, at),
            Name::Custom => self.conference(event, at),
            Name::Heartbeat | Name::Shutdown | Name::BackgroundJob | Name::Other => {}
        }
        self.end_explaining(event);
    }

    /// The moment of [`Tracker::poll_timeout`] has come, or passed.
    pub fn handle_timeout(&mut self, now: UnixMillis) {
        while let Some((due, call)) = self.book.take_due(now) {
            self.note_on(call.as_str(), || "nothing more was tried for it".into());
            self.end(&call, &Ending::default(), due);
        }
        self.book.expire(now);
    }

    /// When [`Tracker::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<UnixMillis> {
        self.book.next_due()
    }

    /// What came out, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A family that changed since it was last asked for, with what must be stored of it; `None` when it is forgotten
    /// and nothing of it needs to survive a restart.
    pub fn poll_changed(&mut self) -> Option<(FamilyKey, Option<Kept>)> {
        self.book.take_changed()
    }

    /// Takes back what [`Tracker::poll_changed`] once handed out.
    pub fn restore(&mut self, key: FamilyKey, legs: Vec<(LegKey, Leg)>, calls: Vec<(CallId, Call)>) {
        if let Some(core) = legs.iter().rev().find_map(|(_, leg)| leg.core.clone()) {
            self.core = Some(core);
        }
        self.book.put_back(key, legs, calls);
    }

    /// How many calls are going on.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.book.calls()
    }

    /// How many legs are remembered, ended ones included.
    #[must_use]
    pub fn legs(&self) -> usize {
        self.book.legs()
    }

    /// Legs that have not ended, as the switch names them.
    pub fn live_legs(&self) -> impl Iterator<Item = &str> {
        self.book.live().map(|(_, leg)| leg.id.as_str())
    }

    /// The Unique-ID that the outside leg of a call has now; `None` if the call is over, or has none.
    #[must_use]
    pub fn party_of(&self, call: &CallId) -> Option<&str> {
        let party = self.book.call(call)?.parties.first()?;
        self.book.leg(*party).map(|leg| leg.id.as_str())
    }

    /// Whether a call is going on, or was and its leg is still remembered.
    #[must_use]
    pub fn has_told(&self, call: &CallId) -> bool {
        let of_leg = self.book.find(call.as_str()).and_then(|key| self.book.leg(key));
        self.book.call(call).is_some()
            || of_leg.is_some_and(|leg| leg.party_of.is_some() || leg.calls_inside.is_some())
    }

    /// The family of a leg that is remembered.
    #[must_use]
    pub fn family_of(&self, leg: &str) -> Option<FamilyKey> {
        self.book.find(leg).and_then(|key| self.book.leg(key)).map(|leg| leg.family)
    }

    /// Something of all that is known may have gone unheard until now. It changes nothing in what is told, but is told
    /// with it: [`News::in_doubt`]. So is whatever is told of a leg whose creation was not heard. Not remembered over a
    /// restart, which is a gap itself.
    pub fn missed_some(&mut self) {
        self.book.doubt_all();
    }

    /// The switch does not know this leg any more: it ended unheard.
    pub fn vanished(&mut self, id: &str, at: UnixMillis) {
        if let Some(key) = self.book.find(id) {
            self.note(key, || "the switch does not know it any more: it ended unheard".into());
            self.leg_ended(key, &Witness::default(), at);
        }
    }

    /// A different Core-UUID: the switch was restarted, and what it had is gone.
    fn check_core(&mut self, event: &Event, at: UnixMillis) {
        let Some(core) = event.some("Core-UUID") else { return };
        if self.core.as_deref() == Some(&*core) {
            return;
        }
        let gone: Vec<LegKey> = self
            .book
            .live()
            .filter(|(_, leg)| leg.core.as_deref().is_some_and(|of| *of != *core))
            .map(|(key, _)| key)
            .collect();
        for key in gone {
            self.note(key, || "the switch was restarted: it is gone".into());
            self.leg_ended(key, &Witness { cause: "CRASH".into(), ..Witness::default() }, at);
        }
        self.core = Some(core.into());
    }

    fn answered(&mut self, event: &Event, at: UnixMillis) {
        if let Some(key) = self.leg_of(event, at) {
            self.connections_of(key, event, at);
        }
    }

    fn bridged(&mut self, event: &Event, at: UnixMillis) {
        let Some(own) = self.leg_of(event, at) else { return };
        let (a, b) = match (event.some("Bridge-A-Unique-ID"), event.some("Bridge-B-Unique-ID")) {
            (Some(a), Some(b)) => (self.named(event, &a, at), self.named(event, &b, at)),
            _ => {
                let other = event.some("Other-Leg-Unique-ID");
                (Some(own), other.and_then(|id| self.named(event, &id, at)))
            }
        };
        match (a, b) {
            (Some(a), Some(b)) if a != b && self.book.is_up(a) && self.book.is_up(b) => {
                self.book.join(a, b);
                self.end_waiting_of(a, at);
                self.end_waiting_of(b, at);
                self.connections_of(a, event, at);
            }
            _ => self.note(own, || {
                "nothing is sent: joined with itself, or with a leg that is over or not known".into()
            }),
        }
    }

    /// A leg as the switch shows it after a gap, perhaps in the middle of a conversation.
    fn found(&mut self, event: &Event, at: UnixMillis) {
        let Some(own) = self.leg_of(event, at) else { return };
        let free = |book: &Book, key: LegKey| {
            book.leg(key).is_some_and(|leg| leg.peer.is_none() && leg.ended.is_none())
        };
        // FreeSWITCH takes bridge_to away when a bridge ends; bridge_uuid can stay behind.
        let peer = event
            .some("variable_bridge_to")
            .or_else(|| {
                event.some("variable_bridge_uuid").filter(|peer| event.is("Other-Leg-Unique-ID", peer))
            })
            .and_then(|peer| self.book.find(&peer));
        if let Some(peer) = peer
            && peer != own
            && free(&self.book, own)
            && free(&self.book, peer)
        {
            self.book.join(own, peer);
        }
        if event.is("variable_current_application", "conference")
            && let Some(room) = event.some("variable_conference_name")
            && self.book.leg(own).is_some_and(|leg| leg.room.is_none())
        {
            self.book.enter_room(own, &room);
        }
        self.connections_of(own, event, at);
    }

    fn unbridged(&mut self, event: &Event, at: UnixMillis) {
        let Some(own) = self.leg_of(event, at) else { return };
        let key = |name| event.some(name).and_then(|id| self.book.find(&id));
        match (key("Bridge-A-Unique-ID"), key("Bridge-B-Unique-ID")) {
            // Only this pair is parted: either may already talk to somebody else.
            (Some(a), Some(b)) if self.book.leg(a).is_some_and(|leg| leg.peer == Some(b)) => {
                self.book.part(a)
            }
            (Some(_), Some(_)) => {}
            (_, None) | (None, _) => self.book.part(own),
        }
        self.note(own, || "parted; nothing is sent: a call goes on while its outside leg is up".into());
    }

    fn conference(&mut self, event: &Event, at: UnixMillis) {
        if !event.is("Event-Subclass", "conference::maintenance") {
            return;
        }
        let (Some(action), Some(room)) = (event.some("Action"), event.some("Conference-Name")) else {
            return;
        };
        match &*action {
            "add-member" => {
                let Some(key) = self.leg_of(event, at) else { return };
                self.book.enter_room(key, &room);
                self.note(key, || format!("it enters the conference {room}"));
                self.connections_of(key, event, at);
            }
            "del-member" => {
                if let Some(key) = event.some("Unique-ID").and_then(|id| self.book.find(&id)) {
                    self.book.leave_room(key);
                    self.note(key, || format!("it leaves the conference {room}"));
                }
            }
            _ => {}
        }
    }

    fn hung_up(&mut self, event: &Event, at: UnixMillis) {
        let Some(id) = event.some("Unique-ID") else { return };
        let Some(key) = self.book.find(&id) else {
            // Remembered as ended: what still comes of it, late or again, opens nothing.
            let Some(created) = Created::read(event) else { return };
            let key = self.book.next_key();
            let (mut leg, _) = self.judged(&created, FamilyKey(key.0));
            leg.ended = Some(at);
            self.book.add(key, leg);
            self.note(key, || "nothing is sent: its beginning was not heard, and it is over".into());
            self.bound(key, at);
            return;
        };
        if !self.book.is_up(key) {
            return self.note(key, || "nothing is sent: it was heard before".into());
        }
        self.mailbox_on(key, event, at);
        self.leg_ended(key, &Witness::read(event), at);
    }
}

/// A leg's Unique-ID names its call, unless an application chose it: such a name can return in a later call. A
/// leg that the switch recovered has its old id and begins a stay of its own.
fn call_id(leg: &Leg) -> CallId {
    let id = &leg.id;
    let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    match &leg.core {
        Some(core) if leg.recovered => CallId::new(&format!("{}-{core}", cut(id, NAME_MAX))),
        Some(_) | None if is_uuid => CallId::new(id),
        Some(_) | None => CallId::new(&format!("{}-{}", cut(id, NAME_MAX), leg.created.0)),
    }
}
