use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use platform::worker::Worker;
use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::*;
use crate::device::GuestMemory;
use crate::queue::MAX_INDIRECT_DESCRIPTORS;
use crate::testing::{Descriptor, FakeDriver, PATIENCE, Piece, flags};
use crate::transport::status;

const ALL: u64 = u64::MAX;
/// Pages of the driver's memory.
const PAGES: u32 = 32 << 8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    Back(Range<u64>),
    Again(Range<u64>),
    Free(Range<u64>),
    AllAgain,
}

/// A host that keeps a record, and takes nothing while it is full.
#[derive(Default)]
struct FakeHost {
    done: Mutex<Vec<Done>>,
    full: Mutex<bool>,
}

impl FakeHost {
    fn record(&self, done: Done) -> io::Result<()> {
        self.done.lock().push(done);
        if *self.full.lock() { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    fn take(&self) -> Vec<Done> {
        std::mem::take(&mut *self.done.lock())
    }
}

impl HostPages for FakeHost {
    fn give_back(&self, pages: Range<u64>) -> io::Result<()> {
        self.record(Done::Back(pages))
    }
    fn take_again(&self, pages: Range<u64>) {
        self.record(Done::Again(pages)).unwrap_or_default();
    }
    fn give_back_free(&self, pages: Range<u64>) -> io::Result<()> {
        self.record(Done::Free(pages))
    }
    fn take_all_again(&self) {
        self.record(Done::AllAgain).unwrap_or_default();
    }
}

struct Rig {
    driver: FakeDriver,
    handle: BalloonHandle,
    host: Arc<FakeHost>,
    /// How often another size was told.
    changes: Arc<AtomicUsize>,
    _worker: Worker,
}

fn rig_with(features: u64, period: Duration) -> Rig {
    let worker = Worker::spawn("balloon").unwrap();
    let host = Arc::<FakeHost>::default();
    let bytes = u64::from(PAGES) * PAGE_BYTES;
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), usize::try_from(bytes).unwrap())]);
    let changes = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&changes);
    let balloon = Balloon::new(BalloonConfig {
        pages: Arc::clone(&host) as _,
        memory: Arc::new(memory.unwrap()),
        target_bytes: 3 * PAGE_BYTES + 1,
        deflate_on_oom: true,
        free_page_reporting: true,
        statistics_period: period,
        changed: Some(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        })),
        worker: worker.handle(),
    });
    let handle = balloon.handle();
    let mut driver = FakeDriver::new(Box::new(balloon));
    driver.initialize(features);
    host.take();
    Rig { driver, handle, host, changes, _worker: worker }
}

fn rig() -> Rig {
    rig_with(ALL, Duration::ZERO)
}

fn page_numbers(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

fn pages(range: Range<u64>) -> Range<u64> {
    range.start * PAGE_BYTES..range.end * PAGE_BYTES
}

impl Rig {
    fn send(&mut self, queue: u16, pages: &[u32]) -> Vec<Done> {
        let used = self.driver.request(queue, &[Piece::Out(&page_numbers(pages))]);
        assert_eq!(used.written, 0);
        self.host.take()
    }

    fn config(&mut self) -> (u32, u32) {
        let mut raw = [0; 8];
        self.driver.read_config(0, &mut raw);
        let [target, actual] =
            [&raw[..4], &raw[4..]].map(|half| u32::from_le_bytes(half.try_into().unwrap()));
        (target, actual)
    }

    /// Waits until the device has taken figures with this value of total memory.
    fn wait_total(&self, total: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.handle.statistics().is_none_or(|s| !s.figures().any(|f| f == ("total_memory", total))) {
            assert!(Instant::now() < deadline, "the figures are not taken: {:?}", self.handle.statistics());
            std::thread::yield_now();
        }
    }
}

fn figure(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn pages_go_to_the_host_and_come_back_as_few_ranges() {
    let mut rig = rig();
    assert_eq!(rig.send(INFLATE, &[7, 6, 5, 9]), [Done::Back(pages(5..8)), Done::Back(pages(9..10))]);
    assert_eq!(rig.send(DEFLATE, &[6]), [Done::Again(pages(6..7))]);
    let counters = rig.handle.counters();
    assert_eq!((counters.inflated_pages.get(), counters.deflated_pages.get()), (4, 1));
    assert_eq!(counters.errors.get(), 0);
}

#[test]
fn the_driver_is_told_the_target_and_tells_how_far_it_came() {
    let mut rig = rig();
    assert_eq!((rig.config(), rig.handle.target_bytes()), ((3, 0), 3 * PAGE_BYTES));
    let before = rig.driver.msi.sent(0);
    rig.handle.set_target(10 * PAGE_BYTES);
    rig.driver.msi.wait_more(0, before);
    assert_eq!(rig.config(), (10, 0));
    rig.driver.write_config(4, &9u32.to_le_bytes());
    assert_eq!((rig.config(), rig.handle.actual_bytes()), ((10, 9), 9 * PAGE_BYTES));
    rig.driver.write_config(0, &[0xff; 4]);
    assert_eq!(rig.config(), (10, 9), "the target is the host's");
    rig.driver.write_config(4, &[0xff; 4]);
    let all = u64::from(PAGES) * PAGE_BYTES;
    assert_eq!(rig.handle.actual_bytes(), all, "no balloon is larger than memory");
    rig.handle.set_target(u64::MAX);
    assert_eq!(rig.handle.target_bytes(), all);
}

#[test]
fn a_target_that_is_set_during_a_pause_is_told_after_it() {
    let mut rig = rig();
    rig.driver.pause();
    let before = rig.driver.msi.sent(0);
    rig.handle.set_target(7 * PAGE_BYTES);
    assert_eq!(rig.driver.msi.sent(0), before, "nobody listens");
    rig.driver.resume();
    rig.handle.tell_target();
    rig.driver.msi.wait_more(0, before);
    assert_eq!(rig.config(), (7, 0));
    let told = rig.driver.msi.sent(0);
    rig.handle.tell_target();
    assert_eq!(rig.driver.msi.sent(0), told, "once");
}

#[test]
fn another_size_is_told_once_until_somebody_looks() {
    let mut rig = rig();
    let told = |rig: &Rig| rig.changes.load(Ordering::Relaxed);
    rig.driver.write_config(4, &0u32.to_le_bytes());
    assert_eq!(told(&rig), 0, "the same size");
    for pages in 1..100u32 {
        rig.driver.write_config(4, &pages.to_le_bytes());
    }
    assert_eq!((told(&rig), rig.handle.take_change()), (1, 99 * PAGE_BYTES));
    rig.driver.write_config(4, &99u32.to_le_bytes());
    assert_eq!(told(&rig), 1);
    rig.driver.reset();
    assert_eq!((told(&rig), rig.handle.take_change()), (2, 0), "a reset empties it");
}

#[test]
fn page_numbers_outside_of_memory_are_ignored_and_counted() {
    let mut rig = rig();
    let done = rig.send(INFLATE, &[u32::MAX, PAGES, 1, PAGES - 1, 1, 0x000f_fff0]);
    let last = u64::from(PAGES) - 1;
    assert_eq!(done, [Done::Back(pages(1..2)), Done::Back(pages(last..last + 1))]);
    assert_eq!(rig.handle.counters().refused_pages.get(), 3);
    assert_eq!(rig.send(DEFLATE, &[PAGES]), []);
    assert_eq!(rig.driver.status() & status::NEEDS_RESET, 0);
}

#[test]
fn a_long_request_is_worked_on_in_pieces_to_its_end() {
    let mut rig = rig();
    let numbers: Vec<u32> = (0..PAGES).map(|page| page / 2 * 2).collect();
    let mut bytes = page_numbers(&numbers);
    bytes.extend([1, 2, 3]);
    // Buffers of an odd length, so that numbers lie across them.
    let pieces: Vec<_> = bytes.chunks(1023).map(Piece::Out).collect();
    rig.driver.request(INFLATE, &pieces);
    let expected: Vec<_> =
        (0..u64::from(PAGES)).step_by(2).map(|page| Done::Back(pages(page..page + 1))).collect();
    assert_eq!(rig.host.take(), expected);
    assert!(bytes.len() > BATCH * PIECE_PAGES * 4, "more than one turn");
}

#[test]
fn a_request_without_a_page_number_breaks_the_queue_until_reset() {
    for queue in [INFLATE, DEFLATE] {
        for piece in [Piece::In(64), Piece::Out(&[1, 2, 3])] {
            let mut rig = rig();
            rig.driver.add(queue, &[piece]);
            rig.driver.kick(queue);
            rig.driver.wait_needs_reset();
            rig.driver.initialize(ALL);
            rig.host.take();
            assert_eq!(rig.send(INFLATE, &[1]), [Done::Back(pages(1..2))]);
        }
    }
}

#[test]
fn a_request_of_gigabytes_neither_holds_up_a_pause_nor_a_reset() {
    let mut rig = rig();
    // As many numbers as a chain can have: the same buffer over and over.
    let table = rig.driver.allocate(16 * u32::from(u16::MAX), 16);
    let entries = MAX_INDIRECT_DESCRIPTORS.min(1000);
    let ring = rig.driver.ring(INFLATE);
    for entry in 0..entries {
        let next = if entry + 1 == entries { 0 } else { flags::NEXT };
        let descriptor = Descriptor { address: 0, bytes: 4 << 20, flags: next, next: entry + 1 };
        descriptor.store(ring.memory(), table, entry);
    }
    let bytes = 16 * u32::from(entries);
    let descriptor = Descriptor { address: table.0, bytes, flags: flags::INDIRECT, next: 0 };
    ring.set_descriptor(0, descriptor);
    ring.publish(0);
    rig.driver.kick(INFLATE);
    for _ in 0..3 {
        rig.driver.pause();
        assert_eq!(rig.driver.ring(INFLATE).used_index(), 0);
        rig.driver.resume();
    }
    rig.driver.reset();
}

#[test]
fn a_host_that_takes_nothing_does_not_trouble_the_guest() {
    let mut rig = rig();
    *rig.host.full.lock() = true;
    rig.send(INFLATE, &[1, 3]);
    rig.driver.request(REPORTING, &[Piece::In(8192)]);
    assert_eq!(rig.handle.counters().errors.get(), 3);
    assert_eq!(rig.driver.status() & status::NEEDS_RESET, 0);
}

#[test]
fn reported_pages_go_to_the_host_as_far_as_they_are_whole() {
    // Linux before 6.11 reports on the queue that would be for hints.
    for queue in [HINTING, REPORTING] {
        let mut rig = rig();
        let base = rig.driver.allocate(1, PAGE_BYTES).0;
        rig.driver.request(queue, &[Piece::In(3 * 4096 - 1), Piece::In(100)]);
        assert_eq!(rig.host.take(), [Done::Free(base + 4096..base + 3 * 4096)]);
        assert_eq!(rig.handle.counters().reported_bytes.get(), 2 * 4096);
    }
    let mut rig = rig_with(ALL & !FEATURE_REPORTING, Duration::ZERO);
    rig.driver.add(REPORTING, &[Piece::In(8192)]);
    rig.driver.kick(REPORTING);
    rig.send(INFLATE, &[1]);
    assert_eq!(rig.driver.ring(REPORTING).used_index(), 0, "a queue without its feature has no use");
}

#[test]
fn figures_are_taken_at_once_and_again_when_asked_for() {
    let mut rig = rig();
    assert_eq!(rig.handle.statistics(), None);
    rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&figure(5, 1))]);
    rig.driver.kick(STATISTICS_QUEUE);
    rig.wait_total(1);
    assert_eq!(rig.driver.ring(STATISTICS_QUEUE).take_used(), None, "kept until they are wanted again");
    for total in 2..5 {
        rig.handle.request_statistics();
        rig.driver.wait_used(STATISTICS_QUEUE);
        rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&figure(5, total))]);
        rig.driver.kick(STATISTICS_QUEUE);
        rig.wait_total(total);
    }
}

#[test]
fn figures_that_come_unasked_wait_in_the_queue() {
    let mut rig = rig();
    for total in 1..20 {
        rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&figure(5, total))]);
        rig.driver.kick(STATISTICS_QUEUE);
    }
    rig.wait_total(1);
    rig.send(INFLATE, &[1]);
    rig.wait_total(1);
    rig.handle.request_statistics();
    rig.driver.wait_used(STATISTICS_QUEUE);
    rig.wait_total(2);
}

#[test]
fn figures_are_not_new_after_a_pause() {
    let mut rig = rig();
    rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&figure(5, 1))]);
    rig.driver.kick(STATISTICS_QUEUE);
    rig.wait_total(1);
    let before = rig.handle.statistics();
    rig.driver.pause();
    rig.driver.resume();
    rig.send(INFLATE, &[1]);
    rig.handle.request_statistics();
    rig.driver.wait_used(STATISTICS_QUEUE);
    assert_eq!(rig.handle.statistics(), before, "the same figures, no younger");
    rig.driver.reset();
    assert_eq!(rig.handle.statistics(), None);
}

#[test]
fn a_timer_asks_for_figures_again_and_again() {
    let mut rig = rig_with(ALL, Duration::from_millis(5));
    for total in 1..5 {
        rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&figure(5, total))]);
        rig.driver.kick(STATISTICS_QUEUE);
        rig.driver.wait_used(STATISTICS_QUEUE);
        rig.wait_total(total);
    }
    rig.driver.pause();
    rig.driver.resume();
    rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&figure(5, 7))]);
    rig.driver.kick(STATISTICS_QUEUE);
    rig.driver.wait_used(STATISTICS_QUEUE);
}

#[test]
fn how_often_figures_are_asked_for_is_changed_while_the_driver_works() {
    let mut rig = rig();
    let mut totals = 1..;
    let mut supply = |rig: &mut Rig| {
        let total = totals.next().unwrap();
        rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&figure(5, total))]);
        rig.driver.kick(STATISTICS_QUEUE);
        rig.wait_total(total);
    };
    supply(&mut rig);
    rig.handle.set_statistics_period(Duration::from_millis(5));
    for _ in 0..3 {
        rig.driver.wait_used(STATISTICS_QUEUE);
        supply(&mut rig);
    }
    rig.driver.pause();
    rig.handle.set_statistics_period(Duration::ZERO);
    rig.handle.set_statistics_period(Duration::from_millis(4));
    rig.driver.resume();
    rig.driver.wait_used(STATISTICS_QUEUE);
}

#[test]
fn a_reset_empties_the_balloon_and_keeps_the_target() {
    let mut rig = rig();
    rig.send(INFLATE, &[1, 2]);
    rig.driver.write_config(4, &2u32.to_le_bytes());
    rig.driver.pause();
    rig.driver.resume();
    assert_eq!((rig.config(), rig.host.take()), ((3, 2), vec![]), "a pause changes nothing");
    rig.driver.reset();
    assert_eq!(rig.handle.actual_bytes(), 0);
    assert_eq!(rig.host.take(), [Done::AllAgain]);
    rig.driver.initialize(ALL);
    assert_eq!(rig.config(), (3, 0));
}

#[test]
fn only_what_was_asked_for_is_offered() {
    let mut rig = rig();
    let asked = FEATURE_STATISTICS | FEATURE_DEFLATE_ON_OOM | FEATURE_REPORTING;
    assert_eq!(rig.driver.offered() & 0xff_ffff, asked);
    let worker = Worker::spawn("balloon").unwrap();
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let plain = Balloon::new(BalloonConfig {
        pages: Arc::<FakeHost>::default(),
        memory: Arc::new(memory),
        target_bytes: 0,
        deflate_on_oom: false,
        free_page_reporting: false,
        statistics_period: Duration::ZERO,
        changed: None,
        worker: worker.handle(),
    });
    assert_eq!(FakeDriver::new(Box::new(plain)).offered() & 0xff_ffff, FEATURE_STATISTICS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_requests_are_answered_and_reach_only_guest_memory(
        requests in prop::collection::vec(
            (0..5u16, prop::collection::vec(prop_oneof![0..2 * PAGES, any::<u32>()], 1..400)),
            1..12,
        ),
        pauses in any::<u16>(),
    ) {
        let mut rig = rig();
        let memory = 0..u64::from(PAGES) * PAGE_BYTES;
        for (number, (queue, numbers)) in requests.iter().enumerate() {
            let bytes = page_numbers(numbers);
            match *queue {
                INFLATE | DEFLATE => { rig.driver.request(*queue, &[Piece::Out(&bytes)]); }
                STATISTICS_QUEUE => {
                    rig.driver.add(STATISTICS_QUEUE, &[Piece::Out(&bytes)]);
                    rig.driver.kick(STATISTICS_QUEUE);
                    rig.handle.request_statistics();
                }
                _ => {
                    let room = numbers[0] % 100_000 + 1;
                    prop_assert_eq!(rig.driver.request(*queue, &[Piece::In(room)]).written, 0);
                }
            }
            if pauses >> (number % 16) & 1 == 1 {
                rig.driver.pause();
                rig.driver.resume();
            }
        }
        for done in rig.host.take() {
            let (Done::Back(range) | Done::Again(range) | Done::Free(range)) = done else { continue };
            prop_assert!(range.start < range.end && range.end <= memory.end);
            prop_assert!(range.start % PAGE_BYTES == 0 && range.end % PAGE_BYTES == 0);
        }
        prop_assert_eq!(rig.driver.status() & status::NEEDS_RESET, 0);
    }
}
