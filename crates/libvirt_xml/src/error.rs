//! What is wrong with a document, and where.

/// A document that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}{fault}", if path.is_empty() { "" } else { ": " })]
pub struct XmlError {
    /// The element, from the root: `domain/devices/disk`. An attribute ends it as `@name`. Empty means the document itself.
    pub path: String,
    /// What is wrong with it.
    pub fault: XmlFault,
}

/// Kinds of faults; callers map them to libvirt's error codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlFault {
    /// Not XML, or more of it than anybody needs (VIR_ERR_XML_ERROR).
    #[error("the document is not acceptable XML: {0}")]
    Malformed(String),
    /// Something that has to be there is not (VIR_ERR_XML_ERROR).
    #[error("{0} is missing")]
    Missing(String),
    /// A value that can't be (VIR_ERR_XML_ERROR).
    #[error("{value:?} is not {expected}")]
    Invalid {
        /// The value.
        value: String,
        /// What it should have been, as in "a size in bytes".
        expected: String,
    },
    /// Another kind of document (VIR_ERR_XML_ERROR).
    #[error("expecting root element of '{wanted}', not '{found}'")]
    Root {
        /// Name of the root element.
        found: String,
        /// The name that it should have.
        wanted: String,
    },
    /// Understood, but nothing here can honour it (VIR_ERR_CONFIG_UNSUPPORTED).
    #[error("not supported: {0}")]
    Unsupported(String),
}

impl XmlError {
    /// A fault of the element at `path`.
    pub fn new(path: impl Into<String>, fault: XmlFault) -> Self {
        Self { path: path.into(), fault }
    }
}
