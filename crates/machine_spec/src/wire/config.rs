//! The description of a machine as clients send it.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::unsupported::wire_object;
use super::{DiskConfig, MacAddress};

/// Guest memory of a machine whose description does not say.
pub(crate) const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;
/// Entries in a virtqueue of a network interface whose description does not say.
pub(crate) const DEFAULT_NET_QUEUE_SIZE: u32 = 256;

wire_object! {
    /// A machine.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct VmConfig {
        /// Virtual processors; one when absent.
        #[serde(default)]
        pub cpus: CpusConfig,
        /// Guest memory; 512 MiB when absent.
        #[serde(default)]
        pub memory: MemoryConfig,
        /// What runs first.
        pub payload: PayloadConfig,
        /// Block devices, in PCI order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub disks: Option<Vec<DiskConfig>>,
        /// Network interfaces, in PCI order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub net: Option<Vec<NetConfig>>,
        /// Entropy device; none when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub rng: Option<RngConfig>,
        /// Memory balloon; none when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub balloon: Option<BalloonConfig>,
        /// The 16550 serial port. Absent: off, unless no console is described either, then `Tty`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub serial: Option<SerialConfig>,
        /// The virtio console hvc0; off when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub console: Option<ConsoleConfig>,
        /// SMBIOS strings, IOMMU and confidential computing: none of it is supported yet.
        #[serde(default, skip_serializing)]
        pub platform: Option<PlatformConfig>,
        /// More ports of the virtio console (an addition to Cloud Hypervisor's API).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub console_ports: Option<Vec<ConsolePortConfig>>,
        /// What a reset by the guest does; `Reboot` when absent (an addition to Cloud Hypervisor's API).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub on_reset: Option<OnResetConfig>,
    }
    unsupported {
        rate_limit_groups,
        fs,
        generic_vhost_user,
        pmem,
        debug_console = [{"mode": "Off"}, {"mode": "Off", "iobase": 233}],
        devices,
        user_devices,
        vdpa,
        vsock,
        numa,
        iommu,
        watchdog,
        rtc,
        pvpanic,
        pci_segments,
        tpm,
        landlock_enable,
        landlock_rules,
    }
}

wire_object! {
    /// Properties of the board.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct PlatformConfig {
    }
    unsupported {
        num_pci_segments = [0, 1],
        iommu_segments,
        iommu_address_width_bits = [64],
        system_serial_number,
        serial_number,
        system_uuid,
        uuid,
        oem_strings,
        system_manufacturer,
        system_product_name,
        system_version,
        system_family,
        system_sku_number,
        chassis_asset_tag,
        tdx,
        sev_snp,
        iommufd,
        vfio_p2p_dma = [true],
    }
}

wire_object! {
    /// Virtual processors.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct CpusConfig {
        /// vCPUs, 1 to 254.
        pub boot_vcpus: u32,
        /// The same number: vCPUs are not hot-plugged.
        pub max_vcpus: u32,
        /// How the guest sees them arranged. Absent: one socket of one-thread cores.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub topology: Option<CpuTopologyConfig>,
    }
    unsupported {
        kvm_hyperv,
        max_phys_bits = [46],
        nested = [true],
        affinity,
        features,
        core_scheduling = ["Vm", "Off"],
        profile = ["host"],
    }
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self { boot_vcpus: 1, max_vcpus: 1, topology: None }
    }
}

/// How the guest sees its vCPUs arranged; the product is their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuTopologyConfig {
    /// Threads in a core.
    pub threads_per_core: u16,
    /// Cores in a die.
    pub cores_per_die: u16,
    /// Dies in a socket.
    pub dies_per_package: u16,
    /// Sockets.
    pub packages: u16,
}

wire_object! {
    /// Guest memory.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct MemoryConfig {
        /// Size in bytes: at least 64 MiB, a multiple of 2 MiB.
        pub size: u64,
        /// The host may merge equal pages (KSM).
        #[serde(default)]
        pub mergeable: bool,
        /// Other processes can map it (vhost-user).
        #[serde(default)]
        pub shared: bool,
        /// Huge pages from the host's pool.
        #[serde(default)]
        pub hugepages: bool,
        /// Size of a huge page in bytes: 2 MiB (the default) or 1 GiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hugepage_size: Option<u64>,
        /// Take every page from the host before the guest starts.
        #[serde(default)]
        pub prefault: bool,
        /// Ask for transparent huge pages; has no meaning with `hugepages`.
        #[serde(default = "yes")]
        pub thp: bool,
    }
    unsupported {
        hotplug_size,
        hotplugged_size,
        hotplug_method = ["Acpi"],
        reserve,
        zones,
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: DEFAULT_MEMORY_BYTES,
            mergeable: false,
            shared: false,
            hugepages: false,
            hugepage_size: None,
            prefault: false,
            thp: true,
        }
    }
}

/// Default of a switch that is on.
pub(super) fn yes() -> bool {
    true
}

wire_object! {
    /// What runs first.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct PayloadConfig {
        /// A bzImage, or an ELF image with a PVH note; not with firmware.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub kernel: Option<PathBuf>,
        /// The kernel's command line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cmdline: Option<String>,
        /// Initial RAM file system.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub initramfs: Option<PathBuf>,
        /// Firmware: a BIOS, or the code of UEFI. This or a kernel must be given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub firmware: Option<PathBuf>,
        /// An addition: the file with the variables of UEFI, which is written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub nvram: Option<PathBuf>,
    }
    unsupported {
        igvm,
        host_data,
        fw_cfg_config,
    }
}

wire_object! {
    /// A network interface.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct NetConfig {
        /// Name of the TAP device on the host; without it (and without `fds`) the host's kernel chooses one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub tap: Option<String>,
        /// Address to give to the host's side (IPv4).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ip: Option<IpAddr>,
        /// Its netmask; 255.255.255.0 when only `ip` is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub mask: Option<IpAddr>,
        /// The guest's address; a random, locally administered one when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub mac: Option<MacAddress>,
        /// Largest packet, told to the guest: 1280 to 65535 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub mtu: Option<u16>,
        /// Whether the cable is plugged in at first.
        #[serde(default = "default_link_up")]
        pub link_up: bool,
        /// Virtqueues, an even number: one to receive and one to send for each pair. Absent: 2, or two a descriptor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub num_queues: Option<u32>,
        /// Entries in each, a power of two; 256 when absent.
        #[serde(default = "default_net_queue_size")]
        pub queue_size: u32,
        /// Identifier, unique in the machine; `netN` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub id: Option<String>,
        /// Descriptors of an open TAP device that the VMM was started with, one for each pair of queues.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub fds: Option<Vec<i32>>,
        /// A connected stream socket that the VMM was started with, in place of a TAP device: frames follow their lengths, as QEMU's
        /// stream network and passt speak.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub socket_fd: Option<i32>,
    }
    unsupported {
        host_mac,
        iommu,
        vhost_user,
        vhost_socket,
        vhost_mode = ["Client"],
        rate_limiter_config,
        pci_segment,
        pci_device_id,
        offload_tso = [true],
        offload_ufo = [true],
        offload_csum = [true],
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            tap: None,
            ip: None,
            mask: None,
            mac: None,
            mtu: None,
            link_up: default_link_up(),
            num_queues: None,
            queue_size: DEFAULT_NET_QUEUE_SIZE,
            id: None,
            fds: None,
            socket_fd: None,
        }
    }
}

fn default_link_up() -> bool {
    true
}

fn default_net_queue_size() -> u32 {
    DEFAULT_NET_QUEUE_SIZE
}

wire_object! {
    /// The entropy device.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct RngConfig {
        /// A file that yields random bytes, such as /dev/urandom.
        pub src: PathBuf,
    }
    unsupported {
        id,
        iommu,
        pci_segment,
        pci_device_id,
    }
}

/// The memory balloon.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonConfig {
    /// How much of its memory the guest is to give back to the host, in bytes: a multiple of 4096.
    pub size: u64,
    /// A guest that runs out of memory may take it back.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// The guest tells which pages are free, and the host takes them back.
    #[serde(default)]
    pub free_page_reporting: bool,
    /// The guest's figures in `vm.counters` are renewed every so many seconds; 0: by asking for them (an addition to Cloud
    /// Hypervisor's API).
    #[serde(default)]
    pub statistics_period: u32,
}

/// What is on the other end of a character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ConsoleMode {
    /// No device.
    #[default]
    Off,
    /// A new pseudo-terminal; `vm.info` has its path as `file`.
    Pty,
    /// The VMM's standard input and output.
    Tty,
    /// Output to `file`.
    File,
    /// The unix socket `socket`, on which the VMM listens.
    Socket,
    /// A device that discards output and never has input.
    Null,
}

/// The serial port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialConfig {
    /// What is on the other end.
    pub mode: ConsoleMode,
    /// Output file, in mode `File`; the pseudo-terminal in mode `Pty` (only in answers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Socket, in mode `Socket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Everything that the guest prints is added to this file as well, whoever is on the other end. At 1 MiB the file
    /// becomes `LOG.1` and a new one is begun (an addition to Cloud Hypervisor's API).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
}

wire_object! {
    /// The virtio console hvc0.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct ConsoleConfig {
        /// What is on the other end.
        pub mode: ConsoleMode,
        /// Output file, in mode `File`; the pseudo-terminal in mode `Pty` (only in answers).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub file: Option<PathBuf>,
        /// Socket, in mode `Socket`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub socket: Option<PathBuf>,
        /// Everything that the guest prints is added to this file as well, whoever is on the other end. At 1 MiB the file
        /// becomes `LOG.1` and a new one is begun (an addition to Cloud Hypervisor's API).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub log: Option<PathBuf>,
    }
    unsupported {
        id,
        iommu,
        pci_segment,
        pci_device_id,
    }
}

/// A further port of the virtio console.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsolePortConfig {
    /// Name by which the guest finds it (/dev/virtio-ports/NAME). Absent: a further console (hvc1 and so on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is on the other end; not `Off`.
    pub mode: ConsoleMode,
    /// Output file, in mode `File`; the pseudo-terminal in mode `Pty` (only in answers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Socket, in mode `Socket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Everything that the guest prints is added to this file as well, whoever is on the other end. At 1 MiB the file
    /// becomes `LOG.1` and a new one is begun (an addition to Cloud Hypervisor's API).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
}

/// What a reset by the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnResetConfig {
    /// The machine starts again in the same process.
    Reboot,
    /// The process ends.
    Exit,
}
