//! Whether Zammad can be reached: asked once for all events, by a probe that changes nothing. Pure.
//!
//! ```text
//!            an event failed                 probe: well
//!    Up ──────────────────────▶ Up, doubted ─────────────▶ Up
//!     │ surely unreachable          │ probe: not well
//!     ▼                             ▼
//!   Away / Misconfigured ◀──────────┘      probe after a growing wait; when it is well, Up with width 1
//! ```
//!
//! A refusal in words nobody knows makes doubt too: the probe's answer shows whose fault it is. While there is
//! doubt nothing else is posted. Width is how many requests may be in flight: one after an
//! outage, one more with each success, so that nothing storms a Zammad that has just come back.

use std::time::Duration;

use super::backoff::Backoff;
use crate::time::UnixMillis;

/// Wait between probes while only a person can help; less where no wait may be so long.
const MISCONFIGURED_WAIT: Duration = Duration::from_secs(30);

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

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    link: Link,
    probe: Probe,
    width: usize,
    width_max: usize,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Unneeded,
    At(UnixMillis, u32),
    InFlight(u32),
}

impl Breaker {
    pub(super) const fn new(width_max: usize, backoff: Backoff) -> Self {
        Self { link: Link::Up, probe: Probe::Unneeded, width: 1, width_max, backoff }
    }

    /// Other settings; what is known of the link stays.
    pub(super) fn set(&mut self, width_max: usize, backoff: Backoff) {
        (self.width_max, self.backoff) = (width_max, backoff);
        self.width = self.width.min(width_max);
    }

    /// Zammad is to be reached in another way: ask at once whether it can be.
    pub(super) fn ask_anew(&mut self, now: UnixMillis) {
        match self.probe {
            Probe::Unneeded => self.probe = Probe::At(now, 0),
            Probe::At(_, failures) => self.probe = Probe::At(now, failures),
            // Its answer is about the old way; the next one follows it as after any failure.
            Probe::InFlight(_) => {}
        }
    }

    pub(super) const fn link(&self) -> &Link {
        &self.link
    }

    /// How many requests may be in flight now; none while there is doubt.
    pub(super) fn width(&self) -> usize {
        if self.link == Link::Up && self.probe == Probe::Unneeded { self.width } else { 0 }
    }

    /// When a probe is due, if one is waited for.
    pub(super) const fn probe_due(&self) -> Option<UnixMillis> {
        match self.probe {
            Probe::At(due, _) => Some(due),
            Probe::Unneeded | Probe::InFlight(_) => None,
        }
    }

    /// Takes the probe that is due; it is in flight from here on.
    pub(super) fn take_probe(&mut self, now: UnixMillis) -> bool {
        match self.probe {
            Probe::At(due, failures) if due <= now => {
                self.probe = Probe::InFlight(failures);
                true
            }
            Probe::At(..) | Probe::Unneeded | Probe::InFlight(_) => false,
        }
    }

    /// A post went well.
    pub(super) fn widen(&mut self) {
        self.width = (self.width + 1).min(self.width_max);
    }

    /// A post failed in a way that may be its own fault: ask at once whether Zammad is well otherwise.
    pub(super) fn doubt(&mut self, now: UnixMillis) {
        if self.probe == Probe::Unneeded {
            self.probe = Probe::At(now, 0);
        }
    }

    /// A post surely did not reach Zammad.
    pub(super) fn away(&mut self, why: String, after: Option<Duration>, dice: f64, now: UnixMillis) {
        if self.probe == Probe::Unneeded {
            self.fail(after, 0, dice, now);
        }
        self.link = Link::Away { why, since: self.since(now) };
    }

    /// Only a person can help.
    pub(super) fn misconfigured(&mut self, why: String, now: UnixMillis) {
        self.probe = Probe::At(now.after(MISCONFIGURED_WAIT.min(self.backoff.max)), 1);
        self.link = Link::Misconfigured { why, since: self.since(now) };
    }

    /// The probe was answered as it should.
    pub(super) fn probe_went_well(&mut self) {
        if self.link != Link::Up {
            self.width = 1;
        }
        self.link = Link::Up;
        self.probe = Probe::Unneeded;
    }

    /// The probe failed too.
    pub(super) fn probe_failed(&mut self, why: String, after: Option<Duration>, dice: f64, now: UnixMillis) {
        let failures = match self.probe {
            Probe::InFlight(failures) | Probe::At(_, failures) => failures,
            Probe::Unneeded => 0,
        };
        self.fail(after, failures, dice, now);
        self.link = Link::Away { why, since: self.since(now) };
    }

    fn fail(&mut self, after: Option<Duration>, failures: u32, dice: f64, now: UnixMillis) {
        let wait = self.backoff.wait(failures + 1, dice).max(after.unwrap_or_default());
        self.probe = Probe::At(now.after(wait), failures + 1);
    }

    const fn since(&self, now: UnixMillis) -> UnixMillis {
        match self.link {
            Link::Up => now,
            Link::Away { since, .. } | Link::Misconfigured { since, .. } => since,
        }
    }
}
