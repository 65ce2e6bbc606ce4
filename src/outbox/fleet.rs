//! Who takes part, and how much waits: only looks, and decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::link::Session;
use super::rows::{self, Entry, State};
use super::{Link, OutboxError, Settings};
use crate::time::UnixMillis;

/// Most nodes that are read; no fleet is nearly as large.
const NODES_MAX: i64 = 100;

/// One who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its configured name.
    pub name: String,
    /// How long ago it said how it is, by the server's clock.
    pub silence: Duration,
    /// What it said: JSON, of whatever version it is.
    pub status: String,
}

/// What there is of one Zammad.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events that are neither delivered nor given up.
    pub waiting: u64,
    /// When the oldest of them happened.
    pub oldest: Option<UnixMillis>,
    /// Events that were given up.
    pub dead: u64,
    /// Who has how much of it now; what is nobody's is left out.
    pub hands: Vec<Hand>,
}

/// What a node has claimed of one Zammad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hand {
    /// The node's configured name.
    pub node: String,
    /// Calls.
    pub calls: u64,
    /// Their events that wait.
    pub events: u64,
}

impl Link {
    /// Says how this node is, and forgets nodes that have said nothing for `forgotten`. Returns what was said before in this
    /// node's name, and how long ago.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn say(&mut self, status: &str, forgotten: Duration) -> Result<Option<Node>, OutboxError> {
        self.ask(async |Session { client, .. }, Settings { node, .. }| {
            let mine = format!("{NODES} WHERE node = $1");
            let before = client.query_opt(&mine, &[node]).await?.map(|row| read(&row));
            let now = "INSERT INTO outbox_node (node, seen_at, status) VALUES ($1, now(), $2)
                 ON CONFLICT (node) DO UPDATE SET seen_at = excluded.seen_at, status = excluded.status";
            client.execute(now, &[node, &status]).await?;
            let gone = "DELETE FROM outbox_node WHERE seen_at < now() - $1 * interval '1 second'";
            client.execute(gone, &[&forgotten.as_secs_f64()]).await?;
            Ok(before)
        })
        .await
    }

    /// Everybody who takes part, by name.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn nodes(&mut self) -> Result<Vec<Node>, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let all = format!("{NODES} ORDER BY node LIMIT {NODES_MAX}");
            Ok(client.query(&all, &[]).await?.iter().map(read).collect())
        })
        .await
    }

    /// What waits and what is dead, of these Zammads and of every one for which something waits. Its cost grows with the calls
    /// that wait, not with what is kept.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn figures(&mut self, zammads: &[String]) -> Result<BTreeMap<String, Figures>, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let mut all: BTreeMap<String, Figures> =
                zammads.iter().map(|name| (name.clone(), Figures::default())).collect();
            let lines = "SELECT zammad, CASE WHEN lease_until >= now() THEN owner END AS has, count(*), sum(waiting)::bigint
                 FROM outbox_line WHERE waiting > 0 GROUP BY 1, 2 ORDER BY 1, 2";
            for row in client.query(lines, &[]).await? {
                let figures = all.entry(row.get(0)).or_default();
                let (calls, events) = (count(row.get(2)), count(row.get(3)));
                figures.waiting += events;
                if let Some(owner) = row.get::<_, Option<&str>>(1) {
                    figures.hands.push(Hand { node: name_of(owner).to_owned(), calls, events });
                }
            }
            let names: Vec<&String> = all.keys().collect();
            let rest = "SELECT z, (SELECT e.happened_ms FROM outbox_event e WHERE e.zammad = z AND e.state = 'pending'
                                   ORDER BY e.happened_ms LIMIT 1),
                        (SELECT count(*) FROM outbox_event e WHERE e.zammad = z AND e.state = 'dead')
                 FROM unnest($1::text[]) AS z";
            for row in client.query(rest, &[&names]).await? {
                let figures = all.entry(row.get(0)).or_default();
                figures.oldest = row.get::<_, Option<i64>>(1).map(rows::millis);
                figures.dead = count(row.get(2));
            }
            Ok(all)
        })
        .await
    }

    /// How many delivered events are kept, by Zammad. Its cost grows with their number.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn delivered(&mut self) -> Result<BTreeMap<String, u64>, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let kept = "SELECT zammad, count(*) FROM outbox_event WHERE state = 'delivered' GROUP BY zammad";
            Ok(client.query(kept, &[]).await?.iter().map(|row| (row.get(0), count(row.get(1)))).collect())
        })
        .await
    }

    /// Up to `limit` of each of these Zammads' events that are over in this way, newest first.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn newest(
        &mut self,
        zammads: &[String],
        state: State,
        limit: usize,
    ) -> Result<Vec<Entry>, OutboxError> {
        self.ask(async |Session { client, .. }, _| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let state = state.as_str();
            let columns = rows::COLUMNS;
            let newest = format!(
                "SELECT e.* FROM unnest($1::text[]) AS z CROSS JOIN LATERAL (
                     SELECT {columns} FROM outbox_event WHERE state = '{state}' AND zammad = z
                     ORDER BY settled_ms DESC LIMIT $2) AS e
                 ORDER BY settled_ms DESC"
            );
            Ok(client.query(&newest, &[&zammads, &limit]).await?.iter().map(rows::entry).collect())
        })
        .await
    }
}

const NODES: &str =
    "SELECT node, status, (extract(epoch FROM now() - seen_at) * 1000)::bigint FROM outbox_node";

fn read(row: &tokio_postgres::Row) -> Node {
    // Two that speak at the same moment see each other a little ahead.
    Node { name: row.get(0), silence: Duration::from_millis(count(row.get(2))), status: row.get(1) }
}

/// The name of the node that claims under this.
pub(super) fn name_of(owner: &str) -> &str {
    owner.rsplit_once('/').map_or(owner, |(node, _)| node)
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
