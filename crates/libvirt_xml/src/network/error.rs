//! Why a network, or a change of one, is refused.

use crate::error::XmlError;

/// What is wrong. The texts are those that libvirt's users know, where libvirt refuses the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The document can't be read.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// It contradicts itself (VIR_ERR_XML_ERROR).
    #[error("{0}")]
    Contradiction(String),
    /// It makes sense, but not here (VIR_ERR_CONFIG_UNSUPPORTED).
    #[error("{0}")]
    Unsupported(String),
    /// The network is not such that it could be changed so (VIR_ERR_OPERATION_INVALID).
    #[error("{0}")]
    Invalid(String),
    /// Such changes are not made (VIR_ERR_OPERATION_UNSUPPORTED).
    #[error("{0}")]
    UnsupportedChange(String),
}
