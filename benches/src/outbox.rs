//! What the shared outbox costs, and how it grows: a backlog of whole calls delivered by one, two and four daemons that share
//! a PostgreSQL, beside one daemon from its own store; and the same for one call after the other.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::child::Daemon;
use crate::drain::{ANSWER_AFTER, fill_from, nowhere};
use crate::latency::Road;
use crate::measure::{Row, Sample, Size};
use crate::server::Zammad;
use crate::{disk, postgres};

const PATIENCE: Duration = Duration::from_secs(300);
const DRAINERS: [usize; 3] = [1, 2, 4];
/// Its disk is written through, as a database's is.
const SETTINGS: &[&str] = &["shared_preload_libraries=pg_stat_statements"];

pub(crate) fn run(size: Size) -> Vec<Row> {
    if !postgres::is_there() {
        return vec![];
    }
    let server = match std::env::var("TEST_POSTGRES_URL") {
        Ok(_) => None,
        Err(_) => Some(postgres::Server::begin(disk::dir(), "", SETTINGS)),
    };
    let database = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(postgres::database_of(server.as_ref()))
    };
    // Each store has whole calls: they overlap by hundreds.
    let calls = size.of([4_000, 1_200], [400, 400]);
    let mut rows = vec![];
    // Where the processor is what there is too little of, and where Zammad is.
    for (what, calls, answer_after, concurrency) in [
        (
            "a backlog through the outbox, server answering in 5 ms, 32 requests each",
            calls[0],
            ANSWER_AFTER,
            32,
        ),
        ("the same, in 50 ms, 8 requests each", calls[1], Duration::from_millis(50), 8),
    ] {
        let mut paces = [const { vec![] }; 1 + DRAINERS.len()];
        let mut costs = Costs::default();
        for _ in 0..size.of(3, 1) {
            let lap =
                |outbox: Option<&str>, drainers| drain(calls, drainers, outbox, answer_after, concurrency);
            paces[0].push(lap(None, 1));
            for (at, drainers) in DRAINERS.into_iter().enumerate() {
                let db = database();
                let before = Costs::of(&db);
                paces[at + 1].push(lap(Some(&db), drainers));
                if drainers == 1 {
                    costs.add(&before, &Costs::of(&db), calls * 3);
                }
            }
        }
        let beside = |at: usize| {
            let mut ratios = Sample::default();
            paces[at].iter().zip(&paces[0]).for_each(|(with, without)| ratios.add(with / without));
            ratios
        };
        let mut pace = Sample::default();
        paces[0].iter().for_each(|each| pace.add(*each));
        let found = DRAINERS.iter().enumerate().map(|(at, n)| format!("{n}: {}", beside(at + 1)));
        rows.push(Row {
            what,
            against: "one daemon without",
            goal: "–".into(),
            result: format!(
                "by drainers, {}; {:.0} events a second without; an event takes {costs}",
                found.collect::<Vec<_>>().join("; "),
                pace.median(),
            ),
            met: None,
        });
    }
    rows.push(latency(size, &database()));
    rows
}

/// Socket to POST through the outbox, and without one, in turns.
fn latency(size: Size, db: &str) -> Row {
    let mut roads = [Road::new(&outbox(db, 0)), Road::new("")];
    let mut took = [Sample::default(), Sample::default()];
    for _ in 0..size.of(300, 5) {
        for (road, took) in roads.iter_mut().zip(&mut took) {
            took.add(road.call());
        }
    }
    let [with, without] = &took;
    Row {
        what: "event on the socket → POST begins, through the outbox",
        against: "the same without",
        goal: "–".into(),
        result: format!(
            "p50 {:.2} ms beside {:.2} ms, p99 {:.2} ms beside {:.2} ms",
            with.median(),
            without.median(),
            with.at(0.99),
            without.at(0.99)
        ),
        met: None,
    }
}

fn outbox(db: &str, node: usize) -> String {
    format!("\n[outbox]\nurl = \"{db}\"\nnode = \"n{node}\"\n")
}

/// Events a second, from the first post to the last answer; each daemon has its part of them in its store.
fn drain(calls: usize, daemons: usize, db: Option<&str>, answer_after: Duration, concurrency: usize) -> f64 {
    let zammad = Zammad::start(answer_after, true);
    let each = calls / daemons * 3;
    let dirs: Vec<_> = (0..daemons).map(|_| disk::dir()).collect();
    for (at, dir) in dirs.iter().enumerate() {
        fill_from(dir.path(), at * each, each);
    }
    let delivery = format!("concurrency = {concurrency}\nbacklog_per_s = 10000\nlate_after_s = 86400");
    let start = |(at, dir): (usize, &tempfile::TempDir)| {
        let delivery = delivery.clone() + &db.map(|db| outbox(db, at)).unwrap_or_default();
        Daemon::start(dir.path(), nowhere(), &zammad.url(), &delivery)
    };
    let _daemons: Vec<Daemon> = dirs.iter().enumerate().map(start).collect();
    let all = (each * daemons) as u64;
    assert!(zammad.wait(all, PATIENCE), "all is delivered: {}", zammad.events());
    let begun = zammad.take_begun();
    all as f64 / begun[0].elapsed().as_secs_f64()
}

/// What the server was asked to do, for each event.
#[derive(Default)]
struct Costs {
    statements: Sample,
    commits: Sample,
    wal_bytes: Sample,
    now: [f64; 3],
}

impl Costs {
    /// As it stands.
    fn of(db: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let now = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(db, NoTls).await.expect("it was there just now");
            tokio::spawn(connection);
            let number = async |what: &str| {
                // A server of somebody's own may not count.
                let found = client.query_one(&format!("SELECT ({what})::float8"), &[]).await;
                found.map_or(f64::NAN, |row| row.get(0))
            };
            // What was counted last is told a moment later.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let _ = client.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
            let of_ours = "FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid AND d.datname = current_database()";
            [
                number(&format!("SELECT coalesce(sum(calls), 0) {of_ours}")).await,
                number("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").await,
                number("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").await,
            ]
        });
        Self { now, ..Self::default() }
    }

    fn add(&mut self, before: &Self, after: &Self, events: usize) {
        let [statements, commits, wal] = [0, 1, 2].map(|at| (after.now[at] - before.now[at]) / events as f64);
        self.statements.add(statements);
        self.commits.add(commits);
        self.wal_bytes.add(wal);
    }
}

impl std::fmt::Display for Costs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (statements, commits) = (self.statements.median(), self.commits.median());
        write!(
            f,
            "{statements:.2} statements, {commits:.2} commits, {:.0} bytes of WAL",
            self.wal_bytes.median()
        )
    }
}
