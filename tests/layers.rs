//! Imports run one way; a lower layer that reaches up makes this red.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// What each layer may use besides itself, lowest first.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("time", &[]),
    ("esl", &["time"]),
    ("cti", &["time"]),
    ("call", &["esl", "cti", "time"]),
    ("queue", &["call", "cti", "time"]),
    // A stored shape of the call state is made from the types the tracker thinks with.
    ("store", &["call", "cti", "time"]),
    ("outbox", &["store", "cti", "time"]),
    ("config", &["outbox", "queue", "call", "cti", "time"]),
    ("edge", &["config", "outbox", "store", "queue", "call", "cti", "esl", "time"]),
    ("daemon", &["edge", "config", "outbox", "store", "queue", "call", "cti", "esl", "time"]),
    ("sim", &["time"]),
];

#[test]
fn imports_run_one_way() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (layer, may_use) in MAY_USE {
        for file in files_of(layer) {
            for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
                for used in modules_named(line) {
                    seen += 1;
                    if used != layer && !may_use.contains(&used.as_str()) {
                        wrong.push(format!("{}:{}: {layer} uses {used}", file.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} imports were found: the test looks in the wrong place");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_outside_library_is_named_where_it_belongs() {
    let only = [("sled::", "store"), ("reqwest::", "cti/client.rs"), ("tokio_postgres::", "outbox")];
    for file in all_files(Path::new("src")) {
        let text = fs::read_to_string(&file).unwrap();
        for (library, home) in only {
            let named =
                text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(&format!(" {library}")));
            assert!(!named || file.to_string_lossy().contains(home), "{} names {library}", file.display());
        }
    }
}

fn files_of(layer: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (folder, file) = (src.join(layer), src.join(format!("{layer}.rs")));
    let mut files = if folder.is_dir() { all_files(&folder) } else { vec![] };
    files.extend(file.is_file().then_some(file));
    files
}

/// Every file of Rust, however deep; a folder within may have none (the status page's).
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let found = files_below(folder);
    assert!(!found.is_empty(), "no source in {}", folder.display());
    found
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The crate's own modules that a line of code names by `crate::`.
fn modules_named(line: &str) -> Vec<String> {
    if line.trim_start().starts_with("//") {
        return Vec::new();
    }
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}
