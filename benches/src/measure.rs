//! Paired runs and what is said of them. Machines are noisy, so nothing is claimed but ratios of runs that stood
//! beside each other.

use std::fmt;
use std::time::Duration;

use freeswitch_zammad::edge::clock;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// As the table says.
    Full,
    /// So little that it says only that the benches run.
    Quick,
}

impl Size {
    pub(crate) fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) against: &'static str,
    pub(crate) goal: String,
    pub(crate) result: String,
    /// `None` where the goal is to state it.
    pub(crate) met: Option<bool>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "stated",
        };
        write!(f, "| {} | {} | {} | {} | {met} |", self.what, self.against, self.goal, self.result)
    }
}

/// Numbers of one kind, to be looked at together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The value below which this part of all lie.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((part * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// Median, least and greatest.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, mid, high) = (self.at(0.0), self.median(), self.at(1.0));
        write!(f, "{mid:.2} ({low:.2}–{high:.2}, n={})", self.0.len())
    }
}

/// How long `work` takes.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = clock::monotonic();
    let done = work();
    (begun.elapsed(), done)
}

/// How many times as long `theirs` takes as `ours`, run in turns; who goes first changes each time.
pub(crate) fn in_turns(
    rounds: usize,
    mut ours: impl FnMut(usize) -> Duration,
    mut theirs: impl FnMut(usize) -> Duration,
) -> Sample {
    let mut ratios = Sample::default();
    for round in 0..rounds {
        let (a, b) = if round % 2 == 0 {
            let a = ours(round);
            (a, theirs(round))
        } else {
            let b = theirs(round);
            (ours(round), b)
        };
        ratios.add(b.as_secs_f64() / a.as_secs_f64());
    }
    ratios
}
