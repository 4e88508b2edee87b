//! Firmware of distributions, as it is: SeaBIOS, and OVMF with its variables.
//!
//! The program ends at 4 GiB, where a processor starts, in a slot that the guest can't write. The variables of UEFI lie below it,
//! in flash memory ([`platform::flash`]) whose file the guest's writes go to. A BIOS also lies at the end of the first MiB, where it
//! runs after it has copied itself; that is RAM from the start.
//!
//! Files are the operator's and checked for size only: what runs in them is the guest's business.

mod image;
pub(crate) mod items;

use std::sync::Arc;

use kvm_host::{MemorySlot, SlotAccess, Vm};
use parking_lot::Mutex;
use platform::Bus;
use platform::flash::{Flash, ReadWindow};
use vm_memory::mmap::{GuestRegionMmap, MmapRegion};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileMemory};

pub(crate) use image::{FirmwareError, FirmwareImage};

use crate::layout::FIRMWARE;

/// End of the first MiB, and how much of a BIOS's end is there (QEMU's pc machines do the same).
const FIRST_MIB: u64 = 1 << 20;
const BIOS_COPY: usize = 128 << 10;

/// Firmware in its place, before the machine's first instruction.
pub(crate) struct Placed {
    /// Slots of the hypervisor for it.
    pub(crate) slots: Vec<MemorySlot>,
    variables: Option<(MemorySlot, u64, Arc<MmapRegion>)>,
}

impl FirmwareImage {
    /// Makes memory of it. Slots are numbered from `first_slot`.
    ///
    /// # Errors
    /// The host has no memory for it, or the variables can't be read.
    pub(crate) fn place(
        &self,
        memory: &GuestMemoryMmap<()>,
        first_slot: u32,
    ) -> Result<Placed, FirmwareError> {
        let code_base = FIRMWARE.end - self.code().len() as u64;
        let code = self.region(self.code(), code_base)?;
        let mut slots = vec![MemorySlot::new(first_slot, &code, SlotAccess::ReadOnly)];
        let mut variables = None;
        match self.read_variables()? {
            Some(content) => {
                let base = code_base - content.len() as u64;
                let region = self.region(&content, base)?;
                let slot = MemorySlot::new(first_slot + 1, &region, SlotAccess::ReadOnly);
                slots.push(slot.clone());
                variables = Some((slot, base, region.get_mmap()));
            }
            None => {
                let copied = &self.code()[self.code().len().saturating_sub(BIOS_COPY)..];
                let place = GuestAddress(FIRST_MIB - copied.len() as u64);
                memory.write_slice(copied, place).map_err(|error| self.memory(error.to_string()))?;
            }
        }
        Ok(Placed { slots, variables })
    }

    fn region(&self, content: &[u8], base: u64) -> Result<GuestRegionMmap<()>, FirmwareError> {
        let mapping = MmapRegion::new(content.len()).map_err(|error| self.memory(error.to_string()))?;
        let slice = mapping.get_slice(0, content.len()).map_err(|error| self.memory(error.to_string()))?;
        slice.copy_from(content);
        GuestRegionMmap::new(mapping, GuestAddress(base))
            .ok_or_else(|| self.memory("the end of the address space".to_owned()))
    }
}

impl Placed {
    /// Puts the flash memory with the variables, if there is one, on the bus.
    ///
    /// # Errors
    /// The place is taken, or the file can't be shared.
    pub(crate) fn plug(self, image: &FirmwareImage, vm: &Arc<Vm>, bus: &Bus) -> Result<(), FirmwareError> {
        let Some((slot, base, mapping)) = self.variables else { return Ok(()) };
        let end = base + mapping.size() as u64;
        let window = SlotWindow { vm: Arc::clone(vm), slot };
        let flash = Flash::new(mapping, image.share_variables()?, Box::new(window));
        bus.insert(base..end, Arc::new(Mutex::new(flash))).map_err(|error| image.memory(error.to_string()))
    }
}

/// A slot of memory that is there while reads see the flash memory's content.
struct SlotWindow {
    vm: Arc<Vm>,
    slot: MemorySlot,
}

impl ReadWindow for SlotWindow {
    fn open(&mut self) -> Result<(), String> {
        self.vm.add_memory(self.slot.clone()).map_err(|error| error.to_string())
    }

    fn close(&mut self) -> Result<(), String> {
        self.vm.remove_memory(self.slot.index()).map_err(|error| error.to_string())
    }
}
