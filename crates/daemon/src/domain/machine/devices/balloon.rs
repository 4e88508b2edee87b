//! The memory balloon.

use libvirt_xml::OnOff;
use libvirt_xml::domain::Domain;
use libvirt_xml::domain::device::{Memballoon, MemballoonModel};
use machine_spec::spec::BALLOON_STEP_BYTES;
use machine_spec::wire::BalloonConfig;

use super::{MachineDevice, Planned};

/// What a document demands of the machine's balloon, and what can be changed while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonDemands {
    /// How large it is to be, bytes.
    pub bytes: u64,
    /// How often the guest's figures are renewed, seconds; 0: when they are asked for.
    pub statistics_period: u32,
}

fn device(domain: &Domain) -> Option<&Memballoon> {
    domain.devices.memballoon.as_ref().filter(|device| device.model != MemballoonModel::None)
}

/// Whether the machine has a balloon.
pub(crate) fn has_balloon(domain: &Domain) -> bool {
    device(domain).is_some()
}

/// What a document demands of the balloon, if there is one.
pub fn balloon_demands(domain: &Domain) -> Option<BalloonDemands> {
    let device = device(domain)?;
    let memory = domain.memory_kib();
    let current = domain.current_memory.map_or(memory, |current| current.0);
    let bytes = memory.saturating_sub(current).saturating_mul(1024);
    Some(BalloonDemands {
        bytes: bytes - bytes % BALLOON_STEP_BYTES,
        statistics_period: device.stats.as_ref().map_or(0, |stats| stats.period),
    })
}

/// The balloon of the machine.
pub(super) fn balloon(domain: &Domain, planned: &mut Planned) -> Option<BalloonConfig> {
    let (device, demands) = device(domain).zip(balloon_demands(domain))?;
    planned.device("domain/devices/memballoon".to_owned(), &device.info, None, MachineDevice::Balloon);
    Some(BalloonConfig {
        size: demands.bytes,
        deflate_on_oom: device.autodeflate == Some(OnOff::On),
        free_page_reporting: device.free_page_reporting == Some(OnOff::On),
        statistics_period: demands.statistics_period,
    })
}
