//! Our dependencies are what `deny.toml` allows: from crates.io, under these licences, no two versions of one without
//! a reason, and no exception for what is there no more. Reads the lock file and cargo's own tree, offline; the
//! advisories need the network and `cargo deny check advisories`.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Which crate each advisory is about: the identifiers in `deny.toml` do not say.
const IGNORED: [(&str, &str); 3] = [
    ("RUSTSEC-2025-0057", "fxhash"),
    ("RUSTSEC-2024-0384", "instant"),
    ("RUSTSEC-2023-0089", "atomic-polyfill"),
];

#[test]
fn all_come_from_crates_io_with_a_checksum() {
    let ours = env!("CARGO_PKG_NAME");
    for package in locked() {
        let text = |key: &str| package.get(key).and_then(|v| v.as_str());
        if text("name") != Some(ours) {
            assert_eq!(text("source"), Some(CRATES_IO), "{package:?}");
            assert_eq!(text("checksum").map(str::len), Some(64), "{package:?}");
        }
    }
    let only = &deny()["sources"];
    assert_eq!(only["allow-registry"][0].as_str().unwrap(), CRATES_IO.trim_start_matches("registry+"));
    assert_eq!(
        (only["unknown-registry"].as_str(), only["unknown-git"].as_str()),
        (Some("deny"), Some("deny"))
    );
}

#[test]
fn all_licences_are_allowed_and_all_that_are_allowed_are_needed() {
    let deny = deny();
    let allowed: BTreeSet<&str> =
        deny["licenses"]["allow"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    let built = built();
    for package in &built {
        assert!(permitted(&package.licence, &allowed), "{}: {:?}", package.name, package.licence);
    }
    for one in &allowed {
        let rest = allowed.iter().copied().filter(|l| l != one).collect();
        assert!(built.iter().any(|p| !permitted(&p.licence, &rest)), "{one} is allowed and not needed");
    }
}

#[test]
fn two_versions_of_one_crate_have_a_reason() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in built() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    let twice: BTreeSet<&str> =
        versions.iter().filter(|(_, all)| all.len() > 1).map(|(name, _)| name.as_str()).collect();
    let deny = deny();
    let skipped: BTreeSet<&str> =
        deny["bans"]["skip"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(twice, skipped);
    for banned in deny["bans"]["deny"].as_array().unwrap() {
        assert!(!versions.contains_key(banned["name"].as_str().unwrap()), "{banned:?} is built");
    }
}

#[test]
fn each_exception_has_a_reason_and_is_still_needed() {
    let deny = deny();
    let locked = locked();
    let names: BTreeSet<&str> = locked.iter().filter_map(|p| p["name"].as_str()).collect();
    let ignored = deny["advisories"]["ignore"].as_array().unwrap();
    let ids: BTreeSet<&str> = ignored.iter().map(|i| i["id"].as_str().unwrap()).collect();
    assert_eq!(ids, IGNORED.iter().map(|(id, _)| *id).collect());
    for (id, name) in IGNORED {
        assert!(names.contains(name), "{id}: {name} is gone, and so should its exception be");
        let reason =
            ignored.iter().find(|i| i["id"].as_str() == Some(id)).unwrap()["reason"].as_str().unwrap();
        assert!(reason.starts_with(&format!("{name}, ")) && reason.len() > 40, "{id}: {reason}");
    }
    for skip in deny["bans"]["skip"].as_array().unwrap() {
        assert!(skip["reason"].as_str().is_some_and(|r| !r.is_empty()), "{skip:?}");
    }
}

/// An SPDX expression: any side of an OR (also written `/`), every side of an AND. Parentheses stand around ORs only.
fn permitted(licence: &str, allowed: &BTreeSet<&str>) -> bool {
    let licence = licence.replace('/', " OR ");
    let (mut sides, mut depth, mut side) = (Vec::new(), 0, String::new());
    for word in licence.split_whitespace() {
        depth += word.matches('(').count();
        depth -= word.matches(')').count();
        if word == "AND" && depth == 0 {
            sides.push(std::mem::take(&mut side));
        } else {
            side.push_str(word);
            side.push(' ');
        }
    }
    sides.push(side);
    sides
        .iter()
        .all(|side| side.replace(['(', ')'], "").split(" OR ").any(|one| allowed.contains(one.trim())))
}

#[test]
fn licences_are_read_as_spdx_means_them() {
    let allowed = BTreeSet::from(["MIT", "ISC"]);
    for (licence, right) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND ISC", true),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(GPL-3.0 OR MIT) AND LGPL-3.0", false),
        ("MIT WITH exception", false),
        ("", false),
    ] {
        assert_eq!(permitted(licence, &allowed), right, "{licence:?}");
    }
}

fn deny() -> toml::Table {
    toml::from_str(&fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap()).unwrap()
}

/// Every package of the lock file, for whatever platform.
fn locked() -> Vec<toml::Value> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let lock: toml::Table = toml::from_str(&text).unwrap();
    let packages = lock["package"].as_array().unwrap().clone();
    assert!(packages.len() > 100);
    packages
}

/// A package that is built here.
struct Built {
    name: String,
    version: String,
    licence: String,
}

/// Every package that is built here, also for tests. As `cargo tree` has it: `cargo metadata` also names what others
/// would get with more features.
fn built() -> Vec<Built> {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let out = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
            "--no-dedupe",
        ])
        .args([
            "--format",
            "{p}|{l}",
            "--target",
            &format!("{}-unknown-linux-{libc}", std::env::consts::ARCH),
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines: BTreeSet<&str> = std::str::from_utf8(&out.stdout).unwrap().lines().collect();
    assert!(lines.len() > 100);
    lines.into_iter().map(read_built).collect()
}

/// A line such as `syn v2.0.119|MIT OR Apache-2.0`, or `serde_derive v1.0.229 (proc-macro)|…`.
fn read_built(line: &str) -> Built {
    let (package, licence) = line.split_once('|').unwrap();
    let mut words = package.split(' ');
    let (name, version) = (words.next().unwrap(), words.next().unwrap());
    assert!(version.starts_with('v'), "{line}");
    Built { name: name.to_owned(), version: version.to_owned(), licence: licence.to_owned() }
}
