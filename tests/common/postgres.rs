//! A real PostgreSQL for tests: one that is started here, below a directory of its own, or the one that
//! `TEST_POSTGRES_URL` leads to. Without either a test says that it was not run; where nothing may be left out that is a
//! failure.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]
#![expect(clippy::print_stderr, reason = "a test that was not run says so")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// Nothing that is waited for here takes nearly as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// PostgreSQL refuses to run as root; this user is on every system.
const NOBODY: u32 = 65_534;

/// Runs a server, in a directory, until its own input ends or has a line; without one it also removes the directory, which
/// a process that was killed cannot.
const WATCH: &str = "dir=$1; shift; \"$@\" </dev/null & read -r keep; kill -QUIT $!; wait $!
    [ -n \"$keep\" ] || rm -rf \"$dir\"";

/// A server. Killed when it is dropped, or when this process ends, however that comes about.
pub(crate) struct Server {
    programs: PathBuf,
    dir: TempDir,
    /// Where it listens besides its own directory.
    address: String,
    settings: &'static [&'static str],
    watched: Option<(Child, ChildStdin)>,
}

/// Whether there is a PostgreSQL for this test; says so if not.
pub(crate) fn is_there() -> bool {
    let there = std::env::var_os("TEST_POSTGRES_URL").is_some() || programs().is_some();
    if !there {
        assert!(std::env::var_os("NOTHING_LEFT_OUT").is_none(), "there is no PostgreSQL");
        eprintln!(
            "NOT RUN: there is no PostgreSQL (Debian: apt install postgresql), and no TEST_POSTGRES_URL"
        );
    }
    there
}

/// A database of its own, empty, in a server that all tests of this process share.
pub(crate) async fn database() -> String {
    static SHARED: OnceLock<Server> = OnceLock::new();
    let given = std::env::var_os("TEST_POSTGRES_URL").is_some();
    database_of(if given { None } else { Some(SHARED.get_or_init(Server::start)) }).await
}

/// In this server, or without one in that of `TEST_POSTGRES_URL`.
pub(crate) async fn database_of(server: Option<&Server>) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = server.map_or_else(|| std::env::var("TEST_POSTGRES_URL").unwrap(), Server::url);
    let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let client = connect(&server).await;
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await.unwrap();
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    of(&server, &name)
}

/// The same server's other database.
fn of(url: &str, database: &str) -> String {
    match url.split_once("://") {
        Some(_) => {
            let (before, options) = url.split_once('?').unwrap_or((url, ""));
            let (server, _) = before.rsplit_once('/').unwrap();
            format!("{server}/{database}?{options}")
        }
        None => format!("{} dbname={database}", url.replace("dbname=postgres", "")),
    }
}

/// To look into it.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// How many events in the outbox meet this condition.
pub(crate) async fn rows(client: &Client, condition: &str) -> i64 {
    let count = format!("SELECT count(*) FROM outbox_event WHERE {condition}");
    client.query_one(&count, &[]).await.unwrap().get(0)
}

/// Returns once nothing waits in the outbox any more.
pub(crate) async fn emptied(url: &str) {
    let client = connect(url).await;
    let waits = async {
        while rows(&client, "state = 'pending'").await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waits).await.is_err() {
        panic!("something waits in the outbox: {:#?}", waiting(&client).await);
    }
}

/// What waits, and who has it.
async fn waiting(client: &Client) -> Vec<String> {
    let what = "SELECT concat_ws(' ', e.event_id, 'attempt', e.attempt_ms, 'by', e.shipped_by, 'owner', l.owner, 'until',
                                 l.lease_until - now(), 'fence', l.fence, 'waiting', l.waiting)
         FROM outbox_event e LEFT JOIN outbox_line l USING (zammad, call_id) WHERE e.state = 'pending'";
    client.query(what, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at("")
    }

    /// On this address as well, for whoever comes.
    pub(crate) fn start_at(address: &str) -> Self {
        Self::begin(tempfile::Builder::new().prefix("pg").tempdir().unwrap(), address, &["fsync=off"])
    }

    /// In this directory, with these settings.
    pub(crate) fn begin(dir: TempDir, address: &str, settings: &'static [&'static str]) -> Self {
        let mut server = Self::make(dir, address, settings);
        server.go_on();
        server
    }

    /// On this address, also encrypted, with this certificate and its key in PEM.
    pub(crate) fn start_encrypted(address: &str, certificate: &str, key: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let mut server = Self::make(dir, address, &["fsync=off", "ssl=on"]);
        for (name, pem) in [("server.crt", certificate), ("server.key", key)] {
            let file = server.data().join(name);
            fs::write(&file, pem).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        server.go_on();
        server
    }

    fn make(dir: TempDir, address: &str, settings: &'static [&'static str]) -> Self {
        let programs = programs().expect("asked for before");
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let server = Self { programs, dir, address: address.to_owned(), settings, watched: None };
        let made = server
            .command("initdb")
            .args("-U postgres -A trust -E UTF8 --no-locale --no-sync --wal-segsize=1 -D".split(' '))
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let whoever = fs::File::options().append(true).open(server.data().join("pg_hba.conf"));
        whoever.unwrap().write_all(b"host all all 0.0.0.0/0 trust\n").unwrap();
        server
    }

    /// Starts it on what it had.
    pub(crate) fn go_on(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = self.command("postgres");
        let server = command.get_program().to_owned();
        // Ends with whoever holds the other end of its input; a kill must not leave it behind.
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCH, "sh"]).arg(self.dir.path()).arg(server);
        shell.arg("-D").arg(self.data()).arg("-k").arg(self.dir.path());
        let address = format!("listen_addresses={}", self.address);
        for setting in [&*address, "max_connections=100", "shared_buffers=16MB"].iter().chain(self.settings) {
            shell.args(["-c", setting]);
        }
        shell.current_dir(self.dir.path()).stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        command = shell;
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        let stop = child.stdin.take().unwrap();
        self.watched = Some((child, stop));
        self.wait_ready();
    }

    pub(crate) fn go_on_if_killed(&mut self) {
        if self.watched.is_none() {
            self.go_on();
        }
    }

    /// As a power cut of its machine does it, but for the disk.
    pub(crate) fn kill(&mut self) {
        let pid = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap().to_owned();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let killed = Command::new("kill").args(["-KILL", &pid]).status().unwrap();
        assert!(killed.success());
        if let Some((mut child, mut stop)) = self.watched.take() {
            stop.write_all(b"keep\n").unwrap();
            child.wait().unwrap();
        }
        // Its children notice by themselves; a start before that is refused.
        let is_over = |child: &str| {
            let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            // Behind its name in brackets; Z: nobody has asked how it ended.
            state.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
        };
        for _ in 0..1_200 {
            if children.split_whitespace().all(is_over) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let socket = self.dir.path().join(".s.PGSQL.5432");
        drop(fs::remove_file(socket));
    }

    pub(crate) fn url(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.dir.path().display())
    }

    /// Where its socket is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.dir.path());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn wait_ready(&self) {
        let ready = || {
            let mut asked = self.command("pg_isready");
            let asked = asked.arg("-h").arg(self.dir.path()).stdout(Stdio::null()).status();
            asked.unwrap().success()
        };
        for _ in 0..1_200 {
            if ready() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{}", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut child, stop)) = self.watched.take() {
            drop(stop);
            drop(child.wait());
        }
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Where PostgreSQL's programs are: Debian keeps them off the path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places
        .into_iter()
        .find(|place| ["initdb", "postgres", "pg_isready"].iter().all(|p| is_file(&place.join(p))))
}

fn is_file(path: &Path) -> bool {
    path.is_file()
}
