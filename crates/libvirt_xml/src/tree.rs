//! The tree of a document: elements with attributes, children and text. Comments and processing instructions are not kept.

/// A part of an element's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Text with entities resolved; never empty.
    Text(String),
}

/// An element. Names are kept as they are written, namespace prefixes included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Name with its prefix.
    pub name: String,
    /// Attributes in order; no name comes twice.
    pub attributes: Vec<(String, String)>,
    /// Content in order.
    pub content: Vec<Node>,
}

impl Element {
    /// An empty element.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds an attribute, which must not be there yet.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        debug_assert!(self.attribute(name).is_none(), "attribute {name} twice");
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an attribute if there is a value.
    #[must_use]
    pub fn with_optional(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds text.
    #[must_use]
    pub fn text(mut self, text: impl ToString) -> Self {
        self.push_text(text);
        self
    }

    /// Adds a child element.
    #[must_use]
    pub fn child(mut self, child: Self) -> Self {
        self.push(child);
        self
    }

    /// Adds child elements.
    #[must_use]
    pub fn children_from(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.content.extend(children.into_iter().map(Node::Element));
        self
    }

    /// Adds `<name>text</name>`.
    #[must_use]
    pub fn field(self, name: &str, text: impl ToString) -> Self {
        self.child(Self::new(name).text(text))
    }

    /// Adds `<name>text</name>` if there is a text.
    #[must_use]
    pub fn optional_field(self, name: &str, text: Option<impl ToString>) -> Self {
        match text {
            Some(text) => self.field(name, text),
            None => self,
        }
    }

    /// Adds a child element.
    pub fn push(&mut self, child: Self) {
        self.content.push(Node::Element(child));
    }

    /// Adds text; empty text adds nothing.
    pub fn push_text(&mut self, text: impl ToString) {
        let text = text.to_string();
        if !text.is_empty() {
            self.content.push(Node::Text(text));
        }
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Child elements in order.
    pub fn children(&self) -> impl Iterator<Item = &Self> {
        self.content.iter().filter_map(|node| match node {
            Node::Element(child) => Some(child),
            Node::Text(_) => None,
        })
    }

    /// The first child element of that name.
    pub fn first(&self, name: &str) -> Option<&Self> {
        self.children().find(|child| child.name == name)
    }

    /// All text directly in the element, without blanks around it.
    pub fn own_text(&self) -> String {
        self.verbatim_text().trim().to_owned()
    }

    /// All text directly in the element.
    pub fn verbatim_text(&self) -> String {
        let mut text = String::new();
        for node in &self.content {
            if let Node::Text(part) = node {
                text.push_str(part);
            }
        }
        text
    }
}

/// Subtrees that a model keeps as they are and writes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept(pub Vec<Element>);
