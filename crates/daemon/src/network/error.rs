//! Why something can't be done with a network.

use libvirt_xml::Uuid;
use libvirt_xml::XmlError;
use libvirt_xml::network::NetworkError as DefinitionError;

use crate::store::StoreError;

/// What went wrong. The texts are those that libvirt's users know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// Nobody has that UUID.
    #[error("no network with matching uuid '{0}'")]
    NoSuchUuid(Uuid),
    /// Nobody has that name.
    #[error("no network with matching name '{0}'")]
    NoSuchName(String),
    /// Another network has the name.
    #[error("network '{name}' already exists with uuid {uuid}")]
    NameTaken {
        /// The name.
        name: String,
        /// Of the other one.
        uuid: Uuid,
    },
    /// The network has another name.
    #[error("network '{name}' is already defined with uuid {uuid}")]
    UuidTaken {
        /// The name that it has.
        name: String,
        /// Of both.
        uuid: Uuid,
    },
    /// Another network has the bridge.
    #[error("bridge name '{bridge}' already in use by network '{network}'")]
    BridgeTaken {
        /// The bridge.
        bridge: String,
        /// Who has it.
        network: String,
    },
    /// The protocol can't name more.
    #[error("there are {0} networks already, which is as many as clients can list")]
    TooMany(usize),
    /// Not in this state.
    #[error("{0}")]
    Invalid(String),
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// Not possible here.
    #[error("{0}")]
    Unsupported(String),
    /// The document is faulty, or a change of it.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// It would not be remembered, so it was not done.
    #[error("the change can't be written down: {0}")]
    Store(#[from] StoreError),
    /// The host does not have what it needs, or does not do it.
    #[error("{0}")]
    Host(String),
    /// A fault of the daemon's own.
    #[error("{0}")]
    Broken(String),
}

impl From<XmlError> for NetworkError {
    fn from(error: XmlError) -> Self {
        Self::Definition(error.into())
    }
}

impl NetworkError {
    /// It would have to run for that.
    pub(crate) fn not_running() -> Self {
        Self::Invalid("network is not running".to_owned())
    }

    /// It would have to stay for that.
    pub(crate) fn transient() -> Self {
        Self::Invalid("cannot change persistent config of a transient network".to_owned())
    }
}
