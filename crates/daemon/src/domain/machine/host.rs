//! What a document wants of the host around the machine's process.

use libvirt_xml::NumberSet;
use libvirt_xml::domain::Domain;
use libvirt_xml::domain::cpu::FeaturePolicy;

/// What the daemon has to do for the machine's process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDemands {
    /// Host processors that vCPUs and other threads without a set of their own may use.
    pub cpu_set: Option<NumberSet>,
    /// Host processors of single vCPUs.
    pub vcpu_pins: Vec<(u32, NumberSet)>,
    /// Host processors of all threads but the vCPUs'.
    pub emulator_pin: Option<NumberSet>,
    /// Shares and bandwidth.
    pub cpu: CpuDemands,
    /// Limits of memory.
    pub memory: MemoryDemands,
    /// Features that the host's processor has to have, or must not have.
    pub cpu_features: Vec<RequiredFeature>,
}

/// Shares and bandwidth of processors. Periods and quotas are microseconds; a negative quota is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDemands {
    /// Weight among other machines; libvirt's shares, of which 1024 are usual.
    pub shares: Option<u64>,
    /// Period of each vCPU.
    pub period: Option<u64>,
    /// Time of each vCPU in a period.
    pub quota: Option<i64>,
    /// Period of the whole machine.
    pub global_period: Option<u64>,
    /// Time of the whole machine in a period.
    pub global_quota: Option<i64>,
    /// Period of all threads but the vCPUs'.
    pub emulator_period: Option<u64>,
    /// Their time in a period.
    pub emulator_quota: Option<i64>,
}

/// Limits of memory, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDemands {
    /// Never more.
    pub hard_limit: Option<u64>,
    /// Not more when the host is short of memory.
    pub soft_limit: Option<u64>,
    /// Never more together with swap.
    pub swap_hard_limit: Option<u64>,
}

/// A feature that the host's processor has to have, or must not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredFeature {
    /// Name, as libvirt's CPU map has it.
    pub name: String,
    /// Whether it has to be there.
    pub present: bool,
}

impl HostDemands {
    /// What a document demands.
    pub fn of(domain: &Domain) -> Self {
        let mut demands = HostDemands {
            cpu_set: domain.vcpu.as_ref().and_then(|vcpu| vcpu.cpuset.clone()),
            ..HostDemands::default()
        };
        if let Some(tune) = &domain.cputune {
            demands.vcpu_pins = tune.vcpu_pins.iter().map(|pin| (pin.vcpu, pin.cpuset.clone())).collect();
            demands.emulator_pin = tune.emulator_pin.as_ref().map(|pin| pin.cpuset.clone());
            demands.cpu = CpuDemands {
                shares: tune.shares,
                period: tune.period,
                quota: tune.quota,
                global_period: tune.global_period,
                global_quota: tune.global_quota,
                emulator_period: tune.emulator_period,
                emulator_quota: tune.emulator_quota,
            };
        }
        if let Some(tune) = &domain.memtune {
            let bytes = |limit: Option<libvirt_xml::size::Kib>| limit.map(|kib| kib.0.saturating_mul(1024));
            demands.memory = MemoryDemands {
                hard_limit: bytes(tune.hard_limit),
                soft_limit: bytes(tune.soft_limit),
                swap_hard_limit: bytes(tune.swap_hard_limit),
            };
        }
        for feature in domain.cpu.iter().flat_map(|cpu| &cpu.features) {
            let present = match feature.policy {
                Some(FeaturePolicy::Require) => true,
                Some(FeaturePolicy::Forbid) => false,
                _ => continue,
            };
            demands.cpu_features.push(RequiredFeature { name: feature.name.clone(), present });
        }
        demands
    }
}
