//! A file that somebody appends to, with `fdatasync` after each piece: what a durable write costs at the least.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::measure::timed;

/// A directory on the disk to be measured: below `BENCH_DIR`, or where the benches are built. `/tmp` may be memory.
pub(crate) fn dir() -> TempDir {
    let below = std::env::var_os("BENCH_DIR").map_or_else(built, PathBuf::from);
    tempfile::tempdir_in(below).expect("a directory that can be written to; BENCH_DIR names another")
}

/// Where cargo has put us: it stays when we are gone.
pub(crate) fn built() -> PathBuf {
    let program = std::env::current_exe().expect("we are a file");
    program.parent().expect("it lies in a directory").to_owned()
}

pub(crate) struct Log(File);

impl Log {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(File::create(dir.join("log")).expect("a directory of ours"))
    }

    /// Appends and syncs; how long it took.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Duration {
        let (took, done) = timed(|| self.0.write_all(bytes).and_then(|()| self.0.sync_data()));
        done.expect("a disk with room");
        took
    }
}
