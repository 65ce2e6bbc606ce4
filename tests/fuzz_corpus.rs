//! What the fuzzers found worth keeping, run through the very checks that they run: each input once, without a
//! fuzzer.

#[path = "../fuzz/checks/mod.rs"]
mod checks;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[test]
fn every_kept_input_passes() {
    let mut failed = Vec::new();
    for (target, check) in checks::ALL {
        let folder = fuzz().join("corpus").join(target);
        let inputs = fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
        let mut seen = 0;
        for input in inputs {
            let path = input.unwrap_or_else(|why| panic!("{}: {why}", folder.display())).path();
            let bytes = fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            seen += 1;
            if catch_unwind(|| check(&bytes)).is_err() {
                failed.push(path);
            }
        }
        assert!(seen >= 20, "only {seen} inputs for {target}: the corpus is not where it should be");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The fuzzers are not built here, so at least none is left out or runs another's check.
#[test]
fn every_check_has_its_fuzzer() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the fuzzers have a manifest");
    let mut fuzzers: Vec<String> = fs::read_dir(fuzz().join("fuzz_targets"))
        .expect("the fuzzers have a folder")
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    fuzzers.sort();
    let mut checks: Vec<String> = checks::ALL.iter().map(|(target, _)| format!("{target}.rs")).collect();
    checks.sort();
    assert_eq!(fuzzers, checks);
    for (target, _) in checks::ALL {
        let path = format!("fuzz_targets/{target}.rs");
        let source = fs::read_to_string(fuzz().join(&path)).expect("it can be read");
        assert!(source.contains(&format!("checks::{target}::check(")), "{path}");
        assert!(manifest.contains(&format!("name = \"{target}\"\npath = \"{path}\"")), "{target}");
    }
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}
