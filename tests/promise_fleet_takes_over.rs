//! Promise: of several nodes any may be killed, frozen or cut off from the outbox, and the outbox's server be killed: what
//! was on its way another node brings to its end, each call told once and in order.
//!
//! `FLEET_SEED` sets what happens when.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![expect(clippy::print_stderr, reason = "what was tried, to try it again")]

mod common;
#[path = "common/node.rs"]
mod node;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/scenes.rs"]
mod scenes;

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use freeswitch_zammad::sim::zammad::Fault;
use node::{LEASE_S, Node, Sent};
use postgres::{Server, emptied};
use program::{PASSWORD, TOKEN};
use road::{Road, within};
use scenes::{Scene, calls, compare_but, scenes};

const NODES: usize = 3;
/// So many of the recordings are followed by a mishap.
const MISHAPS: usize = 12;
/// What is noted of a hangup that nobody can know about: it must not be repeated, so the call may ring on.
const UNSURE: &str = "may not have arrived%";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_die_or_freeze_are_taken_over_from() {
    if !postgres::is_there() {
        return;
    }
    let seed = std::env::var("FLEET_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("FLEET_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut server = Server::start();
    let road = Road::guarded(PASSWORD, TOKEN);
    // So that a mishap finds requests on their way.
    road.zammad.set_fault_rule(|seen| {
        let wait = Duration::from_millis(seen.body.len() as u64 % 40);
        Fault::slow(wait, wait)
    });
    let mut nodes: Vec<Node> = (0..NODES).map(|n| Node::new(&road, &server.url(), n)).collect();
    for node in &mut nodes {
        node.start(&road).await;
    }
    let scenes = scenes(&road, "captures");
    let mut mishaps: BTreeSet<usize> = BTreeSet::new();
    while mishaps.len() < MISHAPS {
        mishaps.insert(rng.usize(..scenes.len()));
    }
    let mut sent = Sent::new();
    for (number, scene) in scenes.iter().enumerate() {
        play(&road, scene, &mut sent).await;
        if mishaps.contains(&number) {
            mishap(&road, &mut nodes, &sent, &mut server, &mut rng).await;
        }
    }
    server.go_on_if_killed();
    for node in &mut nodes {
        node.thaw();
        node.start(&road).await;
        node.has_heard(&sent).await;
        node.shows("nothing waits in its store", |status| status["queue"]["waiting"] == 0).await;
    }
    emptied(&server.url()).await;

    let client = postgres::connect(&server.url()).await;
    let unsure = "SELECT call_id FROM outbox_event WHERE note LIKE $1";
    let unsure = client.query(unsure, &[&UNSURE]).await.unwrap();
    let unsure: BTreeSet<String> = unsure.iter().map(|row| row.get(0)).collect();
    let owners = client.query("SELECT settled_by, count(*) FROM outbox_event GROUP BY 1", &[]).await.unwrap();
    let owners: Vec<(String, i64)> = owners.iter().map(|row| (row.get(0), row.get(1))).collect();
    eprintln!("{} of unknown fate; told by {owners:?}", unsure.len());
    assert!(unsure.len() < calls(&scenes) / 3, "{unsure:?}");
    compare_but(&road, &scenes, &unsure);
    for node in &mut nodes {
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_frozen_past_its_lease_goes_on_with_what_nobody_took_over() {
    if !postgres::is_there() {
        return;
    }
    let server = Server::start();
    let road = Road::guarded(PASSWORD, TOKEN);
    let slow = Duration::from_millis(200);
    road.zammad.set_fault_rule(move |_| Fault::slow(slow, slow));
    let mut node = Node::new(&road, &server.url(), 0);
    node.start(&road).await;
    let (scenes, mut sent) = (scenes(&road, "captures"), Sent::new());
    for scene in &scenes {
        play(&road, scene, &mut sent).await;
    }
    node.has_heard(&sent).await;
    node.shows("it works on some", |status| status["outbox"]["shares"][0]["events"].as_u64() > Some(20))
        .await;
    for _ in 0..2 {
        node.freeze();
        tokio::time::sleep(Duration::from_millis(LEASE_S * 1000 + 500)).await;
        node.thaw();
    }
    emptied(&server.url()).await;
    let (rows, calls) = (road.zammad.log().len(), calls(&scenes));
    assert_eq!(rows, calls);
}

async fn play(road: &Road, scene: &Scene, sent: &mut Sent) {
    for event in scene.recording.events() {
        for connection in road.switch.send(event) {
            *sent.entry(connection).or_default() += 1;
        }
    }
    within("it is on the wire", road.switch.written()).await;
}

/// Something happens to a node or to the server; one node is always left to hear the switch. Which calls it has heard of is
/// whole: what a node that dies in the middle of a call makes of it, `promise_survives_kill` asks.
async fn mishap(road: &Road, nodes: &mut [Node], sent: &Sent, server: &mut Server, rng: &mut Rng) {
    let at = rng.usize(..nodes.len());
    let well = nodes.iter().filter(|node| node.program.is_some() && !node.frozen).count();
    let node = &mut nodes[at];
    match rng.u8(0..10) {
        0..4 if node.program.is_none() => node.start(road).await,
        0..4 if well > 1 && !node.frozen => node.kill(sent).await,
        4..7 if node.frozen => node.thaw(),
        4..7 if well > 1 && node.program.is_some() => {
            node.freeze();
            // Past its lease, so that others take over what it holds.
            tokio::time::sleep(Duration::from_millis(LEASE_S * 1000 + 500)).await;
        }
        7 | 8 => {
            server.kill();
            tokio::time::sleep(Duration::from_millis(rng.u64(..LEASE_S * 1500))).await;
            server.go_on();
        }
        _ => {
            for node in nodes {
                node.thaw();
                node.start(road).await;
            }
        }
    }
}
