//! Opens the directory, compares formats, and brings older rows up to today's. A store of a newer format is
//! refused before anything is touched.
//!
//! The format's number stands twice. The file `FORMAT` guards: it is read before sled is opened, and raised
//! before the first step runs, so that an older program refuses from then on. The row `format` in the tree
//! `meta` records: each step and its number are one transaction, so that an interrupted upgrade goes on where
//! it stopped.
//!
//! Each step is a folder under `migrations/`: a pure function from all rows to all rows, if they change, and the rows
//! before and after that prove it. Steps are never edited once released, so they spell their rows out and use no type
//! that may change. All rows are in memory while a step runs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use super::error::StoreError;
use super::folder::{self, sync_dir};
use super::record::{damaged, seal, unseal};
use super::sheaf::Lay;
use super::sled::{self, Changes, Disk, JOURNALED, Recorded, Tree};

#[path = "../../migrations/0001_first_format/mod.rs"]
mod first_format;

/// All rows of a store, but for its format's number and what is about its files, without their checksums.
pub(crate) type Rows = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

/// The format this program reads and writes: that of the last step.
pub(super) const FORMAT: u32 = 3;

/// Opens the store in `state_dir`, creating or upgrading it.
pub(super) fn open(state_dir: &Path) -> Result<Disk, StoreError> {
    create_private_dir(state_dir)?;
    let found = guard(state_dir)?;
    let queue = folder::queue(state_dir);
    // Before FORMAT is raised: an older daemon that is still running must be able to start again.
    if sled::is_locked(&queue) {
        return Err(StoreError::Locked { path: queue });
    }
    folder::settle(state_dir)?;
    // Without a number the rows themselves say which it is, and it is put back only then.
    let guess = found.is_none() && sled::exists(&queue);
    if found != Some(FORMAT) && !guess {
        write_format(state_dir)?;
    }
    if !queue.exists() {
        create(state_dir)?;
    }
    let disk = Disk::open(&queue)?;
    sync_dir(state_dir).map_err(|e| StoreError::at_open(state_dir, e))?;
    upgrade(&disk)?;
    if guess {
        write_format(state_dir)?;
    }
    Ok(disk)
}

/// Refuses a store of a newer format, before anything of it is touched. The number that `FORMAT` holds; `None` if
/// it is missing or holds none.
pub(super) fn guard(state_dir: &Path) -> Result<Option<u32>, StoreError> {
    let path = state_dir.join(FORMAT_FILE);
    match read_format(&path)? {
        Some(found) if found > FORMAT => Err(StoreError::NewerFormat { found, known: FORMAT, path }),
        found => Ok(found),
    }
}

/// Creates sled's directory, whole or not at all: what is half created sled may never open again.
fn create(state_dir: &Path) -> Result<(), StoreError> {
    Disk::open(&folder::part(state_dir))?.close()?;
    folder::replace(state_dir)
}

struct Step {
    /// The folder's name without its number.
    name: &'static str,
    /// What becomes of the rows; `None`: they stay, but what is written from then on an older program cannot read.
    apply: Option<fn(Rows) -> Result<Rows, String>>,
}

/// Step `n` makes format `n`; the first is at index 0.
const STEPS: [Step; FORMAT as usize] = [
    Step { name: "first_format", apply: Some(first_format::step) },
    // Rows may lie together (`sheaf`), and those that lie apart are read as before.
    Step { name: "rows_together", apply: None },
    // What is accepted is recorded in a journal first, of which an older program knows nothing.
    Step { name: "journal", apply: None },
];

/// Whether a store of this format becomes one of today's with no row changed.
pub(super) fn keeps_rows(format: u32) -> bool {
    STEPS.iter().skip(format as usize).all(|step| step.apply.is_none())
}

/// Where the number stands among the rows.
pub(super) const FORMAT_KEY: &[u8] = b"format";
const FORMAT_FILE: &str = "FORMAT";

fn upgrade(disk: &Disk) -> Result<(), StoreError> {
    let stands = stored_format(disk)?;
    if stands > FORMAT {
        let path = disk.path().to_owned();
        return Err(StoreError::NewerFormat { found: stands, known: FORMAT, path });
    }
    for (number, step) in (1..).zip(&STEPS).skip(stands as usize) {
        let mut changes = Changes::new();
        if let Some(apply) = step.apply {
            let old = all_rows(disk)?;
            changes.extend(old.keys().map(|place| (place.clone(), None)));
            let new = apply(old).map_err(|reason| {
                StoreError::damaged_file(disk.path(), format!("format {number}: {reason}"))
            })?;
            for ((tree, key), payload) in new {
                let value = seal(tree, &key, &payload);
                changes.insert((tree, key), Some(value));
            }
        }
        let value = seal(Tree::Meta, FORMAT_KEY, number.to_string().as_bytes());
        changes.insert((Tree::Meta, FORMAT_KEY.to_vec()), Some(value));
        disk.record(&changes, Lay::Apart).and_then(Recorded::apply)?;
        tracing::info!(name: "store_migrated", format = number, step = step.name, "store brought to format");
    }
    Ok(())
}

/// The format of the rows; 0 for a store in which nothing stands yet.
fn stored_format(disk: &Disk) -> Result<u32, StoreError> {
    disk.get(Tree::Meta, FORMAT_KEY)?.map_or(Ok(0), |value| format_of(&value))
}

/// The number that the row `format` holds.
pub(super) fn format_of(value: &[u8]) -> Result<u32, StoreError> {
    let payload = unseal(Tree::Meta, FORMAT_KEY, value)?;
    let number = std::str::from_utf8(payload).ok().and_then(|n| n.parse().ok());
    number.ok_or_else(|| damaged(Tree::Meta, FORMAT_KEY, "it is no number"))
}

fn all_rows(disk: &Disk) -> Result<Rows, StoreError> {
    let mut rows = Rows::new();
    for tree in Tree::ALL {
        for (key, value) in disk.page(tree, &[], usize::MAX)? {
            if ![(Tree::Meta, FORMAT_KEY), JOURNALED].contains(&(tree, key.as_slice())) {
                let payload = unseal(tree, &key, &value)?.to_vec();
                rows.insert((tree, key), payload);
            }
        }
    }
    Ok(rows)
}

fn create_private_dir(dir: &Path) -> Result<(), StoreError> {
    // Phone numbers are nobody else's business.
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|e| StoreError::at_creation(dir, e))?;
    if dir.join(FORMAT_FILE).exists() {
        Ok(())
    } else {
        sync_parents(dir).map_err(|e| StoreError::at_open(dir, e))
    }
}

/// A new directory is there after a power cut only if the one that names it was synced, and so on. That this was
/// done `FORMAT` tells, which is written after it.
fn sync_parents(dir: &Path) -> io::Result<()> {
    let disk = fs::metadata(dir)?.dev();
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        if fs::metadata(parent)?.dev() != disk {
            break;
        }
        match sync_dir(parent) {
            // Where this user may not even look it has created nothing.
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn read_format(file: &Path) -> Result<Option<u32>, StoreError> {
    let number = match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().parse().ok().filter(|number| *number > 0),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::at_open(file, e)),
    };
    if number.is_none() {
        tracing::warn!(name: "format_unreadable", file = %file.display(), "it holds no format number; the store's rows are asked instead");
    }
    Ok(number)
}

fn write_format(state_dir: &Path) -> Result<(), StoreError> {
    let file = state_dir.join(FORMAT_FILE);
    let new = file.with_extension("new");
    let written = File::create(&new).and_then(|mut out| {
        writeln!(out, "{FORMAT}")?;
        out.sync_all()?;
        fs::rename(&new, &file)?;
        sync_dir(state_dir)
    });
    written.map_err(|e| StoreError::at_open(&file, e))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::store::record::{LEDGER, Ledger, Stored};

    #[test]
    fn every_step_turns_its_rows_before_into_its_rows_after() {
        let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut listed = Vec::new();
        for (number, step) in (1..).zip(&STEPS) {
            let folder = format!("{number:04}_{}", step.name);
            let before = rows(&folders.join(&folder).join("before.json"));
            let after = rows(&folders.join(&folder).join("after.json"));
            let made = step.apply.map_or(Ok(before.clone()), |apply| apply(before));
            assert_eq!(made.map(|rows| shown(&rows)), Ok(shown(&after)), "{folder}");
            listed.push(folder);
        }
        let numbered = fs::read_dir(folders).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        let mut numbered: Vec<_> = numbered.filter(|name| name.starts_with(char::is_numeric)).collect();
        numbered.sort();
        assert_eq!(numbered, listed);
    }

    #[test]
    fn todays_ledger_reads_what_the_steps_leave_behind() {
        let mut steps = STEPS.iter().filter_map(|step| step.apply);
        let empty = steps.try_fold(Rows::new(), |rows, apply| apply(rows)).unwrap();
        let ledger = Ledger::decode(&empty[&(Tree::Meta, LEDGER.to_vec())]);
        assert_eq!(ledger, Ok(Ledger { next_seq: 1, pending: 0, dead: 0, delivered: 0 }));
    }

    #[test]
    fn an_interrupted_creation_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        write_format(dir.path()).unwrap();
        Disk::open(&dir.path().join("queue")).unwrap().close().unwrap();
        let disk = open(dir.path()).unwrap();
        assert_eq!(stored_format(&disk).unwrap(), FORMAT);
        assert!(disk.get(Tree::Meta, LEDGER).unwrap().is_some());
    }

    #[test]
    fn rows_of_format_1_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path()).unwrap();
        let ids: Vec<_> = (0..20).map(|n| (Tree::Ids, format!("call-{n}").into_bytes())).collect();
        let row = |place: &(Tree, Vec<u8>)| (place.clone(), Some(seal(place.0, &place.1, b"7")));
        let mut changes: Changes = ids.iter().map(row).collect();
        changes.insert((Tree::Meta, FORMAT_KEY.to_vec()), Some(seal(Tree::Meta, FORMAT_KEY, b"1")));
        disk.write(&changes, Lay::Apart).unwrap();
        disk.close().unwrap();
        fs::write(dir.path().join(FORMAT_FILE), "1\n").unwrap();

        let disk = open(dir.path()).unwrap();
        assert_eq!(
            (read_format(&dir.path().join(FORMAT_FILE)).unwrap(), stored_format(&disk).unwrap()),
            (Some(FORMAT), FORMAT)
        );
        disk.write(&Changes::from([row(&(Tree::Ids, b"call-55".to_vec()))]), Lay::Together).unwrap();
        assert!(ids.iter().all(|(tree, key)| disk.get(*tree, key).unwrap().is_some()));
        assert_eq!(disk.page(Tree::Ids, &[], usize::MAX).unwrap().len(), 21);
    }

    #[test]
    fn rows_of_a_newer_format_are_refused_whatever_the_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path()).unwrap();
        let value = seal(Tree::Meta, FORMAT_KEY, (FORMAT + 1).to_string().as_bytes());
        disk.write(&Changes::from([((Tree::Meta, FORMAT_KEY.to_vec()), Some(value))]), Lay::Apart).unwrap();
        disk.close().unwrap();
        let refused = open(dir.path()).err();
        let newer = FORMAT + 1;
        assert!(
            matches!(refused, Some(StoreError::NewerFormat { found, known: FORMAT, .. }) if found == newer),
            "{refused:?}"
        );
    }

    /// Rows as the folders spell them: keys as text, payloads as JSON.
    fn rows(file: &Path) -> Rows {
        let listed: Vec<Value> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let row = |row: Value| {
            let tree = Tree::ALL.into_iter().find(|t| t.name() == row["tree"]).unwrap();
            (
                (tree, row["key"].as_str().unwrap().as_bytes().to_vec()),
                row["payload"].to_string().into_bytes(),
            )
        };
        listed.into_iter().map(row).collect()
    }

    /// Payloads compared as JSON: the order of fields is nobody's promise.
    fn shown(rows: &Rows) -> Vec<(&'static str, String, Value)> {
        let key = |key: &[u8]| key.escape_ascii().to_string();
        rows.iter().map(|((t, k), v)| (t.name(), key(k), serde_json::from_slice(v).unwrap())).collect()
    }
}
