//! Stands where systemd does: what a program tells its `NOTIFY_SOCKET`.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The socket, and each message that arrived, with its lines as they were.
pub(crate) struct Notified {
    dir: tempfile::TempDir,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Notified {
    pub(crate) fn listen() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = Arc::clone(&heard);
        // It waits for the next message when the test is over, and ends with the process.
        std::thread::spawn(move || {
            let mut message = [0; 64 * 1024];
            while let Ok(length) = socket.recv(&mut message) {
                all.lock().unwrap().push(String::from_utf8(message[..length].to_vec()).unwrap());
            }
        });
        Self { dir, heard }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("notify")
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// Whether a message has this line.
    pub(crate) fn has(&self, line: &str) -> bool {
        self.all().iter().any(|message| message.lines().any(|l| l == line))
    }

    /// What was last said for `systemctl status`.
    pub(crate) fn status(&self) -> String {
        let all = self.all();
        let last = all.iter().rev().flat_map(|m| m.lines()).find_map(|line| line.strip_prefix("STATUS="));
        last.unwrap_or_default().to_owned()
    }
}
