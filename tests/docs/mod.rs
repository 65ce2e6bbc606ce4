//! What pages of documentation are held to: a page is what the code says, or the test fails and says how to renew it.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Set to anything, it makes the tests write the pages instead of comparing them.
const RENEW: &str = "UPDATE_DOCS";

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails if the page is not `text`; or makes it so, where that is asked for.
pub(crate) fn hold(page: &str, test: &str, text: &str) {
    let path = root().join(page);
    if std::env::var_os(RENEW).is_some() {
        fs::write(&path, text).unwrap_or_else(|why| panic!("{page}: {why}"));
        return;
    }
    let stands = fs::read_to_string(&path).unwrap_or_default();
    if stands == text {
        return;
    }
    let differs = stands.lines().zip(text.lines()).position(|(is, should)| is != should);
    let at = differs.unwrap_or_else(|| stands.lines().count().min(text.lines().count()));
    let line = |of: &str| of.lines().nth(at).unwrap_or("(the page ends)").to_owned();
    panic!(
        "{page} is stale at line {}:\n  it says   {}\n  should be {}\nRenew it with: {RENEW}=1 cargo test --test {test}",
        at + 1,
        line(&stands),
        line(text)
    );
}

/// Every page for operators: the README and each Markdown file below `docs`.
pub(crate) fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display())) {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    assert!(pages.len() > 1, "there is no documentation");
    pages
}

/// The page's name as a reader knows it: `docs/trouble/README.md`.
pub(crate) fn shown(page: &Path) -> String {
    page.strip_prefix(root()).unwrap_or(page).display().to_string()
}

/// Fails if the block under `<!-- shown: NAME -->` is not `text`; or makes it so, where that is asked for.
pub(crate) fn hold_shown(page: &str, test: &str, name: &str, text: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = root().join(page);
    let whole = fs::read_to_string(&path).unwrap_or_else(|why| panic!("{page}: {why}"));
    let mark = format!("<!-- shown: {name} -->\n```text\n");
    let begin =
        whole.find(&mark).unwrap_or_else(|| panic!("{page} does not show {name}: it needs {mark}```"));
    let begin = begin + mark.len();
    let end = begin + whole[begin..].find("```").unwrap_or_else(|| panic!("{page}: {name} has no end"));
    let should = format!("{}\n", text.trim_end());
    if whole[begin..end] == should {
        return;
    }
    if std::env::var_os(RENEW).is_some() {
        let renewed = format!("{}{should}{}", &whole[..begin], &whole[end..]);
        fs::write(&path, renewed).unwrap_or_else(|why| panic!("{page}: {why}"));
        return;
    }
    panic!(
        "{page} is stale: what it shows as {name} is\n{}but should be\n{should}\nRenew it with: {RENEW}=1 cargo test --test {test}",
        &whole[begin..end]
    );
}
