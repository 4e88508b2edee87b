//! Machines started and ended, stopped and let go on.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, ClientHandle, Table};
use libvirt_rpc::types::RemoteDomain;

use super::guest::{agent_error, has_agent};
use super::{domain_error, only, remote};
use crate::domain::running::Start;
use crate::domain::{Domain, DomainError, Form};
use crate::guest_agent::ShutdownMode;
use crate::service::Daemon;

/// virDomainCreateFlags: the guest waits before its first instruction.
const START_PAUSED: u32 = 1;
/// The machine ends with the connection.
const START_AUTODESTROY: u32 = 2;
/// Of saved states, of which there are none: read past the cache, or not at all.
const START_BYPASS_CACHE: u32 = 4;
const START_FORCE_BOOT: u32 = 8;
/// Documents are always checked.
const START_VALIDATE: u32 = 16;
/// Variables of firmware begin anew: a machine that has some does not start.
const START_RESET_NVRAM: u32 = 32;

/// virDomainDestroyFlagsValues: only if the process ends when it is asked to.
const DESTROY_GRACEFUL: u32 = 1;

/// virDomainShutdownFlagValues and virDomainRebootFlagValues: by the power button, by the guest's agent.
const BY_POWER_BUTTON: u32 = 1;
const BY_AGENT: u32 = 2;
/// By means that only containers and Xen's guests have.
const BY_OTHERS: u32 = 4 | 8 | 16;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(create)
        .on(create_with_flags)
        .on(create_transient)
        .on(destroy)
        .on(destroy_with_flags)
        .on(shut_down)
        .on(shut_down_with_flags)
        .on(reboot)
        .on(reset)
        .on(suspend)
        .on(resume)
        .on(inject_nmi)
}

fn done(result: Result<(), DomainError>) -> Result<(), RpcError> {
    result.map_err(|error| domain_error(&error))
}

impl Daemon {
    async fn start_domain(
        &self,
        start: Start,
        flags: u32,
        client: &ClientHandle,
    ) -> Result<RemoteDomain, RpcError> {
        let started = self.machines.start(start).await.map_err(|error| domain_error(&error))?;
        if flags & START_AUTODESTROY != 0 {
            self.attend(client, &started);
        }
        Ok(remote(&started))
    }

    /// Remembers that a machine ends with its client.
    fn attend(&self, client: &ClientHandle, domain: &Domain) {
        self.attended.lock().entry(client.id()).or_default().push(domain.uuid());
        // It may have gone before it was noted, and nobody will be told again.
        if client.is_closed() {
            libvirt_rpc::server::Service::closed(self, client);
        }
    }

    async fn start_defined(
        &self,
        domain: &RemoteDomain,
        flags: u32,
        client: &ClientHandle,
    ) -> Result<RemoteDomain, RpcError> {
        let saved = START_BYPASS_CACHE | START_FORCE_BOOT;
        only(flags, START_PAUSED | START_AUTODESTROY | START_RESET_NVRAM | saved)?;
        let domain = self.domain(domain)?;
        if domain.is_active() {
            return Err(RpcError::invalid_operation("domain is already running"));
        }
        let definition = domain.definition(Form::Defined).map_err(|error| domain_error(&error))?;
        let start = Start { domain, definition, paused: flags & START_PAUSED != 0 };
        self.start_domain(start, flags, client).await
    }

    /// Asks the guest to power off, or to start again.
    async fn ask_guest(&self, domain: &RemoteDomain, flags: u32, again: bool) -> Result<(), RpcError> {
        only(flags, BY_POWER_BUTTON | BY_AGENT | BY_OTHERS)?;
        let domain = self.domain(domain)?;
        domain.running().map_err(|error| domain_error(&error))?;
        if flags & (BY_POWER_BUTTON | BY_AGENT) == 0 && flags & BY_OTHERS != 0 {
            let message = "guests are asked by the ACPI power button (acpi) or by their agent (agent)";
            return Err(RpcError::unsupported_argument(message));
        }
        let (button, agent) = (flags & BY_POWER_BUTTON != 0, flags & BY_AGENT != 0);
        // Without a choice the agent is asked where there is one, and then the button is pressed, as by libvirt.
        let either = button == agent;
        if agent || (either && has_agent(&domain)) {
            let mode = if again { ShutdownMode::Reboot } else { ShutdownMode::PowerDown };
            match self.ask_agent(&domain, mode).await {
                Err(error) if either => tracing::debug!("domain '{}': {}", domain.name(), error.message),
                asked => return asked,
            }
        }
        if again {
            done(self.machines.reboot(&domain).await)
        } else {
            done(self.machines.press_power_button(&domain).await)
        }
    }

    async fn ask_agent(&self, domain: &Domain, mode: ShutdownMode) -> Result<(), RpcError> {
        let agent = self.agent(domain).await?;
        // Whoever asked for a restart before has been overruled.
        self.machines.forget_restart(domain);
        agent.shut_down(mode).await.map_err(|error| agent_error(&error))
    }
}

async fn create(daemon: Arc<Daemon>, context: CallContext, call: DomainCreate) -> Result<(), RpcError> {
    daemon.start_defined(&call.dom, 0, context.client()).await.map(drop)
}

async fn create_with_flags(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: DomainCreateWithFlags,
) -> Result<DomainCreateWithFlagsReply, RpcError> {
    let dom = daemon.start_defined(&call.dom, call.flags, context.client()).await?;
    Ok(DomainCreateWithFlagsReply { dom })
}

/// Starts a domain that is forgotten when it ends, or a defined one once with another document.
async fn create_transient(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: DomainCreateXml,
) -> Result<DomainCreateXmlReply, RpcError> {
    only(call.flags, START_PAUSED | START_AUTODESTROY | START_VALIDATE | START_RESET_NVRAM)?;
    let definition = daemon.domains.read(&call.xml_desc).map_err(|error| domain_error(&error))?;
    let domain = Arc::new(Domain::transient(&definition).map_err(|error| domain_error(&error))?);
    let start = Start { domain, definition, paused: call.flags & START_PAUSED != 0 };
    let dom = daemon.start_domain(start, call.flags, context.client()).await?;
    Ok(DomainCreateXmlReply { dom })
}

async fn destroy(daemon: Arc<Daemon>, _: CallContext, call: DomainDestroy) -> Result<(), RpcError> {
    let domain = daemon.domain(&call.dom)?;
    done(daemon.machines.destroy(&domain, false).await)
}

async fn destroy_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainDestroyFlags,
) -> Result<(), RpcError> {
    only(call.flags, DESTROY_GRACEFUL)?;
    let domain = daemon.domain(&call.dom)?;
    done(daemon.machines.destroy(&domain, call.flags & DESTROY_GRACEFUL != 0).await)
}

async fn shut_down(daemon: Arc<Daemon>, _: CallContext, call: DomainShutdown) -> Result<(), RpcError> {
    daemon.ask_guest(&call.dom, 0, false).await
}

async fn shut_down_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainShutdownFlags,
) -> Result<(), RpcError> {
    daemon.ask_guest(&call.dom, call.flags, false).await
}

async fn reboot(daemon: Arc<Daemon>, _: CallContext, call: DomainReboot) -> Result<(), RpcError> {
    daemon.ask_guest(&call.dom, call.flags, true).await
}

async fn reset(daemon: Arc<Daemon>, _: CallContext, call: DomainReset) -> Result<(), RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    done(daemon.machines.reset(&domain).await)
}

async fn suspend(daemon: Arc<Daemon>, _: CallContext, call: DomainSuspend) -> Result<(), RpcError> {
    let domain = daemon.domain(&call.dom)?;
    done(daemon.machines.suspend(&domain).await)
}

async fn resume(daemon: Arc<Daemon>, _: CallContext, call: DomainResume) -> Result<(), RpcError> {
    let domain = daemon.domain(&call.dom)?;
    done(daemon.machines.resume(&domain).await)
}

async fn inject_nmi(daemon: Arc<Daemon>, _: CallContext, call: DomainInjectNmi) -> Result<(), RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    done(daemon.machines.inject_nmi(&domain).await)
}
