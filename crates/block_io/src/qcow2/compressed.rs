//! Compressed clusters: reading them, with what comes out bounded to one cluster, and writing them.
//!
//! Compressed data lies at any byte, one piece behind the other; the pieces of a cluster of the file share its count. So a
//! piece is never changed in place: a cluster that is written again gets new bytes, and the old ones are free once all of
//! the file's cluster is. Source: docs/interop/qcow2.rst of QEMU, section "Compressed Clusters Descriptor".

use std::io::Read;
use std::sync::Arc;

use flate2::{Compress, FlushCompress, Status};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::entry::Entry;
use super::header::Compression;
use super::image::Image;
use super::write::segment_of;

/// The cluster that was decompressed last: a cluster is often read in several requests.
#[derive(Debug, Default)]
pub(super) struct Decompressed {
    last: Option<(Entry, Arc<Vec<u8>>)>,
}

impl Decompressed {
    /// Other data is about to be what an entry names.
    pub(super) fn forget(&mut self, entry: Entry) {
        if self.last.as_ref().is_some_and(|(last, _)| *last == entry) {
            self.last = None;
        }
    }
}

/// Base-2 logarithm of the window that a reader of deflated clusters has.
const DEFLATE_WINDOW_BITS: u8 = 12;
/// As qemu-img compresses.
const DEFLATE_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

enum Compressor {
    Zlib(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    fn new(compression: Compression) -> Result<Self, Errno> {
        Ok(match compression {
            Compression::Zlib => {
                let level = flate2::Compression::new(DEFLATE_LEVEL);
                Self::Zlib(Compress::new_with_window_bits(level, false, DEFLATE_WINDOW_BITS))
            }
            Compression::Zstd => {
                Self::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(|_| Errno::NOMEM)?)
            }
        })
    }

    /// Compresses into the buffer. Returns the length, or `None` if that does not fit.
    fn run(&mut self, data: &[u8], buffer: &mut [u8]) -> Option<usize> {
        match self {
            Self::Zlib(compress) => {
                compress.reset();
                let status = compress.compress(data, buffer, FlushCompress::Finish);
                match status {
                    Ok(Status::StreamEnd) => usize::try_from(compress.total_out()).ok(),
                    _ => None,
                }
            }
            Self::Zstd(compressor) => compressor.compress_to_buffer(data, buffer).ok(),
        }
    }
}

/// Compressors that wait for work: each has memory of its own that is costly to set up. There are as many as threads have
/// compressed at the same time.
#[derive(Default)]
pub(super) struct Compressors(Mutex<Vec<Compressor>>);

impl std::fmt::Debug for Compressors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Compressors").field(&self.0.lock().len()).finish()
    }
}

impl Compressors {
    /// Compresses a cluster; `None` if it does not become smaller.
    fn compress(&self, cluster: &[u8], compression: Compression) -> Result<Option<Vec<u8>>, Errno> {
        let waiting = self.0.lock().pop();
        let mut compressor = match waiting {
            Some(compressor) => compressor,
            None => Compressor::new(compression)?,
        };
        // Room for what does not become smaller: a stream that did not come to its end leaves bytes behind in the compressor
        // that resetting it does not forget (zlib-rs 0.6), until it has no room for them and panics.
        let mut buffer = vec![0; cluster.len() + cluster.len() / 8 + 64];
        let length = compressor.run(cluster, &mut buffer);
        self.0.lock().push(compressor);
        Ok(length.filter(|length| (1..cluster.len()).contains(length)).map(|length| {
            buffer.truncate(length);
            buffer
        }))
    }
}

/// Expands `data` to exactly `bytes` bytes; more is not looked at, less is `EIO`.
fn expand(data: &[u8], bytes: usize, compression: Compression) -> Result<Vec<u8>, Errno> {
    let mut cluster = vec![0; bytes];
    let result = match compression {
        // Deflate without a zlib header (section "Compressed Clusters Descriptor").
        Compression::Zlib => flate2::read::DeflateDecoder::new(data).read_exact(&mut cluster),
        Compression::Zstd => {
            zstd::stream::read::Decoder::new(data).and_then(|mut decoder| {
                // A window larger than the largest cluster is a demand for memory, not for data.
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                decoder.read_exact(&mut cluster)
            })
        }
    };
    result.map(|()| cluster).map_err(|_| Errno::IO)
}

/// 8 MiB: four times the largest cluster, and what the format's reference decoder takes at least.
const WINDOW_LOG_MAX: u32 = 23;

impl Image {
    /// Stores a whole cluster (the last of the disk may be cut by its end) compressed where that makes it smaller. Waits.
    pub(super) fn write_compressed_now(&self, guest: u64, data: &[u8]) -> Result<(), Errno> {
        let cluster_bytes = self.layout.cluster_bytes();
        let end = guest.checked_add(data.len() as u64).ok_or(Errno::INVAL)?;
        let whole =
            data.len() as u64 == cluster_bytes || (end == self.capacity() && end - guest < cluster_bytes);
        if data.is_empty() || !whole || self.layout.cluster_start(guest) != guest {
            return Err(Errno::INVAL);
        }
        self.check_end(end)?;
        if self.layout.external {
            return Err(Errno::OPNOTSUPP);
        }
        let compressed = if data.len() as u64 == cluster_bytes {
            self.compressors.compress(data, self.compression)?
        } else {
            let mut padded = data.to_vec();
            padded.resize(usize::try_from(cluster_bytes).map_err(|_| Errno::FBIG)?, 0);
            self.compressors.compress(&padded, self.compression)?
        };
        let Some(compressed) = compressed else {
            // A segment's memory is nobody's while it takes part in I/O, so it can't be what the caller has lent.
            let mut copy = data.to_vec();
            return self.write_now(guest, &[segment_of(&mut copy)?]);
        };
        self.write_packed(guest, end, &compressed)
    }

    /// Stores compressed data and makes it the cluster's content.
    fn write_packed(&self, guest: u64, end: u64, compressed: &[u8]) -> Result<(), Errno> {
        let range = self.ranges.lock(guest, guest + self.layout.cluster_bytes());
        self.check_end(end)?;
        let bytes = compressed.len() as u64;
        let place = {
            let mut meta = self.meta.lock();
            self.prepare_table(&mut meta, guest)?;
            self.allocate_bytes(&mut meta, bytes)?
        };
        let entry = Entry::packed(self.layout, place, bytes).ok_or(Errno::FBIG);
        let written = entry.and_then(|entry| self.metadata_file.write(compressed, place).map(|()| entry));
        let mut meta = self.meta.lock();
        let result = written.and_then(|entry| {
            self.prepare_table(&mut meta, guest)?;
            self.set_entry(&mut meta, guest, entry)
        });
        if result.is_err() {
            let bits = self.layout.cluster_bits;
            let clusters = ((place + bytes - 1) >> bits) - (place >> bits) + 1;
            self.give_back(&mut meta, place, clusters);
        } else {
            self.bound_dropped(&mut meta)?;
        }
        drop(meta);
        drop(range);
        result
    }

    /// The content of a compressed cluster. Waits.
    pub(super) fn decompress(&self, entry: Entry) -> Result<Arc<Vec<u8>>, Errno> {
        if let Some((last, cluster)) = &self.decompressed.lock().last
            && *last == entry
        {
            return Ok(Arc::clone(cluster));
        }
        let range = entry.compressed(self.layout);
        let bytes = usize::try_from(range.bytes).map_err(|_| Errno::FBIG)?;
        let data = self.metadata_file.read(range.offset, bytes)?;
        let bytes = usize::try_from(self.layout.cluster_bytes()).map_err(|_| Errno::FBIG)?;
        let cluster = expand(&data, bytes, self.compression)
            .map_err(|_| self.corrupted("a compressed cluster cannot be expanded", range.offset))?;
        let cluster = Arc::new(cluster);
        self.decompressed.lock().last = Some((entry, Arc::clone(&cluster)));
        Ok(cluster)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn both_kinds_are_expanded_to_one_cluster_and_no_more() {
        let content = vec![7; 100_000];
        let mut zlib = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&content).unwrap();
        let zlib = zlib.finish().unwrap();
        let zstd = zstd::encode_all(&*content, 1).unwrap();
        for (data, compression) in [(zlib, Compression::Zlib), (zstd, Compression::Zstd)] {
            assert_eq!(expand(&data, 65536, compression), Ok(vec![7; 65536]), "{compression:?}");
            assert_eq!(expand(&data, 100_001, compression), Err(Errno::IO), "too short, {compression:?}");
            assert_eq!(
                expand(&data[..data.len() / 2], 65536, compression),
                Err(Errno::IO),
                "cut, {compression:?}"
            );
        }
        assert_eq!(expand(&[0xff; 512], 65536, Compression::Zlib), Err(Errno::IO));
        assert_eq!(expand(&[0xff; 512], 65536, Compression::Zstd), Err(Errno::IO));
    }

    #[test]
    fn clusters_that_do_not_become_smaller_leave_nothing_behind() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        for compression in [Compression::Zlib, Compression::Zstd] {
            let compressors = Compressors::default();
            for _ in 0..100 {
                let cluster: Vec<u8> = (0..4096).map(|_| random()).collect();
                assert_eq!(compressors.compress(&cluster, compression), Ok(None));
            }
            let packed = compressors.compress(&[7; 4096], compression).unwrap().unwrap();
            assert_eq!(expand(&packed, 4096, compression), Ok(vec![7; 4096]));
        }
    }

    #[test]
    fn deflated_data_needs_no_larger_window_than_readers_have() {
        // Random bytes that come again after a little more than the window: a larger one would find them.
        let mut random = 1u64;
        let block: Vec<u8> = (0..4500)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                random.to_be_bytes()[0]
            })
            .collect();
        let mut content: Vec<u8> = block.iter().copied().cycle().take(65536).collect();
        content[50000..].fill(0);
        let packed = Compressors::default().compress(&content, Compression::Zlib).unwrap().unwrap();
        assert!(packed.len() > 49_000, "{} bytes: the repetition was found", packed.len());
        assert_eq!(expand(&packed, 65536, Compression::Zlib), Ok(content));
    }
}
