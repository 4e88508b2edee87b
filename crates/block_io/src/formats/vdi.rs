//! VirtualBox disk images (VDI 1.1), dynamic and static; not undo and differencing images.
//!
//! Source: VirtualBox, `VDICore.h` (the header's structures) and the "VDI" description by its authors ("All about VDIs",
//! VirtualBox forum). A header, then a map with a 32-bit number for each block of the disk, then blocks. Both kinds read
//! alike: a static image's map names all blocks.

use super::error::{ImageError, require};
use super::map::{BlockMap, Extent};
use super::source::{ImageSource, Numbers, fits, read_array};
use super::tables::{Lookup, Tables};

/// `VDI_IMAGE_SIGNATURE`, at [`SIGNATURE_AT`].
pub(super) const SIGNATURE: u32 = 0xbeda_107f;
pub(super) const SIGNATURE_AT: usize = 64;
const HEADER_BYTES: usize = 512;
const VERSION: u32 = 0x0001_0001;
const KIND_DYNAMIC: u32 = 1;
const KIND_STATIC: u32 = 2;
/// Largest block that is accepted, bytes: keeps sums small (VirtualBox makes blocks of 1 MiB).
const MOST_BLOCK_BYTES: u32 = 256 << 20;
/// A block that was never written, and one that was given back: both read as zeroes.
const FREE: u32 = 0xffff_ffff;
const ZERO: u32 = 0xffff_fffe;

#[derive(Debug)]
pub(super) struct Vdi {
    capacity: u64,
    block_bytes: u64,
    blocks: u32,
    map_offset: u64,
    data_offset: u64,
}

/// Checks the header and that the map lies within the file.
pub(super) fn open(source: &dyn ImageSource) -> Result<Vdi, ImageError> {
    let header = read_array::<HEADER_BYTES>(source, "the VDI header", 0)?;
    if header.le32(SIGNATURE_AT) != SIGNATURE {
        return Err(ImageError::Magic { format: "VDI", field: "the signature be da 10 7f" });
    }
    let version = header.le32(68);
    require(version == VERSION, "u32Version", version, "only version 1.1 (65537) is supported")?;
    let kind = header.le32(76);
    let rule =
        "only dynamic (1) and static (2) images are supported: flatten undo and differencing images first";
    require(matches!(kind, KIND_DYNAMIC | KIND_STATIC), "u32Type", kind, rule)?;
    let sector = header.le32(360);
    require(sector == 512, "cbSector", sector, "must be 512")?;
    let block = header.le32(376);
    let rule = format!("must be a power of two between 512 and {MOST_BLOCK_BYTES}");
    let allowed = block.is_power_of_two() && (512..=MOST_BLOCK_BYTES).contains(&block);
    require(allowed, "cbBlock", block, rule)?;
    let extra = header.le32(380);
    require(extra == 0, "cbBlockExtra", extra, "must be 0")?;
    let capacity = header.le64(368);
    let blocks = header.le32(384);
    let needed = capacity.div_ceil(u64::from(block));
    require(u64::from(blocks) >= needed, "cBlocks", blocks, format!("the disk has {needed} blocks"))?;
    let (map_offset, data_offset) = (u64::from(header.le32(340)), u64::from(header.le32(344)));
    // Entries must not straddle pages of the table cache; every writer aligns both to sectors.
    let rule = "must be a multiple of 512, behind the header";
    let aligned = |offset: u64| offset.is_multiple_of(512) && offset >= HEADER_BYTES as u64;
    require(aligned(map_offset), "offBlocks", map_offset, rule)?;
    require(aligned(data_offset), "offData", data_offset, rule)?;
    if !fits(map_offset, needed * 4, source.bytes()) {
        return Err(ImageError::Cut { what: "the block map", offset: map_offset, bytes: source.bytes() });
    }
    Ok(Vdi { capacity, block_bytes: u64::from(block), blocks, map_offset, data_offset })
}

impl BlockMap for Vdi {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn block_bytes(&self) -> Option<u64> {
        Some(self.block_bytes)
    }

    fn map(
        &self,
        tables: &Tables,
        offset: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, ImageError> {
        let (block, within) = (offset / self.block_bytes, offset % self.block_bytes);
        let run = bytes.min(self.block_bytes - within);
        let Some(entry) = tables.entry(0, self.map_offset + block * 4, how)? else { return Ok(None) };
        let entry = u32::from_le_bytes(entry);
        if matches!(entry, FREE | ZERO) {
            return Ok(Some((Extent::Zero, run)));
        }
        require(
            entry < self.blocks,
            "an entry of the block map",
            entry,
            format!("the disk has {} blocks", self.blocks),
        )?;
        // At most 2^32 + 2^32 * 2^28 + 2^28.
        let offset = self.data_offset + u64::from(entry) * self.block_bytes + within;
        Ok(Some((Extent::Data { source: 0, offset }, run)))
    }
}
