//! How calls begin, are answered and end. Every word that goes to Zammad is said here.
//!
//! A call is opened by its first outside leg, told an answer for each new person on our side, and ended once.
//! Nothing is said of a call that is not open, so nothing follows its hangup.

use super::witness::Witness;
use super::{Tracker, call_id};
use crate::call::cause::{Because, Ending};
use crate::call::kin::Sponsor;
use crate::call::leg::{Created, Side, Way};
use crate::call::model::{Call, Leg, LegKey};
use crate::call::number::same_subscriber;
use crate::call::people::Agent;
use crate::call::route::{Facts, choose};
use crate::call::tracker::{FAILOVER_MAX, News, Output};
use crate::cti::event::{CallId, Direction, Event as Told, VOICEMAIL, What};
use crate::esl::event::Event;
use crate::time::UnixMillis;

/// Most answers of one call that are told.
const ANSWERS_MAX: usize = 100;
/// Most unknown causes that are said to be so.
const STRANGE_MAX: usize = 100;

/// Who calls whom, as a call begins.
struct Beginning {
    direction: Direction,
    from: String,
    to: String,
    /// Our leg that dials.
    dialler: Option<LegKey>,
    /// The agent who wished it.
    user: Option<String>,
    queue: Option<String>,
    /// The Zammad that a route names.
    zammad: Option<String>,
    internal: bool,
}

impl Tracker {
    /// Opens the call that begins with a leg, or finds the one it belongs to.
    pub(super) fn place(&mut self, key: LegKey, created: &Created, at: UnixMillis) {
        let Some(leg) = self.book.leg(key) else { return };
        match (leg.side, leg.way, self.book.sponsor(key)) {
            (Side::Outside, Way::Inbound, _) => {
                let from = leg.number.clone();
                let to = self.settings.country.normalise(created.called_number());
                let named = self.settings.people.queue(&to).map(str::to_owned);
                // `support@default`: the domain is the callcenter's affair.
                let queue = named.or_else(|| {
                    created.queue.as_deref().map(|queue| queue.split('@').next().unwrap_or(queue).to_owned())
                });
                let zammad = self.route(Facts::of(created, None, &to));
                let beginning = Beginning {
                    direction: Direction::In,
                    from,
                    to,
                    dialler: None,
                    user: None,
                    queue,
                    zammad,
                    internal: false,
                };
                self.open(key, beginning, at);
            }
            (Side::Outside, Way::Outbound, None) => match self.book.person_near(key) {
                Some(dialler) => self.dialled_out(key, dialler, created, at),
                // Somebody's call is sent on by it; whose was never heard, and is over.
                None if self.is_made_by_unheard(key, created) => {
                    self.note(key, || "nothing is sent: what it was made for was not heard".into());
                }
                None => self.dialled_by_program(key, created, at),
            },
            (Side::Outside, Way::Outbound, Some(Sponsor::Person(dialler))) => {
                self.dialled_out(key, dialler, created, at);
            }
            (_, _, Some(Sponsor::Call(call))) => {
                self.note(key, || format!("it belongs to call {call}: nothing is sent"));
                if let Some(leg) = self.book.leg_mut(key) {
                    leg.within = Some(call);
                }
            }
            (Side::Ours, Way::Outbound, Some(Sponsor::Person(dialler))) => {
                self.dialled_inside(key, dialler, created, at)
            }
            (Side::Ours, _, None | Some(Sponsor::Person(_))) => {
                self.note(key, || "nothing is sent: a call begins when it reaches the outside".into());
            }
            (Side::Plumbing, _, None | Some(Sponsor::Person(_))) => {}
        }
    }

    /// It names a maker, so no program made it; but that one was never heard of, or is a helper of the switch whose own
    /// maker was not.
    fn is_made_by_unheard(&self, key: LegKey, created: &Created) -> bool {
        match self.book.leg(key).and_then(|leg| leg.originator) {
            Some(maker) => self.book.leg(maker).is_some_and(|m| m.hearsay && m.side == Side::Plumbing),
            None => !created.ties.is_empty(),
        }
    }

    /// One of our people dials out: a new call, or a further trunk for the one that is being tried.
    fn dialled_out(&mut self, key: LegKey, dialler: LegKey, created: &Created, at: UnixMillis) {
        let (Some(leg), Some(person)) = (self.book.leg(key), self.book.leg(dialler)) else { return };
        let to = leg.number.clone();
        let agent = self.agent(person);
        let from = agent.and_then(|a| a.number.clone()).unwrap_or_else(|| person.number.clone());
        let user = agent.and_then(|a| a.user.clone());
        let zammad = self.route(Facts::of(created, person.domain.as_deref(), &from));
        let tried = self.book.dialled_by(dialler).into_iter().find(|id| {
            self.book.call(id).is_some_and(|call| {
                !call.internal
                    && call.direction == Direction::Out
                    && call.answered_by.is_empty()
                    && same_subscriber(&call.to, &to)
            })
        });
        if let Some(id) = tried {
            self.note(key, || format!("a further attempt of call {id}: nothing is sent"));
            self.book.wait_no_longer(&id);
            if let Some(call) = self.book.call_mut(&id) {
                call.parties.push(key);
            }
            if let Some(leg) = self.book.leg_mut(key) {
                leg.party_of = Some(id);
            }
            return;
        }
        // Another number: what was tried before is over.
        self.end_waiting_of(dialler, at);
        let beginning = Beginning {
            direction: Direction::Out,
            from,
            to,
            dialler: Some(dialler),
            user,
            queue: None,
            zammad,
            internal: false,
        };
        self.open(key, beginning, at);
    }

    /// Nobody of ours dialled: a program did. If it says for whom, the call is theirs.
    fn dialled_by_program(&mut self, key: LegKey, created: &Created, at: UnixMillis) {
        let Some(leg) = self.book.leg(key) else { return };
        let to = leg.number.clone();
        let wish = created.wished_by();
        let agent =
            wish.and_then(|(user, domain)| self.settings.people.agent(user, domain.as_deref())).cloned();
        let shown = || self.settings.country.normalise(created.caller.as_deref().unwrap_or_default());
        let from = match (&agent, wish) {
            (Some(Agent { number: Some(number), .. }), _) => number.clone(),
            (_, Some((user, _))) => user.clone(),
            (_, None) => shown(),
        };
        let domain = wish.and_then(|(_, domain)| domain.as_deref());
        let zammad = self.route(Facts::of(created, domain, &from));
        let beginning = Beginning {
            direction: Direction::Out,
            from,
            to,
            dialler: None,
            user: agent.and_then(|a| a.user),
            queue: None,
            zammad,
            internal: false,
        };
        self.open(key, beginning, at);
    }

    /// One of our people calls another. Told only on request, as a call of the one who dialled: as an inbound one it
    /// would be a missed customer whenever a colleague does not answer.
    fn dialled_inside(&mut self, key: LegKey, dialler: LegKey, created: &Created, at: UnixMillis) {
        let Some(person) = self.book.leg(dialler) else { return };
        if !self.settings.internal {
            return self.note(key, || {
                "nothing is sent: one of our people calls another, and internal calls are not told".into()
            });
        }
        if let Some(id) = person.calls_inside.clone() {
            self.note(key, || format!("it is rung by the internal call {id}: nothing is sent"));
            if let Some(leg) = self.book.leg_mut(key) {
                leg.within = Some(id);
            }
            return;
        }
        if person.within.is_some() || person.ended.is_some() || !self.book.dialled_by(dialler).is_empty() {
            return self
                .note(key, || "its caller takes part in another call, or is gone: nothing is sent".into());
        }
        let agent = self.agent(person);
        let from = agent.and_then(|a| a.number.clone()).unwrap_or_else(|| person.number.clone());
        let user = agent.and_then(|a| a.user.clone());
        let zammad = self.route(Facts::of(created, person.domain.as_deref(), &from));
        let rung = self.book.leg(key).map(|leg| leg.number.clone()).unwrap_or_default();
        let beginning = Beginning {
            direction: Direction::Out,
            from,
            to: person.dialled.clone().unwrap_or(rung),
            dialler: Some(dialler),
            user,
            queue: None,
            zammad,
            internal: true,
        };
        self.open(dialler, beginning, at);
        let id = self.book.leg(dialler).and_then(|leg| leg.calls_inside.clone());
        if let Some(leg) = self.book.leg_mut(key) {
            leg.within = id;
        }
    }

    fn open(&mut self, key: LegKey, beginning: Beginning, at: UnixMillis) {
        let Some(leg) = self.book.leg(key) else { return };
        if leg.party_of.is_some() || leg.calls_inside.is_some() {
            return; // the same leg, judged again
        }
        let id = call_id(leg);
        if self.book.call(&id).is_some() {
            return; // two legs of one id, which no switch has
        }
        let Beginning { direction, from, to, dialler, user, queue, zammad, internal } = beginning;
        let call = Call {
            family: leg.family,
            direction,
            from,
            to,
            zammad,
            internal,
            dialler,
            parties: if internal { Vec::new() } else { vec![key] },
            answered_by: Vec::new(),
            last_answer: None,
            tried: None,
            ends_at: None,
            failed: None,
            gave_up: false,
        };
        self.note(key, || {
            let kind = match (internal, direction) {
                (true, _) => "an internal call",
                (false, Direction::In) => "an inbound call",
                (false, Direction::Out) => "an outbound call",
            };
            format!("{kind} begins, {} calls {}: newCall is sent", call.from, call.to)
        });
        if let Some(leg) = self.book.leg_mut(key) {
            let part = if internal { &mut leg.calls_inside } else { &mut leg.party_of };
            *part = Some(id.clone());
        }
        self.tell(&id, &call, What::NewCall { user, queue }, "newCall", at);
        self.book.open(&id, call);
    }

    pub(super) fn leg_ended(&mut self, key: LegKey, witness: &Witness, at: UnixMillis) {
        let Some(leg) = self.book.leg(key).filter(|leg| leg.ended.is_none()) else { return };
        let (party_of, within) = (leg.party_of.clone(), leg.within.clone());
        let dialled = self.book.dialled_by(key);
        self.book.close(key, at);
        let strange = !witness.cause.is_empty() && !self.settings.causes.knows(&witness.cause);
        if strange && self.strange.len() < STRANGE_MAX && self.strange.insert(witness.cause.clone()) {
            self.outputs.push_back(Output::UnknownCause(witness.cause.clone()));
        }
        if let Some(call) = party_of {
            self.party_ended(&call, key, witness, at);
        } else if let Some(cause) = self.settings.causes.telling(&witness.cause)
            && let Some(call) = within.and_then(|id| self.book.call_mut(&id))
        {
            call.tried = Some(cause);
        }
        self.dialler_ended(dialled, witness, at);
        if !self.has_noted() {
            self.note(key, || format!("nothing is sent: no call ends with this leg ({})", witness.cause));
        }
    }

    /// An outside leg of a call ended. Inbound, and once answered, that is the call's end.
    fn party_ended(&mut self, id: &CallId, key: LegKey, witness: &Witness, at: UnixMillis) {
        let Some(call) = self.book.call_mut(id) else { return };
        call.parties.retain(|k| *k != key);
        if !call.parties.is_empty() {
            return self.note(key, || format!("nothing is sent: call {id} goes on with another leg"));
        }
        let telling = self.settings.causes.telling(&witness.cause);
        let (direction, gave_up) = (call.direction, call.gave_up);
        let may_go_on = direction == Direction::Out && call.answered_by.is_empty() && !witness.lost_race();
        if may_go_on && call.dialler.is_some_and(|dialler| self.book.is_up(dialler)) {
            if let Some(call) = self.book.call_mut(id) {
                call.failed = telling;
            }
            self.note(key, || format!("nothing is sent yet: another trunk may be tried for call {id}"));
            self.book.wait(id, at.after(FAILOVER_MAX));
            return;
        }
        let mut ending = witness.ending();
        if direction == Direction::Out {
            ending.caller_gave_up |= gave_up || witness.lost_race();
            // What the trunk said came before our side gave up on it.
            if telling.is_some() {
                ending.caller_gave_up = false;
            }
        }
        self.end(id, &ending, at);
    }

    /// Our dialling leg ended: calls that waited for another trunk are over, and so are its internal ones.
    fn dialler_ended(&mut self, dialled: Vec<CallId>, witness: &Witness, at: UnixMillis) {
        for id in dialled {
            let Some(call) = self.book.call_mut(&id) else { continue };
            call.gave_up |= witness.hung_up_first;
            if !call.parties.is_empty() {
                continue;
            }
            let ending = if call.internal {
                witness.ending()
            } else {
                Ending {
                    caller_gave_up: witness.hung_up_first,
                    disposition: witness.disposition.clone(),
                    ..Ending::default()
                }
            };
            self.end(&id, &ending, at);
        }
    }

    /// Our leg goes on to something else: what it tried before is over.
    pub(super) fn end_waiting_of(&mut self, dialler: LegKey, at: UnixMillis) {
        for id in self.book.dialled_by(dialler) {
            if self.book.call(&id).is_some_and(|call| call.ends_at.is_some()) {
                self.end(&id, &Ending::default(), at);
            }
        }
    }

    pub(super) fn end(&mut self, id: &CallId, ending: &Ending, at: UnixMillis) {
        let Some(call) = self.book.finish(id) else { return };
        let mut ending =
            Ending { answered: !call.answered_by.is_empty(), tried: call.tried, ..ending.clone() };
        let (cause, because) = match call.failed.filter(|_| !ending.answered) {
            Some(failed) => (failed, Because::OwnCause),
            None => {
                ending.caller_gave_up |= call.gave_up && ending.own.is_empty();
                self.settings.causes.judge(&ending)
            }
        };
        self.note_on(id.as_str(), || {
            let own = Some(&ending.own).filter(|own| !own.is_empty());
            let leg = own.map(|own| format!(" (its leg ended with {own})")).unwrap_or_default();
            format!("the call is over{leg}; {because}: hangup is sent with {cause}")
        });
        self.tell(id, &call, What::Hangup { cause }, "hangup", at);
    }

    /// Who is connected through this leg now, and whether that is news.
    pub(super) fn connections_of(&mut self, key: LegKey, event: &Event, at: UnixMillis) {
        self.mailbox_on(key, event, at);
        let pairs = self.book.connected(key);
        if pairs.is_empty() {
            self.note(key, || "nothing is sent: it is connected to nobody who has answered".into());
        }
        for (a, b) in pairs {
            self.met(a, b, at);
            self.met(b, a, at);
        }
        if !self.has_noted() {
            self.note(key, || "nothing is sent: nobody new is connected to an outside party".into());
        }
    }

    /// An outside party and another leg hear each other.
    fn met(&mut self, party: LegKey, other: LegKey, at: UnixMillis) {
        let (Some(leg), Some(person)) = (self.book.leg(party), self.book.leg(other)) else { return };
        let Some(id) = leg.party_of.clone().or_else(|| leg.calls_inside.clone()) else { return };
        let Some(call) = self.book.call(&id) else { return };
        if person.mailbox {
            if leg.answered {
                self.mailbox_answered(&id, at);
            }
            return;
        }
        if call.internal && person.side != Side::Ours {
            return;
        }
        // Two callers who are put together are no answer to either, nor is the other trunk of one call.
        let is_caller = person.side == Side::Outside && person.way == Way::Inbound;
        if is_caller || person.party_of.as_ref() == Some(&id) {
            return self.note(other, || format!("it is no person of ours to call {id}: nothing is sent"));
        }
        let agent = self.agent(person);
        let number = agent.and_then(|a| a.number.clone()).unwrap_or_else(|| person.number.clone());
        let user = agent.and_then(|a| a.user.clone()).unwrap_or_else(|| person.number.clone());
        let answering = person.id.clone();
        if call.answered_by.contains(&answering) {
            return self.note(other, || format!("it had answered call {id} before: nothing is sent"));
        }
        if call.answered_by.len() >= ANSWERS_MAX {
            return;
        }
        if call.direction == Direction::Out && !call.answered_by.is_empty() {
            return self.note(other, || {
                format!("it joins call {id}; an outbound call is answered once: nothing is sent")
            });
        }
        if call.last_answer.as_ref() == Some(&number) {
            return self.note(other, || {
                format!("it joins call {id}; the same person had answered it: nothing is sent")
            });
        }
        let what = match call.direction {
            Direction::In => What::Answer { answering_number: Some(number.clone()), user: Some(user) },
            Direction::Out => What::Answer { answering_number: None, user: None },
        };
        self.note(other, || format!("it answers call {id}: answer is sent"));
        self.answer(&id, party, answering, number, what, at);
    }

    fn mailbox_answered(&mut self, id: &CallId, at: UnixMillis) {
        let Some(call) = self.book.call(id) else { return };
        if call.direction == Direction::In && !call.answered_by.iter().any(|a| a == VOICEMAIL) {
            let Some(party) = call.parties.first().copied() else { return };
            self.note(party, || format!("the mailbox takes call {id}: answer is sent as voicemail"));
            let what = What::Answer { answering_number: None, user: Some(VOICEMAIL.into()) };
            self.answer(id, party, VOICEMAIL.into(), VOICEMAIL.into(), what, at);
        }
    }

    fn answer(
        &mut self,
        id: &CallId,
        party: LegKey,
        leg: String,
        number: String,
        what: What,
        at: UnixMillis,
    ) {
        let Some(call) = self.book.call(id).cloned() else { return };
        self.tell(id, &call, what, &format!("answer/{leg}"), at);
        if let Some(call) = self.book.call_mut(id) {
            call.answered_by.push(leg);
            call.last_answer = Some(number);
            // Of several trunks that were tried at once this one was taken; the others are as good as gone.
            call.parties.retain(|k| *k == party);
        }
    }

    /// The mailbox that runs on the caller's own leg shows in the application that the leg executes.
    pub(super) fn mailbox_on(&mut self, key: LegKey, event: &Event, at: UnixMillis) {
        let Some(leg) = self.book.leg(key).filter(|leg| leg.answered) else { return };
        if !event.is("Unique-ID", &leg.id) {
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
        let (family, zammad) = (call.family, call.zammad.clone());
        self.outputs.push_back(Output::News(News {
            id: format!("{id}/{identity}"),
            event,
            family,
            zammad,
            at,
            answered,
            in_doubt: self.book.is_in_doubt(family),
        }));
    }

    fn route(&self, call: Facts<'_>) -> Option<String> {
        choose(&self.settings.routes, call).map(str::to_owned)
    }

    /// The agent at one of our legs. A mobile that takes a call is looked up too: it may be somebody's.
    fn agent(&self, person: &Leg) -> Option<&Agent> {
        self.settings.people.agent(&person.number, person.domain.as_deref())
    }
}
