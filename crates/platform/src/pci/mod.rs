//! PCI Express as the guest sees it: one root bus with a q35-shaped host bridge, and the functions on it.
//!
//! - [`PciFunction`]: the seam between the host bridge and a function behind it.
//! - [`ConfigSpace`]: the type 0 header, base address registers and capabilities that a function is built from.
//! - [`PciRoot`] with its faces [`Ecam`] and [`ConfigPorts`]: finds the function, moves its BARs on the memory bus.
//! - [`HostBridge`] and [`LpcBridge`]: the two functions that make firmware and kernels take the board for a q35.
//! - [`BarAllocator`]: addresses for BARs where no firmware hands them out.
//! - [`Msix`]: the MSI-X table and pending bits of one function, and the side of it that device threads use.
//!
//! Specifications: PCI Local Bus 3.0 (chapter 6: configuration space, 6.8: MSI-X), PCI Express Base 5.0 (7.2: ECAM,
//! 7.5.3: PCI Express capability). Offsets, widths and values come from the guest and are never trusted.

pub mod bar_allocator;
pub mod bridges;
pub mod config_space;
pub mod msix;
pub mod root;

use std::ops::Range;

pub use bar_allocator::{BarAllocator, NoRoom};
pub use bridges::{HostBridge, LpcBridge};
pub use config_space::{BarWidth, Class, ConfigError, ConfigSpace, Identity, MsixPlace, Prefetch};
pub use msix::{Msix, Notified};
pub use root::{ConfigMirror, ConfigPorts, DeviceFunction, Ecam, PciError, PciRoot};

use crate::register_file::Effect;

/// Number of base address registers of a type 0 header.
pub const BAR_COUNT: usize = 6;

/// Bytes of configuration space that a function has (PCI Express Base 5.0, section 7.2.2).
pub const CONFIG_SPACE_BYTES: u16 = 4096;

/// One PCI function: its configuration space and what its base address registers decode.
///
/// Called by vCPU threads with only the function's own lock held. The host bridge compares [`PciFunction::decoded`]
/// before and after every configuration write and moves the ranges on the bus accordingly, so a function never
/// touches the bus itself.
pub trait PciFunction: Send {
    /// Reads configuration space. `offset + data.len()` is at most 4096 and the access does not cross a dword.
    fn read_config(&mut self, offset: u16, data: &mut [u8]);

    /// Writes configuration space, under the same conditions.
    fn write_config(&mut self, offset: u16, data: &[u8]) -> Effect;

    /// The address range that each memory BAR decodes now: `None` where there is none, where memory decoding is off in
    /// the command register, or for the upper half of a 64-bit BAR.
    fn decoded(&self) -> [Option<Range<u64>>; BAR_COUNT];

    /// Reads at `offset` into what `bar` decodes, as [`crate::RegisterFile::read`].
    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes at `offset` into what `bar` decodes, as [`crate::RegisterFile::write`].
    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) -> Effect;

    /// Whether configuration reads have no side effects and return only what configuration writes have set, so that a
    /// copy may answer them without an exit. Asked after each configuration write. A function whose device changes its
    /// configuration space by itself, or that has a window with side effects open (virtio's `VIRTIO_PCI_CAP_PCI_CFG`),
    /// must answer false while that is so.
    fn mirrorable(&self) -> bool {
        false
    }
}
