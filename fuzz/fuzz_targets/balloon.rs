//! A memory balloon and a driver that gives, takes and reports any pages and tells any figures, while the host sets targets and the
//! machine is paused and goes on.
//!
//! Held true: the host gets exactly the pages that the driver has named and that are of guest memory, whole and in ranges that do not
//! touch; whatever the driver claims, the balloon is no larger than memory; each request is answered once, nothing is written
//! into it; a change of size is told until somebody looks, and not again.
#![no_main]

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use platform::worker::Worker;
use virtio::balloon::{Balloon, BalloonConfig, BalloonHandle, HostPages, PAGE_BYTES, STATISTICS};
use virtio::device::GuestMemory;
use virtio::testing::{FakeDriver, Piece};
use vm_memory::GuestAddress;

/// Guest memory of the driver that plays the guest.
const MEMORY_BYTES: u64 = 32 << 20;
const PAGES: u64 = MEMORY_BYTES / PAGE_BYTES;
/// Queues (virtio 1.2, 5.5.2).
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS_QUEUE: u16 = 2;
const REPORTING: u16 = 4;
/// Steps of an input: memory for rings is not used twice.
const MOST_STEPS: usize = 200;

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

/// What the host was asked to do with pages, in order.
#[derive(Default)]
struct Host {
    taken: Mutex<Vec<Range<u64>>>,
    full: bool,
}

impl Host {
    fn take(&self, pages: Range<u64>) {
        assert!(pages.start < pages.end && pages.end <= MEMORY_BYTES, "{pages:?}");
        assert!((pages.start | pages.end).is_multiple_of(PAGE_BYTES), "{pages:?}");
        self.taken.lock().push(pages);
    }

    fn answer(&self) -> io::Result<()> {
        if self.full { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    /// The pages since the last call, by number, and in how many ranges.
    fn seen(&self) -> (BTreeSet<u64>, usize) {
        let ranges = std::mem::take(&mut *self.taken.lock());
        let pages = ranges.iter().flat_map(|range| range.start / PAGE_BYTES..range.end / PAGE_BYTES);
        (pages.collect(), ranges.len())
    }
}

impl HostPages for Host {
    fn give_back(&self, pages: Range<u64>) -> io::Result<()> {
        self.take(pages);
        self.answer()
    }

    fn take_again(&self, pages: Range<u64>) {
        self.take(pages);
    }

    fn give_back_free(&self, pages: Range<u64>) -> io::Result<()> {
        self.take(pages);
        self.answer()
    }

    fn take_all_again(&self) {}
}

struct Rig {
    driver: FakeDriver,
    handle: BalloonHandle,
    host: Arc<Host>,
    told: Arc<AtomicU32>,
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    // Joined at the end, when the device is gone.
    let worker = Worker::spawn("fuzz").expect("a thread");
    let host = Arc::new(Host { full: input.arbitrary()?, ..Host::default() });
    let told = Arc::<AtomicU32>::default();
    let count = Arc::clone(&told);
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES as usize)]).expect("guest memory");
    let balloon = Balloon::new(BalloonConfig {
        pages: Arc::clone(&host) as _,
        memory: Arc::new(memory),
        target_bytes: input.arbitrary()?,
        deflate_on_oom: input.arbitrary()?,
        free_page_reporting: true,
        statistics_period: Duration::from_millis(input.int_in_range(0..=2)?),
        changed: Some(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })),
        worker: worker.handle(),
    });
    let handle = balloon.handle();
    let mut rig = Rig { driver: FakeDriver::new(Box::new(balloon)), handle, host, told };
    rig.driver.initialize(u64::MAX);
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        rig.step(input)?;
    }
    rig.driver.reset();
    assert_eq!(rig.handle.actual_bytes(), 0);
    Ok(())
}

impl Rig {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=11u8)? {
            0..=3 => self.pages(input)?,
            4 => self.report(input)?,
            5 | 6 => self.figures(input)?,
            7 => {
                let actual: u32 = input.arbitrary()?;
                let (offset, width) = (input.int_in_range(0..=8u64)?, input.int_in_range(1..=4usize)?);
                self.driver.write_config(offset, &actual.to_le_bytes()[..width]);
                assert!(self.handle.actual_bytes() <= MEMORY_BYTES);
                assert!(self.told.load(Ordering::Relaxed) <= 1, "told twice");
                if input.arbitrary()? {
                    assert_eq!(self.handle.take_change(), self.handle.actual_bytes());
                    self.told.store(0, Ordering::Relaxed);
                }
            }
            8 => {
                self.handle.set_target(input.arbitrary()?);
                let target = self.handle.target_bytes();
                assert!(target <= MEMORY_BYTES && target.is_multiple_of(PAGE_BYTES));
                let mut raw = [0; 4];
                self.driver.read_config(0, &mut raw);
                assert_eq!(u64::from(u32::from_le_bytes(raw)) * PAGE_BYTES, target);
            }
            9 => self.handle.set_statistics_period(Duration::from_millis(input.int_in_range(0..=2)?)),
            10 => {
                self.driver.pause();
                if input.arbitrary()? {
                    self.handle.set_target(input.arbitrary()?);
                }
                self.driver.resume();
                self.handle.tell_target();
            }
            _ => {
                self.driver.initialize(input.arbitrary::<u64>()? | 1 << 5 | 1 << 1);
                assert_eq!(self.handle.actual_bytes(), 0);
            }
        }
        Ok(())
    }

    /// Pages into the balloon or out of it.
    fn pages(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let queue = if input.arbitrary()? { INFLATE } else { DEFLATE };
        let mut numbers = Vec::new();
        for _ in 0..input.int_in_range(1..=40u8)? {
            let first: u32 = if input.ratio(7, 8)? {
                u32::from(input.arbitrary::<u16>()?) % (PAGES as u32 + 16)
            } else {
                input.arbitrary()?
            };
            numbers.extend((0..input.int_in_range(1..=64u32)?).map(|next| first.wrapping_add(next)));
        }
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        // A rest that is no number.
        bytes.extend(std::iter::repeat_n(7, input.int_in_range(0..=3usize)?));
        let length = input.int_in_range(bytes.len().div_ceil(60).max(1)..=bytes.len())?;
        let pieces: Vec<_> = bytes.chunks(length).map(Piece::Out).collect();
        let used = self.driver.request(queue, &pieces);
        assert_eq!(used.written, 0);
        let wanted: BTreeSet<u64> = numbers.iter().map(|n| u64::from(*n)).filter(|n| *n < PAGES).collect();
        let (seen, ranges) = self.host.seen();
        assert_eq!(seen, wanted);
        assert!(ranges <= numbers.len());
        Ok(())
    }

    /// Pages that are free.
    fn report(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let mut rooms = Vec::new();
        for _ in 0..input.int_in_range(1..=8u8)? {
            rooms.push(u32::from(input.arbitrary::<u16>()?) + 1);
        }
        let pieces: Vec<_> = rooms.iter().map(|room| Piece::In(*room)).collect();
        assert_eq!(self.driver.request(REPORTING, &pieces).written, 0);
        let (seen, _) = self.host.seen();
        let room: u64 = rooms.iter().map(|room| u64::from(*room)).sum();
        assert!(seen.len() as u64 <= room / PAGE_BYTES);
        Ok(())
    }

    /// Figures about the guest's memory, which come back when others are wanted.
    fn figures(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let length = input.int_in_range(0..=700usize)?.min(input.len()).max(1);
        let mut bytes = input.bytes(length.min(input.len()))?.to_vec();
        bytes.resize(length, 0);
        let ring = self.driver.ring(STATISTICS_QUEUE);
        while ring.take_used().is_some() {}
        // As many as the queue holds wait there.
        if ring.in_flight() < 100 {
            self.driver.add(STATISTICS_QUEUE, &[Piece::Out(&bytes)]);
            self.driver.kick(STATISTICS_QUEUE);
        }
        self.handle.request_statistics();
        if let Some(statistics) = self.handle.statistics() {
            assert!(statistics.figures().count() <= STATISTICS.len());
        }
        Ok(())
    }
}
