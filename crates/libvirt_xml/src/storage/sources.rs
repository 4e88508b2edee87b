//! Where pools could come from: what a client asks, and the answer.

use super::pool::{kind_of, source_element, source_of};
use super::{PoolKind, PoolSource};
use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::tree::Element;

/// What a client wants to know of (`virConnectFindStoragePoolSources`): a `<source>` with what is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceQuery {
    /// The server to ask.
    pub host: Option<String>,
}

impl SourceQuery {
    /// Takes a `<source>` apart. Only a host can be asked for; the format is not chosen by it.
    pub fn from_element(root: &Element) -> Result<Self, XmlError> {
        let mut fields = Fields::of_root(root, "source")?;
        let mut host = None;
        if let Some(mut found) = fields.child("host") {
            let name = found.required_attribute("name")?;
            if name.is_empty()
                || name.starts_with('-')
                || name.chars().any(|c| c.is_whitespace() || c.is_control())
            {
                return Err(found.invalid_attribute("name", name, "the name of a host"));
            }
            host = Some(name.to_owned());
            found.finish()?;
        }
        fields.child("format");
        fields.finish()?;
        Ok(Self { host })
    }
}

/// Sources that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSources(pub Vec<PoolSource>);

impl PoolSources {
    /// Takes the `<sources>` of one kind of pools apart.
    pub fn from_element(root: &Element, kind: &str) -> Result<Self, XmlError> {
        let mut fields = Fields::of_root(root, "sources")?;
        let kind: PoolKind = kind_of(kind).map_err(|fault: XmlFault| fields.fault(fault))?;
        let mut sources = Vec::new();
        for mut source in fields.children("source") {
            sources.push(source_of(&mut source, kind, None)?.0);
            source.finish()?;
        }
        fields.finish()?;
        Ok(Self(sources))
    }

    /// The `<sources>` as libvirt writes them.
    pub fn element(&self) -> Element {
        Element::new("sources").children_from(self.0.iter().map(source_element))
    }
}
