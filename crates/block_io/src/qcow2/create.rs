//! Making new images.
//!
//! All places follow from the parameters: header, refcount table, refcount blocks, L1 table, and with preallocation L2 tables
//! and data clusters, one behind the other. So tables are written once and never read.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, IFlags};

use super::backing::resolve;
use super::entry::{COPIED, Layout};
use super::header::{
    AUTOCLEAR_RAW_DATA_FILE, COMPATIBLE_LAZY_REFCOUNTS, Compression, FormatError, Header,
    INCOMPATIBLE_COMPRESSION, INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_EXTENDED_L2, MOST_L1_BYTES,
    MOST_NAME_BYTES, MOST_REFCOUNT_TABLE_BYTES,
};
use crate::backend::BlockError;
use crate::file::error;

/// What of a new disk has its storage from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Tables are complete; data is a hole (qcow2 only).
    Metadata,
    /// Everything, reserved from the file system (fallocate(2)).
    Falloc,
    /// Everything, written as zeroes.
    Full,
}

/// The external data file of a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFileName {
    /// As it will be written down: absolute, or relative to the new image's directory. At most 1023 bytes. The file is
    /// made with the image and must not be there yet.
    pub name: String,
    /// Whether the file is a raw image by itself at any time.
    pub raw: bool,
}

/// The backing file of a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingName {
    /// As it will be written down: absolute, or relative to the new image's directory. At most 1023 bytes.
    pub name: String,
    /// `raw` or `qcow2`.
    pub format: String,
}

/// What a new image is like. The defaults are those of qemu-img.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Parameters {
    /// Size of the disk, bytes: a positive multiple of 512.
    pub bytes: u64,
    /// Size of a cluster, bytes: a power of two from 512 to 2 MiB.
    pub cluster_bytes: u64,
    /// Bits of a refcount: a power of two from 1 to 64.
    pub refcount_bits: u32,
    /// Whether clusters consist of 32 subclusters (clusters of 16 KiB and more).
    pub extended_l2: bool,
    /// Whether whoever writes to the image may update refcounts late.
    pub lazy_refcounts: bool,
    /// How compressed clusters will be compressed.
    pub compression: Compression,
    /// What the image is based on.
    pub backing: Option<BackingName>,
    /// Version of the format: 2 (for programs older than QEMU 1.1) or 3.
    pub version: u32,
    /// Where guest data is, if not in the image itself.
    pub data_file: Option<DataFileName>,
    /// What has its storage from the start.
    pub preallocation: Preallocation,
    /// Whether a file system that copies on write is asked not to do so for this file (where it can).
    pub no_copy_on_write: bool,
}

impl Qcow2Parameters {
    /// A disk of `bytes` bytes with clusters of 64 KiB.
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            cluster_bytes: 65536,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            backing: None,
            version: 3,
            data_file: None,
            preallocation: Preallocation::Off,
            no_copy_on_write: false,
        }
    }

    /// Options that exclude each other.
    fn check_contradictions(&self) -> Result<(), FormatError> {
        let refuse = |option, reason: &str| Err(FormatError::Option { option, reason: reason.to_owned() });
        if !(2..=3).contains(&self.version) {
            return refuse("compat", "versions 2 (0.10) and 3 (1.1) are known");
        }
        if self.version == 2 {
            const REASON: &str = "needs compat=1.1";
            for (option, asked) in [
                ("lazy_refcounts", self.lazy_refcounts),
                ("refcount_bits", self.refcount_bits != 16),
                ("compression_type", self.compression != Compression::Zlib),
                ("extended_l2", self.extended_l2),
                ("data_file", self.data_file.is_some()),
            ] {
                if asked {
                    return refuse(option, REASON);
                }
            }
        }
        if self.backing.is_some() {
            if self.data_file.as_ref().is_some_and(|file| file.raw) {
                return refuse("data_file_raw", "a raw data file can't have a backing file below it");
            }
            if self.preallocation != Preallocation::Off && !self.extended_l2 {
                return refuse(
                    "preallocation",
                    "with a backing file it needs extended_l2=on: whole clusters would hide what is below",
                );
            }
        }
        Ok(())
    }

    /// Whether such an image can be.
    pub fn check(&self) -> Result<(), FormatError> {
        self.header().map(|_| ())
    }

    fn header(&self) -> Result<Header, FormatError> {
        self.check_contradictions()?;
        let refuse =
            |field, value, rule: &str| Err(FormatError::Field { field, value, rule: rule.to_owned() });
        let least = if self.extended_l2 { 16384 } else { 512 };
        if !self.cluster_bytes.is_power_of_two() || !(least..=2 << 20).contains(&self.cluster_bytes) {
            return refuse(
                "cluster_size",
                self.cluster_bytes,
                "a power of two from 512 (16384 with extended L2) to 2 MiB",
            );
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return refuse("refcount_bits", self.refcount_bits.into(), "a power of two, at most 64");
        }
        if let Some(backing) = &self.backing {
            if backing.name.is_empty() || backing.name.len() > MOST_NAME_BYTES as usize {
                return refuse("length of backing_file", backing.name.len() as u64, "1 to 1023 bytes");
            }
            if !["raw", "qcow2"].contains(&backing.format.as_str()) {
                let reason = format!("{:?} is neither raw nor qcow2", backing.format);
                return Err(FormatError::Option { option: "backing_fmt", reason });
            }
        }
        let mut incompatible = 0;
        let mut autoclear = 0;
        if let Some(file) = &self.data_file {
            if file.name.is_empty() || file.name.len() > MOST_NAME_BYTES as usize {
                return refuse("length of data_file", file.name.len() as u64, "1 to 1023 bytes");
            }
            incompatible |= INCOMPATIBLE_DATA_FILE;
            autoclear |= if file.raw { AUTOCLEAR_RAW_DATA_FILE } else { 0 };
        }
        if self.extended_l2 {
            incompatible |= INCOMPATIBLE_EXTENDED_L2;
        }
        if self.compression == Compression::Zstd {
            incompatible |= INCOMPATIBLE_COMPRESSION;
        }
        let mut header = Header {
            version: self.version,
            cluster_bits: self.cluster_bytes.trailing_zeros(),
            size: self.bytes,
            l1_entries: 0,
            l1_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            refcount_order: self.refcount_bits.trailing_zeros(),
            snapshots: 0,
            snapshots_offset: 0,
            incompatible,
            compatible: if self.lazy_refcounts { COMPATIBLE_LAZY_REFCOUNTS } else { 0 },
            autoclear,
            compression: self.compression,
            backing: self.backing.as_ref().map(|backing| backing.name.clone()),
            backing_format: self.backing.as_ref().map(|backing| backing.format.clone()),
            data_file: self.data_file.as_ref().map(|file| file.name.clone()),
            bitmaps: None,
        };
        let entries = self.bytes.div_ceil(header.bytes_per_l1_entry());
        if self.bytes == 0 || !self.bytes.is_multiple_of(512) || entries > MOST_L1_BYTES / 8 {
            let most = (MOST_L1_BYTES / 8).saturating_mul(header.bytes_per_l1_entry());
            let rule = format!("a positive multiple of 512, at most {most} with this cluster size");
            return refuse("size", self.bytes, &rule);
        }
        // Bounded just above.
        header.l1_entries = u32::try_from(entries).unwrap_or(u32::MAX);
        Ok(header)
    }
}

/// Where a new image's tables lie, in clusters: header, refcount table, refcount blocks, L1 table, L2 tables, data.
#[derive(Debug, Clone, Copy)]
struct Places {
    blocks: u64,
    l2_tables: u64,
    /// Data clusters in the image's own file.
    data: u64,
    used: u64,
}

/// Finds the places and writes them into the header.
fn lay_out(header: &mut Header, preallocation: Preallocation) -> Result<Places, FormatError> {
    let cluster_bytes = header.cluster_bytes();
    let per_block = (cluster_bytes * 8) >> header.refcount_order;
    let l1_clusters = (u64::from(header.l1_entries) * 8).div_ceil(cluster_bytes);
    let external = header.incompatible & INCOMPATIBLE_DATA_FILE != 0;
    let (l2_tables, data) = match preallocation {
        Preallocation::Off => (0, 0),
        _ if external => (u64::from(header.l1_entries), 0),
        _ => (u64::from(header.l1_entries), header.size.div_ceil(cluster_bytes)),
    };
    let (mut table_clusters, mut blocks) = (1, 1);
    let used = loop {
        let used = 1 + table_clusters + blocks + l1_clusters + l2_tables + data;
        let (needed_blocks, needed_table) = (used.div_ceil(per_block), (blocks * 8).div_ceil(cluster_bytes));
        if needed_blocks <= blocks && needed_table <= table_clusters {
            break used;
        }
        blocks = blocks.max(needed_blocks);
        table_clusters = table_clusters.max(needed_table);
    };
    if table_clusters * cluster_bytes > MOST_REFCOUNT_TABLE_BYTES {
        let reason = "so many clusters can't be counted: use larger clusters or no preallocation".to_owned();
        return Err(FormatError::Option { option: "preallocation", reason });
    }
    header.refcount_table_offset = cluster_bytes;
    header.refcount_table_clusters = u32::try_from(table_clusters).unwrap_or(u32::MAX);
    header.l1_offset = (1 + table_clusters + blocks) * cluster_bytes;
    Ok(Places { blocks, l2_tables, data, used })
}

/// Makes the file at `path` a new, empty image. The file must not exist.
pub(super) fn create(path: &Path, parameters: &Qcow2Parameters) -> Result<(), BlockError> {
    let fail = |source| error(path, "cannot create the qcow2 image", source);
    let invalid = |source: FormatError| fail(std::io::Error::new(std::io::ErrorKind::InvalidInput, source));
    let mut header = parameters.header().map_err(invalid)?;
    // A raw data file is whole from the start, so that what is in it can be seen through the image too.
    let raw = parameters.data_file.as_ref().is_some_and(|file| file.raw);
    let preallocation = match parameters.preallocation {
        Preallocation::Off if raw => Preallocation::Metadata,
        asked => asked,
    };
    let places = lay_out(&mut header, preallocation).map_err(invalid)?;
    let encoded = header.encode();
    if encoded.len() as u64 > header.cluster_bytes() {
        let field = "header length";
        let rule = format!("at most a cluster ({} bytes): use larger clusters", header.cluster_bytes());
        return Err(invalid(FormatError::Field { field, value: encoded.len() as u64, rule }));
    }
    let data_file = match &parameters.data_file {
        Some(file) => Some(create_data_file(path, file, parameters, preallocation)?),
        None => None,
    };
    let make = || {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let fill = || {
            if parameters.no_copy_on_write {
                avoid_copy_on_write(&file);
            }
            write_tables(&file, &header, places, &encoded, preallocation)
        };
        fill().inspect_err(|_| {
            // Half an image is of no use to anybody.
            let _ = std::fs::remove_file(path);
        })
    };
    make().map_err(|source| {
        if let Some(data_file) = data_file {
            let _ = std::fs::remove_file(data_file);
        }
        fail(source)
    })
}

/// Makes the external data file, which must not exist. Returns its path.
fn create_data_file(
    image: &Path,
    file: &DataFileName,
    parameters: &Qcow2Parameters,
    preallocation: Preallocation,
) -> Result<PathBuf, BlockError> {
    let operation = format!("cannot create its external data file {:?}", file.name);
    let invalid = |advice: String| {
        error(image, &operation, std::io::Error::new(std::io::ErrorKind::InvalidInput, advice))
    };
    let path = resolve(image, &file.name).map_err(invalid)?;
    let fail = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => {
            invalid("a file of this name is there: remove it, or name another".to_owned())
        }
        _ => error(image, &operation, source),
    };
    let data = OpenOptions::new().write(true).create_new(true).open(&path).map_err(fail)?;
    let fill = || {
        if parameters.no_copy_on_write {
            avoid_copy_on_write(&data);
        }
        data.set_len(parameters.bytes)?;
        reserve_storage(&data, 0, parameters.bytes, preallocation)?;
        data.sync_all()
    };
    fill().map_err(|source| {
        let _ = std::fs::remove_file(&path);
        fail(source)
    })?;
    Ok(path)
}

/// Asks the file system not to copy an empty file's blocks when they are written (chattr(1), C). Those that can't, don't.
pub(crate) fn avoid_copy_on_write(file: &File) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        let _ = rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW);
    }
}

/// Makes a range of a file have storage, as far as that is asked for.
pub(crate) fn reserve_storage(
    file: &File,
    offset: u64,
    bytes: u64,
    preallocation: Preallocation,
) -> std::io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    if bytes == 0 || matches!(preallocation, Preallocation::Off | Preallocation::Metadata) {
        return Ok(());
    }
    // Full too: space that is not there is found out before anything is written.
    let reserved = rustix::fs::fallocate(file, FallocateFlags::empty(), offset, bytes);
    if preallocation == Preallocation::Falloc {
        return Ok(reserved?);
    }
    if reserved == Err(rustix::io::Errno::NOSPC) {
        return Ok(reserved?);
    }
    let zeroes = vec![0; usize::try_from(CHUNK.min(bytes)).unwrap_or(0)];
    let mut done = 0;
    while done < bytes {
        let chunk = (bytes - done).min(CHUNK);
        file.write_all_at(&zeroes[..usize::try_from(chunk).unwrap_or(0)], offset + done)?;
        done += chunk;
    }
    Ok(())
}

fn write_tables(
    file: &File,
    header: &Header,
    places: Places,
    encoded: &[u8],
    preallocation: Preallocation,
) -> std::io::Result<()> {
    let cluster_bytes = header.cluster_bytes();
    // Everything that is not written reads as zeroes.
    file.set_len(places.used * cluster_bytes)?;
    let first_block = 1 + u64::from(header.refcount_table_clusters);
    let per_block = (cluster_bytes * 8) >> header.refcount_order;
    let block_offset = |block: u64| (first_block + block) * cluster_bytes;
    let table: Vec<u8> = (0..places.blocks).flat_map(|block| block_offset(block).to_be_bytes()).collect();
    file.write_all_at(&table, header.refcount_table_offset)?;
    for block in 0..places.blocks {
        let counted = places.used.saturating_sub(block * per_block).min(per_block);
        file.write_all_at(&super::refcount::ones(header.refcount_order, counted), block_offset(block))?;
    }
    if places.l2_tables > 0 {
        write_mapping(file, header, places)?;
        let data = (places.used - places.data) * cluster_bytes;
        reserve_storage(file, data, places.data * cluster_bytes, preallocation)?;
    }
    // Last: without it the file is no image.
    file.write_all_at(encoded, 0)
}

/// Maps every cluster of the disk, in order.
fn write_mapping(file: &File, header: &Header, places: Places) -> std::io::Result<()> {
    let (cluster_bytes, layout) = (header.cluster_bytes(), Layout::of(header));
    let first_table = (places.used - places.data - places.l2_tables) * cluster_bytes;
    let l1: Vec<u8> = (0..places.l2_tables)
        .flat_map(|table| ((first_table + table * cluster_bytes) | COPIED).to_be_bytes())
        .collect();
    file.write_all_at(&l1, header.l1_offset)?;
    // In an external file, each cluster lies where the guest has it.
    let first_data = if layout.external { 0 } else { (places.used - places.data) * cluster_bytes };
    let clusters = header.size.div_ceil(cluster_bytes);
    let per_table = layout.table_covers() / cluster_bytes;
    let mut bytes = Vec::new();
    for table in 0..places.l2_tables {
        bytes.clear();
        for cluster in table * per_table..clusters.min((table + 1) * per_table) {
            bytes.extend(((first_data + cluster * cluster_bytes) | COPIED).to_be_bytes());
            if layout.extended {
                // No subcluster is data yet: what is below shows through.
                bytes.extend([0; 8]);
            }
        }
        file.write_all_at(&bytes, first_table + table * cluster_bytes)?;
    }
    Ok(())
}
