//! The measures that values are held against: a word of a list, a number in its bounds, a secret in its file.
//!
//! Each reports what does not fit and returns `None`. Knows no key by name.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::document::{Given, nearest};
use super::fault::{Origin, Report, Unfit};
use super::overlay::{SECRET_BYTES_MAX, chmod_remedy, read_text};
use super::raw::{Place, RawSecret};
use super::secret::Secret;
use crate::cti::event::TEXT_MAX;

/// The secret that one layer gives, read from its file if that is what it names.
pub(super) fn secret(
    raw: RawSecret,
    place: &Place,
    [text_key, file_key]: [&str; 2],
    missing: &str,
    remedy: &str,
    report: &mut Report,
) -> Option<Given<Secret>> {
    match (raw.text, raw.file) {
        (Some(text), None) => Some(text),
        (None, Some(file)) => {
            let value = secret_file(&file, &place.key(file_key), report)?;
            Some(Given { value, origin: file.origin })
        }
        (Some(_), Some(file)) => {
            let what = format!("{text_key} and {file_key} are both given");
            report.fault(&file.origin, place.key(file_key), what, "keep one of them");
            None
        }
        (None, None) => {
            let (text_key, file_key) = (place.key(text_key), place.key(file_key));
            if !report.has_fault_in(&file_key) {
                report.missing(&place.origin, &text_key, missing, remedy);
            }
            None
        }
    }
}

/// A secret's file, without the line break that editors put at its end.
fn secret_file(file: &Given<PathBuf>, key: &str, report: &mut Report) -> Option<Secret> {
    let path: &Path = &file.value;
    if path.to_string_lossy().contains("://") {
        let what = "is a URL, where the path of a file that holds it was expected";
        report.fault(
            &file.origin,
            key,
            what,
            "write the path of a file, or move it to the key without _file",
        );
        return None;
    }
    // Not by its name: whoever writes the password itself here should not find it in the log.
    let shown = match path.parent().filter(|folder| *folder != Path::new("")) {
        Some(folder) => format!("the file that it names in {}", folder.display()),
        None => "the file that it names".to_owned(),
    };
    let read = read_text(path, shown, SECRET_BYTES_MAX);
    let read = read.map_err(|unfit| report.unfit(&file.origin, key, unfit)).ok()?;
    if read.world_readable && !matches!(file.origin, Origin::Credential(_)) {
        let what = format!("{} can be read by every user of this machine", path.display());
        report.warn(&file.origin, key, what, chmod_remedy(path));
    }
    let text = read.text.strip_suffix('\n').unwrap_or(&read.text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        let what = format!("{} is empty", path.display());
        report.fault(&file.origin, key, what, "write the secret into it, on one line");
        return None;
    }
    Some(Secret::new(text))
}

pub(super) fn parse<T: FromStr<Err: Into<Unfit>>>(
    given: &Given<String>,
    key: &str,
    report: &mut Report,
) -> Option<T> {
    given.value.parse().map_err(|why: T::Err| report.unfit(&given.origin, key, why.into())).ok()
}

/// `Some(None)` if nothing is given, `None` if what is given does not fit.
pub(super) fn optional<T: FromStr<Err = Unfit>>(
    given: Option<&Given<String>>,
    key: &str,
    report: &mut Report,
) -> Option<Option<T>> {
    match given {
        Some(given) => parse(given, key, report).map(Some),
        None => Some(None),
    }
}

pub(super) fn required<T: FromStr<Err = Unfit>>(
    given: Option<&Given<String>>,
    place: &Place,
    key: &str,
    remedy: &str,
    report: &mut Report,
) -> Option<T> {
    match given {
        Some(given) => parse(given, key, report),
        None => {
            report.missing(&place.origin, key, "is missing", remedy);
            None
        }
    }
}

/// What the given word stands for.
pub(super) fn one_of<T: Clone>(
    given: &Given<String>,
    key: &str,
    words: &[(&str, T)],
    report: &mut Report,
) -> Option<T> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == given.value) {
        return Some(value.clone());
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let remedy = match nearest(&given.value, &known) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("use one of {}", known.join(", ")),
    };
    report.fault(&given.origin, key, format!("{:?} is not known here", given.value), remedy);
    None
}

/// The number that is given, or `default`, if it is within its bounds.
pub(super) fn bounded(
    given: Option<&Given<i64>>,
    key: impl Into<String>,
    bounds: RangeInclusive<u64>,
    default: u64,
    report: &mut Report,
) -> Option<u64> {
    let Some(given) = given else { return Some(default) };
    let fits = u64::try_from(given.value).ok().filter(|value| bounds.contains(value));
    if fits.is_none() {
        let remedy = format!("write {} to {}; the default is {default}", bounds.start(), bounds.end());
        report.fault(&given.origin, key, format!("{} is out of bounds", given.value), remedy);
    }
    fits
}

pub(super) fn short_enough(given: &Given<String>, key: &str, report: &mut Report) {
    let length = given.value.chars().count();
    if length > TEXT_MAX {
        let what = format!("has {length} characters, and Zammad keeps {TEXT_MAX}");
        report.fault(&given.origin, key, what, "shorten it");
    }
}

/// All of them, or `None` if one is missing; every one is looked at all the same.
pub(super) fn every<T>(all: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let all: Vec<Option<T>> = all.collect();
    all.into_iter().collect()
}

/// The values that may occur once, and the key that had each first. Does not show them: they may be secret.
pub(super) struct Seen<T> {
    first: HashMap<T, String>,
    remedy: &'static str,
}

impl<T: Eq + Hash> Seen<T> {
    pub(super) fn new(remedy: &'static str) -> Self {
        Self { first: HashMap::new(), remedy }
    }

    pub(super) fn add(&mut self, value: T, key: String, origin: &Origin, report: &mut Report) {
        match self.first.entry(value) {
            Entry::Occupied(first) => {
                report.fault(origin, key, format!("is the same as {}", first.get()), self.remedy);
            }
            Entry::Vacant(free) => {
                free.insert(key);
            }
        }
    }
}
