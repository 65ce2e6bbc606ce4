//! What follows from an answer: done, again, healed, looked up, given up.

use super::{ATTEMPTS_MAX, Fate, Output, STORY_MAX, Schedule};
use crate::cti::event::{CallId, What};
use crate::cti::reply::{
    Done, Outcome, Verdict, blames_configuration, judge_probe, refused_alike, unknown_words,
};
use crate::queue::breaker::Link;
use crate::queue::line::{Item, Step};
use crate::time::UnixMillis;

impl Schedule {
    /// The probe's answer, and with it the verdict on events that were refused in unknown words.
    pub(super) fn judge_probe(&mut self, outcome: &Outcome, now: UnixMillis) -> Verdict {
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
            if blames_configuration(&said, outcome) {
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
    pub(super) fn suspect(&mut self, id: &CallId, seq: u64, step: Step, words: String, now: UnixMillis) {
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
    pub(super) fn acquit(&mut self, id: &CallId, seq: u64, now: UnixMillis) {
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

    pub(super) fn is_first(&self, id: &CallId, seq: u64) -> bool {
        self.lines.get(id).and_then(|l| l.items.front()).is_some_and(|first| first.seq == seq)
    }

    pub(super) fn mind_link(&mut self, verdict: &Verdict, now: UnixMillis) {
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

    pub(super) fn say_link(&mut self, before: &Link) {
        if self.breaker.link() != before {
            self.outputs.push_back(Output::Link(self.breaker.link().clone()));
        }
    }

    pub(super) fn posted(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
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
            Verdict::Unsure(why) if item.is_unrepeatable() => self.unsure(id, why, now),
            Verdict::Unsure(why) => self.again(id, &why, now),
            Verdict::Away { .. } | Verdict::Misconfigured(_) => self.unsent(id, item, now),
            Verdict::Refused(why) => {
                // Not processed: a replay may send it like any other.
                if item.is_unrepeatable() {
                    self.outputs.push_back(Output::Unguard { seq: item.seq });
                }
                self.finish(id, Fate::Dead(why), now);
            }
        }
    }

    /// The newCall of a call that Zammad seemed not to know was posted again.
    pub(super) fn healed(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
        match verdict {
            // The row was there all along: what failed was the event itself, perhaps after it was saved.
            Verdict::Done(Done::AlreadyKnown) if item.is_unrepeatable() => {
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
                if item.is_unrepeatable() {
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
    pub(super) fn restored(&mut self, id: &CallId, item: &Item, verdict: Verdict, now: UnixMillis) {
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
    pub(super) fn unsure(&mut self, id: &CallId, why: String, now: UnixMillis) {
        if self.settings.can_look {
            self.line(id).step = Step::MustLook;
            self.requeue(id, now);
        } else {
            self.finish(id, Fate::Ambiguous(why), now);
        }
    }

    /// Surely not processed: it goes again as if it had never been sent.
    pub(super) fn unsent(&mut self, id: &CallId, item: &Item, now: UnixMillis) {
        self.counters.repeated += 1;
        if item.is_unrepeatable() {
            self.outputs.push_back(Output::Unguard { seq: item.seq });
        }
        self.requeue(id, now);
    }

    /// It failed and may be repeated, a bounded number of times.
    pub(super) fn again(&mut self, id: &CallId, why: &str, now: UnixMillis) {
        if self.retell(id, why, Last::Dead, now) {
            self.requeue(id, now);
        }
    }

    /// Counts a failure on a line, adds it to the story and sets the wait. Whether the event lives on.
    pub(super) fn retell(&mut self, id: &CallId, why: &str, last: Last, now: UnixMillis) -> bool {
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
}

/// What an event becomes that has failed for the last time.
pub(super) enum Last {
    Dead,
    Ambiguous,
}
