//! Small devices: host devices, watchdogs, entropy, TPM, panic, sockets, IOMMU, shared file systems and memory, memory modules.
//!
//! Refused: SCSI and storage pass-through, legacy KVM assignment, TPM encryption, the devices of other architectures, SGX.

use super::address::{DeviceInfo, HostAddress, StartupPolicy, VirtioDriver, VirtioOptions};
use super::disk::VirtioModel;
use crate::model::model;
use crate::size::{Bytes, Kib};
use crate::tree::Kept;
use crate::value::{Hex, NumberSet, OnOff, Uuid, YesNo, words};

words! {
    /// How a host device is given.
    pub enum HostDeviceMode { Subsystem = "subsystem", }
    refused "capabilities";

    /// Buses of host devices.
    pub enum HostDeviceType { Pci = "pci", Usb = "usb", Mdev = "mdev", }
    refused "scsi", "scsi_host", "storage", "misc", "net";

    /// Models of mediated devices.
    pub enum MediatedModel { VfioPci = "vfio-pci", }
    refused "vfio-ccw", "vfio-ap";

    /// Drivers of the host that give a device to a guest.
    pub enum HostDriverName { Vfio = "vfio", }
    refused "kvm", "xen";

    /// When a USB device is reset.
    pub enum GuestReset { Off = "off", Uninitialized = "uninitialized", On = "on", }
}

model! {
    /// The host's driver.
    pub struct HostDeviceDriver {
        /// Its kind.
        name: attribute("name") => Option<HostDriverName>,
        /// A variant driver.
        model: attribute("model") => Option<String>,
    }

    /// A number of a USB vendor or product.
    pub struct UsbId {
        /// The number.
        id: required("id") => Hex<4>,
    }

    /// Which device of the host.
    pub struct HostDeviceSource {
        /// When it is missing.
        startup_policy: attribute("startupPolicy") => Option<StartupPolicy>,
        /// When the guest resets it.
        guest_reset: attribute("guestReset") => Option<GuestReset>,
        /// Whether writes to its configuration are filtered.
        write_filtering: attribute("writeFiltering") => Option<YesNo>,
        /// USB vendor.
        vendor: child("vendor") => Option<UsbId>,
        /// USB product.
        product: child("product") => Option<UsbId>,
        /// Where it is.
        address: child("address") => Option<HostAddress>,
    }

    /// A device of the host.
    pub struct HostDevice {
        /// How it is given.
        mode: defaulted("mode") => HostDeviceMode,
        /// Its bus.
        kind: required("type") => HostDeviceType,
        /// The host's driver is taken away and given back.
        managed: attribute("managed") => Option<YesNo>,
        /// Of mediated devices.
        model: attribute("model") => Option<MediatedModel>,
        /// Whether it is a display.
        display: attribute("display") => Option<OnOff>,
        /// Display before the driver is there.
        ramfb: attribute("ramfb") => Option<OnOff>,
        /// The host's driver.
        driver: child("driver") => Option<HostDeviceDriver>,
        /// Which.
        source: child("source") => Option<HostDeviceSource>,
        /// Part of a team of interfaces.
        teaming: child("teaming") => Option<super::interface::Teaming>,
        /// The guest can't write.
        readonly: flag("readonly") => bool,
        /// Several domains may use it.
        shareable: flag("shareable") => bool,
        /// Alias, boot order, ROM, address.
        info: part => DeviceInfo,
    }
}

words! {
    /// Watchdogs.
    pub enum WatchdogModel { I6300esb = "i6300esb", Ib700 = "ib700", Itco = "itco", }
    refused "diag288";

    /// What happens when nobody feeds it.
    pub enum WatchdogAction {
        Reset = "reset",
        Shutdown = "shutdown",
        Poweroff = "poweroff",
        Pause = "pause",
        Dump = "dump",
        None = "none",
        InjectNmi = "inject-nmi",
    }

    /// Balloons.
    pub enum MemballoonModel {
        Virtio = "virtio",
        None = "none",
        Transitional = "virtio-transitional",
        NonTransitional = "virtio-non-transitional",
    }
    refused "xen";

    /// Sources of entropy.
    pub enum RngBackendModel { Random = "random", Builtin = "builtin", }
    refused "egd";
}

model! {
    /// A watchdog.
    pub struct Watchdog {
        /// Model.
        model: required("model") => WatchdogModel,
        /// What it does.
        action: defaulted("action") => WatchdogAction,
        /// Alias, address.
        info: part => DeviceInfo,
    }

    /// Statistics from the guest.
    pub struct BalloonStats {
        /// Seconds between them.
        period: required("period") => u32,
    }

    /// A memory balloon.
    pub struct Memballoon {
        /// Model.
        model: required("model") => MemballoonModel,
        /// Whether it gives memory back before the guest kills processes.
        autodeflate: attribute("autodeflate") => Option<OnOff>,
        /// Whether the guest tells about free pages.
        free_page_reporting: attribute("freePageReporting") => Option<OnOff>,
        /// Statistics.
        stats: child("stats") => Option<BalloonStats>,
        /// Alias, address.
        info: part => DeviceInfo,
        /// Virtio's switches.
        driver: child("driver") => Option<VirtioDriver>,
    }

    /// How much entropy a guest gets.
    pub struct RngRate {
        /// Bytes in a period.
        bytes: required("bytes") => u32,
        /// Milliseconds.
        period: attribute("period") => Option<u32>,
    }

    /// A source of entropy.
    pub struct RngBackend {
        /// Kind.
        model: required("model") => RngBackendModel,
        /// A device node.
        path: own_text => Option<String>,
    }

    /// A random number generator.
    pub struct Rng {
        /// Model.
        model: required("model") => VirtioModel,
        /// How much.
        rate: child("rate") => Option<RngRate>,
        /// Where from.
        backend: always("backend") => RngBackend,
        /// Virtio's switches.
        driver: child("driver") => Option<VirtioDriver>,
        /// Alias, address.
        info: part => DeviceInfo,
    }
}

words! {
    /// TPM interfaces.
    pub enum TpmModel { Crb = "tpm-crb", Tis = "tpm-tis", }
    refused "tpm-spapr", "spapr-tpm-proxy";

    /// What a TPM is made of.
    pub enum TpmBackendType { Emulator = "emulator", Passthrough = "passthrough", External = "external", }

    /// TPM versions.
    pub enum TpmVersion { V2 = "2.0", V1 = "1.2", }

    /// Panic devices.
    pub enum PanicModel { Isa = "isa", Hyperv = "hyperv", Pvpanic = "pvpanic", }
    refused "pseries", "s390";

    /// IOMMUs.
    pub enum IommuModel { Intel = "intel", Virtio = "virtio", Amd = "amd", }
    refused "smmuv3";

    /// Shared memory devices.
    pub enum ShmemModelType { Plain = "ivshmem-plain", Doorbell = "ivshmem-doorbell", Ivshmem = "ivshmem", }

    /// Whether shared memory migrates.
    pub enum ShmemRole { Master = "master", Peer = "peer", }
}

model! {
    /// A device node.
    pub struct DevicePath {
        /// Path.
        path: required("path") => String,
    }

    /// What a TPM is made of.
    pub struct TpmBackend {
        /// Kind.
        kind: required("type") => TpmBackendType,
        /// TPM version.
        version: attribute("version") => Option<TpmVersion>,
        /// Whether its state stays when the domain is undefined.
        persistent_state: attribute("persistent_state") => Option<YesNo>,
        /// A TPM of the host.
        device: child("device") => Option<DevicePath>,
        /// The socket of a TPM that is there already.
        source: child("source") => Option<super::character::CharacterSource>,
        /// Banks of registers.
        active_pcr_banks: kept("active_pcr_banks") => Kept,
    }

    /// A TPM.
    pub struct Tpm {
        /// Model.
        model: attribute("model") => Option<TpmModel>,
        /// What it is made of.
        backend: always("backend") => TpmBackend,
        /// Alias, address.
        info: part => DeviceInfo,
    }

    /// A device that reports panics.
    pub struct Panic {
        /// Model.
        model: attribute("model") => Option<PanicModel>,
        /// Alias, address.
        info: part => DeviceInfo,
    }

    /// A guest's number on the vsock bus.
    pub struct VsockCid {
        /// Whether one is chosen at start.
        auto: attribute("auto") => Option<YesNo>,
        /// The number, 3 or above.
        address: attribute("address") => Option<u32>,
    }

    /// Sockets between host and guest.
    pub struct Vsock {
        /// Model.
        model: attribute("model") => Option<VirtioModel>,
        /// Number.
        cid: child("cid") => Option<VsockCid>,
        /// Alias, address.
        info: part => DeviceInfo,
        /// Virtio's switches.
        driver: child("driver") => Option<VirtioDriver>,
    }

    /// What an IOMMU can do.
    pub struct IommuDriver {
        /// Interrupt remapping.
        intremap: attribute("intremap") => Option<OnOff>,
        /// Caching mode.
        caching_mode: attribute("caching_mode") => Option<OnOff>,
        /// Extended interrupts.
        eim: attribute("eim") => Option<OnOff>,
        /// Device TLB.
        iotlb: attribute("iotlb") => Option<OnOff>,
        /// Address width, bits.
        aw_bits: attribute("aw_bits") => Option<u32>,
    }

    /// An IOMMU.
    pub struct Iommu {
        /// Model.
        model: required("model") => IommuModel,
        /// What it can do.
        driver: child("driver") => Option<IommuDriver>,
        /// Alias, address.
        info: part => DeviceInfo,
    }

    /// What the guest sees of shared memory.
    pub struct ShmemModel {
        /// Kind.
        kind: required("type") => ShmemModelType,
    }

    /// Who hands out shared memory.
    pub struct ShmemServer {
        /// Unix socket.
        path: attribute("path") => Option<String>,
    }

    /// Interrupts of shared memory.
    pub struct ShmemMsi {
        /// Vectors.
        vectors: attribute("vectors") => Option<u32>,
        /// Through the kernel.
        ioeventfd: attribute("ioeventfd") => Option<OnOff>,
    }

    /// Memory shared between guests.
    pub struct Shmem {
        /// Its name on the host.
        name: required("name") => String,
        /// Whether it migrates.
        role: attribute("role") => Option<ShmemRole>,
        /// Model.
        model: child("model") => Option<ShmemModel>,
        /// Size.
        size: child("size") => Option<ShmemSize>,
        /// Who hands it out.
        server: child("server") => Option<ShmemServer>,
        /// Interrupts.
        msi: child("msi") => Option<ShmemMsi>,
        /// Alias, address.
        info: part => DeviceInfo,
    }
}

/// A size in MiB; bytes when no unit is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShmemSize(pub u64);

impl crate::model::Model for ShmemSize {
    fn take(fields: &mut crate::Fields<'_>) -> Result<Self, crate::XmlError> {
        Bytes::take(fields).map(|bytes| Self(bytes.0.div_ceil(1 << 20)))
    }

    fn put(&self, element: &mut crate::Element) {
        element.attributes.push(("unit".to_owned(), "M".to_owned()));
        element.push_text(self.0);
    }
}

words! {
    /// What a shared file system is.
    pub enum FilesystemType { Mount = "mount", }
    refused "block", "file", "template", "ram", "bind", "volume";

    /// Whose rights count.
    pub enum AccessMode { Passthrough = "passthrough", Mapped = "mapped", Squash = "squash", }

    /// What to do when several host devices are shared.
    pub enum MultiDevices { Default = "default", Remap = "remap", Forbid = "forbid", Warn = "warn", }

    /// What serves it.
    pub enum FilesystemDriverType { Virtiofs = "virtiofs", Path = "path", Handle = "handle", }
    refused "loop", "nbd", "ploop", "mtp";

    /// When writes reach the host's disk.
    pub enum WritePolicy { Immediate = "immediate", }

    /// What virtiofs caches.
    pub enum VirtiofsCacheMode { None = "none", Auto = "auto", Always = "always", Never = "never", }

    /// How virtiofs is confined.
    pub enum VirtiofsSandboxMode { Namespace = "namespace", Chroot = "chroot", None = "none", }
}

model! {
    /// What serves a shared file system.
    pub struct FilesystemDriver {
        /// Kind.
        kind: attribute("type") => Option<FilesystemDriverType>,
        /// Writes.
        write_policy: attribute("wrpolicy") => Option<WritePolicy>,
        /// Entries of the queue.
        queue: attribute("queue") => Option<u32>,
        /// Virtio's switches.
        virtio: part => VirtioOptions,
    }

    /// Caching of virtiofs.
    pub struct VirtiofsCache {
        /// Mode.
        mode: required("mode") => VirtiofsCacheMode,
    }

    /// Confinement of virtiofs.
    pub struct VirtiofsSandbox {
        /// Mode.
        mode: required("mode") => VirtiofsSandboxMode,
    }

    /// Locks of virtiofs.
    pub struct VirtiofsLocks {
        /// POSIX ones.
        posix: attribute("posix") => Option<OnOff>,
        /// BSD ones.
        flock: attribute("flock") => Option<OnOff>,
    }

    /// Threads of virtiofs.
    pub struct VirtiofsThreads {
        /// How many.
        size: required("size") => u32,
    }

    /// The program that serves virtiofs.
    pub struct VirtiofsBinary {
        /// Path.
        path: attribute("path") => Option<String>,
        /// Extended attributes.
        xattr: attribute("xattr") => Option<OnOff>,
        /// Caching.
        cache: child("cache") => Option<VirtiofsCache>,
        /// Confinement.
        sandbox: child("sandbox") => Option<VirtiofsSandbox>,
        /// Locks.
        lock: child("lock") => Option<VirtiofsLocks>,
        /// Threads.
        thread_pool: child("thread_pool") => Option<VirtiofsThreads>,
    }

    /// What is shared.
    pub struct FilesystemSource {
        /// A directory.
        dir: attribute("dir") => Option<String>,
        /// The socket of a server that is there already.
        socket: attribute("socket") => Option<String>,
    }

    /// What the guest calls it.
    pub struct FilesystemTarget {
        /// The tag to mount.
        dir: required("dir") => String,
    }

    /// A directory shared with the guest.
    pub struct Filesystem {
        /// Kind.
        kind: defaulted("type") => FilesystemType,
        /// Whose rights count.
        access_mode: attribute("accessmode") => Option<AccessMode>,
        /// Variant of the virtio device.
        model: attribute("model") => Option<VirtioModel>,
        /// Several host devices.
        multidevs: attribute("multidevs") => Option<MultiDevices>,
        /// Mode of new files, octal.
        fmode: attribute("fmode") => Option<String>,
        /// Mode of new directories, octal.
        dmode: attribute("dmode") => Option<String>,
        /// What serves it.
        driver: child("driver") => Option<FilesystemDriver>,
        /// The program that serves virtiofs.
        binary: child("binary") => Option<VirtiofsBinary>,
        /// What is shared.
        source: child("source") => Option<FilesystemSource>,
        /// What the guest calls it.
        target: child("target") => Option<FilesystemTarget>,
        /// The guest can't write.
        readonly: flag("readonly") => bool,
        /// Alias, address.
        info: part => DeviceInfo,
    }
}

words! {
    /// Memory modules.
    pub enum MemoryModel { Dimm = "dimm", Nvdimm = "nvdimm", VirtioPmem = "virtio-pmem", VirtioMem = "virtio-mem", }
    refused "sgx-epc";
}

model! {
    /// The host's side of a memory module.
    pub struct MemorySource {
        /// Nodes of the host.
        nodemask: field("nodemask") => Option<NumberSet>,
        /// Huge pages.
        page_size: child("pagesize") => Option<Kib>,
        /// Of NVDIMMs: the file.
        path: field("path") => Option<String>,
        /// Alignment.
        align_size: child("alignsize") => Option<Kib>,
        /// Whether writes are persistent.
        pmem: flag("pmem") => bool,
    }

    /// The label area of an NVDIMM.
    pub struct MemoryLabel {
        /// Size.
        size: child("size") => Option<Kib>,
    }

    /// The guest's side of a memory module.
    pub struct MemoryTarget {
        /// Size.
        size: always("size") => Kib,
        /// NUMA cell.
        node: field("node") => Option<u32>,
        /// Label area.
        label: child("label") => Option<MemoryLabel>,
        /// The guest can't write.
        readonly: flag("readonly") => bool,
        /// Of virtio-mem: size of a block.
        block: child("block") => Option<Kib>,
        /// Of virtio-mem: how much the guest should use.
        requested: child("requested") => Option<Kib>,
        /// Of virtio-mem: how much it uses; running domains only.
        current: child("current") => Option<Kib>,
    }

    /// A memory module.
    pub struct MemoryDevice {
        /// Model.
        model: required("model") => MemoryModel,
        /// Whether the memory is shared.
        access: attribute("access") => Option<super::tuning::MemoryAccess>,
        /// Whether it is thrown away at the end.
        discard: attribute("discard") => Option<YesNo>,
        /// Of NVDIMMs.
        uuid: field("uuid") => Option<Uuid>,
        /// The host's side.
        source: child("source") => Option<MemorySource>,
        /// The guest's side.
        target: always("target") => MemoryTarget,
        /// Alias, address.
        info: part => DeviceInfo,
    }

    /// A USB hub.
    pub struct Hub {
        /// Always `usb`.
        kind: required("type") => String,
        /// Alias, address.
        info: part => DeviceInfo,
    }

}

#[cfg(test)]
impl crate::draw::Draw for ShmemSize {
    fn draw(bytes: &mut crate::draw::Bytes) -> Self {
        Self(u64::draw(bytes) >> 20)
    }
}
