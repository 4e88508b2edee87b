//! Compressed clusters: reading them, with what comes out bounded to one cluster.

use std::io::Read;
use std::sync::Arc;

use rustix::io::Errno;

use super::entry::Entry;
use super::header::Compression;
use super::image::Image;

/// The cluster that was decompressed last: a cluster is often read in several requests.
#[derive(Debug, Default)]
pub(super) struct Decompressed {
    last: Option<(Entry, Arc<Vec<u8>>)>,
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
}
