//! The metadata region: sizes of disk, blocks and sectors ([MS-VHDX] 2.6).

use super::guid;
use crate::formats::error::{ImageError, require};
use crate::formats::source::{ImageSource, Numbers, fits, read_array};

/// Size of the metadata table, bytes; items come after it.
const TABLE_BYTES: usize = 64 << 10;
/// Most entries of the table, section 2.6.1.1.
const MOST_ENTRIES: u16 = 2047;
/// Section 2.6.2.
const FILE_PARAMETERS: u128 = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
const VIRTUAL_DISK_SIZE: u128 = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
const VIRTUAL_DISK_ID: u128 = guid(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
const LOGICAL_SECTOR_SIZE: u128 = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
const PHYSICAL_SECTOR_SIZE: u128 = guid(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);
const PARENT_LOCATOR: u128 = guid(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);
const FLAG_IS_REQUIRED: u32 = 1 << 2;
const HAS_PARENT: u32 = 1 << 1;
/// Sections 2.6.2.1 and 2.6.2.2.
const LEAST_BLOCK_BYTES: u32 = 1 << 20;
const MOST_BLOCK_BYTES: u32 = 256 << 20;
const MOST_DISK_BYTES: u64 = 64 << 40;

/// What the metadata says about the disk, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata {
    pub(super) block_bytes: u32,
    pub(super) capacity: u64,
    pub(super) sector_bytes: u32,
}

impl Metadata {
    /// Reads the items of a region, given by offset and length.
    pub(super) fn read(source: &dyn ImageSource, region: (u64, u64)) -> Result<Self, ImageError> {
        let table = read_array::<TABLE_BYTES>(source, "the metadata table", region.0)?;
        if !table.starts_with(b"metadata") {
            return Err(ImageError::Magic { format: "VHDX", field: "the signature of the metadata table" });
        }
        let count = table.le16(10);
        let rule = format!("must be at most {MOST_ENTRIES}");
        require(count <= MOST_ENTRIES, "EntryCount of the metadata table", count, rule)?;
        let (mut parameters, mut capacity, mut sector) = (None, None, None);
        for entry in table.get(32..).unwrap_or_default().chunks_exact(32).take(usize::from(count)) {
            match u128::from_le_bytes(entry.array(0)) {
                FILE_PARAMETERS => parameters = Some(item::<8>(source, region, entry)?),
                VIRTUAL_DISK_SIZE => capacity = Some(u64::from_le_bytes(item(source, region, entry)?)),
                LOGICAL_SECTOR_SIZE => sector = Some(u32::from_le_bytes(item(source, region, entry)?)),
                VIRTUAL_DISK_ID | PHYSICAL_SECTOR_SIZE => {}
                PARENT_LOCATOR => return Err(has_parent()),
                _ if entry.le32(24) & FLAG_IS_REQUIRED == 0 => {}
                _ => {
                    return Err(ImageError::Unsupported(
                        "the image requires metadata that is not known".into(),
                    ));
                }
            }
        }
        let missing = |name: &str| ImageError::Unsupported(format!("the metadata has no {name}"));
        let parameters = parameters.ok_or_else(|| missing("file parameters"))?;
        let block_bytes = parameters.le32(0);
        if parameters.le32(4) & HAS_PARENT != 0 {
            return Err(has_parent());
        }
        let rule = "must be a power of two between 1 MiB and 256 MiB";
        let allowed =
            block_bytes.is_power_of_two() && (LEAST_BLOCK_BYTES..=MOST_BLOCK_BYTES).contains(&block_bytes);
        require(allowed, "BlockSize", block_bytes, rule)?;
        let sector_bytes = sector.ok_or_else(|| missing("logical sector size"))?;
        require(
            matches!(sector_bytes, 512 | 4096),
            "LogicalSectorSize",
            sector_bytes,
            "must be 512 or 4096",
        )?;
        let capacity = capacity.ok_or_else(|| missing("virtual disk size"))?;
        require(capacity <= MOST_DISK_BYTES, "VirtualDiskSize", capacity, "must be at most 64 TiB")?;
        Ok(Self { block_bytes, capacity, sector_bytes })
    }
}

fn has_parent() -> ImageError {
    let advice = "HasParent is 1: differencing disks are not supported, merge it into its parent first";
    ImageError::Unsupported(advice.into())
}

fn item<const N: usize>(
    source: &dyn ImageSource,
    region: (u64, u64),
    entry: &[u8],
) -> Result<[u8; N], ImageError> {
    let (offset, length) = (u64::from(entry.le32(16)), entry.le32(20));
    require(u64::from(length) == N as u64, "Length of a metadata item", length, format!("must be {N}"))?;
    let allowed = offset >= TABLE_BYTES as u64 && fits(offset, N as u64, region.1);
    require(allowed, "Offset of a metadata item", offset, "must be between the table and the region's end")?;
    // The region lies within the file, so the sum does not overflow.
    Ok(*read_array(source, "a metadata item", region.0 + offset)?)
}
