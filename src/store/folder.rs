//! Where sled's directory stands, and how another takes its place.
//!
//! | below the state directory | what it is |
//! |---|---|
//! | `queue/` | the store in use |
//! | `queue.part/` | a copy in the making; a leftover of a crash is removed |
//! | `queue.new/` | a copy that is whole and synced; it is taken in if `queue/` is gone |
//! | `queue.old/` | what the copy has replaced, about to be removed |
//! | `queue.damaged-…/` | what was set aside for a person to look at |
//!
//! Each step is one rename and a sync of the state directory, so that after a power cut between any two of them
//! [`settle`] finds out which of them is the store.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::time::UnixMillis;

/// How many damaged directories are kept; beyond it the oldest goes. What could be read of it is in the store.
const DAMAGED_MAX: usize = 5;
const DAMAGED: &str = "queue.damaged-";

/// The store in use.
pub(super) fn queue(state_dir: &Path) -> PathBuf {
    state_dir.join("queue")
}

/// A copy in the making.
pub(super) fn part(state_dir: &Path) -> PathBuf {
    state_dir.join("queue.part")
}

fn new(state_dir: &Path) -> PathBuf {
    state_dir.join("queue.new")
}

fn old(state_dir: &Path) -> PathBuf {
    state_dir.join("queue.old")
}

/// After a crash: takes in a copy that had become the store, and removes what is not the store any more, or not
/// yet.
pub(super) fn settle(state_dir: &Path) -> Result<(), StoreError> {
    let queue = queue(state_dir);
    if new(state_dir).exists() && !queue.exists() {
        rename(state_dir, &new(state_dir), &queue)?;
    }
    for leftover in [part(state_dir), new(state_dir), old(state_dir)] {
        remove(&leftover)?;
    }
    Ok(())
}

/// Removes what an earlier copy has left behind.
pub(super) fn clear_part(state_dir: &Path) -> Result<(), StoreError> {
    remove(&part(state_dir))
}

/// The copy, whole and synced and closed, is the store from now on; what it replaces is removed.
pub(super) fn replace(state_dir: &Path) -> Result<(), StoreError> {
    rename(state_dir, &part(state_dir), &new(state_dir))?;
    if queue(state_dir).exists() {
        rename(state_dir, &queue(state_dir), &old(state_dir))?;
    }
    rename(state_dir, &new(state_dir), &queue(state_dir))?;
    remove(&old(state_dir))
}

/// Where a damaged directory can be set aside.
pub(super) fn aside(state_dir: &Path, now: UnixMillis) -> PathBuf {
    let name = now.to_string().replace(':', "-");
    let mut aside = state_dir.join(format!("{DAMAGED}{name}"));
    for again in 1.. {
        if !aside.exists() {
            break;
        }
        aside = state_dir.join(format!("{DAMAGED}{name}.{again}"));
    }
    aside
}

/// The copy is the store from now on; what it replaces is set aside. The directories in `wanted` are kept whatever
/// their age.
pub(super) fn set_aside(state_dir: &Path, aside: &Path, wanted: &[PathBuf]) -> Result<(), StoreError> {
    rename(state_dir, &part(state_dir), &new(state_dir))?;
    rename(state_dir, &queue(state_dir), aside)?;
    rename(state_dir, &new(state_dir), &queue(state_dir))?;
    remove(&state_dir.join(SUSPECT))?;
    forget_oldest(state_dir, wanted);
    Ok(())
}

/// Directories that were set aside, oldest first.
pub(super) fn damaged(state_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state_dir).into_iter().flatten().flatten().map(|e| e.path());
    let is_one = |path: &PathBuf| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with(DAMAGED))
    };
    let mut found: Vec<PathBuf> = entries.filter(is_one).collect();
    found.sort();
    found
}

fn forget_oldest(state_dir: &Path, wanted: &[PathBuf]) {
    let found = damaged(state_dir);
    let oldest = &found[..found.len().saturating_sub(DAMAGED_MAX)];
    for oldest in oldest.iter().filter(|dir| !wanted.contains(dir)) {
        match remove(oldest) {
            Ok(()) => tracing::warn!(
                name: "damaged_store_removed",
                directory = %oldest.display(),
                "the oldest of more than {DAMAGED_MAX} damaged stores was removed"
            ),
            Err(why) => {
                tracing::warn!(name: "damaged_store_kept", reason = %why, "an old damaged store cannot be removed")
            }
        }
    }
}

fn rename(state_dir: &Path, from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|why| StoreError::at_open(from, why))?;
    sync_dir(state_dir).map_err(|why| StoreError::at_open(state_dir, why))
}

fn remove(dir: &Path) -> Result<(), StoreError> {
    let removed = match dir.symlink_metadata() {
        Ok(about) if about.is_dir() => fs::remove_dir_all(dir),
        Ok(_) => fs::remove_file(dir),
        Err(why) => Err(why),
    };
    match removed {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(StoreError::at_open(dir, why)),
        Ok(()) | Err(_) => Ok(()),
    }
}

const SUSPECT: &str = "SUSPECT";

/// A sync has failed: the next start must not trust what the system shows of the log, but write all of it anew.
pub(super) fn suspect(state_dir: &Path) {
    if let Err(why) = fs::write(state_dir.join(SUSPECT), "") {
        tracing::error!(name: "suspicion_unnoted", reason = %why, "it cannot be noted that the store is suspect; run `store salvage` before the next start");
    }
}

/// Whether a sync has failed.
pub(super) fn is_suspect(state_dir: &Path) -> bool {
    state_dir.join(SUSPECT).exists()
}

/// Whether the disk takes writes again: as much as sled writes at once.
pub(super) fn takes_writes(state_dir: &Path) -> Result<(), StoreError> {
    const BYTES: usize = 1024 * 1024;
    let path = state_dir.join("disk.probe");
    let written = fs::write(&path, vec![0; BYTES]).and_then(|()| File::open(&path)?.sync_data());
    // It takes room that is wanted now; that it could not be removed says no more than the rest.
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(|why| StoreError::io(&path, why))
}

/// Makes what was created, renamed or removed in a directory outlive a power cut.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
