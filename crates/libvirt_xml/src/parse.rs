//! From bytes to a bounded tree.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};

use crate::error::{XmlError, XmlFault};
use crate::tree::{Element, Node};

/// Longest document, bytes: as much as one string of the remote protocol holds.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// Deepest nesting of elements, against recursion without end. Backing chains nest deepest in honest documents (200 images).
pub const MAX_DEPTH: usize = 256;

/// Most elements of a document, against trees that need a hundred times the memory of their text.
pub const MAX_ELEMENTS: usize = 1 << 16;

/// Most attributes of an element; looking for duplicates compares each with each.
const MAX_ATTRIBUTES: usize = 64;

/// Parses a document, which has one root element.
pub fn parse(document: &str) -> Result<Element, XmlError> {
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(malformed("", format!("it has more than {MAX_DOCUMENT_BYTES} bytes")));
    }
    let mut reader = Reader::from_str(document);
    reader.config_mut().check_end_names = true;
    let mut builder = Builder::default();
    loop {
        let event = reader.read_event().map_err(|error| {
            malformed(&builder.path(), format!("{error} (byte {})", reader.error_position()))
        })?;
        match event {
            Event::Start(start) => builder.open(&start)?,
            Event::Empty(start) => {
                builder.open(&start)?;
                builder.close();
            }
            Event::End(_) => builder.close(),
            Event::Text(text) => builder.text(&text.xml10_content())?,
            Event::CData(data) => builder.text(&data.xml10_content())?,
            Event::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref() {
                    Ok(Some(character)) => Some(character.to_string()),
                    Ok(None) => resolve_xml_entity(&reference).map(str::to_owned),
                    Err(_) => None,
                };
                let resolved = resolved.ok_or_else(|| {
                    malformed(&builder.path(), "an entity that is not one of XML's own five")
                })?;
                builder.text(&resolved)?;
            }
            Event::DocType(_) => return Err(malformed("", "a document type, which is not accepted")),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return builder.finish(),
        }
    }
}

fn malformed(path: &str, what: impl ToString) -> XmlError {
    XmlError::new(path, XmlFault::Malformed(what.to_string()))
}

/// Puts the tree together.
#[derive(Default)]
struct Builder {
    /// Elements that are open, the root first.
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Builder {
    fn path(&self) -> String {
        self.open.iter().map(|element| element.name.as_str()).collect::<Vec<_>>().join("/")
    }

    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        self.elements += 1;
        if self.root.is_some() {
            return Err(malformed("", "a second root element"));
        }
        if self.elements > MAX_ELEMENTS {
            return Err(malformed(&self.path(), format!("there are more than {MAX_ELEMENTS} elements")));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(malformed("", format!("elements are nested more than {MAX_DEPTH} deep")));
        }
        let mut element = Element::new(start.name().as_ref());
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| malformed(&self.path(), error))?;
            let name = attribute.key.as_ref();
            let value = attribute
                .normalized_value(XmlVersion::Explicit1_0)
                .map_err(|error| malformed(&self.path(), error))?;
            if element.attributes.len() >= MAX_ATTRIBUTES {
                return Err(malformed(&self.path(), format!("more than {MAX_ATTRIBUTES} attributes")));
            }
            element.attributes.push((name.to_owned(), self.characters(&value)?.to_owned()));
        }
        self.open.push(element);
        Ok(())
    }

    fn close(&mut self) {
        let Some(element) = self.open.pop() else { return };
        match self.open.last_mut() {
            Some(parent) => parent.push(element),
            None => self.root = Some(element),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), XmlError> {
        let text = self.characters(text)?;
        let Some(element) = self.open.last_mut() else {
            return if text.trim().is_empty() {
                Ok(())
            } else {
                Err(malformed("", "text outside of the root element"))
            };
        };
        if let Some(Node::Text(last)) = element.content.last_mut() {
            last.push_str(text);
        } else if !text.is_empty() {
            element.content.push(Node::Text(text.to_owned()));
        }
        Ok(())
    }

    /// Refuses characters that XML 1.0 (2.2) does not know.
    fn characters<'a>(&self, text: &'a str) -> Result<&'a str, XmlError> {
        // Most documents have nothing but these; the bytes of others are looked at as characters.
        if text.bytes().all(|byte| matches!(byte, b' '..0x7f)) {
            return Ok(text);
        }
        let fine = |character: char| match character {
            '\t' | '\n' | '\r' => true,
            '\u{FFFE}' | '\u{FFFF}' => false,
            other => other >= ' ',
        };
        match text.chars().find(|character| !fine(*character)) {
            Some(character) => {
                Err(malformed(&self.path(), format!("the character U+{:04X}", u32::from(character))))
            }
            None => Ok(text),
        }
    }

    fn finish(self) -> Result<Element, XmlError> {
        match (self.root, self.open.last()) {
            (_, Some(element)) => Err(malformed(&element.name, "the element is not closed")),
            (None, None) => Err(malformed("", "there is no element")),
            (Some(root), None) => Ok(root),
        }
    }
}
