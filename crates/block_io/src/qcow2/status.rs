//! What the layers of a chain have for a range. Unlike [`super::chain`], which serves reads, this tells where zeroes and
//! places that are kept for nothing come from.

use rustix::io::Errno;

use super::chain::Layer;
use super::entry::Layout;
use super::image::{Found, Image, Lookup};
use crate::status::RangeStatus;

/// What an image itself has for a range.
enum Own {
    /// Nothing; perhaps a place that is kept.
    Nothing(Option<u64>),
    Something(RangeStatus),
}

impl Image {
    /// Which layer decides about the bytes from `guest` on, and for how many of `bytes` bytes. Waits.
    pub(super) fn status(&self, guest: u64, mut bytes: u64) -> Result<(RangeStatus, u64), Errno> {
        let mut image = self;
        for layer in 0..=self.backing.len() {
            let left = image.capacity().saturating_sub(guest);
            let (own, run) = image.own_status(layer, guest, bytes.min(left.max(1)))?;
            bytes = run;
            let place = match own {
                Own::Something(status) => return Ok((status, bytes)),
                Own::Nothing(place) => place,
            };
            let absent = RangeStatus { offset: place, ..RangeStatus::absent(layer) };
            let below = self.backing.get(layer);
            let left = below.map_or(0, |below| below.bytes().saturating_sub(guest));
            bytes = if left == 0 { bytes } else { bytes.min(left) };
            match below {
                Some(Layer::Qcow2(below)) if left > 0 => image = below,
                Some(Layer::Raw { file, .. }) if left > 0 => {
                    let (zero, run) = file.access.zero_run(guest, bytes)?;
                    let data = RangeStatus::data(layer + 1, guest);
                    return Ok((RangeStatus { zero, data: !zero, ..data }, run));
                }
                _ => return Ok((absent, bytes)),
            }
        }
        Err(Errno::IO)
    }

    /// How the image itself has a range, whatever is below it. Waits.
    fn own_status(&self, layer: usize, guest: u64, bytes: u64) -> Result<(Own, u64), Errno> {
        let (found, run) = self.lookup(guest, bytes, Lookup::Loading)?.ok_or(Errno::IO)?;
        Ok(match found {
            Found::Data { host, .. } => {
                let (zero, run) = self.data_is_hole(host, run)?;
                (Own::Something(RangeStatus { zero, ..RangeStatus::data(layer, host) }), run)
            }
            Found::Compressed(_) => (Own::Something(RangeStatus::compressed(layer)), run),
            Found::Zero => {
                let (place, run) = self.kept_place(guest, run);
                (Own::Something(RangeStatus::zero(layer, place)), run)
            }
            Found::Unallocated => {
                let (place, run) = self.kept_place(guest, run);
                (Own::Nothing(place), run)
            }
        })
    }

    /// Whether the file has nothing but a hole where data should be: clusters that were only preallocated. As QEMU does, this
    /// is looked for only where the file takes much less storage than its length.
    fn data_is_hole(&self, host: u64, bytes: u64) -> Result<(bool, u64), Errno> {
        if self.layout.external {
            return Ok((false, bytes));
        }
        let stat = rustix::fs::fstat(&*self.file.access.file)?;
        let cluster_bytes = self.layout.cluster_bytes();
        let stored = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) / cluster_bytes;
        let clusters = u64::try_from(stat.st_size).unwrap_or(0).div_ceil(cluster_bytes);
        if clusters < (stored.saturating_mul(10) / 9).max(stored.saturating_add(2)) {
            return Ok((false, bytes));
        }
        self.file.access.zero_run(host, bytes)
    }

    /// The place in the file that clusters without data have all the same, and for how many of `bytes` that goes on.
    fn kept_place(&self, guest: u64, bytes: u64) -> (Option<u64>, u64) {
        let layout: Layout = self.layout;
        let tables = self.tables.read();
        // Only a hint for people: an entry that has just left the cache, or is no place, has none.
        let place = |guest: u64| {
            let cluster = tables.entry(guest)?.host(layout).ok()??;
            Some(cluster + (guest - layout.cluster_start(guest)))
        };
        let first = place(guest);
        if first.is_none() && tables.slice(layout.slice_of(guest)).is_none() {
            return (None, bytes);
        }
        let mut run = layout.cluster_bytes() - (guest - layout.cluster_start(guest));
        while run < bytes && place(guest + run) == first.map(|first| first + run) {
            run += layout.cluster_bytes();
        }
        (first, run.min(bytes))
    }
}
