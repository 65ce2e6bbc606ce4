//! A disk that keeps a journal or fails on demand, for tests with a child process: `shim.c` is compiled once and
//! preloaded into the child. See there for what it records and which faults it knows.

#![allow(dead_code, reason = "each test file uses its part of this")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub(crate) mod journal;
pub(crate) mod model;

/// Puts the shim between `command` and all that is below `root`, which must exist.
pub(crate) fn preload(command: &mut Command, root: &Path) {
    command.env("LD_PRELOAD", library()).env("SHIM_ROOT", root);
}

/// The compiled shim. Built once for each state of its source, and kept beside what cargo builds.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/shim.c");
        let state = crc32fast::hash(&fs::read(source).unwrap());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = dir.join(format!("shim-{state:08x}.so"));
        if !library.exists() {
            // Renamed into place: other test processes may want it at the same moment.
            let new = tempfile::Builder::new().prefix("shim").suffix(".so").tempfile_in(dir).unwrap();
            let mut cc = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
            cc.args(["-shared", "-fPIC", "-O2", "-o"])
                .arg(new.path())
                .arg(source)
                .args(["-ldl", "-lpthread"]);
            assert!(cc.status().unwrap().success(), "the shim does not compile");
            new.persist(&library).unwrap();
        }
        library
    })
}

/// The faults of the disk below one directory, while a child that was given to [`Faults::preload`] runs.
pub(crate) struct Faults {
    control: PathBuf,
}

impl Faults {
    /// None yet. `control` is a path outside of the directory that will fail.
    pub(crate) fn new(control: PathBuf) -> Self {
        let faults = Self { control };
        faults.clear();
        faults
    }

    /// Puts the shim between `command` and `root`, and lets these faults rule it.
    pub(crate) fn preload(&self, command: &mut Command, root: &Path) {
        preload(command, root);
        command.env("SHIM_FAULTS", &self.control);
    }

    /// From now on the disk has these faults and no others: lines as `shim.c` lists them.
    pub(crate) fn set(&self, faults: &str) {
        let new = self.control.with_extension("new");
        fs::write(&new, faults).unwrap();
        fs::rename(&new, &self.control).unwrap();
    }

    /// The disk works again.
    pub(crate) fn clear(&self) {
        self.set("");
    }

    /// The calls that were made to fail so far, by name.
    pub(crate) fn hits(&self) -> Vec<String> {
        let file = PathBuf::from(format!("{}.hits", self.control.display()));
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
