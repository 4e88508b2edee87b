//! From a libvirt domain to the machine that `vireo-vmm` runs: pure, without a look at the host.
//!
//! Two passes that belong together. The first ([`walk`]) looks up every element and attribute of the complete document in a
//! table of decisions ([`rules`]); what the table does not have is refused by its path, so that nothing that changes the guest or
//! the host's safety can be dropped silently, not even what the models learn later. The second builds the description from the
//! models and refuses what no single element can say: a domain without kernel, a second serial port, a NUMA cell that is not all of
//! the machine. What comes out has been accepted by [`MachineSpec::from_config`], the same check that the machine's process makes.
//!
//! | document | becomes |
//! |---|---|
//! | `vcpu`, `cpu/topology` | `cpus`; all vCPUs are there from the start |
//! | `cpu` of mode host-passthrough, host-model, maximum | the host's processor as KVM offers it |
//! | `memory`, `memoryBacking` | `memory`; sizes are rounded up to its step, as libvirt rounds up to MiB |
//! | one NUMA cell with everything | the same as none |
//! | `os/kernel`, `initrd`, `cmdline` | `payload`; without kernel refused until there is firmware |
//! | `disk` of bus virtio | `disks` in the same order; raw unless the driver's type says otherwise, discards only when asked for |
//! | `backingStore` | which directories an image's backing files may lie in; an empty one ends the chain |
//! | `interface` of model virtio, with `bandwidth` and `vlan` | `net` in the same order, and a [`TapDemand`] |
//! | `interface` of type user, with `ip`, `portForward` | what passt is told, in the same [`TapDemand`] |
//! | `serial`, first `console` | `serial`; both are one device |
//! | `log` of these | `log`, in place of the daemon's own |
//! | `console` of type virtio | `console`, then `console_ports` without name |
//! | `channel` of type unix, pty, file or null | `console_ports` with their names |
//! | `rng` | `rng` |
//! | `memballoon`, `currentMemory` | `balloon`: as large as what is to be kept from the guest; the transitional model is refused |
//! | `on_reboot`, `on_poweroff`, `on_crash` | `on_reset`, [`Lifecycle`] |
//! | `cputune`, `memtune`, `vcpu/@cpuset`, `cpu/feature` | [`HostDemands`], as far as [`HostAbilities`] go; else refused |
//! | machine type, PCI addresses, I/O threads, `driver/@io`, vhost, tick policies, USB controllers, input, video without graphics, empty drives | [`MachinePlan::ignored`] |
//! | graphics, TPM, pass-through, CD-ROM with media, other buses and models, limits of disks, real-time scheduling | refused |
//!
//! The whole list is the table itself. Documents come from clients and are hostile: nothing here panics, and the number of findings is
//! bounded by the number of elements that a document may have.

mod devices;
mod host;
mod rules;
mod system;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::path::PathBuf;

use libvirt_xml::domain::disk::ImageFormat;
use libvirt_xml::domain::{CrashAction, Domain, LifecycleAction};
use machine_spec::MachineSpec;
use machine_spec::wire::VmConfig;

pub use self::devices::{
    BackingImage, BalloonDemands, ConsolePlace, MachineDevice, PlannedConsole, PlannedDevice, TapDemand,
    TapSource, balloon_demands,
};
pub(crate) use self::devices::{fixed_addresses, net_id};
pub use self::host::{CpuDemands, HostDemands, MemoryDemands, RequiredFeature};
use self::rules::Ability;

/// Most refusals that are told: more of them help nobody, and a hostile document could have a hundred thousand.
const MAX_REFUSALS: usize = 100;

/// What the translation has to know of where the machine will run.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Directory of sockets of channels whose document names none.
    pub channels: PathBuf,
    /// Directory of logs of serial ports and consoles; without one they have no logs.
    pub consoles: Option<PathBuf>,
    /// Directories beside an image's own in which its backing files may lie when the document does not say where.
    pub backing_directories: Vec<PathBuf>,
    /// Volumes that disks may name, by pool and name.
    pub volumes: BTreeMap<(String, String), Volume>,
    /// What the daemon is able to do for machines.
    pub abilities: HostAbilities,
}

/// A volume of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Path of the image or device node.
    pub path: PathBuf,
    /// Format of the image.
    pub format: ImageFormat,
}

/// What the daemon is able to do for machines on this host. What it is not able to do is refused when a document asks for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostAbilities {
    /// Shares and bandwidth of processors.
    pub cpu_limits: bool,
    /// Limits of memory.
    pub memory_limits: bool,
    /// Processors that threads may use.
    pub pinning: bool,
    /// Comparing wanted features with the host's processor.
    pub cpu_features: bool,
}

impl HostAbilities {
    fn has(self, ability: Ability) -> bool {
        match ability {
            Ability::CpuLimits => self.cpu_limits,
            Ability::MemoryLimits => self.memory_limits,
            Ability::Pinning => self.pinning,
            Ability::CpuFeatures => self.cpu_features,
        }
    }
}

/// A machine, and what has to be around it.
#[derive(Debug, Clone, PartialEq)]
pub struct MachinePlan {
    /// The machine; interfaces have no descriptors yet.
    pub config: VmConfig,
    /// What the devices of the document became.
    pub devices: Vec<PlannedDevice>,
    /// Where serial ports, consoles and channels go.
    pub consoles: Vec<PlannedConsole>,
    /// Interfaces that need a tap, in the order of `config.net`.
    pub taps: Vec<TapDemand>,
    /// What is wanted of the host; all of it is within the abilities that were given.
    pub host: HostDemands,
    /// What follows the machine's end.
    pub lifecycle: Lifecycle,
    /// What has no effect here and stays in the document.
    pub ignored: Vec<Ignored>,
}

/// What the daemon does when a machine ends by itself. Reboots are the machine's own ([`VmConfig::on_reset`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle {
    /// After the guest has powered off: destroy or restart.
    pub poweroff: LifecycleAction,
    /// After the guest has rebooted: the process ends when it is destroy.
    pub reboot: LifecycleAction,
    /// After a crash of the guest, or of the machine's process.
    pub crash: CrashAction,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            poweroff: LifecycleAction::Destroy,
            reboot: LifecycleAction::Restart,
            crash: CrashAction::Destroy,
        }
    }
}

/// An element or attribute without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Where it is: `domain/devices/disk[2]/driver/@io`.
    pub path: String,
    /// Why it has none.
    pub reason: String,
}

/// An element or attribute that can't be honoured (VIR_ERR_CONFIG_UNSUPPORTED).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}: {advice}")]
pub struct Refusal {
    /// Where it is: `domain/devices/disk[2]/target/@bus`. For what is missing, the element that should have it.
    pub path: String,
    /// Why it can't be honoured.
    pub reason: String,
    /// What to do.
    pub advice: String,
}

/// Translates a complete domain; the first refusal when there are any.
///
/// # Errors
/// What can't be honoured; [`refusals`] tells all of it.
pub fn machine(domain: &Domain, places: &Places) -> Result<MachinePlan, Refusal> {
    plan(domain, places).map_err(|refusals| {
        let nothing = || Refusal {
            path: "domain".to_owned(),
            reason: "it can't be translated".to_owned(),
            advice: "look at the daemon's log".to_owned(),
        };
        refusals.into_iter().next().unwrap_or_else(nothing)
    })
}

/// Everything that can't be honoured, in the order of the document, then what follows from several elements.
pub fn refusals(domain: &Domain, places: &Places) -> Vec<Refusal> {
    plan(domain, places).err().unwrap_or_default()
}

fn plan(domain: &Domain, places: &Places) -> Result<MachinePlan, Vec<Refusal>> {
    let mut findings = Findings::default();
    walk::document(&domain.to_element(), places.abilities, &mut findings);
    let mut config = system::config(domain, &mut findings);
    let planned = devices::plan(domain, places, &mut config, &mut findings);
    let host = HostDemands::of(domain);
    if findings.refusals.is_empty()
        && let Err(error) = MachineSpec::from_config(config.clone(), &mut || [0x52, 0x54, 0, 0, 0, 0])
    {
        let text = error.to_string();
        let (object, fault) = text.split_once(": ").unwrap_or(("", &text));
        let path = planned.paths.get(object).map_or_else(|| system::path_of(object, domain), String::as_str);
        findings.refuse(path, fault, "change the document");
    }
    if !findings.refusals.is_empty() {
        return Err(findings.refusals);
    }
    let lifecycle = lifecycle(domain);
    let devices::Planned { devices, consoles, taps, paths: _ } = planned;
    Ok(MachinePlan { config, devices, consoles, taps, host, lifecycle, ignored: findings.ignored })
}

/// What follows the machine's end, as the document says.
pub fn lifecycle(domain: &Domain) -> Lifecycle {
    let default = Lifecycle::default();
    Lifecycle {
        poweroff: domain.on_poweroff.unwrap_or(default.poweroff),
        reboot: domain.on_reboot.unwrap_or(default.reboot),
        crash: domain.on_crash.unwrap_or(default.crash),
    }
}

/// What is found on the way.
#[derive(Debug, Default)]
struct Findings {
    refusals: Vec<Refusal>,
    ignored: Vec<Ignored>,
}

impl Findings {
    /// Notes a refusal, unless something at the very place or around it has been refused already.
    fn refuse(&mut self, path: &str, reason: impl Into<String>, advice: impl Into<String>) {
        let covers =
            |outer: &str| path == outer || path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
        if self.refusals.len() < MAX_REFUSALS && !self.refusals.iter().any(|refusal| covers(&refusal.path)) {
            let (path, reason, advice) = (path.to_owned(), reason.into(), advice.into());
            self.refusals.push(Refusal { path, reason, advice });
        }
    }

    fn ignore(&mut self, path: &str, reason: &str) {
        self.ignored.push(Ignored { path: path.to_owned(), reason: reason.to_owned() });
    }
}
