//! systemd's journal in its own protocol: one datagram an entry, a field a line.
//!
//! ```text
//! NAME=value\n                                    a value in one line
//! NAME\n<length, 8 bytes, little end first>value\n   any other
//! ```
//!
//! Entries that are larger than a datagram would have to go as a sealed memory file; ours are cut before.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use serde_json::Value;
use tracing::Level;

use super::entry::Entry;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest value, in bytes: with all of its fields an entry stays well below what a datagram may hold.
const VALUE_MAX: usize = 8 * 1024;

/// The way to the journal.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    pub(super) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        Ok(Self(socket))
    }

    /// One that is not taken goes to standard error, which the journal reads too.
    pub(super) fn send(&self, entry: &[u8]) {
        // A journal that was started anew has another socket in the same place.
        let sent = self.0.send(entry).or_else(|_| {
            self.0.connect(SOCKET)?;
            self.0.send(entry)
        });
        if sent.is_err() {
            let text = String::from_utf8_lossy(entry);
            let message = text.lines().find_map(|line| line.strip_prefix("MESSAGE=")).unwrap_or_default();
            let _ = writeln!(io::stderr().lock(), "{message}");
        }
    }
}

/// Whether what is written to standard error goes to the journal: systemd says which stream that is.
pub(super) fn is_stderr() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    rustix::fs::fstat(io::stderr()).is_ok_and(|it| is_stream(&stream, it.st_dev, it.st_ino))
}

/// `stream` is `DEVICE:INODE`.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// An entry's bytes; `sentence` is what people read.
pub(super) fn entry(entry: &Entry, sentence: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, "MESSAGE", sentence);
    put(&mut bytes, "PRIORITY", priority(*entry.about.level()));
    put(&mut bytes, "SYSLOG_IDENTIFIER", "freeswitch-zammad");
    put(&mut bytes, "TARGET", entry.about.target());
    if let Some(name) = entry.name() {
        put(&mut bytes, "FSZ_EVENT", name);
    }
    if let (Some(file), Some(line)) = (entry.about.file(), entry.about.line()) {
        put(&mut bytes, "CODE_FILE", file);
        put(&mut bytes, "CODE_LINE", &line.to_string());
    }
    for field in entry.spans.iter().flat_map(|(_, fields)| fields).chain(&entry.fields) {
        // Letters, digits and underscores are all that a name may have.
        let fits = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = "FSZ_".chars().chain(field.name.chars().map(fits)).collect();
        match &field.value {
            Value::String(text) => put(&mut bytes, &name, text),
            value => put(&mut bytes, &name, &value.to_string()),
        }
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(VALUE_MAX)];
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

/// As syslog counts.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_by_its_device_and_inode() {
        assert!(is_stream("8:4711", 8, 4711));
        for other in ["8:4712", "9:4711", "4711", "", "8:", "8:4711:1", "a:b"] {
            assert!(!is_stream(other, 8, 4711), "{other}");
        }
    }

    #[test]
    fn a_long_value_is_cut_between_two_characters() {
        let mut bytes = Vec::new();
        put(&mut bytes, "A", &"ü".repeat(VALUE_MAX));
        assert_eq!(bytes.len(), "A=\n".len() + VALUE_MAX);
        assert!(String::from_utf8(bytes).is_ok());
    }
}
