//! What other programs keep in a document: elements with namespaces of their own, one for each namespace.

use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::model::Model;
use crate::tree::{Element, Node};

/// The content of `<metadata>`, verbatim but for blanks between elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Elements, each of them declaring the namespaces that it uses.
    pub elements: Vec<Element>,
}

impl Model for Metadata {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        Ok(Self { elements: fields.take_all().into_iter().map(without_layout).collect() })
    }

    fn put(&self, element: &mut Element) {
        element.content.extend(self.elements.iter().cloned().map(Node::Element));
    }
}

/// Without blanks between elements, which printing makes anew.
fn without_layout(element: &Element) -> Element {
    let has_text =
        element.content.iter().any(|node| matches!(node, Node::Text(text) if !text.trim().is_empty()));
    let has_elements = element.children().next().is_some();
    let content = element.content.iter().filter_map(|node| match node {
        Node::Element(child) if has_text => Some(Node::Element(child.clone())),
        Node::Element(child) => Some(Node::Element(without_layout(child))),
        Node::Text(_) if has_elements && !has_text => None,
        Node::Text(text) => Some(Node::Text(text.clone())),
    });
    Element { name: element.name.clone(), attributes: element.attributes.clone(), content: content.collect() }
}

/// The attribute that declares the namespace of a name with prefix.
fn declaration(name: &str) -> String {
    match name.split_once(':') {
        Some((prefix, _)) => format!("xmlns:{prefix}"),
        None => "xmlns".to_owned(),
    }
}

/// The namespace that an element's name is in, if the element itself declares it.
fn namespace(element: &Element) -> Option<&str> {
    element.attribute(&declaration(&element.name))
}

/// Whether a prefix is used in an element before it is declared there.
fn uses(element: &Element, declared_by: &str) -> bool {
    if element.attribute(declared_by).is_some() {
        return false;
    }
    let own = declaration(&element.name) == declared_by;
    let attributes = element.attributes.iter().any(|(name, _)| {
        name.contains(':') && !name.starts_with("xmlns") && declaration(name) == declared_by
    });
    own || attributes || element.children().any(|child| uses(child, declared_by))
}

impl Metadata {
    /// Gives elements the declarations that they took from the document around them.
    pub(crate) fn declare(&mut self, namespaces: &[(String, String)]) {
        for element in &mut self.elements {
            for (name, uri) in namespaces {
                if uses(element, name) {
                    element.attributes.push((name.clone(), uri.clone()));
                }
            }
        }
    }

    /// The element of a namespace.
    pub fn get(&self, uri: &str) -> Option<&Element> {
        self.elements.iter().find(|element| namespace(element) == Some(uri))
    }

    /// Takes the element of a namespace out.
    pub fn remove(&mut self, uri: &str) -> Option<Element> {
        let at = self.elements.iter().position(|element| namespace(element) == Some(uri))?;
        Some(self.elements.remove(at))
    }

    /// Puts an element into a namespace, in place of the one that was there: its name gets the prefix `key`, as in
    /// virDomainSetMetadata.
    pub fn set(&mut self, uri: &str, key: &str, element: &Element) {
        let mut element = without_layout(element);
        let old = declaration(&element.name);
        let local = element.name.split_once(':').map_or(element.name.as_str(), |(_, local)| local).to_owned();
        if !element.children().any(|child| uses(child, &old)) {
            element.attributes.retain(|(name, _)| *name != old);
        }
        element.name = format!("{key}:{local}");
        let declared_by = format!("xmlns:{key}");
        element.attributes.retain(|(name, _)| *name != declared_by);
        element.attributes.insert(0, (declared_by, uri.to_owned()));
        self.remove(uri);
        self.elements.push(element);
    }
}

/// What people and programs can keep in it: a title, a description and elements.
pub trait Described {
    /// All three.
    fn described(&self) -> (&Option<String>, &Option<String>, &Option<Metadata>);

    /// All three, to be changed.
    fn described_mut(&mut self) -> (&mut Option<String>, &mut Option<String>, &mut Option<Metadata>);

    /// The metadata element of a namespace.
    fn metadata_element(&self, uri: &str) -> Option<&Element> {
        self.described().2.as_ref()?.get(uri)
    }

    /// Puts an element into the metadata, with the prefix `key` for the namespace `uri`; no element takes out what is there.
    /// A key that is no prefix of XML, or an element with text where the root should be, is refused.
    fn set_metadata_element(&mut self, uri: &str, key: &str, document: Option<&str>) -> Result<(), XmlError> {
        let (_, _, metadata) = self.described_mut();
        if let Some(document) = document {
            let plain =
                |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.');
            let starts = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
            let reserved = key.to_ascii_lowercase().starts_with("xml");
            if !starts || reserved || !key.chars().all(plain) || uri.trim().is_empty() {
                let expected = "a prefix of a namespace".to_owned();
                let fault = XmlFault::Invalid { value: key.to_owned(), expected };
                return Err(XmlError::new("metadata", fault));
            }
            let element = crate::parse(document)?;
            metadata.get_or_insert_with(Metadata::default).set(uri, key, &element);
        } else if let Some(metadata) = metadata {
            metadata.remove(uri);
        }
        *metadata = metadata.take().filter(|metadata| !metadata.elements.is_empty());
        Ok(())
    }
}

#[cfg(test)]
impl crate::draw::Draw for Metadata {
    fn draw(bytes: &mut crate::draw::Bytes) -> Self {
        let count = bytes.byte() % 3 + 1;
        let elements = (0..count).map(|number| {
            let inner = Element::new(format!("p{number}:b")).text(String::draw(bytes));
            Element::new(format!("p{number}:a"))
                .with(&format!("xmlns:p{number}"), format!("http://example.org/{number}"))
                .with("name", String::draw(bytes))
                .child(inner)
        });
        Self { elements: elements.collect() }
    }
}
