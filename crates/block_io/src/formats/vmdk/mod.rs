//! VMware disk images (VMDK): flat and sparse extents, split or not, and streamOptimized ones.
//!
//! Source: VMware, "Virtual Disk Format 5.0" (2011). A disk is a list of extents, each all or a part of a file. The list is
//! in a text, the descriptor, which is a file of its own (`descriptor`) or within the only extent (`sparse`). Extents of an
//! image with a descriptor file are opened by their plain names, through the caller's opener; an extent is never taken for
//! a descriptor again, so that nothing can go in circles.

mod descriptor;
mod sparse;

use self::descriptor::{Access, Descriptor, ExtentKind, ExtentLine};
use self::sparse::Sparse;
use super::error::ImageError;
use super::image::ExtentOpener;
use super::map::{BlockMap, Extent};
use super::source::{ImageSource, SharedSource, fits, read_vec};
use super::tables::{Lookup, Tables};

pub(super) use self::descriptor::looks_like_a_descriptor;
pub(super) use self::sparse::{MAGIC, MAGIC_COWD, MAGIC_SESPARSE};

pub(super) const SECTOR_BYTES: u64 = 512;
/// Longest descriptor, bytes: thousands of extents fit. Stops one from filling the host's memory.
const MOST_DESCRIPTOR_BYTES: u64 = 1 << 20;

/// One extent of the disk.
#[derive(Debug)]
enum Part {
    Zero,
    /// Bytes of a source from an offset on.
    Flat {
        source: usize,
        offset: u64,
    },
    Sparse(Sparse),
}

#[derive(Debug)]
struct Vmdk {
    /// Where on the disk each extent begins, bytes, ascending, the first at 0.
    parts: Vec<(u64, Part)>,
    capacity: u64,
}

/// Opens an image by its descriptor file or its only extent.
pub(super) fn open(
    source: SharedSource,
    extents: &mut ExtentOpener<'_>,
) -> Result<(Box<dyn BlockMap>, Vec<SharedSource>), ImageError> {
    if let Some(sparse) = Sparse::probe(&*source, 0)? {
        if let Some((offset, bytes)) = sparse.descriptor() {
            let text = read_descriptor(&*source, offset, bytes)?;
            Descriptor::parse(&text)?.check_is_whole()?;
        }
        let capacity = sparse.capacity();
        let vmdk = Vmdk { parts: vec![(0, Part::Sparse(sparse))], capacity };
        return Ok((Box::new(vmdk), vec![source]));
    }
    let text = read_descriptor(&*source, 0, source.bytes())?;
    let descriptor = Descriptor::parse(&text)?;
    descriptor.check_is_whole()?;
    let mut sources = vec![source];
    let mut vmdk = Vmdk { parts: Vec::new(), capacity: 0 };
    for line in &descriptor.extents {
        let part = open_extent(line, &mut sources, extents).map_err(|source| ImageError::Extent {
            name: line.name.clone().unwrap_or_else(|| line.kind.name().to_owned()),
            source: Box::new(source),
        })?;
        vmdk.parts.push((vmdk.capacity, part));
        let bytes = line.sectors.checked_mul(SECTOR_BYTES);
        let end = bytes.and_then(|bytes| vmdk.capacity.checked_add(bytes));
        let too_large =
            || ImageError::field("the size of an extent", line.sectors, "the disk would exceed 2^64 bytes");
        vmdk.capacity = end.ok_or_else(too_large)?;
    }
    Ok((Box::new(vmdk), sources))
}

/// An extent, as a descriptor or its own header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmdkExtent {
    /// Size, bytes.
    pub bytes: u64,
    /// Its file's name; `None` if it is in the image's own file, or in none.
    pub name: Option<String>,
    /// `FLAT`, `SPARSE`, `ZERO`; empty if it is the image's own file.
    pub kind: &'static str,
    /// Size of a grain, bytes, where the extent is in the image's own file.
    pub grain_bytes: Option<u64>,
    /// Whether grains are compressed, where the extent is in the image's own file.
    pub compressed: bool,
}

/// What a VMDK image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmdkInfo {
    /// `createType`.
    pub create_type: String,
    /// `CID`, which changes with the content.
    pub content_id: u32,
    /// `parentCID`; `0xffffffff` if there is no parent.
    pub parent_id: u32,
    /// The parts of the disk, in order.
    pub extents: Vec<VmdkExtent>,
}

/// Reads what an image says. No extent in another file is opened.
pub(super) fn describe(source: &dyn ImageSource) -> Result<VmdkInfo, ImageError> {
    let sparse = Sparse::probe(source, 0)?;
    let text = match sparse.as_ref().map(Sparse::descriptor) {
        Some(None) => Vec::new(),
        Some(Some((offset, bytes))) => read_descriptor(source, offset, bytes)?,
        None => read_descriptor(source, 0, source.bytes())?,
    };
    let descriptor = if text.is_empty() { Descriptor::default() } else { Descriptor::parse(&text)? };
    let number = |text: &Option<String>, missing: u32| {
        text.as_ref().and_then(|text| u32::from_str_radix(text, 16).ok()).unwrap_or(missing)
    };
    let extents = match &sparse {
        Some(sparse) => vec![VmdkExtent {
            bytes: sparse.capacity(),
            name: None,
            kind: "",
            grain_bytes: Some(sparse.grain_bytes()),
            compressed: sparse.is_compressed(),
        }],
        None => descriptor
            .extents
            .iter()
            .map(|line| VmdkExtent {
                bytes: line.sectors.saturating_mul(SECTOR_BYTES),
                name: line.name.clone(),
                kind: line.kind.name(),
                grain_bytes: None,
                compressed: false,
            })
            .collect(),
    };
    Ok(VmdkInfo {
        content_id: number(&descriptor.content_id, 0),
        parent_id: number(&descriptor.parent, u32::MAX),
        create_type: descriptor.create_type,
        extents,
    })
}

fn read_descriptor(source: &dyn ImageSource, offset: u64, bytes: u64) -> Result<Vec<u8>, ImageError> {
    if offset == 0 && !looks_like_a_descriptor(&read_start(source)?) {
        return Err(ImageError::Magic { format: "VMDK", field: "KDMV, or a descriptor's first line," });
    }
    let rule = format!("must be at most {MOST_DESCRIPTOR_BYTES} bytes");
    super::error::require(bytes <= MOST_DESCRIPTOR_BYTES, "the size of the descriptor", bytes, rule)?;
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    read_vec(source, "the descriptor", offset, length)
}

fn read_start(source: &dyn ImageSource) -> Result<Vec<u8>, ImageError> {
    let bytes = usize::try_from(source.bytes().min(SECTOR_BYTES)).unwrap_or(0);
    read_vec(source, "the descriptor", 0, bytes)
}

fn open_extent(
    line: &ExtentLine,
    sources: &mut Vec<SharedSource>,
    extents: &mut ExtentOpener<'_>,
) -> Result<Part, ImageError> {
    super::error::require(line.sectors > 0, "the size of an extent", line.sectors, "must not be 0")?;
    if line.access == Access::None {
        return Err(ImageError::Unsupported("its access is NOACCESS".into()));
    }
    let Some(name) = &line.name else { return Ok(Part::Zero) };
    let source = extents(name).map_err(|source| ImageError::Read { what: "it", source })?;
    let number = sources.len();
    let part = match line.kind {
        ExtentKind::Zero => Part::Zero,
        ExtentKind::Flat => {
            let offset = line.offset.checked_mul(SECTOR_BYTES);
            let inside = offset
                .zip(line.sectors.checked_mul(SECTOR_BYTES))
                .filter(|(offset, bytes)| fits(*offset, *bytes, source.bytes()));
            let Some((offset, _)) = inside else {
                let rule =
                    format!("at sector {} that is beyond the file's {} bytes", line.offset, source.bytes());
                return Err(ImageError::field("the size of an extent", line.sectors, rule));
            };
            Part::Flat { source: number, offset }
        }
        ExtentKind::Sparse => {
            let sparse = Sparse::probe(&*source, number)?
                .ok_or(ImageError::Magic { format: "sparse VMDK", field: "KDMV" })?;
            let held = sparse.capacity() / SECTOR_BYTES;
            let rule = format!("the file holds {held} sectors");
            super::error::require(line.sectors <= held, "the size of an extent", line.sectors, rule)?;
            Part::Sparse(sparse)
        }
    };
    sources.push(source);
    Ok(part)
}

impl BlockMap for Vmdk {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn block_bytes(&self) -> Option<u64> {
        // Where extents differ there is no one answer.
        match self.parts.as_slice() {
            [(_, Part::Sparse(sparse))] => Some(sparse.grain_bytes()),
            _ => None,
        }
    }

    fn says_zero(&self) -> bool {
        false
    }

    fn map(
        &self,
        tables: &Tables,
        offset: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, ImageError> {
        // The first part begins at 0, so there is always one at or before the offset.
        let index = self.parts.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let Some((start, part)) = self.parts.get(index) else {
            return Err(ImageError::field("offset", offset, "is beyond the extents"));
        };
        let end = self.parts.get(index + 1).map_or(self.capacity, |(next, _)| *next);
        let (within, run) = (offset - start, bytes.min(end - offset));
        match part {
            Part::Zero => Ok(Some((Extent::Zero, run))),
            Part::Flat { source, offset } => {
                Ok(Some((Extent::Data { source: *source, offset: offset + within }, run)))
            }
            Part::Sparse(sparse) => sparse.map(tables, within, run, how),
        }
    }
}
