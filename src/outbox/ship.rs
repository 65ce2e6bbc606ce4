//! Taking events in.

use std::collections::BTreeMap;

use tokio_postgres::{Statement, Transaction};

use super::OutboxError;
use super::link::{CHANNEL, Link, Session};
use crate::cti::event::What;
use crate::store::{self, Pending, Seq};

/// Longest word of new events: NOTIFY takes 8000 bytes.
const WORD_MAX: usize = 7_000;
/// What an event is noted with that came after its call's hangup was told: Zammad would not take it in.
const TOO_LATE: &str = "not sent: it came after the call's hangup";

/// Locks these lines, in the order in which everybody does: nothing of them is settled from here to the end.
pub(super) const HOLD: &str = "\
    SELECT call_id FROM outbox_line WHERE (zammad, call_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
    ORDER BY zammad, call_id FOR UPDATE";
/// What is new, each row once.
const INSERT: &str = "\
    INSERT INTO outbox_event (event_id, zammad, call_id, step, happened_ms, payload, attempt_ms, held, restored,
                              place, shipped_by, state, note, settled_ms)
    SELECT n.event_id, n.zammad, n.call_id, n.step, n.happened_ms, n.payload, n.attempt_ms, n.held, n.restored,
           n.place, $10, CASE WHEN late.so THEN 'delivered' ELSE 'pending' END,
           CASE WHEN late.so THEN $11 END, CASE WHEN late.so THEN n.happened_ms END
    FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::text[], $7::bigint[],
                $8::boolean[], $9::boolean[], $12::bigint[])
         AS n (event_id, zammad, call_id, step, happened_ms, payload, attempt_ms, held, restored, place)
    CROSS JOIN LATERAL (SELECT n.step < 2 AND EXISTS (
        SELECT 1 FROM outbox_event e WHERE e.zammad = n.zammad AND e.call_id = n.call_id AND e.step = 2
                                       AND e.state <> 'pending') AS so) AS late
    ORDER BY n.event_id
    ON CONFLICT (event_id) DO NOTHING
    RETURNING zammad, call_id, state";
/// More waits in these lines.
pub(super) const ADD: &str = "\
    INSERT INTO outbox_line (zammad, call_id, waiting)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (zammad, call_id, waiting)
    ORDER BY zammad, call_id
    ON CONFLICT (zammad, call_id) DO UPDATE SET waiting = outbox_line.waiting + excluded.waiting";

impl Link {
    /// Takes these events in, each with its place in this node's store, all or none; returns how many were not there yet.
    /// What was there stays as it is.
    ///
    /// # Errors
    /// [`OutboxError`]; then it may have taken them in all the same, and they can be given to it again.
    pub async fn ship(&mut self, events: &[(Seq, Pending)]) -> Result<u64, OutboxError> {
        self.ask(async |session, settings| ship(session, &settings.node, events).await).await
    }
}

/// Columns of the rows to be taken in, in one order at every node, so that two of them never wait for each other.
async fn ship(
    session: &mut Session,
    node: &str,
    events: &[(Seq, Pending)],
) -> Result<u64, tokio_postgres::Error> {
    let mut rows: Vec<&(Seq, Pending)> = events.iter().collect();
    rows.sort_by(|a, b| a.1.id.cmp(&b.1.id));
    let (places, events): (Vec<_>, Vec<_>) =
        rows.into_iter().map(|(seq, event)| (moment(seq.0), event)).unzip();
    let column = |of: fn(&Pending) -> String| events.iter().map(|event| of(event)).collect::<Vec<_>>();
    let steps: Vec<i16> = events.iter().map(|event| step(&event.event.what)).collect();
    let happened: Vec<i64> = events.iter().map(|event| moment(event.happened.0)).collect();
    let attempts: Vec<Option<i64>> =
        events.iter().map(|event| event.attempt.map(|at| moment(at.0))).collect();
    let held: Vec<bool> = events.iter().map(|event| event.held).collect();
    let restored: Vec<bool> = events.iter().map(|event| event.restored).collect();

    let (zammads, calls) =
        (column(|event| event.zammad.clone()), column(|event| event.event.call_id.to_string()));

    let (hold, insert) = (session.prepare(HOLD).await?, session.prepare(INSERT).await?);
    let (add, tells) = (session.prepare(ADD).await?, session.tells);
    let change = session.client.transaction().await?;
    // So that what is late is seen to be.
    change.execute(&hold, &[&zammads, &calls]).await?;
    let new = change
        .query(
            &insert,
            &[
                &column(|event| event.id.clone()),
                &zammads,
                &calls,
                &steps,
                &happened,
                &column(store::payload),
                &attempts,
                &held,
                &restored,
                &node,
                &TOO_LATE,
                &places,
            ],
        )
        .await?;
    let mut lines = BTreeMap::<(String, String), i64>::new();
    for row in new.iter().filter(|row| row.get::<_, &str>(2) == "pending") {
        *lines.entry((row.get(0), row.get(1))).or_default() += 1;
    }
    wait(&change, &add, tells, lines).await?;
    change.commit().await?;
    Ok(new.len() as u64)
}

/// So many more events of these calls wait, by [`ADD`]; whoever listens is told.
pub(super) async fn wait(
    change: &Transaction<'_>,
    add: &Statement,
    tells: bool,
    lines: BTreeMap<(String, String), i64>,
) -> Result<(), tokio_postgres::Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let (names, counts): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
    let (zammads, calls): (Vec<_>, Vec<_>) = names.iter().cloned().unzip();
    change.execute(add, &[&zammads, &calls, &counts]).await?;
    tell(change, tells, &names).await
}

fn moment(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Wakes whoever listens, when the transaction is through; nobody where the engine `tells` nobody.
pub(super) async fn tell(
    change: &Transaction<'_>,
    tells: bool,
    calls: &[(String, String)],
) -> Result<(), tokio_postgres::Error> {
    if !tells {
        return Ok(());
    }
    let word = serde_json::to_string(calls).expect("a list of texts always serializes");
    let word = if word.len() > WORD_MAX { String::new() } else { word };
    change.execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &word]).await.map(drop)
}

const fn step(what: &What) -> i16 {
    match what {
        What::NewCall { .. } => 0,
        What::Answer { .. } => 1,
        What::Hangup { .. } => 2,
    }
}
