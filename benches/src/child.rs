//! The daemon as a process of its own, as the unit runs it: this program is the daemon too, if its environment says so.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{disk, unit};

/// The variable that makes a daemon of this program.
pub(crate) const AS_DAEMON: &str = "FREESWITCH_ZAMMAD_BENCH_AS_DAEMON";

const TICK: Duration = Duration::from_millis(10);

/// A daemon. Dropped, it is killed.
pub(crate) struct Daemon(Child);

/// What the system says of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) rss_mb: f64,
    pub(crate) rss_max_mb: f64,
    /// Processor time so far.
    pub(crate) busy: Duration,
    /// How often its threads went to sleep so far.
    pub(crate) sleeps: u64,
}

impl Daemon {
    /// Starts it with `delivery`, lines of that section of the configuration.
    pub(crate) fn start(dir: &Path, switch: SocketAddr, zammad: &str, delivery: &str) -> Self {
        let config = dir.join("bench.toml");
        let text = format!(
            "state_dir = \"{}\"\ncountry = \"DE\"\n[[switch]]\naddress = \"{switch}\"\npassword = \"ClueCon\"\n[[zammad]]\nurl = \"{zammad}\"\n[delivery]\n{delivery}\n[log]\nlevel = \"warn\"\n",
            dir.display()
        );
        let file = std::fs::File::options().create(true).write(true).truncate(true).open(&config);
        let mut file = file.expect("a directory of ours");
        file.write_all(text.as_bytes()).expect("a disk with room");
        private(&file);
        let program = disk::built().join("benches");
        let mut command = Command::new(program);
        command.env(AS_DAEMON, "1").envs(unit::malloc()).args(["run", "--config"]).arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if std::env::var_os("BENCH_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        Self(command.spawn().expect("this program can be started again"))
    }

    pub(crate) fn figures(&self) -> Figures {
        let proc =
            |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.0.id())).unwrap_or_default();
        let status = proc("status");
        let kb = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_ascii_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN)
        };
        let stat = proc("stat");
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let ticks: u32 = fields.skip(11).take(2).filter_map(|t| t.parse::<u32>().ok()).sum();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).into_iter().flatten().flatten();
        let sleeps = tasks.filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            status
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?
                .trim()
                .parse::<u64>()
                .ok()
        });
        Figures {
            rss_mb: kb("VmRSS:") / 1024.0,
            rss_max_mb: kb("VmHWM:") / 1024.0,
            busy: TICK * ticks,
            sleeps: sleeps.sum(),
        }
    }
}

#[cfg(unix)]
fn private(file: &std::fs::File) {
    use std::os::unix::fs::PermissionsExt;
    // It holds a token, and the daemon says so of a file that others can read.
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).expect("a file of ours");
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes in a directory and below it.
pub(crate) fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
