//! The real program between the stand-ins, for pages that quote it: what `status`, the log and the metrics say, with
//! addresses, times and sizes as an operator would have them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use freeswitch_zammad::sim::switch::{self, Switch};
use freeswitch_zammad::sim::zammad::{self, Zammad};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common;
use crate::program::{PASSWORD, Program, Said, TOKEN, run};
use crate::road::{renamed, until, within};

/// When everything on the pages happens.
const MOMENT: &str = "2026-11-25T03:12:40.512Z";
const MOMENT_MS: &str = "1795576360512";

pub(crate) struct Stage {
    pub(crate) switch: Switch,
    pub(crate) zammad: Zammad,
    pub(crate) dir: TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let settings = switch::Settings { password: PASSWORD.into(), ..switch::Settings::default() };
        let theirs = zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() };
        let stage = Self {
            switch: Switch::start(settings).unwrap(),
            zammad: Zammad::start(theirs).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        };
        stage.configure(&stage.zammad.url(), "");
        stage
    }

    pub(crate) fn configure(&self, url: &str, rest: &str) {
        let text = format!(
            "state_dir = \"state\"\ncountry = \"DE\"\n\n[[switch]]\naddress = \"{}\"\npassword = \"{PASSWORD}\"\n\n[[zammad]]\nurl = \"{url}\"\n{rest}\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            self.switch.addr(),
        );
        write(&self.file(), &text);
    }

    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Runs a command with this stage's configuration to its end.
    pub(crate) fn ask(&self, words: &[&str]) -> Said {
        run(&[words, &["--config", self.file().to_str().unwrap()]].concat())
    }

    /// The daemon, not waited for.
    pub(crate) fn start(&self) -> Program {
        Program::start(&["run", "--config", self.file().to_str().unwrap()], &[])
    }

    /// The daemon, once it listens to the switch.
    pub(crate) async fn listening(&self) -> Program {
        let mut program = self.start();
        program.wait_for("listening to the switch");
        within("the daemon subscribes", self.switch.wait_subscribed()).await;
        program
    }

    pub(crate) async fn play(&self, name: &str) {
        let recording = renamed(&self.switch, &common::recording("captures", name), name);
        within("it is on the wire", self.switch.play(&recording, switch::Pace::AtOnce)).await;
    }

    /// Returns once `status` holds the text.
    pub(crate) async fn until_status(&self, text: &str) {
        until(text, || self.ask(&["status"]).out.contains(text)).await;
    }

    pub(crate) fn status(&self) -> String {
        self.tidy(&self.ask(&["status"]).out)
    }

    /// The lines of the log in which these words stand, in the order of the words, each once.
    pub(crate) fn log(&self, program: &Program, words: &[&str]) -> String {
        let said = self.tidy(&program.err());
        let mut lines: Vec<&str> = Vec::new();
        for word in words {
            // The journal has the time already.
            let with = said.lines().map(|line| line.trim_start_matches(MOMENT).trim_start());
            let with: Vec<&str> = with.filter(|line| line.contains(word)).collect();
            assert!(!with.is_empty(), "no {word:?} in:\n{said}");
            lines.extend(with);
        }
        let mut seen = std::collections::BTreeSet::new();
        lines.retain(|line| seen.insert(*line));
        lines.join("\n")
    }

    /// The lines of `/metrics` that begin with one of these names.
    pub(crate) async fn metrics(&self, program: &Program, names: &[&str]) -> String {
        let said = program.err();
        let address = said.split("address=127.0.0.1:").nth(1).unwrap().split_whitespace().next().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], address.parse().unwrap()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the metrics come", stream.read_to_string(&mut answer)).await.unwrap();
        let mut lines: Vec<&str> =
            answer.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect();
        lines.sort_unstable();
        assert!(!lines.is_empty(), "no {names:?} in {answer}");
        lines.join("\n")
    }

    /// As an operator would see it: addresses, times and sizes that do not change from run to run.
    pub(crate) fn tidy(&self, text: &str) -> String {
        let state = self.dir.path().join("state");
        let text = text
            .replace(&state.display().to_string(), "/var/lib/freeswitch-zammad")
            .replace(&self.dir.path().display().to_string(), "/etc/freeswitch-zammad")
            .replace(&self.switch.addr().to_string(), "127.0.0.1:8021")
            .replace(&self.zammad.base_url(), "https://zammad.example.com")
            .replace(&self.zammad.base_url().replace("http://", ""), "zammad.example.com");
        let lines: Vec<String> = text.lines().map(tidy_line).collect();
        lines.join("\n")
    }
}

fn tidy_line(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(tidy_time).collect();
    for at in 1..words.len() {
        // Before these stands a figure that hangs on the moment.
        if words[at] == "kB" {
            words[at - 1] = "524".to_owned();
        }
        if words[at - 1].ends_with("_ms\":") && words[at].len() == MOMENT_MS.len() + 1 {
            words[at] = format!("{MOMENT_MS},");
        }
        if words[at].starts_with("took_ms=") {
            words[at] = "took_ms=339".to_owned();
        }
        if words[at] == "s;" && at > 1 && words[at - 2] == "for" {
            words[at - 1] = "97".to_owned();
        }
    }
    words.join(" ")
}

fn tidy_time(word: &str) -> String {
    let Some(at) = word.find("20").filter(|at| {
        let rest = &word.as_bytes()[*at..];
        rest.len() >= 20 && rest[4] == b'-' && rest[7] == b'-' && rest[10] == b'T'
    }) else {
        return word.to_owned();
    };
    let end = word[at..].find('Z').map_or(word.len(), |z| at + z + 1);
    format!("{}{MOMENT}{}", &word[..at], &word[end..])
}

pub(crate) fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;

    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
