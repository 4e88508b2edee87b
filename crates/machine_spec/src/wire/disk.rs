//! The description of a disk as clients send it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::yes;
use super::unsupported::wire_object;

/// Virtqueues of a disk whose description does not say.
pub(crate) const DEFAULT_DISK_QUEUES: u32 = 1;
/// Entries in a virtqueue of a disk whose description does not say.
pub(crate) const DEFAULT_DISK_QUEUE_SIZE: u32 = 128;

/// The format of an image. There is no value for "find out": a guest that writes a header into its raw disk could choose
/// one, and with it files of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageType {
    /// A file or block device whose bytes are the disk's.
    Raw,
    /// QEMU's, versions 2 and 3.
    Qcow2,
    /// VMware's, in each of its kinds; only to be read.
    #[serde(alias = "Vmdk")]
    FlatVmdk,
    /// Virtual PC's, fixed or dynamic; only to be read.
    #[serde(alias = "Vhd")]
    FixedVhd,
    /// Hyper-V's; only to be read.
    Vhdx,
    /// VirtualBox's; only to be read (an addition to Cloud Hypervisor's API).
    Vdi,
}

/// How the host's page cache and the disk's own write cache are used; libvirt has the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheMode {
    /// Through the page cache; durable when flushed.
    Writeback,
    /// Past the page cache (O_DIRECT); durable when flushed.
    None,
    /// Through the page cache; durable when completed.
    Writethrough,
    /// Past the page cache; durable when completed.
    Directsync,
    /// Through the page cache; never flushed. A crash of the host loses the disk.
    Unsafe,
}

wire_object! {
    /// A disk.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct DiskConfig {
        /// Image file or block device. Must be given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub path: Option<PathBuf>,
        /// Format of the image; raw when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub image_type: Option<ImageType>,
        /// The image may name other files in its own directory: backing files, data files, extents.
        #[serde(default)]
        pub backing_files: bool,
        /// Further directories in which such files may lie (an addition to Cloud Hypervisor's API).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub backing_directories: Option<Vec<PathBuf>>,
        /// The guest may not write.
        #[serde(default)]
        pub readonly: bool,
        /// Bypass the host's page cache (O_DIRECT).
        #[serde(default)]
        pub direct: bool,
        /// Use of caches: `Writeback`, or with `direct` `None`, when absent (an addition to Cloud Hypervisor's API).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cache: Option<CacheMode>,
        /// What the guest discards is given back to the host.
        #[serde(default = "yes")]
        pub sparse: bool,
        /// Virtqueues; 1 when absent.
        #[serde(default = "default_disk_queues")]
        pub num_queues: u32,
        /// Entries in each, a power of two; 128 when absent.
        #[serde(default = "default_disk_queue_size")]
        pub queue_size: u32,
        /// Identifier, unique in the machine; `diskN` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub id: Option<String>,
        /// Serial number that the guest sees, at most 20 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub serial: Option<String>,
    }
    unsupported {
        iommu,
        vhost_user,
        vhost_socket,
        rate_limiter_config,
        rate_limit_group,
        pci_segment,
        pci_device_id,
        queue_affinity,
        disable_io_uring,
        disable_aio,
        lock_granularity = ["ByteRange"],
    }
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            path: None,
            image_type: None,
            backing_files: false,
            backing_directories: None,
            readonly: false,
            direct: false,
            cache: None,
            sparse: true,
            num_queues: DEFAULT_DISK_QUEUES,
            queue_size: DEFAULT_DISK_QUEUE_SIZE,
            id: None,
            serial: None,
        }
    }
}

fn default_disk_queues() -> u32 {
    DEFAULT_DISK_QUEUES
}

fn default_disk_queue_size() -> u32 {
    DEFAULT_DISK_QUEUE_SIZE
}

/// A new size for a disk of a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmResizeDisk {
    /// The disk's identifier.
    pub id: String,
    /// Size in bytes.
    pub desired_size: u64,
}
