//! Lines: claimed, renewed, settled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::link::Link;
use super::{OutboxError, Settings};
use crate::store::{self, Pending};
use crate::time::UnixMillis;

/// Most events that are deleted at once.
const TRIM_MAX: i64 = 20_000;

/// So many events less wait in a call: `$1` Zammad, `$2` call, `$3` how many. Where none is left it is nobody's.
pub(super) const LESS: &str = "UPDATE outbox_line SET waiting = waiting - $3,
         owner = CASE WHEN waiting > $3 THEN owner END,
         lease_until = CASE WHEN waiting > $3 THEN lease_until END
     WHERE zammad = $1 AND call_id = $2 RETURNING call_id, fence, waiting";

/// A line that this node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Which call.
    pub call_id: String,
    /// How often it has changed hands.
    pub fence: i64,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Zammad has it, or it is not to be told.
    Delivered {
        /// When.
        at: UnixMillis,
        /// What a person may want to know of it.
        note: Option<String>,
    },
    /// It is given up.
    Dead {
        /// When.
        at: UnixMillis,
        /// Why.
        story: String,
    },
    /// A request that must not be blindly repeated is about to be sent.
    Attempt {
        /// When.
        at: UnixMillis,
    },
    /// It surely did not arrive.
    Unattempted,
    /// Zammad had lost the call of this restored event: it is one like any other.
    Missing,
}

/// What [`Link::settle`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Events of lines that this node has no more: for them nothing was recorded.
    pub lost: Vec<String>,
    /// Lines in which nothing waits any more: they are nobody's now.
    pub freed: Vec<Claimed>,
}

/// What [`Link::waiting`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Each call's in its order.
    pub events: Vec<Pending>,
    /// Rows that this program did not write so: the call, the event's identity, and what is wrong.
    pub unreadable: Vec<(String, String, String)>,
}

impl Link {
    /// Claims up to so many lines of a Zammad that nobody has: of `calls` if any are named, else half of them from those
    /// that began first and half from the latest, so that a call that goes on now is not behind a backlog.
    ///
    /// # Errors
    /// [`OutboxError`]; what was claimed all the same comes with [`Link::renew`].
    pub async fn claim(
        &mut self,
        zammad: &str,
        calls: &[String],
        limit: usize,
    ) -> Result<Vec<Claimed>, OutboxError> {
        self.ask(async |client, settings| claim(client, settings, zammad, calls, limit).await).await
    }

    /// Keeps every line of a Zammad that this node has and in which something waits, and returns them.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn renew(&mut self, zammad: &str) -> Result<Vec<Claimed>, OutboxError> {
        self.ask(async |client, Settings { owner, lease, .. }| {
            let kept = "UPDATE outbox_line SET lease_until = now() + $3 * interval '1 second'
                 WHERE zammad = $1 AND owner = $2 AND waiting > 0 RETURNING call_id, fence";
            Ok(claimed(&client.query(kept, &[&zammad, owner, &lease.as_secs_f64()]).await?))
        })
        .await
    }

    /// The events that wait in these calls and are not among the `known`.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn waiting(
        &mut self,
        zammad: &str,
        calls: &[String],
        known: &[String],
    ) -> Result<Waiting, OutboxError> {
        self.ask(async |client, _| {
            let new = "SELECT event_id, payload, attempt_ms, held, restored, call_id FROM outbox_event
                 WHERE zammad = $1 AND call_id = ANY($2) AND state = 'pending' AND event_id <> ALL($3)
                 ORDER BY call_id, step, happened_ms, place, event_id";
            let mut found = Waiting::default();
            for row in &client.query(new, &[&zammad, &calls, &known]).await? {
                match event(row) {
                    Ok(event) => found.events.push(event),
                    Err(why) => found.unreadable.push((row.get(5), row.get(0), why)),
                }
            }
            Ok(found)
        })
        .await
    }

    /// Records what became of events of lines that this node has.
    ///
    /// # Errors
    /// [`OutboxError`]; then it may be recorded all the same, and can be given to it again.
    pub async fn settle(
        &mut self,
        zammad: &str,
        settles: &[(Claimed, String, Settled)],
    ) -> Result<Recorded, OutboxError> {
        self.ask(async |client, settings| settle(client, &settings.owner, zammad, settles).await).await
    }

    /// Deletes what is over for longer than it is kept, and calls of which nothing is left. Returns how many events.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn trim(&mut self, zammad: &str, now: UnixMillis) -> Result<u64, OutboxError> {
        let before = |keep: Duration| {
            i64::try_from(now.0.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)))
                .unwrap_or(0)
        };
        self.ask(async |client, Settings { delivered_keep, dead_keep, .. }| {
            let mut gone = 0;
            for (state, keep) in [("delivered", *delivered_keep), ("dead", *dead_keep)] {
                let old = "DELETE FROM outbox_event WHERE event_id IN (
                         SELECT event_id FROM outbox_event WHERE state = $1 AND settled_ms < $2 AND zammad = $3
                         LIMIT $4)";
                gone += client.execute(old, &[&state, &before(keep), &zammad, &TRIM_MAX]).await?;
            }
            let empty = "DELETE FROM outbox_line l WHERE l.zammad = $1 AND l.waiting = 0
                     AND l.began < now() - interval '1 day'
                     AND NOT EXISTS (SELECT 1 FROM outbox_event e
                                     WHERE e.zammad = l.zammad AND e.call_id = l.call_id)";
            client.execute(empty, &[&zammad]).await?;
            Ok(gone)
        })
        .await
    }

    /// Lets go of these lines, or of all, in order that others need not wait for the lease to end.
    ///
    /// # Errors
    /// [`OutboxError`]; then the lease ends by itself.
    pub async fn let_go(&mut self, zammad: &str, calls: Option<&[String]>) -> Result<(), OutboxError> {
        self.ask(async |client, settings| {
            let free = "UPDATE outbox_line SET owner = NULL, lease_until = NULL
                 WHERE zammad = $1 AND owner = $2 AND ($3::text[] IS NULL OR call_id = ANY($3))";
            client.execute(free, &[&zammad, &settings.owner, &calls]).await.map(drop)
        })
        .await
    }
}

async fn claim(
    client: &mut Client,
    Settings { owner, lease, .. }: &Settings,
    zammad: &str,
    calls: &[String],
    limit: usize,
) -> Result<Vec<Claimed>, tokio_postgres::Error> {
    let lease = lease.as_secs_f64();
    let take = |which: &str| {
        format!(
            "UPDATE outbox_line SET owner = $2, fence = fence + 1, lease_until = now() + $3 * interval '1 second'
             WHERE zammad = $1 AND call_id IN (
                 SELECT call_id FROM outbox_line
                 WHERE zammad = $1 AND waiting > 0 AND (owner IS NULL OR lease_until < now()) {which} LIMIT $4
                 FOR UPDATE SKIP LOCKED)
             RETURNING call_id, fence"
        )
    };
    if !calls.is_empty() {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let named = take("AND call_id = ANY($5)");
        return Ok(claimed(&client.query(&named, &[&zammad, owner, &lease, &most, &calls]).await?));
    }
    let (latest, first) = (limit / 2, limit - limit / 2);
    let mut all = Vec::new();
    for (which, most) in [("ORDER BY began DESC", latest), ("ORDER BY began", first)] {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        all.extend(claimed(&client.query(&take(which), &[&zammad, owner, &lease, &most]).await?));
    }
    Ok(all)
}

async fn settle(
    client: &mut Client,
    owner: &str,
    zammad: &str,
    settles: &[(Claimed, String, Settled)],
) -> Result<Recorded, tokio_postgres::Error> {
    let calls: BTreeSet<&str> = settles.iter().map(|(line, _, _)| line.call_id.as_str()).collect();
    let calls: Vec<&str> = calls.into_iter().collect();
    let change = client.transaction().await?;
    // From here to the end nobody takes one of them over.
    let ours = change
        .query(
            "SELECT call_id, fence FROM outbox_line WHERE zammad = $1 AND call_id = ANY($2) AND owner = $3
             ORDER BY call_id FOR UPDATE",
            &[&zammad, &calls, &owner],
        )
        .await?;
    let fences: BTreeMap<&str, i64> = ours.iter().map(|row| (row.get(0), row.get(1))).collect();
    let (mine, lost): (Vec<_>, Vec<_>) =
        settles.iter().partition(|(line, _, _)| fences.get(line.call_id.as_str()) == Some(&line.fence));
    let mut ended = BTreeMap::<&str, i64>::new();
    for (line, id, settled) in mine {
        let at = |at: &UnixMillis| i64::try_from(at.0).unwrap_or(i64::MAX);
        let (state, ms, note) = match settled {
            Settled::Delivered { at: ms, note } => ("delivered", at(ms), note.as_deref()),
            Settled::Dead { at: ms, story } => ("dead", at(ms), Some(story.as_str())),
            Settled::Attempt { at: ms } => {
                let begun =
                    "UPDATE outbox_event SET attempt_ms = $2 WHERE event_id = $1 AND state = 'pending'";
                change.execute(begun, &[id, &at(ms)]).await?;
                continue;
            }
            Settled::Unattempted => {
                let back = "UPDATE outbox_event SET attempt_ms = NULL WHERE event_id = $1";
                change.execute(back, &[id]).await?;
                continue;
            }
            Settled::Missing => {
                let plain = "UPDATE outbox_event SET restored = false, attempt_ms = NULL WHERE event_id = $1";
                change.execute(plain, &[id]).await?;
                continue;
            }
        };
        let over = "UPDATE outbox_event SET state = $2, settled_ms = $3, note = $4, settled_by = $5
             WHERE event_id = $1 AND state = 'pending'";
        let rows = change.execute(over, &[id, &state, &ms, &note, &owner]).await?;
        *ended.entry(&line.call_id).or_default() += i64::try_from(rows).unwrap_or(0);
    }
    let mut freed = Vec::new();
    for (call, count) in ended {
        let left = change.query(LESS, &[&zammad, &call, &count]).await?;
        freed.extend(claimed(&left).into_iter().filter(|_| left.iter().all(|row| row.get::<_, i64>(2) == 0)));
    }
    change.commit().await?;
    Ok(Recorded { lost: lost.into_iter().map(|(_, id, _)| id.clone()).collect(), freed })
}

fn claimed(rows: &[Row]) -> Vec<Claimed> {
    rows.iter().map(|row| Claimed { call_id: row.get(0), fence: row.get(1) }).collect()
}

/// From the columns `event_id, payload, attempt_ms, held, restored`, in this order.
pub(super) fn event(row: &Row) -> Result<Pending, String> {
    let mut pending = store::read_payload(row.get(1))?;
    pending.attempt = row.get::<_, Option<i64>>(2).map(|at| UnixMillis(u64::try_from(at).unwrap_or(0)));
    (pending.held, pending.restored) = (row.get(3), row.get(4));
    Ok(pending)
}
