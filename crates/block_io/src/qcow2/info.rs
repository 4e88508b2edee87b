//! What an image says about itself. Nothing but the image is opened: a name in it may be a trap.

use super::header::{
    AUTOCLEAR_RAW_DATA_FILE, COMPATIBLE_LAZY_REFCOUNTS, Compression, FormatError, INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_DIRTY,
};
use super::image::{OpenError, read_header};
use super::snapshots::{self, Snapshot};
use crate::file::HostFile;

/// What an image says about itself. Names are the image's words: not checked, and not to be opened without a check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, as the format has them")]
pub struct Qcow2Info {
    /// Version of the format.
    pub version: u32,
    /// Size of the disk, bytes.
    pub virtual_bytes: u64,
    /// Storage that the file takes, bytes.
    pub allocated_bytes: u64,
    /// Size of a cluster, bytes.
    pub cluster_bytes: u64,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// Whether clusters consist of subclusters.
    pub extended_l2: bool,
    /// Whether refcounts may be updated late.
    pub lazy_refcounts: bool,
    /// Whether refcounts may be wrong.
    pub dirty: bool,
    /// Whether the image was found to be corrupt.
    pub corrupt: bool,
    /// How clusters are compressed.
    pub compression: Compression,
    /// The backing file's name.
    pub backing: Option<String>,
    /// The backing file's format.
    pub backing_format: Option<String>,
    /// The external data file's name; empty if there is one without a name.
    pub data_file: Option<String>,
    /// Whether the external data file is a raw image by itself.
    pub data_file_raw: bool,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// Reads what an open image says.
pub(super) fn read(file: &HostFile) -> Result<Qcow2Info, OpenError> {
    let (header, metadata_file) = read_header(file)?;
    let allocated = rustix::fs::fstat(&*file.access.file)?.st_blocks;
    let (records, _) = snapshots::read(&metadata_file, &header)?.map_err(FormatError::Snapshots)?;
    let has = |bit: u64| header.incompatible & bit != 0;
    Ok(Qcow2Info {
        version: header.version,
        virtual_bytes: header.size,
        allocated_bytes: u64::try_from(allocated).unwrap_or(0) * 512,
        cluster_bytes: header.cluster_bytes(),
        refcount_bits: 1 << header.refcount_order,
        extended_l2: header.extended_l2(),
        lazy_refcounts: header.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0,
        dirty: has(INCOMPATIBLE_DIRTY),
        corrupt: has(INCOMPATIBLE_CORRUPT),
        compression: header.compression,
        data_file: has(INCOMPATIBLE_DATA_FILE).then(|| header.data_file.clone().unwrap_or_default()),
        data_file_raw: header.autoclear & AUTOCLEAR_RAW_DATA_FILE != 0,
        backing: header.backing,
        backing_format: header.backing_format,
        snapshots: records.into_iter().map(|record| record.snapshot).collect(),
    })
}
