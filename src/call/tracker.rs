//! Follows every leg of one switch and says what happened to calls, as it happens: a pure state machine.
//!
//! Events and moments go in, [`Output`]s come out: what Zammad must learn, and on request an explanation of
//! every leg and event. Time is an argument. What must survive a restart is handed out family by family
//! ([`Tracker::poll_changed`]) and taken back by [`Tracker::restore`].
//!
//! ```text
//! event ─▶ tracker ── which leg, and what changed ──▶ book       legs, families, ids
//!             │                                        ├ kin        who caused this leg
//!             ▼                                        └ connection who hears whom
//!           calls ── begin, answer, end ──▶ outputs
//! ```
//!
//! What holds whatever comes in: a call's newCall is its first event and its hangup the last, each once; its
//! direction and numbers never change; memory is bounded by [`LEGS_MAX`]; no event costs a walk over all legs,
//! except the first of a new run of the switch.

mod calls;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::book::Book;
pub use super::book::{Kept, REMEMBERED};
use super::cause::{Ending, Table};
use super::leg::{Created, Mark, Side, Way, classify};
use super::model::{Call, FamilyKey, Leg, LegKey};
use super::number::Country;
use super::people::People;
use super::rule::Rule;
use crate::cti::event::{CallId, Event as Told};
use crate::esl::event::{Event, Name};
use crate::time::UnixMillis;

/// Most legs that are remembered. Beyond it ended ones are forgotten early, then the oldest are given up and their
/// calls ended.
pub const LEGS_MAX: usize = 200_000;
/// How long an unanswered outbound call waits for another trunk to be tried, while our leg stands.
pub const FAILOVER_MAX: Duration = Duration::from_secs(10);

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
    /// When it was heard.
    pub at: UnixMillis,
    /// The call had been answered before, by a person or the mailbox.
    pub answered: bool,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To be sent.
    News(News),
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
    core: Option<Arc<str>>,
    legs_max: usize,
    explains: Option<Explaining>,
}

/// What is being explained.
#[derive(Default)]
struct Explaining {
    event: String,
    noted: bool,
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
            core: None,
            legs_max: legs_max.max(2),
            explains: None,
        }
    }

    /// From now on every leg and event is also explained.
    pub fn explain(&mut self) {
        self.explains = Some(Explaining::default());
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
        while let Some((due, call)) = self.book.first_waiting().filter(|(due, _)| *due <= now).cloned() {
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

    fn created(&mut self, event: &Event, at: UnixMillis) {
        let Some(created) = Created::read(event) else { return };
        if let Some(key) = self.book.find(&created.id) {
            if self.is_same(key, &created) {
                if self.book.is_up(key) && self.book.leg(key).is_some_and(|leg| leg.hearsay) {
                    self.judge_anew(key, &created, at);
                } else {
                    self.note(key, || "nothing is sent: it was heard before, or is over already".into());
                }
                return;
            }
            self.note(key, || "its id returns for another leg: it had ended unheard".into());
            self.leg_ended(key, &Witness::default(), at);
        }
        self.admit(&created, event, at);
    }

    /// Whether what an event says is of the leg that we know by its id. UUIDs do not come back, except where a
    /// switch recovers its calls; ids that an application chose do.
    fn is_same(&self, key: LegKey, created: &Created) -> bool {
        let Some(leg) = self.book.leg(key) else { return false };
        match created.at {
            Some(at) if leg.created != UnixMillis::default() => leg.created == at && leg.core == self.core,
            Some(_) | None => true,
        }
    }

    /// Takes a leg in: whose it is, what it belongs to, and whether a call begins with it.
    fn admit(&mut self, created: &Created, event: &Event, at: UnixMillis) -> LegKey {
        let originator = self.originator(created, event, at);
        let twin = created.twin.as_ref().and_then(|twin| self.book.find(twin));
        let family = originator.or(twin).and_then(|tied| self.book.leg(tied)).map(|leg| leg.family);
        let key = self.book.next_key();
        let (mut leg, mark) = self.judged(created, family.unwrap_or(FamilyKey(key.0)));
        leg.created = created.at.unwrap_or(at);
        leg.originator = originator;
        leg.twin = twin;
        leg.recovered = self
            .book
            .find(&created.id)
            .and_then(|k| self.book.leg(k))
            .is_some_and(|before| before.core != leg.core);
        let side = leg.side;
        self.book.add(key, leg);
        self.note(key, || format!("{side}: {mark}"));
        self.place(key, created, at);
        self.bound(key, at);
        key
    }

    /// A leg as what it says of itself shows it, tied to nothing yet.
    fn judged(&self, created: &Created, family: FamilyKey) -> (Leg, Mark) {
        let (side, mark) = classify(created, &self.settings.rules);
        let country = self.settings.country;
        let number = match (side, created.way) {
            (Side::Outside, Way::Inbound) => country.normalise(created.caller.as_deref().unwrap_or_default()),
            (Side::Outside, Way::Outbound) => country.normalise(&created.dialled),
            (Side::Ours, _) => created.extension().to_owned(),
            (Side::Plumbing, _) => created.dialled.clone(),
        };
        let dialled =
            (side == Side::Ours && created.way == Way::Inbound).then(|| country.normalise(&created.dialled));
        let leg = Leg {
            id: created.id.clone(),
            former: Vec::new(),
            core: self.core.clone(),
            recovered: false,
            family,
            originator: None,
            twin: None,
            side,
            hearsay: false,
            way: created.way,
            created: created.at.unwrap_or_default(),
            mailbox: created.mailbox,
            number,
            domain: created.domain().map(str::to_owned),
            dialled,
            answered: created.answered,
            peer: None,
            room: None,
            party_of: None,
            calls_inside: None,
            within: None,
            ended: None,
        };
        (leg, mark)
    }

    /// The first event of its own of a leg that was known only from another's headers: now it is judged.
    fn judge_anew(&mut self, key: LegKey, created: &Created, at: UnixMillis) {
        let Some(known) = self.book.leg(key).cloned() else { return };
        let tied = created.ties.iter().filter(|_| known.originator.is_none()).find_map(|t| self.book.find(t));
        let tied = tied.filter(|tied| *tied != key && created.way == Way::Outbound);
        if let Some(family) = tied.and_then(|tied| self.book.leg(tied)).map(|leg| leg.family) {
            self.book.adopt_into(key, family);
        }
        let (judged, mark) = self.judged(created, known.family);
        let side = judged.side;
        if let Some(leg) = self.book.leg_mut(key) {
            leg.hearsay = false;
            leg.within = None;
            leg.side = judged.side;
            leg.way = judged.way;
            leg.mailbox = judged.mailbox;
            leg.number = judged.number;
            leg.domain = judged.domain;
            leg.dialled = judged.dialled;
            leg.answered |= judged.answered;
            leg.originator = leg.originator.or(tied);
            if leg.created == UnixMillis::default() {
                leg.created = created.at.unwrap_or(at);
            }
        }
        self.note(key, || format!("{side}, as it shows now: {mark}"));
        self.place(key, created, at);
    }

    /// The leg that caused this one, if it is known. One that is only named was created before we listened.
    fn originator(&mut self, created: &Created, event: &Event, at: UnixMillis) -> Option<LegKey> {
        if created.way == Way::Inbound && !created.channel.starts_with("loopback/") {
            return None;
        }
        if let Some(known) = created.ties.iter().find_map(|tie| self.book.find(tie)) {
            return Some(known);
        }
        event.is("Other-Type", "originator").then(|| self.hearsay(event, at))?
    }

    /// Takes in the other leg that an event names, as far as it is described. Its own call, if it has one, begins
    /// with its own next event: it may be over.
    fn hearsay(&mut self, event: &Event, at: UnixMillis) -> Option<LegKey> {
        let id = event.some("Other-Leg-Unique-ID")?;
        let unheard = Created::from_other_leg(event, &id)?;
        let key = self.book.next_key();
        let (mut leg, _) = self.judged(&unheard, FamilyKey(key.0));
        leg.hearsay = true;
        leg.within = (leg.side == Side::Outside).then(|| call_id(&leg));
        let side = leg.side;
        self.book.add(key, leg);
        self.note(key, || format!("{side}, probably: {}", Mark::Hearsay));
        self.bound(key, at);
        Some(key)
    }

    /// The leg an event is about, if it stands; taken in if its creation was not heard.
    fn leg_of(&mut self, event: &Event, at: UnixMillis) -> Option<LegKey> {
        let id = event.some("Unique-ID")?;
        let key = match self.book.find(&id) {
            Some(key) if self.book.leg(key)?.hearsay && self.book.is_up(key) => {
                let created = Created::read(event)?.late(event);
                self.judge_anew(key, &created, at);
                key
            }
            Some(key) => key,
            None if event.is("Answer-State", "hangup") => {
                self.note_on(&id, || "nothing is sent: the leg was not known, and is over".into());
                return None;
            }
            None => {
                let created = Created::read(event)?.late(event);
                self.admit(&created, event, at)
            }
        };
        if !self.book.is_up(key) {
            self.note(key, || "nothing is sent: the leg has ended".into());
            return None;
        }
        let answered = event.name() == Name::ChannelAnswer || event.is("Answer-State", "answered");
        if answered && self.book.leg(key).is_some_and(|leg| !leg.answered) {
            self.book.leg_mut(key)?.answered = true;
        }
        Some(key)
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

    /// One end of a bridge; taken in if the event describes it.
    fn named(&mut self, event: &Event, id: &str, at: UnixMillis) -> Option<LegKey> {
        match self.book.find(id) {
            Some(key) => Some(key),
            None if event.is("Other-Leg-Unique-ID", id) => self.hearsay(event, at),
            None => None,
        }
    }

    /// A leg as the switch shows it after a gap, perhaps in the middle of a conversation.
    fn found(&mut self, event: &Event, at: UnixMillis) {
        let Some(own) = self.leg_of(event, at) else { return };
        let free = |book: &Book, key: LegKey| {
            book.leg(key).is_some_and(|leg| leg.peer.is_none() && leg.ended.is_none())
        };
        let peer = event
            .some("variable_bridge_uuid")
            .filter(|peer| event.is("Other-Leg-Unique-ID", peer))
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

    fn renamed(&mut self, event: &Event, at: UnixMillis) {
        let (Some(old), Some(new)) = (event.some("Old-Unique-ID"), event.some("Unique-ID")) else { return };
        if old == new {
            return;
        }
        let known = Created::read(event)
            .and_then(|created| self.book.find(&new).filter(|key| self.is_same(*key, &created)));
        match (self.book.find(&old), known) {
            (Some(key), Some(same)) if key == same => {
                self.note(key, || "nothing is sent: it was heard before".into())
            }
            (Some(key), None) => {
                self.note(key, || format!("it is called {new} from now on, and its call stays what it was"));
                self.book.rename(key, &new);
            }
            // It was heard of by its new id already, and is told by that.
            (Some(key), Some(_)) => {
                self.note(key, || format!("it was heard of as {new} before: one of the two is enough"));
                self.leg_ended(key, &Witness::default(), at);
            }
            (None, Some(key)) => self.book.also_called(key, &old),
            (None, None) => {
                if let Some(key) = self.leg_of(event, at) {
                    self.book.also_called(key, &old);
                }
            }
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

    /// However many legs never end, memory does not grow beyond its bound. `newest` stays.
    fn bound(&mut self, newest: LegKey, at: UnixMillis) {
        while self.book.legs() > self.legs_max
            && let Some(key) = self.book.least_wanted(newest)
        {
            self.leg_ended(key, &Witness::default(), at);
            self.book.drop_leg(key);
        }
    }

    fn note(&mut self, key: LegKey, text: impl FnOnce() -> String) {
        if self.explains.is_some() {
            let id = self.book.leg(key).map(|leg| leg.id.clone()).unwrap_or_default();
            self.note_on(&id, text);
        }
    }

    /// Whether this event has been explained already.
    fn has_noted(&self) -> bool {
        self.explains.as_ref().is_some_and(|explaining| explaining.noted)
    }

    fn note_on(&mut self, leg: &str, text: impl FnOnce() -> String) {
        if let Some(explaining) = &mut self.explains {
            explaining.noted = true;
            let text = format!("{}: {}", explaining.event, text());
            self.outputs.push_back(Output::Note { leg: leg.to_owned(), text });
        }
    }

    fn begin_explaining(&mut self, event: &Event) {
        if let Some(explaining) = &mut self.explains {
            explaining.event = event.get("Event-Name").unwrap_or_default().into_owned();
            explaining.noted = false;
        }
    }

    fn end_explaining(&mut self, event: &Event) {
        if self.explains.as_ref().is_some_and(|explaining| !explaining.noted) {
            let leg = event.some("Unique-ID").unwrap_or("-".into());
            self.note_on(&leg, || "nothing is sent: no call begins, is answered or ends by it".into());
        }
        if let Some(explaining) = &mut self.explains {
            "meanwhile".clone_into(&mut explaining.event);
        }
    }
}

/// What a leg's HANGUP_COMPLETE testifies.
#[derive(Default)]
struct Witness {
    cause: String,
    disposition: Option<String>,
    hung_up_first: bool,
    moved_away: bool,
}

impl Witness {
    fn read(event: &Event) -> Self {
        let cause = event.get("Hangup-Cause").unwrap_or_default().into_owned();
        let hung_up_first = match event.get("variable_sip_hangup_disposition").as_deref() {
            Some("recv_bye" | "recv_cancel") => true,
            Some(_) => false,
            // Endpoints other than SIP say it by the cause alone.
            None => cause == "ORIGINATOR_CANCEL",
        };
        let application = event.get("variable_current_application").unwrap_or_default();
        let sent_away = matches!(&*application, "redirect" | "deflect") && !hung_up_first;
        let transferred = ["variable_endpoint_disposition", "Hangup-Cause"].iter().any(|header| {
            matches!(event.get(header).as_deref(), Some("BLIND_TRANSFER" | "ATTENDED_TRANSFER"))
        });
        Self {
            disposition: event.some("variable_originate_disposition").map(|v| v.to_uppercase()),
            hung_up_first,
            moved_away: sent_away || transferred || cause == "REDIRECTION_TO_NEW_DESTINATION",
            cause,
        }
    }

    /// Another leg that was tried at the same time was taken.
    fn lost_race(&self) -> bool {
        self.cause == "LOSE_RACE"
    }

    fn ending(&self) -> Ending {
        Ending {
            moved_away: self.moved_away,
            caller_gave_up: self.hung_up_first,
            own: self.cause.clone(),
            disposition: self.disposition.clone(),
            ..Ending::default()
        }
    }
}

/// A leg's Unique-ID names its call, unless an application chose it: such a name can return in a later call. A
/// leg that the switch recovered has its old id and begins a stay of its own.
fn call_id(leg: &Leg) -> CallId {
    let id = &leg.id;
    let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    match &leg.core {
        Some(core) if leg.recovered => CallId::new(&format!("{}-{core}", cut(id))),
        Some(_) | None if is_uuid => CallId::new(id),
        Some(_) | None => CallId::new(&format!("{}-{}", cut(id), leg.created.0)),
    }
}

fn cut(id: &str) -> &str {
    let end = id.char_indices().nth(200).map_or(id.len(), |(end, _)| end);
    &id[..end]
}
