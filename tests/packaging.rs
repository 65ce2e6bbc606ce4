//! What the package says it brings is there, and the scripts that make packages are those that the page on them names.
//! Whether a package installs is tried by `.ci/run`, with `packaging/deb/try`.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the package keeps its documentation.
const DOC: &str = "usr/share/doc/freeswitch-zammad";

#[test]
fn every_page_of_the_documentation_is_in_the_package_where_the_others_look_for_it() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let packed: BTreeSet<(&str, &str)> = assets
        .iter()
        .map(|asset| (asset[0].as_str().unwrap(), asset[1].as_str().unwrap().trim_end_matches('/')))
        .collect();
    let pages = below(&root().join("docs"));
    assert!(pages.len() > 20, "{pages:?}");
    for page in pages {
        let folder = page.parent().unwrap().strip_prefix(root()).unwrap().to_str().unwrap();
        let (all, there) = (format!("{folder}/*"), format!("{DOC}/{folder}"));
        assert!(packed.contains(&(all.as_str(), there.as_str())), "{} is in no package", page.display());
    }
    for (source, _) in packed.iter().filter(|(source, _)| !source.starts_with("target/")) {
        let there = root().join(source.trim_end_matches("/*"));
        assert!(there.exists(), "{source} would be packed, and there is none");
    }
}

#[test]
fn the_scripts_are_those_that_the_page_names() {
    let page = fs::read_to_string(root().join("docs/packages.md")).unwrap();
    let is_word = |c: char| c.is_ascii_lowercase() || c == '/';
    let named: BTreeSet<&str> = page
        .match_indices("packaging/")
        .map(|(at, _)| page[at..].split(|c| !is_word(c)).next().unwrap())
        .filter(|name| !name.ends_with('/'))
        .collect();
    for name in &named {
        assert!(root().join(name).is_file(), "the page names {name}, which there is not");
    }
    for script in below(&root().join("packaging")) {
        let first = fs::read_to_string(&script).unwrap().lines().next().unwrap().to_owned();
        let name = script.strip_prefix(root()).unwrap().to_str().unwrap();
        // dpkg's own are run by dpkg; what is sourced needs no mode.
        if first == "#!/usr/bin/env bash" {
            assert!(named.contains(name), "the page does not name {name}");
            let mode = fs::metadata(&script).unwrap().permissions().mode();
            assert_eq!(mode & 0o111, 0o111, "{name} cannot be run");
        }
    }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
