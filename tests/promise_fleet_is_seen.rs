//! Promise: whichever node is asked, and whether it runs or not, it shows the whole fleet: who is there and how, what waits,
//! and what was refused; and an operator's orders about events in the outbox hold for all nodes.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/web.rs"]
mod web;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::Connection;
use freeswitch_zammad::sim::zammad::{Answer, Fault};
use postgres::{connect, rows};
use program::{PASSWORD, Program, Said, TOKEN, run};
use road::{until, within};
use serde_json::Value;
use tokio_postgres::Client;
use web::Web;

/// Two nodes that listen to one switch; the first has a page.
struct Pair {
    web: Web,
    second: Option<Program>,
    db: Client,
    url: String,
    /// If it is another.
    zammad_of_second: Option<String>,
}

impl Pair {
    async fn start() -> Self {
        let url = postgres::database().await;
        let web = Web::start("", &outbox(&url, "a")).await;
        let db = connect(&url).await;
        let mut pair = Self { web, second: None, db, url, zammad_of_second: None };
        pair.start_second().await;
        pair
    }

    fn stop_second(&mut self) {
        let second = self.second.take().unwrap();
        second.signal("TERM");
        assert_eq!(second.end().code, Some(0));
    }

    async fn start_second(&mut self) {
        let text = fs::read_to_string(self.web.dir.path().join("config.toml")).unwrap();
        let text = text.replace("state_dir = \"state\"", "state_dir = \"second\"");
        let text = text.replace(&outbox(&self.url, "a"), &outbox(&self.url, "b"));
        let theirs = self.web.zammad.url();
        let text = text.replace(&theirs, self.zammad_of_second.as_ref().unwrap_or(&theirs));
        let (before, rest) = text.split_once("[admin]").unwrap();
        let rest = &rest[rest.find("[outbox]").unwrap()..];
        fs::write(self.config("b"), format!("{before}{rest}")).unwrap();
        fs::set_permissions(self.config("b"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut second = Program::start(&["run", "--config", self.config("b").to_str().unwrap()], &[]);
        second.wait_for("listening to the switch");
        self.second = Some(second);
        let both = |open: &[Connection]| open.iter().filter(|c| c.subscribed).count() == 2;
        within("both listen", self.web.switch.wait_until(both)).await;
    }

    fn config(&self, node: &str) -> PathBuf {
        self.web.dir.path().join(if node == "a" { "config.toml".to_owned() } else { format!("{node}.toml") })
    }

    /// What the program says, asked at this node.
    fn ask(&self, node: &str, args: &[&str]) -> Said {
        let config = self.config(node);
        run(&[args, &["--config", config.to_str().unwrap()]].concat())
    }

    fn lines(&self, node: &str, args: &[&str]) -> Vec<Value> {
        let said = self.ask(node, &[args, &["--json"]].concat());
        assert_eq!(said.code, Some(0), "{args:?}: {}{}", said.out, said.err);
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn status(&self, node: &str) -> Value {
        let said = self.ask(node, &["status", "--json"]);
        serde_json::from_str(&said.out).unwrap_or_else(|why| panic!("{why}: {}{}", said.out, said.err))
    }

    /// Until the fleet, as it is seen from here, is so.
    async fn fleet(&self, node: &str, what: &str, true_of: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until(what, || {
            last = self.status(node)["outbox"]["fleet"].clone();
            true_of(&last)
        })
        .await;
        last
    }

    /// Until the first node is so.
    async fn shows(&self, what: &str, true_of: impl Fn(&Value) -> bool) {
        self.web.until(what, "/api/status", |reply| true_of(&reply.json())).await;
    }

    async fn waits_for(&self, what: &str, condition: &str, many: i64) {
        let seen = async {
            while rows(&self.db, condition).await != many {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(what, seen).await;
    }

    fn stop(mut self) {
        let second = self.second.take();
        for program in [Some(self.web.program), second].into_iter().flatten() {
            program.signal("TERM");
            assert_eq!(program.end().code, Some(0));
        }
    }

    fn play(&self, recording: &str, suffix: &str) -> Recording {
        let call = self.web.begin(recording, suffix);
        self.web.end(&call);
        call
    }
}

fn outbox(url: &str, node: &str) -> String {
    format!("[outbox]\nurl = \"{url}\"\nnode = \"{node}\"\nlease_s = 2\n")
}

fn node<'a>(fleet: &'a Value, name: &str) -> &'a Value {
    fleet["nodes"].as_array().unwrap().iter().find(|one| one["node"] == name).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_the_whole_fleet_and_puts_back_what_was_refused() {
    if !postgres::is_there() {
        return;
    }
    let mut pair = Pair::start().await;
    pair.web.zammad.set_fault_rule(|seen| match seen.event.as_deref() {
        Some("hangup") => Fault::answer_instead(Answer::json(422, "{\"error\": \"not so\"}")),
        Some(_) | None => Fault::none(),
    });
    pair.play("in_caller_cancels", "one");
    pair.play("in_answered_caller_hangs_up", "two");
    pair.waits_for("they are refused", "state = 'dead'", 2).await;
    pair.waits_for("the rest is told", "state = 'delivered'", 3).await;

    // Both say the same, and it is what is in the tables.
    for name in ["a", "b"] {
        let told = |fleet: &Value| {
            let counted = &fleet["zammads"][0];
            let nodes = fleet["nodes"].as_array().map_or(0, Vec::len);
            counted["dead"] == 2
                && counted["waiting"] == 0
                && counted["delivered_kept"].is_u64()
                && nodes == 2
        };
        let fleet = pair.fleet(name, "the figures are there", told).await;
        assert_eq!((&fleet["reason"], &fleet["same_name"]), (&Value::Null, &Value::Bool(false)));
        for other in ["a", "b"] {
            let shown = node(&fleet, other);
            assert_eq!(shown["state"], "up", "{shown}");
            assert_eq!(shown["this"], other == name);
            assert_eq!(shown["version"], env!("CARGO_PKG_VERSION"));
            assert!(shown["zammads"][0]["link"].is_string() && shown["zammads"][0]["paused"] == false);
        }
        let text = pair.ask(name, &["status"]).out;
        assert!(
            text.contains("outbox for zammad main: 0 waiting") && text.contains("2 dead letters"),
            "{text}"
        );
        assert!(text.contains(&format!("node {name} (this one): up")), "{text}");
        let dead = pair.lines(name, &["queue", "list", "dead"]);
        let said: Vec<(&Value, &Value, &Value)> =
            dead.iter().map(|row| (&row["in"], &row["body"]["event"], &row["seq"])).collect();
        assert!(
            said.len() == 2 && said.iter().all(|it| it.0 == "outbox" && it.1 == "hangup" && it.2.is_null())
        );
        assert!(dead.iter().all(|row| row["story"].as_str().unwrap().contains("not so")));
        let text = pair.ask(name, &["queue", "list", "dead"]).out;
        assert!(text.lines().filter(|line| line.starts_with("outbox  ")).count() == 2, "{text}");
        assert_eq!(
            pair.lines(name, &["queue", "list", "delivered"]).len(),
            3,
            "the store's marks are not shown"
        );
    }
    for said in node_words(&pair.db).await {
        let longest = said.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap();
        // A time in milliseconds is the longest that is not a number of anybody.
        assert!(!said.contains(TOKEN) && !said.contains(PASSWORD) && longest <= 13, "{said}");
        assert!(!said.contains("4915112345678"));
    }

    // Over HTTP a key that says nothing names each, whatever its id is made of.
    let shown = pair.web.status().await;
    for row in shown["dead_letters"].as_array().unwrap() {
        let key = row["key"].as_str().unwrap();
        assert!(row["seq"].is_null() && row["id"].is_null() && key.len() == 16, "{row}");
        assert!(key.bytes().all(|b| b.is_ascii_hexdigit()), "{row}");
    }
    assert_eq!(shown["dead_letters"].as_array().unwrap().len(), 2);
    assert!(shown["delivered"].as_array().unwrap().iter().all(|row| row["node"].is_string()), "{shown}");

    // A single one from one node, the others from the other; each is told once.
    pair.web.zammad.clear_faults();
    let dead = pair.lines("a", &["queue", "list", "dead"]);
    let (id, call) = (dead[0]["id"].as_str().unwrap(), dead[0]["body"]["callId"].as_str().unwrap());
    assert_eq!(pair.lines("a", &["queue", "replay", id, "--dry-run"]).len(), 1);
    assert_eq!(rows(&pair.db, "state = 'dead'").await, 2);
    assert_eq!(pair.lines("b", &["queue", "replay", id, "--wait"]).len(), 1);
    assert_eq!(rows(&pair.db, "state = 'dead'").await, 1);
    assert_eq!(pair.lines("b", &["queue", "replay", "--dead", "--wait"]).len(), 1);
    assert_eq!(rows(&pair.db, "state = 'delivered'").await, 5);
    let told = pair.web.zammad.requests();
    let hangups: Vec<_> =
        told.iter().filter(|s| s.processed && s.event.as_deref() == Some("hangup")).collect();
    assert_eq!(hangups.len(), 2);
    assert!(pair.web.zammad.log().iter().all(|row| row.state == "hangup"));
    let shown = pair.lines("a", &["queue", "show", call]);
    assert!(shown.len() >= 2 && shown.iter().all(|row| row["in"] == "outbox" && row["state"] == "delivered"));
    let why = pair.ask("b", &["explain", call]).out;
    assert!(why.contains("delivered  outbox"), "{why}");

    // One is killed, and is silent; that it was long ago is said here.
    pair.second.take().unwrap().kill();
    let ago = "UPDATE outbox_node SET seen_at = now() - interval '31 seconds'";
    pair.db.batch_execute(ago).await.unwrap();
    let fleet = pair.fleet("a", "it is silent", |fleet| node(fleet, "b")["state"] == "silent").await;
    assert_eq!(node(&fleet, "a")["state"], "up", "who lives says so again");
    let text = pair.ask("a", &["status"]).out;
    assert!(text.contains("node b: SILENT since 20"), "{text}");
    let silent = "freeswitch_zammad_outbox_node{node=\"b\",state=\"silent\"} 1.0";
    pair.web.until("the metrics say so", "/metrics", |reply| reply.body.contains(silent)).await;
    // It comes back.
    pair.start_second().await;
    pair.fleet("b", "it is back", |fleet| node(fleet, "b")["state"] == "up").await;

    // Nobody runs: the outbox is asked itself.
    for program in [&pair.web.program, pair.second.as_ref().unwrap()] {
        program.signal("TERM");
    }
    let stopped = |fleet: &Value| ["a", "b"].iter().all(|name| node(fleet, name)["state"] == "stopped");
    let asleep = async {
        loop {
            let said = node_words(&pair.db).await;
            if said.iter().all(|word| word.contains("\"stopped\":true")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("both have stopped", asleep).await;
    let second = pair.second.take().unwrap();
    assert_eq!(second.end().code, Some(0));
    let fleet = pair.fleet("b", "both are shown as stopped", stopped).await;
    assert_eq!(fleet["zammads"][0]["delivered_kept"], 5);
    let text = pair.ask("b", &["status"]);
    assert_eq!(text.code, Some(3));
    assert!(text.out.contains("node a: stopped since 20"), "{}", text.out);
    assert_eq!(pair.lines("b", &["queue", "list", "delivered"]).len(), 5);
    let back = pair.lines("b", &["queue", "replay", "--call", call]);
    assert!(back.len() >= 2 && back.iter().all(|row| row["restored"] == true && row["state"] == "pending"));
    assert_eq!(pair.lines("b", &["queue", "list"]).len(), back.len());
    let exported = pair.ask("b", &["queue", "export"]);
    assert_eq!(exported.out.lines().count(), 5, "{}", exported.out);
    assert_eq!(pair.lines("b", &["queue", "delete", "--call", call]).len(), back.len());
    assert_eq!(rows(&pair.db, "state = 'pending'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_about_an_event_holds_at_the_node_that_has_it() {
    if !postgres::is_there() {
        return;
    }
    let mut pair = Pair::start().await;
    // One node has all of it; the orders come from elsewhere.
    pair.stop_second();
    // Each call's hangup waits for its newCall, which is on its way for long.
    let ordered = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&ordered);
    pair.web.zammad.set_fault_rule(move |_| match gate.load(Ordering::Relaxed) {
        true => Fault::none(),
        false => Fault::slow(Duration::from_secs(6), Duration::ZERO),
    });
    for suffix in ["one", "two", "three"] {
        pair.play("in_caller_cancels", suffix);
    }
    let hand = |many: u64| move |status: &Value| status["outbox"]["shares"][0]["events"] == many;
    pair.shows("it has all of it", hand(6)).await;
    let waits = pair.lines("b", &["queue", "list"]);
    let hangups: Vec<&str> = waits
        .iter()
        .filter(|row| row["body"]["event"] == "hangup")
        .map(|row| row["id"].as_str().unwrap())
        .collect();
    let [gone, held, told] = hangups[..] else { panic!("{hangups:?}") };
    assert_eq!(pair.lines("b", &["queue", "hold", held]).len(), 1);
    assert_eq!(pair.lines("b", &["queue", "delete", gone]).len(), 1);
    // It heeds them in their order.
    pair.shows("it knows of them", hand(5)).await;
    ordered.store(true, Ordering::Relaxed);
    pair.waits_for("what may be is told", "state = 'delivered'", 4).await;
    let over = || -> BTreeSet<String> {
        let log = pair.web.zammad.log();
        log.iter().filter(|row| row.state == "hangup").map(|row| format!("{}/hangup", row.call_id)).collect()
    };
    assert_eq!(over(), [told.to_owned()].into());
    let list = pair.ask("b", &["queue", "list"]).out;
    assert_eq!(list.lines().filter(|line| line.ends_with("HELD")).count(), 1, "{list}");
    assert_eq!(pair.lines("b", &["queue", "release", held]).len(), 1);
    pair.waits_for("it is told", "state = 'delivered'", 5).await;
    assert_eq!(over(), [held.to_owned(), told.to_owned()].into());
    assert_eq!(rows(&pair.db, "true").await, 5);
    pair.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_paused_node_has_the_others_tell() {
    if !postgres::is_there() {
        return;
    }
    let mut pair = Pair::start().await;
    pair.stop_second();
    // Its hangup waits for its newCall, which is on its way for a while.
    pair.web.zammad.set_fault_rule(|_| Fault::slow(Duration::from_secs(3), Duration::ZERO));
    pair.play("in_caller_cancels", "one");
    let hand = |many: u64| move |status: &Value| status["outbox"]["shares"][0]["events"] == many;
    pair.shows("it has both events", hand(2)).await;
    let said = pair.ask("a", &["pause"]);
    assert!(said.code == Some(0) && said.err.contains("other nodes go on"), "{}{}", said.out, said.err);
    pair.shows("it lets them go", hand(0)).await;
    pair.web.zammad.clear_faults();
    // Nobody else is there yet: nothing is told, and what comes now it does not claim.
    pair.play("in_answered_caller_hangs_up", "two");
    pair.waits_for("all else waits", "state = 'pending'", 4).await;
    pair.start_second().await;
    pair.waits_for("all of it is told", "state = 'delivered' AND settled_by LIKE 'b/%'", 4).await;
    let text = pair.ask("a", &["status"]).out;
    assert!(text.contains("PAUSED by an operator: here; other nodes go on"), "{text}");
    let paused = |fleet: &Value| node(fleet, "a")["zammads"][0]["paused"] == true;
    pair.fleet("b", "the other says so", paused).await;
    let text = pair.ask("b", &["status"]).out;
    assert!(text.contains("zammad main: PAUSED by an operator, at this node alone"), "{text}");

    // Taken up again, it takes part.
    pair.ask("a", &["resume"]);
    pair.stop_second();
    pair.play("in_caller_cancels", "three");
    // And the newCall that was on its way when it was paused.
    pair.waits_for("it tells again", "state = 'delivered' AND settled_by LIKE 'a/%'", 3).await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_that_does_not_reach_zammad_has_the_others_tell() {
    if !postgres::is_there() {
        return;
    }
    let mut pair = Pair::start().await;
    pair.stop_second();
    assert_eq!(pair.ask("a", &["pause"]).code, Some(0));
    // Only the other is there to claim, and its way to Zammad is cut.
    pair.zammad_of_second = Some("http://127.0.0.1:1/api/v1/cti/nowhere".to_owned());
    pair.start_second().await;
    pair.play("in_answered_caller_hangs_up", "one");
    let away = |fleet: &Value| node(fleet, "b")["zammads"][0]["link"] == "away";
    pair.fleet("a", "the other has tried", away).await;
    assert_eq!(pair.ask("a", &["resume"]).code, Some(0));
    pair.waits_for("it is told from here", "state = 'delivered' AND settled_by LIKE 'a/%'", 3).await;
    let text = pair.ask("a", &["status"]).out;
    assert!(text.contains("zammad main: AWAY"), "{text}");
    pair.stop();
}

/// What each node says of itself.
async fn node_words(db: &Client) -> Vec<String> {
    let words = db.query("SELECT status FROM outbox_node ORDER BY node", &[]).await.unwrap();
    words.iter().map(|row| row.get(0)).collect()
}
