//! The status page in a real browser, between the real program and the stand-ins: what `tests/page/drive.mjs` looks at.
//!
//! Needs Chromium, Node and `npm ci --prefix tests/page`; says so where they are missing.
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

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::zammad::{Answer, Fault, Row, Seen};
use tokio::sync::mpsc;
use web::Web;

/// The browser takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
const DRIVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/drive.mjs");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "a test that did not run must not look as if it had")]
async fn the_page_is_what_a_person_wants_to_see() {
    let browser = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(found);
    let ready = Path::new(DRIVE).with_file_name("node_modules").exists() && found("node").is_some();
    let (Some(browser), true) = (browser, ready) else {
        assert!(std::env::var_os("NOTHING_LEFT_OUT").is_none(), "there is no Chromium, or no Node");
        eprintln!("NOT RUN: the page is looked at with Chromium, Node and `npm ci --prefix tests/page`");
        return;
    };
    let mut stage = Stage { web: Web::start("", "").await, calls: vec![], number: 0, fleet: None };
    let drive = Command::new("node")
        .args([DRIVE, &browser, &format!("http://{}/", stage.web.address)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut drive = Drive(drive);
    let (mut answers, said) = (drive.0.stdin.take().unwrap(), drive.0.stdout.take().unwrap());
    let (line, mut lines) = mpsc::channel(1);
    let reading = std::thread::spawn(move || {
        // Nobody listens any more once it takes too long.
        BufReader::new(said).lines().map_while(Result::ok).for_each(|said| drop(line.blocking_send(said)));
    });
    let looking = async {
        let mut last = String::from("nothing");
        while let Some(line) = lines.recv().await {
            if let Some(word) = line.strip_prefix("want ") {
                let answer = stage.act(word).await;
                answers.write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
            last = line;
        }
        assert_eq!(last, "seen", "what it said last");
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "it takes too long");
    reading.join().unwrap();
    assert!(drive.0.wait().unwrap().success());
}

/// Dropped, it is killed.
struct Drive(Child);

impl Drop for Drive {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    web: Web,
    calls: Vec<Recording>,
    number: u32,
    fleet: Option<Fleet>,
}

/// A daemon with an outbox, in which two more nodes have said something.
struct Fleet {
    web: Web,
    server: postgres::Server,
}

impl Fleet {
    async fn start() -> Self {
        let server = postgres::Server::start();
        let outbox = format!("[outbox]\nurl = \"{}\"\nnode = \"pbx1\"\n", server.url());
        let web = Web::start("", &outbox).await;
        // Only what ends a call, as before.
        web.zammad.set_fault_rule(refuses_hangups);
        for recording in ["in_caller_cancels", "in_answered_caller_hangs_up"] {
            let call = web.begin(recording, recording.split('_').nth(1).unwrap());
            web.end(&call);
        }
        let fleet = Self { web, server };
        let refused = |all: &serde_json::Value| all["outbox"]["fleet"]["zammads"][0]["dead"] == 2;
        fleet.web.until("they are refused", "/api/status", |reply| refused(&reply.json())).await;
        let others = "INSERT INTO outbox_node (node, seen_at, status) VALUES
             ('pbx2', now() - interval '10 minutes', '{\"version\":\"0.1.0\",\"calls\":3}'),
             ('pbx3', now() - interval '2 hours', '{\"version\":\"0.1.0\",\"stopped\":true}'),
             ('pbx4', now() + interval '1 hour', '{\"version\":\"0.2.0\",\"calls\":1,\"to_ship\":4,
               \"switches\":[{\"name\":\"main\",\"listening\":false,\"reason\":\"refused\"}],
               \"zammads\":[{\"name\":\"main\",\"link\":\"up\",\"paused\":true}]}')";
        postgres::connect(&fleet.server.url()).await.batch_execute(others).await.unwrap();
        fleet
    }
}

fn refuses_hangups(seen: &Seen) -> Fault {
    match seen.event.as_deref() {
        Some("hangup") => {
            let said = r#"{"error":"Can't save call: 'from' +4915112345678 is too strange"}"#;
            Fault::answer_instead(Answer::json(422, said))
        }
        Some(_) | None => Fault::none(),
    }
}

impl Stage {
    /// Does what the script wants, and answers what it wants to know.
    async fn act(&mut self, word: &str) -> String {
        match word {
            "calls" => {
                self.begin("in_answered_caller_hangs_up");
                self.begin("out_answered_agent_hangs_up");
                self.ring();
                self.until(|all| all["queue"]["waiting"] == 0 && all["calls"]["going_on"] == 3).await;
            }
            "outage" => {
                self.web.zammad.set_fault_rule(|_| Fault::answer_instead(Answer::nginx(502)));
                for recording in ["in_caller_cancels", "in_busy_486", "in_vanilla_busy_to_voicemail"] {
                    let call = self.begin(recording);
                    self.web.end(&call);
                    self.calls.pop();
                }
                self.until(|all| all["zammads"][0]["link"] == "away").await;
            }
            // Only what ends a call: the caller log shows it for ever.
            "refuse" => self.web.zammad.set_fault_rule(refuses_hangups),
            "link" => return self.web.link(),
            "fleet" if !postgres::is_there() => return "none".to_owned(),
            "fleet" => {
                let fleet = self.fleet.insert(Fleet::start().await);
                return format!("http://{}/", fleet.web.address);
            }
            "fleet-link" => {
                let fleet = self.fleet.as_ref().unwrap();
                fleet.web.zammad.clear_faults();
                return fleet.web.link();
            }
            "fleet-told" => {
                let fleet = self.fleet.as_ref().unwrap();
                let over =
                    |rows: &[Row], _: &[_]| rows.iter().filter(|row| row.state == "hangup").count() == 2;
                road::within("both are over", fleet.web.zammad.wait_until(over)).await;
            }
            "fleet-away" => self.fleet.as_mut().unwrap().server.kill(),
            "mended" => self.web.zammad.clear_faults(),
            "replayed" => {
                let hung_up =
                    |rows: &[Row], _: &[_]| rows.iter().filter(|row| row.state == "hangup").count() == 3;
                road::within("Zammad has them", self.web.zammad.wait_until(hung_up)).await;
            }
            "end" => self.calls.drain(..).for_each(|call| self.web.end(&call)),
            "restart-down" => self.web.program.signal("TERM"),
            "restart-up" => self.web.restart(),
            other => panic!("{other:?} is nothing that can be wanted"),
        }
        "done".into()
    }

    fn begin(&mut self, recording: &str) -> Recording {
        self.number += 1;
        let call = self.web.begin(recording, &format!("call{}", self.number));
        self.calls.push(call.clone());
        call
    }

    /// A call that nobody has answered yet.
    fn ring(&mut self) {
        self.number += 1;
        let bytes = common::recording("captures", "in_caller_cancels");
        let call = road::renamed(&self.web.switch, &bytes, &format!("call{}", self.number));
        for event in call.events().iter().take_while(|event| event.name() != "CHANNEL_HANGUP_COMPLETE") {
            self.web.switch.send(event);
        }
        self.calls.push(call);
    }

    async fn until(&self, true_of: impl Fn(&serde_json::Value) -> bool) {
        self.web.until("the stage is set", "/api/status", |reply| true_of(&reply.json())).await;
    }
}

/// Where a program is, if it is anywhere in the path.
fn found(name: &str) -> Option<String> {
    let said = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
    said.status.success().then(|| String::from_utf8(said.stdout).unwrap().trim().to_owned())
}
