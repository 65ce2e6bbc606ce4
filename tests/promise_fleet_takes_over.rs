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

use std::collections::BTreeSet;
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
use scenes::{calls, compare_but, scenes};
use serde_json::Value;

const NODES: usize = 3;
const LEASE_S: u64 = 2;
/// So many of the recordings are followed by a mishap.
const MISHAPS: usize = 12;
/// What a node notes of a hangup that it cannot know about: it must not be repeated, so the call may ring on.
const UNSURE: &str = "may not have arrived%";

/// A node, whether it runs or not.
struct Node {
    dir: PathBuf,
    program: Option<Program>,
    frozen: bool,
}

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
        node.start();
    }
    let subscribed = |open: &[Connection]| open.iter().filter(|c| c.subscribed).count() == NODES;
    within("all listen", road.switch.wait_until(subscribed)).await;

    let scenes = scenes(&road, "captures");
    let mut mishaps: BTreeSet<usize> = BTreeSet::new();
    while mishaps.len() < MISHAPS {
        mishaps.insert(rng.usize(..scenes.len()));
    }
    for (number, scene) in scenes.iter().enumerate() {
        road.play(&scene.recording).await;
        if mishaps.contains(&number) {
            mishap(&mut nodes, &mut server, &mut rng).await;
        }
    }
    server.go_on_if_killed();
    for node in &mut nodes {
        node.thaw();
        node.start();
    }
    for node in &nodes {
        node.has_shipped(&road).await;
    }
    emptied(&server.url()).await;

    let client = postgres::connect(&server.url()).await;
    let unsure =
        client.query("SELECT call_id FROM outbox_event WHERE note LIKE $1", &[&UNSURE]).await.unwrap();
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

/// Something happens to a node or to the server; one node is always left to hear the switch.
async fn mishap(nodes: &mut [Node], server: &mut Server, rng: &mut Rng) {
    let at = rng.usize(..nodes.len());
    let well = nodes.iter().filter(|node| node.program.is_some() && !node.frozen).count();
    let node = &mut nodes[at];
    match rng.u8(0..10) {
        0..4 if well > 1 && !node.frozen => match node.program.take() {
            Some(program) => program.kill(),
            None => node.start(),
        },
        0..4 if node.program.is_none() => node.start(),
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
        _ => nodes.iter_mut().for_each(|node| {
            node.thaw();
            node.start();
        }),
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
        Self { dir, program: None, frozen: false }
    }

    fn start(&mut self) {
        if self.program.is_none() {
            let file = self.dir.join("config.toml");
            let mut program = Program::start(&["run", "--config", file.to_str().unwrap()], &[]);
            program.wait_for("listening to the switch");
            self.program = Some(program);
        }
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

    /// It has read what the switch sent, and all of it is in the outbox.
    async fn has_shipped(&self, road: &Road) {
        road.switch.written().await;
        let state = self.dir.join("state");
        let what = format!("{} ships what it has", self.dir.display());
        let shipped = async {
            loop {
                let status = control::ask(&state, &Request::Status).await;
                let status = status.ok().flatten().and_then(|mut said| said.pop()).unwrap_or(Value::Null);
                if status["queue"]["waiting"] == 0 && status["calls"]["going_on"] == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(&what, shipped).await;
    }
}
