//! Ports come, go, and are made as their networks want them.
//!
//! A port is known before it is asked whether its network runs, and a network that has started looks for its ports after it is known to
//! run: whichever is later makes the port, and no lock is needed between them.

use std::sync::Arc;

use libvirt_xml::Uuid;
use libvirt_xml::network::Network as Definition;

use super::Port;
use crate::network::{NetworkError, Running, description};

impl Running {
    /// Makes a guest's interface a port of its network. When it fails, the port is not known; its interface stays as it is.
    ///
    /// # Errors
    /// The network is not there or does not run, has no such port group, or the host does not do it.
    pub(crate) async fn attach(&self, port: Port) -> Result<Arc<Port>, NetworkError> {
        let port = self.ports.insert(port);
        let attached = match self.live(&port.network) {
            Ok(live) => self.settle(&port, &live.document).await,
            Err(error) => Err(error),
        };
        if let Err(error) = attached {
            self.ports.remove(port.uuid);
            return Err(error);
        }
        Ok(port)
    }

    /// Knows ports of machines that run already; their networks are put in order after that.
    pub(crate) fn found(&self, ports: Vec<Port>) {
        for port in ports {
            self.ports.insert(port);
        }
    }

    /// Forgets the ports of a domain whose machine is gone, or was not made. Its interfaces are still there.
    pub(crate) fn detach(&self, domain: Uuid) -> Vec<Arc<Port>> {
        self.ports.remove_domain(domain)
    }

    /// Makes all ports of a network that has started anew as it wants them: guests keep their cards. Ports whose interface is gone
    /// belong to machines that are about to end.
    pub(in crate::network) async fn attach_again(&self, document: &Definition) {
        let name = document.name.as_deref().unwrap_or_default();
        for port in self.ports.of_network(name) {
            if let Err(error) = self.settle(&port, document).await {
                tracing::warn!("domain '{}' is not on network '{name}' any more: {error}", port.domain_name);
            }
        }
    }

    /// Makes the interface of a port as its network wants it, whatever it was before.
    async fn settle(&self, port: &Port, document: &Definition) -> Result<(), NetworkError> {
        let described = description::host(document)?;
        let group = description::port_group(document, port.portgroup.as_deref())?;
        let host = self.host().await?;
        if document.bridge_name().is_some() {
            host.connect(&described, &port.interface).await?;
        }
        if let Some(limits) = group.and_then(description::group_limits) {
            host.limit(&port.interface, limits).await?;
        }
        Ok(())
    }
}
