//! Records in the shared outbox what became of events.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc};

use super::table::{Table, lock};
use super::{AGAIN, Job};
use crate::edge::source::Unrecorded;
use crate::outbox::{Claimed, Link, Settled};
use crate::store::{Seq, Settle};

/// Most outcomes that are recorded at once.
const SETTLE_MAX: usize = 256;

/// Records what became of events, in the order in which it was said.
pub(super) struct Recorder {
    pub(super) zammad: String,
    pub(super) link: Link,
    pub(super) table: Arc<Mutex<Table>>,
    pub(super) room: Arc<Notify>,
}

impl Recorder {
    pub(super) async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let mut batch = vec![first];
            while batch.iter().map(|job| job.settles.len()).sum::<usize>() < SETTLE_MAX
                && let Ok(next) = jobs.try_recv()
            {
                batch.push(next);
            }
            let lost = self.record(&batch).await;
            for job in batch {
                let any = job.settles.iter().any(|settle| lost.contains(&seq_of(settle).0));
                // Whoever does not wait for it needs no answer.
                let _ = job.answer.send(if any { Err(Unrecorded::Lost) } else { Ok(()) });
            }
            self.room.notify_one();
        }
        // The drain has ended: others need not wait for the lease. If that fails, they do.
        let _ = self.link.let_go(&self.zammad, None).await;
    }

    /// Tries until it is recorded or not ours any more. The positions of which nothing could be recorded.
    async fn record(&mut self, batch: &[Job]) -> BTreeSet<u64> {
        let mut failures = 0;
        let mut lost = BTreeSet::new();
        let mut left: Vec<(u64, String, Settled)> = Vec::new();
        for settle in batch.iter().flat_map(|job| &job.settles) {
            let seq = seq_of(settle).0;
            let held = lock(&self.table).events.get(&seq).map(|held| held.id.clone());
            match (held, outcome(settle)) {
                (Some(id), Some(settled)) => left.push((seq, id, settled)),
                (None, _) => {
                    lost.insert(seq);
                }
                (Some(_), None) => {}
            }
        }
        loop {
            let ours: Vec<(Claimed, String, Settled)> = {
                let mut table = lock(&self.table);
                let (mine, gone): (Vec<_>, Vec<_>) =
                    left.into_iter().partition(|(seq, _, _)| table.events.contains_key(seq));
                left = mine;
                for (seq, id, settled) in gone {
                    lost.insert(seq);
                    table.remember(id, settled);
                }
                let claimed = |(seq, id, settled): &(u64, String, Settled)| {
                    let call_id = table.events[seq].call_id.clone();
                    let fence = table.lines.get(&call_id).map_or(-1, |line| line.fence);
                    (Claimed { call_id, fence }, id.clone(), settled.clone())
                };
                left.iter().map(claimed).collect()
            };
            if ours.is_empty() {
                return lost;
            }
            match self.link.settle(&self.zammad, &ours).await {
                Ok(recorded) => {
                    let mut table = lock(&self.table);
                    table.free(recorded.freed);
                    for (seq, id, settled) in left {
                        if recorded.lost.contains(&id) {
                            lost.insert(seq);
                            table.remember(id, settled);
                        } else if matches!(settled, Settled::Delivered { .. } | Settled::Dead { .. }) {
                            table.end(seq);
                        }
                    }
                    return lost;
                }
                Err(_) => {
                    // The claiming side says why, and lets go of what is ours no more.
                    failures += 1;
                    tokio::time::sleep(AGAIN.wait(failures, fastrand::f64())).await;
                }
            }
        }
    }
}

fn seq_of(settle: &Settle) -> Seq {
    match settle {
        Settle::Delivered { seq, .. }
        | Settle::Dead { seq, .. }
        | Settle::Attempt { seq, .. }
        | Settle::Unattempted { seq }
        | Settle::Held { seq, .. }
        | Settle::Missing { seq }
        | Settle::Removed { seq } => *seq,
    }
}

/// What a drain says of an event; it holds and removes none.
fn outcome(settle: &Settle) -> Option<Settled> {
    match settle {
        Settle::Delivered { at, note, .. } => Some(Settled::Delivered { at: *at, note: note.clone() }),
        Settle::Dead { at, story, .. } => Some(Settled::Dead { at: *at, story: story.clone() }),
        Settle::Attempt { at, .. } => Some(Settled::Attempt { at: *at }),
        Settle::Unattempted { .. } => Some(Settled::Unattempted),
        Settle::Missing { .. } => Some(Settled::Missing),
        Settle::Held { .. } | Settle::Removed { .. } => None,
    }
}
