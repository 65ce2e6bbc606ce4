//! Whether the loops move. Each long-running loop notes that it came round, at least every [`TICK`] even when there is
//! nothing to do; one that has not for [`BOUND`] is stuck, and only a new start helps.
//!
//! What a loop waits for on purpose is no stall, because no loop waits for it in place: a disk that is full, read-only
//! or slow (transactions are tasks beside the intake and the drains), a Zammad that is away (requests are, too), a
//! switch that is away (the listener notes its waits with [`Beat::through`]), a long resync (it is the intake's rounds).
//!
//! Not watched: the store's writer and the backfill. Both wait for the disk in place, however long it takes, and nobody
//! can tell from outside whether a disk is slow or stuck. To be killed meanwhile would lose what is only in memory.
//! A loop that has ended (the daemon is stopping) is not watched any more either.
//!
//! The time is the monotonic clock's: a clock that is set, or a machine that was asleep, makes no stall.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::clock;

/// How often an idle loop comes round.
pub const TICK: Duration = Duration::from_secs(2);
/// A loop that has not come round for so long is stuck. The longest round on purpose is a resync of some thousand legs,
/// well under a second; the rest is for a machine that is short of everything.
pub const BOUND: Duration = Duration::from_secs(30);

/// All the loops. Clones are handles to the same.
#[derive(Clone)]
pub struct Pulse {
    begun: Instant,
    loops: Arc<Mutex<Vec<Arc<Loop>>>>,
}

/// One loop.
struct Loop {
    name: String,
    /// Milliseconds after `begun`.
    moved: AtomicU64,
}

/// Where one loop notes that it moves. The loop is watched until this is dropped.
pub struct Beat {
    pulse: Pulse,
    this: Arc<Loop>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: clock::monotonic(), loops: Arc::default() }
    }
}

impl Pulse {
    /// Watches a loop from now on; `name` is for people.
    #[must_use]
    pub fn join(&self, name: impl Into<String>) -> Beat {
        let this = Arc::new(Loop { name: name.into(), moved: AtomicU64::new(self.elapsed()) });
        self.lock().push(Arc::clone(&this));
        Beat { pulse: self.clone(), this }
    }

    /// Every loop, and for how long it has not come round.
    #[must_use]
    pub fn ages(&self, now: Instant) -> Vec<(String, Duration)> {
        let age = |it: &Arc<Loop>| {
            let moved = self.begun + Duration::from_millis(it.moved.load(Ordering::Relaxed));
            (it.name.clone(), now.saturating_duration_since(moved))
        };
        self.lock().iter().map(age).collect()
    }

    /// The loops that have not come round for [`BOUND`] or longer, and for how long.
    #[must_use]
    pub fn stalled(&self, now: Instant) -> Vec<(String, Duration)> {
        let mut stalled = self.ages(now);
        stalled.retain(|(_, age)| *age >= BOUND);
        stalled
    }

    fn elapsed(&self) -> u64 {
        let elapsed = clock::monotonic().saturating_duration_since(self.begun);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Loop>>> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    /// The loop came round.
    pub fn moved(&self) {
        self.this.moved.store(self.pulse.elapsed(), Ordering::Relaxed);
    }

    /// Returns within [`TICK`], for all loops in the same moment: what wakes a loop that nothing else does. May be dropped.
    pub async fn tick(&self) {
        clock::tick(TICK).await;
    }

    /// Waits on purpose, for something that may take longer than [`BOUND`]: meanwhile the loop counts as moving. May be
    /// dropped if `what` may.
    pub async fn through<T>(&self, what: impl Future<Output = T>) -> T {
        tokio::pin!(what);
        loop {
            self.moved();
            let done = tokio::time::timeout(TICK, &mut what).await;
            if let Ok(done) = done {
                self.moved();
                return done;
            }
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.lock().retain(|it| !Arc::ptr_eq(it, &self.this));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_stuck_is_named_and_others_are_not() {
        let pulse = Pulse::default();
        let (idle, stuck, waiting) = (pulse.join("idle"), pulse.join("stuck"), pulse.join("waiting"));
        let jobs = [
            tokio::spawn(async move {
                loop {
                    idle.moved();
                    idle.tick().await;
                }
            }),
            tokio::spawn(async move {
                stuck.moved();
                std::future::pending::<()>().await;
                stuck.moved();
            }),
            tokio::spawn(async move { waiting.through(std::future::pending()).await }),
        ];
        let begun = clock::monotonic();
        tokio::time::sleep(BOUND - Duration::from_millis(1)).await;
        assert_eq!(pulse.stalled(clock::monotonic()), []);
        tokio::time::sleep(TICK).await;
        let now = clock::monotonic();
        assert_eq!(pulse.stalled(now), [("stuck".to_owned(), now - begun)]);
        for (name, age) in pulse.ages(now) {
            assert!(name == "stuck" || age <= TICK, "{name} has not moved for {age:?}");
        }
        for job in jobs {
            job.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_has_ended_is_not_stuck() {
        let pulse = Pulse::default();
        let (first, second) = (pulse.join("same name"), pulse.join("same name"));
        tokio::time::sleep(BOUND * 2).await;
        assert_eq!(pulse.stalled(clock::monotonic()).len(), 2);
        second.moved();
        drop(first);
        assert_eq!(pulse.stalled(clock::monotonic()), []);
        assert_eq!(pulse.ages(clock::monotonic()).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_on_purpose_comes_back() {
        let pulse = Pulse::default();
        let beat = pulse.join("one");
        let done = beat.through(async {
            tokio::time::sleep(BOUND * 3).await;
            7
        });
        assert_eq!(done.await, 7);
        assert_eq!(pulse.stalled(clock::monotonic()), []);
    }
}
