//! One virtual machine: the order in which it is built, and what is shared by its vCPUs and devices.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use parking_lot::Mutex;
use platform::{Doorbells, InterruptError};

use crate::host::{Kvm, KvmError, refused};
use crate::interrupt::{GsiLine, LineLevels, MsiFunction, Routes, event_of};
use crate::memory::{MemorySlot, SlotTable};

/// Where Intel processors without unrestricted guests keep a page table for real mode. Only they use it; firmware and
/// memory maps must leave this page and the three of [`TSS_ADDRESS`] free (KVM API, KVM_SET_IDENTITY_MAP_ADDR).
pub const IDENTITY_MAP_ADDRESS: u64 = 0xfeff_c000;
/// Where they keep a task state segment for real mode: three pages (KVM API, KVM_SET_TSS_ADDR).
pub const TSS_ADDRESS: u64 = IDENTITY_MAP_ADDRESS + 0x1000;

/// Whether the machine has the timer of the first PCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LegacyTimer {
    /// None: the guest uses the local APIC's timer and kvmclock.
    #[default]
    Absent,
    /// An 8254 (PIT) in the kernel, on GSI 0, with the speaker port 61h that calibration loops read.
    Pit,
}

/// What a virtual machine has from the beginning.
#[derive(Debug, Default)]
pub struct VmSpec {
    /// Memory. Slots set here cost little; a slot set later makes the kernel wait for its readers.
    pub memory: Vec<MemorySlot>,
    /// The PC's first timer.
    pub timer: LegacyTimer,
}

/// One virtual machine with its interrupt controllers (two 8259s, an I/O APIC with 24 pins, a local APIC a vCPU).
///
/// The kernel routes GSI n to pin n of the I/O APIC, and below 16 to the 8259s too: no interrupt source override is
/// needed in the MADT, not even for the timer.
#[derive(Debug)]
pub struct Vm {
    pub(crate) fd: VmFd,
    pub(crate) kvm: Arc<Kvm>,
    pub(crate) routes: Mutex<Routes>,
    pub(crate) slots: Mutex<SlotTable>,
    pub(crate) lines: LineLevels,
}

impl Vm {
    /// Builds the machine: memory first, then the interrupt controllers (in this order the kernel has nobody to wait for).
    pub fn build(kvm: &Arc<Kvm>, spec: VmSpec) -> Result<Arc<Self>, KvmError> {
        let fd = create(kvm)?;
        let mut slots = SlotTable::default();
        for slot in spec.memory {
            slots.set(&fd, slot)?;
        }
        if kvm.on_intel()? {
            fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
                .map_err(refused("placing the real mode page table"))?;
            let address = usize::try_from(TSS_ADDRESS).expect("a 64-bit host");
            fd.set_tss_address(address).map_err(refused("placing the real mode task state segment"))?;
        }
        fd.create_irq_chip().map_err(refused("creating the interrupt controllers"))?;
        if spec.timer == LegacyTimer::Pit {
            let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
            fd.create_pit2(config).map_err(refused("creating the PIT"))?;
        }
        let routes = Mutex::new(Routes::new());
        Ok(Arc::new(Self {
            fd,
            kvm: Arc::clone(kvm),
            routes,
            slots: Mutex::new(slots),
            lines: LineLevels::default(),
        }))
    }

    /// The KVM that this machine runs on.
    pub fn kvm(&self) -> &Arc<Kvm> {
        &self.kvm
    }

    /// Adds memory to the running machine. The kernel refuses a range that overlaps another slot.
    pub fn add_memory(&self, slot: MemorySlot) -> Result<(), KvmError> {
        self.slots.lock().set(&self.fd, slot)
    }

    /// Takes the memory slot `index` away from the running machine.
    pub fn remove_memory(&self, index: u32) -> Result<(), KvmError> {
        self.slots.lock().remove(&self.fd, index)
    }

    /// The pages (4 KiB each, one bit a page) of a logged slot that were written since the last call.
    pub fn dirty_pages(&self, index: u32) -> Result<Vec<u64>, KvmError> {
        self.slots.lock().dirty_pages(&self.fd, index)
    }

    /// The interrupt line `gsi`, below 24.
    pub fn interrupt_line(self: &Arc<Self>, gsi: u32) -> Result<GsiLine, KvmError> {
        GsiLine::new(Arc::clone(self), gsi)
    }

    /// The message signalled interrupts of one PCI function that has `vectors` of them (at most 2048).
    pub fn msi_function(self: &Arc<Self>, vectors: u16) -> Result<MsiFunction, KvmError> {
        MsiFunction::new(Arc::clone(self), vectors)
    }
}

fn create(kvm: &Kvm) -> Result<VmFd, KvmError> {
    loop {
        match kvm.fd.create_vm() {
            // The kernel gives up on a signal while it waits for memory.
            Err(error) if error.errno() == libc::EINTR => {}
            other => return other.map_err(refused("creating a virtual machine")),
        }
    }
}

impl Doorbells for Vm {
    fn bind(&self, address: u64, event: BorrowedFd<'_>) -> Result<(), InterruptError> {
        // The kernel bounds the doorbells of one machine (1000), so a guest can't make it keep more.
        self.fd
            .register_ioevent(&event_of(event), &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(doorbell_error("binding", address, event))
    }

    fn unbind(&self, address: u64, event: BorrowedFd<'_>) -> Result<(), InterruptError> {
        self.fd
            .unregister_ioevent(&event_of(event), &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(doorbell_error("unbinding", address, event))
    }
}

fn doorbell_error(
    verb: &'static str,
    address: u64,
    event: BorrowedFd<'_>,
) -> impl FnOnce(kvm_ioctls::Error) -> InterruptError {
    let event = event.as_raw_fd();
    move |error| InterruptError {
        what: format!("{verb} the doorbell at {address:#x} (descriptor {event})"),
        source: error.into(),
    }
}
