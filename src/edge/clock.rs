//! The only place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::UnixMillis;

/// The moment it is.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
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
