//! What only a running machine can do, asked of one that does not run.

use std::sync::Arc;

use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::RemoteDomain;
use libvirt_rpc::{Call, RpcError};

use super::not_running;
use crate::service::Daemon;

/// Calls that are about one domain.
trait OfDomain: Call {
    fn domain(&self) -> &RemoteDomain;
}

async fn refuse<C: OfDomain>(daemon: Arc<Daemon>, _: CallContext, call: C) -> Result<C::Reply, RpcError> {
    let domain = daemon.domain(call.domain())?;
    if domain.is_active() {
        return Err(RpcError::not_supported(C::PROCEDURE.name()));
    }
    Err(not_running())
}

macro_rules! refused {
    ($($call:ident)*) => {
        $(impl OfDomain for $call {
            fn domain(&self) -> &RemoteDomain {
                &self.dom
            }
        })*

        pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
            table$(.on(refuse::<$call>))*
        }
    };
}

refused! {
    DomainSave DomainSaveFlags DomainCoreDump DomainCoreDumpWithFormat DomainManagedSave
    DomainBlockPeek DomainMemoryPeek
    DomainGetGuestVcpus DomainSetGuestVcpus DomainAuthorizedSshKeysGet
    DomainScreenshot DomainSendKey DomainPmSuspendForDuration DomainPmWakeup
}
