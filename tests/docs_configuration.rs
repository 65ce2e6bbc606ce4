//! `docs/configuration.md` is made from the code that reads the configuration: its keys and what they hold, the bounds
//! and defaults it names, what it takes over while it runs. The words are those of the example configuration.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod docs;
#[path = "docs/example.rs"]
mod example;
#[path = "docs/probe.rs"]
mod probe;
#[path = "common/program.rs"]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use example::{Entry, Example, Table};
use freeswitch_zammad::config::{DEFAULT_FILE, Kind, VARIABLES, known_keys};
use probe::{Default, Fits, Found, Prober, Reload, alternative};
use program::run;

const EXAMPLE: &str = include_str!("../systemd/config.example.toml");
const UNIT: &str = include_str!("../systemd/freeswitch-zammad.service");
const HEAD: &str = include_str!("docs/configuration.head.md");

#[test]
fn the_configuration_reference_is_what_the_code_says() {
    let example = Example::read(EXAMPLE);
    let kinds = known_keys();
    let prober = Prober::new(&example);
    let elsewhere = Elsewhere::find(&prober);
    let mut seen = BTreeSet::new();
    let (mut glance, mut body) = (String::new(), String::new());
    for table in &example.tables {
        section(table, &mut body);
        if !table.name.is_empty() {
            seen.insert(table.name.clone());
        }
        for entry in &table.entries {
            // The keys of this table are the operator's own.
            if table.name == "causes" {
                let found = prober.of(entry, Kind::Text);
                own_keys(entry, &found, &mut body);
                row("causes.NAME", entry, &found, &[], &mut glance);
                continue;
            }
            let full = entry.full();
            let found = prober.of(entry, kinds[&full]);
            let by = elsewhere.of(&full);
            row(&full, entry, &found, &by, &mut glance);
            key(entry, kinds[&full], &found, &by, &mut body);
            seen.insert(full);
        }
    }
    assert_eq!(seen, kinds.into_keys().collect(), "the example has every key and no other");
    let page = HEAD
        .replace("{DEFAULT_FILE}", DEFAULT_FILE)
        .replace("{GLANCE}", &glance)
        .replace("{ELSEWHERE}", &elsewhere.table())
        .replace("{KEYS}", body.trim_end());
    docs::hold("docs/configuration.md", "docs_configuration", &page);
}

fn section(table: &Table, page: &mut String) {
    match &*table.name {
        "" => page.push_str("## At the top of the file\n\n"),
        _ => write!(page, "## `{}`\n\n", table.head).expect("a text takes all"),
    }
    if !table.text.is_empty() {
        write!(page, "{}\n\n", wrapped(&table.text)).expect("a text takes all");
    }
}

fn key(entry: &Entry, kind: Kind, found: &Found, by: &[&str], page: &mut String) {
    let mut facts = vec![what(entry, kind, &found.fits)];
    facts.push(match found.default {
        Default::Shown => format!("Default: `{}`.", entry.value),
        Default::None => format!("No default; for example `{}`.", entry.value),
        Default::Needed => match alternative(&entry.key) {
            Some(other) => format!("It or `{other}` must be given; for example `{}`.", entry.value),
            None => format!("Must be given; for example `{}`.", entry.value),
        },
    });
    // Which names there are is the operator's business.
    if let Fits::Form(form) = &found.fits
        && !form.contains("[[")
    {
        facts.push(format!("Form: {form}."));
    }
    facts.push(match found.reload {
        Reload::Live => "A reload applies it.".to_owned(),
        Reload::Restart => "**Needs a restart.**".to_owned(),
        Reload::Idle => "By itself it changes nothing; it goes with the other keys of its table.".to_owned(),
    });
    if !by.is_empty() {
        facts.push(format!(
            "Also set by {}.",
            by.iter().map(|by| format!("`{by}`")).collect::<Vec<_>>().join(", ")
        ));
    }
    write!(page, "### `{}`\n\n{}\n\n- {}\n\n", entry.full(), wrapped(&entry.text), facts.join("\n- "))
        .expect("a text takes all");
}

fn own_keys(entry: &Entry, found: &Found, page: &mut String) {
    let Fits::Words(words) = &found.fits else { panic!("a cause is one of some words: {found:?}") };
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    write!(
        page,
        "- The keys are names of FreeSWITCH causes, for example `{} = {}`; `freeswitch-zammad cause` lists them.\n\
         - The values are one of {}.\n- A reload applies it.\n\n",
        entry.key,
        entry.value,
        words.join(", ")
    )
    .expect("a text takes all");
    assert_eq!(found.reload, Reload::Live);
}

fn row(full: &str, entry: &Entry, found: &Found, by: &[&str], page: &mut String) {
    let default = match found.default {
        Default::Shown => format!("`{}`", entry.value),
        Default::None => "none".to_owned(),
        Default::Needed => "**needed**".to_owned(),
    };
    let reload = match found.reload {
        Reload::Live => "yes",
        Reload::Restart => "**no**",
        Reload::Idle => "-",
    };
    let link = full.replace('.', "");
    let name =
        if full == "causes.NAME" { "`causes.NAME`".to_owned() } else { format!("[`{full}`](#{link})") };
    let flags: Vec<String> =
        by.iter().filter(|by| by.starts_with("--")).map(|by| format!("`{by}`")).collect();
    writeln!(page, "| {name} | {default} | {reload} | {} |", flags.join(", ")).expect("a text takes all");
}

/// Type, unit and bounds.
fn what(entry: &Entry, kind: Kind, fits: &Fits) -> String {
    match (kind, fits) {
        (Kind::Count, Fits::Bounds(bounds)) => match unit(&entry.key) {
            Some(unit) => format!("A whole number, {unit}: {bounds}."),
            None => format!("A whole number: {bounds}."),
        },
        (Kind::Switch, _) => "`true` or `false`.".to_owned(),
        (Kind::Path, _) => {
            "A path; a relative one begins at the folder of the configuration file.".to_owned()
        }
        (Kind::Secret, _) => "A secret text.".to_owned(),
        (_, Fits::Words(words)) => {
            let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            format!("One of {}.", words.join(", "))
        }
        (Kind::Text | Kind::Count | Kind::Table | Kind::Tables, _) => "A text.".to_owned(),
    }
}

/// In lines of the width that the repository's texts have.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 120;
    let mut lines = String::new();
    for paragraph in text.split("\n\n") {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
                lines.push_str(line.trim_end());
                lines.push('\n');
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push_str(&line);
        lines.push_str("\n\n");
    }
    lines.trim_end().to_owned()
}

/// A key's unit stands in its name.
fn unit(key: &str) -> Option<&'static str> {
    let mut parts = key.rsplit('_').skip_while(|part| matches!(*part, "min" | "max"));
    let last = parts.next()?;
    match (last, parts.next()) {
        ("s", Some("per")) => Some("per second"),
        ("ms", _) => Some("milliseconds"),
        ("s", _) => Some("seconds"),
        ("h", _) => Some("hours"),
        ("d", _) => Some("days"),
        (_, _) => None,
    }
}

/// Which flags and variables set a key as well: each is given a value that cannot be right, and what is said of it
/// names the key.
struct Elsewhere {
    by_key: BTreeMap<String, Vec<String>>,
}

impl Elsewhere {
    fn find(prober: &Prober<'_>) -> Self {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for flag in flags() {
            by_key.entry(key_of_flag(&flag)).or_default().push(flag);
        }
        for name in VARIABLES.into_iter().filter(|name| *name != "CREDENTIALS_DIRECTORY") {
            let key = match prober.key_of_variable(name) {
                Some(key) => key,
                None if prober.is_state_dir(name) => "state_dir".to_owned(),
                None => panic!("what does {name} set?"),
            };
            by_key.entry(key).or_default().push(name.to_owned());
        }
        Self { by_key }
    }

    fn of(&self, key: &str) -> Vec<&str> {
        self.by_key.get(key).into_iter().flatten().map(String::as_str).collect()
    }

    fn table(&self) -> String {
        let mut table = String::new();
        for (key, by) in &self.by_key {
            let key = if key.is_empty() { "the file itself".to_owned() } else { format!("`{key}`") };
            let of = |flags: bool| -> String {
                let found = by.iter().filter(|by| by.starts_with("--") == flags);
                found.map(|by| format!("`{by}`")).collect::<Vec<_>>().join(", ")
            };
            writeln!(table, "| {key} | {} | {} |", of(true), of(false)).expect("a text takes all");
        }
        table
    }
}

/// The flags of the configuration, as `--help` lists them.
fn flags() -> Vec<String> {
    let help = run(&["run", "--help"]).out;
    let (_, configuration) = help.split_once("Configuration:").expect("they stand under a heading");
    let flags: Vec<String> = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--"))
        .filter_map(|line| line.split_whitespace().next())
        .map(|flag| format!("--{flag}"))
        .collect();
    assert!(flags.len() > 5, "{help}");
    flags
}

fn key_of_flag(flag: &str) -> String {
    const ENOUGH: [&str; 5] = [
        "check",
        "--zammad-url",
        "https://zammad.example.com/api/v1/cti/TOKEN",
        "--freeswitch-password",
        "x",
    ];
    let said = match flag {
        // Any path will do for this, so what is said of a good one tells.
        "--state-dir" => {
            let said = run(&[&ENOUGH[..], &[flag, "/elsewhere"]].concat());
            assert!(said.out.contains("state in /elsewhere"), "{said:?}");
            return "state_dir".to_owned();
        }
        // This says yes or no and nothing else; no is warned of.
        "--zammad-verify-ssl" => run(&[&ENOUGH[..], &[flag, "false"]].concat()),
        _ => run(&["check", flag, "\u{1}"]),
    };
    let wanted = format!("{flag}: ");
    let line = said.err.lines().find_map(|line| line.split_once(&wanted));
    let (_, fault) = line.unwrap_or_else(|| panic!("nothing is said of {flag}: {said:?}"));
    let key = fault.split(": ").next().unwrap_or_default().replace("[0]", "");
    if known_keys().contains_key(&key) { key } else { String::new() }
}

#[test]
fn the_credentials_are_those_that_the_unit_loads() {
    let names: Vec<&str> = UNIT.lines().filter_map(|line| line.strip_prefix("LoadCredential=")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for name in names {
        assert!(HEAD.contains(&format!("`{name}`")), "the page does not name the credential {name}");
    }
}
