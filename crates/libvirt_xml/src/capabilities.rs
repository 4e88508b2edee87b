//! What a host and its hypervisor can do (libvirt's formatcaps): written from plain data, for clients that choose machines by it.
//!
//! virt-install insists on the host's architecture, on a guest of type `hvm` with a domain of type `kvm` or `qemu`, and offers ACPI only where
//! the guest's features have it.

use crate::domain::cpu::{CpuFeature, MaxPhysAddr, Microcode, Signature, Topology};
use crate::model::{Model, model};
use crate::size::Kib;
use crate::tree::{Element, Kept};
use crate::value::{NumberSet, OnOff, Uuid, YesNo};

model! {
    /// A clock of the host.
    pub struct CpuCounter {
        /// `tsc`
        name: required("name") => String,
        /// Hertz.
        frequency: required("frequency") => u64,
        /// Whether guests can have another frequency.
        scaling: attribute("scaling") => Option<YesNo>,
    }

    /// A size of pages.
    pub struct PageSizes {
        /// Always `KiB`.
        unit: required("unit") => String,
        /// Size, in the unit.
        size: required("size") => u64,
    }

    /// The host's CPU.
    pub struct HostCpu {
        /// Architecture.
        arch: field("arch") => Option<String>,
        /// Closest model of libvirt's CPU map.
        model: field("model") => Option<String>,
        /// Vendor.
        vendor: field("vendor") => Option<String>,
        /// Microcode.
        microcode: child("microcode") => Option<Microcode>,
        /// Family, model, stepping.
        signature: child("signature") => Option<Signature>,
        /// Clocks.
        counters: children("counter") => Vec<CpuCounter>,
        /// Topology.
        topology: child("topology") => Option<Topology>,
        /// Width of physical addresses.
        max_phys_addr: child("maxphysaddr") => Option<MaxPhysAddr>,
        /// Features that the model does not have.
        features: children("feature") => Vec<CpuFeature>,
        /// Sizes of pages.
        pages: children("pages") => Vec<PageSizes>,
    }

    /// Pages of a node.
    pub struct NodePages {
        /// Always `KiB`.
        unit: required("unit") => String,
        /// Size, in the unit.
        size: required("size") => u64,
        /// How many there are.
        count: text => u64,
    }

    /// How far another node is.
    pub struct NodeDistance {
        /// The other node.
        id: required("id") => u32,
        /// 10 is the node itself.
        value: required("value") => u32,
    }

    /// A logical CPU.
    pub struct NodeCpu {
        /// Number.
        id: required("id") => u32,
        /// Socket.
        socket_id: attribute("socket_id") => Option<u32>,
        /// Die.
        die_id: attribute("die_id") => Option<u32>,
        /// Core.
        core_id: attribute("core_id") => Option<u32>,
        /// Threads of the same core.
        siblings: attribute("siblings") => Option<NumberSet>,
    }

    /// A list that says how long it is.
    pub struct NodeCpus {
        /// How many there are.
        num: required("num") => u32,
        /// The CPUs.
        cpus: children("cpu") => Vec<NodeCpu>,
    }

    /// A NUMA node.
    pub struct NodeCell {
        /// Number.
        id: required("id") => u32,
        /// Memory.
        memory: child("memory") => Option<Kib>,
        /// Pages.
        pages: children("pages") => Vec<NodePages>,
        /// How far the others are.
        distances: list("distances", "sibling") => Vec<NodeDistance>,
        /// CPUs.
        cpus: always("cpus") => NodeCpus,
    }

    /// NUMA nodes.
    pub struct NodeCells {
        /// How many there are.
        num: required("num") => u32,
        /// The nodes.
        cells: children("cell") => Vec<NodeCell>,
    }

    /// Topology of the host.
    pub struct NodeTopology {
        /// NUMA nodes.
        cells: always("cells") => NodeCells,
    }

    /// A cache of the host.
    pub struct CacheBank {
        /// Number.
        id: required("id") => u32,
        /// Level.
        level: required("level") => u32,
        /// `both`, `code`, `data`.
        kind: required("type") => String,
        /// Size, in the unit.
        size: required("size") => u64,
        /// Unit.
        unit: required("unit") => String,
        /// CPUs that share it.
        cpus: required("cpus") => NumberSet,
    }

    /// Whether an IOMMU is in use.
    pub struct IommuSupport {
        /// Whether.
        support: required("support") => YesNo,
    }

    /// The label that processes of a kind of domain have.
    pub struct BaseLabel {
        /// Kind of domain.
        kind: required("type") => String,
        /// The label.
        label: text => String,
    }

    /// A security model.
    pub struct SecurityModel {
        /// Name.
        model: field("model") => Option<String>,
        /// Domain of interpretation.
        doi: field("doi") => Option<String>,
        /// Labels.
        base_labels: children("baselabel") => Vec<BaseLabel>,
    }


    /// Ways to migrate.
    pub struct MigrationFeatures {
        /// While the guest runs.
        live: flag("live") => bool,
        /// Transports.
        transports: child("uri_transports") => Option<UriTransports>,
    }

    /// Transports of migration.
    pub struct UriTransports {
        /// Their names.
        names: fields("uri_transport") => Vec<String>,
    }

    /// The host.
    pub struct CapabilitiesHost {
        /// The machine's identifier.
        uuid: field("uuid") => Option<Uuid>,
        /// CPU.
        cpu: always("cpu") => HostCpu,
        /// Sleep states, one element each.
        power_management: child("power_management") => Option<HostPowerManagement>,
        /// IOMMU.
        iommu: child("iommu") => Option<IommuSupport>,
        /// Migration.
        migration_features: child("migration_features") => Option<MigrationFeatures>,
        /// NUMA nodes.
        topology: child("topology") => Option<NodeTopology>,
        /// Caches.
        caches: list("cache", "bank") => Vec<CacheBank>,
        /// Security models.
        security_models: children("secmodel") => Vec<SecurityModel>,
    }

    /// Sleep states of the host.
    pub struct HostPowerManagement {
        /// To memory.
        suspend_mem: flag("suspend_mem") => bool,
        /// To disk.
        suspend_disk: flag("suspend_disk") => bool,
        /// To both.
        suspend_hybrid: flag("suspend_hybrid") => bool,
    }

    /// A machine.
    pub struct GuestMachine {
        /// The machine that the name is an alias of.
        canonical: attribute("canonical") => Option<String>,
        /// Most vCPUs.
        max_cpus: attribute("maxCpus") => Option<u32>,
        /// Whether it should not be used any more.
        deprecated: attribute("deprecated") => Option<YesNo>,
        /// Name.
        name: text => String,
    }

    /// A kind of domain.
    pub struct GuestDomain {
        /// `kvm` or `qemu`.
        kind: required("type") => String,
    }

    /// An architecture.
    pub struct GuestArch {
        /// Name.
        name: required("name") => String,
        /// Bits of a word.
        word_size: field("wordsize") => Option<u32>,
        /// Program that runs guests.
        emulator: field("emulator") => Option<String>,
        /// Machines.
        machines: children("machine") => Vec<GuestMachine>,
        /// Kinds of domains.
        domains: children("domain") => Vec<GuestDomain>,
    }

    /// A feature that is on or off.
    pub struct GuestToggle {
        /// Whether it is on when nothing is said.
        default: required("default") => OnOff,
        /// Whether it can be changed.
        toggle: required("toggle") => YesNo,
    }

    /// Features of guests.
    pub struct GuestFeatures {
        /// Physical address extension.
        pae: flag("pae") => bool,
        /// Its absence.
        non_pae: flag("nonpae") => bool,
        /// ACPI.
        acpi: child("acpi") => Option<GuestToggle>,
        /// Interrupt controllers.
        apic: child("apic") => Option<GuestToggle>,
        /// CPU models can be chosen.
        cpu_selection: flag("cpuselection") => bool,
        /// Devices have a boot order.
        device_boot: flag("deviceboot") => bool,
        /// Disks can have snapshots.
        disk_snapshot: child("disksnapshot") => Option<GuestToggle>,
        /// Further ones.
        others: kept("externalSnapshot", "hap") => Kept,
    }

    /// What can be run.
    pub struct CapabilitiesGuest {
        /// Always `hvm` here.
        os_type: field("os_type") => Option<String>,
        /// Architecture.
        arch: always("arch") => GuestArch,
        /// Features.
        features: child("features") => Option<GuestFeatures>,
    }

    /// What a host and its hypervisor can do.
    pub struct Capabilities {
        /// The host.
        host: always("host") => CapabilitiesHost,
        /// What can be run.
        guests: children("guest") => Vec<CapabilitiesGuest>,
    }
}

impl Capabilities {
    /// The document, with the empty lines that libvirt puts around host and guests.
    pub fn to_xml(&self) -> String {
        let mut document = "<capabilities>\n".to_owned();
        let host = std::iter::once(self.host.write("host"));
        for part in host.chain(self.guests.iter().map(|guest| guest.write("guest"))) {
            document.push('\n');
            for line in part.to_string().lines() {
                document.push_str("  ");
                document.push_str(line);
                document.push('\n');
            }
        }
        document.push_str("\n</capabilities>\n");
        document
    }

    /// The document's root element.
    pub fn to_element(&self) -> Element {
        self.write("capabilities")
    }
}
