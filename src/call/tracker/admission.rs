//! How a leg becomes known, and stays one leg: by its CREATE, by a later event if that was missed, by another leg's
//! headers; under a new id, or an id that returns.
//!
//! Whose a leg is, and its numbers, are read once, from its own first event: later ones are rewritten by
//! transfer and bridge. Only what another leg said of it is judged anew when it speaks for itself.

use super::witness::Witness;
use super::{Tracker, call_id};
use crate::call::leg::{Created, Mark, Side, Way, classify};
use crate::call::model::{FamilyKey, Leg, LegKey};
use crate::esl::event::{Event, Name};
use crate::time::UnixMillis;

impl Tracker {
    pub(super) fn created(&mut self, event: &Event, at: UnixMillis) {
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
            // A leg that only had the id, and goes by another, stands.
            if self.named_so(&created.id).is_some() {
                self.note(key, || "its id returns for another leg: it had ended unheard".into());
                self.leg_ended(key, &Witness::default(), at);
            }
        }
        self.admit(&created, event, at);
    }

    /// The leg that has this id now.
    fn named_so(&self, id: &str) -> Option<LegKey> {
        self.book.find(id).filter(|key| self.book.leg(*key).is_some_and(|leg| leg.id == id))
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
        if event.name() != Name::ChannelCreate {
            self.book.doubt(key);
        }
        self.note(key, || format!("{side}: {mark}"));
        self.place(key, created, at);
        self.bound(key, at);
        key
    }

    /// The leg an event is about, if it stands; taken in if its creation was not heard.
    pub(super) fn leg_of(&mut self, event: &Event, at: UnixMillis) -> Option<LegKey> {
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

    /// A leg as what it says of itself shows it, tied to nothing yet.
    pub(super) fn judged(&self, created: &Created, family: FamilyKey) -> (Leg, Mark) {
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

    /// Whether what an event says is of the leg that we know by its id. UUIDs do not come back, except where a
    /// switch recovers its calls; ids that an application chose do.
    fn is_same(&self, key: LegKey, created: &Created) -> bool {
        let Some(leg) = self.book.leg(key) else { return false };
        match created.at {
            Some(at) if leg.created != UnixMillis::default() => leg.created == at && leg.core == self.core,
            Some(_) | None => true,
        }
    }

    /// The leg that caused this one, if it is known. One that is only named was created before we listened.
    fn originator(&mut self, created: &Created, event: &Event, at: UnixMillis) -> Option<LegKey> {
        if created.way == Way::Inbound && !created.channel.starts_with("loopback/") {
            return None;
        }
        if let Some(known) = created.ties.iter().find_map(|tie| self.book.find(tie)) {
            return Some(known);
        }
        // Found in the middle of a call: the helper that made it is gone, and who it was made for is whom it talks to.
        let talks_to = event.some("variable_bridge_to").filter(|_| !created.ties.is_empty());
        if event.name() == Name::ChannelData
            && let Some(peer) = talks_to.and_then(|peer| self.book.find(&peer))
        {
            return Some(peer);
        }
        event.is("Other-Type", "originator").then(|| self.hearsay(event, at))?
    }

    /// One end of a bridge; taken in if the event describes it.
    pub(super) fn named(&mut self, event: &Event, id: &str, at: UnixMillis) -> Option<LegKey> {
        match self.book.find(id) {
            Some(key) => Some(key),
            None if event.is("Other-Leg-Unique-ID", id) => self.hearsay(event, at),
            None => None,
        }
    }

    /// Takes in the other leg that an event names, as far as it is described. Its own call, if it has one, begins
    /// with its own next event: it may be over.
    fn hearsay(&mut self, event: &Event, at: UnixMillis) -> Option<LegKey> {
        // A leg that names itself as its other is not two: of two with one id, one could never be ended.
        let id = event.some("Other-Leg-Unique-ID").filter(|id| !event.is("Unique-ID", id))?;
        let unheard = Created::from_other_leg(event, &id)?;
        let key = self.book.next_key();
        let (mut leg, _) = self.judged(&unheard, FamilyKey(key.0));
        leg.hearsay = true;
        leg.within = (leg.side == Side::Outside).then(|| call_id(&leg));
        let side = leg.side;
        self.book.add(key, leg);
        self.book.doubt(key);
        self.note(key, || format!("{side}, probably: {}", Mark::Hearsay));
        self.bound(key, at);
        Some(key)
    }

    pub(super) fn renamed(&mut self, event: &Event, at: UnixMillis) {
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
                if let Some(other) = self.named_so(&new).filter(|other| self.book.is_up(*other)) {
                    self.note(other, || "its id is another leg's now: it had ended unheard".into());
                    self.leg_ended(other, &Witness::default(), at);
                }
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

    /// However many legs never end, memory does not grow beyond its bound. `newest` stays.
    pub(super) fn bound(&mut self, newest: LegKey, at: UnixMillis) {
        while self.book.legs() > self.legs_max
            && let Some(key) = self.book.least_wanted(newest)
        {
            self.leg_ended(key, &Witness::default(), at);
            self.book.drop_leg(key);
        }
    }
}
