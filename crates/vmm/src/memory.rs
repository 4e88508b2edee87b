//! Guest memory: host mappings for the RAM ranges of a [`MemoryLayout`], one mapping a range.
//!
//! Only `mmap`, `memfd_create` and `madvise` happen here and pages are touched lazily (unless the specification asks to
//! have them all at the start), so that starting a machine costs microseconds whatever its size.
//!
//! Mappings begin at multiples of 2 MiB as guest-physical ranges do: only then can a transparent huge page of the host
//! also be one large page of the second-level page tables.
//!
//! Owned: the mappings live as long as the returned value or a clone of it. No threads.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use machine_spec::spec::{MemoryBacking, MemorySpec};
use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use crate::layout::{MEMORY_GRANULE, MemoryLayout};

pub(crate) use returned::ReturnedPages;

/// Why guest memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The machine would be larger than the host.
    #[error(
        "guest memory of {} MiB is more than the {} MiB that this host has: give the guest less",
        .wanted >> 20, .host >> 20
    )]
    MoreThanHost {
        /// What was asked for, in bytes.
        wanted: u64,
        /// The host's memory, in bytes.
        host: u64,
    },
    /// The specification and the layout do not describe the same machine.
    #[error("guest memory of {wanted} bytes does not match the address map's {mapped} bytes")]
    LayoutMismatch {
        /// What the specification says.
        wanted: u64,
        /// What the layout has.
        mapped: u64,
    },
    /// The host has no huge pages of this size at all.
    #[error("this host has no huge pages of {} KiB: it has {available}", .page_bytes >> 10)]
    NoSuchHugePage {
        /// The size asked for, in bytes.
        page_bytes: u64,
        /// The sizes that it has, for people.
        available: String,
    },
    /// A range of guest memory is no multiple of the huge page size.
    #[error(
        "guest memory of {} MiB is not made of whole huge pages of {} MiB: give the guest a multiple of that size",
        .bytes >> 20, .page_bytes >> 20
    )]
    NotWholeHugePages {
        /// Guest memory in bytes.
        bytes: u64,
        /// Huge page size in bytes.
        page_bytes: u64,
    },
    /// The pool of huge pages is too small.
    #[error(
        "guest memory needs {needed} huge pages of {} KiB and {free} are free: \
         reserve more, for example `echo {} > {}`",
        .page_bytes >> 10, .total.saturating_add(.needed.saturating_sub(*.free)), .setting.display()
    )]
    HugePagesExhausted {
        /// Huge page size in bytes.
        page_bytes: u64,
        /// How many the guest needs.
        needed: u64,
        /// How many are neither used nor promised to others.
        free: u64,
        /// How many the host has reserved.
        total: u64,
        /// The file that sets the number.
        setting: PathBuf,
    },
    /// KSM can't merge this kind of memory.
    #[error(
        "mergeable guest memory must be private and of normal pages: KSM merges neither shared memory nor huge pages"
    )]
    NotMergeable,
    /// The host refused.
    #[error("cannot {what} for guest memory of {} MiB: {source}", .bytes >> 20)]
    Host {
        /// What was being done.
        what: &'static str,
        /// Guest memory in bytes.
        bytes: u64,
        /// Why not.
        source: io::Error,
    },
}

/// Maps guest memory as `spec` asks for at the ranges of `layout`.
pub fn build(spec: &MemorySpec, layout: &MemoryLayout) -> Result<GuestMemoryMmap<()>, MemoryError> {
    if spec.bytes != layout.memory_bytes() {
        return Err(MemoryError::LayoutMismatch { wanted: spec.bytes, mapped: layout.memory_bytes() });
    }
    if spec.mergeable && spec.backing != MemoryBacking::Anonymous {
        return Err(MemoryError::NotMergeable);
    }
    match spec.backing {
        MemoryBacking::HugePages { page_bytes, .. } => {
            check_huge_pages(Path::new("/sys/kernel/mm/hugepages"), layout, page_bytes)?;
        }
        MemoryBacking::Anonymous | MemoryBacking::Shared => check_host_memory(spec.bytes)?,
    }
    let host = |what| move |source| MemoryError::Host { what, bytes: spec.bytes, source };
    let source = Source::open(&spec.backing, spec.bytes).map_err(host("make a memory file"))?;
    let mut regions = Vec::with_capacity(2);
    let mut file_offset = 0;
    for range in layout.ram() {
        let mapping = source.map(&range, file_offset).map_err(host("map memory"))?;
        advise(spec, &range, &mapping).map_err(|(what, error)| host(what)(error))?;
        file_offset += range.end - range.start;
        let region = GuestRegionMmap::new(mapping, GuestAddress(range.start))
            .ok_or_else(|| host("map memory")(io::ErrorKind::InvalidInput.into()))?;
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions)
        .map_err(|error| host("join memory ranges")(io::Error::other(error)))
}

/// What mappings are made of.
struct Source {
    file: Option<Arc<File>>,
    flags: i32,
    huge: bool,
}

impl Source {
    fn open(backing: &MemoryBacking, bytes: u64) -> io::Result<Self> {
        // Without MAP_NORESERVE the host's heuristic overcommit refuses a guest that is larger than what is free now,
        // although it will rarely touch everything. Huge pages are the other way round: there a missing reservation
        // becomes SIGBUS in the middle of the guest's life, so the reservation must be made here.
        Ok(match *backing {
            MemoryBacking::Anonymous => Self {
                file: None,
                flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                huge: false,
            },
            MemoryBacking::Shared => Self {
                file: Some(memory_file(MemfdFlags::empty(), bytes)?),
                flags: libc::MAP_SHARED | libc::MAP_NORESERVE,
                huge: false,
            },
            MemoryBacking::HugePages { page_bytes, shared: true } => Self {
                file: Some(memory_file(
                    MemfdFlags::HUGETLB
                        | MemfdFlags::from_bits_retain(page_bytes.ilog2() << libc::MAP_HUGE_SHIFT),
                    bytes,
                )?),
                flags: libc::MAP_SHARED,
                huge: true,
            },
            // A private mapping of a file would take two pages for each that is first read and then written.
            MemoryBacking::HugePages { page_bytes, shared: false } => Self {
                file: None,
                flags: libc::MAP_PRIVATE
                    | libc::MAP_ANONYMOUS
                    | libc::MAP_HUGETLB
                    | (page_bytes.ilog2() << libc::MAP_HUGE_SHIFT).cast_signed(),
                huge: true,
            },
        })
    }

    /// Maps `range`; what it is made of begins at `file_offset` of the memory file.
    fn map(&self, range: &Range<u64>, file_offset: u64) -> io::Result<MmapRegion<()>> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let map = || {
            let mut builder = MmapRegionBuilder::new(length)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(self.flags)
                .with_hugetlbfs(self.huge);
            if let Some(file) = &self.file {
                builder = builder.with_file_offset(FileOffset::from_arc(Arc::clone(file), file_offset));
            }
            builder.build().map_err(|error| match error {
                vm_memory::mmap::MmapRegionError::Mmap(error) => error,
                other => io::Error::other(other),
            })
        };
        // Since Linux 6.7 large anonymous mappings are aligned by themselves. Others are talked into place: pads leave a
        // hole of just the right size at an aligned address, and the highest hole that fits is what the kernel takes
        // next. Mappings that landed elsewhere are kept until the end, so that their places are taken. Should another
        // thread be faster every time, the last one is used as it is: slower, but sound.
        let mut misplaced = Vec::new();
        let mut mapping = map()?;
        for _ in 0..ALIGNMENT_ATTEMPTS {
            if is_aligned(&mapping) {
                return Ok(mapping);
            }
            let pads = Pads::around_aligned_hole(length)?;
            let next = map()?;
            drop(pads);
            misplaced.push(std::mem::replace(&mut mapping, next));
        }
        if !is_aligned(&mapping) {
            tracing::warn!(
                ?range,
                "guest memory is not aligned to 2 MiB in this process: it gets no large pages"
            );
        }
        Ok(mapping)
    }
}

fn is_aligned(mapping: &MmapRegion<()>) -> bool {
    mapping.as_ptr().addr().is_multiple_of(ALIGNMENT)
}

/// How often a mapping is tried with pads.
const ALIGNMENT_ATTEMPTS: u32 = 8;
/// Mappings are aligned to this many bytes: what one entry of a page directory maps.
const ALIGNMENT: usize = 2 << 20;
const _: () = assert!(ALIGNMENT as u64 == MEMORY_GRANULE);

/// Inaccessible mappings before and after a hole, removed when dropped.
struct Pads {
    parts: Vec<(*mut c_void, usize)>,
}

impl Pads {
    #[expect(unsafe_code, reason = "mmap and munmap of address space that nobody else knows")]
    fn around_aligned_hole(length: usize) -> io::Result<Self> {
        let overflow = || io::Error::from(io::ErrorKind::OutOfMemory);
        let reserved = length.checked_add(2 * ALIGNMENT).ok_or_else(overflow)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice: no existing object is affected, and
        // nothing can read or write through it.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                rustix::mm::ProtFlags::empty(),
                rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::NORESERVE,
            )
        }?;
        // The head is at least one unit long and less than two, so a tail of at least a page remains too.
        let head = ALIGNMENT + (ALIGNMENT - start.addr() % ALIGNMENT) % ALIGNMENT;
        let pads = Self {
            parts: [(0, head), (head + length, reserved - head - length)]
                .into_iter()
                .map(|(offset, length)| (start.wrapping_byte_add(offset), length))
                .collect(),
        };
        // SAFETY: the range lies inside the mapping made above, which nobody else refers to, and is given up only here.
        unsafe { rustix::mm::munmap(start.wrapping_byte_add(head), length) }?;
        Ok(pads)
    }
}

impl Drop for Pads {
    #[expect(unsafe_code, reason = "munmap of address space that nobody else knows")]
    fn drop(&mut self) {
        for (start, length) in &self.parts {
            // SAFETY: each part was left mapped by `around_aligned_hole`, is owned by this value alone and unmapped once.
            let _ = unsafe { rustix::mm::munmap(*start, *length) };
        }
    }
}

fn memory_file(flags: MemfdFlags, bytes: u64) -> io::Result<Arc<File>> {
    let descriptor: OwnedFd =
        rustix::fs::memfd_create("guest-memory", flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&descriptor, bytes)?;
    // A process that shares the file could otherwise shrink it and turn every later access into SIGBUS.
    rustix::fs::fcntl_add_seals(&descriptor, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(Arc::new(File::from(descriptor)))
}

/// Tells the host what the mapping of `range` is for.
fn advise(
    spec: &MemorySpec,
    range: &Range<u64>,
    mapping: &MmapRegion<()>,
) -> Result<(), (&'static str, io::Error)> {
    let huge_pages = matches!(spec.backing, MemoryBacking::HugePages { .. });
    let all = 0..mapping.size();
    // What this process writes before the guest runs (tables, parameters) is within the first large page, and to zero the
    // whole of that for a few small ones would take longer than all the rest of building a machine.
    let large = if range.start == 0 { ALIGNMENT.min(all.end)..all.end } else { all.clone() };
    let wanted = [
        (true, &all, libc::MADV_DONTDUMP, "exclude core dumps"),
        (
            spec.transparent_hugepages && !huge_pages,
            &large,
            libc::MADV_HUGEPAGE,
            "ask for transparent huge pages",
        ),
        (spec.mergeable, &all, libc::MADV_MERGEABLE, "let the host merge pages (KSM)"),
        (spec.prefault, &all, libc::MADV_POPULATE_WRITE, "take every page at the start"),
    ];
    for (_, range, advice, what) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
        madvise(mapping, range.clone(), advice).map_err(|error| (what, error))?;
    }
    Ok(())
}

/// `madvise` on `range` (offsets into the mapping).
#[expect(unsafe_code, reason = "madvise on guest memory")]
fn madvise(mapping: &MmapRegion<()>, range: Range<usize>, advice: i32) -> io::Result<()> {
    assert!(range.start <= range.end && range.end <= mapping.size(), "advice outside its mapping");
    // SAFETY: the range lies inside a live mapping of guest memory. Of the advices given in this module, those that
    // change contents set bytes to zero, which any guest could do at any time: guest memory is never borrowed as Rust data.
    let result = unsafe {
        libc::madvise(mapping.as_ptr().wrapping_add(range.start).cast(), range.end - range.start, advice)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Host page size on x86-64.
const PAGE: u64 = 4096;

/// Makes `length` bytes at `start` zero. Whole pages are given back to the host instead of being written, so that zeroing
/// untouched memory costs nothing.
pub(crate) fn zero(
    memory: &GuestMemoryMmap<()>,
    start: GuestAddress,
    length: u64,
) -> Result<(), vm_memory::GuestMemoryError> {
    let end = start.0.saturating_add(length);
    let pages = start.0.checked_next_multiple_of(PAGE).unwrap_or(end)..end - end % PAGE;
    if pages.start < pages.end && discard(memory, pages.clone()) {
        write_zeros(memory, start.0..pages.start)?;
        write_zeros(memory, pages.end..end)
    } else {
        write_zeros(memory, start.0..end)
    }
}

/// Gives whole pages back to the host; `false` if they must be written instead.
fn discard(memory: &GuestMemoryMmap<()>, pages: Range<u64>) -> bool {
    let Some((region, offset)) = memory.to_region_addr(GuestAddress(pages.start)) else { return false };
    let inside = offset.0.checked_add(pages.end - pages.start).is_some_and(|end| end <= region.len());
    if !inside || region.is_hugetlbfs() == Some(true) {
        return false;
    }
    let advice = if region.file_offset().is_some() { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
    let (Ok(from), Ok(length)) = (usize::try_from(offset.0), usize::try_from(pages.end - pages.start)) else {
        return false;
    };
    madvise(region, from..from + length, advice).is_ok()
}

fn write_zeros(memory: &GuestMemoryMmap<()>, range: Range<u64>) -> Result<(), vm_memory::GuestMemoryError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(ZEROS.len() as u64);
        memory.write_slice(&ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())], GuestAddress(at))?;
        at += length;
    }
    Ok(())
}

/// Takes the pages at `start` from the host in one go because they are about to be written: one system call instead of
/// a page fault each. Only faster, never needed, so a refusal is ignored.
pub(crate) fn populate(memory: &GuestMemoryMmap<()>, start: GuestAddress, length: u64) {
    let Some((region, offset)) = memory.to_region_addr(start) else { return };
    let from = offset.0 - offset.0 % PAGE;
    let to = offset.0.saturating_add(length).min(region.len()).next_multiple_of(PAGE);
    if let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to))
        && let Err(error) = madvise(region, from..to, libc::MADV_POPULATE_WRITE)
    {
        tracing::debug!(%error, "cannot populate guest memory ahead of a write");
    }
}

fn check_host_memory(wanted: u64) -> Result<(), MemoryError> {
    let info = rustix::system::sysinfo();
    // The fields are `unsigned long` of the C library: 64 bits here.
    let host = info.totalram.saturating_mul(u64::from(info.mem_unit));
    if wanted > host { Err(MemoryError::MoreThanHost { wanted, host }) } else { Ok(()) }
}

/// Checks that the pool below `pools` (as /sys/kernel/mm/hugepages) can hold the machine.
fn check_huge_pages(pools: &Path, layout: &MemoryLayout, page_bytes: u64) -> Result<(), MemoryError> {
    let pool = pools.join(format!("hugepages-{}kB", page_bytes >> 10));
    if !page_bytes.is_power_of_two() || !pool.is_dir() {
        return Err(MemoryError::NoSuchHugePage { page_bytes, available: huge_page_sizes(pools) });
    }
    let bytes = layout.memory_bytes();
    if layout.ram().any(|range| !(range.end - range.start).is_multiple_of(page_bytes)) {
        return Err(MemoryError::NotWholeHugePages { bytes, page_bytes });
    }
    let number = |name: &str| -> u64 {
        fs::read_to_string(pool.join(name)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    // Reserved pages count as free until they are touched, and surplus ones are made on demand.
    let free = number("free_hugepages").saturating_sub(number("resv_hugepages"));
    let may_grow = number("nr_overcommit_hugepages").saturating_sub(number("surplus_hugepages"));
    let needed = bytes / page_bytes;
    if needed > free.saturating_add(may_grow) {
        return Err(MemoryError::HugePagesExhausted {
            page_bytes,
            needed,
            free,
            total: number("nr_hugepages"),
            setting: pool.join("nr_hugepages"),
        });
    }
    Ok(())
}

fn huge_page_sizes(pools: &Path) -> String {
    let mut sizes: Vec<u64> = fs::read_dir(pools)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    if sizes.is_empty() {
        return "none".to_owned();
    }
    sizes.iter().map(|size| format!("{size} KiB")).collect::<Vec<_>>().join(", ")
}

mod returned;
#[cfg(test)]
mod tests;
