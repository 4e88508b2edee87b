//! Guest memory as KVM sees it: one slot for each region of host memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::mmap::{GuestRegionMmap, MmapRegion};
use vm_memory::{GuestMemoryRegion, VolatileMemory};

use crate::host::{KvmError, refused};

/// What the guest may do with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotAccess {
    /// Read, write and execute.
    ReadWrite,
    /// Read and execute; a write exits as an MMIO write (flash and other ROMs).
    ReadOnly,
    /// Read, write and execute; written pages are recorded for [`crate::Vm::dirty_pages`].
    Logged,
}

/// A range of guest-physical addresses backed by host memory.
#[derive(Debug, Clone)]
pub struct MemorySlot {
    index: u32,
    guest_base: u64,
    mapping: Arc<MmapRegion>,
    access: SlotAccess,
}

impl MemorySlot {
    /// Slot number `index`, which is `region` at its guest-physical address. The slot keeps the mapping alive.
    pub fn new(index: u32, region: &GuestRegionMmap, access: SlotAccess) -> Self {
        Self { index, guest_base: region.start_addr().0, mapping: region.get_mmap(), access }
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    fn request(&self) -> kvm_userspace_memory_region {
        let flags = match self.access {
            SlotAccess::ReadWrite => 0,
            SlotAccess::ReadOnly => KVM_MEM_READONLY,
            SlotAccess::Logged => KVM_MEM_LOG_DIRTY_PAGES,
        };
        kvm_userspace_memory_region {
            slot: self.index,
            flags,
            guest_phys_addr: self.guest_base,
            memory_size: self.mapping.size() as u64,
            userspace_addr: self.mapping.as_ptr() as u64,
        }
    }
}

/// The slots that the kernel has now; keeps what they map alive.
#[derive(Debug, Default)]
pub(crate) struct SlotTable {
    slots: BTreeMap<u32, MemorySlot>,
}

impl SlotTable {
    pub(crate) fn set(&mut self, fd: &VmFd, slot: MemorySlot) -> Result<(), KvmError> {
        install(fd, &slot)?;
        self.slots.insert(slot.index, slot);
        Ok(())
    }

    pub(crate) fn remove(&mut self, fd: &VmFd, index: u32) -> Result<(), KvmError> {
        let slot = self
            .slots
            .get(&index)
            .ok_or_else(|| KvmError::Impossible(format!("there is no memory slot {index}")))?;
        delete(fd, slot)?;
        self.slots.remove(&index);
        Ok(())
    }

    /// One bit a page of 4 KiB, set if the page was written since the last call.
    pub(crate) fn dirty_pages(&self, fd: &VmFd, index: u32) -> Result<Vec<u64>, KvmError> {
        let slot =
            self.slots.get(&index).filter(|slot| slot.access == SlotAccess::Logged).ok_or_else(|| {
                KvmError::Impossible(format!("there is no memory slot {index} whose writes are logged"))
            })?;
        fd.get_dirty_log(index, slot.mapping.size())
            .map_err(refused(format!("reading the dirty log of memory slot {index}")))
    }

    /// Copies guest memory into `data` as far as it is there; returns the number of bytes copied.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) -> usize {
        let slot = self.slots.values().find(|slot| {
            address >= slot.guest_base && address - slot.guest_base < slot.mapping.size() as u64
        });
        let Some(slot) = slot else { return 0 };
        let Ok(offset) = usize::try_from(address - slot.guest_base) else { return 0 };
        let length = data.len().min(slot.mapping.size() - offset);
        slot.mapping.get_slice(offset, length).map_or(0, |slice| slice.copy_to(&mut data[..length]))
    }
}

#[expect(unsafe_code, reason = "KVM maps host memory by its address")]
fn install(fd: &VmFd, slot: &MemorySlot) -> Result<(), KvmError> {
    // SAFETY: the address and size are those of a live mapping, which the slot table keeps until the kernel has let go of
    // the slot or the machine is gone. The kernel refuses a slot that overlaps another.
    unsafe { fd.set_user_memory_region(slot.request()) }.map_err(refused(format!(
        "setting memory slot {} at {:#x}, {} bytes",
        slot.index,
        slot.guest_base,
        slot.mapping.size()
    )))
}

#[expect(unsafe_code, reason = "the same request deletes a slot")]
fn delete(fd: &VmFd, slot: &MemorySlot) -> Result<(), KvmError> {
    let request = kvm_userspace_memory_region { memory_size: 0, flags: 0, ..slot.request() };
    // SAFETY: a size of zero deletes the slot, no memory is given away.
    unsafe { fd.set_user_memory_region(request) }
        .map_err(refused(format!("removing memory slot {}", slot.index)))
}
