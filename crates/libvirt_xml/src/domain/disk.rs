//! Disks (formatdomain, "Hard drives, floppy disks, CDROMs").
//!
//! Refused: disks over the network, NVMe and vhost sources, encryption, authentication, reservations, slices. Kept: `mirror`, which
//! only the documents of running domains have.

use super::address::{DeviceInfo, StartupPolicy, VirtioOptions};
use super::security::SourceLabel;
use crate::model::model;
use crate::size::Bytes;
use crate::tree::Kept;
use crate::value::{OnOff, YesNo, words};

words! {
    /// What a disk's source is.
    pub enum DiskType { File = "file", Block = "block", Dir = "dir", Volume = "volume", }
    refused "network", "nvme", "vhostuser", "vhostvdpa";

    /// What the guest sees.
    pub enum DiskDevice { Disk = "disk", Cdrom = "cdrom", Floppy = "floppy", Lun = "lun", }

    /// The bus that a disk is on.
    pub enum DiskBus {
        Virtio = "virtio",
        Ide = "ide",
        Fdc = "fdc",
        Scsi = "scsi",
        Usb = "usb",
        Sata = "sata",
        Sd = "sd",
    }
    refused "xen", "uml", "nvme";

    /// Formats of images.
    pub enum ImageFormat {
        Raw = "raw",
        Qcow2 = "qcow2",
        Qcow = "qcow",
        Vmdk = "vmdk",
        Vpc = "vpc",
        Vdi = "vdi",
        Vhdx = "vhdx",
        Fat = "fat",
        Iso = "iso",
        Qed = "qed",
        Luks = "luks",
    }
    refused "bochs", "cloop", "dmg", "cow", "vhd", "ploop", "aio", "auto";

    /// How the host caches a disk.
    pub enum CacheMode {
        Default = "default",
        None = "none",
        Writethrough = "writethrough",
        Writeback = "writeback",
        Directsync = "directsync",
        Unsafe = "unsafe",
    }

    /// What happens after an I/O error.
    pub enum ErrorPolicy {
        Default = "default",
        Stop = "stop",
        Report = "report",
        Ignore = "ignore",
        Enospace = "enospace",
    }

    /// How I/O is submitted on the host.
    pub enum IoMode { Native = "native", Threads = "threads", IoUring = "io_uring", }

    /// What happens to discards.
    pub enum Discard { Unmap = "unmap", Ignore = "ignore", }

    /// What happens to writes of zeroes.
    pub enum DetectZeroes { Off = "off", On = "on", Unmap = "unmap", }

    /// Variants of a virtio device: transitional ones understand drivers older than virtio 1.0.
    pub enum VirtioModel {
        Virtio = "virtio",
        Transitional = "virtio-transitional",
        NonTransitional = "virtio-non-transitional",
    }

    /// Whether the tray of a drive is open.
    pub enum Tray { Closed = "closed", Open = "open", }

    /// How geometry is translated.
    pub enum GeometryTranslation { None = "none", Auto = "auto", Lba = "lba", }

    /// Who snapshots a disk.
    pub enum SnapshotMode { No = "no", Internal = "internal", External = "external", Manual = "manual", }

    /// Whether SCSI commands are filtered.
    pub enum ScsiFilter { Filtered = "filtered", Unfiltered = "unfiltered", }

    /// How a pool's volume is reached.
    pub enum PoolMode { Host = "host", Direct = "direct", }
}

model! {
    /// The size of an image's metadata cache.
    pub struct MetadataCache {
        /// At most so many bytes.
        max_size: child("max_size") => Option<Bytes>,
    }

    /// A virtqueue of an I/O thread.
    pub struct IoThreadQueue {
        /// Number of the queue.
        id: required("id") => u32,
    }

    /// An I/O thread that serves a disk, and its queues (all that nobody else serves when none are named).
    pub struct DiskIoThread {
        /// Number of the thread.
        id: required("id") => u32,
        /// Its queues.
        queues: children("queue") => Vec<IoThreadQueue>,
    }

    /// How the host serves a disk.
    pub struct DiskDriver {
        /// Backend; `qemu` is the one that libvirt's clients write.
        name: attribute("name") => Option<String>,
        /// Format of the image. Never guessed for a disk that the guest can write.
        format: attribute("type") => Option<ImageFormat>,
        /// Host cache.
        cache: attribute("cache") => Option<CacheMode>,
        /// After write errors.
        error_policy: attribute("error_policy") => Option<ErrorPolicy>,
        /// After read errors.
        rerror_policy: attribute("rerror_policy") => Option<ErrorPolicy>,
        /// Submission of I/O.
        io: attribute("io") => Option<IoMode>,
        /// Doorbells through the kernel.
        ioeventfd: attribute("ioeventfd") => Option<OnOff>,
        /// Suppression of interrupts.
        event_idx: attribute("event_idx") => Option<OnOff>,
        /// Copies what is read from a backing file.
        copy_on_read: attribute("copy_on_read") => Option<OnOff>,
        /// Discards.
        discard: attribute("discard") => Option<Discard>,
        /// I/O thread that serves it.
        iothread: attribute("iothread") => Option<u32>,
        /// Writes of zeroes.
        detect_zeroes: attribute("detect_zeroes") => Option<DetectZeroes>,
        /// Virtqueues.
        queues: attribute("queues") => Option<u32>,
        /// Entries of a virtqueue.
        queue_size: attribute("queue_size") => Option<u32>,
        /// Keeps clusters allocated that the guest discards.
        discard_no_unref: attribute("discard_no_unref") => Option<OnOff>,
        /// Virtio's switches.
        virtio: part => VirtioOptions,
        /// Queues spread over I/O threads.
        iothreads: list("iothreads", "iothread") => Vec<DiskIoThread>,
        /// Cache of the image's metadata.
        metadata_cache: child("metadata_cache") => Option<MetadataCache>,
    }

    /// Where the bytes are. Which attribute counts is said by the disk's type.
    pub struct DiskSource {
        /// Of type `file`: a path.
        file: attribute("file") => Option<String>,
        /// Of type `block`: a device node.
        dev: attribute("dev") => Option<String>,
        /// Of type `dir`: a directory.
        dir: attribute("dir") => Option<String>,
        /// Of type `volume`: a storage pool.
        pool: attribute("pool") => Option<String>,
        /// Of type `volume`: a volume of the pool.
        volume: attribute("volume") => Option<String>,
        /// Of type `volume`.
        mode: attribute("mode") => Option<PoolMode>,
        /// What to do when it is missing at start.
        startup_policy: attribute("startupPolicy") => Option<StartupPolicy>,
        /// Number of the image in the chain; running domains only.
        index: attribute("index") => Option<u32>,
        /// Security labels of this image alone.
        labels: children("seclabel") => Vec<SourceLabel>,
    }

    /// The format of a backing image.
    pub struct BackingFormat {
        /// The format.
        format: required("type") => ImageFormat,
        /// Cache of the image's metadata.
        metadata_cache: child("metadata_cache") => Option<MetadataCache>,
    }

    /// An image below another. Without source it says that the chain ends here.
    pub struct BackingStore {
        /// What the source is.
        kind: attribute("type") => Option<DiskType>,
        /// Number of the image in the chain.
        index: attribute("index") => Option<u32>,
        /// Its format.
        format: child("format") => Option<BackingFormat>,
        /// Where it is.
        source: child("source") => Option<DiskSource>,
        /// The image below.
        backing_store: boxed("backingStore") => Option<Box<BackingStore>>,
    }

    /// A disk's geometry.
    pub struct Geometry {
        /// Cylinders.
        cylinders: required("cyls") => u32,
        /// Heads.
        heads: required("heads") => u32,
        /// Sectors.
        sectors: required("secs") => u32,
        /// Translation.
        translation: attribute("trans") => Option<GeometryTranslation>,
    }

    /// Sector sizes that the guest sees.
    pub struct BlockIo {
        /// Bytes.
        logical_block_size: attribute("logical_block_size") => Option<u32>,
        /// Bytes.
        physical_block_size: attribute("physical_block_size") => Option<u32>,
        /// Bytes.
        discard_granularity: attribute("discard_granularity") => Option<u32>,
    }

    /// What the guest sees.
    pub struct DiskTarget {
        /// Name: the prefix says the bus, the letters the order.
        dev: required("dev") => String,
        /// Bus; follows from the name when absent.
        bus: attribute("bus") => Option<DiskBus>,
        /// Tray of a drive.
        tray: attribute("tray") => Option<Tray>,
        /// Of USB disks.
        removable: attribute("removable") => Option<OnOff>,
        /// Turns a minute; 1 is a solid state disk.
        rotation_rate: attribute("rotation_rate") => Option<u32>,
    }

    /// Limits, in bytes or operations a second, with bursts (`max`) and their lengths in seconds.
    pub struct IoTune {
        /// Bytes a second.
        total_bytes_sec: field("total_bytes_sec") => Option<u64>,
        /// Bytes a second.
        read_bytes_sec: field("read_bytes_sec") => Option<u64>,
        /// Bytes a second.
        write_bytes_sec: field("write_bytes_sec") => Option<u64>,
        /// Operations a second.
        total_iops_sec: field("total_iops_sec") => Option<u64>,
        /// Operations a second.
        read_iops_sec: field("read_iops_sec") => Option<u64>,
        /// Operations a second.
        write_iops_sec: field("write_iops_sec") => Option<u64>,
        /// Bytes a second.
        total_bytes_sec_max: field("total_bytes_sec_max") => Option<u64>,
        /// Bytes a second.
        read_bytes_sec_max: field("read_bytes_sec_max") => Option<u64>,
        /// Bytes a second.
        write_bytes_sec_max: field("write_bytes_sec_max") => Option<u64>,
        /// Operations a second.
        total_iops_sec_max: field("total_iops_sec_max") => Option<u64>,
        /// Operations a second.
        read_iops_sec_max: field("read_iops_sec_max") => Option<u64>,
        /// Operations a second.
        write_iops_sec_max: field("write_iops_sec_max") => Option<u64>,
        /// Bytes that count as one operation.
        size_iops_sec: field("size_iops_sec") => Option<u64>,
        /// Disks of the same group share the limits.
        group_name: field("group_name") => Option<String>,
        /// Seconds.
        total_bytes_sec_max_length: field("total_bytes_sec_max_length") => Option<u64>,
        /// Seconds.
        read_bytes_sec_max_length: field("read_bytes_sec_max_length") => Option<u64>,
        /// Seconds.
        write_bytes_sec_max_length: field("write_bytes_sec_max_length") => Option<u64>,
        /// Seconds.
        total_iops_sec_max_length: field("total_iops_sec_max_length") => Option<u64>,
        /// Seconds.
        read_iops_sec_max_length: field("read_iops_sec_max_length") => Option<u64>,
        /// Seconds.
        write_iops_sec_max_length: field("write_iops_sec_max_length") => Option<u64>,
    }

    /// A disk whose changes are forgotten when the domain stops.
    pub struct Transient {
        /// Whether several domains may use the image.
        share_backing: attribute("shareBacking") => Option<YesNo>,
    }

    /// A disk.
    pub struct Disk {
        /// What the source is.
        kind: defaulted("type") => DiskType,
        /// What the guest sees.
        device: defaulted("device") => DiskDevice,
        /// Variant of the virtio device.
        model: attribute("model") => Option<VirtioModel>,
        /// Raw SCSI commands.
        rawio: attribute("rawio") => Option<YesNo>,
        /// Filtering of SCSI commands.
        sgio: attribute("sgio") => Option<ScsiFilter>,
        /// Who snapshots it.
        snapshot: attribute("snapshot") => Option<SnapshotMode>,
        /// How the host serves it.
        driver: child("driver") => Option<DiskDriver>,
        /// Where the bytes are; drives may be empty.
        source: child("source") => Option<DiskSource>,
        /// The image below.
        backing_store: child("backingStore") => Option<BackingStore>,
        /// Geometry.
        geometry: child("geometry") => Option<Geometry>,
        /// Sector sizes.
        blockio: child("blockio") => Option<BlockIo>,
        /// A copy under way.
        mirror: kept("mirror") => Kept,
        /// What the guest sees.
        target: always("target") => DiskTarget,
        /// Limits.
        iotune: child("iotune") => Option<IoTune>,
        /// The guest can't write.
        readonly: flag("readonly") => bool,
        /// Several domains may write.
        shareable: flag("shareable") => bool,
        /// Changes are forgotten.
        transient: child("transient") => Option<Transient>,
        /// Serial number.
        serial: field("serial") => Option<String>,
        /// World wide name, 16 hexadecimal digits.
        wwn: field("wwn") => Option<String>,
        /// Vendor of a SCSI disk, at most 8 characters.
        vendor: field("vendor") => Option<String>,
        /// Product of a SCSI disk, at most 16 characters.
        product: field("product") => Option<String>,
        /// Alias, boot order, address.
        info: part => DeviceInfo,
    }
}

impl Disk {
    /// The path of its file or device node; `None` for empty drives and volumes.
    pub fn path(&self) -> Option<&str> {
        let source = self.source.as_ref()?;
        match self.kind {
            DiskType::File => source.file.as_deref(),
            DiskType::Block => source.dev.as_deref(),
            DiskType::Dir => source.dir.as_deref(),
            DiskType::Volume => None,
        }
    }

    /// Whether the guest can't write to it: CD-ROMs never, others when it says so.
    pub fn is_read_only(&self) -> bool {
        self.readonly || self.device == DiskDevice::Cdrom
    }

    /// Whether media can be taken out.
    pub fn is_removable(&self) -> bool {
        matches!(self.device, DiskDevice::Cdrom | DiskDevice::Floppy)
    }
}
