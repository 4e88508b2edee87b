//! Domains: libvirt's procedures over [`crate::domain`], which knows what domains are.

mod bandwidth;
mod console;
mod definition;
mod devices;
mod guest;
mod guest_information;
mod information;
mod jobs;
mod lifecycle;
mod limits;
mod list;
mod measured;
mod metadata;
mod pins;
mod running;
mod statistics;
mod streams;
mod tune;
mod usage;

use std::sync::Arc;

use libvirt_rpc::events::{
    DomainEventAgentLifecycle, DomainEventBalloonChange, DomainEventLifecycle, DomainEventMetadataChange,
    DomainEventReboot,
};
use libvirt_rpc::server::Table;
use libvirt_rpc::types::RemoteDomain;
use libvirt_rpc::{ErrorDomain, RpcError};
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::assign::HostDefaults;
use libvirt_xml::domain::cpu::{Cpu, CpuMode};
use libvirt_xml::{Uuid, XmlError};

use super::events::{Subject, Subscriptions};
use super::storage::Pools;
use super::{Daemon, document_error, only};
use crate::domain::machine::Places;
use crate::domain::running::Notice;
use crate::domain::{Affected, Change, Domain, DomainError, Form};
use crate::instance::Settings;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    let families = [
        list::register,
        definition::register,
        lifecycle::register,
        jobs::register,
        information::register,
        limits::register,
        bandwidth::register,
        metadata::register,
        tune::register,
        pins::register,
        devices::register,
        statistics::register,
        measured::register,
        running::register,
        console::register,
        guest::register,
    ];
    families.into_iter().fold(table, |table, register| register(table))
}

/// The machine that definitions get, and what it is called when nobody says more.
pub(super) const MACHINES: [(&str, &str); 1] = [("q35", "pc-q35-10.0")];

/// What definitions are completed with on this host.
pub(super) fn host_defaults(settings: &Settings) -> HostDefaults {
    HostDefaults {
        emulator: settings.machine_program.display().to_string(),
        machine_aliases: MACHINES.map(|(alias, machine)| (alias.to_owned(), machine.to_owned())).into(),
        // What guests see that ask for nothing.
        cpu: Some(Cpu { mode: Some(CpuMode::HostPassthrough), ..Cpu::default() }),
        ..HostDefaults::default()
    }
}

/// Bits that say which form of a domain is meant (virDomainModificationImpact).
const AFFECT_LIVE: u32 = 1;
const AFFECT_CONFIG: u32 = 2;

/// VIR_DOMAIN_EVENT_ID_LIFECYCLE.
const EVENT_LIFECYCLE: i32 = 0;
/// VIR_DOMAIN_EVENT_ID_REBOOT.
const EVENT_REBOOT: i32 = 1;
/// VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE.
const EVENT_AGENT_LIFECYCLE: i32 = 18;
/// VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE.
const EVENT_BALLOON: i32 = 13;
/// VIR_DOMAIN_EVENT_ID_METADATA_CHANGE.
const EVENT_METADATA: i32 = 23;

/// What happens to a definition, with the numbers of virDomainEventType and of the details of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifecycle {
    /// It is new.
    Added,
    /// It is another.
    Updated,
    /// It has got this name.
    RenamedTo,
    /// It is gone.
    Removed,
    /// It had this name.
    RenamedFrom,
}

impl Lifecycle {
    fn numbers(self) -> (i32, i32) {
        match self {
            Self::Added => (0, 0),
            Self::Updated => (0, 1),
            Self::RenamedTo => (0, 2),
            Self::Removed => (1, 0),
            Self::RenamedFrom => (1, 1),
        }
    }
}

impl Daemon {
    /// The domain that a client means.
    fn domain(&self, domain: &RemoteDomain) -> Result<Arc<Domain>, RpcError> {
        // The name is for the message: the UUID alone decides.
        self.domains.by_uuid(Uuid(domain.uuid.0)).ok_or_else(|| {
            RpcError::no_domain(format!("no domain with matching uuid '{}' ({})", domain.uuid, domain.name))
        })
    }

    /// Returns when a change is on stable storage: what was there, and what is.
    async fn settle(&self, change: Change) -> Result<(Option<Arc<Domain>>, Option<Arc<Domain>>), RpcError> {
        self.domains.settle(change).await.map_err(|error| domain_error(&error))
    }

    fn tell_lifecycle(&self, domain: &Domain, lifecycle: Lifecycle) {
        let (event, detail) = lifecycle.numbers();
        tell(&self.subscriptions, domain, Notice::Lifecycle(event, detail));
    }

    fn tell_metadata(&self, domain: &Domain, kind: i32, nsuri: Option<&str>) {
        let subject = Subject::Domain(EVENT_METADATA);
        for (client, callback_id) in self.subscriptions.listeners(subject, &domain.uuid().0) {
            let nsuri = nsuri.map(str::to_owned);
            client.event(&DomainEventMetadataChange { callback_id, dom: remote(domain), kind, nsuri });
        }
    }
}

/// Tells everybody who wants to know what happens to a domain.
pub(super) fn tell(subscriptions: &Subscriptions, domain: &Domain, notice: Notice) {
    let subject = match notice {
        Notice::Lifecycle(..) => Subject::Domain(EVENT_LIFECYCLE),
        Notice::Reboot => Subject::Domain(EVENT_REBOOT),
        Notice::Agent(_) => Subject::Domain(EVENT_AGENT_LIFECYCLE),
        Notice::Balloon(_) => Subject::Domain(EVENT_BALLOON),
    };
    for (client, callback_id) in subscriptions.listeners(subject, &domain.uuid().0) {
        let dom = remote(domain);
        match notice {
            Notice::Lifecycle(event, detail) => {
                client.event(&DomainEventLifecycle { callback_id, dom, event, detail });
            }
            Notice::Reboot => client.event(&DomainEventReboot { callback_id, dom }),
            Notice::Agent(connected) => {
                // virConnectDomainEventAgentLifecycleState and -Reason: what has shown it is the channel.
                let (state, reason) = (if connected { 1 } else { 2 }, 2);
                client.event(&DomainEventAgentLifecycle { callback_id, dom, state, reason });
            }
            Notice::Balloon(actual) => client.event(&DomainEventBalloonChange { callback_id, dom, actual }),
        }
    }
}

/// What a document names on this host, and what the daemon is able to do for machines here.
pub(super) fn places(pools: &Pools, document: &Definition) -> Places {
    let named = document.devices.disks.iter().filter_map(|disk| {
        let source = disk.source.as_ref()?;
        Some((source.pool.clone()?, source.volume.clone()?))
    });
    let volumes =
        named.filter_map(|(pool, name)| Some(((pool.clone(), name.clone()), pools.volume(&pool, &name)?)));
    Places { volumes: volumes.collect(), backing_directories: pools.directories(), ..Places::default() }
}

/// How the protocol names a domain.
fn remote(domain: &Domain) -> RemoteDomain {
    let uuid = libvirt_rpc::xdr::Uuid(domain.uuid().0);
    RemoteDomain { name: domain.name().to_owned(), uuid, id: domain.id().unwrap_or(-1) }
}

/// Which document a client wants to see. Without a flag that of the running machine is meant if there is one.
fn form(domain: &Domain, flags: u32) -> Result<Form, RpcError> {
    let form = match flags & (AFFECT_LIVE | AFFECT_CONFIG) {
        AFFECT_LIVE => Form::Live,
        AFFECT_CONFIG => Form::Defined,
        0 => Form::Present,
        _ => return Err(RpcError::invalid_argument("flags 'live' and 'config' are mutually exclusive here")),
    };
    match form {
        Form::Live if !domain.is_active() => Err(not_running()),
        Form::Defined if !domain.is_persistent() => Err(domain_error(&DomainError::transient())),
        form => Ok(form),
    }
}

/// Which documents a client wants to change. Without a flag what is there is meant.
fn affected(domain: &Domain, flags: u32) -> Result<Affected, RpcError> {
    let affected = match flags & (AFFECT_LIVE | AFFECT_CONFIG) {
        0 => Affected { live: domain.is_active(), defined: !domain.is_active() },
        flags => Affected { live: flags & AFFECT_LIVE != 0, defined: flags & AFFECT_CONFIG != 0 },
    };
    if affected.live && !domain.is_active() {
        return Err(not_running());
    }
    if affected.defined && !domain.is_persistent() {
        return Err(domain_error(&DomainError::transient()));
    }
    Ok(affected)
}

fn not_running() -> RpcError {
    domain_error(&DomainError::not_running())
}

fn parsed<T>(result: Result<T, XmlError>) -> Result<T, RpcError> {
    result.map_err(|error| domain_error(&error.into()))
}

/// The one way from a domain's errors to libvirt's.
fn domain_error(error: &DomainError) -> RpcError {
    let text = error.to_string();
    match error {
        DomainError::NoSuchUuid(_) => RpcError::no_domain(text),
        DomainError::NameTaken { .. } | DomainError::UuidTaken { .. } | DomainError::TooMany(_) => {
            RpcError::operation_failed(text).from_part(ErrorDomain::Domain)
        }
        DomainError::Ambiguous(_) | DomainError::Store(_) => RpcError::operation_failed(text),
        DomainError::Invalid(_) => RpcError::invalid_operation(text),
        DomainError::Argument(_) => RpcError::invalid_argument(text),
        DomainError::NoDevice(_) => RpcError::no_device(text),
        DomainError::NoNetwork(_) => RpcError::no_network(text),
        DomainError::Unsupported(_) => RpcError::unsupported_configuration(text),
        DomainError::Xml(error) => document_error(error),
        DomainError::Host(_) => RpcError::system(text),
        DomainError::Busy(_) => RpcError::timeout(text),
        DomainError::Machine(_) => RpcError::operation_failed(text),
        DomainError::Broken(_) => RpcError::internal(text),
    }
}
