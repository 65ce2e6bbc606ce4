//! Promise: where several nodes listen to the same switch and share an outbox, Zammad is told of each call once, in order,
//! by whichever of them is there; whatever one of them missed the other brings.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/road.rs"]
mod road;
#[path = "common/scenes.rs"]
mod scenes;
#[path = "common/wire_to_postgres.rs"]
mod wire_to_postgres;

use std::time::Duration;

use freeswitch_zammad::config::{Config, OutboxConfig};
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::edge::{clock, doubts, ongoing};
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{Connection, Pace};
use freeswitch_zammad::time::UnixMillis;
use futures_util::future::join_all;
use postgres::{Server, emptied, rows};
use road::{Road, drained, until, within};
use scenes::{calls, compare, scenes};
use tempfile::TempDir;
use wire_to_postgres::Wire;

/// Long enough for any machine, short enough to wait for.
const LEASE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_listens_to_one_switch_tells_every_call_once() {
    if !postgres::is_there() {
        return;
    }
    for folder in ["captures", "captures-fusionpbx"] {
        let db = postgres::database().await;
        let road = Road::new();
        let pair = [Node::start(&road, &db, "a").await, Node::start(&road, &db, "b").await];
        listening(&road, pair.len()).await;
        let scenes = scenes(&road, folder);
        // As fast as they come, each event of one call between the events of all others.
        join_all(scenes.iter().map(|s| road.switch.play(&s.recording, Pace::Times(60.0)))).await;
        road.all_ended(calls(&scenes)).await;
        for node in &pair {
            drained(node.daemon.store()).await;
        }
        emptied(&db).await;
        compare(&road, &scenes);
        assert_eq!(road.zammad.max_in_flight_per_call(), 1);
        let told = road.zammad.requests().iter().filter(|s| s.event.as_deref() == Some("newCall")).count();
        assert_eq!(told, calls(&scenes), "no newCall was sent twice");
        // Each brought all there is, and each event was new but once.
        let all = u64::try_from(rows(&postgres::connect(&db).await, "true").await).unwrap();
        let brought = |node: &Node| node.daemon.live().outbox.as_ref().unwrap().shipper.borrow().clone();
        until("both have brought all", || pair.iter().map(brought).all(|it| it.shipped + it.known == all))
            .await;
        assert_eq!(pair.iter().map(brought).map(|it| it.shipped).sum::<u64>(), all);
        for node in pair {
            node.daemon.stop().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_outbox_is_away_calls_wait_in_the_store_and_then_all_are_told() {
    if !postgres::is_there() {
        return;
    }
    let mut server = Server::start();
    let road = Road::new();
    let node = Node::start(&road, &server.url(), "a").await;
    listening(&road, 1).await;
    let scenes = scenes(&road, "captures");
    for (number, scene) in scenes.iter().enumerate() {
        match number % 20 {
            5 => server.kill(),
            10 => server.go_on(),
            _ => {}
        }
        road.play(&scene.recording).await;
    }
    server.go_on_if_killed();
    road.all_ended(calls(&scenes)).await;
    drained(node.daemon.store()).await;
    emptied(&server.url()).await;
    compare(&road, &scenes);
    node.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_can_tell_nobody_of_anything_is_as_good() {
    if !postgres::is_there() {
        return;
    }
    let server = Server::start();
    let wire = Wire::to(server.dir(), &["LISTEN", "pg_notify", "SET tcp_", "SET idle_in"]).await;
    let road = Road::new();
    let db = wire.url("postgres");
    let pair = [Node::start(&road, &db, "a").await, Node::start(&road, &db, "b").await];
    listening(&road, pair.len()).await;
    let scenes = scenes(&road, "captures");
    for scene in &scenes {
        road.play(&scene.recording).await;
    }
    road.all_ended(calls(&scenes)).await;
    for node in pair {
        drained(node.daemon.store()).await;
        node.daemon.stop().await.unwrap();
    }
    emptied(&server.url()).await;
    compare(&road, &scenes);
    assert!(wire.refused() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_of_a_pair_can_be_newer_and_what_the_older_has_heard_waits_in_its_store() {
    if !postgres::is_there() {
        return;
    }
    let db = postgres::database().await;
    let road = Road::new();
    let newer = Node::start(&road, &db, "newer").await;
    listening(&road, 1).await;
    let scenes = scenes(&road, "captures");
    let (first, rest) = scenes.split_at(scenes.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);
    for scene in first {
        road.play(&scene.recording).await;
    }
    road.all_ended(calls(first)).await;
    // The step of a version to come; whoever is connected goes on.
    let client = postgres::connect(&db).await;
    let step = "INSERT INTO outbox_schema (step, name, digest) VALUES (99, 'to come', '00000000')";
    client.batch_execute(step).await.unwrap();
    let older = Node::start(&road, &db, "older").await;
    listening(&road, 2).await;
    for scene in second {
        road.play(&scene.recording).await;
    }
    road.all_ended(calls(first) + calls(second)).await;
    let away = || older.daemon.live().outbox.as_ref().unwrap().shipper.borrow().away.clone();
    until("it says why", || away().is_some_and(|why| why.contains("bring it up to date"))).await;
    let waits = older.daemon.store().counts().pending;
    assert!(waits > 0, "what it heard it keeps");
    // The newer is gone, too: all waits, and goes when the older is brought up to date.
    newer.daemon.stop().await.unwrap();
    for scene in third {
        road.play(&scene.recording).await;
    }
    until("it keeps them", || older.daemon.store().counts().pending > waits).await;
    client.batch_execute("DELETE FROM outbox_schema WHERE step = 99").await.unwrap();
    road.all_ended(calls(&scenes)).await;
    drained(older.daemon.store()).await;
    emptied(&db).await;
    compare(&road, &scenes);
    older.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ending_that_nobody_heard_is_told_when_others_had_time_to() {
    if !postgres::is_there() {
        return;
    }
    let db = postgres::database().await;
    let road = Road::new();
    let Node { daemon, config, _dir } = Node::start(&road, &db, "a").await;
    let scenes = scenes(&road, "captures");
    let of = |name: &str| &scenes.iter().find(|scene| scene.name == name).unwrap().recording;
    let missed = of("in_answered_caller_hangs_up");
    let restarted = clock::now();
    let daemon = misses_the_end(&road, daemon, config, missed).await;
    let found = clock::now();
    // What was heard whole does not wait behind it.
    road.play(of("in_busy_486")).await;
    road.all_ended(1).await;
    let first = road.zammad.log().into_iter().find(|row| row.state == "hangup").unwrap();
    assert_eq!(first.comment.as_deref(), Some("busy"));
    road.all_ended(2).await;
    let told = clock::now();
    let client = postgres::connect(&db).await;
    let happened = "SELECT happened_ms FROM outbox_event WHERE step = 2 ORDER BY happened_ms LIMIT 1";
    let happened: i64 = client.query_one(happened, &[]).await.unwrap().get(0);
    let happened = UnixMillis(happened.try_into().unwrap());
    assert!((restarted..=found).contains(&happened), "it is said to have been when it was found");
    assert!(told.since(happened) >= doubts::WAIT, "only {:?}", told.since(happened));
    drained(daemon.store()).await;
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_outbox_an_ending_that_was_not_heard_is_told_at_once() {
    let road = Road::new();
    let daemon = road.daemon().await;
    let scenes = scenes(&road, "captures");
    let missed = scenes.iter().find(|scene| scene.name == "in_answered_caller_hangs_up").unwrap();
    let daemon = misses_the_end(&road, daemon, road.config(), &missed.recording).await;
    let found = clock::monotonic();
    road.all_ended(1).await;
    assert!(found.elapsed() < doubts::WAIT);
    daemon.stop().await.unwrap();
}

/// Is stopped in the middle of a call, and finds it over when it is back.
async fn misses_the_end(road: &Road, daemon: Daemon, config: Config, call: &Recording) -> Daemon {
    listening(road, 1).await;
    let answered = call.events().iter().position(|event| event.name() == "CHANNEL_ANSWER").unwrap();
    let (begin, end) = call.events().split_at(answered);
    begin.iter().for_each(|event| drop(road.switch.send(event)));
    until("it begins", || road.zammad.log().len() == 1).await;
    drained(daemon.store()).await;
    daemon.stop().await.unwrap();
    end.iter().for_each(|event| drop(road.switch.send(event)));
    let daemon = Daemon::start(config).await.unwrap();
    until("it finds it over", || ongoing::lock(&daemon.live().ongoing).is_empty()).await;
    daemon
}

/// A daemon with a store of its own.
struct Node {
    daemon: Daemon,
    config: Config,
    _dir: TempDir,
}

impl Node {
    async fn start(road: &Road, db: &str, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config: Config = road.config();
        config.state_dir = dir.path().to_owned();
        let server = db.parse().unwrap();
        config.outbox = Some(OutboxConfig { server, node: name.into(), lease: LEASE });
        Self { daemon: Daemon::start(config.clone()).await.unwrap(), config, _dir: dir }
    }
}

async fn listening(road: &Road, nodes: usize) {
    let all = |open: &[Connection]| open.iter().filter(|c| c.subscribed).count() == nodes;
    within("they listen", road.switch.wait_until(all)).await;
}
