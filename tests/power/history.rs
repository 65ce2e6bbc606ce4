//! What must be found after a power cut, given what the program had said by then.
//!
//! Held two ways. By the promises themselves, in words: what was accepted is there, once, in its place, and so on.
//! And, as long as one request came after the other, by a stronger rule: the store is byte for byte what it was
//! after one of them, not before the last that was said to be durable and not after the last that was made.

use std::collections::{BTreeMap, BTreeSet};

use super::look::{Contents, Place};
use super::{LAST, Told};

/// What was said until some moment.
#[derive(Clone)]
pub(crate) struct History {
    /// Events that may be there.
    asked: BTreeSet<Told>,
    /// Events that must be there, and where; `None` while they move.
    accepted: BTreeMap<Told, Option<u64>>,
    /// Events that were being brought back when the process died.
    untraced: BTreeSet<Told>,
    /// Events that were brought back from among the dead or delivered.
    moved: BTreeSet<Told>,
    /// Positions whose event may have been delivered, buried or trimmed.
    settling: BTreeSet<u64>,
    /// Positions whose event was said to be delivered.
    done: BTreeSet<u64>,
    /// Positions with an attempt that was begun.
    begun: BTreeSet<u64>,
    /// What the store held after each request that was answered.
    states: Vec<u64>,
    /// The first of `states` that may be found; the one that comes next may not be known yet.
    lowest: usize,
    /// Requests are made at once: what the store holds after each is not known.
    crowd: bool,
}

impl History {
    /// An empty store, or none yet.
    pub(crate) fn new() -> Self {
        Self {
            asked: BTreeSet::new(),
            accepted: BTreeMap::new(),
            untraced: BTreeSet::new(),
            moved: BTreeSet::new(),
            settling: BTreeSet::new(),
            done: BTreeSet::new(),
            begun: BTreeSet::new(),
            states: vec![Contents::none().digest],
            lowest: 0,
            crowd: false,
        }
    }

    /// Takes note of a moment.
    pub(crate) fn hear(&mut self, moment: &str) {
        let mut words = moment.split_ascii_whitespace();
        let word = words.next().unwrap();
        let answered = |word: &str| {
            let (told, seq) = word.split_once('@').unwrap();
            (Told::of(told), Some(seq.parse().unwrap()))
        };
        match word {
            // Another process: of what was just then brought back nobody will ever tell where it went.
            "phase" => self.untraced.extend(self.accepted.iter().filter(|a| a.1.is_none()).map(|a| *a.0)),
            "asking" => self.asked.extend(words.map(Told::of)),
            "accepted" | "revived" => {
                self.accepted.extend(words.map(answered));
                self.lowest = self.states.len();
            }
            "begun" => {
                self.begun.extend(words.map(|seq| seq.parse::<u64>().unwrap()));
                self.lowest = self.states.len();
            }
            "settled" => self.lowest = self.states.len(),
            "settling" => self.settling.extend(words.map(|seq| seq.parse::<u64>().unwrap())),
            "reviving" => {
                for told in words.map(Told::of) {
                    self.moved.insert(told);
                    // One that a process before had asked for, and died before the answer, is there all the same.
                    self.accepted.insert(told, None);
                }
            }
            "state" => {
                self.states.push(words.next().unwrap().parse().unwrap());
                self.lowest = self.states.len() - 1;
                self.crowd = false;
            }
            "crowd" => self.crowd = true,
            "done" => self.done.extend(words.map(|seq| seq.parse::<u64>().unwrap())),
            other => panic!("the child said {other}"),
        }
    }

    /// What is wrong with what was found, if anything. `next` is what the program said after the cut. A store
    /// that was `salvaged` holds what was accepted, but need not be what it was after some request.
    pub(crate) fn judge<'m>(
        &self,
        found: &Contents,
        salvaged: bool,
        next: impl Iterator<Item = &'m str>,
    ) -> Result<(), String> {
        let mut places = BTreeMap::new();
        for (seq, told, place) in &found.rows {
            if places.insert(*told, (*seq, *place)).is_some() {
                return Err(format!("{told:?} is there twice"));
            }
            if !self.asked.contains(told) {
                return Err(format!("{told:?} is there and nobody asked"));
            }
        }
        self.judge_rows(&places)?;
        self.judge_state(found, &places)?;
        let mut counted = [0; 3];
        for (_, _, place) in &found.rows {
            counted[match place {
                Place::Pending { .. } => 0,
                Place::Dead => 1,
                Place::Delivered => 2,
            }] += 1;
        }
        if counted != found.counts {
            return Err(format!("{counted:?} rows, but counts {:?}", found.counts));
        }
        if salvaged || self.crowd { Ok(()) } else { self.judge_whole(found, next) }
    }

    /// What was accepted is there, in its place.
    fn judge_rows(&self, places: &BTreeMap<Told, (u64, Place)>) -> Result<(), String> {
        for (told, accepted_at) in &self.accepted {
            match (accepted_at, places.get(told)) {
                (Some(at), None) if self.settling.contains(at) => {}
                (None, None) if self.untraced.contains(told) => {}
                (_, None) => return Err(format!("{told:?} at {accepted_at:?} is lost")),
                (Some(at), Some((seq, _))) if seq != at => {
                    return Err(format!("{told:?} was accepted at {at} and is at {seq}"));
                }
                (Some(at), Some((_, Place::Pending { attempted: false }))) if self.begun.contains(at) => {
                    return Err(format!("the attempt at {at} is lost"));
                }
                (Some(at), Some((_, Place::Pending { .. }))) if self.done.contains(at) => {
                    return Err(format!("the delivery of {told:?} at {at} is lost"));
                }
                (Some(at), Some((_, Place::Dead | Place::Delivered))) if !self.settling.contains(at) => {
                    return Err(format!("{told:?} at {at} is settled and nobody asked"));
                }
                (Some(_) | None, Some(_)) => {}
            }
        }
        // Of a call, a later step never stands before an earlier one, unless it was brought back.
        for ((earlier, (at, _)), (later, (then, _))) in places.iter().zip(places.iter().skip(1)) {
            if earlier.call == later.call && at > then && !self.moved.contains(earlier) {
                return Err(format!("{later:?} at {then} stands before {earlier:?} at {at}"));
            }
        }
        Ok(())
    }

    /// The state of each call is that of its last step: of none before, and of none that is not there.
    fn judge_state(&self, found: &Contents, places: &BTreeMap<Told, (u64, Place)>) -> Result<(), String> {
        let mut steps: BTreeMap<u64, u64> = BTreeMap::new();
        for told in places.keys().chain(self.accepted.keys()) {
            let step = steps.entry(told.call).or_insert(told.step);
            *step = told.step.max(*step);
        }
        steps.retain(|_, step| *step < LAST);
        if steps == found.state {
            return Ok(());
        }
        let wrong = steps.iter().find(|(call, step)| found.state.get(call) != Some(step));
        let wrong = wrong.or_else(|| found.state.iter().find(|(call, step)| steps.get(call) != Some(step)));
        let (call, step) = wrong.unwrap();
        Err(format!(
            "the state of call {call} (step {step}) does not go with its events: {:?}",
            found.state.get(call)
        ))
    }

    fn judge_whole<'m>(&self, found: &Contents, next: impl Iterator<Item = &'m str>) -> Result<(), String> {
        let mut may_be = self.states.get(self.lowest..).unwrap_or_default().to_vec();
        for moment in next {
            match moment.split_ascii_whitespace().collect::<Vec<_>>()[..] {
                // Between requests at once nothing more is known than was checked above.
                ["crowd"] => break,
                ["state", digest] => {
                    may_be.push(digest.parse().unwrap());
                    break;
                }
                _ => {}
            }
        }
        if may_be.contains(&found.digest) {
            return Ok(());
        }
        let earlier = self.states.iter().rposition(|state| *state == found.digest);
        Err(match earlier {
            Some(n) => format!("it is what it was {} requests ago", self.states.len() - 1 - n),
            None => "it is what it never was".to_owned(),
        })
    }
}
