//! The one thread that writes. It takes everything that waits for it, up to [`GROUP_MAX`] requests, commits it
//! as one transaction, syncs once, and answers all. Knows no rows: [`Group`] turns requests into changes.
//!
//! After a failed commit or sync the writer writes no more and answers everything with that first error: a
//! second `fdatasync` that succeeds says nothing about what the first one lost.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::error::StoreError;
use super::group::{Group, NewEvent, NewState};
use super::record::Ledger;
use super::sled::Disk;
use super::{Limits, Pending, Seq, Settle, Shared};
use crate::time::UnixMillis;

/// Most requests in one group, and most that wait for the next: bounds the memory of a transaction and the
/// time that its first request waits.
pub(super) const GROUP_MAX: usize = 256;

/// Where a request's outcome goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the handle asks for. Sizes were checked there.
pub(super) enum Request {
    Accept { events: Vec<NewEvent>, state: Vec<NewState>, answer: Answer<Vec<Option<Seq>>> },
    Settle { settles: Vec<Settle>, answer: Answer<()> },
    Revive { seqs: Vec<Seq>, answer: Answer<Vec<(Seq, Pending)>> },
    Trim { now: UnixMillis, answer: Answer<()> },
    Close { answer: Answer<()> },
}

/// Works until it is told to close, or until every handle is gone.
pub(super) fn run(
    mut requests: mpsc::Receiver<Request>,
    ledger: Ledger,
    limits: Limits,
    shared: Arc<Shared>,
) {
    let mut writer = Writer { ledger, limits, failed: None, shared };
    let mut close = None;
    while close.is_none()
        && let Some(first) = requests.blocking_recv()
    {
        close = writer.write_group(first, &mut requests);
    }
    // What still waits is answered with `Closed`.
    drop(requests);
    let closed = writer.close();
    match (close, closed) {
        // Whoever asked to close may have gone away meanwhile; then nobody wants to know.
        (Some(answer), closed) => drop(answer.send(closed)),
        (None, Err(error)) => tracing::error!(%error, "store not closed cleanly"),
        (None, Ok(())) => {}
    }
}

struct Writer {
    ledger: Ledger,
    limits: Limits,
    /// The first write that failed: nothing is written after it.
    failed: Option<StoreError>,
    shared: Arc<Shared>,
}

/// Tells one caller, given how the write went.
type Reply = Box<dyn FnOnce(Result<(), StoreError>)>;

impl Writer {
    /// Writes `first` and what waits behind it. Returns whom to tell of the close, if one was asked for.
    fn write_group(&mut self, first: Request, requests: &mut mpsc::Receiver<Request>) -> Option<Answer<()>> {
        let shared = Arc::clone(&self.shared);
        let disk = shared.disk();
        let disk = disk.as_ref().expect("only the writer takes the disk away, when it ends");
        let mut group = Group::new(disk, self.ledger);
        let mut when_committed: Vec<Reply> = Vec::new();
        let mut when_synced: Vec<Reply> = Vec::new();
        let mut close = None;
        let mut next = Some(first);
        for _ in 0..GROUP_MAX {
            match next.take().or_else(|| requests.try_recv().ok()) {
                Some(Request::Accept { events, state, answer }) => {
                    when_synced.push(reply(answer, group.accept(events, state)));
                }
                Some(Request::Settle { settles, answer }) => {
                    let durable = settles.iter().any(|s| matches!(s, Settle::Attempt { .. }));
                    let reply = reply(answer, group.settle(settles));
                    if durable { when_synced.push(reply) } else { when_committed.push(reply) }
                }
                Some(Request::Revive { seqs, answer }) => when_synced.push(reply(answer, group.revive(seqs))),
                Some(Request::Trim { now, answer }) => {
                    group.saw(now);
                    when_committed.push(reply(answer, Ok(())));
                }
                Some(Request::Close { answer }) => {
                    close = Some(answer);
                    break;
                }
                None => break,
            }
        }
        let trimmed = group.trim(&self.limits);
        let (changes, ledger) = group.finish();

        let mut written = self.failed.clone().map_or(Ok(()), Err);
        if written.is_ok() && !changes.is_empty() {
            written = disk.commit(&changes);
            if written.is_ok() {
                self.ledger = ledger;
                self.shared.publish(&ledger, trimmed);
            }
        }
        tell(when_committed, &written);
        if written.is_ok() && !changes.is_empty() {
            written = disk.sync();
        }
        if let (None, Err(error)) = (&self.failed, &written) {
            self.shared.mind(error);
            tracing::error!(%error, "store failed; nothing more is written until it is opened again");
            self.failed = Some(error.clone());
        }
        tell(when_synced, &written);
        close
    }

    /// Every group was synced, so there is nothing left to write.
    fn close(self) -> Result<(), StoreError> {
        let released = self.shared.take_disk().map_or(Ok(()), Disk::close);
        self.failed.map_or(Ok(()), Err).and(released)
    }
}

fn reply<T: 'static>(answer: Answer<T>, outcome: Result<T, StoreError>) -> Reply {
    // A caller that stopped waiting is no fault: what it asked for is written all the same.
    Box::new(move |written| drop(answer.send(written.and(outcome))))
}

fn tell(replies: Vec<Reply>, written: &Result<(), StoreError>) {
    for reply in replies {
        reply(written.clone());
    }
}
