//! The seam between the PCI host bridge and the functions behind it.

use std::ops::Range;

use crate::register_file::Effect;

/// Number of base address registers of a type 0 header.
pub const BAR_COUNT: usize = 6;

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
}
