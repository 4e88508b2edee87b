//! The internal specification of a machine: what the VMM builds from.
//!
//! Made by [`MachineSpec::from_config`] only, which checks what the comments here promise. It is never serialized: what
//! leaves the process is the wire type that it converts back to.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::convert::check_balloon;
use crate::error::SpecError;

/// Most vCPUs: their xAPIC identifiers are below 255, which addresses all of them (Intel SDM volume 3, 12.6.2).
pub const MAX_CPUS: u8 = 254;
/// Least guest memory in bytes: what a stock kernel and an initramfs start with.
pub const MIN_MEMORY_BYTES: u64 = 64 << 20;
/// Most guest memory in bytes. Keeps every sum of addresses far from overflow; the host has less.
pub const MAX_MEMORY_BYTES: u64 = 8 << 40;
/// Guest memory is a multiple of this many bytes, a huge page, so that all of it can be mapped by such.
pub const MEMORY_STEP_BYTES: u64 = 2 << 20;
/// Unit of a balloon in bytes (virtio 1.2, 5.5.6).
pub const BALLOON_STEP_BYTES: u64 = 4096;
/// Most virtqueues of a device: what bounds its threads and interrupt vectors.
pub const MAX_QUEUES: u16 = 256;
/// Most entries in a virtqueue (virtio 1.2, 2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;
/// Bytes of a disk's serial number (virtio 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID).
pub const MAX_DISK_SERIAL_BYTES: usize = 20;
/// Least packet that the guest is told it may send (RFC 8200, section 5; below it Linux turns IPv6 off).
pub const MIN_MTU: u16 = 1280;
/// Most ports of the virtio console beside hvc0.
pub const MAX_CONSOLE_PORTS: usize = 32;
/// Longest name of a console port.
pub const MAX_PORT_NAME_BYTES: usize = 64;

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Virtual processors.
    pub cpus: CpuSpec,
    /// Guest memory.
    pub memory: MemorySpec,
    /// What runs first.
    pub boot: BootSpec,
    /// Block devices, in PCI order.
    pub disks: Vec<DiskSpec>,
    /// Network interfaces, in PCI order.
    pub nets: Vec<NetSpec>,
    /// Entropy device.
    pub rng: Option<RngSpec>,
    /// Memory balloon.
    pub balloon: Option<BalloonSpec>,
    /// The 16550 on I/O port 3F8h.
    pub serial: CharacterSpec,
    /// A file that everything printed on the serial port is added to; only where there is one.
    pub serial_log: Option<PathBuf>,
    /// Virtio console ports; the first is hvc0. Empty: no device.
    pub console_ports: Vec<ConsolePortSpec>,
    /// What a reset by the guest does.
    pub on_reset: OnReset,
}

/// Virtual processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSpec {
    /// Number of vCPUs, 1 to [`MAX_CPUS`]; equals the product of the topology.
    pub count: u8,
    /// How they are arranged.
    pub topology: CpuTopology,
}

/// Arrangement of vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTopology {
    /// Threads in a core.
    pub threads_per_core: u8,
    /// Cores in a die.
    pub cores_per_die: u8,
    /// Dies in a socket.
    pub dies_per_socket: u8,
    /// Sockets.
    pub sockets: u8,
}

/// Guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySpec {
    /// Size in bytes, [`MIN_MEMORY_BYTES`] to [`MAX_MEMORY_BYTES`], a multiple of [`MEMORY_STEP_BYTES`] and of the
    /// backing's page.
    pub bytes: u64,
    /// Where it comes from.
    pub backing: MemoryBacking,
    /// Transparent huge pages are asked for; never with [`MemoryBacking::HugePages`].
    pub transparent_hugepages: bool,
    /// The host may merge equal pages (KSM); only with [`MemoryBacking::Anonymous`].
    pub mergeable: bool,
    /// Every page is taken from the host before the guest starts.
    pub prefault: bool,
}

/// Where guest memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryBacking {
    /// Private anonymous memory.
    Anonymous,
    /// A memfd, shared with other processes.
    Shared,
    /// Huge pages of the given size in bytes.
    HugePages {
        /// Size of a page in bytes: 2 MiB or 1 GiB.
        page_bytes: u64,
        /// Shared with other processes.
        shared: bool,
    },
}

/// What runs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootSpec {
    /// A Linux kernel that is entered directly (bzImage by the 64-bit boot protocol, or an ELF image with a PVH note).
    Kernel(KernelSpec),
    /// Firmware, which boots from disks or the network.
    Firmware(FirmwareSpec),
}

/// A kernel and what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSpec {
    /// The kernel image.
    pub image: PathBuf,
    /// Initial RAM file system.
    pub initramfs: Option<PathBuf>,
    /// Command line, without a terminating zero.
    pub command_line: String,
}

/// Firmware and what it remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareSpec {
    /// The program: a BIOS (SeaBIOS), or the code of UEFI (OVMF).
    pub image: PathBuf,
    /// The flash memory with variables of UEFI, which is written; none for a BIOS.
    pub variables: Option<PathBuf>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Identifier, unique in the machine.
    pub id: String,
    /// Image file or block device.
    pub path: PathBuf,
    /// Format of the image.
    pub format: DiskFormat,
    /// The guest may not write; always so where the format can only be read.
    pub read_only: bool,
    /// Use of caches; [`DiskCache::Writeback`] where the format can only be read.
    pub cache: DiskCache,
    /// What the guest discards is given back to the host.
    pub discard: bool,
    /// Number of virtqueues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Entries in each, a power of two from 2 to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
    /// Serial number that the guest sees: 1 to [`MAX_DISK_SERIAL_BYTES`] printable ASCII characters.
    pub serial: Option<String>,
}

/// The format of a disk's image: what the description says, whatever the image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskFormat {
    /// A file or block device whose bytes are the disk's.
    Raw,
    /// QEMU's, versions 2 and 3.
    Qcow2(BackingFiles),
    /// VMware's; only to be read.
    Vmdk {
        /// The image may name files in its directory that hold its extents.
        extents: bool,
    },
    /// Virtual PC's; only to be read.
    Vhd,
    /// Hyper-V's; only to be read.
    Vhdx,
    /// VirtualBox's; only to be read.
    Vdi,
}

/// Which files beside its own a qcow2 image may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackingFiles {
    /// None.
    Refused,
    /// Those in the image's directory and in these.
    Within(Vec<PathBuf>),
}

/// How the host's page cache and the disk's own write cache are used; QEMU and libvirt have the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// Through the page cache; durable when flushed.
    Writeback,
    /// Past the page cache (O_DIRECT); durable when flushed.
    None,
    /// Through the page cache; durable when completed.
    Writethrough,
    /// Past the page cache; durable when completed.
    Directsync,
    /// Through the page cache; never flushed.
    Unsafe,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSpec {
    /// Identifier, unique in the machine.
    pub id: String,
    /// What carries its frames.
    pub backend: NetBackendSpec,
    /// The guest's MAC address: of one station, and no other interface of this machine has it.
    pub mac: [u8; 6],
    /// Number of queue pairs, at least one; twice as many virtqueues.
    pub queue_pairs: u16,
    /// Entries in each virtqueue, a power of two from 2 to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
    /// Largest packet in bytes, told to the guest; at least [`MIN_MTU`].
    pub mtu: Option<u16>,
    /// Whether the cable is plugged in.
    pub link_up: bool,
}

/// What carries frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetBackendSpec {
    /// A TAP device by name, made if it does not exist and may be made.
    Tap {
        /// Interface name; `None` lets the kernel choose.
        name: Option<String>,
        /// Address and netmask to give to the host's side.
        address: Option<(Ipv4Addr, Ipv4Addr)>,
    },
    /// TAP descriptors that this process was started with, one a queue pair.
    TapDescriptors(Vec<i32>),
    /// A connected stream socket that this process was started with; one queue pair.
    StreamDescriptor(i32),
}

/// An entropy source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RngSpec {
    /// A file that yields random bytes.
    pub source: PathBuf,
}

/// A memory balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonSpec {
    /// How much of its memory the guest is to give back, in bytes: a multiple of [`BALLOON_STEP_BYTES`], at most all of it.
    pub bytes: u64,
    /// The guest may take it back when it runs out of memory.
    pub deflate_on_oom: bool,
    /// The guest tells which pages are free.
    pub free_page_reporting: bool,
    /// How often the guest is asked for figures, in seconds; 0: only when a client asks.
    pub statistics_period: u32,
}

impl BalloonSpec {
    /// The balloon with another size.
    ///
    /// # Errors
    /// The size is no number of whole pages, or more than a guest with so much memory has.
    pub fn resized(self, bytes: u64, memory: &MemorySpec) -> Result<Self, SpecError> {
        check_balloon(bytes, memory.bytes)?;
        Ok(Self { bytes, ..self })
    }
}

/// What is on the other end of a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharacterSpec {
    /// No device.
    Off,
    /// A device that discards output and never has input.
    Null,
    /// This process's standard input and output; of one device at most.
    Tty,
    /// A new pseudo-terminal, whose path is logged and shown by vm.info.
    Pty,
    /// Output to a file.
    File(PathBuf),
    /// A unix socket that this process listens on, one client at a time.
    Socket(PathBuf),
}

/// A port of the virtio console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsolePortSpec {
    /// Name by which the guest finds the port (/dev/virtio-ports/NAME); `None` for a console (hvc).
    pub name: Option<String>,
    /// What is on the other end; never [`CharacterSpec::Off`].
    pub backend: CharacterSpec,
    /// A file that everything printed on the port is added to.
    pub log: Option<PathBuf>,
}

/// What a reset by the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnReset {
    /// The machine starts again in the same process.
    #[default]
    Reboot,
    /// The process ends with exit code 0.
    Exit,
}
