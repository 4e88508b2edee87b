//! From a tree to text, in libvirt's layout: two blanks a level, single quotes, short empty elements.

use std::fmt::{self, Display, Write};

use crate::tree::{Element, Node};

impl Display for Element {
    /// The document, ending with a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        element(f, self, 0, Layout::Lines)?;
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

fn element(f: &mut fmt::Formatter<'_>, element: &Element, depth: usize, layout: Layout) -> fmt::Result {
    if layout == Layout::Lines {
        indent(f, depth)?;
    }
    write!(f, "<{}", element.name)?;
    for (name, value) in &element.attributes {
        write!(f, " {name}='")?;
        escape(f, value, Quoted::Yes)?;
        f.write_char('\'')?;
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
                self::element(f, child, depth + 1, inside)?;
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
