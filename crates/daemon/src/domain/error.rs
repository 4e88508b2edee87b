//! Why something can't be done with a domain.

use libvirt_xml::{Uuid, XmlError};

use crate::store::StoreError;

/// What went wrong. The texts are those that libvirt's users know.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DomainError {
    /// Nobody has that UUID.
    #[error("no domain with matching uuid '{0}'")]
    NoSuchUuid(Uuid),
    /// Another domain has the name.
    #[error("domain '{name}' already exists with uuid {uuid}")]
    NameTaken {
        /// The name.
        name: String,
        /// Of the other one.
        uuid: Uuid,
    },
    /// The domain has another name.
    #[error("domain '{name}' is already defined with uuid {uuid}")]
    UuidTaken {
        /// The name that it has.
        name: String,
        /// Of both.
        uuid: Uuid,
    },
    /// The protocol can't name more.
    #[error("there are {0} domains already, which is as many as clients can list")]
    TooMany(usize),
    /// Not in this state, or not of this domain.
    #[error("{0}")]
    Invalid(String),
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// The domain has no such device.
    #[error("{0}")]
    NoDevice(String),
    /// There is no such network.
    #[error("{0}")]
    NoNetwork(String),
    /// More than one thing is meant.
    #[error("{0}")]
    Ambiguous(String),
    /// Not possible here.
    #[error("{0}")]
    Unsupported(String),
    /// A document is faulty.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// It would not be remembered, so it was not done.
    #[error("the change can't be written down: {0}")]
    Store(#[from] StoreError),
    /// A file of the host.
    #[error("{0}")]
    Host(String),
    /// Something else is being done with the domain, and takes long.
    #[error(
        "cannot acquire state change lock of domain '{0}': something else has been under way for too long"
    )]
    Busy(String),
    /// The machine, or what it needs of the host, did not come up or did not do it.
    #[error("{0}")]
    Machine(String),
    /// A fault of the daemon's own.
    #[error("{0}")]
    Broken(String),
}

impl DomainError {
    /// It would have to stay for that.
    pub(crate) fn transient() -> Self {
        Self::Invalid("transient domains do not have any persistent config".to_owned())
    }

    /// It would have to run for that.
    pub(crate) fn not_running() -> Self {
        Self::Invalid("domain is not running".to_owned())
    }
}
