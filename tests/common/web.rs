//! The real program with its status page, between the stand-ins, and plain HTTP to talk to it.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{self, Switch};
use freeswitch_zammad::sim::zammad::{self, Zammad};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::program::{PASSWORD, Program, TOKEN, run};
use crate::road::{renamed, within};

/// A running daemon, its peers, and where its page is.
pub(crate) struct Web {
    pub(crate) switch: Switch,
    pub(crate) zammad: Zammad,
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
    pub(crate) dir: TempDir,
}

impl Web {
    /// `switch` goes into the configuration's `[[switch]]`, `rest` behind everything.
    pub(crate) async fn start(switch: &str, rest: &str) -> Self {
        let settings = switch::Settings { password: PASSWORD.into(), ..switch::Settings::default() };
        let theirs = zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() };
        let (pbx, zammad) = (Switch::start(settings).unwrap(), Zammad::start(theirs).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let text = format!(
            "state_dir = \"state\"\ncountry = \"DE\"\n\n[[switch]]\naddress = \"{}\"\npassword = \"{PASSWORD}\"\n{switch}\n\n[[zammad]]\nurl = \"{}\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\n\n{rest}\n",
            pbx.addr(),
            zammad.url()
        );
        fs::write(&file, text).unwrap();
        let mut program = Program::start(&["run", "--config", file.to_str().unwrap()], &[]);
        program.wait_for("listening to the switch");
        within("the daemon subscribes", pbx.wait_subscribed()).await;
        let said = program.err();
        let address = said.split("address=127.0.0.1:").nth(1).unwrap().split_whitespace().next().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], address.parse().unwrap()));
        Self { switch: pbx, zammad, program, address, dir }
    }

    /// Stops the program and starts it again, where it was.
    pub(crate) fn restart(&mut self) {
        self.program.signal("TERM");
        let file = self.dir.path().join("config.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("127.0.0.1:0", &self.address.to_string())).unwrap();
        assert!(crate::program::wait(|| self.program.err().contains("stopped")), "{}", self.program.err());
        let args = ["run", "--config", file.to_str().unwrap()];
        let before = std::mem::replace(&mut self.program, Program::start(&args, &[]));
        assert_eq!(before.end().code, Some(0));
        self.program.wait_for("listening to the switch");
    }

    /// What `page` prints.
    pub(crate) fn link(&self) -> String {
        let file = self.dir.path().join("config.toml");
        let said = run(&["page", "--config", file.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out.trim().to_owned()
    }

    /// A session of the page.
    pub(crate) async fn session(&self) -> String {
        let link = self.link();
        let key = link.split_once("#key=").unwrap().1;
        let begun = self.post("/api/session", &serde_json::json!({ "key": key }), &[]).await;
        assert_eq!(begun.status, 200, "{}", begun.body);
        begun.json()["session"].as_str().unwrap().to_owned()
    }

    /// Plays a call up to where its first leg ends, so that it goes on. It has legs of its own.
    pub(crate) fn begin(&self, recording: &str, suffix: &str) -> Recording {
        let call = renamed(&self.switch, &crate::common::recording("captures", recording), suffix);
        for event in call.events().iter().take_while(|event| event.name() != "CHANNEL_HANGUP_COMPLETE") {
            self.switch.send(event);
        }
        call
    }

    /// The rest of a call that was begun.
    pub(crate) fn end(&self, call: &Recording) {
        for event in call.events().iter().skip_while(|event| event.name() != "CHANNEL_HANGUP_COMPLETE") {
            self.switch.send(event);
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let host = self.address.to_string();
        ask(self.address, "GET", path, &[&[("host", host.as_str())], headers].concat(), "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Reply {
        let (host, body) = (self.address.to_string(), body.to_string());
        let length = body.len().to_string();
        let own =
            [("host", host.as_str()), ("content-type", "application/json"), ("content-length", &length)];
        ask(self.address, "POST", path, &[&own, headers].concat(), &body).await
    }

    /// The snapshot as the page sees it, numbers masked.
    pub(crate) async fn status(&self) -> Value {
        self.get("/api/status").await.json()
    }

    /// Asks for `path` until `true_of` the answer.
    pub(crate) async fn until(
        &self,
        what: &str,
        path: &str,
        mut true_of: impl FnMut(&Reply) -> bool,
    ) -> Reply {
        let mut last = String::new();
        let asking = async {
            loop {
                let reply = self.get(path).await;
                if true_of(&reply) {
                    return reply;
                }
                last.clone_from(&reply.body);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let patience = Duration::from_secs(20);
        match tokio::time::timeout(patience, asking).await {
            Ok(reply) => reply,
            Err(_) => panic!("waited in vain: {what}; last: {last}"),
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// One request on a connection of its own. An answer that is cut off is an empty one with status 0.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    let mut answer = Vec::new();
    within("an answer", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Who is refused is not listened to; what was said before counts.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut answer).await;
    })
    .await;
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}
