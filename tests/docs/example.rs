//! The example configuration, read as what explains each key.

use std::mem;

/// One key of the example.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// `switch.rule`; empty for the root.
    pub(crate) table: String,
    pub(crate) key: String,
    /// As TOML writes it.
    pub(crate) value: String,
    /// What is said of it, in paragraphs.
    pub(crate) text: String,
    /// Counted from 0, in [`Example::in_force`].
    pub(crate) line: usize,
}

/// One table, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// As the file writes it, `[[switch.rule]]`; empty for the root.
    pub(crate) head: String,
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) entries: Vec<Entry>,
}

pub(crate) struct Example {
    pub(crate) tables: Vec<Table>,
    /// The file's lines with every commented key and table in force.
    pub(crate) in_force: Vec<String>,
}

impl Example {
    pub(crate) fn read(text: &str) -> Self {
        let root = Table { head: String::new(), name: String::new(), text: String::new(), entries: vec![] };
        let (mut tables, mut in_force, mut said) = (vec![root], Vec::new(), String::new());
        for (line, written) in text.lines().enumerate() {
            let is_explanation = written == "#" || written.starts_with("# ");
            let bare = written.strip_prefix('#').filter(|_| !is_explanation).unwrap_or(written);
            in_force.push(bare.to_owned());
            if is_explanation {
                said.push_str(written.trim_start_matches('#').trim());
                said.push('\n');
            } else if bare.is_empty() {
                // What is followed by nothing speaks of the whole file.
                said.clear();
            } else if bare.starts_with('[') {
                let name = bare.trim_matches(['[', ']']).to_owned();
                let text = prose(&mem::take(&mut said));
                tables.push(Table { head: bare.to_owned(), name, text, entries: vec![] });
            } else {
                let (key, value) = bare.split_once(" = ").expect("a key has a value");
                let table = tables.last_mut().expect("there is the root");
                table.entries.push(Entry {
                    table: table.name.clone(),
                    key: key.to_owned(),
                    value: value.to_owned(),
                    text: prose(&mem::take(&mut said)),
                    line,
                });
            }
        }
        Self { tables, in_force }
    }
}

impl Entry {
    /// `switch.rule.profile`
    pub(crate) fn full(&self) -> String {
        if self.table.is_empty() { self.key.clone() } else { format!("{}.{}", self.table, self.key) }
    }
}

/// The comment as Markdown: without what only makes sense beside the line in the file.
fn prose(comment: &str) -> String {
    let paragraphs = comment.split("\n\n").map(|paragraph| {
        let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = line.replace("---- ", "").replace(" ----", "");
        let kept = sentences(&line).into_iter().filter(|s| !s.starts_with("An example"));
        kept.collect::<Vec<_>>().join(" ").replace('*', "\\*")
    });
    paragraphs.filter(|p| !p.is_empty()).collect::<Vec<_>>().join("\n\n")
}

fn sentences(text: &str) -> Vec<&str> {
    let (mut all, mut from) = (Vec::new(), 0);
    for (at, _) in text.match_indices(". ") {
        // An abbreviation or a number goes on in small letters.
        if text[at + 2..].starts_with(char::is_uppercase) {
            all.push(&text[from..=at]);
            from = at + 2;
        }
    }
    all.push(&text[from..]);
    all
}
