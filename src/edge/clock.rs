//! The only place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::time::UnixMillis;

/// The moment it is.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The moment it is, by a clock that nobody sets and that stands still while the machine sleeps: for how long something
/// took, not for when it was.
#[must_use]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Returns with the next whole multiple of `every`, by the clock. What comes round by this does so in the same moments: a
/// machine with nothing to do is woken once for all of it.
pub async fn tick(every: Duration) {
    tokio::time::sleep(until_next(now(), every)).await;
}

fn until_next(now: UnixMillis, every: Duration) -> Duration {
    let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(every - now.0 % every)
}

/// Returns when `due` has come, by the clock; a missing moment never comes.
pub async fn wait_until(due: Option<UnixMillis>) {
    match due {
        None => std::future::pending().await,
        Some(due) => {
            // Looked at again at least every minute: the clock may be set while we sleep.
            while let Some(left) = Some(due.since(now())).filter(|left| !left.is_zero()) {
                tokio::time::sleep(left.min(Duration::from_secs(60))).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_the_next_tick_waits_for_the_same_moment() {
        let left = |now, every| until_next(UnixMillis(now), Duration::from_millis(every)).as_millis();
        assert_eq!([left(9_999, 2_000), left(8_001, 2_000), left(8_000, 2_000)], [1, 1_999, 2_000]);
        assert_eq!([left(9_000, 1_000), left(9_400, 1_000), left(9_400, 250)], [1_000, 600, 100]);
        assert_eq!(left(9_000, 0), 1, "no loop without end");
    }
}
