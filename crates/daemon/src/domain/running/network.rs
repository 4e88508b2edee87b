//! The interfaces that machines have on the host: made before a process that opens them, removed after its end.

use std::collections::HashMap;
use std::path::Path;

use tokio::runtime::Handle;

use super::Machines;
use crate::domain::DomainError;
use crate::domain::machine::MachinePlan;
use crate::host_network::HostNetworkError;

/// Names of interfaces by network card, as they are planned.
pub(super) fn names(plan: &MachinePlan) -> Vec<(usize, String)> {
    let cards = plan.config.net.iter().flatten().enumerate();
    cards.filter_map(|(index, card)| Some((index, card.tap.clone()?))).collect()
}

impl Machines {
    /// Connects a machine's network cards, and writes into its plan how. The names of interfaces that were made for it.
    pub(super) async fn connect(
        &self,
        directory: &Path,
        plan: &mut MachinePlan,
    ) -> Result<Vec<String>, DomainError> {
        let connected = self.network.connect(directory, &plan.taps).await.map_err(|error| match error {
            HostNetworkError::Unsupported { .. } => DomainError::Unsupported(error.to_string()),
            HostNetworkError::Host { .. } => DomainError::Machine(error.to_string()),
        })?;
        let mut made = Vec::new();
        for interface in connected {
            if interface.made {
                made.push(interface.name.clone());
            }
            if let Some(card) = plan.config.net.iter_mut().flatten().nth(interface.index) {
                card.tap = Some(interface.name);
            }
        }
        Ok(made)
    }

    /// Interfaces that daemons before this one have made, by the UUID of the machine's domain. Blocks.
    pub(super) fn left_taps(&self) -> HashMap<String, Vec<String>> {
        let found = Handle::current().block_on(self.network.made(&self.layout.machines));
        found.unwrap_or_else(|error| {
            tracing::warn!("interfaces that machines have left on the host can't be found: {error}");
            HashMap::new()
        })
    }

    /// Removes interfaces of machines that nobody remembers. Blocks.
    pub(super) fn remove_taps(&self, left: HashMap<String, Vec<String>>) {
        for (machine, taps) in left {
            tracing::warn!("interfaces {taps:?} of a machine that nobody remembers are removed");
            let directory = self.layout.machines.join(machine);
            Handle::current().block_on(self.network.remove(&directory, &taps));
        }
    }
}
