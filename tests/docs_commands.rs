//! What the pages tell an operator to type exists: each subcommand and each flag, each file that a page links to, each
//! key in a piece of configuration.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod docs;
#[path = "common/program.rs"]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use freeswitch_zammad::config::{Config, Environment, Overrides};
use freeswitch_zammad::esl::command::SUBSCRIPTION;
use program::run;

const NAME: &str = "freeswitch-zammad";

#[test]
fn every_command_of_the_pages_exists() {
    let mut known = Known::default();
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in docs::pages() {
        let text = fs::read_to_string(&page).unwrap();
        for command in commands(&text).into_iter().chain(listed(&text)) {
            checked += 1;
            if let Err(why) = known.check(&command) {
                wrong.push(format!("{}: `{}`: {why}", docs::shown(&page), command.join(" ")));
            }
        }
    }
    assert!(checked > 90, "only {checked} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commands_are_taken_out_of_prose_and_code() {
    let found = |text| commands(text).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        found("run `freeswitch-zammad status` or\n`freeswitch-zammad queue\nlist`"),
        ["status", "queue list"]
    );
    assert_eq!(
        found(
            "```sh\nfreeswitch-zammad run …the same… --state-dir /x\nls | freeswitch-zammad trace - # not this\n```"
        ),
        ["run …the same… --state-dir /x", "trace -"]
    );
    assert_eq!(
        found("```sh\nfreeswitch-zammad check --online \\\n    --country DE\n```"),
        ["check --online --country DE"]
    );
    assert_eq!(
        found("systemctl restart freeswitch-zammad and freeswitch-zammad.service"),
        Vec::<String>::new()
    );
    assert_eq!(found("```sh\nsystemctl restart freeswitch-zammad\n```"), Vec::<String>::new());
    let mut known = Known::default();
    let mut check = |words: &str| known.check(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
    assert!(check("queue replay --dead --wait").is_ok());
    assert!(check("queue list dead").is_ok());
    assert!(check("queue replay --dad").is_err());
    assert!(check("queue lst").is_err());
    assert!(check("statsu").is_err());
    assert!(check("status --online").is_err());
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in docs::pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (_, rest) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let link = rest.split(')').next().unwrap();
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") || file.contains(['<', '{', ' ', '\n']) {
                continue;
            }
            checked += 1;
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            if !target.exists() {
                wrong.push(format!("{}: {link} is not there", docs::shown(&page)));
            } else if !place.is_empty() && !anchors(&target).contains(place) {
                wrong.push(format!("{}: {link} leads to no heading", docs::shown(&page)));
            }
        }
    }
    assert!(checked > 50, "only {checked} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_that_a_page_names_is_there() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in docs::pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (before, rest) in text.match_indices("`](").map(|(at, _)| text.split_at(at)) {
            let name = before.rsplit('`').next().unwrap();
            let link = rest["`](".len()..].split(')').next().unwrap();
            let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !link.ends_with(".rs") || !is_name {
                continue;
            }
            checked += 1;
            let target = fs::read_to_string(page.parent().unwrap().join(link)).unwrap_or_default();
            let test = ["#[test]\n", "worker_threads = 2)]\n", "#[tokio::test]\n"].into_iter().any(|mark| {
                ["", "async "]
                    .iter()
                    .any(|kind| target.replace("    ", "").contains(&format!("{mark}{kind}fn {name}()")))
            });
            if !test {
                wrong.push(format!("{}: {link} has no test {name}", docs::shown(&page)));
            }
        }
    }
    assert!(checked > 20, "only {checked} tests were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_an_index() {
    let folder = docs::root().join("docs");
    let index = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let (all, trouble) = (index("README.md"), index("trouble/README.md"));
    for page in docs::pages() {
        let Ok(name) = page.strip_prefix(&folder) else { continue };
        let name = name.to_str().unwrap();
        let (index, link) = match name.strip_prefix("trouble/") {
            Some(link) if link != "README.md" => (&trouble, link),
            Some(_) | None => (&all, name),
        };
        assert!(name == "README.md" || index.contains(&format!("({link})")), "{name} is in no index");
    }
}

#[test]
fn every_piece_of_configuration_is_right() {
    let mut checked = 0;
    for page in docs::pages() {
        let text = fs::read_to_string(&page).unwrap();
        for piece in blocks(&text, "toml") {
            checked += 1;
            let rules = piece.trim_start().starts_with("[[switch.rule]]");
            let whole = if rules { format!("[[switch]]\npassword = \"x\"\n{piece}") } else { piece.clone() };
            let names = ["acme"].map(|name| {
                format!("[[zammad]]\nname = \"{name}\"\nurl = \"https://{name}.example.com/api/v1/cti/T\"\n")
            });
            let whole = if whole.contains("zammad = \"acme\"") { whole + &names.concat() } else { whole };
            let environment: Environment = [
                ("FREESWITCH_ZAMMAD_ZAMMAD_URL", "https://zammad.example.com/api/v1/cti/TOKEN"),
                ("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD", "x"),
            ]
            .into_iter()
            // They speak of the one switch and the one Zammad.
            .filter(|(name, _)| !(piece.contains("password_file") || rules) || !name.ends_with("PASSWORD"))
            .filter(|(name, _)| {
                !(whole.contains("[[zammad]]") && whole.contains("url") && name.ends_with("URL"))
            })
            .collect();
            let judged = Config::judge(&whole, Path::new("/etc/x.toml"), &Overrides::default(), &environment);
            assert!(judged.is_ok(), "{}:\n{whole}\n{}", docs::shown(&page), judged.unwrap_err());
        }
    }
    assert!(checked > 10, "only {checked} pieces were found");
}

#[test]
fn the_events_that_a_user_of_the_switch_must_be_allowed_are_those_that_are_asked_for() {
    let page = fs::read_to_string(docs::root().join("docs/set-up-freeswitch.md")).unwrap();
    let events = SUBSCRIPTION.strip_prefix("event plain ").unwrap();
    assert!(page.contains(&format!("\"esl-allowed-events\" value=\"{events}\"")), "{events}");
}

#[test]
fn what_the_pages_quote_in_prose_is_said_somewhere() {
    let sources = sources(&docs::root().join("src"));
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in docs::pages()
        .iter()
        .filter(|page| !page.ends_with("README.md") || page.ends_with("trouble/README.md"))
    {
        let shown = docs::shown(page);
        if shown.starts_with("docs/configuration")
            || shown.starts_with("docs/what-")
            || shown == "docs/threat-model.md"
        {
            continue;
        }
        for quoted in quotations(&fs::read_to_string(page).unwrap()) {
            // What stands for something else is left out: a number, a length, what follows.
            let pieces = quoted.split(['…', '/']).flat_map(|piece| piece.split(|c: char| c.is_ascii_digit()));
            let pieces = pieces.flat_map(|piece| piece.split(" N")).flat_map(|piece| piece.split(" M"));
            for piece in pieces.map(str::trim).filter(|piece| piece.len() > 3) {
                checked += 1;
                if !sources.contains(piece) {
                    wrong.push(format!("{shown}: nothing says {piece:?} (of {quoted:?})"));
                }
            }
        }
    }
    assert!(checked > 10, "only {checked} quotations were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_metric_and_alert_of_the_pages_exists() {
    let ops = docs::root().join("docs/ops");
    let alerts = fs::read_to_string(ops.join("prometheus-alerts.yml")).unwrap();
    let known = fs::read_to_string(ops.join("grafana-dashboard.json")).unwrap() + &alerts;
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in docs::pages() {
        let text = fs::read_to_string(&page).unwrap();
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let is_there = if word.starts_with("freeswitch_zammad_") {
                known.contains(word)
            } else if word.starts_with("FreeswitchZammad") {
                alerts.contains(&format!("alert: {word}\n"))
            } else {
                continue;
            };
            checked += 1;
            if !is_there {
                wrong.push(format!("{}: there is no {word}", docs::shown(&page)));
            }
        }
    }
    assert!(checked > 10, "only {checked} names were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands between double quotes, outside of blocks and of code.
fn quotations(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            prose.push_str(line);
            prose.push(' ');
        }
    }
    let plain: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("");
    plain.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The program's texts, those that are broken over lines in one piece.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|end| end == "rs" || end == "js") {
            let source = fs::read_to_string(&path).unwrap();
            for line in source.split("\\\n") {
                text += line.trim_start();
            }
        }
    }
    text
}

/// What `--help` of each command says, asked once.
#[derive(Default)]
struct Known {
    helps: BTreeMap<Vec<String>, String>,
}

impl Known {
    fn check(&mut self, words: &[String]) -> Result<(), String> {
        let mut path: Vec<String> = Vec::new();
        let mut words = words.iter().peekable();
        while let Some(word) = words.peek() {
            let help = self.help(&path);
            let Some((_, listed)) = help.split_once("\nCommands:\n") else { break };
            let listed: BTreeSet<&str> = listed
                .lines()
                .take_while(|line| !line.is_empty())
                .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            // `queue list|show`, or `queue …`, speaks of several.
            let all: Vec<&str> = word.split(['|', '\\']).filter(|w| !w.is_empty()).collect();
            if word.starts_with('-') || word.starts_with('…') || word.starts_with('[') {
                break;
            }
            if let Some(strange) = all.iter().find(|word| !listed.contains(*word)) {
                return Err(format!("there is no command {strange}"));
            }
            path.push(all[0].to_owned());
            words.next();
        }
        let help = self.help(&path);
        for flag in words.map(|word| word.trim_start_matches('[')).filter(|word| word.starts_with("--")) {
            let flag = flag.split('=').next().unwrap().trim_end_matches([']', ',', '.', ';']);
            let there = help.split_whitespace().any(|word| word.trim_end_matches([',', ']']) == flag);
            if !there {
                return Err(format!("there is no flag {flag}"));
            }
        }
        Ok(())
    }

    fn help(&mut self, path: &[String]) -> String {
        let ask = || {
            let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
            args.push("--help");
            let said = run(&args);
            assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
            said.out
        };
        self.helps.entry(path.to_vec()).or_insert_with(ask).clone()
    }
}

/// The words behind the program's name, wherever a page tells to type it: in blocks of shell, and between backticks.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let (mut prose, mut in_block) = (String::new(), None);
    for line in text.lines() {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            in_block = if in_block.is_some() { None } else { Some(kind.to_owned()) };
        } else if in_block.is_none() {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    for block in blocks(text, "sh") {
        for line in block.replace("\\\n", " ").lines() {
            let line = line.split(" #").next().unwrap();
            for part in line.split(['|', ';']) {
                found.extend(words_of(part.trim()));
            }
        }
    }
    for (at, span) in prose.split('`').enumerate() {
        if at % 2 == 1 {
            found.extend(words_of(&span.replace('\n', " ")));
        }
    }
    found
}

/// The commands of the README's table, which leaves the program's name out.
fn listed(text: &str) -> Vec<Vec<String>> {
    let Some((_, table)) = text.split_once("| command | what it shows |") else { return vec![] };
    let rows = table
        .lines()
        .skip(1)
        .skip_while(|line| line.starts_with("|--"))
        .take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row[1..].split(" | ").next());
    let spans = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    spans.map(|span| span.split_whitespace().map(str::to_owned).collect()).collect()
}

fn words_of(command: &str) -> Option<Vec<String>> {
    let mut words = command.split_whitespace().map(str::to_owned);
    // `cargo run --release -- demo` is the program too, but another word begins it.
    (words.next()? == NAME).then(|| words.collect::<Vec<_>>()).filter(|words| !words.is_empty())
}

/// The fenced blocks of this kind.
fn blocks(text: &str, kind: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut current: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), current.take()) {
            (Some(opens), None) => current = Some((opens == kind, String::new())),
            (Some(_), Some((true, block))) => blocks.push(block),
            (Some(_), Some((false, _))) | (None, None) => {}
            (None, Some((wanted, mut block))) => {
                block.push_str(line);
                block.push('\n');
                current = Some((wanted, block));
            }
        }
    }
    blocks
}

/// The headings of a page, as GitHub makes addresses of them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap();
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#').map(|l| l.trim_start_matches('#').trim()));
    let address = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(address).collect()
}
