//! Which Zammads an operator has paused: kept in the store, so that a pause lasts over a restart, and can be given and
//! taken back while the daemon is stopped.

use crate::store::{StateChange, Store, StoreError};

/// Keys of pauses in the store begin with this; no switch is called so.
const PREFIX: &str = "paused//";

/// Whether a value of the store's state is a pause.
#[must_use]
pub fn is_mark(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Whether this Zammad is paused.
///
/// # Errors
/// [`StoreError`] if the store cannot be read.
pub fn is_paused(store: &Store, zammad: &str) -> Result<bool, StoreError> {
    Ok(store.state_value(&key(zammad))?.is_some())
}

/// The Zammads that are paused.
///
/// # Errors
/// [`StoreError`] if the store cannot be read.
pub fn all(store: &Store) -> Result<Vec<String>, StoreError> {
    let paused = store.state()?.into_iter();
    Ok(paused.filter_map(|(key, _)| key.strip_prefix(PREFIX).map(str::to_owned)).collect())
}

/// What is to be written to pause this Zammad, or to let it go on.
#[must_use]
pub fn change(zammad: &str, paused: bool) -> StateChange {
    StateChange { key: key(zammad), value: paused.then(Vec::new) }
}

fn key(zammad: &str) -> String {
    format!("{PREFIX}{zammad}")
}
