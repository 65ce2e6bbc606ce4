//! What the program itself says of a key: whether it must be given, what fits, whether a running daemon takes another
//! value. Found by giving it such values, so that no list of them has to be kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use freeswitch_zammad::config::{Config, ConfigError, Environment, Fault, Kind, Overrides, Warning};
use tempfile::TempDir;

use super::example::{Entry, Example};

/// A secret may stand in the file or in one of its own, not in both.
const ALTERNATIVES: [(&str, &str); 3] =
    [("password", "password_file"), ("url", "url_file"), ("rest_token", "rest_token_file")];
const FILES: [(&str, &str); 6] = [
    ("zammad-url", "https://zammad.example.com/api/v1/cti/TOKEN"),
    ("freeswitch-password", "the-password-of-event_socket.conf.xml"),
    ("zammad-rest-token", "a-rest-token"),
    ("outbox-url", "postgres://zammad:a-password@127.0.0.1/outbox?sslmode=require"),
    ("outbox-ca.pem", include_str!("authority.pem")),
    ("zammad-ca.pem", "-----BEGIN CERTIFICATE-----\n"),
];
/// Lets a value that names a Zammad name another one.
const SECOND: &str = "[[zammad]]\nname = \"second\"\nurl = \"https://second.example.com/api/v1/cti/TOKEN\"\n";

/// What was found out of one key.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) default: Default,
    /// `1 to 256`; or the words that there are; or what it must look like.
    pub(crate) fits: Fits,
    pub(crate) reload: Reload,
}

#[derive(Debug)]
pub(crate) enum Default {
    /// What the example shows.
    Shown,
    /// Nothing is so without it.
    None,
    /// It must be given.
    Needed,
}

#[derive(Debug)]
pub(crate) enum Fits {
    Anything,
    Bounds(String),
    Words(Vec<String>),
    /// As the program words it.
    Form(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// A running daemon goes by it.
    Live,
    /// It stays until the next start.
    Restart,
    /// By itself it changes nothing.
    Idle,
}

pub(crate) struct Prober<'a> {
    example: &'a Example,
    folder: TempDir,
    loaded: RefCell<HashMap<String, Result<Config, ConfigError>>>,
}

impl<'a> Prober<'a> {
    pub(crate) fn new(example: &'a Example) -> Self {
        let folder = tempfile::tempdir().expect("there is room for some small files");
        for (name, text) in FILES {
            write(&folder.path().join(name), text);
            write(
                &folder.path().join(format!("{name}.other")),
                &text.replace("TOKEN", "ANOTHER").replace('-', "--"),
            );
        }
        Self { example, folder, loaded: RefCell::default() }
    }

    pub(crate) fn of(&self, entry: &Entry, kind: Kind) -> Found {
        let with = self.load(&self.text(entry, Some(&entry.value), None)).expect("the example works");
        let default = match self.load(&self.text(entry, None, None)) {
            Ok(without) if without == with => Default::Shown,
            Ok(_) => Default::None,
            Err(why) => {
                assert!(!why.faults.is_empty());
                Default::Needed
            }
        };
        let fits = self.fits(entry, kind);
        let reload = self.reload(entry, kind, &fits);
        Found { default, fits, reload }
    }

    fn fits(&self, entry: &Entry, kind: Kind) -> Fits {
        let wrong = match kind {
            Kind::Count => "-1",
            Kind::Text | Kind::Secret => "\"?\"",
            Kind::Path | Kind::Switch | Kind::Table | Kind::Tables => return Fits::Anything,
        };
        let Err(why) = self.load(&self.text(entry, Some(wrong), None)) else { return Fits::Anything };
        let fault =
            why.faults.iter().find(|f| f.key.ends_with(&entry.key)).expect("the fault is in this key");
        let remedy = &fault.remedy;
        if let Some(bounds) = remedy.strip_prefix("write ").filter(|_| kind == Kind::Count) {
            let (bounds, default) =
                bounds.split_once("; the default is ").expect("it names bounds and default");
            assert_eq!(default, entry.value, "{}: the example shows another default", entry.full());
            return Fits::Bounds(bounds.to_owned());
        }
        match remedy.strip_prefix("use one of ") {
            Some(words) => Fits::Words(words.split(", ").map(str::to_owned).collect()),
            None => Fits::Form(remedy.clone()),
        }
    }

    fn reload(&self, entry: &Entry, kind: Kind, fits: &Fits) -> Reload {
        // Some values only fit where another key is absent.
        let table =
            self.example.tables.iter().find(|table| table.name == entry.table).expect("it has a table");
        let others_of_table =
            table.entries.iter().filter(|other| other.line != entry.line).map(|other| other.line);
        for absent in std::iter::once(None).chain(others_of_table.map(Some)) {
            let Ok(running) = self.load(&with_second(self.text(entry, Some(&entry.value), absent))) else {
                continue;
            };
            for other in others(entry, kind, fits) {
                let alone = with_second(self.text(entry, Some(&other), absent));
                let mut ways = vec![alone.clone()];
                if kind == Kind::Text {
                    // A name is no good where others still call it by the old one.
                    ways.push(alone.replace(&format!(" = {}\n", entry.value), &format!(" = {other}\n")));
                }
                let mut loaded = ways.iter().filter_map(|text| self.load(text).ok());
                if let Some(new) = loaded.find(|new| *new != running) {
                    let (_, stays) = running.taking_over(new);
                    return if stays.is_empty() { Reload::Live } else { Reload::Restart };
                }
            }
        }
        Reload::Idle
    }

    /// The whole example in force, with this value for the key or without the key, and without the line `absent`.
    fn text(&self, entry: &Entry, value: Option<&str>, absent: Option<usize>) -> String {
        let mut text = String::new();
        for (number, line) in self.example.in_force.iter().enumerate() {
            if number == entry.line {
                if let Some(value) = value {
                    text.push_str(&format!("{} = {value}", entry.key));
                }
            } else if Some(number) != absent
                && !line.split_once(" = ").is_some_and(|(key, _)| goes_for(key, &entry.key))
            {
                text.push_str(line);
            }
            text.push('\n');
        }
        text.replace("/etc/freeswitch-zammad/", &format!("{}/", self.folder.path().display()))
    }

    fn load(&self, text: &str) -> Result<Config, ConfigError> {
        let path = self.folder.path().join("config.toml");
        let fresh = || {
            write(&path, text);
            Config::load(&Overrides::default(), &no_environment(), &path).map(|loaded| loaded.config)
        };
        self.loaded.borrow_mut().entry(text.to_owned()).or_insert_with(fresh).clone()
    }

    /// The key that an environment variable speaks of, by what is said of a value that cannot be right.
    pub(crate) fn key_of_variable(&self, name: &str) -> Option<String> {
        for value in ["\u{1}", "/nonexistent"] {
            let environment = Environment::from_iter([(name, value)]);
            let loaded =
                Config::load(&Overrides::default(), &environment, &self.folder.path().join("absent"));
            let (faults, warnings) = match loaded {
                Ok(loaded) => (vec![], loaded.warnings),
                Err(why) => (why.faults, vec![]),
            };
            let named = format!("environment variable {name}");
            let fault = faults.into_iter().find(|f: &Fault| f.origin.to_string() == named);
            let warning = warnings.into_iter().find(|w: &Warning| w.origin.to_string() == named);
            if let Some(key) = fault.map(|f| f.key).or(warning.map(|w| w.key)) {
                return Some(key.replace("[0]", ""));
            }
        }
        None
    }

    /// Whether an environment variable says where the state is kept: no value of that is wrong.
    pub(crate) fn is_state_dir(&self, name: &str) -> bool {
        let secrets = [
            ("FREESWITCH_ZAMMAD_ZAMMAD_URL", FILES[0].1),
            ("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD", FILES[1].1),
        ];
        let environment = Environment::from_iter(secrets.into_iter().chain([(name, "/elsewhere")]));
        Config::load(&Overrides::default(), &environment, &self.folder.path().join("absent"))
            .is_ok_and(|loaded| loaded.config.state_dir == Path::new("/elsewhere"))
    }
}

fn with_second(text: String) -> String {
    text + SECOND
}

fn no_environment() -> Environment {
    Environment::from_iter(std::iter::empty::<(String, String)>())
}

/// Values that differ from the example's, of which at least one should fit.
fn others(entry: &Entry, kind: Kind, fits: &Fits) -> Vec<String> {
    let inner = entry.value.trim_matches('"');
    let quoted = |text: &str| format!("\"{text}\"");
    match kind {
        Kind::Switch => vec!["true".to_owned(), "false".to_owned()],
        Kind::Path => vec![quoted(&format!("{inner}.other"))],
        Kind::Count => match fits {
            Fits::Bounds(bounds) => bounds.split(" to ").map(str::to_owned).collect(),
            Fits::Anything | Fits::Words(_) | Fits::Form(_) => vec![],
        },
        Kind::Text | Kind::Secret => {
            let words = match fits {
                Fits::Words(words) => words.clone(),
                Fits::Anything | Fits::Bounds(_) | Fits::Form(_) => vec![],
            };
            let digit = inner.rfind(|c: char| c.is_ascii_digit()).map(|at| {
                let other = if inner[at..].starts_with('7') { "6" } else { "7" };
                format!("{}{other}{}", &inner[..at], &inner[at + 1..])
            });
            let more = [
                "second".to_owned(),
                format!("{inner}x"),
                "AT".to_owned(),
                "debug".to_owned(),
                "USER_BUSY".to_owned(),
            ];
            words.into_iter().chain(digit).chain(more).map(|text| quoted(&text)).collect()
        }
        Kind::Table | Kind::Tables => vec![],
    }
}

/// The other key that the same secret may stand in.
pub(crate) fn alternative(key: &str) -> Option<&'static str> {
    ALTERNATIVES.iter().find_map(|(text, file)| match key {
        _ if key == *text => Some(*file),
        _ if key == *file => Some(*text),
        _ => None,
    })
}

/// Whether `other` must be out for `key` to be in: its own alternative, and of the other pairs the text.
fn goes_for(other: &str, key: &str) -> bool {
    ALTERNATIVES.iter().any(|(text, file)| if key == *text { other == *file } else { other == *text })
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}
