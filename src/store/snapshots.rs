//! The files in sled's directory that save it from reading its whole log: what its pages were at one place of it, in the
//! names' last part (hexadecimal).

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::{folder, segments};

/// What a snapshot's name ends with until it is whole.
const BEGUN: &str = "generating";

/// sled writes a snapshot beside the old one, syncs and renames it, and goes on before its name is durable: what the
/// new one does not need is overwritten, and read from the old one the log is found empty. So one that a power cut has
/// left under its first name is given the second, if it is whole.
pub(super) fn finish(path: &Path) -> Result<(), StoreError> {
    for begun in all(path).filter(|file| file.extension().is_some_and(|e| e == BEGUN)) {
        let written = std::fs::read(&begun).map_err(|e| StoreError::at_open(&begun, e))?;
        let finished = if is_whole(&written) {
            std::fs::rename(&begun, begun.with_extension(""))
        } else {
            std::fs::remove_file(&begun)
        };
        finished.and_then(|()| folder::sync_dir(path)).map_err(|e| StoreError::at_open(&begun, e))?;
    }
    Ok(())
}

/// Files that sled takes for snapshots.
pub(super) fn all(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let files = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|file| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"snap.")))
}

/// Whether a snapshot's file is whole: what it says, the length of that (8, little endian) and its crc32 (4).
fn is_whole(file: &[u8]) -> bool {
    let Some((rest, crc)) = file.split_last_chunk() else { return false };
    let Some((said, len)) = rest.split_last_chunk() else { return false };
    u64::from_le_bytes(*len) == said.len() as u64 && u32::from_le_bytes(*crc) == crc32fast::hash(said)
}

/// Without its newest snapshot sled takes some logs for empty. Better damaged than that.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    let lsn = |file: PathBuf| u64::from_str_radix(file.extension()?.to_str()?, 16).ok();
    let newest = all(path).filter_map(lsn).max();
    let Ok(log) = File::open(path.join("db")) else { return Ok(()) };
    match segments::needs_newer_snapshot(&log, newest.unwrap_or(0)) {
        Ok(true) => Err(StoreError::damaged_file(
            path,
            "its newest snapshot is missing, without which sled finds nothing",
        )),
        Ok(false) => Ok(()),
        Err(why) => Err(StoreError::at_open(path, why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sheaf::Lay;
    use crate::store::sled::tests::{KEY, as_it_lies, of};
    use crate::store::sled::{Disk, Tree};

    #[test]
    fn the_newest_snapshot_is_used_by_whichever_name_or_missed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Disk::open(dir.path()).unwrap();
        let snapshot = |path: &Path| all(path).next().unwrap();
        open().close().unwrap();
        let mut disk = open();
        let old = snapshot(dir.path());
        let (old, held) = (old.file_name().unwrap(), std::fs::read(&old).unwrap());
        // Until the segment is not needed any more where sled would begin to read without the snapshot.
        let begins =
            || !segments::needs_newer_snapshot(&File::open(dir.path().join("db")).unwrap(), 0).unwrap();
        for _ in (0..100).take_while(|_| begins()) {
            // As many each time may come round to the same places for ever.
            for n in 0..fastrand::u8(10..90) {
                disk.write(&of(&[n; 4_000]), Lay::Apart).unwrap();
            }
            disk.write(&of(b"kept"), Lay::Apart).unwrap();
            disk.close().unwrap();
            disk = open();
        }
        assert!(!begins(), "nothing was freed there");

        // The power fails while it is opened: the new snapshot's second name is not on disk, or neither is.
        for whole in [true, false] {
            let found = tempfile::tempdir().unwrap();
            as_it_lies(dir.path(), found.path());
            let new = snapshot(found.path());
            assert_ne!(new.file_name().unwrap(), old);
            std::fs::write(found.path().join(old), &held).unwrap();
            if whole {
                std::fs::rename(&new, new.with_added_extension(BEGUN)).unwrap();
                let disk = Disk::open(found.path()).unwrap();
                assert_eq!(disk.get(Tree::Meta, KEY).unwrap().unwrap(), b"kept");
                disk.close().unwrap();
            } else {
                std::fs::remove_file(&new).unwrap();
                let why = Disk::open(found.path()).err().unwrap().to_string();
                assert!(why.contains("newest snapshot is missing"), "{why}");
            }
        }
        disk.close().unwrap();
    }
}
