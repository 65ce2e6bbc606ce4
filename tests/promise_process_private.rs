//! The running program keeps to itself: no core, no memory for others, no listener, no file for others; and its
//! secrets stand in nothing that it prints or that `ps` shows, at no log level.
//!
//! With the real program, because all of it is the process's.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use freeswitch_zammad::sim::switch::{self, Disconnect};
use freeswitch_zammad::sim::zammad::{self, Answer, Fault};
use program::{PASSWORD, TOKEN, wait};
use road::{Road, renamed, until, within};

const REST_TOKEN: &str = "rEst-token-of-the-zammad";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "a test that did not run must not look as if it had")]
async fn it_listens_on_no_port() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: which sockets it has only root can see");
        return;
    }
    let road = road();
    let running = Running::start(&road, "info");
    running.wait_for("listening to the switch");
    road.play(&call(&road, "one")).await;
    road.all_ended(1).await;
    let sockets = sockets_of(running.pid());
    assert!(!sockets.is_empty(), "it has connections at least");
    let listening = listeners();
    let ours: Vec<&String> = listening.intersection(&sockets).collect();
    assert!(ours.is_empty(), "it listens: {ours:?}");
    // The look itself can find one: the stand-ins listen, in this process, on loopback.
    assert!(listening.intersection(&sockets_of(std::process::id())).count() >= 2);
    assert!(road.switch.addr().ip().is_loopback() && road.zammad.url().starts_with("http://127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_leaves_no_core_and_no_way_into_its_memory() {
    let road = road();
    for signal in ["ABRT", "TRAP"] {
        let running = Running::start(&road, "info");
        running.wait_for("started");
        let limits = fs::read_to_string(proc_of(running.pid(), "limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let core: Vec<&str> = core.trim_start_matches("Max core file size").split_whitespace().collect();
        assert_eq!(core, ["0", "0", "bytes"]);
        // Who is not dumpable is root's in /proc, whoever runs it: that closes mem, environ and ptrace. Where root
        // runs this test, another one holds it, for another user.
        assert_eq!(fs::metadata(proc_of(running.pid(), "environ")).unwrap().uid(), 0);
        let cwd = running.cwd.clone();
        let before = fs::read_dir(&cwd).unwrap().count();
        running.kill(signal);
        let left: Vec<_> = fs::read_dir(&cwd).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), before, "{left:?}");
    }
    // The look itself can find one, where the system writes cores into files.
    if fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap().trim() == "core" {
        let dir = tempfile::tempdir().unwrap();
        let mut dies = Command::new("sh");
        dies.args(["-c", "ulimit -c unlimited; exec sh -c 'kill -ABRT $$'"]).current_dir(dir.path());
        assert!(!dies.status().unwrap().success());
        assert!(fs::read_dir(dir.path()).unwrap().count() > 0, "no core was written without us either");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_files_are_its_own_whatever_the_directory_and_the_umask() {
    let road = road();
    let state = road.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
    let running = Running::start(&road, "info");
    running.wait_for("listening to the switch");
    road.play(&call(&road, "one")).await;
    road.all_ended(1).await;
    let mut folders = vec![state];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            // Of files that come and go, only those that stay can be asked.
            let Ok(about) = entry.metadata() else { continue };
            assert_eq!(about.mode() & 0o077, 0, "{} has {:o}", entry.path().display(), about.mode());
            files += 1;
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(files > 3, "only {files} files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_stand_in_nothing_it_says_at_trace() {
    let mut road = road();
    let running = Running::start(&road, "trace");
    running.wait_for("listening to the switch");
    let page = format!("<h1>No route matches \"/api/v1/cti/{TOKEN}\"</h1> Token token={REST_TOKEN}");
    let answers = [
        Fault::answer_instead(Answer::json(422, &format!(r#"{{"error":"cti_logs: {TOKEN} required!"}}"#))),
        Fault::reset_after(),
        Fault::answer_after(Answer::garbage()),
        Fault::answer_instead(Answer { status: 401, headers: vec![], body: page.clone() }),
        Fault::answer_instead(Answer::redirect(302, &format!("/login?{TOKEN}"))),
        Fault::answer_instead(Answer { status: 503, headers: vec![], body: page }),
    ];
    road.zammad.set_faults(answers);
    for (number, name) in ["in_answered_caller_hangs_up", "in_caller_cancels", "out_busy"].iter().enumerate()
    {
        let bytes = common::recording("captures", name);
        road.play(&renamed(&road.switch, &bytes, &format!("t{number}"))).await;
    }
    let status = || running.ask(&["status", "--json"]);
    until("what can be is delivered", || status().contains(r#""waiting":0"#)).await;
    road.zammad.stop().await;
    road.play(&call(&road, "away")).await;
    until("some wait", || !status().contains(r#""waiting":0"#)).await;
    within("the link is cut", road.switch.drop_connections(Disconnect::Reset)).await;
    within("it is back", road.switch.wait_subscribed()).await;

    let mut said = vec![status(), fs::read_to_string(proc_of(running.pid(), "cmdline")).unwrap()];
    for ask in [
        &["status"][..],
        &["queue", "list"],
        &["queue", "list", "dead"],
        &["queue", "list", "delivered"],
        &["queue", "show", "1"],
        &["queue", "export"],
        &["check"],
        &["check", "--online"],
        &["queue", "nonsense"],
        &["pause", "nonsense"],
    ] {
        said.push(running.ask(ask));
    }
    // What `ps` shows is this; the environment is not for others.
    assert!(said[1].contains("run") && said[1].contains("--config"));
    assert!(said.iter().all(|text| !text.is_empty()), "{said:?}");
    let err = running.err();
    assert!(err.contains("TRACE") && err.contains("DEBUG"), "not everything was heard");
    said.push(err);
    running.kill("TERM");
    for text in &said {
        for secret in [PASSWORD, TOKEN, REST_TOKEN] {
            assert!(!text.contains(secret), "{secret} in:\n{text}");
        }
    }
}

/// The program with a whole configuration in files, as it should be run.
struct Running {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    cwd: PathBuf,
}

impl Running {
    fn start(road: &Road, level: &str) -> Self {
        let at = |name: &str| road.dir.path().join(name);
        for (name, secret) in [("password", PASSWORD), ("url", &road.zammad.url()), ("rest", REST_TOKEN)] {
            fs::write(at(name), secret).unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(0o600)).unwrap();
        }
        let text = format!(
            "state_dir = {:?}\ncountry = \"DE\"\n[log]\nlevel = \"{level}\"\n[delivery]\nretry_wait_ms_min = 100\nretry_wait_ms_max = 1000\n\
             [[switch]]\naddress = \"{}\"\npassword_file = {:?}\n\
             [[zammad]]\nurl_file = {:?}\nrest_token_file = {:?}\n",
            at("state"),
            road.switch.addr(),
            at("password"),
            at("url"),
            at("rest"),
        );
        let (config, log, cwd) = (at("config.toml"), at("log"), at("cwd"));
        fs::write(&config, text).unwrap();
        let _ = fs::create_dir(&cwd);
        // A shell that would have everything dumped, and files be everybody's.
        let start = "ulimit -c unlimited; umask 000; exec \"$0\" run --config \"$1\"";
        let child = Command::new("sh")
            .args(["-c", start, env!("CARGO_BIN_EXE_freeswitch-zammad"), config.to_str().unwrap()])
            .env_clear()
            .current_dir(&cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, config, log, cwd }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn err(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn wait_for(&self, text: &str) {
        assert!(wait(|| self.err().contains(text)), "waited in vain for {text:?} in:\n{}", self.err());
    }

    /// Everything that a command says about it.
    fn ask(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freeswitch-zammad"));
        let out = command
            .args(args)
            .args(["--config", self.config.to_str().unwrap()])
            .env_clear()
            .output()
            .unwrap();
        String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
    }

    fn kill(mut self, signal: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.pid())]).status();
        assert!(sent.unwrap().success());
        assert!(wait(|| self.child.try_wait().unwrap().is_some()), "it does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn road() -> Road {
    let zammad =
        zammad::Settings { token: TOKEN.into(), rest_token: Some(REST_TOKEN.into()), ..Default::default() };
    Road::of(switch::Settings { password: PASSWORD.into(), ..Default::default() }, zammad)
}

fn call(road: &Road, suffix: &str) -> freeswitch_zammad::sim::recording::Recording {
    renamed(&road.switch, &common::recording("captures", "in_caller_cancels"), suffix)
}

fn proc_of(pid: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

/// The inodes of a process's sockets.
fn sockets_of(pid: u32) -> BTreeSet<String> {
    let files = fs::read_dir(proc_of(pid, "fd")).unwrap();
    let links = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect()
}

/// The inodes of all sockets that take TCP connections, or UDP packets from anybody.
fn listeners() -> BTreeSet<String> {
    const LISTEN: &str = "0A";
    const UNCONNECTED: &str = "07";
    let mut inodes = BTreeSet::new();
    for (table, state) in [("tcp", LISTEN), ("tcp6", LISTEN), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)] {
        let text = fs::read_to_string(Path::new("/proc/self/net").join(table)).unwrap_or_default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if columns[3] == state {
                inodes.insert(columns[9].to_owned());
            }
        }
    }
    assert!(!inodes.is_empty(), "nobody listens at all: /proc is not what it should be");
    inodes
}
