//! Brings the tables up to what this program knows, and refuses what it does not. Several nodes may do so at once, and
//! one may be newer than another.

use tokio_postgres::Client;

use super::OutboxError;
use super::link::fault;

struct Step {
    name: &'static str,
    sql: &'static str,
}

/// Step `n` makes format `n`; the first is at index 0.
const STEPS: [Step; 2] = [
    Step { name: "outbox", sql: include_str!("../../migrations/postgres/0001_outbox.sql") },
    Step { name: "looking", sql: include_str!("../../migrations/postgres/0002_looking.sql") },
];

/// The format this program reads and writes: that of the last step.
pub(super) const FORMAT: i32 = STEPS.len() as i32;

/// The row of step 0 stands for all of them: whoever changes something holds it.
const TABLE: &str = "\
CREATE TABLE IF NOT EXISTS outbox_schema (
    step       integer     NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    digest     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// Compares, and applies what is missing, all of it or nothing.
pub(super) async fn bring_up(client: &mut Client) -> Result<(), OutboxError> {
    if let Ok(found) = applied(client).await
        && judge(&found)? == FORMAT
    {
        return Ok(());
    }
    // Another node that does the same at this moment makes one of the two fail; then it is there as well.
    if let Err(why) = client.batch_execute(TABLE).await
        && applied(client).await.is_err()
    {
        return Err(fault(why));
    }
    let change = client.transaction().await.map_err(fault)?;
    let stone = "INSERT INTO outbox_schema (step, name, digest) VALUES (0, '', '') ON CONFLICT DO NOTHING";
    change.batch_execute(stone).await.map_err(fault)?;
    change.query_one("SELECT step FROM outbox_schema WHERE step = 0 FOR UPDATE", &[]).await.map_err(fault)?;
    let stands = judge(&rows(&change.query(APPLIED, &[]).await.map_err(fault)?))?;
    for (number, step) in (1..).zip(&STEPS).skip(usize::try_from(stands).unwrap_or(usize::MAX)) {
        change.batch_execute(step.sql).await.map_err(fault)?;
        let note = "INSERT INTO outbox_schema (step, name, digest) VALUES ($1, $2, $3)";
        change.execute(note, &[&number, &step.name, &digest(step.sql)]).await.map_err(fault)?;
    }
    change.commit().await.map_err(fault)?;
    tracing::info!(name: "outbox_migrated", from = stands, to = FORMAT, "the outbox's tables are brought up to date");
    Ok(())
}

const APPLIED: &str = "SELECT step, digest FROM outbox_schema WHERE step > 0 ORDER BY step";

async fn applied(client: &Client) -> Result<Vec<(i32, String)>, tokio_postgres::Error> {
    Ok(rows(&client.query(APPLIED, &[]).await?))
}

fn rows(found: &[tokio_postgres::Row]) -> Vec<(i32, String)> {
    found.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The format that the tables are of.
fn judge(found: &[(i32, String)]) -> Result<i32, OutboxError> {
    let format = found.last().map_or(0, |(step, _)| *step);
    if format > FORMAT {
        return Err(OutboxError::Newer { found: format, known: FORMAT });
    }
    for (number, step) in (1..=format).zip(&STEPS) {
        let stands = found.iter().find(|(step, _)| *step == number);
        if stands.is_none_or(|(_, digest_there)| *digest_there != digest(step.sql)) {
            return Err(OutboxError::Foreign { step: number });
        }
    }
    Ok(format)
}

fn digest(sql: &str) -> String {
    format!("{:08x}", crc32fast::hash(sql.as_bytes()))
}
