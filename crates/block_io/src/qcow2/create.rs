//! Making new images.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::header::{
    COMPATIBLE_LAZY_REFCOUNTS, Compression, FormatError, Header, INCOMPATIBLE_COMPRESSION,
    INCOMPATIBLE_EXTENDED_L2, MOST_L1_BYTES, MOST_NAME_BYTES,
};
use crate::backend::BlockError;
use crate::file::error;

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
        }
    }

    /// Whether such an image can be.
    pub fn check(&self) -> Result<(), FormatError> {
        self.header().map(|_| ())
    }

    fn header(&self) -> Result<Header, FormatError> {
        let refuse =
            |field, value, rule: &str| Err(FormatError::Field { field, value, rule: rule.to_owned() });
        let least = if self.extended_l2 { 16384 } else { 512 };
        if !self.cluster_bytes.is_power_of_two() || !(least..=2 << 20).contains(&self.cluster_bytes) {
            return refuse(
                "cluster size",
                self.cluster_bytes,
                "a power of two from 512 (16384 with extended L2) to 2 MiB",
            );
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return refuse("refcount bits", self.refcount_bits.into(), "a power of two, at most 64");
        }
        if let Some(backing) = &self.backing {
            if backing.name.is_empty() || backing.name.len() > MOST_NAME_BYTES as usize {
                return refuse("backing name length", backing.name.len() as u64, "1 to 1023 bytes");
            }
            if !["raw", "qcow2"].contains(&backing.format.as_str()) {
                return Err(FormatError::Features(format!("backing format {:?}", backing.format)));
            }
        }
        let mut incompatible = 0;
        if self.extended_l2 {
            incompatible |= INCOMPATIBLE_EXTENDED_L2;
        }
        if self.compression == Compression::Zstd {
            incompatible |= INCOMPATIBLE_COMPRESSION;
        }
        let mut header = Header {
            version: 3,
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
            autoclear: 0,
            compression: self.compression,
            backing: self.backing.as_ref().map(|backing| backing.name.clone()),
            backing_format: self.backing.as_ref().map(|backing| backing.format.clone()),
            data_file: None,
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

/// Where a new image's tables lie, in clusters: header, refcount table, refcount blocks, L1 table.
fn lay_out(header: &mut Header) -> u64 {
    let cluster_bytes = header.cluster_bytes();
    let per_block = (cluster_bytes * 8) >> header.refcount_order;
    let l1_clusters = (u64::from(header.l1_entries) * 8).div_ceil(cluster_bytes);
    let (mut table_clusters, mut blocks) = (1, 1);
    loop {
        let used = 1 + table_clusters + blocks + l1_clusters;
        let (needed_blocks, needed_table) = (used.div_ceil(per_block), (blocks * 8).div_ceil(cluster_bytes));
        if needed_blocks <= blocks && needed_table <= table_clusters {
            break;
        }
        blocks = blocks.max(needed_blocks);
        table_clusters = table_clusters.max(needed_table);
    }
    header.refcount_table_offset = cluster_bytes;
    header.refcount_table_clusters = u32::try_from(table_clusters).unwrap_or(u32::MAX);
    header.l1_offset = (1 + table_clusters + blocks) * cluster_bytes;
    blocks
}

/// Makes the file at `path` a new, empty image. The file must not exist.
pub(super) fn create(path: &Path, parameters: &Qcow2Parameters) -> Result<(), BlockError> {
    let fail = |source| error(path, "cannot create the qcow2 image", source);
    let mut header = parameters
        .header()
        .map_err(|source| fail(std::io::Error::new(std::io::ErrorKind::InvalidInput, source)))?;
    let blocks = lay_out(&mut header);
    let encoded = header.encode();
    if encoded.len() as u64 > header.cluster_bytes() {
        let field = "header length";
        let rule = format!("at most a cluster ({} bytes): use larger clusters", header.cluster_bytes());
        let source = FormatError::Field { field, value: encoded.len() as u64, rule };
        return Err(fail(std::io::Error::new(std::io::ErrorKind::InvalidInput, source)));
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(fail)?;
    let result = write_tables(&file, &header, blocks, &encoded).and_then(|()| file.sync_all());
    result.map_err(|source| {
        // Half an image is of no use to anybody.
        let _ = std::fs::remove_file(path);
        fail(source)
    })
}

fn write_tables(file: &std::fs::File, header: &Header, blocks: u64, encoded: &[u8]) -> std::io::Result<()> {
    let cluster_bytes = header.cluster_bytes();
    let l1_clusters = (u64::from(header.l1_entries) * 8).div_ceil(cluster_bytes);
    let used = header.l1_offset / cluster_bytes + l1_clusters;
    // Everything that is not written reads as zeroes.
    file.set_len(used * cluster_bytes)?;
    let first_block = 1 + u64::from(header.refcount_table_clusters);
    let per_block = (cluster_bytes * 8) >> header.refcount_order;
    for block in 0..blocks {
        let offset = (first_block + block) * cluster_bytes;
        file.write_all_at(&offset.to_be_bytes(), header.refcount_table_offset + block * 8)?;
        let counted = used.saturating_sub(block * per_block).min(per_block);
        file.write_all_at(&super::refcount::ones(header.refcount_order, counted), offset)?;
    }
    // Last: without it the file is no image.
    file.write_all_at(encoded, 0)
}
