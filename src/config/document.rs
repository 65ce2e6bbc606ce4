//! Reads TOML key by key, so that one pass finds every fault and knows the line of each.
//!
//! A section is asked for the keys it may have; what nobody asked for is an unknown key. So the list of known
//! keys is the reading code itself and cannot fall behind it. Knows nothing of what the keys mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::fault::{Origin, Report};
use super::secret::Secret;

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text in quotes.
    Text,
    /// A text that must not show.
    Secret,
    /// A path; a relative one is taken from the folder of the file.
    Path,
    /// A whole number.
    Count,
    /// true or false.
    Switch,
    /// A table, `[key]`.
    Table,
    /// Any number of tables, `[[key]]`.
    Tables,
}

/// Parses `text` and reads it with `read`, which asks for every key it knows. `path` is where the text was
/// read; relative paths in it are taken from there.
///
/// Returns `None`, with a fault for each place, if the text is not TOML: half of it is not worth judging.
pub(super) fn read_document<T>(
    path: &Path,
    text: &str,
    report: &mut Report,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> Option<T> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let origin = |line| Origin::File { path: path.to_owned(), line };
    let mut last_line = None;
    for error in &errors {
        let line = error.span().map(|span| line_of(text, span.start));
        // One slip of the pen makes several errors on its line; the first says most.
        if line.is_none() || line != last_line {
            // Only the message: the error's Display would show the line, and with it a password.
            report.fault(&origin(line), "", error.message(), "correct the TOML on this line");
        }
        last_line = line;
    }
    if !errors.is_empty() {
        return None;
    }
    let mut reader = Reader { path, text, report, known: None };
    Some(Section::read(&mut reader, String::new(), "", origin(None), Some(root.get_ref()), read))
}

/// Every key that `read` asks for, with dots between table and key (`switch.rule.profile`), and what it holds.
pub(super) fn keys_asked_for<T>(read: impl FnOnce(&mut Section<'_, '_>) -> T) -> BTreeMap<String, Kind> {
    let mut report = Report::default();
    let mut reader =
        Reader { path: Path::new(""), text: "", report: &mut report, known: Some(BTreeMap::new()) };
    Section::read(&mut reader, String::new(), "", Origin::Nowhere, None, read);
    reader.known.unwrap_or_default()
}

/// One table of the file, while it is read.
pub(super) struct Section<'d, 'r> {
    reader: &'r mut Reader<'d>,
    /// As faults name it: `switch[0]`; empty for the root.
    key: String,
    /// As the documentation names it: `switch`.
    kind: String,
    origin: Origin,
    entries: Option<&'d DeTable<'d>>,
    asked: Vec<&'static str>,
    /// True if every key is welcome here.
    own_keys: bool,
}

struct Reader<'d> {
    path: &'d Path,
    text: &'d str,
    report: &'d mut Report,
    /// Filled only to list the known keys; a list of tables is then visited once though it is empty.
    known: Option<BTreeMap<String, Kind>>,
}

impl<'d> Section<'d, '_> {
    fn read<T>(
        reader: &mut Reader<'d>,
        key: String,
        kind: &str,
        origin: Origin,
        entries: Option<&'d DeTable<'d>>,
        read: impl FnOnce(&mut Section<'d, '_>) -> T,
    ) -> T {
        let mut section = Section {
            reader,
            key,
            kind: kind.to_owned(),
            origin,
            entries,
            asked: Vec::new(),
            own_keys: false,
        };
        let read = read(&mut section);
        section.refuse_unknown();
        read
    }

    /// The table's own name in faults: `switch[0]`.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Where the table begins.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A text, not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Given<String>> {
        self.text_of(key, Kind::Text)
    }

    fn text_of(&mut self, key: &'static str, kind: Kind) -> Option<Given<String>> {
        let (value, origin) = self.ask(key, kind)?;
        let Some(text) = value.as_str() else {
            return self.wrong_type(key, &origin, value, "a text in quotes");
        };
        if text.is_empty() {
            let full = self.full(key);
            self.reader.report.fault(&origin, full, "is empty", "write a value, or take the line out");
            return None;
        }
        Some(Given { value: text.to_owned(), origin })
    }

    /// A text that must not show.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Given<Secret>> {
        self.text_of(key, Kind::Secret)
            .map(|text| Given { value: Secret::new(text.value), origin: text.origin })
    }

    /// A path; a relative one is taken from the folder of the file.
    pub(super) fn path(&mut self, key: &'static str) -> Option<Given<PathBuf>> {
        let folder = self.reader.path.parent().unwrap_or(Path::new("")).to_owned();
        self.text_of(key, Kind::Path)
            .map(|text| Given { value: folder.join(text.value), origin: text.origin })
    }

    /// A whole number.
    pub(super) fn count(&mut self, key: &'static str) -> Option<Given<i64>> {
        let (value, origin) = self.ask(key, Kind::Count)?;
        let number = value.as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
        match number {
            Some(value) => Some(Given { value, origin }),
            None => self.wrong_type(key, &origin, value, "a whole number without quotes"),
        }
    }

    /// true or false.
    pub(super) fn switch(&mut self, key: &'static str) -> Option<Given<bool>> {
        let (value, origin) = self.ask(key, Kind::Switch)?;
        match value.as_bool() {
            Some(value) => Some(Given { value, origin }),
            None => self.wrong_type(key, &origin, value, "true or false without quotes"),
        }
    }

    /// The `[key]` table, read with `read`; an absent one as if it were empty.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'d, '_>) -> T) -> T {
        let (full, kind) = (self.full(key), self.kind_of(key));
        let (entries, origin) = match self.ask(key, Kind::Table) {
            Some((DeValue::Table(entries), origin)) => (Some(entries), origin),
            Some((other, origin)) => {
                let what = format!("is {}, not a table", name_of(other));
                self.reader.report.fault(&origin, &*full, what, format!("begin it with a line [{kind}]"));
                (None, origin)
            }
            None => (None, self.origin.clone()),
        };
        Section::read(self.reader, full, &kind, origin, entries, read)
    }

    /// Each `[[key]]` table, read with `read`, in the order of the file.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'d, '_>) -> T,
    ) -> Vec<T> {
        let (full, kind) = (self.full(key), self.kind_of(key));
        let found = match self.ask(key, Kind::Tables) {
            Some((DeValue::Array(found), _)) => {
                found.iter().map(|v| (v.get_ref(), self.reader.origin_at(v.span().start))).collect()
            }
            Some((table @ DeValue::Table(_), origin)) => {
                let remedy = format!("write [[{kind}]], in double brackets");
                self.reader.report.fault(&origin, &*full, "there can be several of these", remedy);
                vec![(table, origin)]
            }
            Some((other, origin)) => {
                let what = format!("is {}, not a list of tables", name_of(other));
                self.reader.report.fault(&origin, &*full, what, format!("begin each with a line [[{kind}]]"));
                Vec::new()
            }
            None => Vec::new(),
        };
        if found.is_empty() && self.reader.known.is_some() {
            Section::read(self.reader, full, &kind, Origin::Nowhere, None, &mut read);
            return Vec::new();
        }
        let mut all = Vec::new();
        for (i, (value, origin)) in found.into_iter().enumerate() {
            let full = format!("{full}[{i}]");
            let Some(entries) = value.as_table() else {
                let what = format!("is {}, not a table", name_of(value));
                self.reader.report.fault(&origin, full, what, format!("begin each with a line [[{kind}]]"));
                continue;
            };
            all.push(Section::read(self.reader, full, &kind, origin, Some(entries), &mut read));
        }
        all
    }

    /// Every key of this table with its text: for a table whose keys are the operator's own.
    pub(super) fn pairs(&mut self) -> Vec<(Given<String>, Given<String>)> {
        self.own_keys = true;
        let mut pairs = Vec::new();
        for (name, value) in self.entries.into_iter().flatten() {
            let origin = self.reader.origin_at(name.span().start);
            match value.get_ref().as_str() {
                Some(text) => pairs.push((
                    Given { value: name.get_ref().to_string(), origin: origin.clone() },
                    Given { value: text.to_owned(), origin },
                )),
                None => {
                    self.wrong_type::<()>(name.get_ref(), &origin, value.get_ref(), "a text in quotes");
                }
            }
        }
        pairs
    }

    fn ask(&mut self, key: &'static str, kind: Kind) -> Option<(&'d DeValue<'d>, Origin)> {
        self.asked.push(key);
        let full = self.kind_of(key);
        if let Some(known) = &mut self.reader.known {
            known.insert(full, kind);
        }
        let (_, value) = self.entries?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value.get_ref(), self.reader.origin_at(value.span().start)))
    }

    fn wrong_type<T>(&mut self, key: &str, origin: &Origin, value: &DeValue<'_>, wanted: &str) -> Option<T> {
        let full = self.full(key);
        self.reader.report.fault(origin, full, format!("is {}", name_of(value)), format!("write {wanted}"));
        None
    }

    fn refuse_unknown(self) {
        for (name, _) in self.entries.into_iter().flatten() {
            let name_text = name.get_ref().as_ref();
            if self.own_keys || self.asked.contains(&name_text) {
                continue;
            }
            let remedy = match nearest(name_text, &self.asked) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            let origin = self.reader.origin_at(name.span().start);
            self.reader.report.fault(&origin, self.full(name_text), "unknown key", remedy);
        }
    }

    fn full(&self, key: &str) -> String {
        join(&self.key, key)
    }

    fn kind_of(&self, key: &str) -> String {
        join(&self.kind, key)
    }
}

impl Reader<'_> {
    fn origin_at(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: Some(line_of(self.text, offset)) }
    }
}

/// The known word that `word` was probably meant to be: at most a third of its letters away, or its
/// beginning.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if let Some((_, meant)) = OFTEN_MEANT.iter().find(|(written, _)| *written == word)
        && let Some(found) = known.iter().find(|k| *k == meant)
    {
        return Some(found);
    }
    let distance = |k: &str| strsim::osa_distance(&word.to_lowercase(), &k.to_lowercase());
    let near = known.iter().map(|k| (distance(k), *k)).min();
    match near {
        Some((distance, k)) if distance <= (word.chars().count() / 3).clamp(1, 3) => Some(k),
        Some(_) | None => known.iter().find(|k| word.len() >= 3 && k.starts_with(word)).copied(),
    }
}

/// Keys that other programs have, and what they are called here.
const OFTEN_MEANT: [(&str, &str); 6] = [
    ("host", "address"),
    ("port", "address"),
    ("token", "url"),
    ("verify_ssl", "tls"),
    ("verify_tls", "tls"),
    ("insecure", "tls"),
];

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

fn name_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a decimal point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
