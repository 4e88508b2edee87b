//! An open image: reading ranges of its disk while waiting, whatever the format.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{ImageError, require};
use super::map::{BlockMap, Extent, Grain};
use super::source::{Numbers, SharedSource, fits, read_array, read_vec};
use super::tables::{Lookup, Tables};
use super::{Format, vdi, vhd, vhdx, vmdk};
use crate::file::zero_run;
use crate::status::RangeStatus;

/// Expanded grains that an image keeps: a grain is often read in several requests, by several queues.
const GRAINS_HELD: usize = 8;
/// A grain's marker before its data: the sector (u64), the data's size (u32).
const MARKER_BYTES: usize = 12;
/// What a grain that does not compress may be longer than what it holds, bytes: more is a demand for memory.
const MOST_EXPANSION: u64 = 4096;

type Grains = VecDeque<((usize, u64), Arc<Vec<u8>>)>;

/// Opens the file that a descriptor names. What is a name that may be opened, the opener decides.
pub type ExtentOpener<'a> = dyn FnMut(&str) -> std::io::Result<SharedSource> + 'a;

/// A disk image, open for reading.
#[derive(Debug)]
pub struct Image {
    map: Box<dyn BlockMap>,
    tables: Tables,
    /// Grains that were expanded last; never held while one is expanded.
    grains: Mutex<Grains>,
}

impl Image {
    /// Opens an image of a format that holds one disk; `extents` opens the other files that a vmdk descriptor names.
    pub fn open(
        format: Format,
        source: SharedSource,
        extents: &mut ExtentOpener<'_>,
    ) -> Result<Self, ImageError> {
        let (map, sources): (Box<dyn BlockMap>, _) = match format {
            Format::Vmdk => vmdk::open(source, extents)?,
            Format::Vhdx => vhdx::open(source)?,
            Format::Vhd => (Box::new(vhd::open(&*source)?), vec![source]),
            Format::Vdi => (Box::new(vdi::open(&*source)?), vec![source]),
            Format::Qcow2 => {
                return Err(ImageError::Unsupported("qcow2 images are opened as qcow2 disks".into()));
            }
            Format::Ova => {
                return Err(ImageError::Unsupported(
                    "an archive is not a disk: open one of its disks".into(),
                ));
            }
        };
        let sector = u64::from(map.sector_bytes());
        let capacity = map.capacity();
        require(
            capacity > 0 && capacity.is_multiple_of(sector) && i64::try_from(capacity).is_ok(),
            "the disk's size",
            capacity,
            format!("must be a positive multiple of {sector} bytes, at most 2^63"),
        )?;
        Ok(Self { map, tables: Tables::new(sources), grains: Mutex::default() })
    }

    /// Size of the disk, bytes: a multiple of [`Image::sector_bytes`].
    pub fn capacity(&self) -> u64 {
        self.map.capacity()
    }

    /// Size of the disk's sectors, bytes.
    pub fn sector_bytes(&self) -> u32 {
        self.map.sector_bytes()
    }

    /// Size of the pieces in which the disk is allocated, bytes, if it is in pieces of one size.
    pub fn block_bytes(&self) -> Option<u64> {
        self.map.block_bytes()
    }

    /// How the disk is stored from `offset` on, and for how many of `bytes` bytes. The range lies within the capacity. Waits.
    pub(crate) fn status(&self, offset: u64, bytes: u64) -> Result<(RangeStatus, u64), ImageError> {
        let found = self.resolve(offset, bytes, Lookup::Loading)?;
        let (extent, run) = found.ok_or_else(|| ImageError::field("offset", offset, "is not mapped"))?;
        let status = match extent {
            Extent::Zero if self.map.says_zero() => RangeStatus::zero(0, None),
            Extent::Zero => RangeStatus::absent(0),
            Extent::Compressed { .. } => RangeStatus::compressed(0),
            Extent::Data { source, offset } => return self.data_status(source, offset, run),
        };
        Ok((status, run))
    }

    /// How bytes of a source are stored. An image without a map of its own may have holes.
    fn data_status(&self, number: usize, offset: u64, bytes: u64) -> Result<(RangeStatus, u64), ImageError> {
        let host = self.sources().get(number).and_then(|source| source.host());
        let (file, start) = host.ok_or_else(|| ImageError::field("offset", offset, "is not in a file"))?;
        let status = RangeStatus { file: number, ..RangeStatus::data(0, start + offset) };
        if self.block_bytes().is_some() {
            return Ok((status, bytes));
        }
        let (zero, run) = zero_run(&file, start + offset, bytes)
            .map_err(|errno| ImageError::Read { what: "what is allocated", source: errno.into() })?;
        Ok((RangeStatus { zero, ..status }, run))
    }

    /// What the host file is called that holds a source.
    pub(crate) fn path(&self, source: usize) -> Option<&std::path::Path> {
        self.sources().get(source)?.path()
    }

    pub(super) fn sources(&self) -> &[SharedSource] {
        self.tables.sources()
    }

    /// What the disk is from `offset` on, and for how many of `bytes` bytes (at least one); data lies within its source.
    pub(super) fn resolve(
        &self,
        offset: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, ImageError> {
        let Some((extent, run)) = self.map.map(&self.tables, offset, bytes, how)? else { return Ok(None) };
        let run = run.min(bytes);
        if run == 0 {
            return Err(ImageError::field("offset", offset, "is not mapped"));
        }
        if let Extent::Data { source, offset } = extent {
            let bytes = self.sources().get(source).map_or(0, |source| source.bytes());
            if !fits(offset, run, bytes) {
                return Err(ImageError::Cut { what: "a data block", offset, bytes });
            }
        }
        Ok(Some((extent, run)))
    }

    /// Whether the image stores the disk's bytes from `offset` on, and for how many of `bytes` bytes that holds; what it
    /// does not store reads as zeroes. For copies that stay sparse. The range must lie within the capacity. Waits.
    pub fn stored(&self, offset: u64, bytes: u64) -> Result<(bool, u64), ImageError> {
        if bytes == 0 || !fits(offset, bytes, self.capacity()) {
            return Err(ImageError::Cut { what: "a range", offset, bytes: self.capacity() });
        }
        match self.resolve(offset, bytes, Lookup::Loading)? {
            Some((extent, run)) => Ok((extent != Extent::Zero, run)),
            None => Err(ImageError::field("offset", offset, "is not mapped")),
        }
    }

    /// Fills `buffer` from `offset` on; the range must lie within the capacity. Waits.
    pub fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<(), ImageError> {
        if !fits(offset, buffer.len() as u64, self.capacity()) {
            return Err(ImageError::Cut { what: "a read", offset, bytes: self.capacity() });
        }
        while !buffer.is_empty() {
            let Some((extent, run)) = self.resolve(offset, buffer.len() as u64, Lookup::Loading)? else {
                return Err(ImageError::field("offset", offset, "is not mapped"));
            };
            let length = usize::try_from(run).unwrap_or(buffer.len()).min(buffer.len());
            let (part, rest) = buffer.split_at_mut(length);
            self.read_extent(extent, part)?;
            buffer = rest;
            offset += length as u64;
        }
        Ok(())
    }

    fn read_extent(&self, extent: Extent, buffer: &mut [u8]) -> Result<(), ImageError> {
        match extent {
            Extent::Zero => buffer.fill(0),
            Extent::Data { source, offset } => {
                let source = self.source(source)?;
                source
                    .read_at(buffer, offset)
                    .map_err(|source| ImageError::Read { what: "a data block", source })?;
            }
            Extent::Compressed { grain, within } => {
                let content = self.expand(grain)?;
                let part = usize::try_from(within)
                    .ok()
                    .and_then(|start| content.get(start..start.checked_add(buffer.len())?));
                let Some(part) = part else {
                    return Err(ImageError::Cut {
                        what: "a compressed grain",
                        offset: within,
                        bytes: grain.bytes,
                    });
                };
                buffer.copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn source(&self, number: usize) -> Result<&SharedSource, ImageError> {
        let missing = || ImageError::Cut { what: "a data block", offset: 0, bytes: 0 };
        self.sources().get(number).ok_or_else(missing)
    }

    /// The content of a compressed grain (Virtual Disk Format 5.0, "Compressed Grains"): at least what is needed of it.
    fn expand(&self, grain: Grain) -> Result<Arc<Vec<u8>>, ImageError> {
        let key = (grain.source, grain.marker);
        if let Some((_, content)) = self.grains.lock().iter().find(|(held, _)| *held == key) {
            return Ok(Arc::clone(content));
        }
        let source = self.source(grain.source)?;
        let marker = read_array::<MARKER_BYTES>(&**source, "a grain's marker", grain.marker)?;
        let (sector, bytes) = (marker.le64(0), marker.le32(8));
        require(
            sector == grain.sector,
            "the sector of a grain's marker",
            sector,
            format!("is not {}", grain.sector),
        )?;
        let most = grain.bytes + MOST_EXPANSION;
        require(
            bytes > 0 && u64::from(bytes) <= most,
            "the size of a compressed grain",
            bytes,
            format!("must be between 1 and {most} bytes"),
        )?;
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let data = read_vec(&**source, "a compressed grain", grain.marker + MARKER_BYTES as u64, length)?;
        let content = Arc::new(inflate(&data, grain)?);
        let mut grains = self.grains.lock();
        grains.push_back((key, Arc::clone(&content)));
        if grains.len() > GRAINS_HELD {
            grains.pop_front();
        }
        Ok(content)
    }
}

/// Expands a zlib stream (RFC 1950) to at most a grain; what would come after that is not produced.
fn inflate(data: &[u8], grain: Grain) -> Result<Vec<u8>, ImageError> {
    let mut content = vec![0; usize::try_from(grain.bytes).unwrap_or(0)];
    let mut decoder = flate2::read::ZlibDecoder::new(data);
    let mut done = 0;
    while done < content.len() {
        match decoder.read(&mut content[done..]) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(source) => return Err(ImageError::Read { what: "a compressed grain", source }),
        }
    }
    require(
        done as u64 >= grain.needed,
        "the size of an expanded grain",
        done as u64,
        format!("must be {} bytes", grain.bytes),
    )?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn deflate(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_grain_expands_to_its_size_and_no_further() {
        let grain = Grain { source: 0, marker: 0, sector: 0, bytes: 65536, needed: 65536 };
        assert_eq!(inflate(&deflate(&[7; 65536]), grain).unwrap(), [7; 65536]);
        let bomb = deflate(&vec![7; 64 << 20]);
        assert!(bomb.len() < 70 << 10);
        let content = inflate(&bomb, grain).unwrap();
        assert_eq!((content.len(), content.capacity()), (65536, 65536), "a bomb stops at one grain");
        assert!(inflate(&deflate(&[7; 65535]), grain).is_err(), "too short");
        let last = Grain { needed: 512, ..grain };
        assert_eq!(inflate(&deflate(&[7; 512]), last).unwrap()[..513], [[7; 512].as_slice(), &[0]].concat());
        assert!(inflate(&deflate(&[7; 65536])[..40], grain).is_err(), "cut");
        assert!(inflate(&[0xff; 100], grain).is_err(), "not a zlib stream");
    }
}
