//! When sled's log is synced: each batch once. sled itself asks too little of the disk, and too often.
//!
//! It calls `sync_file_range` after each write to the log and takes the bytes for durable then. [`sync_file_range`]
//! below stands in for the C library's and calls `fdatasync`.
//!
//! A transaction is two writes and would be two syncs: the *manifest*, some 24 bytes with the lsn at which its batch
//! ends, and the batch. sled's threads write them in any order or at once. A manifest's own sync is left out if no
//! sync of the file has begun since [`Barrier::settle`], with which [`Disk::sync`](super::sled::Disk::sync) ends; all
//! else is synced. Why that is as good:
//!
//! - Whatever stands behind a manifest is given to sled after `settle`, and claimed to be stable after a sync that
//!   began later still. If that had begun before the manifest was written, the manifest has a sync of its own, without
//!   which nothing behind it is claimed; else it covers the manifest. So **when anything behind a manifest is claimed,
//!   the manifest is durable**.
//! - That a manifest alone is written moves nothing: for sled nothing of a batch is stable before all of it is, and
//!   it is what is stable that segments' headers name and by which segments are used again. (A batch of nothing is
//!   all there with its manifest; that one is synced.) So no header names an lsn at or behind a manifest that may be
//!   lost.
//! - So a power cut takes only manifests behind which nothing was claimed. sled finds a tear in that place and drops
//!   what follows, as it did when both had their sync: these ran beside each other.
//! - A sync that fails is told to sled, whoever's bytes it was to make durable, and nothing is claimed any more.
//! - `settle` makes sure once more: it syncs if a manifest was left out and no sync since has come to its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::segments::{self, BATCH_MANIFEST, SEGMENT};

/// Most bytes of a manifest: checksum, kind, a length of one byte, two numbers of up to nine, an lsn.
const MANIFEST_MAX: usize = 4 + 1 + 1 + 9 + 9 + 8;

/// Device and inode: no other file has the same while this one is open.
type Id = (u64, u64);

/// The logs whose manifests may be left out; of any other file all is synced.
static LOGS: Mutex<BTreeMap<Id, Arc<Mutex<Log>>>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Log {
    /// Whether no sync has begun since all was durable.
    quiet: bool,
    /// How many manifests were left out, and how many of these have surely been synced since.
    left_out: u64,
    paid: u64,
}

impl Log {
    /// How many manifests the sync that begins now pays for.
    fn begin_sync(&mut self) -> u64 {
        self.quiet = false;
        self.left_out
    }

    fn end_sync(&mut self, pays: u64) {
        self.paid = self.paid.max(pays);
    }

    fn owes(&self) -> bool {
        self.paid < self.left_out
    }
}

/// An open log, entered for as long as this lives.
pub(super) struct Barrier {
    id: Id,
    log: Arc<Mutex<Log>>,
}

impl Barrier {
    /// Enters a log, which must stay open for as long. Until the first [`Barrier::settle`] all of it is synced.
    pub(super) fn enter(file: &File) -> io::Result<Self> {
        let id = id(file)?;
        let log = Arc::default();
        lock(&LOGS).insert(id, Arc::clone(&log));
        Ok(Self { id, log })
    }

    /// To be called when sled claims that all it was given is durable, by the thread that gives it more. Makes it true
    /// if it is not.
    pub(super) fn settle(&self, file: &File) -> io::Result<()> {
        if lock(&self.log).owes() {
            let pays = lock(&self.log).begin_sync();
            file.sync_data()?;
            lock(&self.log).end_sync(pays);
        }
        lock(&self.log).quiet = true;
        Ok(())
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        lock(&LOGS).remove(&self.id);
    }
}

/// In the place of the C library's function of this name, for all that is linked with this crate: `fdatasync`, which
/// promises all that the original does and what sled takes it to promise; of a manifest, sometimes with the next. sled
/// itself has no setting for it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "it is called from beyond Rust, with a number for a file")]
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(
    fd: std::os::fd::RawFd,
    from: i64,
    bytes: i64,
    _flags: std::ffi::c_uint,
) -> i32 {
    // SAFETY: the caller's descriptor is open for as long as the call; it stays the caller's, and is not closed.
    let file = std::mem::ManuallyDrop::new(unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    // The caller reads `errno`, which nothing has touched since.
    if written(&file, from, bytes).is_ok() { 0 } else { -1 }
}

/// These bytes have been written: syncs the file, or leaves them to the next sync.
fn written(file: &File, from: i64, bytes: i64) -> io::Result<()> {
    let known = lock(&LOGS).get(&id(file)?).cloned();
    let Some(log) = known else { return file.sync_data() };
    let pays = {
        // A sync that is about to begin waits for this.
        let mut log = lock(&log);
        if log.quiet && is_manifest(file, from, bytes) {
            log.left_out += 1;
            return Ok(());
        }
        log.begin_sync()
    };
    file.sync_data()?;
    lock(&log).end_sync(pays);
    Ok(())
}

/// Whether these bytes of the file are the manifest of a batch, all of it and nothing else.
fn is_manifest(file: &File, from: i64, bytes: i64) -> bool {
    let (Ok(from), Ok(len)) = (u64::try_from(from), usize::try_from(bytes)) else { return false };
    let mut buf = [0; MANIFEST_MAX];
    let Some(buf) = buf.get_mut(..len) else { return false };
    if file.read_exact_at(buf, from).is_err() {
        return false;
    }
    let Some(message) = segments::message(buf, 0, None) else { return false };
    // Of what stands alone the lsn is its segment's.
    let behind = message.lsn.saturating_add(from % SEGMENT as u64 + len as u64);
    let names_more = message.body(buf).try_into().is_ok_and(|last| u64::from_le_bytes(last) >= behind);
    message.kind == BATCH_MANIFEST && message.end == len && names_more
}

fn id(file: &File) -> io::Result<Id> {
    file.metadata().map(|about| (about.dev(), about.ino()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::sled::{Changes, Disk, Tree};
    use super::*;
    use crate::store::sheaf::Lay;

    const LEN: usize = 24;

    /// Where [`entered`] has put a manifest, and the lsn of the first byte behind it, in segment 7.
    const PLACE: u64 = 100;
    const BEHIND: u64 = 7 * SEGMENT as u64 + PLACE + LEN as u64;

    #[test]
    fn a_manifest_is_left_to_the_sync_of_its_batch_unless_a_sync_has_begun() {
        let (file, barrier) = entered();
        tell(&file, LEN);
        assert!(!owes(&barrier), "it is not known what came before");
        for _ in 0..2 {
            barrier.settle(&file).unwrap();
            tell(&file, LEN);
            assert!(owes(&barrier));
            tell(&file, LEN + 1);
            assert!(!owes(&barrier), "the batch was synced");
            tell(&file, LEN);
            assert!(!owes(&barrier), "its batch was synced before it");
        }
    }

    #[test]
    fn a_sync_pays_for_what_was_left_out_before_it_began() {
        let (file, barrier) = entered();
        barrier.settle(&file).unwrap();
        tell(&file, LEN);
        let pays = lock(&barrier.log).begin_sync();
        assert!(owes(&barrier), "it is not done");
        lock(&barrier.log).quiet = true;
        tell(&file, LEN);
        lock(&barrier.log).end_sync(pays);
        assert!(owes(&barrier), "it need not cover what came later");
        tell(&file, 1);
        lock(&barrier.log).end_sync(pays);
        assert!(!owes(&barrier));
    }

    #[test]
    fn settling_pays_what_is_owed_or_fails() {
        let (file, barrier) = entered();
        barrier.settle(&unsyncable()).unwrap();
        tell(&file, LEN);
        barrier.settle(&unsyncable()).unwrap_err();
        barrier.settle(&unsyncable()).unwrap_err();
        barrier.settle(&file).unwrap();
        barrier.settle(&unsyncable()).unwrap();
    }

    #[test]
    fn logs_are_kept_apart() {
        let ((first, barrier), (second, other)) = (entered(), entered());
        barrier.settle(&first).unwrap();
        other.settle(&second).unwrap();
        tell(&second, 1);
        tell(&first, LEN);
        tell(&second, LEN);
        assert!(owes(&barrier) && !owes(&other));
        drop(other);
        tell(&second, 1);
        assert!(owes(&barrier));
    }

    #[test]
    fn all_else_is_synced() {
        written(&unsyncable(), 0, 100).unwrap_err();
        let barrier = Barrier::enter(&unsyncable()).unwrap();
        barrier.settle(&unsyncable()).unwrap();
        written(&unsyncable(), 0, 100).unwrap_err();
        drop(barrier);
        assert!(!lock(&LOGS).contains_key(&id(&unsyncable()).unwrap()));
    }

    #[test]
    fn a_manifest_is_known_by_its_bytes() {
        let whole = manifest(BATCH_MANIFEST, BEHIND);
        let known = |bytes: &[u8], len| is_manifest(&holding(bytes), PLACE as i64, len);
        assert!(known(&whole, 24));
        let more = [manifest(BATCH_MANIFEST, BEHIND + 100).as_slice(), b"more"].concat();
        assert!(known(&more, 24) && !known(&more, 28));
        for len in [23, 0, -24, 1 << 20] {
            assert!(!known(&whole, len));
        }
        assert!(!known(&whole[..20], 24), "the file ends");
        assert!(!known(&manifest(BATCH_MANIFEST, BEHIND - 1), 24), "of a batch of nothing");
        assert!(!known(&manifest(segments::FREE, BEHIND), 24), "of another kind");
        for at in 0..LEN {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert!(!known(&other, 24), "byte {at}");
        }
    }

    #[test]
    fn a_transaction_is_synced_once_and_disk_sync_leaves_nothing_owed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let file = File::open(dir.path().join("db")).unwrap();
        let log = Arc::clone(&lock(&LOGS)[&id(&file).unwrap()]);
        for n in 0..50 {
            disk.commit(&Changes::from([((Tree::Meta, vec![n]), Some(vec![n]))]), Lay::Apart).unwrap();
            disk.sync().unwrap();
            assert!(!lock(&log).owes());
        }
        // Some were written beside their batch.
        assert!(lock(&log).left_out > 0);
        // One with nothing behind it that would pay for it: it is told again.
        let mut segment = Vec::new();
        segments::load(&file, 0, &mut segment).unwrap();
        let one = segments::messages(&segment, None).find(|m| m.kind == BATCH_MANIFEST).unwrap();
        written(&file, one.begin as i64, (one.end - one.begin) as i64).unwrap();
        assert!(lock(&log).owes());
        disk.sync().unwrap();
        assert!(!lock(&log).owes());
        disk.close().unwrap();
        assert!(!lock(&LOGS).contains_key(&id(&file).unwrap()));
    }

    fn tell(file: &File, len: usize) {
        written(file, PLACE as i64, len as i64).unwrap();
    }

    fn owes(barrier: &Barrier) -> bool {
        lock(&barrier.log).owes()
    }

    fn entered() -> (File, Barrier) {
        let file = holding(&manifest(BATCH_MANIFEST, BEHIND));
        let barrier = Barrier::enter(&file).unwrap();
        (file, barrier)
    }

    fn holding(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, PLACE).unwrap();
        file
    }

    /// No sync of it succeeds.
    fn unsyncable() -> File {
        File::open("/dev/null").unwrap()
    }

    /// As sled writes one in segment 7, if it is of that kind.
    fn manifest(kind: u8, last: u64) -> Vec<u8> {
        let mut head = vec![kind, 8, 7, 255];
        head.extend((u64::MAX - 666).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&last.to_le_bytes());
        crc.update(&head);
        [(!crc.finalize()).to_le_bytes().as_slice(), &head, &last.to_le_bytes()].concat()
    }
}
