//! The control socket is its user's alone: it is never open to others, whoever connects is asked who they are, and
//! no client can take it from the rest.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::{self, CLIENTS_MAX, Live, Request, socket_path};
use freeswitch_zammad::store::{Limits, Store};
use road::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A user without rights, and with no files.
const NOBODY: u32 = 65534;

mod invariants {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_never_seen_wider_than_0600() {
        // As wide as it gets: what is not narrowed shows.
        rustix::process::umask(rustix::fs::Mode::empty());
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open(elsewhere.path(), limits()).unwrap();
        for mode in [0o700, 0o755, 0o777] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let (looked, stop) = (AtomicU64::new(0), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let watcher = scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(about) = fs::symlink_metadata(socket_path(dir.path())) {
                            assert_eq!(about.mode() & 0o777, 0o600, "in a directory of mode {mode:o}");
                            looked.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
                tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(async {
                        for _ in 0..100 {
                            Served::with(dir.path(), store.clone()).await.end().await;
                        }
                    });
                });
                stop.store(true, Ordering::Relaxed);
                assert!(watcher.join().is_ok());
            });
            assert!(looked.load(Ordering::Relaxed) > 100);
        }
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn leftovers_of_a_crash_are_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let making = dir.path().join(".sock");
        fs::create_dir(&making).unwrap();
        drop(std::os::unix::net::UnixListener::bind(making.join("s")).unwrap());
        drop(std::os::unix::net::UnixListener::bind(socket_path(dir.path())).unwrap());
        let served = Served::start(dir.path()).await;
        assert_eq!(status(dir.path()).await["running"], true);
        assert!(fs::symlink_metadata(socket_path(dir.path())).unwrap().file_type().is_socket());
        assert!(!making.exists());
        served.stop().await;
        assert!(!socket_path(dir.path()).exists());
    }

    #[tokio::test]
    async fn a_path_that_no_client_could_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100));
        fs::create_dir(&deep).unwrap();
        let store = Store::open(&deep, limits()).unwrap();
        let why = control::serve(&deep, store.clone(), live(), CancellationToken::new()).await.unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            fs::read_dir(&deep).unwrap().filter(|e| e.as_ref().unwrap().file_name() == ".sock").count(),
            0
        );
        store.close().await.unwrap();
    }
}

mod known_errors {
    use super::*;

    #[tokio::test]
    async fn silent_clients_do_not_keep_others_out_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let served = Served::start(dir.path()).await;
        let mut silent = Vec::new();
        for _ in 0..CLIENTS_MAX {
            silent.push(UnixStream::connect(socket_path(dir.path())).await.unwrap());
        }
        // Accepted in their order, so they all have a place when the next one comes.
        let said = status(dir.path()).await;
        assert!(said["error"].as_str().is_some_and(|e| e.contains("32 others")), "{said}");
        assert_eq!(said["later"], true, "whoever asks for a script must know that it may ask again");
        // Hundreds more are told so, each at once.
        for _ in 0..300 {
            assert!(status(dir.path()).await["error"].is_string());
        }
        silent.clear();
        answered(dir.path()).await;
        served.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let served = Served::start(dir.path()).await;
        let mut silent = UnixStream::connect(socket_path(dir.path())).await.unwrap();
        let mut said = Vec::new();
        // Time jumps to whatever is waited for next; on the daemon's side that is the end of its patience.
        let minute = Duration::from_secs(60);
        let let_go = tokio::time::timeout(minute, silent.read_to_end(&mut said)).await;
        assert!(let_go.is_ok_and(|read| read.is_ok()) && said.is_empty());
        served.stop().await;
    }

    #[tokio::test]
    async fn a_request_without_an_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let served = Served::start(dir.path()).await;
        let mut endless = UnixStream::connect(socket_path(dir.path())).await.unwrap();
        let piece = vec![b'x'; 64 * 1024];
        let mut sent = 0_usize;
        within("it is cut off", async {
            while endless.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
        })
        .await;
        assert!((4..6).contains(&(sent / (1024 * 1024))), "{sent} bytes were taken");
        for nonsense in [&b"\n"[..], b"{}\n", b"\xff\xfe\n", b"{\"do\":\"shut-down\"}\n", b"[[[[[[[[["] {
            let mut client = UnixStream::connect(socket_path(dir.path())).await.unwrap();
            client.write_all(nonsense).await.unwrap();
            client.shutdown().await.unwrap();
            let mut said = Vec::new();
            // What is no text at all is not answered.
            let _ = client.read_to_end(&mut said).await;
            assert!(
                said.is_empty() || said.starts_with(b"{\"error\":"),
                "{}",
                String::from_utf8_lossy(&said)
            );
        }
        answered(dir.path()).await;
        served.stop().await;
    }
}

/// With the real program, because who asks is a property of a process.
#[cfg(target_os = "linux")]
mod strangers {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Output, Stdio};

    use super::*;

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that did not run must not look as if it had")]
    fn another_user_is_refused_and_root_is_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT RUN: only root can ask as another user");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where nobody can run it.
        let program = dir.path().join("program");
        fs::copy(env!("CARGO_BIN_EXE_freeswitch-zammad"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();

        // Root's daemon, and nobody asks.
        let state = dir.path().join("of-root");
        let daemon = Daemon::start(&program, &state, 0);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        refused(&ask(&program, &state, NOBODY), "Permission denied");
        fs::set_permissions(socket_path(&state), fs::Permissions::from_mode(0o666)).unwrap();
        refused(&ask(&program, &state, NOBODY), "user 65534 may not ask");
        assert!(ask(&program, &state, 0).status.success());
        drop(daemon);

        // Nobody's daemon; root and nobody ask, and a third.
        let state = dir.path().join("of-nobody");
        fs::create_dir(&state).unwrap();
        std::os::unix::fs::chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
        let daemon = Daemon::start(&program, &state, NOBODY);
        assert_eq!(fs::metadata(socket_path(&state)).unwrap().mode() & 0o777, 0o600);
        // Its memory and environment are root's to see, although the process is nobody's: it has seen to that.
        let environ = format!("/proc/{}/environ", daemon.0.id());
        assert_eq!(fs::metadata(environ).unwrap().uid(), 0);
        for (uid, may) in [(0, true), (NOBODY, true), (NOBODY - 1, false)] {
            fs::set_permissions(socket_path(&state), fs::Permissions::from_mode(0o666)).unwrap();
            let answer = ask(&program, &state, uid);
            assert_eq!(answer.status.success(), may, "user {uid}: {answer:?}");
        }
        drop(daemon);
    }

    fn refused(answer: &Output, words: &str) {
        let said = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.code() == Some(1) && said.contains(words), "{answer:?}");
        assert!(answer.stdout.is_empty());
    }

    fn ask(program: &Path, state: &Path, uid: u32) -> Output {
        let mut command = Command::new(program);
        command.args(["status", "--state-dir", state.to_str().unwrap()]).env_clear();
        command.uid(uid).gid(uid).current_dir("/").output().unwrap()
    }

    struct Daemon(Child);

    impl Daemon {
        fn start(program: &Path, state: &Path, uid: u32) -> Self {
            let mut command = Command::new(program);
            command.args(["run", "--state-dir", state.to_str().unwrap(), "--country", "DE"]).env_clear();
            // Nobody listens there: whether it has a link does not matter here.
            command.env("FREESWITCH_ZAMMAD_FREESWITCH", "127.0.0.1:1");
            command.env("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD", super::program::PASSWORD);
            command.env("FREESWITCH_ZAMMAD_ZAMMAD_URL", "http://127.0.0.1:1/api/v1/cti/some-token");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child = command.uid(uid).gid(uid).current_dir("/").spawn().unwrap();
            let daemon = Self(child);
            assert!(program::wait(|| socket_path(state).exists()), "no daemon for user {uid}");
            daemon
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The socket alone, with an empty store behind it.
struct Served {
    store: Store,
    stop: CancellationToken,
    task: JoinHandle<io::Result<()>>,
}

impl Served {
    async fn start(dir: &Path) -> Self {
        Self::with(dir, Store::open(dir, limits()).unwrap()).await
    }

    async fn with(dir: &Path, store: Store) -> Self {
        let stop = CancellationToken::new();
        let (path, its_store, its_stop) = (dir.to_owned(), store.clone(), stop.clone());
        let task = tokio::spawn(async move { control::serve(&path, its_store, live(), its_stop).await });
        while UnixStream::connect(socket_path(dir)).await.is_err() {
            assert!(!task.is_finished(), "{:?}", task.await);
            tokio::task::yield_now().await;
        }
        Self { store, stop, task }
    }

    async fn stop(self) {
        let store = self.store.clone();
        self.end().await;
        store.close().await.unwrap();
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn limits() -> Limits {
    let age = Duration::from_secs(3600);
    Limits {
        delivered_max: 10,
        delivered_age: age,
        dead_max: 10,
        dead_age: age,
        swap_bytes: u64::MAX,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    }
}

fn live() -> Live {
    Live::new(clock::now())
}

async fn status(dir: &Path) -> serde_json::Value {
    let answer = within("an answer", control::ask(dir, &Request::Status)).await.unwrap().unwrap();
    answer.into_iter().next().unwrap()
}

/// Returns once the daemon answers. A client that has gone keeps its place until that was noticed.
async fn answered(dir: &Path) {
    let mut last = serde_json::Value::Null;
    for _ in 0..1000 {
        last = status(dir).await;
        if last["running"] == true {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("no answer but {last}");
}
