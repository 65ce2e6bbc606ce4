//! Promise: of several nodes any may be killed, frozen or cut off from the outbox, and the outbox's server be killed: what
//! was on its way another node brings to its end, each call told once and in order.
//!
//! `FLEET_SEED` sets what happens when.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![expect(clippy::print_stderr, reason = "what was tried, to try it again")]

mod common;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/scenes.rs"]
mod scenes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use freeswitch_zammad::edge::control::{self, Request};
use freeswitch_zammad::sim::switch::Connection;
use freeswitch_zammad::sim::zammad::Fault;
use postgres::{Server, emptied};
use program::{PASSWORD, Program, TOKEN};
use road::{Road, within};
use scenes::{Scene, calls, compare_but, scenes};
use serde_json::Value;

const NODES: usize = 3;
const LEASE_S: u64 = 2;
/// So many of the recordings are followed by a mishap.
const MISHAPS: usize = 12;
/// What is noted of a hangup that nobody can know about: it must not be repeated, so the call may ring on.
const UNSURE: &str = "may not have arrived%";

/// A node, whether it runs or not.
struct Node {
    dir: PathBuf,
    program: Option<Program>,
    frozen: bool,
    /// The number of its connection to the switch.
    connection: u64,
}

/// How many events went over which connection.
type Sent = BTreeMap<u64, u64>;

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
    let mut nodes: Vec<Node> = (0..NODES).map(|n| Node::new(&road, &server, n)).collect();
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
        let program = node.program.take().unwrap();
        program.signal("TERM");
        assert_eq!(program.end().code, Some(0));
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
    let mut node = Node::new(&road, &server, 0);
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

impl Node {
    fn new(road: &Road, server: &Server, number: usize) -> Self {
        let dir = road.dir.path().join(format!("node{number}"));
        fs::create_dir(&dir).unwrap();
        let text = format!(
            "state_dir = {:?}\ncountry = \"DE\"\n\n[[switch]]\naddress = \"{}\"\npassword = \"{PASSWORD}\"\n\n\
             [[zammad]]\nurl = \"{}\"\n\n[delivery]\nlate_after_s = 3600\nretry_wait_ms_min = 100\n\
             retry_wait_ms_max = 1000\n\n[outbox]\nurl = \"{}\"\nnode = \"n{number}\"\nlease_s = {LEASE_S}\n",
            dir.join("state"),
            road.switch.addr(),
            road.zammad.url(),
            server.url(),
        );
        let file = dir.join("config.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Self { dir, program: None, frozen: false, connection: 0 }
    }

    async fn start(&mut self, road: &Road) {
        if self.program.is_some() {
            return;
        }
        let file = self.dir.join("config.toml");
        let before =
            road.switch.connections().iter().map(|c| c.number).max().unwrap_or(0).max(self.connection);
        let mut program = Program::start(&["run", "--config", file.to_str().unwrap()], &[]);
        program.wait_for("listening to the switch");
        self.program = Some(program);
        let newest = |open: &[Connection]| open.iter().any(|c| c.subscribed && c.number > before);
        within("it listens", road.switch.wait_until(newest)).await;
        self.connection = road.switch.connections().iter().map(|c| c.number).max().unwrap();
    }

    async fn kill(&mut self, sent: &Sent) {
        self.has_heard(sent).await;
        self.program.take().unwrap().kill();
    }

    fn freeze(&mut self) {
        self.program.as_ref().unwrap().signal("STOP");
        self.frozen = true;
    }

    fn thaw(&mut self) {
        if self.frozen {
            self.program.as_ref().unwrap().signal("CONT");
            self.frozen = false;
        }
    }

    /// It has taken in all that the switch sent it.
    async fn has_heard(&self, sent: &Sent) {
        let heard = sent.get(&self.connection).copied().unwrap_or(0);
        self.shows("it has heard all", |status| status["calls"]["events_handled"].as_u64() >= Some(heard))
            .await;
    }

    async fn shows(&self, what: &str, true_of: impl Fn(&Value) -> bool) {
        let state = self.dir.join("state");
        let mut last = Value::Null;
        let shown = async {
            while !true_of(&last) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let said = control::ask(&state, &Request::Status).await;
                last = said.ok().flatten().and_then(|mut said| said.pop()).unwrap_or(Value::Null);
            }
        };
        within(what, shown).await;
    }
}
