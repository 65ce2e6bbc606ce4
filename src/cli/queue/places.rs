//! The two places where events can be: this node's store, and the outbox that it shares with others, if there is one.

use std::time::Duration;

use serde_json::Value;

use super::PAGE;
use crate::cli::ask::{question, single_answer};
use crate::cli::{Common, Failure, say};
use crate::edge::control::{Kind, Request, Selection};
use crate::edge::desk::Ask;
use crate::edge::shipper;
use crate::outbox::After;

/// Events put back at once.
const PUT_BACK: usize = 5_000;
/// Events of the outbox put back at once: in one transaction, which others wait for.
const PUT_BACK_SHARED: usize = 500;
/// How often `replay --wait` looks.
const WAIT_LOOK: Duration = Duration::from_millis(500);

fn shared(common: &Common, ask: Ask) -> Result<Vec<Value>, Failure> {
    question(common, Request::Outbox { ask })
}

/// Whether there is an outbox, be it away.
fn is_shared(common: &Common) -> bool {
    shared(common, Ask::Waiting { ids: vec![] }).map_or(true, |answer| !answer.is_empty())
}

/// Whether this row of the store only says that the event went into the outbox.
fn has_gone(row: &Value) -> bool {
    row["note"] == shipper::NOTE
}

/// Every row of a kind, up to `limit`, page by page: neither side holds more than a page. First those of the store; if
/// the outbox does not answer, that is said after them.
pub(super) fn pages(
    common: &Common,
    kind: Kind,
    limit: usize,
    mut take: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut left = limit;
    let is_shared = is_shared(common);
    let mut from = 0;
    while left > 0 {
        let wanted = if is_shared { PAGE } else { left.min(PAGE) };
        let rows = question(common, Request::List { kind, from, limit: wanted })?;
        for row in rows.iter().filter(|row| !is_shared || !has_gone(row)).take(left) {
            take(row)?;
            left -= 1;
        }
        // A page that is not full is the last one.
        match rows.last().filter(|_| rows.len() == wanted).and_then(|row| row["seq"].as_u64()) {
            Some(last) => from = last + 1,
            None => break,
        }
    }
    let mut after = After { ms: i64::MIN, ..After::default() };
    while is_shared && left > 0 {
        let wanted = left.min(PAGE);
        let rows = shared(common, Ask::List { kind, after, limit: wanted })?;
        for row in &rows {
            take(row)?;
        }
        left -= rows.len();
        let Some(last) = rows.last().filter(|_| rows.len() == wanted) else { return Ok(()) };
        after = behind(kind, last);
    }
    Ok(())
}

fn behind(kind: Kind, row: &Value) -> After {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let time = match kind {
        Kind::Pending => "happened_ms",
        Kind::Dead | Kind::Delivered => "settled_ms",
    };
    After { zammad: text("zammad"), ms: row[time].as_i64().unwrap_or_default(), id: text("id") }
}

/// To what the store says of an event or a call, what the outbox says; what only says that it went there, goes.
pub(super) fn shown(common: &Common, rows: &mut Vec<Value>, id: &str) -> Result<(), Failure> {
    let more = shared(common, Ask::Show { id: id.to_owned() })?;
    // It is shown where it is.
    rows.retain(|row| !has_gone(row) || more.iter().all(|it| it["id"] != row["id"]));
    rows.extend(more);
    Ok(())
}

/// An order for both places. The outbox first: if it does not answer, nothing is done.
pub(super) fn ordered(
    common: &Common,
    these: &Selection,
    ask: Ask,
    request: Request,
) -> Result<Vec<Value>, Failure> {
    // Its events have no positions.
    let nothing_there = these.ids.is_empty() && these.call.is_none();
    let more = if nothing_there { vec![] } else { shared(common, ask)? };
    let mut rows = question(common, request)?;
    rows.retain(|row| !has_gone(row) || more.iter().all(|it| it["id"] != row["id"]));
    rows.extend(more);
    Ok(rows)
}

/// Page by page where there can be many: it is seen how far it has come, and the daemon does other things in between. What
/// is to be put back is asked for first, so what is refused anew meanwhile is not put back once more.
pub(super) fn replay(
    common: &Common,
    dead: bool,
    since: Option<u64>,
    these: &Selection,
    dry_run: bool,
) -> Result<Vec<Value>, Failure> {
    let here = |these: Selection| question(common, Request::Replay { dead: false, these, dry_run });
    let there = |these: Selection| shared(common, Ask::Replay { these, dry_run });
    let mut done = Vec::new();
    if *these != Selection::default() {
        let ask = Ask::Replay { these: these.clone(), dry_run };
        let request = Request::Replay { dead: false, these: these.clone(), dry_run };
        done = ordered(common, these, ask, request)?;
    }
    let happened = |row: &Value| row["happened_ms"].as_u64();
    for (kind, from) in [(Kind::Dead, dead.then_some(0)), (Kind::Delivered, since)] {
        let Some(from) = from else { continue };
        let (mut seqs, mut ids) = (Vec::new(), Vec::new());
        pages(common, kind, usize::MAX, |row| {
            if kind == Kind::Dead || happened(row).is_some_and(|at| at >= from) {
                match row["seq"].as_u64() {
                    Some(seq) => seqs.push(seq),
                    None => ids.extend(row["id"].as_str().map(str::to_owned)),
                }
            }
            Ok(())
        })?;
        let all = seqs.len() + ids.len();
        let mut looked_at = 0;
        let mut come = |many: usize| {
            let before = looked_at;
            looked_at += many;
            // Pages of both sizes pass each full thousand some time.
            if looked_at / 10_000 > before / 10_000 {
                let verb = if dry_run { "looked at" } else { "put back" };
                say(&format!("{looked_at} rows of {all} {verb} …"));
            }
        };
        for page in seqs.chunks(PUT_BACK) {
            done.extend(here(Selection { seqs: page.to_vec(), ..Selection::default() })?);
            come(page.len());
        }
        for page in ids.chunks(PUT_BACK_SHARED) {
            done.extend(there(Selection { ids: page.to_vec(), ..Selection::default() })?);
            come(page.len());
        }
    }
    Ok(done)
}

/// Until none of these events waits any more, in neither place; says how many do, whenever that has changed.
pub(super) fn wait_for(rows: &[Value], common: &Common) -> Result<(), Failure> {
    let seqs = || rows.iter().filter_map(|row| row["seq"].as_u64());
    let stretch = seqs().min().zip(seqs().max());
    let is_shared = is_shared(common);
    let count = |answer: &Value| answer["waiting"].as_u64().unwrap_or_default();
    let mut shown = None;
    loop {
        let mut waiting = 0;
        if let Some((first, last)) = stretch {
            waiting += count(&single_answer(common, Request::Waiting { first, last })?);
        }
        // What waited in the store may wait there now.
        for page in rows.chunks(PUT_BACK).filter(|_| is_shared) {
            let ids = page.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect();
            waiting += shared(common, Ask::Waiting { ids })?.first().map_or(0, count);
        }
        if shown != Some(waiting) {
            say(&format!("{waiting} of {} still waiting", rows.len()));
            shown = Some(waiting);
        }
        if waiting == 0 {
            return Ok(());
        }
        std::thread::sleep(WAIT_LOOK);
    }
}

pub(super) fn progress(count: u64, verb: &str) {
    if count.is_multiple_of(10_000) {
        say(&format!("{count} rows {verb} …"));
    }
}
