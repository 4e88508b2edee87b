//! Reading through the backing chain: what a range of the disk is made of, and reading it while waiting.

use rustix::io::Errno;

use super::entry::Entry;
use super::image::{Found, Image, Lookup};
use crate::engine::Target;
use crate::file::{Access, HostFile};
use crate::segment::{Cursor, Segment, total_bytes};

/// What lies below an image. Always read-only.
#[derive(Debug)]
pub(super) enum Layer {
    Raw { file: HostFile, bytes: u64 },
    Qcow2(Box<Image>),
}

impl Layer {
    /// The file that its data is in.
    pub(super) fn file(&self) -> &HostFile {
        match self {
            Self::Raw { file, .. } => file,
            Self::Qcow2(image) => image.data(),
        }
    }

    /// Size of the disk that it holds, bytes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Raw { bytes, .. } => *bytes,
            Self::Qcow2(image) => image.capacity(),
        }
    }
}

/// What a range of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Zero,
    /// Bytes of a layer's file; layer 0 is the image itself.
    Data {
        layer: usize,
        offset: u64,
        writable: bool,
    },
    /// Bytes from `within` on of a compressed cluster of a layer.
    Compressed {
        layer: usize,
        entry: Entry,
        within: u64,
    },
}

impl Image {
    /// The files of the chain in the order of its layers.
    pub(super) fn targets(&self) -> Vec<Target> {
        std::iter::once(self.data().target())
            .chain(self.backing.iter().map(|layer| layer.file().target()))
            .collect()
    }

    pub(super) fn access(&self, layer: usize) -> &Access {
        match layer.checked_sub(1).and_then(|below| self.backing.get(below)) {
            Some(layer) => &layer.file().access,
            None => &self.data().access,
        }
    }

    /// What the disk is from `guest` on, and for how many of `bytes` bytes. `None` if that is not in memory and must not be
    /// loaded.
    pub(super) fn resolve(
        &self,
        guest: u64,
        mut bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, Errno> {
        let mut image = self;
        for layer in 0.. {
            let left = image.capacity().saturating_sub(guest);
            if left == 0 {
                return Ok(Some((Extent::Zero, bytes)));
            }
            let Some((found, run)) = image.lookup(guest, bytes.min(left), how)? else { return Ok(None) };
            bytes = run;
            match found {
                Found::Zero => return Ok(Some((Extent::Zero, bytes))),
                Found::Data { host, writable } => {
                    // What a lower image calls its own is never written.
                    let writable = writable && layer == 0;
                    return Ok(Some((Extent::Data { layer, offset: host, writable }, bytes)));
                }
                Found::Compressed(entry) => {
                    let within = guest & (image.layout.cluster_bytes() - 1);
                    return Ok(Some((Extent::Compressed { layer, entry, within }, bytes)));
                }
                Found::Unallocated => {}
            }
            match self.backing.get(layer) {
                None => return Ok(Some((Extent::Zero, bytes))),
                Some(Layer::Qcow2(below)) => image = below,
                Some(Layer::Raw { bytes: size, .. }) => {
                    let left = size.saturating_sub(guest);
                    if left == 0 {
                        return Ok(Some((Extent::Zero, bytes)));
                    }
                    let extent = Extent::Data { layer: layer + 1, offset: guest, writable: false };
                    return Ok(Some((extent, bytes.min(left))));
                }
            }
        }
        Err(Errno::IO)
    }

    /// Fills the segments from `guest` on. Waits.
    pub(super) fn read_now(&self, mut guest: u64, segments: &[Segment]) -> Result<(), Errno> {
        let mut left = total_bytes(segments).ok_or(Errno::INVAL)?;
        let mut cursor = Cursor::new(segments);
        while left > 0 {
            let Some((extent, run)) = self.resolve(guest, left, Lookup::Loading)? else {
                return Err(Errno::IO);
            };
            match extent {
                Extent::Zero => cursor.fill_zeroes(run),
                Extent::Data { layer, offset, .. } => {
                    let bytes = usize::try_from(run).map_err(|_| Errno::INVAL)?;
                    self.access(layer).read(offset, &cursor.take(bytes))?;
                }
                Extent::Compressed { layer, entry, within } => {
                    let image = match layer.checked_sub(1).and_then(|below| self.backing.get(below)) {
                        Some(Layer::Qcow2(image)) => image,
                        _ => self,
                    };
                    let cluster = image.decompress(entry)?;
                    let start = usize::try_from(within).map_err(|_| Errno::IO)?;
                    let end = usize::try_from(within + run).map_err(|_| Errno::IO)?;
                    cursor.scatter(cluster.get(start..end).ok_or(Errno::IO)?);
                }
            }
            guest += run;
            left -= run;
        }
        Ok(())
    }

    /// Whether all of a range is known to read as zeroes. Waits.
    pub(super) fn reads_as_zeroes(&self, mut guest: u64, mut bytes: u64) -> Result<bool, Errno> {
        while bytes > 0 {
            match self.resolve(guest, bytes, Lookup::Loading)? {
                Some((Extent::Zero, run)) => {
                    guest += run;
                    bytes -= run;
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
