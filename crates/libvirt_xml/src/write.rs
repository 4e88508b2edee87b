//! From a tree to text, in libvirt's layout: two blanks a level, single quotes, short empty elements.
//!
//! What stands in the `metadata` of a root element belongs to other programs; libvirt prints it with libxml2, whose attributes have double
//! quotes.

use std::fmt::{self, Display};

use crate::tree::{Element, Node};

impl Element {
    /// The document, ending with a line break.
    pub fn to_document(&self) -> String {
        let mut document = String::new();
        element(&mut document, self, Position { depth: 0, layout: Layout::Lines, foreign: false });
        document.push('\n');
        document
    }
}

impl Display for Element {
    /// The document, ending with a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_document())
    }
}

/// Whether children stand on lines of their own.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Lines,
    /// Inside of mixed content, where a blank would be text.
    Inline,
}

/// Where an element stands.
#[derive(Clone, Copy)]
struct Position {
    depth: usize,
    layout: Layout,
    /// Inside of metadata.
    foreign: bool,
}

fn element(out: &mut String, element: &Element, position: Position) {
    let Position { depth, layout, foreign } = position;
    if layout == Layout::Lines {
        indent(out, depth);
    }
    out.push('<');
    out.push_str(&element.name);
    let quote = if foreign { '"' } else { '\'' };
    for (name, value) in &element.attributes {
        out.push(' ');
        out.push_str(name);
        out.push('=');
        out.push(quote);
        escape(out, value, Quoted::Yes);
        out.push(quote);
    }
    let blank = |node: &Node| matches!(node, Node::Text(text) if text.trim().is_empty());
    let only_blank = element.content.iter().all(blank);
    if element.content.is_empty() || (only_blank && element.content.len() > 1) {
        return out.push_str("/>");
    }
    out.push('>');
    let has_text =
        only_blank || !element.content.iter().all(|node| blank(node) || matches!(node, Node::Element(_)));
    let inside = if has_text { Layout::Inline } else { layout };
    for node in &element.content {
        match node {
            Node::Text(_) if !has_text => {}
            Node::Text(text) => escape(out, text, Quoted::No),
            Node::Element(child) => {
                if inside == Layout::Lines {
                    out.push('\n');
                }
                let foreign = foreign || (depth == 1 && element.name == "metadata");
                self::element(out, child, Position { depth: depth + 1, layout: inside, foreign });
            }
        }
    }
    if inside == Layout::Lines {
        out.push('\n');
        indent(out, depth);
    }
    out.push_str("</");
    out.push_str(&element.name);
    out.push('>');
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

#[derive(Clone, Copy, PartialEq)]
enum Quoted {
    Yes,
    No,
}

fn escape(out: &mut String, text: &str, quoted: Quoted) {
    let mut rest = text;
    // All of them are characters of one byte.
    while let Some(at) = rest.bytes().position(|byte| entity(byte, quoted).is_some()) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        out.push_str(entity(special.as_bytes()[0], quoted).unwrap_or_default());
        rest = &special[1..];
    }
    out.push_str(rest);
}

/// What is written in the place of a character.
fn entity(byte: u8, quoted: Quoted) -> Option<&'static str> {
    match byte {
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'&' => Some("&amp;"),
        b'\'' => Some("&apos;"),
        b'"' => Some("&quot;"),
        // Would be read back as blanks or line breaks of another kind.
        b'\n' if quoted == Quoted::Yes => Some("&#10;"),
        b'\t' if quoted == Quoted::Yes => Some("&#9;"),
        b'\r' => Some("&#13;"),
        _ => None,
    }
}
