//! Loading a kernel into guest memory, and the state in which the first vCPU enters it.
//!
//! Two protocols, told apart by the image's magic number:
//! - a bzImage by the 64-bit Linux boot protocol (Linux `Documentation/arch/x86/boot.rst`), see `bzimage`;
//! - an ELF image with a PVH entry note (Xen `docs/misc/pvh.pandoc`), see `pvh`, which is how a `vmlinux` starts
//!   without unpacking itself.
//!
//! Every file is hostile: headers are read once into this process and checked against the file and the address map
//! before a byte of guest memory is written; the bulk goes straight from the file into guest memory. What does not fit
//! is an error of one line that names the option, the file, the reason and what to do.
//!
//! Nothing is added to the command line, and nothing here knows the hypervisor: the result is plain register contents.
//!
//! Below 1 MiB, in guest-physical memory (all of it free again once the kernel has looked at it, but for the tables):
//!
//! | address | what |
//! |---|---|
//! | 500h | global descriptor table |
//! | 6000h | PVH start info, module list and memory map |
//! | 7000h | Linux zero page |
//! | 9000h | page tables |
//! | 2_0000h | command line |
//! | E_0000h | ACPI tables (reserved in the memory map) |

pub mod command_line;
pub mod e820;

mod bzimage;
mod elf;
mod image;
mod initramfs;
mod long_mode;
mod pvh;

use std::io;
use std::path::{Path, PathBuf};

use vm_memory::{GuestMemoryError, GuestMemoryMmap};

pub use command_line::{CommandLine, CommandLineError};

use crate::layout::MemoryLayout;
use image::ImageFile;

/// Kernels are loaded from here on; below is boot data.
const KERNEL_START: u64 = 0x10_0000;

/// What to start, and where.
#[derive(Debug, Clone, Copy)]
pub struct KernelBoot<'a> {
    /// The kernel image.
    pub kernel: &'a Path,
    /// Initial RAM file system.
    pub initramfs: Option<&'a Path>,
    /// Handed to the kernel as it is.
    pub command_line: &'a CommandLine,
    /// The guest's address map.
    pub layout: &'a MemoryLayout,
    /// Guest-physical address of the ACPI root pointer ([`crate::acpi::AcpiTables::root_pointer`]).
    pub acpi_root_pointer: u64,
}

/// How the first vCPU enters the kernel. Registers that are not named are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryPoint {
    /// 64-bit mode: long mode and paging on, interrupts off, CS `code_selector` (64-bit, execute and read), DS, ES and SS
    /// `data_selector` (flat, read and write). Source: `boot.rst`, "64-bit Boot Protocol".
    Linux64 {
        /// First instruction.
        rip: u64,
        /// Address of the zero page.
        rsi: u64,
        /// CR3: page tables that map all RAM below 4 GiB one to one.
        page_table: u64,
        /// GDTR base.
        gdt_base: u64,
        /// GDTR limit: the table's length less one.
        gdt_limit: u16,
        /// Code segment.
        code_selector: u16,
        /// Data segments.
        data_selector: u16,
    },
    /// 32-bit protected mode: CR0.PE set and no other feature on, CR4 zero, CS flat 32-bit (execute and read), DS, ES and
    /// SS flat (read and write), TR a 32-bit task state segment (base 0, limit 67h), EFLAGS without VM, IF and TF.
    /// Source: Xen `docs/misc/pvh.pandoc`.
    Pvh {
        /// First instruction.
        eip: u32,
        /// Address of the start info.
        ebx: u32,
    },
}

/// Why a guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel can't be used.
    #[error("--kernel {}: {fault}", .path.display())]
    Kernel {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        fault: KernelFault,
    },
    /// The initial RAM file system can't be used.
    #[error("--initramfs {}: {fault}", .path.display())]
    Initramfs {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        fault: InitramfsFault,
    },
    /// The command line can't be used.
    #[error("--cmdline: {0}")]
    CommandLine(#[from] CommandLineError),
    /// Boot data can't be written: the memory is not that of the layout.
    #[error("cannot write boot data into guest memory: {0}")]
    GuestMemory(#[from] GuestMemoryError),
}

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It does not open.
    #[error("cannot open: {0}")]
    Open(io::Error),
    /// A folder, a device, a pipe ...
    #[error("not a regular file")]
    NotRegular,
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It ends before the data that its header, or its length a moment ago, promises.
    #[error("the file is truncated: {needed} bytes are needed and it has {length}: copy it again")]
    Truncated {
        /// Where the data would end.
        needed: u64,
        /// Length of the file.
        length: u64,
    },
    /// The host failed to read it.
    #[error("cannot read: {0}")]
    Read(io::Error),
}

/// What is wrong with a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelFault {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileFault),
    /// No known magic number.
    #[error("not a kernel: expected a bzImage or an ELF image with a PVH entry")]
    NotAKernel,
    /// Older than the 64-bit entry.
    #[error("boot protocol {}.{:02} is too old: use a kernel with 2.12 or later (Linux 3.8)", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// A 32-bit kernel.
    #[error("no 64-bit entry point: use a kernel that is built for x86_64")]
    Not64Bit,
    /// A header field that no kernel has.
    #[error("damaged header: {0}: copy or build the kernel again")]
    BadHeader(&'static str),
    /// ELF, but not something to boot.
    #[error(
        "an ELF file without a PVH entry note: use the bzImage (vmlinuz), or build the kernel with CONFIG_PVH=y"
    )]
    NoPvhEntry,
    /// It does not fit into RAM.
    #[error(
        "the kernel occupies {start:#x}..{end:#x} and the guest has RAM for it at {:#x}..{ram_end:#x}: \
         give the guest more memory (--memory) or use a smaller kernel",
        KERNEL_START
    )]
    DoesNotFit {
        /// First address that the kernel needs.
        start: u64,
        /// End of what it needs.
        end: u64,
        /// End of RAM below 4 GiB.
        ram_end: u64,
    },
    /// Two parts of the image have the same place.
    #[error("damaged image: two segments overlap at {0:#x}: copy or build the kernel again")]
    SegmentsOverlap(u64),
    /// The entry is not in what was loaded.
    #[error(
        "damaged image: the entry point {0:#x} is outside of every segment: copy or build the kernel again"
    )]
    EntryOutside(u64),
}

/// What is wrong with an initial RAM file system.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsFault {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileFault),
    /// No room between the kernel and the end of RAM.
    #[error(
        "{} MiB do not fit between the kernel's end and {} MiB: give the guest more memory (--memory)",
        .bytes.div_ceil(1 << 20), .limit >> 20
    )]
    DoesNotFit {
        /// Its length.
        bytes: u64,
        /// Where it must end at the latest.
        limit: u64,
    },
}

/// Loads the kernel and all it needs into `memory`, which must be mapped as `boot.layout` says. May be called again on
/// memory that a guest has used, to start it anew.
pub fn load(memory: &GuestMemoryMmap<()>, boot: &KernelBoot<'_>) -> Result<EntryPoint, BootError> {
    let kernel = ImageFile::open(boot.kernel).map_err(|fault| boot.kernel_error(fault))?;
    let mut magic = [0; 4];
    if kernel.length() >= 4 {
        kernel.read_at(&mut magic, 0).map_err(|fault| boot.kernel_error(fault))?;
    }
    if magic == elf::MAGIC { pvh::load(memory, boot, &kernel) } else { bzimage::load(memory, boot, &kernel) }
}

impl KernelBoot<'_> {
    fn kernel_error(&self, fault: impl Into<KernelFault>) -> BootError {
        BootError::Kernel { path: self.kernel.to_owned(), fault: fault.into() }
    }
}

#[cfg(test)]
mod tests;
