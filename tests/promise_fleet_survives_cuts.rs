//! Promise: whichever node is cut off from whatever, its switch, Zammad, PostgreSQL or all of them, without a word: each call
//! is told once, whole and in order, by the nodes that can, and while it goes on.
//!
//! Each node is on a host of its own. `FLEET_SEED` sets what happens when.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![expect(clippy::print_stderr, reason = "what was tried, to try it again")]

mod common;
#[path = "common/hosts.rs"]
mod hosts;
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

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use freeswitch_zammad::sim::recording::Event;
use freeswitch_zammad::sim::zammad::{Fault, Seen};
use freeswitch_zammad::sim::{switch, zammad};
use hosts::Peer;
use node::{Node, Sent};
use postgres::{Server, emptied};
use program::{PASSWORD, TOKEN};
use road::{Road, within};
use scenes::{Scene, calls, compare, compare_but, scenes};

const NODES: usize = 3;
/// So many of the recordings are interrupted by a cut, or by its end.
const MISHAPS: usize = 16;
/// What is noted of a hangup that nobody can know about: it must not be repeated, so the call may ring on.
const UNSURE: &str = "may not have arrived%";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_anywhere_lose_nothing_and_tell_nothing_twice() {
    if !postgres::is_there() || !hosts::is_inside("cuts_anywhere_lose_nothing_and_tell_nothing_twice") {
        return;
    }
    // By hand twice as much befalls them.
    let (seed, count) = match std::env::var("FLEET_SEED") {
        Ok(seed) => (seed.parse().unwrap(), MISHAPS),
        Err(_) => (fastrand::u64(..), MISHAPS / 2),
    };
    eprintln!("FLEET_SEED={seed}");
    let mut fleet = Fleet::start(NODES, Rng::with_seed(seed)).await;
    let scenes = scenes(&fleet.road, "captures");
    let mut mishaps: BTreeSet<usize> = BTreeSet::new();
    while mishaps.len() < count {
        mishaps.insert(fleet.rng.usize(..scenes.len()));
    }
    for (number, scene) in scenes.iter().enumerate() {
        let mishap = mishaps.contains(&number).then(|| fleet.rng.usize(..scene.recording.events().len()));
        fleet.play(scene, mishap).await;
    }
    fleet.mend_all().await;
    for node in &fleet.nodes {
        node.shows("every call is over", |status| status["calls"]["going_on"] == 0).await;
        node.shows("nothing waits in its store", |status| status["queue"]["waiting"] == 0).await;
    }
    emptied(&fleet.server.url()).await;

    let client = postgres::connect(&fleet.server.url()).await;
    let unsure = "SELECT call_id FROM outbox_event WHERE note LIKE $1";
    let unsure = client.query(unsure, &[&UNSURE]).await.unwrap();
    let unsure: BTreeSet<String> = unsure.iter().map(|row| row.get(0)).collect();
    let owners = client.query("SELECT settled_by, count(*) FROM outbox_event GROUP BY 1", &[]).await.unwrap();
    let owners: Vec<(Option<String>, i64)> = owners.iter().map(|row| (row.get(0), row.get(1))).collect();
    eprintln!("{} of unknown fate; told by {owners:?}", unsure.len());
    let unsure: BTreeSet<String> =
        unsure.into_iter().chain(nameless(&fleet.road.zammad.requests())).collect();
    assert!(unsure.len() < calls(&scenes) / 3, "{unsure:?}");
    compare_but(&fleet.road, &scenes, &unsure);
    in_order(&fleet.road.zammad.requests());
    for node in &mut fleet.nodes {
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_node_that_does_not_reach_zammad_are_told_by_another_meanwhile() {
    let test = "calls_of_a_node_that_does_not_reach_zammad_are_told_by_another_meanwhile";
    if !postgres::is_there() || !hosts::is_inside(test) {
        return;
    }
    let mut fleet = Fleet::start(2, Rng::with_seed(1)).await;
    // The one that would have half of them, from the middle of a request on.
    fleet.cut(0, Peer::Zammad);
    let scenes = scenes(&fleet.road, "captures");
    for scene in &scenes {
        fleet.play(scene, None).await;
    }
    fleet.road.all_ended(calls(&scenes)).await;
    emptied(&fleet.server.url()).await;
    compare(&fleet.road, &scenes);
    in_order(&fleet.road.zammad.requests());
    // It takes part again.
    fleet.mend(0, Peer::Zammad);
    fleet.nodes[0].shows("it reaches Zammad", |status| status["zammads"][0]["link"] == "up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_in_a_cut_does_not_arrive_after_it() {
    if !postgres::is_there() || !hosts::is_inside("what_was_given_up_in_a_cut_does_not_arrive_after_it") {
        return;
    }
    let mut fleet = Fleet::start(1, Rng::with_seed(1)).await;
    let scenes = scenes(&fleet.road, "captures");
    let scene = scenes.iter().find(|scene| scene.name == "in_answered_caller_hangs_up").unwrap();
    let events = scene.recording.events();
    let answered = events.iter().position(|event| event.name() == "CHANNEL_BRIDGE").unwrap();
    let (first, rest) = events.split_at(answered);
    first.iter().for_each(|event| fleet.send(event));
    fleet.nodes[0].shows("it begins", |status| status["zammads"][0]["delivered"] == 1).await;
    // The answer goes over a connection that is open, and is given up.
    fleet.cut(0, Peer::Zammad);
    rest.iter().for_each(|event| fleet.send(event));
    fleet.nodes[0].shows("Zammad is away", |status| status["zammads"][0]["link"] == "away").await;
    fleet.mend(0, Peer::Zammad);
    fleet.road.all_ended(1).await;
    // Within this time the kernel would have sent it again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = fleet.road.zammad.requests();
    let answers = seen.iter().filter(|s| s.event.as_deref() == Some("answer"));
    let bodies: Vec<&str> = answers.map(|answer| &*answer.body).collect();
    assert!(
        bodies.len() == 1 && !bodies[0].contains("answeringNumber"),
        "a repeated answer opens no screen: {bodies:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_call_ended_is_for_who_heard_all_of_it_to_say() {
    let test = "how_a_call_ended_is_for_who_heard_all_of_it_to_say";
    if !postgres::is_there() || !hosts::is_inside(test) {
        return;
    }
    let mut fleet = Fleet::start(2, Rng::with_seed(1)).await;
    let names = ["in_answered_caller_hangs_up", "in_answered_callee_hangs_up", "in_busy_486"];
    let scenes: Vec<Scene> =
        scenes(&fleet.road, "captures").into_iter().filter(|scene| names.contains(&&*scene.name)).collect();
    let of = |name: &str| scenes.iter().find(|scene| scene.name == name).unwrap().recording.events();
    let first = |events: &[Event], name: &str| events.iter().position(|event| event.name() == name).unwrap();
    let [missed, half_missed, heard] = names.map(of);
    let (missed, missed_rest) = missed.split_at(first(missed, "CHANNEL_ANSWER"));
    let (half_missed, half_rest) = half_missed.split_at(first(half_missed, "CHANNEL_ANSWER"));
    let last = half_rest.iter().rposition(|event| event.name() == "CHANNEL_HANGUP_COMPLETE").unwrap();
    let (half_rest, end) = half_rest.split_at(last);
    let calls_at = |status: &serde_json::Value| status["calls"]["going_on"].as_u64();

    missed.iter().chain(half_missed).for_each(|event| fleet.send(event));
    fleet.nodes[0].shows("they begin", |status| calls_at(status) == Some(2)).await;
    emptied(&fleet.server.url()).await;
    // One node misses both answers, and one end; the other hears all and can bring nothing.
    fleet.cut(0, Peer::Switch);
    fleet.nodes[0].shows("it is cut off", |status| status["switches"][0]["listening"] == false).await;
    fleet.cut(1, Peer::Postgres);
    missed_rest.iter().chain(half_rest).for_each(|event| fleet.send(event));
    fleet.nodes[1].shows("it hears one end", |status| calls_at(status) == Some(1)).await;
    fleet.mend(0, Peer::Switch);
    fleet.nodes[0].shows("it finds one over", |status| calls_at(status) == Some(1)).await;
    end.iter().for_each(|event| fleet.send(event));
    fleet.nodes[0].shows("it hears the other end", |status| calls_at(status) == Some(0)).await;
    // What it heard all of is told meanwhile.
    heard.iter().for_each(|event| fleet.send(event));
    fleet.road.all_ended(1).await;
    let ended = fleet.road.zammad.log().into_iter().filter(|row| row.state == "hangup");
    let ended: Vec<Option<String>> = ended.map(|row| row.comment).collect();
    assert_eq!(ended, [Some("busy".to_owned())]);
    fleet.mend(1, Peer::Postgres);
    fleet.road.all_ended(3).await;
    compare(&fleet.road, &scenes);
    in_order(&fleet.road.zammad.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_not_over_because_a_node_that_is_cut_off_hears_no_more_of_it() {
    let test = "a_call_is_not_over_because_a_node_that_is_cut_off_hears_no_more_of_it";
    if !postgres::is_there() || !hosts::is_inside(test) {
        return;
    }
    let mut fleet = Fleet::start(2, Rng::with_seed(1)).await;
    let mut scenes = scenes(&fleet.road, "captures");
    scenes.retain(|scene| scene.name == "out_second_trunk_attempt");
    let events = scenes[0].recording.events();
    let first_trunk = events.iter().position(|event| event.name() == "CHANNEL_DESTROY").unwrap();
    let (begin, rest) = events.split_at(first_trunk);
    begin.iter().for_each(|event| fleet.send(event));
    for node in &fleet.nodes {
        node.has_heard(&fleet.sent).await;
    }
    emptied(&fleet.server.url()).await;
    fleet.cut(0, Peer::Switch);
    fleet.nodes[0].shows("it is cut off", |status| status["switches"][0]["listening"] == false).await;
    fleet.cut(1, Peer::Postgres);
    rest.iter().for_each(|event| fleet.send(event));
    // That another trunk was tried it has not heard.
    fleet.nodes[0].shows("it waits no longer", |status| status["calls"]["going_on"] == 0).await;
    fleet.mend(1, Peer::Postgres);
    fleet.road.all_ended(1).await;
    compare(&fleet.road, &scenes);
    in_order(&fleet.road.zammad.requests());
}

/// Calls of which an answer went without who it was, as one does that may have arrived before.
fn nameless(seen: &[Seen]) -> BTreeSet<String> {
    let told = seen.iter().filter(|seen| seen.processed && seen.event.as_deref() == Some("answer"));
    let nameless =
        told.filter(|seen| seen.body.contains(r#""direction":"in""#) && !seen.body.contains(r#""user""#));
    nameless.filter_map(|seen| seen.call_id.clone()).collect()
}

/// Of each call the newCall first and its hangup last, whatever was repeated between.
fn in_order(seen: &[Seen]) {
    const EVENTS: [&str; 3] = ["newCall", "answer", "hangup"];
    let mut told: BTreeMap<&str, Vec<(usize, &str)>> = BTreeMap::new();
    for request in seen.iter().filter(|seen| seen.processed) {
        if let (Some(call), Some(event)) = (&request.call_id, &request.event) {
            let rank = EVENTS.iter().position(|known| known == event).unwrap();
            told.entry(call).or_default().push((rank, &request.body));
        }
    }
    assert!(!told.is_empty());
    for (call, events) in told {
        let mut known = BTreeSet::new();
        let first: Vec<usize> =
            events.iter().filter(|(rank, _)| known.insert(*rank)).map(|(rank, _)| *rank).collect();
        // A newCall that Zammad knows already changes nothing there, whenever it comes.
        let last = events.iter().rev().map(|(rank, _)| *rank).find(|rank| *rank > 0);
        assert!(first.is_sorted() && first[0] == 0, "{call}: {events:?}");
        assert!(last.is_none_or(|last| last == 2), "{call}: {events:?}");
    }
}

struct Fleet {
    server: Server,
    road: Road,
    nodes: Vec<Node>,
    /// Never cut off from the switch: somebody must have heard how a call really went.
    witness: usize,
    cuts: BTreeSet<(usize, Peer)>,
    sent: Sent,
    rng: Rng,
}

impl Fleet {
    async fn start(nodes: usize, mut rng: Rng) -> Self {
        hosts::lay(nodes);
        let at = |peer: Peer| -> SocketAddr { format!("{}:0", peer.address()).parse().unwrap() };
        let switch = switch::Settings {
            address: at(Peer::Switch),
            password: PASSWORD.into(),
            heartbeat: Some(Duration::from_secs(1)),
            ..switch::Settings::default()
        };
        let zammad = zammad::Settings {
            address: at(Peer::Zammad),
            token: TOKEN.into(),
            ..zammad::Settings::default()
        };
        let server = Server::start_at(&Peer::Postgres.address());
        let road = Road::of(switch, zammad);
        // So that a cut finds requests on their way.
        road.zammad.set_fault_rule(|seen| {
            let wait = Duration::from_millis(seen.body.len() as u64 % 40);
            Fault::slow(wait, wait)
        });
        let outbox = format!("postgres://postgres@{}/postgres?sslmode=disable", Peer::Postgres.address());
        let mut nodes: Vec<Node> = (0..nodes).map(|n| Node::on_host(&road, &outbox, n)).collect();
        for node in &mut nodes {
            node.start(&road).await;
        }
        let witness = rng.usize(..nodes.len());
        Self { server, road, nodes, witness, cuts: BTreeSet::new(), sent: Sent::new(), rng }
    }

    /// Returns once the witness has heard it. Before the event of this number something happens.
    async fn play(&mut self, scene: &Scene, mishap: Option<usize>) {
        for (number, event) in scene.recording.events().iter().enumerate() {
            if mishap == Some(number) {
                self.mishap().await;
            }
            self.send(event);
        }
        self.nodes[self.witness].has_heard(&self.sent).await;
    }

    fn send(&mut self, event: &Event) {
        for connection in self.road.switch.send(event) {
            *self.sent.entry(connection).or_default() += 1;
        }
    }

    async fn mishap(&mut self) {
        self.witness_brings_all().await;
        let node = self.rng.usize(..NODES);
        let some = |rng: &mut Rng| Peer::ALL.into_iter().filter(|_| rng.bool()).collect::<Vec<_>>();
        match self.rng.u8(0..10) {
            0..6 => {
                let peers = some(&mut self.rng);
                for peer in peers {
                    if peer != Peer::Switch || node != self.witness {
                        self.cut(node, peer);
                    }
                }
            }
            6..9 => {
                let ended = self.cuts.iter().copied().nth(self.rng.usize(..=self.cuts.len()));
                ended.into_iter().for_each(|(node, peer)| self.mend(node, peer));
            }
            _ => self.cuts.clone().into_iter().for_each(|(node, peer)| self.mend(node, peer)),
        }
        // Past a lease, a request, a switch's heartbeat, or none of it.
        let wait = [0, 0, 700, 1_500, 2_500, 5_500][self.rng.usize(..6)];
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }

    /// What others say of a call whose answer they have missed waits no longer than `doubts::WAIT`.
    async fn witness_brings_all(&mut self) {
        if self.cuts.contains(&(self.witness, Peer::Postgres)) {
            self.mend(self.witness, Peer::Postgres);
            let brought = |status: &serde_json::Value| status["queue"]["waiting"] == 0;
            self.nodes[self.witness].shows("the witness has brought all", brought).await;
        }
    }

    fn cut(&mut self, node: usize, peer: Peer) {
        if self.cuts.insert((node, peer)) {
            hosts::cut(node, peer);
        }
    }

    fn mend(&mut self, node: usize, peer: Peer) {
        if self.cuts.remove(&(node, peer)) {
            hosts::mend(node, peer);
        }
    }

    /// Returns once every node has caught up with its switch.
    async fn mend_all(&mut self) {
        for (node, peer) in self.cuts.clone() {
            self.mend(node, peer);
        }
        let mended = freeswitch_zammad::edge::clock::now();
        for node in &self.nodes {
            node.shows("it hears the switch", |status| {
                let switch = &status["switches"][0];
                switch["listening"] == true
                    && switch["last_event"].as_str().is_some_and(|at| at > mended.to_string().as_str())
            })
            .await;
        }
        within("it is on the wire", self.road.switch.written()).await;
    }
}
