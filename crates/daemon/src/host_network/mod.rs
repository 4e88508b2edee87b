//! Interfaces of the host that running machines use.
//!
//! A machine's network card needs an interface, which [`HostNetwork`] makes (`host_network::Taps`), sets up and connects before the
//! machine's process starts. The process gets open descriptors of it, one for each pair of queues, and no rights to open anything.
//! Taps are gone with the process, whatever becomes of the daemon. Those on other interfaces (macvtap) stay until they are removed
//! after the machine's end; the next daemon finds them by their alias, the machine's directory.
//!
//! | document | interface |
//! |---|---|
//! | `type='bridge'` | a tap that is a port of the bridge, in its VLANs |
//! | `type='direct'` | a macvtap on the host's interface |
//! | `type='ethernet'` | a tap; what it is connected to is somebody else's business |
//! | `type='ethernet'` with `managed='no'` | has to be there, is opened, and left as it is |
//! | `type='network'` | one of these, which the network has chosen before |
//! | other types | refused |
//!
//! No threads; requests to the kernel (rtnetlink(7)) are tasks of the daemon's runtime. The kernel is trusted, documents are not.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use host_network::{MacvtapMode, OpenTap, TapError, Taps, Uplink, WantedTap};
use libvirt_xml::domain::interface::SourceMode;

use crate::domain::machine::{TapDemand, TapSource};

/// Why a machine has no interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostNetworkError {
    /// Not possible here.
    #[error("{path}: {reason}")]
    Unsupported {
        /// Where it is in the document.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The host does not have what the document names, or does not do it.
    #[error("{path}: {error}")]
    Host {
        /// Where it is in the document.
        path: String,
        /// What failed, and why.
        error: TapError,
    },
}

/// The interface of a network card.
#[derive(Debug)]
pub(crate) struct Connected {
    /// The card's place in the machine's description.
    pub(crate) index: usize,
    /// The interface's name.
    pub(crate) name: String,
    /// The interface of the host that it lies on, if it does. It has to be removed then.
    pub(crate) device: Option<String>,
    /// One for each pair of queues.
    pub(crate) queues: Vec<OwnedFd>,
}

impl Connected {
    /// Under which numbers the machine's process gets the queues.
    pub(crate) fn numbers(&self) -> Vec<i32> {
        self.queues.iter().map(AsRawFd::as_raw_fd).collect()
    }
}

/// Names of those that stay without the machine.
pub(crate) fn lasting(connected: &[Connected]) -> Vec<String> {
    connected.iter().filter(|one| one.device.is_some()).map(|one| one.name.clone()).collect()
}

/// Makes and removes interfaces of machines. A machine is named by its directory, an absolute path.
#[derive(Debug, Default)]
pub(crate) struct HostNetwork {
    taps: Taps,
}

impl HostNetwork {
    /// Gives each of a machine's network cards its interface. When that fails, none of them is left.
    ///
    /// # Errors
    /// What can't be had, and why.
    pub(crate) async fn connect(
        &self,
        machine: &Path,
        demands: &[TapDemand],
    ) -> Result<Vec<Connected>, HostNetworkError> {
        let wanted: Vec<_> = demands.iter().map(wanted).collect::<Result<_, _>>()?;
        let mut connected = Vec::new();
        for (demand, wanted) in demands.iter().zip(wanted) {
            let opened = match wanted {
                Wanted::New(wanted) => self.taps.make(machine, &wanted).await,
                Wanted::There(name, queue_pairs) => Taps::open(&name, queue_pairs).await,
            };
            match opened {
                Ok(OpenTap { name, device, queues }) => {
                    connected.push(Connected { index: demand.index, name, device, queues });
                }
                Err(error) => {
                    self.remove(machine, &lasting(&connected)).await;
                    return Err(HostNetworkError::Host { path: demand.path.clone(), error });
                }
            }
        }
        Ok(connected)
    }

    /// Removes interfaces that stay without the machine that they were made for. It logs by itself what can't be removed.
    pub(crate) async fn remove(&self, machine: &Path, names: &[String]) {
        self.taps.remove(machine, names).await;
    }

    /// All interfaces that were made for machines whose directories are, or were, in this one, and that are not gone with them; by the
    /// name of the machine's directory.
    pub(crate) async fn left(&self, machines: &Path) -> io::Result<HashMap<String, Vec<String>>> {
        self.taps.left(machines).await
    }
}

/// What a card's interface is got by.
enum Wanted {
    New(WantedTap),
    There(String, u16),
}

/// Refuses what an interface of the host can't be connected to.
fn wanted(demand: &TapDemand) -> Result<Wanted, HostNetworkError> {
    let refuse = |reason: &str| {
        Err(HostNetworkError::Unsupported { path: demand.path.clone(), reason: reason.to_owned() })
    };
    let queue_pairs = u16::try_from(demand.queue_pairs).unwrap_or(u16::MAX);
    let uplink = match &demand.source {
        TapSource::Ethernet if !demand.managed => {
            return match &demand.target {
                Some(name) => Ok(Wanted::There(name.clone(), queue_pairs)),
                None => refuse("an interface that is there already has to be named: add <target dev='...'/>"),
            };
        }
        _ if !demand.managed => {
            return refuse("interfaces that are there already are opened as they are: use type='ethernet'");
        }
        TapSource::Ethernet => Uplink::Others,
        TapSource::Bridge { name } => Uplink::Bridge(name.clone()),
        TapSource::Direct { devices, mode } => {
            let mode = match mode {
                SourceMode::Bridge => MacvtapMode::Bridge,
                SourceMode::Private => MacvtapMode::Private,
                SourceMode::Vepa => MacvtapMode::Vepa,
                SourceMode::Passthrough => MacvtapMode::Passthrough,
                SourceMode::Client | SourceMode::Server => {
                    return refuse(
                        "interfaces of the host are shared in mode bridge, private, vepa or passthrough",
                    );
                }
            };
            Uplink::Device { devices: devices.clone(), mode }
        }
        TapSource::Network { name, .. } => {
            return refuse(&format!("network '{name}' is not kept by this daemon"));
        }
        TapSource::User(_) => {
            return refuse("addresses are not translated by a process of the user's: use a bridge");
        }
    };
    Ok(Wanted::New(WantedTap {
        uplink,
        mac: demand.mac.map(|mac| mac.0),
        name: demand.target.clone(),
        queue_pairs,
        mtu: demand.mtu.map(u32::from),
        limits: demand.limits,
        vlans: demand.vlans.clone(),
    }))
}
