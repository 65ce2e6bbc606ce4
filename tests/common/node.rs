//! A node of a fleet: the program as a process of its own, with its own store.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use freeswitch_zammad::edge::control::{self, Request};
use freeswitch_zammad::sim::switch::Connection;
use serde_json::Value;

use crate::program::{PASSWORD, Program};
use crate::road::{Road, within};

pub(crate) const LEASE_S: u64 = 2;

/// How many events went over which connection.
pub(crate) type Sent = BTreeMap<u64, u64>;

/// Whether it runs or not.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) program: Option<Program>,
    pub(crate) frozen: bool,
    /// The host that it runs on, if not this one.
    host: Option<String>,
    /// The number of its connection to the switch when it began.
    connection: u64,
}

impl Node {
    pub(crate) fn new(road: &Road, outbox: &str, number: usize) -> Self {
        Self::with(road, outbox, number, None)
    }

    /// On a host of its own, impatient where it waits for an answer.
    pub(crate) fn on_host(road: &Road, outbox: &str, number: usize) -> Self {
        Self::with(road, outbox, number, Some(format!("node{number}")))
    }

    fn with(road: &Road, outbox: &str, number: usize, host: Option<String>) -> Self {
        let dir = road.dir.path().join(format!("node{number}"));
        fs::create_dir(&dir).unwrap();
        let (of_switch, of_zammad) = match host {
            Some(_) => ("heartbeat_timeout_s = 5\n", "timeout_s = 1\n"),
            None => ("", ""),
        };
        let text = format!(
            "state_dir = {:?}\ncountry = \"DE\"\n\n[[switch]]\naddress = \"{}\"\npassword = \"{PASSWORD}\"\n{of_switch}\n\
             [[zammad]]\nurl = \"{}\"\n{of_zammad}\n[delivery]\nlate_after_s = 3600\nretry_wait_ms_min = 100\n\
             retry_wait_ms_max = 1000\n\n[outbox]\nurl = \"{outbox}\"\nnode = \"n{number}\"\nlease_s = {LEASE_S}\n",
            dir.join("state"),
            road.switch.addr(),
            road.zammad.url(),
        );
        let file = dir.join("config.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Self { dir, program: None, frozen: false, host, connection: 0 }
    }

    pub(crate) async fn start(&mut self, road: &Road) {
        if self.program.is_some() {
            return;
        }
        let file = self.dir.join("config.toml");
        let before =
            road.switch.connections().iter().map(|c| c.number).max().unwrap_or(0).max(self.connection);
        let args = ["run", "--config", file.to_str().unwrap()];
        let mut program = match &self.host {
            Some(host) => Program::start_on(host, &args),
            None => Program::start(&args, &[]),
        };
        program.wait_for("listening to the switch");
        self.program = Some(program);
        let newest = |open: &[Connection]| open.iter().any(|c| c.subscribed && c.number > before);
        within("it listens", road.switch.wait_until(newest)).await;
        self.connection = road.switch.connections().iter().map(|c| c.number).max().unwrap();
    }

    pub(crate) async fn kill(&mut self, sent: &Sent) {
        self.has_heard(sent).await;
        self.program.take().unwrap().kill();
    }

    pub(crate) fn freeze(&mut self) {
        self.program.as_ref().unwrap().signal("STOP");
        self.frozen = true;
    }

    pub(crate) fn thaw(&mut self) {
        if self.frozen {
            self.program.as_ref().unwrap().signal("CONT");
            self.frozen = false;
        }
    }

    /// Ends as it should.
    pub(crate) fn stop(&mut self) {
        let program = self.program.take().unwrap();
        program.signal("TERM");
        assert_eq!(program.end().code, Some(0));
    }

    /// It has taken in all that the switch sent it, on the connection with which it began.
    pub(crate) async fn has_heard(&self, sent: &Sent) {
        let heard = sent.get(&self.connection).copied().unwrap_or(0);
        self.shows("it has heard all", |status| status["calls"]["events_handled"].as_u64() >= Some(heard))
            .await;
    }

    pub(crate) async fn shows(&self, what: &str, true_of: impl Fn(&Value) -> bool) {
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
