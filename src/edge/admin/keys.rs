//! Keys of links and sessions. In memory only: a restart ends them all.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::time::UnixMillis;

/// How long a link is good.
pub(super) const LINK_LIFE: Duration = Duration::from_mins(5);
/// How long a session lasts: a day's work.
pub(super) const SESSION_LIFE: Duration = Duration::from_hours(10);
/// Most links that wait to be used, and most sessions; the oldest goes.
const KEPT: usize = 16;
/// Random bytes in a key.
const BYTES: usize = 32;

/// See the module.
#[derive(Default)]
pub(super) struct Keys(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    links: Vec<Key>,
    sessions: Vec<Key>,
}

struct Key {
    text: String,
    ends: UnixMillis,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(****)")
    }
}

impl Keys {
    /// A key that opens one session.
    pub(super) fn link(&self, now: UnixMillis) -> io::Result<String> {
        add(&mut self.lock().links, now.after(LINK_LIFE))
    }

    /// A session for a link's key, which is spent. `None` if it is none, or its time is over.
    pub(super) fn redeem(&self, key: &str, now: UnixMillis) -> io::Result<Option<String>> {
        let mut kept = self.lock();
        if !take(&mut kept.links, key, now) {
            return Ok(None);
        }
        add(&mut kept.sessions, now.after(SESSION_LIFE)).map(Some)
    }

    /// Whether this is a session now.
    pub(super) fn admits(&self, session: &str, now: UnixMillis) -> bool {
        let mut kept = self.lock();
        kept.sessions.retain(|key| key.ends > now);
        kept.sessions.iter().any(|key| same(&key.text, session))
    }

    /// It is one no longer.
    pub(super) fn end(&self, session: &str) {
        self.lock().sessions.retain(|key| !same(&key.text, session));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(keys: &mut Vec<Key>, ends: UnixMillis) -> io::Result<String> {
    let mut bytes = [0; BYTES];
    let mut filled = 0;
    while filled < BYTES {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if keys.len() >= KEPT {
        keys.remove(0);
    }
    keys.push(Key { text: text.clone(), ends });
    Ok(text)
}

fn take(keys: &mut Vec<Key>, text: &str, now: UnixMillis) -> bool {
    keys.retain(|key| key.ends > now);
    let before = keys.len();
    keys.retain(|key| !same(&key.text, text));
    keys.len() < before
}

/// Takes as long whatever the texts share.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_444_000_000);

    #[test]
    fn a_link_is_good_once_and_not_for_long() {
        let keys = Keys::default();
        let link = keys.link(NOW).unwrap();
        assert_eq!(link.len(), 2 * BYTES);
        assert_eq!(keys.redeem("", NOW).unwrap(), None);
        assert_eq!(keys.redeem(&link[1..], NOW).unwrap(), None);
        let session = keys.redeem(&link, NOW).unwrap().unwrap();
        assert_ne!(session, link);
        assert_eq!(keys.redeem(&link, NOW).unwrap(), None);
        assert!(!keys.admits(&link, NOW));
        let late = keys.link(NOW).unwrap();
        assert_eq!(keys.redeem(&late, NOW.after(LINK_LIFE)).unwrap(), None);
    }

    #[test]
    fn a_session_ends_by_time_and_by_order() {
        let keys = Keys::default();
        let session = || keys.redeem(&keys.link(NOW).unwrap(), NOW).unwrap().unwrap();
        let (one, two) = (session(), session());
        assert!(keys.admits(&one, NOW) && keys.admits(&two, NOW) && !keys.admits("", NOW));
        keys.end(&one);
        assert!(!keys.admits(&one, NOW) && keys.admits(&two, NOW));
        assert!(!keys.admits(&two, NOW.after(SESSION_LIFE)));
    }

    #[test]
    fn there_are_never_many() {
        let keys = Keys::default();
        let links: Vec<String> = (0..2 * KEPT).map(|_| keys.link(NOW).unwrap()).collect();
        let opened: Vec<bool> = links.iter().map(|link| keys.redeem(link, NOW).unwrap().is_some()).collect();
        assert_eq!(opened, [vec![false; KEPT], vec![true; KEPT]].concat());
    }
}
