//! The one writer. Its thread takes everything that waits for it, up to [`GROUP_MAX`] requests, records it at once
//! with one sync, answers all, and makes rows of it. Knows no rows: [`Group`] turns requests into changes.
//!
//! **A task may write itself** what it asks for, where nobody else does ([`Desk::write_here`]): to wake the thread and to
//! be woken by it takes a third of the time of an event's way to the disk. It tries once; all trouble is the thread's.
//!
//! **A disk that refuses** (full, read-only) is waited for: the group is kept, the directory is opened anew when
//! the disk takes writes again, and the group is written there; who asked waits as long. Only a failed `fdatasync`
//! is final: a second one that succeeds says nothing about what the first one lost, so nothing more is written and
//! the store must be opened anew.
//!
//! **A large directory** is swapped for a fresh one ([`super::copy`]) when nothing waits in the queue, in slices
//! between the groups.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;

use super::copy::Copy;
use super::error::StoreError;
use super::group::Group;
use super::record::{self, LEDGER, Ledger, Mark, REST};
use super::request::{Answer, Outcome, Request, answer, refuse, take_in};
use super::rest::{self, Rest};
use super::sheaf::Lay;
use super::sled::{Disk, Recorded, Tree};
use super::{Shared, Trimmed, folder, memory, migrate};

/// Most requests in one group, and most that wait for the next: bounds the memory of a transaction and the
/// time that its first request waits.
pub(super) const GROUP_MAX: usize = 256;

/// Rows of a directory that was set aside that are taken in at once: some ten milliseconds and a sync, which the next
/// group waits.
const TAKEN_IN_AT_ONCE: usize = 500;

/// Rows after which it is said how far that has come: some seconds'.
const SAY_EVERY: u64 = 100_000;

/// How often a disk that refuses is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How soon a close is noticed meanwhile.
const NOTICE: Duration = Duration::from_millis(50);

/// Where the writer is, for one at a time.
pub(super) struct Desk {
    writer: Mutex<Writer>,
    /// Whether the thread waits for it. It is slower to wake than a task is to ask again.
    awaited: AtomicBool,
}

impl Desk {
    pub(super) fn new(
        state_dir: PathBuf,
        (ledger, rest): (Ledger, Option<Rest>),
        shared: Arc<Shared>,
    ) -> Self {
        let writer = Writer {
            state_dir,
            ledger,
            swaps: true,
            failed: None,
            tried: None,
            copy: None,
            rest,
            lost: 0,
            shared,
        };
        Self { writer: Mutex::new(writer), awaited: AtomicBool::new(false) }
    }

    /// The thread: works until it is told to close, or until every handle is gone.
    pub(super) fn run(&self, mut requests: mpsc::Receiver<Request>) {
        let mut close = None;
        while close.is_none() {
            let first = match requests.try_recv() {
                Ok(first) => Some(first),
                Err(mpsc::error::TryRecvError::Empty) if self.wait().go_on() => continue,
                Err(_) => requests.blocking_recv(),
            };
            let Some(first) = first else { break };
            let mut writer = self.wait();
            let (batch, asked_to_close) = gather(first, &mut requests);
            close = asked_to_close;
            writer.write(batch, None);
            // Also when there is always something to write.
            writer.go_on();
        }
        // What still waits is answered with `Closed`.
        drop(requests);
        let closed = self.wait().close();
        match (close, closed) {
            // Whoever asked to close may have gone away meanwhile; then nobody wants to know.
            (Some(answer), closed) => drop(answer.send(closed)),
            (None, Err(error)) => {
                tracing::error!(name: "store_close_failed", %error, "store not closed cleanly");
            }
            (None, Ok(())) => {}
        }
    }

    /// Writes and answers `request`, on the thread that a task runs on; gives it back where somebody else writes. Blocks
    /// for as long as a disk takes, but waits for none that refuses. `requests` is how the thread is told of that.
    ///
    /// # Panics
    /// On a runtime of one thread.
    pub(super) fn write_here(
        &self,
        request: Request,
        requests: &mpsc::Sender<Request>,
    ) -> Result<(), Request> {
        if self.awaited.load(Ordering::Relaxed) {
            return Err(request);
        }
        // Where a task has panicked while it wrote, the thread finds that out.
        let Ok(mut writer) = self.writer.try_lock() else { return Err(request) };
        if writer.failed.is_some() || writer.tried.is_some() {
            return Err(request);
        }
        let mut batch = vec![request];
        let written = tokio::task::block_in_place(|| writer.write_once(&mut batch, None));
        if let Err((outcomes, why)) = written {
            writer.tried = Some(Tried { batch, outcomes, why });
            // If there is no room, the thread looks before long.
            let _ = requests.try_send(Request::Look);
        }
        Ok(())
    }

    /// The thread's turn, which begins with what a task could not write.
    fn wait(&self) -> MutexGuard<'_, Writer> {
        self.awaited.store(true, Ordering::Relaxed);
        let mut writer =
            self.writer.lock().expect("a task that panicked while it wrote has left half a group");
        self.awaited.store(false, Ordering::Relaxed);
        if let Some(Tried { batch, outcomes, why }) = writer.tried.take() {
            writer.trouble(why);
            writer.write(batch, Some(outcomes));
        }
        writer
    }
}

/// `first` and what waits behind it, up to a close; and whom to tell of that.
fn gather(first: Request, requests: &mut mpsc::Receiver<Request>) -> (Vec<Request>, Option<Answer<()>>) {
    let mut batch = Vec::new();
    let mut next = Some(first);
    while let Some(request) = next {
        match request {
            Request::Close { answer } => return (batch, Some(answer)),
            Request::Look => {}
            request => batch.push(request),
        }
        next = if batch.len() < GROUP_MAX { requests.try_recv().ok() } else { None };
    }
    (batch, None)
}

struct Writer {
    state_dir: PathBuf,
    ledger: Ledger,
    /// Whether a large directory is to be made anew.
    swaps: bool,
    /// Why nothing more is written.
    failed: Option<StoreError>,
    /// What a task could not write: nothing else is written before.
    tried: Option<Tried>,
    /// The directory that is to take the place of the present one.
    copy: Option<Copy>,
    /// What is still to be taken in from a directory that was set aside.
    rest: Option<Rest>,
    /// Rows of it that could be read at first, and then not.
    lost: u64,
    shared: Arc<Shared>,
}

/// A group that was not written, and why; `outcomes` is what came of its requests.
struct Tried {
    batch: Vec<Request>,
    outcomes: Vec<Outcome>,
    why: StoreError,
}

impl Writer {
    /// Writes a group and answers its requests; waits for a disk that refuses, unless the store is being closed. `before`
    /// is what came of them at the first try, if this is another.
    fn write(&mut self, mut batch: Vec<Request>, mut before: Option<Vec<Outcome>>) {
        while !batch.is_empty() {
            if let Some(why) = &self.failed {
                batch.drain(..).for_each(|request| refuse(request, why.clone()));
                break;
            }
            let Err((outcomes, why)) = self.write_once(&mut batch, before.as_deref()) else { continue };
            before = before.or(Some(outcomes));
            self.trouble(why);
        }
        self.mind_size();
    }

    /// Returns when the disk takes writes again, or with the store failed.
    fn trouble(&mut self, why: StoreError) {
        match why {
            why @ StoreError::Io { .. } => {
                if let Err(why) = self.wait_for_disk(why) {
                    self.failed = Some(why);
                }
            }
            why => self.fail(&why),
        }
    }

    /// Nothing more is written.
    fn fail(&mut self, why: &StoreError) {
        tracing::error!(name: "store_failed", error = %why, "store failed; nothing more is written until it is opened again");
        if matches!(why, StoreError::NotSynced { .. }) {
            folder::suspect(&self.state_dir);
        }
        self.shared.break_down(why);
        self.failed = Some(why.clone());
    }

    /// Writes a group and answers it, which empties `batch`. An error comes with what came of the requests; if they are
    /// answered all the same, it is sled that does not take what is recorded. `before` is what came of them at the first
    /// try, if this is another.
    fn write_once(
        &mut self,
        batch: &mut Vec<Request>,
        before: Option<&[Outcome]>,
    ) -> Result<(), (Vec<Outcome>, StoreError)> {
        let shared = Arc::clone(&self.shared);
        let disk = shared.disk();
        let Some(disk) = disk.as_ref() else { return Err((Vec::new(), StoreError::Closed)) };
        let rest = self.rest.as_ref().map(|rest| rest.carved().as_ref());
        let mut group = Group::new(disk, rest, self.ledger);
        let outcomes: Vec<Outcome> = batch
            .iter()
            .enumerate()
            .map(|(at, request)| take_in(&mut group, request, before.and_then(|before| before.get(at))))
            .collect();
        let limits = shared.limits();
        let trimmed = group.trim(&limits);
        let (changes, ledger) = group.finish();
        if let Some(why) = outcomes.iter().find_map(Outcome::disk_refuses) {
            return Err((outcomes, why));
        }
        // At another try what was written before may not have been synced.
        let recorded = (!changes.is_empty() || before.is_some())
            .then(|| disk.record(&changes, Lay::of(ledger.pending, limits.together_above)));
        let recorded = match recorded.transpose() {
            Ok(recorded) => recorded,
            Err(why) => return Err((outcomes, why)),
        };
        self.ledger = ledger;
        self.publish(trimmed);
        self.shared.set_refused(None);
        batch.drain(..).zip(outcomes).for_each(|(request, outcome)| answer(request, outcome));
        // Who was answered need not wait for this.
        recorded.map_or(Ok(()), Recorded::apply).map_err(|why| (Vec::new(), why))?;
        if let Some(copy) = &mut self.copy
            && let Err(why) = copy.follow(&changes)
        {
            self.give_up_copying(&why);
        }
        Ok(())
    }

    /// Returns when the disk takes writes again and the store is open anew, or with an error if it is being closed.
    fn wait_for_disk(&mut self, why: StoreError) -> Result<(), StoreError> {
        if self.shared.set_refused(Some(&why)) {
            tracing::error!(name: "disk_refuses", error = %why, "the disk refuses; what is not accepted yet is kept in memory and tried again");
        }
        self.copy = None;
        // After a failed write sled takes no more; what it could not write is in the group.
        drop(self.shared.take_disk());
        let mut why = why;
        loop {
            for _ in 0..TRY_AGAIN.as_millis() / NOTICE.as_millis() {
                if self.shared.is_closing() {
                    return Err(why);
                }
                std::thread::sleep(NOTICE);
            }
            match folder::takes_writes(&self.state_dir).and_then(|()| open(&self.state_dir)) {
                Ok((disk, ledger, mark)) => {
                    self.ledger = ledger;
                    if let Some(rest) = &mut self.rest {
                        rest.back_to(mark);
                    }
                    self.shared.put_disk(disk);
                    return Ok(());
                }
                Err(still @ StoreError::Io { .. }) => why = still,
                Err(worse) => {
                    tracing::error!(name: "store_reopen_failed", error = %worse, "the store cannot be opened anew");
                    self.shared.break_down(&worse);
                    return Err(worse);
                }
            }
        }
    }

    /// Begins a copy if the directory is large and has little in it.
    fn mind_size(&mut self) {
        let busy = self.copy.is_some() || self.rest.is_some();
        if !self.swaps || busy || self.ledger.pending > 0 || self.failed.is_some() {
            return;
        }
        let kept = self.ledger.dead + self.ledger.delivered;
        let bytes = self.shared.disk().as_ref().and_then(|disk| disk.bytes().ok()).unwrap_or_default();
        let limits = self.shared.limits();
        if bytes < limits.swap_bytes || bytes < kept.saturating_mul(Copy::WORTH_PER_ROW) {
            return;
        }
        // A second directory takes memory beside the first, and what was delivered leaves holes.
        memory::give_back();
        match Copy::begin(&self.state_dir, Lay::of(kept, limits.together_above)) {
            Ok(copy) => {
                tracing::info!(name: "store_swap_begun", bytes, "the store is empty and large: a fresh directory is made");
                self.copy = Some(copy);
            }
            Err(why) => self.give_up_copying(&why),
        }
    }

    /// Does some of what is done between the groups; whether there may be more to do.
    fn go_on(&mut self) -> bool {
        // One after the other: a copy holds what is here when it is made.
        if self.rest.is_some() { self.go_on_taking_in() } else { self.go_on_copying() }
    }

    /// Takes in some rows of a directory that was set aside.
    fn go_on_taking_in(&mut self) -> bool {
        let Some(rest) = self.rest.as_mut().filter(|_| self.failed.is_none()) else { return false };
        let slice = rest.slice(self.ledger, TAKEN_IN_AT_ONCE);
        // What is shown of it must outlive a power cut, as everything that can be read from here.
        let lay = Lay::of(slice.ledger.pending, self.shared.limits().together_above);
        let written = match self.shared.disk().as_ref() {
            Some(disk) => disk.record(&slice.changes, lay).and_then(Recorded::apply),
            None => Err(StoreError::Closed),
        };
        match written {
            Ok(()) => {
                self.ledger = slice.ledger;
                self.lost += slice.lost;
                let all = rest.all();
                let before = all - rest.left().total();
                rest.took(&slice);
                let done = all - rest.left().total();
                if rest.is_done() {
                    let lost = self.lost;
                    tracing::info!(name: "salvage_whole", all, lost, "all that could be read of the damaged store is taken in");
                    self.rest = None;
                } else if before / SAY_EVERY < done / SAY_EVERY {
                    tracing::info!(name: "salvage_taking_in", done, of = all, "rows of the damaged store are taken in");
                }
                self.shared.set_refused(None);
                self.publish(Trimmed::default());
                true
            }
            Err(why) => {
                self.trouble(why);
                self.failed.is_none()
            }
        }
    }

    /// Tells how much there is.
    fn publish(&self, trimmed: Trimmed) {
        self.shared.set_rest(&self.state_dir, self.rest.as_ref());
        self.shared.publish(&self.ledger, self.rest.as_ref(), trimmed);
    }

    /// Copies some rows; whether there may be more to do.
    fn go_on_copying(&mut self) -> bool {
        let Some(copy) = &mut self.copy else { return false };
        let copied = match self.shared.disk().as_ref() {
            Some(disk) => copy.some_rows(disk),
            None => Err(StoreError::Closed),
        };
        match copied {
            Ok(true) => true,
            Ok(false) => {
                self.swap();
                false
            }
            Err(why) => {
                self.give_up_copying(&why);
                false
            }
        }
    }

    /// The copy is whole: it takes the directory's place.
    fn swap(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        if let Err(why) = copy.finish() {
            return self.give_up_copying(&why);
        }
        let state_dir = self.state_dir.clone();
        // Readers wait meanwhile.
        let swapped = self.shared.exchange_disk(|old| {
            old.map_or(Ok(()), Disk::close)?;
            folder::replace(&state_dir)?;
            open(&state_dir).map(|(disk, ..)| disk)
        });
        memory::give_back();
        match swapped {
            Ok(bytes) => tracing::info!(name: "store_swapped", bytes, "the fresh directory is in place"),
            Err(why) => {
                tracing::warn!(name: "store_swap_delayed", error = %why, "the fresh directory could not take the old one's place yet");
                // Whichever is the store now is opened with the next group.
                if let Err(why) = self.wait_for_disk(why) {
                    tracing::error!(name: "store_not_open", error = %why, "the store is not open");
                }
            }
        }
    }

    fn give_up_copying(&mut self, why: &StoreError) {
        tracing::warn!(name: "store_swap_failed", reason = %why, "no fresh directory could be made; the large one stays in use");
        self.copy = None;
        // Not tried again before the next start: the disk would be written full for nothing.
        self.swaps = false;
        // What is left of it is removed at the next start as well.
        let _ = folder::clear_part(&self.state_dir);
    }

    /// Every group was recorded, so nothing can be lost any more.
    fn close(&mut self) -> Result<(), StoreError> {
        self.copy = None;
        // Leftovers are removed at the next start as well.
        let _ = folder::clear_part(&self.state_dir);
        let disk = self.shared.take_disk();
        match (self.failed.replace(StoreError::Closed), disk) {
            // sled would sync once more, and panic where that fails.
            (Some(why @ StoreError::NotSynced { .. }), disk) => {
                std::mem::forget(disk);
                Err(why)
            }
            (failed, disk) => failed.map_or(Ok(()), Err).and(disk.map_or(Ok(()), Disk::close)),
        }
    }
}

/// The store as it is on disk, what it counts, and what is still to be taken in.
pub(super) fn open(state_dir: &std::path::Path) -> Result<(Disk, Ledger, Option<Mark>), StoreError> {
    let disk = migrate::open(state_dir)?;
    let ledger = match disk.get(Tree::Meta, LEDGER)? {
        Some(value) => record::open::<Ledger>(Tree::Meta, LEDGER, &value)?,
        None => return Err(StoreError::damaged_file(disk.path(), "its ledger is missing")),
    };
    let mark = rest::mark_of(disk.get(Tree::Meta, REST)?)?;
    Ok((disk, ledger, mark))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::store::Limits;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_task_writes_unless_another_does_or_the_thread_waits_to() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, ledger, _) = open(dir.path()).unwrap();
        let limits = Limits {
            delivered_max: 1,
            delivered_age: Duration::MAX,
            dead_max: 1,
            dead_age: Duration::MAX,
            swap_bytes: u64::MAX,
            together_above: 1,
        };
        let desk = Desk::new(dir.path().into(), (ledger, None), Arc::new(Shared::new(disk, limits)));
        let (requests, _) = mpsc::channel(1);
        let writes = || {
            let (answer, _) = oneshot::channel();
            let request = Request::Settle { settles: Vec::new(), answer };
            desk.write_here(request, &requests).is_ok()
        };
        assert!(writes());
        {
            let _another = desk.writer.lock();
            assert!(!writes());
        }
        desk.awaited.store(true, Ordering::Relaxed);
        assert!(!writes());
        drop(desk.wait());
        assert!(writes());
        desk.wait().close().unwrap();
        assert!(!writes(), "the store is closed");
    }
}
