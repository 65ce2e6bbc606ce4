//! How long the queue was, lately: for the plots of `top` and the page. In memory, bounded; a restart begins anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock;
use super::fleet::FleetState;
use crate::store::Store;
use crate::time::UnixMillis;

/// What one sample stands for.
pub const STEP: Duration = Duration::from_secs(10);
/// Most samples: two hours.
pub const SAMPLES_MAX: usize = 720;
/// How often the queue is looked at. A sample is the worst of its looks, so that no short outage is missed.
const LOOK: Duration = Duration::from_secs(1);

/// Shared with whoever shows it.
pub type History = Arc<Mutex<Samples>>;

/// The samples, oldest first.
#[derive(Debug, Default)]
pub struct Samples(VecDeque<Sample>);

/// The queue during one [`STEP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it began.
    pub at: UnixMillis,
    /// Most events that waited.
    pub waiting: u64,
    /// Longest that the oldest of them had waited, in seconds.
    pub oldest_s: u64,
}

impl Samples {
    /// The queue is so at this moment.
    pub fn note(&mut self, now: UnixMillis, waiting: u64, oldest_s: u64) {
        let step = u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX);
        let at = UnixMillis(now.0 - now.0 % step);
        match self.0.back_mut() {
            // A clock that was set back does not rewrite what was.
            Some(last) if last.at >= at => {
                last.waiting = last.waiting.max(waiting);
                last.oldest_s = last.oldest_s.max(oldest_s);
            }
            Some(_) | None => self.0.push_back(Sample { at, waiting, oldest_s }),
        }
        while self.0.len() > SAMPLES_MAX {
            self.0.pop_front();
        }
    }

    /// Those that began at `from` or later.
    pub fn since(&self, from: UnixMillis) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.at >= from)
    }
}

/// The samples, for a moment.
pub fn lock(history: &History) -> MutexGuard<'_, Samples> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at the queue, and at what is known of the outbox if there is one, until cancelled.
pub async fn run(
    history: History,
    store: Store,
    fleet: Option<watch::Receiver<FleetState>>,
    stop: CancellationToken,
) {
    loop {
        let (waiting, reader) = (store.counts().pending, store.clone());
        let age = move || {
            let oldest = reader.oldest_pending().ok().flatten();
            oldest.map_or(0, |(_, event)| clock::now().since(event.happened).as_secs())
        };
        // Most of the time nothing waits, and the disk is not asked. While it refuses it cannot be; one that is lost is
        // lost with the whole program.
        let oldest = if waiting > 0 { tokio::task::spawn_blocking(age).await.unwrap_or(0) } else { 0 };
        let (shared, since) = fleet.as_ref().map(|fleet| fleet.borrow().waiting()).unwrap_or_default();
        let now = clock::now();
        let oldest = oldest.max(since.map_or(0, |since| now.since(since).as_secs()));
        lock(&history).note(now, waiting + shared, oldest);
        tokio::select! {
            () = stop.cancelled() => return,
            () = clock::tick(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_the_worst_of_its_time_and_old_ones_go() {
        let mut samples = Samples::default();
        for (now, waiting, oldest) in
            [(20_000, 1, 0), (24_000, 9, 4), (29_999, 2, 7), (30_000, 3, 1), (25_000, 4, 2)]
        {
            samples.note(UnixMillis(now), waiting, oldest);
        }
        let all: Vec<Sample> = samples.since(UnixMillis(0)).copied().collect();
        let sample = |at, waiting, oldest_s| Sample { at: UnixMillis(at), waiting, oldest_s };
        assert_eq!(all, [sample(20_000, 9, 7), sample(30_000, 4, 2)]);
        assert_eq!(samples.since(UnixMillis(30_000)).count(), 1);
        for step in 0..2000 {
            samples.note(UnixMillis(40_000 + step * 10_000), 0, 0);
        }
        assert_eq!(samples.since(UnixMillis(0)).count(), SAMPLES_MAX);
    }
}
