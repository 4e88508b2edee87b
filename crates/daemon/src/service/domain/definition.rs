//! Definitions: made, shown, renamed, marked, forgotten.

use std::path::Path;
use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::RemoteDomain;

use super::{Lifecycle, domain_error, only, remote};
use crate::domain::{Domain, DomainError, Form};
use crate::service::Daemon;

/// VIR_DOMAIN_DEFINE_VALIDATE: documents are always checked.
const DEFINE_FLAGS: u32 = 1;

/// virDomainXMLFlags: with passwords.
const XML_SECURE: u32 = 1;
/// What it is next started from.
const XML_INACTIVE: u32 = 2;
/// All of virDomainXMLFlags: SECURE, INACTIVE, UPDATE_CPU, MIGRATABLE.
const XML_FLAGS: u32 = 15;

/// All of virDomainUndefineFlagsValues up to KEEP_TPM.
const UNDEFINE_FLAGS: u32 = 127;
/// Files with variables of firmware go as well.
const UNDEFINE_NVRAM: u32 = 4;
/// Files with variables of firmware stay.
const UNDEFINE_KEEP_NVRAM: u32 = 8;
/// State of TPMs goes as well.
const UNDEFINE_TPM: u32 = 32;
/// State of TPMs stays.
const UNDEFINE_KEEP_TPM: u32 = 64;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(define)
        .on(define_with_flags)
        .on(undefine)
        .on(undefine_with_flags)
        .on(document)
        .on(rename)
        .on(autostart)
        .on(set_autostart)
}

impl Daemon {
    async fn define_domain(&self, xml: &str) -> Result<RemoteDomain, RpcError> {
        let change = self.domains.define(&self.store, xml).map_err(|error| domain_error(&error))?;
        let (before, after) = self.settle(change).await?;
        let after = after.ok_or_else(|| RpcError::internal("a definition without result"))?;
        self.tell_lifecycle(&after, if before.is_some() { Lifecycle::Updated } else { Lifecycle::Added });
        Ok(remote(&after))
    }

    async fn undefine_domain(&self, domain: &RemoteDomain, flags: u32) -> Result<(), RpcError> {
        only(flags, UNDEFINE_FLAGS)?;
        for (both, what) in
            [(UNDEFINE_NVRAM | UNDEFINE_KEEP_NVRAM, "nvram"), (UNDEFINE_TPM | UNDEFINE_KEEP_TPM, "tpm")]
        {
            if flags & both == both {
                let message = format!("flags to remove and to keep the {what} are mutually exclusive");
                return Err(RpcError::invalid_argument(message));
            }
        }
        let domain = self.domain(domain)?;
        let mut nvram = None;
        let allowed = |domain: &Domain| {
            nvram = domain.summary(Form::Defined)?.nvram.clone().filter(|path| Path::new(path).exists());
            if nvram.is_some() && flags & (UNDEFINE_NVRAM | UNDEFINE_KEEP_NVRAM) == 0 {
                return Err(DomainError::Invalid("cannot undefine domain with nvram".to_owned()));
            }
            Ok(())
        };
        let change = self.domains.undefine(&self.store, domain.uuid(), allowed);
        let (_, after) = self.settle(change.map_err(|error| domain_error(&error))?).await?;
        if after.is_none() {
            self.machines.forget_consoles(domain.uuid());
        }
        self.tell_lifecycle(&domain, Lifecycle::Removed);
        let Some(path) = nvram.filter(|_| flags & UNDEFINE_NVRAM != 0) else { return Ok(()) };
        std::fs::remove_file(&path).map_err(|error| {
            RpcError::system(format!("the domain is undefined, but its nvram '{path}' stays: {error}"))
        })
    }
}

async fn define(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainDefineXml,
) -> Result<DomainDefineXmlReply, RpcError> {
    Ok(DomainDefineXmlReply { dom: daemon.define_domain(&call.xml).await? })
}

async fn define_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainDefineXmlFlags,
) -> Result<DomainDefineXmlFlagsReply, RpcError> {
    only(call.flags, DEFINE_FLAGS)?;
    Ok(DomainDefineXmlFlagsReply { dom: daemon.define_domain(&call.xml).await? })
}

async fn undefine(daemon: Arc<Daemon>, _: CallContext, call: DomainUndefine) -> Result<(), RpcError> {
    daemon.undefine_domain(&call.dom, 0).await
}

async fn undefine_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainUndefineFlags,
) -> Result<(), RpcError> {
    daemon.undefine_domain(&call.dom, call.flags).await
}

/// The document of a definition. Of a domain that does not run, the inactive document is the only one; its CPU says where it
/// comes from and no model that could be updated, and nothing in it keeps it from being defined elsewhere.
async fn document(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetXmlDesc,
) -> Result<DomainGetXmlDescReply, RpcError> {
    only(call.flags, XML_FLAGS)?;
    let domain = daemon.domain(&call.dom)?;
    if call.flags & XML_INACTIVE != 0 && !domain.is_persistent() {
        // The same machine, as it would be started again.
        let definition = domain.definition(Form::Present).map_err(|error| domain_error(&error))?;
        let definition = definition.without_live_details();
        let secure = call.flags & XML_SECURE != 0;
        let definition = if secure { definition } else { definition.without_secrets() };
        return Ok(DomainGetXmlDescReply { xml: definition.to_xml() });
    }
    let form =
        if call.flags & XML_INACTIVE != 0 && domain.is_persistent() { Form::Defined } else { Form::Present };
    let xml = domain.document(form, call.flags & XML_SECURE != 0).map_err(|error| domain_error(&error))?;
    Ok(DomainGetXmlDescReply { xml: xml.into_owned() })
}

async fn rename(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainRename,
) -> Result<DomainRenameReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    let name = call.new_name.ok_or_else(|| RpcError::invalid_argument("a domain can't be without a name"))?;
    let change = daemon.domains.rename(&daemon.store, domain.uuid(), &name);
    let (before, after) = daemon.settle(change.map_err(|error| domain_error(&error))?).await?;
    if let Some(before) = before {
        daemon.tell_lifecycle(&before, Lifecycle::RenamedFrom);
    }
    if let Some(after) = after {
        daemon.tell_lifecycle(&after, Lifecycle::RenamedTo);
    }
    Ok(DomainRenameReply { retcode: 0 })
}

async fn autostart(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetAutostart,
) -> Result<DomainGetAutostartReply, RpcError> {
    Ok(DomainGetAutostartReply { autostart: daemon.domain(&call.dom)?.autostart().into() })
}

async fn set_autostart(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetAutostart,
) -> Result<(), RpcError> {
    let domain = daemon.domain(&call.dom)?;
    let change = daemon.domains.set_autostart(&daemon.store, domain.uuid(), call.autostart != 0);
    daemon.settle(change.map_err(|error| domain_error(&error))?).await?;
    Ok(())
}
