//! The contract of [`BlockBackend`] as tests that every backend runs: `block_conformance!(name, subject)`.
//!
//! Each check panics with what was broken. Nothing here knows a backend; a [`Subject`] says how to make one and which
//! promises it can't keep (a null disk keeps no data).

#![expect(clippy::unwrap_used, reason = "these are tests: a panic is how a check fails")]

mod driver;
mod model;

use rustix::io::Errno;

pub use self::driver::{Buffer, Driver};
pub use self::model::behaves_like_an_array_of_bytes;
use crate::backend::{BlockBackend, BlockOperation};

/// Makes the backends that are checked.
pub struct Subject {
    open: Box<dyn Fn(u64, bool) -> Box<dyn BlockBackend>>,
    keeps_data: bool,
    has_read_only: bool,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("keeps_data", &self.keeps_data).finish_non_exhaustive()
    }
}

impl Subject {
    /// `open` makes a new disk of so many zero bytes, read-only if told so.
    pub fn new(open: impl Fn(u64, bool) -> Box<dyn BlockBackend> + 'static) -> Self {
        Self { open: Box::new(open), keeps_data: true, has_read_only: true }
    }

    /// What is written is not there to be read, and nothing can be made read-only.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.keeps_data = false;
        self.has_read_only = false;
        self
    }

    /// A new, writable disk of `bytes` zero bytes.
    pub fn disk(&self, bytes: u64) -> Box<dyn BlockBackend> {
        (self.open)(bytes, false)
    }
}

/// Size of the disks that are checked, bytes.
const DISK_BYTES: u64 = 1 << 20;

/// Makes one test of each check, in a module `$name`, for the subject that `$subject` makes out of what is in scope.
#[macro_export]
macro_rules! block_conformance {
    ($name:ident, $subject:expr) => {
        $crate::block_conformance!(@tests $name, $subject,
            geometry_is_made_of_powers_of_two,
            data_is_read_as_it_was_written,
            memory_of_any_alignment_is_served,
            ranges_that_do_not_fit_are_refused,
            a_read_only_disk_refuses_every_change,
            completions_carry_their_tags,
            a_full_queue_gives_the_request_back,
            the_ready_descriptor_tells_of_completions,
            a_flush_follows_completed_writes,
            zeroes_and_discards_take_effect,
            a_dropped_queue_has_finished_its_writes,
            queues_share_one_disk,
            resizing_moves_the_end,
            resizing_during_writes_loses_no_block,
            behaves_like_an_array_of_bytes
        );
    };
    (@tests $name:ident, $subject:expr, $($check:ident),+) => {
        mod $name {
            use super::*;
            $(
                #[test]
                fn $check() {
                    $crate::conformance::$check(&$subject);
                }
            )+
        }
    };
}

/// Sizes are powers of two in their order.
pub fn geometry_is_made_of_powers_of_two(subject: &Subject) {
    let geometry = subject.disk(DISK_BYTES).geometry();
    assert!(geometry.logical_block_bytes.is_power_of_two() && geometry.logical_block_bytes >= 512);
    assert!(geometry.physical_block_bytes.is_power_of_two());
    assert!(geometry.physical_block_bytes >= geometry.logical_block_bytes);
    assert!(geometry.discard_bytes == 0 || geometry.discard_bytes.is_power_of_two());
}

/// Several segments, several places, the last block included.
pub fn data_is_read_as_it_was_written(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 8);
    let block = driver.block_bytes();
    for (number, offset) in
        [0, block as u64, 300 * 512 / block as u64 * block as u64, DISK_BYTES - 3 * block as u64]
            .into_iter()
            .enumerate()
    {
        let mut source = Buffer::patterned(3 * block, number as u64);
        driver.write(offset, source.pieces(&[block, 2 * block]), false).unwrap();
        let mut target = Buffer::filled(3 * block, 0xee);
        driver.read(offset, target.pieces(&[2 * block, block])).unwrap();
        if subject.keeps_data {
            assert_eq!(target.bytes(), source.bytes(), "at offset {offset}");
        }
    }
}

/// Odd addresses and odd lengths of pieces, as firmware and old drivers use them.
pub fn memory_of_any_alignment_is_served(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 8);
    let block = driver.block_bytes();
    for shift in [1, 2, 3, 511] {
        let mut source = Buffer::shifted(4 * block, shift);
        source.fill_pattern(shift as u64);
        driver.write(0, source.pieces(&[1, block - 1, 7, 3 * block - 7]), false).unwrap();
        let mut target = Buffer::shifted(4 * block, shift + 1);
        driver.read(0, target.pieces(&[3, 4 * block - 3])).unwrap();
        if subject.keeps_data {
            assert_eq!(target.bytes(), source.bytes(), "shifted by {shift}");
        }
    }
}

/// Misaligned, beyond the end, and sums that overflow: `EINVAL`, nothing touched.
pub fn ranges_that_do_not_fit_are_refused(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 8);
    let block = driver.block_bytes();
    let one = block as u64;
    for offset in [1, one - 1, DISK_BYTES, DISK_BYTES + one, u64::MAX - one + 1, u64::MAX] {
        let mut buffer = Buffer::filled(block, 0xaa);
        assert_eq!(driver.read(offset, buffer.pieces(&[block])), Err(Errno::INVAL), "read at {offset}");
        assert_eq!(
            driver.write(offset, buffer.pieces(&[block]), false),
            Err(Errno::INVAL),
            "write at {offset}"
        );
        assert!(buffer.bytes().iter().all(|byte| *byte == 0xaa), "a refused read touched memory");
    }
    let mut buffer = Buffer::filled(2 * block, 0xaa);
    let last = DISK_BYTES - one;
    assert_eq!(
        driver.write(last, buffer.pieces(&[block, block]), true),
        Err(Errno::INVAL),
        "one block too long"
    );
    assert_eq!(driver.read(0, buffer.pieces(&[block - 1])), Err(Errno::INVAL), "part of a block");
    for (offset, bytes) in
        [(0, 1), (1, one), (last, 2 * one), (0, DISK_BYTES + one), (one, u64::MAX), (u64::MAX - one + 1, one)]
    {
        assert_eq!(
            driver.run(BlockOperation::Discard { offset, bytes }),
            Err(Errno::INVAL),
            "{offset}+{bytes}"
        );
        let zeroes = BlockOperation::WriteZeroes { offset, bytes, may_unmap: true };
        assert_eq!(driver.run(zeroes), Err(Errno::INVAL), "{offset}+{bytes}");
    }
    let mut last_block = Buffer::filled(block, 0xaa);
    driver.read(last, last_block.pieces(&[block])).unwrap();
    assert!(last_block.bytes().iter().all(|byte| *byte == 0), "a refused write changed the disk");
    assert_eq!(disk.capacity(), DISK_BYTES);
}

/// Reads and flushes go on, everything else is `EROFS`.
pub fn a_read_only_disk_refuses_every_change(subject: &Subject) {
    if !subject.has_read_only {
        return;
    }
    let disk = (subject.open)(DISK_BYTES, true);
    assert!(disk.read_only());
    let mut driver = Driver::open(&*disk, 8);
    let block = driver.block_bytes();
    let mut buffer = Buffer::filled(block, 0xaa);
    assert_eq!(driver.write(0, buffer.pieces(&[block]), false), Err(Errno::ROFS));
    let bytes = block as u64;
    assert_eq!(driver.run(BlockOperation::Discard { offset: 0, bytes }), Err(Errno::ROFS));
    let zeroes = BlockOperation::WriteZeroes { offset: 0, bytes, may_unmap: false };
    assert_eq!(driver.run(zeroes), Err(Errno::ROFS));
    driver.run(BlockOperation::Flush).unwrap();
    driver.read(0, buffer.pieces(&[block])).unwrap();
    assert!(buffer.bytes().iter().all(|byte| *byte == 0));
    assert!(disk.resize(2 * DISK_BYTES).is_err());
    assert!(!subject.disk(DISK_BYTES).read_only());
}

/// Each tag comes back once, with its own result.
pub fn completions_carry_their_tags(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 64);
    let block = driver.block_bytes();
    let mut buffers: Vec<Buffer> = (0..64).map(|_| Buffer::filled(block, 1)).collect();
    for (tag, buffer) in (0..64u64).zip(&mut buffers) {
        // Every third one is refused.
        let offset = if tag % 3 == 0 { DISK_BYTES } else { tag * block as u64 };
        driver.submit(tag << 40, BlockOperation::Read { offset, segments: buffer.pieces(&[block]) }).unwrap();
    }
    assert_eq!(driver.in_flight(), 64);
    let mut completions = driver.drain();
    completions.sort_by_key(|completion| completion.tag);
    assert_eq!(completions.len(), 64);
    for (tag, completion) in (0..64u64).zip(completions) {
        assert_eq!(completion.tag, tag << 40);
        assert_eq!(completion.result.is_err(), tag % 3 == 0, "tag {tag}");
    }
    assert_eq!(driver.in_flight(), 0);
}

/// A queue takes its depth and no more, until something has been reaped.
pub fn a_full_queue_gives_the_request_back(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 4);
    for tag in 0..4 {
        driver.submit(tag, BlockOperation::Flush).unwrap();
    }
    let refused = driver.submit(99, BlockOperation::Flush).unwrap_err();
    assert_eq!(refused.0.tag, 99);
    assert!(matches!(refused.0.operation, BlockOperation::Flush));
    assert_eq!(driver.drain().len(), 4);
    driver.submit(99, BlockOperation::Flush).unwrap();
    assert_eq!(driver.drain().len(), 1);
}

/// Readable while completions wait, quiet on an idle queue, and for a refused request too.
pub fn the_ready_descriptor_tells_of_completions(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 4);
    assert!(!driver.is_ready(), "a new queue has nothing to say");
    let bytes = driver.block_bytes() as u64;
    driver.submit(1, BlockOperation::Discard { offset: DISK_BYTES, bytes }).unwrap();
    driver.kick();
    driver.wait();
    assert!(driver.is_ready(), "level-triggered: still readable");
    assert_eq!(driver.drain().len(), 1);
    driver.run(BlockOperation::Flush).unwrap();
    // One more look takes back what was rung between reaping and now; then it must be quiet.
    assert!(driver.reap().is_empty());
    assert!(!driver.is_ready(), "an idle queue is not readable");
}

/// Writes, then a flush, then both kinds of durable write: all succeed and the data is there.
pub fn a_flush_follows_completed_writes(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 8);
    let block = driver.block_bytes();
    let mut source = Buffer::patterned(block, 7);
    driver.write(0, source.pieces(&[block]), false).unwrap();
    driver.run(BlockOperation::Flush).unwrap();
    driver.write(block as u64, source.pieces(&[block]), true).unwrap();
    let mut target = Buffer::filled(2 * block, 0);
    driver.read(0, target.pieces(&[2 * block])).unwrap();
    if subject.keeps_data {
        assert_eq!(target.bytes(), [source.bytes(), source.bytes()].concat());
    }
}

/// Zeroed ranges read as zeroes, their neighbours as before; a discarded range can be written again.
pub fn zeroes_and_discards_take_effect(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 8);
    let block = driver.block_bytes();
    let one = block as u64;
    for may_unmap in [false, true] {
        let mut source = Buffer::patterned(8 * block, 3);
        driver.write(0, source.pieces(&[8 * block]), false).unwrap();
        driver.run(BlockOperation::WriteZeroes { offset: one, bytes: 5 * one, may_unmap }).unwrap();
        let mut target = Buffer::filled(8 * block, 0xee);
        driver.read(0, target.pieces(&[8 * block])).unwrap();
        assert!(target.bytes()[block..6 * block].iter().all(|byte| *byte == 0), "zeroes, unmap: {may_unmap}");
        if subject.keeps_data {
            assert_eq!(target.bytes()[..block], source.bytes()[..block]);
            assert_eq!(target.bytes()[6 * block..], source.bytes()[6 * block..]);
        }
    }
    driver.run(BlockOperation::Discard { offset: 0, bytes: DISK_BYTES }).unwrap();
    let mut source = Buffer::patterned(block, 4);
    driver.write(0, source.pieces(&[block]), false).unwrap();
    let mut target = Buffer::filled(block, 0xee);
    driver.read(0, target.pieces(&[block])).unwrap();
    if subject.keeps_data {
        assert_eq!(target.bytes(), source.bytes());
    }
    driver.run(BlockOperation::WriteZeroes { offset: 0, bytes: 0, may_unmap: true }).unwrap();
    assert_eq!(disk.capacity(), DISK_BYTES);
}

/// Requests that were submitted, kicked or not, have been done when the queue is gone.
pub fn a_dropped_queue_has_finished_its_writes(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 128);
    let block = driver.block_bytes();
    let mut buffers: Vec<Buffer> = (0..100).map(|number| Buffer::patterned(block, number)).collect();
    for (number, buffer) in (0..100u64).zip(&mut buffers) {
        let segments = buffer.pieces(&[block]);
        let write = BlockOperation::Write { offset: number * block as u64, segments, durable: false };
        driver.submit(number, write).unwrap();
        if number == 50 {
            driver.kick();
        }
    }
    drop(driver);
    // The buffers can be looked at, and freed, from here on.
    let mut driver = Driver::open(&*disk, 8);
    for (number, buffer) in (0..100u64).zip(&buffers) {
        let mut target = Buffer::filled(block, 0);
        driver.read(number * block as u64, target.pieces(&[block])).unwrap();
        if subject.keeps_data {
            assert_eq!(target.bytes(), buffer.bytes(), "block {number}");
        }
    }
}

/// What one queue has written, another one reads.
pub fn queues_share_one_disk(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let (mut first, mut second) = (Driver::open(&*disk, 8), Driver::open(&*disk, 8));
    let block = first.block_bytes();
    let mut source = Buffer::patterned(block, 9);
    first.write(0, source.pieces(&[block]), false).unwrap();
    let mut target = Buffer::filled(block, 0);
    second.read(0, target.pieces(&[block])).unwrap();
    if subject.keeps_data {
        assert_eq!(target.bytes(), source.bytes());
    }
}

/// Growing adds zeroes, shrinking takes blocks away for good.
pub fn resizing_moves_the_end(subject: &Subject) {
    let disk = subject.disk(DISK_BYTES);
    let mut driver = Driver::open(&*disk, 8);
    let block = driver.block_bytes();
    let last = DISK_BYTES - block as u64;
    let mut buffer = Buffer::patterned(block, 1);
    driver.write(last, buffer.pieces(&[block]), false).unwrap();
    disk.resize(2 * DISK_BYTES).unwrap();
    assert_eq!(disk.capacity(), 2 * DISK_BYTES);
    driver.write(2 * DISK_BYTES - block as u64, buffer.pieces(&[block]), false).unwrap();
    disk.resize(DISK_BYTES / 2).unwrap();
    assert_eq!(driver.read(last, buffer.pieces(&[block])), Err(Errno::INVAL));
    disk.resize(DISK_BYTES).unwrap();
    driver.read(last, buffer.pieces(&[block])).unwrap();
    assert!(buffer.bytes().iter().all(|byte| *byte == 0), "what was cut off came back");
    assert!(disk.resize(block as u64 - 1).is_err());
    assert_eq!(disk.capacity(), DISK_BYTES);
}

/// While writes go on, the size changes: each write ends well or is refused, and the size stays what was asked for.
pub fn resizing_during_writes_loses_no_block(subject: &Subject) {
    let disk = subject.disk(2 * DISK_BYTES);
    let mut driver = Driver::open(&*disk, 64);
    let block = driver.block_bytes();
    let mut low = Buffer::patterned(block, 5);
    let mut high = Buffer::patterned(block, 6);
    for round in 0..20 {
        for tag in 0..32u64 {
            let (buffer, offset) = if tag % 2 == 0 {
                (&mut low, tag * block as u64)
            } else {
                (&mut high, 2 * DISK_BYTES - tag * block as u64)
            };
            let segments = buffer.pieces(&[block]);
            driver.submit(tag, BlockOperation::Write { offset, segments, durable: false }).unwrap();
        }
        driver.kick();
        disk.resize(if round % 2 == 0 { DISK_BYTES } else { 2 * DISK_BYTES }).unwrap();
        for completion in driver.drain() {
            assert!(completion.tag % 2 == 1 || completion.result.is_ok(), "{completion:?}");
            assert!(matches!(completion.result, Ok(()) | Err(Errno::INVAL)), "{completion:?}");
        }
    }
    disk.resize(DISK_BYTES).unwrap();
    disk.resize(2 * DISK_BYTES).unwrap();
    let mut target = Buffer::filled(block, 0xee);
    driver.read(2 * DISK_BYTES - block as u64, target.pieces(&[block])).unwrap();
    assert!(target.bytes().iter().all(|byte| *byte == 0), "a write beyond the end survived");
    driver.read(0, target.pieces(&[block])).unwrap();
    if subject.keeps_data {
        assert_eq!(target.bytes(), low.bytes());
    }
}
