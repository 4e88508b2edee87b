//! Taking an element apart, field by field, so that what nobody took is known.

use std::str::FromStr;

use crate::error::{XmlError, XmlFault};
use crate::model::Model;
use crate::tree::{Element, Kept};
use crate::value::Value;

/// What is left of an element while a model takes its fields.
///
/// A model takes every attribute and child that it knows and ends with [`Fields::finish`], which refuses the rest by name, or
/// [`Fields::rest`], which hands it over (to be kept and written back).
#[derive(Debug)]
pub struct Fields<'a> {
    /// The root of the tree: where an element stands is looked up in it when it is to be said.
    root: &'a Element,
    element: &'a Element,
    /// A bit for each attribute that was taken. The parser lets no element have more; further ones could not be taken.
    taken: u64,
    children: Vec<&'a Element>,
}

impl<'a> Fields<'a> {
    /// The fields of a root element, which must have that name.
    pub fn of_root(element: &'a Element, name: &str) -> Result<Self, XmlError> {
        if element.name != name {
            let fault = XmlFault::Root { found: element.name.clone(), wanted: name.to_owned() };
            return Err(XmlError::new("", fault));
        }
        Ok(Self::under(element, element))
    }

    /// The fields of an element somewhere in the tree of `root`.
    pub fn under(root: &'a Element, element: &'a Element) -> Self {
        Self { root, element, taken: 0, children: element.children().collect() }
    }

    /// The fields of an element that [`Self::take_all`] gave.
    pub fn of_child(&self, child: &'a Element) -> Self {
        Self::under(self.root, child)
    }

    /// The element's path from the root.
    pub fn path(&self) -> String {
        path_to(self.root, self.element).unwrap_or_else(|| self.element.name.clone())
    }

    /// The element's own text, without blanks around it.
    pub fn text(&self) -> String {
        self.element.own_text()
    }

    /// Takes an attribute.
    pub fn attribute(&mut self, name: &str) -> Option<&'a str> {
        let at = self.element.attributes.iter().position(|(found, _)| found == name)?;
        self.taken |= u32::try_from(at).ok().and_then(|at| 1_u64.checked_shl(at)).unwrap_or(0);
        Some(&self.element.attributes[at].1)
    }

    /// Whether there is such an attribute, taken or not.
    pub fn has_attribute(&self, name: &str) -> bool {
        self.element.attribute(name).is_some()
    }

    /// Takes an attribute that has to be there.
    pub fn required_attribute(&mut self, name: &str) -> Result<&'a str, XmlError> {
        self.attribute(name).ok_or_else(|| self.fault(XmlFault::Missing(format!("attribute {name:?}"))))
    }

    /// Takes an attribute and parses it; `expected` says what it should be, as in "a number".
    pub fn parsed_attribute<T: FromStr>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, XmlError> {
        let Some(value) = self.attribute(name) else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|_| self.invalid_attribute(name, value, expected))
    }

    /// Takes the first child of that name; further ones of the name stay, and are refused at the end.
    pub fn child(&mut self, name: &str) -> Option<Fields<'a>> {
        let at = self.children.iter().position(|child| child.name == name)?;
        let child = self.children.remove(at);
        Some(Self::under(self.root, child))
    }

    /// Takes all children of that name.
    pub fn children(&mut self, name: &str) -> Vec<Fields<'a>> {
        let root = self.root;
        self.children
            .extract_if(.., |child| child.name == name)
            .map(|child| Self::under(root, child))
            .collect()
    }

    /// Takes the text of the first child of that name, which may have no attributes or children; empty text counts as none.
    pub fn text_of(&mut self, name: &str) -> Result<Option<String>, XmlError> {
        let Some(child) = self.child(name) else { return Ok(None) };
        let text = child.text();
        child.finish()?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// As [`Fields::text_of`], for a child that has to be there.
    pub fn required_text_of(&mut self, name: &str) -> Result<String, XmlError> {
        self.text_of(name)?.ok_or_else(|| self.fault(XmlFault::Missing(format!("element {name:?}"))))
    }

    /// As [`Fields::text_of`], parsed; `expected` says what it should be, as in "a number".
    pub fn parsed_text_of<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, XmlError> {
        let Some(text) = self.text_of(name)? else { return Ok(None) };
        let invalid = |_| XmlError::new(format!("{}/{name}", self.path()), invalid(&text, expected));
        text.parse().map(Some).map_err(invalid)
    }

    /// Takes an attribute that is a [`Value`].
    pub fn value<T: Value>(&mut self, name: &str) -> Result<Option<T>, XmlError> {
        let Some(text) = self.attribute(name) else { return Ok(None) };
        T::read(text).map(Some).map_err(|fault| XmlError::new(format!("{}/@{name}", self.path()), fault))
    }

    /// As [`Fields::value`], for an attribute that has to be there.
    pub fn required_value<T: Value>(&mut self, name: &str) -> Result<T, XmlError> {
        self.value(name)?.ok_or_else(|| self.fault(XmlFault::Missing(format!("attribute {name:?}"))))
    }

    /// The element's own text as a [`Value`]; blank text counts as none.
    pub fn own_value<T: Value>(&self) -> Result<Option<T>, XmlError> {
        let text = self.element.verbatim_text();
        if text.trim().is_empty() {
            return Ok(None);
        }
        T::read(&text).map(Some).map_err(|fault| self.fault(fault))
    }

    /// As [`Fields::own_value`], for a text that has to be there.
    pub fn required_own_value<T: Value>(&self) -> Result<T, XmlError> {
        self.own_value()?.ok_or_else(|| self.fault(XmlFault::Missing("the text".to_owned())))
    }

    /// Takes the text of the first child of that name as a [`Value`]; the child may have no attributes or children.
    pub fn value_of<T: Value>(&mut self, name: &str) -> Result<Option<T>, XmlError> {
        let Some(child) = self.child(name) else { return Ok(None) };
        let value = child.own_value()?;
        child.finish()?;
        Ok(value)
    }

    /// Takes the texts of all children of that name as [`Value`]s.
    pub fn values_of<T: Value>(&mut self, name: &str) -> Result<Vec<T>, XmlError> {
        let mut values = Vec::new();
        for child in self.children(name) {
            values.push(child.required_own_value()?);
            child.finish()?;
        }
        Ok(values)
    }

    /// Takes the children called `name` of the child `list`, which may have nothing else.
    pub fn list<T: Model>(&mut self, list: &str, name: &str) -> Result<Vec<T>, XmlError> {
        let Some(mut list) = self.child(list) else { return Ok(Vec::new()) };
        let models = list.children(name).into_iter().map(T::read).collect::<Result<_, _>>()?;
        list.finish()?;
        Ok(models)
    }

    /// Takes all children of these names, to be kept as they are: ordered by name as listed, then as they stand.
    pub fn kept(&mut self, names: &[&str]) -> Kept {
        let mut kept = Vec::new();
        for name in names {
            kept.extend(self.children.extract_if(.., |child| child.name == *name).cloned());
        }
        Kept(kept)
    }

    /// Takes all children that nobody took yet.
    pub fn take_all(&mut self) -> Vec<&'a Element> {
        std::mem::take(&mut self.children)
    }

    /// Children that nobody took yet, in order: for models that keep what they do not understand.
    pub fn rest(self) -> Vec<&'a Element> {
        self.children
    }

    /// Refuses attributes and children that nobody took.
    pub fn finish(self) -> Result<(), XmlError> {
        if let Some(child) = self.children.first() {
            let path = format!("{}/{}", self.path(), child.name);
            return Err(XmlError::new(path, XmlFault::Unsupported("nothing here knows this element".into())));
        }
        let left = usize::try_from(self.taken.trailing_ones()).unwrap_or(usize::MAX);
        if let Some((name, _)) = self.element.attributes.get(left) {
            let path = format!("{}/@{name}", self.path());
            return Err(XmlError::new(
                path,
                XmlFault::Unsupported("nothing here knows this attribute".into()),
            ));
        }
        Ok(())
    }

    /// A fault of this element.
    pub fn fault(&self, fault: XmlFault) -> XmlError {
        XmlError::new(self.path(), fault)
    }

    /// The text of this element is not what it should be.
    pub fn invalid(&self, value: &str, expected: &str) -> XmlError {
        self.fault(invalid(value, expected))
    }

    /// An attribute of this element is not what it should be.
    pub fn invalid_attribute(&self, name: &str, value: &str, expected: &str) -> XmlError {
        XmlError::new(format!("{}/@{name}", self.path()), invalid(value, expected))
    }
}

/// The names of the elements from `root` to the very element `wanted`.
fn path_to(root: &Element, wanted: &Element) -> Option<String> {
    if std::ptr::eq(root, wanted) {
        return Some(root.name.clone());
    }
    root.children().find_map(|child| Some(format!("{}/{}", root.name, path_to(child, wanted)?)))
}

fn invalid(value: &str, expected: &str) -> XmlFault {
    XmlFault::Invalid { value: value.to_owned(), expected: expected.to_owned() }
}
