//! Domains: what libvirt's clients define, under which names and in which state it is, and the machines that run them. No
//! protocol: `crate::service` speaks it.
//!
//! A `Domain` never changes. A change puts another one in its place (`Domains`), so whoever looks at one sees it whole and
//! holds no lock, and a thousand of them that nobody asks for cost their documents and nothing else: what is known of a
//! document beyond its text (`Summary`) is read when it is asked for the first time.
//!
//! | module | what |
//! |---|---|
//! | this one | a domain |
//! | `registry` | all of them: by UUID, name and number, and the order in which they are written down |
//! | `summary` | what a definition says, in the form in which it is asked for |
//! | `tune` | changes of numbers: memory, vCPUs, places |
//! | `device` | devices attached to, changed in and detached from definitions |
//! | `metadata` | title, description, elements of other programs |
//! | [`machine`] | the machine that a definition asks for |
//! | `error` | why something can't be done |

pub(crate) mod device;
pub(crate) mod error;
pub mod machine;
pub(crate) mod metadata;
pub(crate) mod registry;
pub(crate) mod summary;
pub(crate) mod tune;

use std::sync::OnceLock;

use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;

pub(crate) use self::error::DomainError;
pub(crate) use self::registry::{Change, Domains};
pub(crate) use self::summary::Summary;
use crate::store::{Kind, Record};

/// A state and why it is so, with the numbers of virDomainState and of the reasons of that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// virDomainState.
    pub(crate) state: u8,
    /// As virDomainShutoffReason.
    pub(crate) reason: i32,
}

/// VIR_DOMAIN_RUNNING.
pub(crate) const RUNNING: u8 = 1;
/// VIR_DOMAIN_PAUSED.
pub(crate) const PAUSED: u8 = 3;
/// VIR_DOMAIN_SHUTOFF.
pub(crate) const SHUT_OFF: u8 = 5;

/// A domain as it is at one moment.
#[derive(Debug)]
pub(crate) struct Domain {
    uuid: Uuid,
    name: String,
    autostart: bool,
    /// The completed definition, as libvirt prints it, passwords included.
    text: Box<str>,
    summary: OnceLock<Result<Box<Summary>, String>>,
    /// While it runs.
    id: Option<i32>,
    status: Status,
}

impl Domain {
    /// A domain with a completed and checked definition, that does not run.
    pub(crate) fn defined(definition: &Definition, autostart: bool) -> Result<Self, DomainError> {
        let name = definition.name.clone();
        let (Some(uuid), Some(name)) = (definition.uuid, name) else {
            return Err(DomainError::Broken("a definition without name or UUID".to_owned()));
        };
        let summary = OnceLock::from(Ok(Box::new(Summary::of(definition))));
        let text = definition.to_xml().into_boxed_str();
        Ok(Self {
            uuid,
            name,
            autostart,
            text,
            summary,
            id: None,
            status: Status { state: SHUT_OFF, reason: 0 },
        })
    }

    /// A domain that the store remembers. Its definition is what an earlier daemon has completed and checked, and is not read
    /// before somebody asks.
    pub(crate) fn remembered(record: Record) -> Option<Self> {
        Some(Self {
            uuid: Uuid(record.uuid),
            name: record.name,
            autostart: record.autostart,
            text: record.definition?.into_boxed_str(),
            summary: OnceLock::new(),
            id: None,
            status: Status { state: SHUT_OFF, reason: 0 },
        })
    }

    /// The same domain, with another mark.
    fn with_autostart(&self, autostart: bool) -> Self {
        let summary = self.summary.get().cloned().map_or_else(OnceLock::new, OnceLock::from);
        let Self { uuid, id, status, .. } = *self;
        Self { uuid, name: self.name.clone(), autostart, text: self.text.clone(), summary, id, status }
    }

    /// What is written down of it.
    fn record(&self) -> Record {
        Record {
            kind: Kind::Domain,
            uuid: self.uuid.0,
            name: self.name.clone(),
            definition: Some(self.text.to_string()),
            autostart: self.autostart,
            live: None,
        }
    }

    /// Identity for good.
    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Number while it runs.
    pub(crate) fn id(&self) -> Option<i32> {
        self.id
    }

    /// Whether it runs.
    pub(crate) fn is_active(&self) -> bool {
        self.id.is_some()
    }

    /// State and reason.
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Whether it starts with the daemon.
    pub(crate) fn autostart(&self) -> bool {
        self.autostart
    }

    /// The definition as text; without `secrets`, passwords are left out.
    pub(crate) fn document(&self, secrets: bool) -> Result<&str, DomainError> {
        let public = if secrets { None } else { self.summary()?.public.as_deref() };
        Ok(public.unwrap_or(&self.text))
    }

    /// The definition, to be looked at in all its parts.
    pub(crate) fn definition(&self) -> Result<Definition, DomainError> {
        Definition::parse(&self.text).map_err(|error| self.unreadable(&error.to_string()))
    }

    /// What the definition says.
    pub(crate) fn summary(&self) -> Result<&Summary, DomainError> {
        let read = || match Definition::parse(&self.text) {
            Ok(definition) => Ok(Box::new(Summary::of(&definition))),
            Err(error) => Err(error.to_string()),
        };
        self.summary.get_or_init(read).as_deref().map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, reason: &str) -> DomainError {
        DomainError::Broken(format!("the definition of domain '{}' can't be read: {reason}", self.name))
    }
}

#[cfg(test)]
mod tests;
