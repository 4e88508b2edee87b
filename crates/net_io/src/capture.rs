//! Writes what passes through a backend to a capture file (pcap, nanosecond variant: draft-ietf-opsawg-pcap).
//!
//! A capture never gets into the network's way: when the file is as long as allowed or can't be written, it ends with one
//! warning and frames go on. Frames sent are copied after they have been handed over, so a guest that changes one
//! meanwhile is captured as it changed it. Lock: the file's, held for one write.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use vm_memory::VolatileSlice;

use crate::backend::{NetBackend, NetError, Offloads, VNET_HEADER_BYTES};
use crate::vectors::{gather, total_bytes};

/// Marks a file with nanosecond timestamps in the writer's byte order (ours: little-endian).
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// LINKTYPE_ETHERNET.
const LINK_TYPE_ETHERNET: u32 = 1;
/// Most bytes of a frame that are kept: more than the largest frame with offloads (64 KiB and headers).
const SNAP_BYTES: u32 = 262_144;

struct Output {
    /// `None` once the capture has ended.
    file: Option<File>,
    left_bytes: u64,
}

/// A capture file, for any number of backends (the queues of one device).
#[derive(Clone)]
pub struct CaptureFile {
    output: Arc<Mutex<Output>>,
}

impl std::fmt::Debug for CaptureFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureFile").finish_non_exhaustive()
    }
}

impl CaptureFile {
    /// Makes (or empties) the file at `path`, which will grow to `limit_bytes` at most.
    pub fn create(path: &Path, limit_bytes: u64) -> io::Result<Self> {
        Self::start(File::create(path)?, limit_bytes)
    }

    /// Captures to an open, empty file.
    pub fn start(mut file: File, limit_bytes: u64) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC_NANOSECONDS.to_le_bytes());
        header.extend(2u16.to_le_bytes());
        header.extend(4u16.to_le_bytes());
        header.extend([0; 8]);
        header.extend(SNAP_BYTES.to_le_bytes());
        header.extend(LINK_TYPE_ETHERNET.to_le_bytes());
        file.write_all(&header)?;
        let left_bytes = limit_bytes.saturating_sub(header.len() as u64);
        Ok(Self { output: Arc::new(Mutex::new(Output { file: Some(file), left_bytes })) })
    }

    /// Keeps the frame that the first `bytes` bytes of `buffers` hold behind their header.
    fn keep(&self, buffers: &[VolatileSlice<'_>], bytes: usize) {
        let frame = gather(buffers, bytes, VNET_HEADER_BYTES, SNAP_BYTES as usize);
        let length = bytes.saturating_sub(VNET_HEADER_BYTES);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut record = Vec::with_capacity(16 + frame.len());
        // The format's seconds end in 2106; the lengths are bounded by SNAP_BYTES and by a frame's 64 KiB.
        record.extend(u32::try_from(now.as_secs()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend(now.subsec_nanos().to_le_bytes());
        record.extend(u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        record.extend(frame);

        let mut output = self.output.lock();
        let Output { file, left_bytes } = &mut *output;
        let Some(open) = file else { return };
        let Some(left) = left_bytes.checked_sub(record.len() as u64) else {
            tracing::warn!("the network capture ends: its file is as long as allowed");
            *file = None;
            return;
        };
        *left_bytes = left;
        if let Err(error) = open.write_all(&record) {
            tracing::warn!(%error, "the network capture ends: its file cannot be written");
            *file = None;
        }
    }
}

/// A backend whose frames are captured, both ways.
#[derive(Debug)]
pub struct Capture<B> {
    inner: B,
    file: CaptureFile,
}

impl<B: NetBackend> Capture<B> {
    /// Captures what passes through `inner`.
    pub fn new(inner: B, file: CaptureFile) -> Self {
        Self { inner, file }
    }
}

impl<B: NetBackend> NetBackend for Capture<B> {
    fn offloads(&self) -> Offloads {
        self.inner.offloads()
    }

    fn set_guest_offloads(&mut self, offloads: Offloads) -> Result<(), NetError> {
        self.inner.set_guest_offloads(offloads)
    }

    fn receive(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>> {
        let received = self.inner.receive(buffers)?;
        if let Some(bytes) = received {
            self.file.keep(buffers, bytes);
        }
        Ok(received)
    }

    fn send(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.inner.send(buffers)?;
        self.file.keep(buffers, total_bytes(buffers));
        Ok(())
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.inner.ready_fd()
    }

    fn set_enabled(&mut self, enabled: bool) -> Result<(), NetError> {
        self.inner.set_enabled(enabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Frame, Subject};
    use crate::loopback::Loopback;

    fn number(bytes: &[u8]) -> u32 {
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    crate::net_conformance!(captured_loopback, {
        let (one, other) = Loopback::pair().unwrap();
        let file = CaptureFile::start(tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        Subject::new(Box::new(Capture::new(one, file)), Box::new(other))
    });

    #[test]
    fn frames_of_both_directions_are_kept_whole_and_without_their_headers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net.pcap");
        let (one, mut other) = Loopback::pair().unwrap();
        let mut one = Capture::new(one, CaptureFile::create(&path, 1 << 20).unwrap());
        let (mut first, mut second) = (Frame::numbered(1, 60), Frame::numbered(2, 1500));
        one.send(&first.slices(&[12, 60])).unwrap();
        other.send(&second.slices(&[2000])).unwrap();
        let mut received = Frame::empty(2000);
        one.receive(&received.slices(&[7, 1, 2000])).unwrap();
        let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

        let content = std::fs::read(&path).unwrap();
        assert_eq!(number(&content[..4]), 0xa1b2_3c4d);
        assert_eq!(content[4..8], [2, 0, 4, 0]);
        assert_eq!(number(&content[20..24]), 1);
        let mut rest = &content[24..];
        for expected in [&first.bytes[12..], &second.bytes[12..]] {
            assert!(begin - u64::from(number(&rest[..4])) < 3600);
            assert!(number(&rest[4..8]) < 1_000_000_000);
            assert_eq!(number(&rest[8..12]) as usize, expected.len());
            assert_eq!(number(&rest[12..16]) as usize, expected.len());
            assert_eq!(&rest[16..16 + expected.len()], expected);
            rest = &rest[16 + expected.len()..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_capture_ends_at_its_limit_and_the_network_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net.pcap");
        let (one, mut other) = Loopback::pair().unwrap();
        let mut one = Capture::new(one, CaptureFile::create(&path, 24 + 2 * (16 + 100)).unwrap());
        let mut frame = Frame::numbered(1, 100);
        let mut received = Frame::empty(200);
        for _ in 0..5 {
            one.send(&frame.slices(&[112])).unwrap();
            assert_eq!(other.receive(&received.slices(&[200])).unwrap(), Some(112));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 24 + 2 * (16 + 100));
    }

    #[test]
    fn a_full_file_system_does_not_stop_the_network() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert!(CaptureFile::start(full, 1 << 20).is_err());
        let (one, mut other) = Loopback::pair().unwrap();
        let file = CaptureFile::start(tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        file.output.lock().file = Some(File::options().write(true).open("/dev/full").unwrap());
        let mut one = Capture::new(one, file);
        let mut frame = Frame::numbered(1, 100);
        one.send(&frame.slices(&[112])).unwrap();
        one.send(&frame.slices(&[112])).unwrap();
        let mut received = Frame::empty(200);
        assert_eq!(other.receive(&received.slices(&[200])).unwrap(), Some(112));
        assert!(one.file.output.lock().file.is_none());
    }
}
