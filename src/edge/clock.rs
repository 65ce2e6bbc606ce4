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
