//! JSON and XML as one tree: what both modules write differs only in their brackets.
//!
//! A name may stand several times in one parent, in JSON too: FreeSWITCH before 1.6 wrote `callflow` so.

use std::fmt;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Deepest nesting; the modules write seven.
const DEPTH_MAX: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    Text(String),
    List(Vec<Node>),
    /// In the order of the file. The attributes of an XML element are entries like its children.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// `None` if it is no JSON, or not all of it.
    pub(super) fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The root element. `None` if it is no XML, or not all of it.
    pub(super) fn from_xml(text: &str) -> Option<Self> {
        let mut reader = Reader::from_str(text);
        // Variables can be called by what is no name in XML.
        reader.config_mut().check_end_names = false;
        let mut open: Vec<Element> = Vec::new();
        loop {
            match reader.read_event().ok()? {
                Event::Start(_) if open.len() == DEPTH_MAX => return None,
                Event::Start(start) => open.push(Element::new(&start)),
                Event::Empty(start) => {
                    let (name, node) = Element::new(&start).close();
                    open.last_mut()?.entries.push((name, node));
                }
                Event::End(_) => {
                    let (name, node) = open.pop()?.close();
                    match open.last_mut() {
                        Some(parent) => parent.entries.push((name, node)),
                        None => return Some(node),
                    }
                }
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::CData(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::GeneralRef(entity) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push(character(&entity)?);
                    }
                }
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) | Event::DocType(_) => {}
                Event::Eof => return None,
            }
        }
    }

    /// The first entry of this name; of a list its first element.
    pub(super) fn first(&self, name: &str) -> Option<&Self> {
        self.all(name).next()
    }

    /// Every entry of this name; lists are taken apart.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Self> {
        let entries = match self {
            Self::Map(entries) => entries.as_slice(),
            Self::Text(_) | Self::List(_) => &[],
        };
        entries.iter().filter(move |(key, _)| key == name).flat_map(|(_, node)| match node {
            Self::List(nodes) => nodes.as_slice(),
            Self::Text(_) | Self::Map(_) => std::slice::from_ref(node),
        })
    }

    /// The text of an entry; an empty element is an empty text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.first(name)? {
            Self::Text(text) => Some(text),
            Self::Map(_) | Self::List(_) => None,
        }
    }

    /// Every entry that is a text.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = match self {
            Self::Map(entries) => entries.as_slice(),
            Self::Text(_) | Self::List(_) => &[],
        };
        entries.iter().filter_map(|(key, node)| match node {
            Self::Text(text) => Some((key.as_str(), text.as_str())),
            Self::Map(_) | Self::List(_) => None,
        })
    }
}

struct Element {
    name: String,
    entries: Vec<(String, Node)>,
    text: String,
}

impl Element {
    fn new(start: &BytesStart<'_>) -> Self {
        // An attribute that is none belongs to a name that is none.
        let mut attributes = start.attributes();
        let attributes = attributes.with_checks(false).filter_map(Result::ok);
        let entries = attributes.filter_map(|attribute| {
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned();
            Some((attribute.key.as_ref().to_owned(), Node::Text(value)))
        });
        let name = start.name().as_ref().to_owned();
        Self { name, entries: entries.collect(), text: String::new() }
    }

    fn close(self) -> (String, Node) {
        let node = if self.entries.is_empty() { Node::Text(self.text) } else { Node::Map(self.entries) };
        (self.name, node)
    }
}

/// `amp` or `#xfc`, as it stands between `&` and `;`.
fn character(entity: &quick_xml::events::BytesRef<'_>) -> Option<char> {
    match entity.resolve_char_ref().ok()? {
        Some(character) => Some(character),
        None => match &**entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => None,
        },
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Json)
    }
}

struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Text(String::new()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // Some versions write moments as numbers, in the form 1.79e+15.
        Ok(Node::Text(format!("{value:.0}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = items.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
