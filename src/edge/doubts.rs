//! Endings of which another node may know more: they go into the shared outbox later than others.
//!
//! Who missed a part of a call, while the link to the switch was lost or the daemon was down, says in the end that it is
//! over, perhaps without its answer and with another cause; and in the outbox the first account of an ending holds. So such
//! an ending waits in the store for [`WAIT`]: then whoever heard it all has brought its account, and this one is passed over;
//! or nobody has, and this one is told, with the time at which it was heard.
//!
//! In memory alone: what waits at the end of the daemon goes at its next start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::clock;

/// How long an ending in doubt waits. Longer than another node needs to bring what it has heard when its connection to the
/// outbox is swallowed, given up after ten seconds, and made anew.
pub const WAIT: Duration = Duration::from_secs(15);

/// The endings that wait, by their events' identities. As many as calls have ended within [`WAIT`] behind a gap. Clones are
/// handles to the same.
#[derive(Clone, Default)]
pub struct Doubts(Arc<Mutex<HashMap<String, Instant>>>);

impl Doubts {
    /// This event, which is not in the store yet, waits from now on.
    pub fn note(&self, id: &str) {
        self.lock().insert(id.to_owned(), clock::monotonic() + WAIT);
    }

    /// Until when this event waits; `None` if it does not, or no longer.
    #[must_use]
    pub fn until(&self, id: &str) -> Option<Instant> {
        self.lock().get(id).copied().filter(|until| clock::monotonic() < *until)
    }

    /// Forgets what waits no longer.
    pub fn expire(&self) {
        let now = clock::monotonic();
        self.lock().retain(|_, until| now < *until);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_in_doubt_waits_once_and_is_forgotten() {
        let doubts = Doubts::default();
        doubts.note("a/hangup");
        assert_eq!(doubts.until("b/hangup"), None);
        let until = doubts.until("a/hangup").unwrap();
        tokio::time::advance(WAIT - Duration::from_millis(1)).await;
        doubts.note("c/hangup");
        doubts.expire();
        assert_eq!(doubts.until("a/hangup"), Some(until));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(doubts.until("a/hangup"), None);
        doubts.expire();
        assert_eq!(doubts.lock().keys().collect::<Vec<_>>(), ["c/hangup"]);
    }
}
