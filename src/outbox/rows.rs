//! Events as an operator sees them, and an operator's orders about them. Each order is one transaction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Row, Transaction};

use super::fleet::name_of;
use super::link::Session;
use super::{Link, OutboxError, lines, ship};
use crate::store::Pending;
use crate::time::UnixMillis;

/// What is told of an event, in the order in which [`entry`] reads it.
pub(super) const COLUMNS: &str = "event_id, payload, attempt_ms, held, restored, call_id, zammad, state, settled_ms, note, \
                                  shipped_by, settled_by, happened_ms";

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be delivered.
    Pending,
    /// Given up.
    Dead,
    /// Delivered and kept.
    Delivered,
}

impl State {
    /// As the table has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Dead => "dead",
            Self::Delivered => "delivered",
        }
    }
}

/// An event in the outbox, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its identity, the same at every node.
    pub id: String,
    /// Which Zammad.
    pub zammad: String,
    /// Which call.
    pub call_id: String,
    /// When it happened.
    pub happened: UnixMillis,
    /// The event; or why it cannot be read.
    pub event: Result<Pending, String>,
    /// Where it stands.
    pub state: State,
    /// Since when, if it is over.
    pub settled: Option<UnixMillis>,
    /// What a person may want to know of that.
    pub note: Option<String>,
    /// The node that brought it.
    pub shipped_by: String,
    /// The node that said so, if it is over.
    pub settled_by: Option<String>,
}

/// Where a page of events ends and the next begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// The last one's Zammad.
    pub zammad: String,
    /// When it happened; of those that are over, when they were settled. In ms since 1970.
    pub ms: i64,
    /// Its identity.
    pub id: String,
}

/// Which events: those with these identities, and those of this call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Identities.
    pub ids: Vec<String>,
    /// A call, at one of these Zammads.
    pub call: Option<String>,
    /// The Zammads by their configured names; without them a call would be looked for in every row.
    pub zammads: Vec<String>,
}

/// What a node that has an event must know of an operator's orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which event.
    pub id: String,
    /// Whether it waits until a person lets it go on.
    pub held: bool,
}

impl Link {
    /// Up to `limit` events that stand so, behind `after`: by Zammad, oldest first.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn list(
        &mut self,
        state: State,
        after: &After,
        limit: usize,
    ) -> Result<Vec<Entry>, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let time = match state {
                State::Pending => "happened_ms",
                State::Dead | State::Delivered => "settled_ms",
            };
            // The state stands in the text, or the server would not see which index it may use.
            let page = format!(
                "SELECT {COLUMNS} FROM outbox_event
                 WHERE state = '{}' AND (zammad, {time}, event_id) > ($1, $2, $3)
                 ORDER BY zammad, {time}, event_id LIMIT $4",
                state.as_str()
            );
            let found = client.query(&page, &[&after.zammad, &after.ms, &after.id, &limit]).await?;
            Ok(found.iter().map(entry).collect())
        })
        .await
    }

    /// These events, wherever they stand, in their calls' order.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn find(&mut self, named: &Named) -> Result<Vec<Entry>, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let all = format!("SELECT {COLUMNS} FROM outbox_event WHERE {NAMED} ORDER BY {ORDER}");
            Ok(client
                .query(&all, &[&named.ids, &named.call, &named.zammads])
                .await?
                .iter()
                .map(entry)
                .collect())
        })
        .await
    }

    /// Puts these dead and delivered events back: they wait again. Those that were delivered come back as restored; a dead
    /// one keeps the note of a request that must not be blindly repeated. Returns them as they are then.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn revive(&mut self, named: &Named) -> Result<Vec<Entry>, OutboxError> {
        self.ask(async |session, _| {
            let (add, tells) = (session.prepare(ship::ADD).await?, session.tells);
            let change = session.client.transaction().await?;
            let ids = hold_lines(&change, named).await?;
            let back = format!(
                "UPDATE outbox_event SET state = 'pending', settled_ms = NULL, settled_by = NULL, note = NULL,
                        restored = restored OR state = 'delivered',
                        attempt_ms = CASE WHEN state = 'dead' THEN attempt_ms END
                 WHERE state <> 'pending' AND event_id = ANY($1) RETURNING {COLUMNS}"
            );
            let back: Vec<Entry> = change.query(&back, &[&ids]).await?.iter().map(entry).collect();
            let mut lines = BTreeMap::<(String, String), i64>::new();
            for event in &back {
                *lines.entry((event.zammad.clone(), event.call_id.clone())).or_default() += 1;
            }
            ship::wait(&change, &add, tells, lines).await?;
            change.commit().await?;
            Ok(in_order(back))
        })
        .await
    }

    /// Pending events are to wait, or to go on. Returns them as they are then.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn hold(&mut self, named: &Named, held: bool) -> Result<Vec<Entry>, OutboxError> {
        self.ask(async |session, _| {
            let tells = session.tells;
            let change = session.client.transaction().await?;
            let ids = hold_lines(&change, named).await?;
            let amend = format!(
                "UPDATE outbox_event SET held = $2 WHERE state = 'pending' AND event_id = ANY($1)
                 RETURNING {COLUMNS}"
            );
            let amended = change.query(&amend, &[&ids, &held]).await?;
            let amended: Vec<Entry> = amended.iter().map(entry).collect();
            ship::tell(&change, tells, &calls_of(&amended)).await?;
            change.commit().await?;
            Ok(in_order(amended))
        })
        .await
    }

    /// Forgets these events, whatever became of them. Returns what they were.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn remove(&mut self, named: &Named) -> Result<Vec<Entry>, OutboxError> {
        self.ask(async |session, _| {
            let (less, tells) = (session.prepare(lines::LESS).await?, session.tells);
            let change = session.client.transaction().await?;
            let ids = hold_lines(&change, named).await?;
            let forget = format!("DELETE FROM outbox_event WHERE event_id = ANY($1) RETURNING {COLUMNS}");
            let gone = change.query(&forget, &[&ids]).await?;
            let gone: Vec<Entry> = gone.iter().map(entry).collect();
            let mut waited = BTreeMap::<&str, BTreeMap<&str, i64>>::new();
            for event in gone.iter().filter(|event| event.state == State::Pending) {
                *waited.entry(&event.zammad).or_default().entry(&event.call_id).or_default() += 1;
            }
            for (zammad, calls) in waited {
                let (calls, counts): (Vec<&str>, Vec<i64>) = calls.into_iter().unzip();
                change.execute(&less, &[&zammad, &calls, &counts]).await?;
            }
            ship::tell(&change, tells, &calls_of(&gone)).await?;
            change.commit().await?;
            Ok(in_order(gone))
        })
        .await
    }

    /// How many of these events wait.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn still_waiting(&mut self, ids: &[String]) -> Result<u64, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let count = "SELECT count(*) FROM outbox_event WHERE event_id = ANY($1) AND state = 'pending'";
            let count: i64 = client.query_one(count, &[&ids]).await?.get(0);
            Ok(u64::try_from(count).unwrap_or(0))
        })
        .await
    }

    /// Those of these events that are still there, with what an operator wants of them.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn standing(&mut self, ids: &[String]) -> Result<Vec<Standing>, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let all = "SELECT event_id, held FROM outbox_event WHERE event_id = ANY($1)";
            let standing = |row: &Row| Standing { id: row.get(0), held: row.get(1) };
            Ok(client.query(all, &[&ids]).await?.iter().map(standing).collect())
        })
        .await
    }
}

/// `$1`: identities; `$2`: a call, or null, `$3`: at one of these Zammads.
const NAMED: &str = "(event_id = ANY($1) OR (zammad = ANY($3) AND call_id = $2::text))";
const ORDER: &str = "zammad, call_id, step, happened_ms, place, event_id";

/// Locks the lines of these events, so that nobody settles one of them meanwhile.
/// The events' identities: what comes to be there from here on is left alone, because its line is not locked.
async fn hold_lines(change: &Transaction<'_>, named: &Named) -> Result<Vec<String>, tokio_postgres::Error> {
    let there = format!("SELECT event_id, zammad, call_id FROM outbox_event WHERE {NAMED}");
    let there = change.query(&there, &[&named.ids, &named.call, &named.zammads]).await?;
    let column = |at: usize| there.iter().map(|row| row.get::<_, String>(at)).collect::<Vec<_>>();
    change.execute(ship::HOLD, &[&column(1), &column(2)]).await?;
    Ok(column(0))
}

fn calls_of(events: &[Entry]) -> Vec<(String, String)> {
    let mut calls: Vec<_> =
        events.iter().map(|event| (event.zammad.clone(), event.call_id.clone())).collect();
    calls.sort();
    calls.dedup();
    calls
}

fn in_order(mut events: Vec<Entry>) -> Vec<Entry> {
    events.sort_by(|a, b| (&a.zammad, a.happened, &a.id).cmp(&(&b.zammad, b.happened, &b.id)));
    events
}

pub(super) fn entry(row: &Row) -> Entry {
    let state = match row.get::<_, &str>(7) {
        "pending" => State::Pending,
        "dead" => State::Dead,
        // The table takes no other.
        _ => State::Delivered,
    };
    Entry {
        id: row.get(0),
        zammad: row.get(6),
        call_id: row.get(5),
        happened: millis(row.get(12)),
        event: lines::event(row),
        state,
        settled: row.get::<_, Option<i64>>(8).map(millis),
        note: row.get(9),
        shipped_by: row.get(10),
        settled_by: row.get::<_, Option<&str>>(11).map(|owner| name_of(owner).to_owned()),
    }
}

pub(super) fn millis(ms: i64) -> UnixMillis {
    UnixMillis(u64::try_from(ms).unwrap_or(0))
}
