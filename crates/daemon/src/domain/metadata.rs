//! Title, description and elements of other programs (virDomainSetMetadata).

use libvirt_xml::Element;
use libvirt_xml::domain::metadata::Described;

use super::DomainError;

/// What is kept for people and programs; virDomainMetadataType.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Metadata {
    /// Text for people.
    Description,
    /// A line for people.
    Title,
    /// The element of a namespace.
    Element {
        /// The namespace.
        uri: String,
    },
}

impl Metadata {
    /// Its number.
    pub(crate) fn number(&self) -> i32 {
        match self {
            Self::Description => 0,
            Self::Title => 1,
            Self::Element { .. } => 2,
        }
    }

    /// What a client means by a number and a namespace.
    pub(crate) fn from_number(number: i32, uri: Option<String>) -> Result<Self, DomainError> {
        match (number, uri) {
            (0, _) => Ok(Self::Description),
            (1, _) => Ok(Self::Title),
            (2, Some(uri)) if !uri.trim().is_empty() => Ok(Self::Element { uri }),
            (2, _) => Err(DomainError::Argument("an element needs the URI of its namespace".to_owned())),
            _ => Err(DomainError::Argument(format!("unknown metadata type {number}"))),
        }
    }

    /// What a definition has of it.
    pub(crate) fn of(&self, definition: &impl Described) -> Option<String> {
        let (title, description, _) = definition.described();
        match self {
            Self::Description => description.clone(),
            Self::Title => title.clone(),
            Self::Element { uri } => {
                definition.metadata_element(uri).map(|element| plain(element).to_string())
            }
        }
    }

    /// Puts a text or an element into a definition; nothing takes out what is there.
    pub(crate) fn set(
        &self,
        definition: &mut impl Described,
        value: Option<String>,
        key: Option<&str>,
    ) -> Result<(), DomainError> {
        let text = value.clone().filter(|text| !text.is_empty());
        let (title, description, _) = definition.described_mut();
        match self {
            Self::Description => *description = text,
            Self::Title if text.as_ref().is_some_and(|title| title.contains('\n')) => {
                return Err(DomainError::Argument("metadata title can't contain newlines".to_owned()));
            }
            Self::Title => *title = text,
            Self::Element { uri } => {
                if value.is_some() && key.is_none() {
                    return Err(DomainError::Argument("an element needs a key".to_owned()));
                }
                definition.set_metadata_element(uri, key.unwrap_or_default(), value.as_deref())?;
            }
        }
        Ok(())
    }
}

/// The element as it was put in: without the prefix that it got and the namespace that it is in.
fn plain(element: &Element) -> Element {
    let mut plain = element.clone();
    if let Some((prefix, local)) = element.name.split_once(':') {
        plain.name = local.to_owned();
        let declaration = format!("xmlns:{prefix}");
        plain.attributes.retain(|(name, _)| *name != declaration);
    } else {
        plain.attributes.retain(|(name, _)| name != "xmlns");
    }
    plain
}
