//! From a tree to text, in libvirt's layout: two blanks a level, single quotes, short empty elements.
//!
//! What stands in the `metadata` of a root element belongs to other programs; libvirt prints it with libxml2, whose attributes have double
//! quotes.

use std::fmt::{self, Display, Write};

use crate::tree::{Element, Node};

impl Display for Element {
    /// The document, ending with a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        element(f, self, Position { depth: 0, layout: Layout::Lines, foreign: false })?;
        f.write_char('\n')
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

fn element(f: &mut fmt::Formatter<'_>, element: &Element, position: Position) -> fmt::Result {
    let Position { depth, layout, foreign } = position;
    if layout == Layout::Lines {
        indent(f, depth)?;
    }
    write!(f, "<{}", element.name)?;
    let quote = if foreign { '"' } else { '\'' };
    for (name, value) in &element.attributes {
        write!(f, " {name}={quote}")?;
        escape(f, value, Quoted::Yes)?;
        f.write_char(quote)?;
    }
    let blank = |node: &Node| matches!(node, Node::Text(text) if text.trim().is_empty());
    let only_blank = element.content.iter().all(blank);
    if element.content.is_empty() || (only_blank && element.content.len() > 1) {
        return f.write_str("/>");
    }
    f.write_char('>')?;
    let has_text =
        only_blank || !element.content.iter().all(|node| blank(node) || matches!(node, Node::Element(_)));
    let inside = if has_text { Layout::Inline } else { layout };
    for node in &element.content {
        match node {
            Node::Text(_) if !has_text => {}
            Node::Text(text) => escape(f, text, Quoted::No)?,
            Node::Element(child) => {
                if inside == Layout::Lines {
                    f.write_char('\n')?;
                }
                let foreign = foreign || (depth == 1 && element.name == "metadata");
                self::element(f, child, Position { depth: depth + 1, layout: inside, foreign })?;
            }
        }
    }
    if inside == Layout::Lines {
        f.write_char('\n')?;
        indent(f, depth)?;
    }
    write!(f, "</{}>", element.name)
}

fn indent(f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
    write!(f, "{:width$}", "", width = depth * 2)
}

#[derive(Clone, Copy, PartialEq)]
enum Quoted {
    Yes,
    No,
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str, quoted: Quoted) -> fmt::Result {
    for character in text.chars() {
        match character {
            '<' => f.write_str("&lt;")?,
            '>' => f.write_str("&gt;")?,
            '&' => f.write_str("&amp;")?,
            '\'' => f.write_str("&apos;")?,
            '"' => f.write_str("&quot;")?,
            // Would be read back as blanks or line breaks of another kind.
            '\n' | '\t' if quoted == Quoted::Yes => write!(f, "&#{};", u32::from(character))?,
            '\r' => f.write_str("&#13;")?,
            other => f.write_char(other)?,
        }
    }
    Ok(())
}
