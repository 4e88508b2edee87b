//! Virtual networks: what clients define, under which names, and what of it runs. No protocol: `crate::service` speaks it.
//!
//! A `Network` never changes; a change puts another one in its place (`Networks`), as it is with domains. It has up to two documents:
//! the definition, and that of the running network.
//!
//! | module | what |
//! |---|---|
//! | this one | a network |
//! | `registry` | all of them: by UUID and by name, and the order in which they are written down |
//! | `description` | what a definition means on this host |
//! | `port_settings` | what is said of a guest's interface: limits and VLANs |
//! | `served` | the process that serves a network |
//! | `running` | what runs: started, changed, stopped, found again |
//! | `supervision` | the process of a network's services is there again when it has ended by itself |
//! | `ports` | guests' interfaces on networks |
//! | `error` | why something can't be done |

mod description;
pub(crate) mod error;
pub(crate) mod port_settings;
pub(crate) mod ports;
pub(crate) mod registry;
pub(crate) mod running;
mod served;
mod supervision;

use std::sync::Arc;

use libvirt_xml::Uuid;
use libvirt_xml::network::Network as Definition;
use serde::{Deserialize, Serialize};

pub(crate) use self::error::NetworkError;
pub(crate) use self::ports::Port;
pub(crate) use self::registry::{Change, Networks};
pub(crate) use self::running::{Running, Uplink};
use crate::machine_process::ProcessIdentity;
use crate::store::{Kind, Record};

/// Which of a network's documents a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Affected {
    /// That of the running network.
    pub(crate) live: bool,
    /// What it is next started from.
    pub(crate) defined: bool,
}

/// A network that runs.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    /// The definition that it was started from.
    pub(crate) document: Arc<Definition>,
    /// The process that serves it; none when nothing is served.
    pub(crate) services: Option<Served>,
}

/// A process that serves a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served {
    /// The process.
    #[serde(flatten)]
    pub(crate) process: ProcessIdentity,
    /// Where names are answered, if another program of the host has port 53.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dns_port: Option<u16>,
}

impl Live {
    /// The network on the host, with what its services need there.
    pub(crate) fn on_host(&self) -> Result<host_network::Network, NetworkError> {
        let dns_port = self.services.as_ref().and_then(|served| served.dns_port);
        description::host(&self.document).map(|network| description::with_names_at(network, dns_port))
    }
}

/// What the next daemon needs to find a network running.
#[derive(Debug, Serialize, Deserialize)]
struct LiveRecord {
    /// The document.
    document: String,
    /// The process that serves it.
    services: Option<Served>,
}

/// A network as it is at one moment: defined, running, or both.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    uuid: Uuid,
    name: String,
    autostart: bool,
    /// What it is next started from; none of a network that is forgotten when it ends.
    definition: Option<Arc<Definition>>,
    live: Option<Live>,
}

impl Network {
    /// A network with this completed and checked definition, that does not run.
    pub(crate) fn defined(definition: Definition) -> Result<Self, NetworkError> {
        let network = Self::transient(&definition)?;
        Ok(Self { definition: Some(Arc::new(definition)), ..network })
    }

    /// A network without definition: it exists while it runs.
    pub(crate) fn transient(definition: &Definition) -> Result<Self, NetworkError> {
        let (Some(uuid), Some(name)) = (definition.uuid, definition.name.clone()) else {
            return Err(NetworkError::Broken("a definition without name or UUID".to_owned()));
        };
        Ok(Self { uuid, name, autostart: false, definition: None, live: None })
    }

    /// A network that the store remembers.
    fn remembered(record: &Record) -> Result<Self, NetworkError> {
        let read = |document: &String| Definition::parse(document).map(Arc::new);
        let definition = record.definition.as_ref().map(read).transpose()?;
        let live = record.live.as_ref().map(|live| -> Result<Live, NetworkError> {
            let LiveRecord { document, services } = serde_json::from_str(live).map_err(|error| {
                NetworkError::Broken(format!("what is known of the running network: {error}"))
            })?;
            Ok(Live { document: read(&document)?, services })
        });
        Ok(Self {
            uuid: Uuid(record.uuid),
            name: record.name.clone(),
            autostart: record.autostart,
            definition,
            live: live.transpose()?,
        })
    }

    /// What is written down of it.
    fn record(&self) -> Record {
        let live = self
            .live
            .as_ref()
            .map(|live| LiveRecord { document: live.document.to_xml(), services: live.services.clone() });
        Record {
            kind: Kind::Network,
            uuid: self.uuid.0,
            name: self.name.clone(),
            definition: self.definition.as_ref().map(|definition| definition.to_xml()),
            autostart: self.autostart,
            // Strings in a structure: it can always be written.
            live: live.and_then(|live| serde_json::to_string(&live).ok()),
        }
    }

    /// The same network with another definition.
    pub(crate) fn with_definition(&self, definition: Option<Definition>) -> Self {
        // What is forgotten when it ends starts with nobody.
        let autostart = self.autostart && definition.is_some();
        Self { autostart, definition: definition.map(Arc::new), ..self.clone() }
    }

    /// The same network, running.
    pub(crate) fn with_live(&self, live: Live) -> Self {
        Self { live: Some(live), ..self.clone() }
    }

    /// The same network after its end; nothing is left of one without definition.
    pub(crate) fn without_live(&self) -> Option<Self> {
        self.is_persistent().then(|| Self { live: None, ..self.clone() })
    }

    /// Identity for good.
    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs.
    pub(crate) fn is_active(&self) -> bool {
        self.live.is_some()
    }

    /// Whether it stays when it ends.
    pub(crate) fn is_persistent(&self) -> bool {
        self.definition.is_some()
    }

    /// Whether it starts with the daemon.
    pub(crate) fn autostart(&self) -> bool {
        self.autostart
    }

    /// What runs of it.
    pub(crate) fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    /// What it is next started from.
    pub(crate) fn definition(&self) -> Option<&Definition> {
        self.definition.as_deref()
    }

    /// What runs, else what is defined.
    pub(crate) fn present(&self) -> Option<&Definition> {
        self.live.as_ref().map(|live| &*live.document).or(self.definition())
    }

    /// Which documents a change is for, by libvirt's flags: 1 is what runs, 2 the definition, 0 what is there now.
    pub(crate) fn affected(&self, flags: u32) -> Result<Affected, NetworkError> {
        let affected = Affected {
            live: flags & 1 != 0 || (flags & 3 == 0 && self.is_active()),
            defined: flags & 2 != 0 || (flags & 3 == 0 && !self.is_active()),
        };
        if affected.live && !self.is_active() {
            return Err(NetworkError::not_running());
        }
        if affected.defined && !self.is_persistent() {
            return Err(NetworkError::transient());
        }
        Ok(affected)
    }
}
