//! Copying a disk into another image.
//!
//! The caller's thread plans: it finds out what the source has and hands pieces of work to a few threads, each with a buffer
//! of its own that it fills, looks through for zeroes and stores. Where the file system shares storage between files
//! (`share`), nothing is copied at all.

use std::num::NonZeroU64;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::share;
use super::waiting::Content;
use super::zeroes::{is_zero, used_parts};
use super::{OpenImage, OperationError, Progress};
use crate::backend::BlockBackend;
use crate::file::AlignedBuffer;
use crate::qcow2::Qcow2Disk;

/// Length of a thread's buffer: large enough for a device's full speed, small enough for a core's cache.
const BUFFER_BYTES: u64 = 512 << 10;
/// What a thread is given at a time.
const TASK_BYTES: u64 = 4 << 20;
/// What a thread is given to make zeroes at a time.
const ZERO_TASK_BYTES: u64 = 256 << 20;
/// Data for which a growing image's storage is reserved ahead; it is done again when half of that has been planned.
const RESERVE_BYTES: u64 = 128 << 20;
/// Tasks that wait for each thread beside the one that it works on.
const TASKS_AHEAD: usize = 1;
/// How often a copy that waits for its rate looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);
/// Alignment that direct I/O accepts everywhere.
const ALIGNMENT: usize = 4096;
/// Stack of a thread, bytes: buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;
/// Most threads that a copy has.
pub const MOST_THREADS: usize = 16;

/// How a disk is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOptions {
    /// The target reads as zeroes everywhere: zeroes need not be written.
    pub target_is_zero: bool,
    /// The target has a backing file with the content of the source's: what the source's own image does not store is left to
    /// it.
    pub keep_backing: bool,
    /// Runs of zeroes shorter than this are written, bytes; 0: everything is written, zeroes too.
    pub least_hole_bytes: u64,
    /// Threads that copy, at most [`MOST_THREADS`].
    pub threads: usize,
    /// Most bytes a second.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Where the source begins on the target, bytes.
    pub target_offset: u64,
    /// Compress what is written: into a qcow2 image only.
    pub compressed: bool,
}

impl Default for CopyOptions {
    /// Into a new image without a backing file.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            target_is_zero: true,
            keep_backing: false,
            least_hole_bytes: 4096,
            // While one waits for a device, another keeps the core busy.
            threads: (2 * cores).clamp(2, 8),
            bytes_per_second: None,
            target_offset: 0,
            compressed: false,
        }
    }
}

/// Copies `source` to `target`, which has at least its size, and makes that durable unless the target's cache mode says
/// never. What lies beyond the source's end in the target is left alone.
///
/// `progress` is told bytes done and in all, and may end the copy with [`OperationError::Interrupted`].
pub fn copy(
    source: &OpenImage,
    target: &OpenImage,
    options: &CopyOptions,
    progress: Progress<'_>,
) -> Result<(), OperationError> {
    let total = source.disk().capacity();
    let found = target.disk().capacity();
    let needed = options.target_offset.saturating_add(total);
    if found < needed {
        return Err(OperationError::TooSmall { needed, found });
    }
    let unit = u64::from(target.disk().geometry().physical_block_bytes).clamp(4096, BUFFER_BYTES);
    let compressor = match target {
        OpenImage::Qcow2(disk) if options.compressed => Some(disk),
        _ if options.compressed => return Err(failed("compress into the target", 0, Errno::OPNOTSUPP)),
        _ => None,
    };
    let simple = options.least_hole_bytes > 0 && !options.compressed;
    let cluster = compressor.map_or(0, Qcow2Disk::cluster_bytes);
    let copier = Copier {
        source,
        target,
        options,
        compressor,
        unit: usize::try_from(unit).unwrap_or(ALIGNMENT),
        granule: unit.max(cluster),
        buffer_bytes: BUFFER_BYTES.max(cluster),
        stop: AtomicBool::new(false),
        sharing: AtomicBool::new(simple && options.bytes_per_second.is_none()),
        reserving: AtomicBool::new(simple && options.target_is_zero),
        grew: AtomicBool::new(false),
        written: AtomicU64::new(0),
        given_back: AtomicU64::new(0),
    };
    let plan = Plan { copier: &copier, next: 0, total, known: None, planned: 0, reserved: 0 };
    std::thread::scope(|scope| {
        let (report, reports) = channel();
        let mut hands = Vec::new();
        for number in 0..options.threads.clamp(1, MOST_THREADS) {
            let (sender, tasks) = channel();
            let (copier, report) = (&copier, report.clone());
            let builder = std::thread::Builder::new().name(format!("copy-{number}")).stack_size(STACK_BYTES);
            match builder.spawn_scoped(scope, move || copier.work(number, &tasks, &report)) {
                Ok(_) => hands.push(sender),
                Err(error) if hands.is_empty() => {
                    return Err(OperationError::Transfer {
                        operation: "start a thread",
                        offset: 0,
                        source: error,
                    });
                }
                Err(_) => break,
            }
        }
        drop(report);
        let result = plan.run(&hands, &reports, progress);
        if result.is_err() {
            copier.stop.store(true, Ordering::Relaxed);
        }
        result
    })?;
    if let OpenImage::Qcow2(disk) = target
        && copier.grew.load(Ordering::Relaxed)
    {
        disk.give_back_reserve().map_err(|errno| failed("cut the reserve off the target", 0, errno))?;
    }
    target.flush_waiting().map_err(|errno| failed("write to the target", 0, errno))
}

fn failed(operation: &'static str, offset: u64, errno: Errno) -> OperationError {
    OperationError::Transfer { operation, offset, source: errno.into() }
}

/// A part of the disk, and what it is made of.
#[derive(Debug, PartialEq, Eq)]
struct Task {
    range: Range<u64>,
    /// In order and without gaps.
    parts: Vec<(Range<u64>, Content)>,
    /// Storage is reserved for it in the target.
    reserved: bool,
}

/// A thread has done (or failed to do) a task with so many bytes.
struct Report {
    thread: usize,
    result: Result<u64, OperationError>,
}

/// What the threads of a copy share.
struct Copier<'a> {
    source: &'a OpenImage,
    target: &'a OpenImage,
    options: &'a CopyOptions,
    /// Takes whole clusters and compresses them.
    compressor: Option<&'a Qcow2Disk>,
    /// Zeroes are looked for in units of this size.
    unit: usize,
    /// Work begins at multiples of this.
    granule: u64,
    buffer_bytes: u64,
    stop: AtomicBool,
    /// Whether the file system may be able to share storage between source and target.
    sharing: AtomicBool,
    /// Whether storage of the target is reserved before it is written.
    reserving: AtomicBool,
    /// Whether a growing image has got storage that it may not need.
    grew: AtomicBool,
    /// Bytes that were written, and reserved ones that were given back because they are zeroes.
    written: AtomicU64,
    given_back: AtomicU64,
}

/// What is left to be done.
struct Plan<'a> {
    copier: &'a Copier<'a>,
    next: u64,
    total: u64,
    /// What the source is up to some place, if that is beyond `next`.
    known: Option<(Content, u64)>,
    /// Bytes of tasks with data, and for how many of them a growing image has storage.
    planned: u64,
    reserved: u64,
}

impl Plan<'_> {
    /// Hands tasks to the threads until all are done.
    fn run(
        mut self,
        hands: &[Sender<Task>],
        reports: &Receiver<Report>,
        progress: Progress<'_>,
    ) -> Result<(), OperationError> {
        let start = Instant::now();
        let (mut done, mut busy) = (0, 0);
        let mut waiting: Vec<usize> = (0..=TASKS_AHEAD).flat_map(|_| 0..hands.len()).collect();
        loop {
            let pause = self.pause(start.elapsed());
            while pause.is_zero()
                && let Some(thread) = waiting.pop()
            {
                let before = self.next;
                let Some(task) = self.next_task()? else {
                    done += self.next - before;
                    waiting.clear();
                    break;
                };
                // What was passed over needs no work.
                done += task.range.start - before;
                busy += 1;
                // A thread that is gone has reported why.
                let _ = hands[thread].send(task);
                if self.copier.options.bytes_per_second.is_some() {
                    break;
                }
            }
            if progress(done, self.total) == ControlFlow::Break(()) {
                return Err(OperationError::Interrupted);
            }
            if busy == 0 && self.next == self.total {
                return Ok(());
            }
            let patience = if pause.is_zero() { PATIENCE } else { pause.min(PATIENCE) };
            match reports.recv_timeout(patience) {
                Ok(Report { thread, result }) => {
                    done += result?;
                    busy -= 1;
                    if self.next < self.total {
                        waiting.push(thread);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(OperationError::Interrupted),
            }
        }
    }

    /// How long to wait before more may be started.
    fn pause(&self, elapsed: Duration) -> Duration {
        let Some(rate) = self.copier.options.bytes_per_second else { return Duration::ZERO };
        let nanoseconds = u128::from(self.next) * 1_000_000_000 / u128::from(rate.get());
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)).saturating_sub(elapsed)
    }

    /// What the source is at `next`, and up to where.
    fn content(&mut self) -> Result<(Content, u64), OperationError> {
        if let Some(known) = self.known.filter(|(_, end)| *end > self.next) {
            return Ok(known);
        }
        let left = self.total - self.next;
        let (content, run) = self.copier.source.content(self.next, left, self.copier.options.keep_backing)?;
        let known = (content, self.next + run);
        self.known = Some(known);
        Ok(known)
    }

    /// Passes over what needs no work and cuts the next task; `None` at the end.
    fn next_task(&mut self) -> Result<Option<Task>, OperationError> {
        while self.next < self.total {
            let (content, end) = self.content()?;
            match content {
                Content::Below => self.next = end,
                Content::Zero if self.copier.leaves_zeroes() && self.whole(end) > self.next => {
                    self.next = self.whole(end);
                }
                Content::Zero
                    if self.copier.options.least_hole_bytes > 0 && end - self.next >= TASK_BYTES =>
                {
                    let range = self.next..end.min(self.next + ZERO_TASK_BYTES);
                    self.next = range.end;
                    let parts = vec![(range.clone(), content)];
                    return Ok(Some(Task { range, parts, reserved: false }));
                }
                Content::Data if self.share(end) => {
                    // Nothing is left to do, but the caller gets to look at the progress.
                    return Ok(Some(Task {
                        range: self.next..self.next,
                        parts: Vec::new(),
                        reserved: false,
                    }));
                }
                Content::Zero | Content::Data => return self.cut_task().map(Some),
            }
        }
        Ok(None)
    }

    /// The last place up to `end` where work may begin.
    fn whole(&self, end: u64) -> u64 {
        if end == self.total { end } else { end - end % self.copier.granule }
    }

    /// Lets the file system share some of the data before `end`. False if there is nothing that it can share here.
    fn share(&mut self, end: u64) -> bool {
        let copier = self.copier;
        if !copier.sharing.load(Ordering::Relaxed) {
            return false;
        }
        let target_offset = copier.options.target_offset + self.next;
        match share::share(copier.source, copier.target, self.next, target_offset, end - self.next) {
            Ok(bytes) => {
                self.next += bytes;
                bytes > 0
            }
            Err(errno) => {
                // Whatever the reason is: if it keeps the data from being copied, that will tell.
                tracing::debug!(%errno, "storage is not shared: the data is copied");
                copier.sharing.store(false, Ordering::Relaxed);
                false
            }
        }
    }

    /// A task that begins at the last multiple of a unit of the target, with what there is up to its end.
    fn cut_task(&mut self) -> Result<Task, OperationError> {
        let start = self.next;
        let end = self.total.min((start + 1).next_multiple_of(TASK_BYTES));
        let mut parts = Vec::new();
        while self.next < end {
            let (content, known) = self.content()?;
            let range = self.next..known.min(end);
            self.next = range.end;
            parts.push((range, content));
        }
        if let OpenImage::Raw(disk) = self.copier.source {
            disk.will_read(start, end - start);
        }
        let reserved = self.reserve(start, end, &parts);
        Ok(Task { range: start..end, parts, reserved })
    }
}

impl Plan<'_> {
    /// Reserves storage for a task, or for many to come. Returns whether what turns out to be zero has to be given back.
    fn reserve(&mut self, start: u64, end: u64, parts: &[(Range<u64>, Content)]) -> bool {
        let copier = self.copier;
        if !copier.reserving.load(Ordering::Relaxed) {
            return false;
        }
        let mut reserved = false;
        let possible = match copier.target {
            OpenImage::Raw(disk) => {
                let all_data = parts.iter().all(|(_, content)| *content == Content::Data);
                reserved = all_data && disk.reserve(copier.options.target_offset + start, end - start);
                reserved || !all_data
            }
            OpenImage::Foreign(_) => false,
            OpenImage::Qcow2(disk) => {
                self.planned += end - start;
                let enough = self.planned <= self.reserved;
                if !enough {
                    self.reserved = self.planned + RESERVE_BYTES / 2;
                }
                let reserved = !enough && disk.reserve(RESERVE_BYTES);
                copier.grew.fetch_or(reserved, Ordering::Relaxed);
                reserved || enough
            }
        };
        copier.reserving.fetch_and(possible, Ordering::Relaxed);
        reserved
    }
}

impl Copier<'_> {
    /// Whether zeroes need no work.
    fn leaves_zeroes(&self) -> bool {
        self.options.target_is_zero && self.options.least_hole_bytes > 0
    }

    /// The life of a thread.
    fn work(&self, thread: usize, tasks: &Receiver<Task>, report: &Sender<Report>) {
        let mut buffer = None;
        while let Ok(task) = tasks.recv() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let bytes = task.range.end - task.range.start;
            let result = self.carry_out(&task, &mut buffer).map(|()| bytes);
            if report.send(Report { thread, result }).is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, task: &Task, buffer: &mut Option<AlignedBuffer>) -> Result<(), OperationError> {
        if let [(range, Content::Zero)] = task.parts.as_slice()
            && self.options.least_hole_bytes > 0
        {
            return self.zero(range.clone());
        }
        if task.parts.is_empty() {
            return Ok(());
        }
        let buffer = buffer.get_or_insert_with(|| {
            AlignedBuffer::new(usize::try_from(self.buffer_bytes).unwrap_or(ALIGNMENT), ALIGNMENT)
        });
        let mut start = task.range.start;
        while start < task.range.end {
            if self.stop.load(Ordering::Relaxed) {
                return Err(OperationError::Interrupted);
            }
            let end = task.range.end.min((start + 1).next_multiple_of(self.buffer_bytes));
            let parts = task.parts.iter().filter_map(|(range, content)| {
                let part = range.start.max(start)..range.end.min(end);
                (part.start < part.end).then_some((part, *content))
            });
            let parts: Vec<_> = parts.collect();
            // What is left to the backing file divides what is copied.
            for together in parts.split(|(_, content)| *content == Content::Below) {
                self.copy_together(together, buffer, task.reserved)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Copies neighbouring parts through the buffer.
    fn copy_together(
        &self,
        parts: &[(Range<u64>, Content)],
        buffer: &mut AlignedBuffer,
        reserved: bool,
    ) -> Result<(), OperationError> {
        let (Some((first, _)), Some((last, _))) = (parts.first(), parts.last()) else { return Ok(()) };
        let (start, end) = (first.start, last.end);
        let place = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
        if self.options.least_hole_bytes > 0 && parts.iter().all(|(_, content)| *content == Content::Zero) {
            return self.zero(start..end);
        }
        for (range, content) in parts {
            let part = &mut buffer.bytes()[place(range.start)..place(range.end)];
            if *content == Content::Zero {
                part.fill(0);
            } else {
                self.source.read_waiting(range.start, part).map_err(|source| OperationError::Transfer {
                    operation: "read the source",
                    offset: range.start,
                    source,
                })?;
            }
        }
        let content = &buffer.content()[..place(end)];
        self.store(self.options.target_offset + start, content, reserved)
    }

    /// Stores what is not zero from `start` of the target on, and makes the rest zero where it is not so already.
    fn store(&self, start: u64, content: &[u8], reserved: bool) -> Result<(), OperationError> {
        let write = |part: Range<usize>| {
            let offset = start + part.start as u64;
            self.written.fetch_add(part.len() as u64, Ordering::Relaxed);
            self.target
                .write_waiting(offset, &content[part])
                .map_err(|errno| failed("write to the target", offset, errno))
        };
        if let Some(disk) = self.compressor {
            return self.compress(disk, start, content);
        }
        let least = usize::try_from(self.options.least_hole_bytes).unwrap_or(usize::MAX);
        if least == 0 {
            return write(0..content.len());
        }
        let mut end = 0;
        for part in used_parts(content, start, self.unit, least) {
            self.leave_out(start, end..part.start, reserved)?;
            end = part.end;
            write(part)?;
        }
        self.leave_out(start, end..content.len(), reserved)
    }

    /// Stores whole clusters compressed; what is no whole cluster (beside what is left to a backing file) as it is.
    fn compress(&self, disk: &Qcow2Disk, start: u64, content: &[u8]) -> Result<(), OperationError> {
        let (cluster, end) = (disk.cluster_bytes(), disk.capacity());
        let mut at = 0;
        while at < content.len() {
            let offset = start + at as u64;
            let next = offset - offset % cluster + cluster;
            let part = at..content.len().min(usize::try_from(next - start).unwrap_or(usize::MAX));
            at = part.end;
            let is_whole = offset.is_multiple_of(cluster) && start + part.end as u64 == next.min(end);
            let result = if self.options.least_hole_bytes > 0 && is_zero(&content[part.clone()]) {
                self.leave_out(start, part, false)?;
                Ok(())
            } else if is_whole {
                disk.write_compressed(offset, &content[part])
            } else {
                self.target.write_waiting(offset, &content[part])
            };
            result.map_err(|errno| failed("write to the target", offset, errno))?;
        }
        Ok(())
    }

    /// Deals with zeroes that were found among what was read.
    fn leave_out(&self, start: u64, part: Range<usize>, reserved: bool) -> Result<(), OperationError> {
        if part.is_empty() || self.leaves_zeroes() && !reserved {
            return Ok(());
        }
        if reserved {
            let given_back =
                self.given_back.fetch_add(part.len() as u64, Ordering::Relaxed) + part.len() as u64;
            // Where much has to be given back, it is cheaper not to take it.
            if given_back > self.written.load(Ordering::Relaxed) / 4 + TASK_BYTES {
                self.reserving.store(false, Ordering::Relaxed);
            }
        }
        self.make_zero(start + part.start as u64, part.len() as u64)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), OperationError> {
        if self.leaves_zeroes() {
            Ok(())
        } else {
            self.make_zero(self.options.target_offset + range.start, range.end - range.start)
        }
    }

    fn make_zero(&self, offset: u64, bytes: u64) -> Result<(), OperationError> {
        self.target
            .write_zeroes_waiting(offset, bytes)
            .map_err(|errno| failed("write zeroes to the target", offset, errno))
    }
}
