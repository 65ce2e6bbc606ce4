//! Follows every leg of one switch and says what happened to calls, as it happens: a pure state machine.
//!
//! Events and moments go in, [`Output`]s come out: what Zammad must learn, and on request an explanation of
//! every leg and event. Time is an argument. What must survive a restart is handed out family by family
//! ([`Tracker::poll_changed`]) and taken back by [`Tracker::restore`].
//!
//! What holds whatever comes in: a call's newCall is its first event and its hangup the last, each once; its
//! direction and numbers never change; memory is bounded by [`LEGS_MAX`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cause::{Because, Ending, Table};
use super::leg::{Created, Mark, Side, Way, classify};
use super::model::{Call, Family, FamilyKey, Leg, LegKey};
use super::number::Country;
use super::people::People;
use super::rule::Rule;
use crate::cti::event::{CallId, Direction, Event as Told, VOICEMAIL, What};
use crate::esl::event::{Event, Name};
use crate::time::UnixMillis;

/// Most legs that are remembered. Beyond it the oldest family is given up, its calls ended.
pub const LEGS_MAX: usize = 200_000;
/// How long an ended family is still recognised, for events that come late.
pub const REMEMBERED: Duration = Duration::from_secs(120);
/// How long an unanswered outbound call waits for another trunk to be tried, while our leg stands.
pub const FAILOVER_MAX: Duration = Duration::from_secs(10);
/// Most answers of one call that are told.
const ANSWERS_MAX: usize = 100;

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
    /// Why something was taken for what it was; only after [`Tracker::explain`].
    Note {
        /// Unique-ID of the leg it is about.
        leg: String,
        /// One sentence.
        text: String,
    },
}

/// What must be stored of a family: its legs and its calls.
pub type Kept = (Vec<(LegKey, Leg)>, Vec<(CallId, Call)>);

/// The state machine. One per switch.
pub struct Tracker {
    settings: Arc<Settings>,
    legs: HashMap<LegKey, Leg>,
    by_id: HashMap<String, LegKey>,
    calls: HashMap<CallId, Call>,
    families: BTreeMap<FamilyKey, Family>,
    rooms: HashMap<String, Vec<LegKey>>,
    waiting: BTreeSet<(UnixMillis, CallId)>,
    buried: VecDeque<(UnixMillis, FamilyKey)>,
    changed: BTreeSet<FamilyKey>,
    outputs: VecDeque<Output>,
    core: Option<String>,
    next: u64,
    explains: bool,
}

impl Tracker {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            legs: HashMap::new(),
            by_id: HashMap::new(),
            calls: HashMap::new(),
            families: BTreeMap::new(),
            rooms: HashMap::new(),
            waiting: BTreeSet::new(),
            buried: VecDeque::new(),
            changed: BTreeSet::new(),
            outputs: VecDeque::new(),
            core: None,
            next: 1,
            explains: false,
        }
    }

    /// From now on every leg and event is also explained.
    pub const fn explain(&mut self) {
        self.explains = true;
    }

    /// An event was heard. The switch's own clock is not asked: it may differ from the one that ends our waits.
    pub fn handle_event(&mut self, event: &Event, at: UnixMillis) {
        self.handle_timeout(at);
        self.check_core(event, at);
        match event.name() {
            Name::ChannelCreate => self.created(event, at),
            Name::ChannelAnswer => {
                if let Some(leg) = self.leg_of(event, at) {
                    self.connections_of(leg, event, at);
                }
            }
            Name::ChannelData => self.found(event, at),
            Name::ChannelBridge => self.bridged(event, at),
            Name::ChannelUnbridge => self.unbridged(event, at),
            Name::ChannelHangupComplete => self.hung_up(event, at),
            Name::ChannelUuid => self.renamed(event),
            Name::Custom => self.conference(event, at),
            Name::Heartbeat | Name::Shutdown | Name::BackgroundJob | Name::Other => {}
        }
    }

    /// The moment of [`Tracker::poll_timeout`] has come, or passed.
    pub fn handle_timeout(&mut self, now: UnixMillis) {
        while let Some((due, call)) = self.waiting.first().filter(|(due, _)| *due <= now).cloned() {
            self.end(&call, &Ending::default(), due);
        }
        while let Some((at, family)) = self.buried.front().copied()
            && now.since(at) >= REMEMBERED
        {
            self.buried.pop_front();
            self.forget(family);
        }
    }

    /// When [`Tracker::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<UnixMillis> {
        let waiting = self.waiting.first().map(|(due, _)| *due);
        let buried = self.buried.front().map(|(at, _)| at.after(REMEMBERED));
        waiting.into_iter().chain(buried).min()
    }

    /// What came out, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A family that changed since it was last asked for, with what must be stored of it; `None` when nothing
    /// of it needs to survive a restart.
    pub fn poll_changed(&mut self) -> Option<(FamilyKey, Option<Kept>)> {
        let key = self.changed.pop_first()?;
        let alive = self.families.get(&key).filter(|f| self.is_alive(f)).map(|family| {
            let legs = family.legs.iter().filter_map(|k| self.legs.get(k).map(|l| (*k, l.clone()))).collect();
            let calls = family
                .calls
                .iter()
                .filter_map(|c| self.calls.get(c).map(|v| (c.clone(), v.clone())))
                .collect();
            (legs, calls)
        });
        Some((key, alive))
    }

    /// Takes back what [`Tracker::poll_changed`] once handed out.
    pub fn restore(&mut self, key: FamilyKey, legs: Vec<(LegKey, Leg)>, calls: Vec<(CallId, Call)>) {
        let mut family = Family::default();
        for (leg_key, leg) in legs {
            self.next = self.next.max(leg_key.0 + 1);
            family.legs.push(leg_key);
            if let Some(room) = &leg.room {
                self.rooms.entry(room.clone()).or_default().push(leg_key);
            }
            self.by_id.insert(leg.id.clone(), leg_key);
            self.legs.insert(leg_key, leg);
        }
        for (id, call) in calls {
            if let Some(due) = call.ends_at {
                self.waiting.insert((due, id.clone()));
            }
            family.calls.push(id.clone());
            self.calls.insert(id, call);
        }
        self.families.insert(key, family);
    }

    /// How many calls are going on.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// How many legs are remembered, ended ones included.
    #[must_use]
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// Legs that have not ended, as the switch names them.
    pub fn live_legs(&self) -> impl Iterator<Item = &str> {
        self.legs.values().filter(|l| l.ended.is_none()).map(|l| l.id.as_str())
    }

    /// The switch does not know this leg any more: it ended unheard.
    pub fn vanished(&mut self, id: &str, at: UnixMillis) {
        if let Some(key) = self.by_id.get(id).copied() {
            self.note(key, || "the switch does not know it any more: it ended unheard".into());
            self.leg_ended(key, &Witness::default(), at);
        }
    }

    /// A different Core-UUID: the switch was restarted, and what it had is gone.
    fn check_core(&mut self, event: &Event, at: UnixMillis) {
        let Some(core) = event.some("Core-UUID") else { return };
        if self.core.as_deref().is_some_and(|known| known != core) {
            let gone: Vec<LegKey> =
                self.legs.iter().filter(|(_, l)| l.ended.is_none()).map(|(k, _)| *k).collect();
            for key in gone {
                self.leg_ended(key, &Witness { cause: "CRASH".into(), ..Witness::default() }, at);
            }
        }
        if self.core.as_deref() != Some(&*core) {
            self.core = Some(core.into_owned());
        }
    }

    fn created(&mut self, event: &Event, at: UnixMillis) {
        let Some(created) = Created::read(event) else { return };
        match self.by_id.get(&created.id) {
            Some(key) if self.legs[key].ended.is_none() => {} // heard twice
            Some(_) | None => {
                self.admit(&created, event, at);
            }
        }
    }

    /// Takes a leg in: whose it is, what it belongs to, and whether a call begins with it.
    fn admit(&mut self, created: &Created, event: &Event, at: UnixMillis) -> LegKey {
        let (side, mark) = classify(created, &self.settings.rules);
        let country = self.settings.country;
        let originator = self.originator(created, event);
        let twin = created.twin.as_ref().and_then(|t| self.by_id.get(t)).copied();
        let key = LegKey(self.next);
        self.next += 1;
        let family = originator.or(twin).map_or(FamilyKey(key.0), |tied| self.legs[&tied].family);
        let number = match (side, created.way) {
            (Side::Outside, Way::Inbound) => country.normalise(created.caller.as_deref().unwrap_or_default()),
            (Side::Outside, Way::Outbound) => country.normalise(&created.dialled),
            (Side::Ours, _) => created.extension().to_owned(),
            (Side::Plumbing, _) => created.dialled.clone(),
        };
        let leg = Leg {
            id: created.id.clone(),
            family,
            originator,
            twin,
            side,
            way: created.way,
            created: created.at.unwrap_or(at),
            mailbox: created.mailbox,
            number,
            domain: created.domain().map(str::to_owned),
            answered: event.is("Answer-State", "answered"),
            peer: None,
            room: None,
            party_of: None,
            within: None,
            ended: None,
        };
        self.legs.insert(key, leg);
        self.by_id.insert(created.id.clone(), key);
        self.families.entry(family).or_default().legs.push(key);
        self.changed.insert(family);
        if let Some(twin) = twin
            && let Some(other) = self.legs.get_mut(&twin)
        {
            other.twin = Some(key);
        }
        self.note(key, || format!("{side}: {mark}"));
        self.place(key, created, at);
        self.bound(at);
        key
    }

    /// Opens the call that begins with a leg, or finds the one it belongs to.
    fn place(&mut self, key: LegKey, created: &Created, at: UnixMillis) {
        let leg = &self.legs[&key];
        let sponsor = self.sponsor(key);
        match (leg.side, leg.way, sponsor) {
            (Side::Outside, Way::Inbound, _) => {
                let to = self.settings.country.normalise(created.called_number());
                let from = leg.number.clone();
                self.open(key, Direction::In, from, to, None, at);
            }
            (Side::Outside, Way::Outbound, None) if let Some(dialler) = self.person_near(key) => {
                self.dialled_out(key, dialler, at);
            }
            (Side::Outside, Way::Outbound, None) => {
                let from = self.settings.country.normalise(created.caller.as_deref().unwrap_or_default());
                let to = leg.number.clone();
                self.open(key, Direction::Out, from, to, None, at);
            }
            (Side::Outside, Way::Outbound, Some(Sponsor::Person(dialler))) => {
                self.dialled_out(key, dialler, at)
            }
            (_, _, Some(Sponsor::Call(call))) => {
                self.note(key, || format!("it belongs to call {call}, it opens none of its own"));
                self.leg_mut(key).within = Some(call);
            }
            (Side::Ours | Side::Plumbing, _, None | Some(Sponsor::Person(_))) => {}
        }
    }

    /// One of our people dials out: a new call, or a further trunk for the one that is being tried.
    fn dialled_out(&mut self, key: LegKey, dialler: LegKey, at: UnixMillis) {
        let to = self.legs[&key].number.clone();
        let family = self.legs[&key].family;
        let tried = self.families[&family].calls.iter().find(|c| {
            self.calls.get(c).is_some_and(|c| {
                c.direction == Direction::Out
                    && c.dialler == Some(dialler)
                    && c.answered_by.is_empty()
                    && same_subscriber(&c.to, &to)
            })
        });
        if let Some(id) = tried.cloned() {
            self.note(key, || format!("a further attempt of call {id}"));
            let call = self.calls.get_mut(&id).expect("found above");
            call.parties.push(key);
            if let Some(due) = call.ends_at.take() {
                self.waiting.remove(&(due, id.clone()));
            }
            self.leg_mut(key).party_of = Some(id);
            return;
        }
        // Another number: what was tried before is over.
        let over: Vec<CallId> = self.waiting.iter().map(|(_, id)| id.clone()).collect();
        for id in over {
            if self.calls.get(&id).is_some_and(|c| c.dialler == Some(dialler)) {
                self.end(&id, &Ending::default(), at);
            }
        }
        let leg = &self.legs[&dialler];
        let agent = self.settings.people.agent(&leg.number, leg.domain.as_deref());
        let from = agent.and_then(|a| a.number.clone()).unwrap_or_else(|| leg.number.clone());
        self.open(key, Direction::Out, from, to, Some(dialler), at);
    }

    fn open(
        &mut self,
        key: LegKey,
        direction: Direction,
        from: String,
        to: String,
        dialler: Option<LegKey>,
        at: UnixMillis,
    ) {
        let leg = &self.legs[&key];
        let family = leg.family;
        let id = call_id(&leg.id, leg.created);
        if self.calls.contains_key(&id) {
            return; // the same leg, heard twice
        }
        let people = &self.settings.people;
        let user = dialler.and_then(|d| {
            let leg = &self.legs[&d];
            people.agent(&leg.number, leg.domain.as_deref()).and_then(|a| a.user.clone())
        });
        let queue = match direction {
            Direction::In => people.queue(&to).map(str::to_owned),
            Direction::Out => None,
        };
        let call = Call {
            family,
            direction,
            from,
            to,
            dialler,
            parties: vec![key],
            answered_by: Vec::new(),
            last_answer: None,
            tried: None,
            ends_at: None,
            failed: None,
            gave_up: false,
        };
        self.leg_mut(key).party_of = Some(id.clone());
        self.families.entry(family).or_default().calls.push(id.clone());
        self.tell(&id, &call, What::NewCall { user, queue }, "newCall", at);
        self.calls.insert(id, call);
    }

    /// The person or call at the root of an outbound leg: ties are followed through plumbing.
    fn sponsor(&self, key: LegKey) -> Option<Sponsor> {
        let mut at = key;
        for _ in 0..HOPS_MAX {
            at = self.cause_of(at)?;
            let leg = &self.legs[&at];
            if let Some(call) =
                leg.party_of.as_ref().or(leg.within.as_ref().filter(|_| leg.side == Side::Outside))
            {
                return Some(Sponsor::Call(call.clone()));
            }
            match leg.side {
                Side::Plumbing | Side::Outside => {}
                // A phone that rings and sends the call on (302) is no dialler; one that talks is.
                Side::Ours if leg.within.is_some() && !leg.answered => {}
                Side::Ours => return Some(Sponsor::Person(at)),
            }
        }
        None
    }

    /// Click-to-call over loopback: nobody dialled, but one of our phones stands in the same family.
    fn person_near(&self, key: LegKey) -> Option<LegKey> {
        let family = &self.families[&self.legs[&key].family];
        let near = |k: &&LegKey| {
            self.legs.get(k).is_some_and(|l| l.side == Side::Ours && l.answered && l.ended.is_none())
        };
        family.legs.iter().find(near).copied()
    }

    fn cause_of(&self, key: LegKey) -> Option<LegKey> {
        let leg = self.legs.get(&key)?;
        let twin = leg.twin.filter(|t| self.legs.get(t).is_some_and(|t| t.originator.is_some()));
        leg.originator.or(twin).filter(|k| *k != key && self.legs.contains_key(k))
    }

    /// The leg that caused this one, if it is known. One that is only named was created before we listened.
    fn originator(&mut self, created: &Created, event: &Event) -> Option<LegKey> {
        if created.way == Way::Inbound && !created.channel.starts_with("loopback/") {
            return None;
        }
        if let Some(known) = created.ties.iter().find_map(|tie| self.by_id.get(tie)) {
            return Some(*known);
        }
        let id = event.some("Other-Leg-Unique-ID").filter(|_| event.is("Other-Type", "originator"))?;
        let unheard = Created::from_other_leg(event, &id)?;
        let (side, _) = classify(&unheard, &self.settings.rules);
        let key = LegKey(self.next);
        self.next += 1;
        let family = FamilyKey(key.0);
        let number = match side {
            Side::Outside => self.settings.country.normalise(unheard.caller.as_deref().unwrap_or_default()),
            Side::Ours | Side::Plumbing => unheard.extension().to_owned(),
        };
        // Its own call, if it had one, began before we listened and is not told: it may be over, or be told already.
        let within = (side == Side::Outside).then(|| CallId::new(&id));
        let leg = Leg {
            id: id.to_string(),
            family,
            originator: None,
            twin: None,
            side,
            way: unheard.way,
            created: UnixMillis::default(),
            mailbox: false,
            number,
            domain: None,
            answered: false,
            peer: None,
            room: None,
            party_of: None,
            within,
            ended: None,
        };
        self.legs.insert(key, leg);
        self.by_id.insert(id.to_string(), key);
        self.families.entry(family).or_default().legs.push(key);
        self.changed.insert(family);
        self.note(key, || format!("{side}: {}", Mark::Hearsay));
        Some(key)
    }

    /// The leg an event is about; taken in if its creation was not heard.
    fn leg_of(&mut self, event: &Event, at: UnixMillis) -> Option<LegKey> {
        let id = event.some("Unique-ID")?;
        let key = match self.by_id.get(&*id).copied() {
            Some(key) => key,
            None => {
                let created = Created::read(event)?.late(event);
                self.admit(&created, event, at)
            }
        };
        if self.legs[&key].ended.is_some() {
            return None;
        }
        if event.name() == Name::ChannelAnswer || event.is("Answer-State", "answered") {
            self.leg_mut(key).answered = true;
        }
        Some(key)
    }

    fn bridged(&mut self, event: &Event, at: UnixMillis) {
        let Some(own) = self.leg_of(event, at) else { return };
        let ends = match (event.some("Bridge-A-Unique-ID"), event.some("Bridge-B-Unique-ID")) {
            (Some(a), Some(b)) => (self.by_id.get(&*a).copied(), self.by_id.get(&*b).copied()),
            _ => (Some(own), event.some("Other-Leg-Unique-ID").and_then(|o| self.by_id.get(&*o).copied())),
        };
        if let (Some(a), Some(b)) = ends
            && a != b
            && [a, b].iter().all(|k| self.legs[k].ended.is_none())
        {
            self.part(a);
            self.part(b);
            self.leg_mut(a).peer = Some(b);
            self.leg_mut(b).peer = Some(a);
            self.connections_of(a, event, at);
        }
    }

    /// A leg as the switch shows it after a gap, perhaps in the middle of a conversation.
    fn found(&mut self, event: &Event, at: UnixMillis) {
        let Some(own) = self.leg_of(event, at) else { return };
        let peer = event
            .some("variable_bridge_uuid")
            .filter(|peer| event.is("Other-Leg-Unique-ID", peer))
            .and_then(|peer| self.by_id.get(&*peer).copied());
        if let Some(peer) = peer
            && [own, peer].iter().all(|k| self.legs[k].peer.is_none() && self.legs[k].ended.is_none())
        {
            self.leg_mut(own).peer = Some(peer);
            self.leg_mut(peer).peer = Some(own);
        }
        self.connections_of(own, event, at);
    }

    fn unbridged(&mut self, event: &Event, at: UnixMillis) {
        let Some(own) = self.leg_of(event, at) else { return };
        let key = |name| event.some(name).and_then(|id| self.by_id.get(&*id).copied());
        match (key("Bridge-A-Unique-ID"), key("Bridge-B-Unique-ID")) {
            // Only this pair is parted: either may already talk to somebody else.
            (Some(a), Some(b)) if self.legs[&a].peer == Some(b) => self.part(a),
            (Some(_), Some(_)) => {}
            (_, None) | (None, _) => self.part(own),
        }
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
                self.leave_room(key);
                self.leg_mut(key).room = Some(room.to_string());
                self.rooms.entry(room.into_owned()).or_default().push(key);
                self.connections_of(key, event, at);
            }
            "del-member" => {
                if let Some(key) = event.some("Unique-ID").and_then(|id| self.by_id.get(&*id).copied()) {
                    self.leave_room(key);
                }
            }
            _ => {}
        }
    }

    fn renamed(&mut self, event: &Event) {
        if let (Some(old), Some(new)) = (event.some("Old-Unique-ID"), event.some("Unique-ID"))
            && let Some(key) = self.by_id.remove(&*old)
        {
            self.note(key, || format!("it is called {new} from now on"));
            self.leg_mut(key).id = new.to_string();
            self.by_id.insert(new.into_owned(), key);
        }
    }

    fn hung_up(&mut self, event: &Event, at: UnixMillis) {
        let Some(key) = event.some("Unique-ID").and_then(|id| self.by_id.get(&*id).copied()) else { return };
        if self.legs[&key].ended.is_some() {
            return;
        }
        self.mailbox_on(key, event, at);
        self.leg_ended(key, &Witness::read(event), at);
    }

    fn leg_ended(&mut self, key: LegKey, witness: &Witness, at: UnixMillis) {
        if self.legs[&key].ended.is_some() {
            return;
        }
        self.part(key);
        self.leave_room(key);
        let leg = self.leg_mut(key);
        leg.ended = Some(at);
        let (family, party_of, within) = (leg.family, leg.party_of.clone(), leg.within.clone());
        if let Some(call) = party_of {
            self.party_ended(&call, key, witness, at);
        } else if let Some(call) = within.and_then(|id| self.calls.get_mut(&id))
            && let Some(cause) = self.settings.causes.telling(&witness.cause)
        {
            call.tried = Some(cause);
        }
        self.dialler_ended(key, witness, at);
        self.bury_if_over(family, at);
    }

    /// An outside leg of a call ended. Inbound, and once answered, that is the call's end.
    fn party_ended(&mut self, id: &CallId, key: LegKey, witness: &Witness, at: UnixMillis) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.parties.retain(|k| *k != key);
        if !call.parties.is_empty() {
            return;
        }
        let waits = call.direction == Direction::Out
            && call.answered_by.is_empty()
            && call.dialler.is_some_and(|d| self.legs.get(&d).is_some_and(|l| l.ended.is_none()));
        if waits {
            call.failed = self.settings.causes.telling(&witness.cause);
            let due = at.after(FAILOVER_MAX);
            call.ends_at = Some(due);
            self.waiting.insert((due, id.clone()));
            return;
        }
        let mut ending = witness.ending();
        if call.direction == Direction::Out {
            ending.caller_gave_up |= call.gave_up;
            // What the trunk said came before our side gave up on it.
            if self.settings.causes.telling(&witness.cause).is_some() {
                ending.caller_gave_up = false;
            }
        }
        self.end(id, &ending, at);
    }

    /// Our dialling leg ended: calls that waited for another trunk are over.
    fn dialler_ended(&mut self, key: LegKey, witness: &Witness, at: UnixMillis) {
        let family = self.legs[&key].family;
        let dialled: Vec<CallId> = self.families[&family]
            .calls
            .iter()
            .filter(|c| self.calls.get(c).is_some_and(|c| c.dialler == Some(key)))
            .cloned()
            .collect();
        for id in dialled {
            let call = self.calls.get_mut(&id).expect("found above");
            call.gave_up |= witness.hung_up_first;
            if call.parties.is_empty() {
                let ending = Ending {
                    caller_gave_up: witness.hung_up_first,
                    disposition: witness.disposition.clone(),
                    ..Ending::default()
                };
                self.end(&id, &ending, at);
            }
        }
    }

    fn end(&mut self, id: &CallId, ending: &Ending, at: UnixMillis) {
        let Some(call) = self.calls.remove(id) else { return };
        if let Some(due) = call.ends_at {
            self.waiting.remove(&(due, id.clone()));
        }
        let mut ending =
            Ending { answered: !call.answered_by.is_empty(), tried: call.tried, ..ending.clone() };
        let (cause, because) = match call.failed.filter(|_| !ending.answered) {
            Some(failed) => (failed, Because::OwnCause),
            None => {
                ending.caller_gave_up |= call.gave_up && ending.own.is_empty();
                self.settings.causes.judge(&ending)
            }
        };
        self.tell(id, &call, What::Hangup { cause }, "hangup", at);
        if self.explains {
            let leg = id.as_str().to_owned();
            self.outputs
                .push_back(Output::Note { leg, text: format!("the call ended with {cause}: {because}") });
        }
        if let Some(family) = self.families.get_mut(&call.family) {
            family.calls.retain(|c| c != id);
        }
        self.changed.insert(call.family);
        self.bury_if_over(call.family, at);
    }

    /// Who is connected through this leg now, and whether that is news.
    fn connections_of(&mut self, key: LegKey, event: &Event, at: UnixMillis) {
        self.mailbox_on(key, event, at);
        for (a, b) in self.connected(key) {
            for (party, person) in [(a, b), (b, a)] {
                self.met(party, person, at);
            }
        }
    }

    /// Pairs of real legs that hear each other because of this one.
    fn connected(&mut self, key: LegKey) -> Vec<(LegKey, LegKey)> {
        let mut pairs = Vec::new();
        if let Some(peer) = self.legs[&key].peer {
            let (a, b) = (self.far_end(peer, key), self.far_end(key, peer));
            pairs.extend(a.zip(b));
        }
        if let Some(members) = self.legs[&key].room.as_ref().and_then(|room| self.rooms.get(room)) {
            pairs.extend(members.iter().filter(|k| **k != key).map(|k| (key, *k)));
        }
        pairs.retain(|(a, b)| {
            let (a, b) = (&self.legs[a], &self.legs[b]);
            let mailbox = a.mailbox || b.mailbox;
            mailbox || (a.answered && b.answered && a.side != Side::Plumbing && b.side != Side::Plumbing)
        });
        pairs
    }

    /// From `from` over `to` on, through loopback pairs, to the leg at the other end. A mailbox is an end.
    fn far_end(&self, from: LegKey, to: LegKey) -> Option<LegKey> {
        let (mut from, mut to) = (from, to);
        for _ in 0..HOPS_MAX {
            let leg = &self.legs[&to];
            if leg.side != Side::Plumbing || leg.mailbox {
                return Some(to);
            }
            // Into one half and out of the other, to whatever that is bridged with.
            let twin = leg.twin.filter(|t| *t != from)?;
            let beyond = self.legs.get(&twin)?.peer?;
            (from, to) = (twin, beyond);
        }
        None
    }

    /// An outside party and another leg hear each other.
    fn met(&mut self, party: LegKey, other: LegKey, at: UnixMillis) {
        let Some(id) = self.legs[&party].party_of.clone() else { return };
        let Some(call) = self.calls.get(&id) else { return };
        let person = &self.legs[&other];
        if person.mailbox {
            if self.legs[&party].answered {
                self.mailbox_answered(&id, at);
            }
            return;
        }
        // Two callers who are put together are no answer to either.
        let is_caller = |c: &CallId| self.calls.get(c).is_some_and(|c| c.direction == Direction::In);
        if person.party_of.as_ref().is_some_and(|c| *c == id || is_caller(c)) {
            return;
        }
        let number = match person.side {
            Side::Ours => self
                .settings
                .people
                .agent(&person.number, person.domain.as_deref())
                .and_then(|a| a.number.clone())
                .unwrap_or_else(|| person.number.clone()),
            Side::Outside | Side::Plumbing => person.number.clone(),
        };
        let user = self
            .settings
            .people
            .agent(&person.number, person.domain.as_deref())
            .and_then(|a| a.user.clone())
            .unwrap_or_else(|| person.number.clone());
        let leg = person.id.clone();
        if call.answered_by.contains(&leg) || call.answered_by.len() >= ANSWERS_MAX {
            return;
        }
        if call.direction == Direction::Out && !call.answered_by.is_empty() {
            return self.note(other, || format!("joins call {id}; an outbound call is answered once"));
        }
        if call.last_answer.as_ref() == Some(&number) {
            return self.note(other, || format!("joins call {id}; the same person had answered it"));
        }
        let what = match call.direction {
            Direction::In => What::Answer { answering_number: Some(number.clone()), user: Some(user) },
            Direction::Out => What::Answer { answering_number: None, user: None },
        };
        self.answer(&id, leg, number, what, at);
    }

    fn mailbox_answered(&mut self, id: &CallId, at: UnixMillis) {
        let Some(call) = self.calls.get(id) else { return };
        if call.direction == Direction::In && !call.answered_by.iter().any(|a| a == VOICEMAIL) {
            let what = What::Answer { answering_number: None, user: Some(VOICEMAIL.into()) };
            self.answer(id, VOICEMAIL.into(), VOICEMAIL.into(), what, at);
        }
    }

    fn answer(&mut self, id: &CallId, leg: String, number: String, what: What, at: UnixMillis) {
        let call = self.calls.get(id).expect("the caller looked it up").clone();
        self.tell(id, &call, what, &format!("answer/{leg}"), at);
        let call = self.calls.get_mut(id).expect("as above");
        call.answered_by.push(leg);
        call.last_answer = Some(number);
        self.changed.insert(call.family);
    }

    /// The mailbox that runs on the caller's own leg shows in the application that the leg executes.
    fn mailbox_on(&mut self, key: LegKey, event: &Event, at: UnixMillis) {
        let leg = &self.legs[&key];
        if !leg.answered || !event.is("Unique-ID", &leg.id) {
            return;
        }
        let Some(id) = leg.party_of.clone() else { return };
        let arguments = event.get("variable_current_application_data").unwrap_or_default();
        let leaves_message = match &*event.get("variable_current_application").unwrap_or_default() {
            // Someone who checks their own mailbox from outside leaves no message.
            "voicemail" => !arguments.starts_with("check") && !arguments.starts_with("auth"),
            "lua" => arguments.ends_with(" voicemail"),
            _ => false,
        };
        if leaves_message || event.is("variable_send_to_voicemail", "true") {
            self.mailbox_answered(&id, at);
        }
    }

    fn tell(&mut self, id: &CallId, call: &Call, what: What, identity: &str, at: UnixMillis) {
        let event = Told {
            call_id: id.clone(),
            direction: call.direction,
            from: call.from.clone(),
            to: call.to.clone(),
            what,
        };
        let answered = !call.answered_by.is_empty();
        self.outputs.push_back(Output::News(News { id: format!("{id}/{identity}"), event, at, answered }));
    }

    fn note(&mut self, key: LegKey, text: impl FnOnce() -> String) {
        if self.explains {
            let leg = self.legs[&key].id.clone();
            self.outputs.push_back(Output::Note { leg, text: text() });
        }
    }

    fn part(&mut self, key: LegKey) {
        if let Some(peer) = self.leg_mut(key).peer.take()
            && let Some(other) = self.legs.get_mut(&peer)
        {
            other.peer = None;
            self.changed.insert(other.family);
        }
    }

    fn leave_room(&mut self, key: LegKey) {
        let Some(room) = self.leg_mut(key).room.take() else { return };
        if let Some(members) = self.rooms.get_mut(&room) {
            members.retain(|k| *k != key);
            if members.is_empty() {
                self.rooms.remove(&room);
            }
        }
    }

    fn leg_mut(&mut self, key: LegKey) -> &mut Leg {
        let leg = self.legs.get_mut(&key).expect("a key in use names a leg");
        self.changed.insert(leg.family);
        leg
    }

    fn is_alive(&self, family: &Family) -> bool {
        !family.calls.is_empty()
            || family.legs.iter().any(|k| self.legs.get(k).is_some_and(|l| l.ended.is_none()))
    }

    fn bury_if_over(&mut self, key: FamilyKey, at: UnixMillis) {
        if self.families.get(&key).is_some_and(|family| !self.is_alive(family)) {
            self.buried.push_back((at, key));
            self.changed.insert(key);
        }
    }

    fn forget(&mut self, key: FamilyKey) {
        if self.families.get(&key).is_none_or(|family| self.is_alive(family)) {
            return; // a late leg brought it back to life
        }
        let family = self.families.remove(&key).expect("looked up above");
        for leg in family.legs {
            if let Some(gone) = self.legs.remove(&leg)
                && self.by_id.get(&gone.id) == Some(&leg)
            {
                self.by_id.remove(&gone.id);
            }
        }
        self.changed.insert(key);
    }

    /// However many legs never end, memory does not grow beyond its bound.
    fn bound(&mut self, at: UnixMillis) {
        while self.legs.len() > LEGS_MAX
            && let Some((key, family)) = self.families.first_key_value()
        {
            let (key, legs) = (*key, family.legs.clone());
            for leg in legs {
                self.leg_ended(leg, &Witness::default(), at);
            }
            self.forget(key);
        }
    }
}

const HOPS_MAX: usize = 16;

enum Sponsor {
    /// It was made within this call.
    Call(CallId),
    /// One of our people made it, of their own accord.
    Person(LegKey),
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

/// A leg's Unique-ID names its call, unless an application chose it: such a name can return in a later call.
fn call_id(leg: &str, created: UnixMillis) -> CallId {
    let is_uuid = leg.len() == 36 && leg.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if is_uuid {
        return CallId::new(leg);
    }
    let end = leg.char_indices().nth(200).map_or(leg.len(), |(end, _)| end);
    CallId::new(&format!("{}-{}", &leg[..end], created.0))
}

/// Whether two dialled numbers lead to the same subscriber, written for different trunks.
fn same_subscriber(a: &str, b: &str) -> bool {
    const SUBSCRIBER: usize = 7;
    a == b
        || (a.len() >= SUBSCRIBER
            && b.len() >= SUBSCRIBER
            && a.get(a.len() - SUBSCRIBER..) == b.get(b.len() - SUBSCRIBER..))
}
