//! A clock that runs fast, for tests with a child process: `fast.c` is compiled once and preloaded into the child.
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use freeswitch_zammad::edge::clock;

/// What makes the wall clock of a child run so many times as fast from now on: its environment.
pub(crate) fn faster(times: u64) -> Vec<(&'static str, String)> {
    let since = clock::now().0 / 1000;
    vec![("LD_PRELOAD", library()), ("FAST_SINCE", since.to_string()), ("FAST_TIMES", times.to_string())]
}

/// The compiled library. Built once for each state of its source, and kept beside what cargo builds.
fn library() -> String {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clock/fast.c");
    let state = crc32fast::hash(&fs::read(source).unwrap());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = dir.join(format!("fast-{state:08x}.so"));
    if !library.exists() {
        // Renamed into place: other test processes may want it at the same moment.
        let new = tempfile::Builder::new().prefix("fast").suffix(".so").tempfile_in(dir).unwrap();
        let mut cc = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
        cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(new.path()).arg(source);
        assert!(cc.status().unwrap().success(), "the library does not compile");
        new.persist(&library).unwrap();
    }
    library.to_str().unwrap().to_owned()
}
