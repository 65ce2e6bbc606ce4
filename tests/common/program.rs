//! The real program as a child process, with what it says collected while it runs.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// No answer of the program takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// What must be in no output, whatever happens: every test uses these.
pub(crate) const PASSWORD: &str = "pAss-w0rd-of-the-switch";
pub(crate) const TOKEN: &str = "tOken-of-the-zammad";

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The last line of standard error: the sentence on why it did not work.
    pub(crate) fn sentence(&self) -> &str {
        self.err.lines().last().unwrap_or_default()
    }
}

/// A running program. Dropped, it is killed.
pub(crate) struct Program {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// With an environment of its own: nothing of this machine's configuration is read.
    pub(crate) fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_with(args, environment, None, None)
    }

    /// As another user, by number, which only root can do; as this one without.
    pub(crate) fn start_as(args: &[&str], user: Option<u32>) -> Self {
        Self::start_with(args, &[], None, user)
    }

    /// On this host of [`ip netns`](https://man7.org/linux/man-pages/man8/ip-netns.8.html).
    pub(crate) fn start_on(host: &str, args: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host, env!("CARGO_BIN_EXE_freeswitch-zammad")]);
        Self::spawn(command, args, &[], None)
    }

    fn start_with(
        args: &[&str],
        environment: &[(&str, &str)],
        input: Option<&[u8]>,
        user: Option<u32>,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freeswitch-zammad"));
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        Self::spawn(command, args, environment, input)
    }

    fn spawn(
        mut command: Command,
        args: &[&str],
        environment: &[(&str, &str)],
        input: Option<&[u8]>,
    ) -> Self {
        let mut child = command
            .args(args)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, err) = (Arc::default(), Arc::default());
        let mut readers = vec![
            collect(child.stdout.take().unwrap(), Arc::clone(&out)),
            collect(child.stderr.take().unwrap(), Arc::clone(&err)),
        ];
        if let (Some(input), Some(mut to)) = (input.map(<[u8]>::to_vec), child.stdin.take()) {
            // A program that stops reading closes the pipe; that is its business.
            readers.push(std::thread::spawn(move || drop(to.write_all(&input))));
        }
        Self { child, out, err, readers }
    }

    /// Returns once standard error holds `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let seen =
            wait(|| self.err.lock().unwrap().contains(text) || self.child.try_wait().unwrap().is_some());
        let err = self.err.lock().unwrap();
        assert!(seen && err.contains(text), "waited in vain for {text:?} in:\n{err}");
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Sends a signal by its name, `TERM`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(sent.unwrap().success());
    }

    /// The most memory that it has had resident until now, in kB.
    pub(crate) fn memory_max_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end. Fails on a panic, and on a secret in what it said.
    pub(crate) fn end(self) -> Said {
        let said = self.end_dead_or_alive();
        for text in [&said.out, &said.err] {
            assert!(!text.contains("panicked"), "it panicked:\n{text}");
        }
        said
    }

    /// As [`Program::end`], but a library of ours may have panicked.
    pub(crate) fn end_dead_or_alive(mut self) -> Said {
        let mut status: Option<ExitStatus> = None;
        let ended = wait(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "it does not end; it said:\n{}", self.err());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let said = Said {
            code: status.and_then(|s| s.code()),
            out: self.out.lock().unwrap().clone(),
            err: self.err.lock().unwrap().clone(),
        };
        for text in [&said.out, &said.err] {
            for never in [PASSWORD, TOKEN] {
                assert!(!text.contains(never), "{never:?} in:\n{text}");
            }
        }
        said
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end.
pub(crate) fn run(args: &[&str]) -> Said {
    Program::start(args, &[]).end()
}

/// Runs a program to its end, with this on its standard input.
pub(crate) fn run_with(args: &[&str], input: &[u8]) -> Said {
    Program::start_with(args, &[], Some(input), None).end()
}

/// The flags that `run` needs and no file.
pub(crate) fn flags<'a>(url: &'a str, switch: &'a str, dir: &'a Path) -> Vec<&'a str> {
    let dir = dir.to_str().unwrap();
    let secrets = ["--zammad-url", url, "--freeswitch", switch, "--freeswitch-password", PASSWORD];
    [&secrets[..], &["--state-dir", dir, "--country", "DE"]].concat()
}

/// Whether `true_of` became true in time.
pub(crate) fn wait(mut true_of: impl FnMut() -> bool) -> bool {
    let looks = PATIENCE.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if true_of() {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}

fn collect(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let mut to = to.lock().unwrap();
            to.push_str(&line.unwrap());
            to.push('\n');
        }
    })
}
