//! An event in the three formats a connection can ask for.

use bytes::Bytes;
use percent_encoding::percent_decode;

use super::super::recording::Event;

/// What `event plain|json|xml` asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Plain,
    Json,
    Xml,
}

impl Format {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Json => "json",
            Self::Xml => "xml",
        }
    }

    /// The whole frame. Plain is the event's own bytes.
    pub(super) fn frame(self, event: &Event) -> Bytes {
        let body = match self {
            Self::Plain => return event.frame().clone(),
            Self::Json => json(event),
            Self::Xml => xml(event),
        };
        let head = format!("Content-Length: {}\nContent-Type: text/event-{}\n\n", body.len(), self.as_str());
        let mut frame = head.into_bytes();
        frame.extend_from_slice(&body);
        frame.into()
    }
}

/// Of a name that comes twice the first counts. A value that is no UTF-8 stays so: such JSON is invalid, as the
/// real switch's is.
pub(super) fn json(event: &Event) -> Vec<u8> {
    let mut out = b"{".to_vec();
    let mut names: Vec<&[u8]> = Vec::new();
    for (name, raw) in event.raw_headers() {
        if names.contains(&name) {
            continue;
        }
        names.push(name);
        if out.len() > 1 {
            out.push(b',');
        }
        quote(name, &mut out);
        out.push(b':');
        let value: Vec<u8> = percent_decode(raw).collect();
        match value.strip_prefix(b"ARRAY::") {
            None => quote(&value, &mut out),
            Some(list) => {
                out.push(b'[');
                let mut rest = list;
                while let Some(end) = memchr::memmem::find(rest, b"|:") {
                    quote(&rest[..end], &mut out);
                    out.push(b',');
                    rest = &rest[end + 2..];
                }
                quote(rest, &mut out);
                out.push(b']');
            }
        }
    }
    if !event.inner().is_empty() {
        out.extend_from_slice(b",\"_body\":");
        quote(event.inner(), &mut out);
    }
    out.push(b'}');
    out
}

/// Values stay percent-encoded in XML.
fn xml(event: &Event) -> Vec<u8> {
    let mut out = "<event>\n  <headers>\n".to_owned();
    for (name, raw) in event.raw_headers() {
        let (name, raw) = (String::from_utf8_lossy(name), String::from_utf8_lossy(raw));
        out.push_str(&format!("    <{name}>{raw}</{name}>\n"));
    }
    out.push_str("  </headers>\n");
    if !event.inner().is_empty() {
        out.push_str(&format!("  <body>{}</body>\n", String::from_utf8_lossy(event.inner())));
    }
    out.push_str("</event>\n");
    out.into_bytes()
}

/// A JSON object of strings, in this order.
pub(super) fn object<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (name, value)) in pairs.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        quote(name, out);
        out.push(b':');
        quote(value, out);
    }
    out.push(b'}');
}

fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for b in text {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
            _ => out.push(*b),
        }
    }
    out.push(b'"');
}
