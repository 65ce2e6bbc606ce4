//! Step 1: an empty store becomes one of format 1. The numbering of events begins at 1.

use crate::store::migrate::Rows;
use crate::store::sled::Tree;

/// The rows of a store of format 1 in which nothing has happened.
pub(crate) fn step(old: Rows) -> Result<Rows, String> {
    if !old.is_empty() {
        return Err(format!("{} rows without a format number", old.len()));
    }
    let ledger = br#"{"next_seq":1,"pending":0,"dead":0,"delivered":0}"#;
    Ok(Rows::from([((Tree::Meta, b"ledger".to_vec()), ledger.to_vec())]))
}
