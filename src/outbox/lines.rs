//! Lines: claimed, renewed, settled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::link::{Link, Session};
use super::ship::tell;
use super::{OutboxError, Settings};
use crate::store::{self, Pending};
use crate::time::UnixMillis;

/// Most events that are deleted at once.
const TRIM_MAX: i64 = 20_000;

/// Of the lines that nobody has some; `which` says of which.
macro_rules! claim {
    ($which:literal) => {
        concat!(
            "UPDATE outbox_line SET owner = $2, fence = fence + 1, lease_until = now() + $3 * interval '1 second'
             WHERE zammad = $1 AND call_id IN (
                 SELECT call_id FROM outbox_line
                 WHERE zammad = $1 AND waiting > 0 AND (owner IS NULL OR lease_until < now()) ",
            $which,
            " LIMIT $4 FOR UPDATE SKIP LOCKED)
             RETURNING call_id, fence"
        )
    };
}
const CLAIM_NAMED: &str = claim!("AND call_id = ANY($5)");
const CLAIM_LATEST: &str = claim!("ORDER BY began DESC");
const CLAIM_FIRST: &str = claim!("ORDER BY began");
const RENEW: &str = "\
    UPDATE outbox_line SET lease_until = now() + $3 * interval '1 second'
    WHERE zammad = $1 AND owner = $2 AND waiting > 0 AND call_id <> ALL($4) RETURNING call_id, fence";
const FREE: &str = "\
    UPDATE outbox_line SET owner = NULL, lease_until = NULL
    WHERE zammad = $1 AND owner = $2 AND (call_id, fence) IN (SELECT * FROM unnest($3::text[], $4::bigint[]))";
const WAITING: &str = "\
    SELECT event_id, payload, attempt_ms, held, restored, call_id FROM outbox_event
    WHERE zammad = $1 AND call_id = ANY($2) AND state = 'pending' AND event_id <> ALL($3)
    ORDER BY call_id, step, happened_ms, place, event_id";
const HOLD: &str = "\
    SELECT call_id, fence FROM outbox_line WHERE zammad = $1 AND call_id = ANY($2) AND owner = $3
    ORDER BY call_id FOR UPDATE";
const MISSING: &str = "UPDATE outbox_event SET restored = false WHERE event_id = ANY($1)";
const ATTEMPT: &str = "\
    UPDATE outbox_event SET attempt_ms = n.attempt_ms
    FROM unnest($1::text[], $2::bigint[]) AS n (event_id, attempt_ms)
    WHERE outbox_event.event_id = n.event_id AND (state = 'pending' OR n.attempt_ms IS NULL)";
const OVER: &str = "\
    UPDATE outbox_event SET state = n.state, settled_ms = n.settled_ms, note = n.note, settled_by = $5
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS n (event_id, state, settled_ms, note)
    WHERE outbox_event.event_id = n.event_id AND outbox_event.state = 'pending'
    RETURNING outbox_event.call_id";
/// So many events less wait in these calls of a Zammad. Where none is left it is nobody's.
pub(super) const LESS: &str = "\
    UPDATE outbox_line SET waiting = waiting - n.count,
        owner = CASE WHEN waiting > n.count THEN owner END,
        lease_until = CASE WHEN waiting > n.count THEN lease_until END
    FROM unnest($2::text[], $3::bigint[]) AS n (call_id, count)
    WHERE zammad = $1 AND outbox_line.call_id = n.call_id
    RETURNING outbox_line.call_id, fence, waiting";

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
        self.ask(async |session, settings| claim(session, settings, zammad, calls, limit).await).await
    }

    /// Keeps every line of a Zammad that this node has and in which something waits, but for these calls, and returns them.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn renew(&mut self, zammad: &str, but: &[String]) -> Result<Vec<Claimed>, OutboxError> {
        self.ask(async |session, Settings { owner, lease, .. }| {
            let keep = session.prepare(RENEW).await?;
            let kept = session.client.query(&keep, &[&zammad, owner, &lease.as_secs_f64(), &but]).await?;
            Ok(claimed(&kept))
        })
        .await
    }

    /// Gives lines back that this node has, in order that others need not wait for the lease to end, and tells them.
    ///
    /// # Errors
    /// [`OutboxError`]; then the lease ends by itself, if it is not renewed.
    pub async fn free(&mut self, zammad: &str, lines: &[Claimed]) -> Result<(), OutboxError> {
        self.ask(async |session, settings| {
            let calls: Vec<&str> = lines.iter().map(|line| line.call_id.as_str()).collect();
            let fences: Vec<i64> = lines.iter().map(|line| line.fence).collect();
            let (free, tells) = (session.prepare(FREE).await?, session.tells);
            let change = session.client.transaction().await?;
            change.execute(&free, &[&zammad, &settings.owner, &calls, &fences]).await?;
            let names = calls.iter().map(|call| (zammad.to_owned(), (*call).to_owned()));
            tell(&change, tells, &names.collect::<Vec<_>>()).await?;
            change.commit().await
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
        self.ask(async |session, _| {
            let new = session.prepare(WAITING).await?;
            let mut found = Waiting::default();
            for row in &session.client.query(&new, &[&zammad, &calls, &known]).await? {
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
        self.ask(async |session, settings| settle(session, &settings.owner, zammad, settles).await).await
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
        self.ask(async |Session { client, .. }, Settings { delivered_keep, dead_keep, .. }| {
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

    /// Lets go of all lines, in order that others need not wait for the lease to end.
    ///
    /// # Errors
    /// [`OutboxError`]; then the lease ends by itself.
    pub async fn let_go(&mut self, zammad: &str) -> Result<(), OutboxError> {
        self.ask(async |Session { client, .. }, settings| {
            let free =
                "UPDATE outbox_line SET owner = NULL, lease_until = NULL WHERE zammad = $1 AND owner = $2";
            client.execute(free, &[&zammad, &settings.owner]).await.map(drop)
        })
        .await
    }
}

async fn claim(
    session: &mut Session,
    Settings { owner, lease, .. }: &Settings,
    zammad: &str,
    calls: &[String],
    limit: usize,
) -> Result<Vec<Claimed>, tokio_postgres::Error> {
    let lease = lease.as_secs_f64();
    let most = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    if !calls.is_empty() {
        let named = session.prepare(CLAIM_NAMED).await?;
        let of: &[&(dyn ToSql + Sync)] = &[&zammad, owner, &lease, &most(limit), &calls];
        return Ok(claimed(&session.client.query(&named, of).await?));
    }
    let (latest, first) = (limit / 2, limit - limit / 2);
    let mut all = Vec::new();
    for (which, limit) in [(CLAIM_LATEST, latest), (CLAIM_FIRST, first)] {
        let take = session.prepare(which).await?;
        all.extend(claimed(&session.client.query(&take, &[&zammad, owner, &lease, &most(limit)]).await?));
    }
    Ok(all)
}

async fn settle(
    session: &mut Session,
    owner: &str,
    zammad: &str,
    settles: &[(Claimed, String, Settled)],
) -> Result<Recorded, tokio_postgres::Error> {
    let calls: BTreeSet<&str> = settles.iter().map(|(line, _, _)| line.call_id.as_str()).collect();
    let calls: Vec<&str> = calls.into_iter().collect();
    let (hold, attempt) = (session.prepare(HOLD).await?, session.prepare(ATTEMPT).await?);
    let (missing, over) = (session.prepare(MISSING).await?, session.prepare(OVER).await?);
    let less = session.prepare(LESS).await?;
    let change = session.client.transaction().await?;
    // From here to the end nobody takes one of them over.
    let ours = change.query(&hold, &[&zammad, &calls, &owner]).await?;
    let fences: BTreeMap<&str, i64> = ours.iter().map(|row| (row.get(0), row.get(1))).collect();
    let (mine, lost): (Vec<_>, Vec<_>) =
        settles.iter().partition(|(line, _, _)| fences.get(line.call_id.as_str()) == Some(&line.fence));
    let said = Said::of(mine.into_iter().map(|(_, id, settled)| (id.as_str(), settled)));
    if !said.missing.is_empty() {
        change.execute(&missing, &[&said.missing]).await?;
    }
    if !said.attempts.is_empty() {
        let (ids, at): (Vec<&str>, Vec<Option<i64>>) = said.attempts.into_iter().unzip();
        change.execute(&attempt, &[&ids, &at]).await?;
    }
    let mut freed = Vec::new();
    if !said.over.is_empty() {
        let (ids, how): (Vec<&str>, Vec<Over<'_>>) = said.over.into_iter().unzip();
        let states: Vec<&str> = how.iter().map(|over| over.state).collect();
        let at: Vec<i64> = how.iter().map(|over| over.at).collect();
        let notes: Vec<Option<&str>> = how.iter().map(|over| over.note).collect();
        let rows = change.query(&over, &[&ids, &states, &at, &notes, &owner]).await?;
        let mut ended = BTreeMap::<&str, i64>::new();
        for row in &rows {
            *ended.entry(row.get(0)).or_default() += 1;
        }
        let (calls, counts): (Vec<&str>, Vec<i64>) = ended.into_iter().unzip();
        let left = change.query(&less, &[&zammad, &calls, &counts]).await?;
        let empty: Vec<Row> = left.into_iter().filter(|row| row.get::<_, i64>(2) == 0).collect();
        freed = claimed(&empty);
    }
    change.commit().await?;
    Ok(Recorded { lost: lost.into_iter().map(|(_, id, _)| id.clone()).collect(), freed })
}

/// What was said of each event, one thing after the other.
#[derive(Default)]
struct Said<'a> {
    missing: Vec<&'a str>,
    /// When the attempt was begun that is not known to have failed.
    attempts: BTreeMap<&'a str, Option<i64>>,
    over: BTreeMap<&'a str, Over<'a>>,
}

struct Over<'a> {
    state: &'static str,
    at: i64,
    note: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn of(settles: impl Iterator<Item = (&'a str, &'a Settled)>) -> Self {
        let mut said = Self::default();
        let ms = |at: &UnixMillis| i64::try_from(at.0).unwrap_or(i64::MAX);
        for (id, settled) in settles {
            match settled {
                Settled::Delivered { at, note } => {
                    said.over.entry(id).or_insert(Over {
                        state: "delivered",
                        at: ms(at),
                        note: note.as_deref(),
                    });
                }
                Settled::Dead { at, story } => {
                    said.over.entry(id).or_insert(Over { state: "dead", at: ms(at), note: Some(story) });
                }
                Settled::Attempt { at } => {
                    said.attempts.insert(id, Some(ms(at)));
                }
                Settled::Unattempted => {
                    said.attempts.insert(id, None);
                }
                Settled::Missing => {
                    said.attempts.insert(id, None);
                    said.missing.push(id);
                }
            }
        }
        said
    }
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
