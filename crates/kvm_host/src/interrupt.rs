//! Interrupts: lines of the interrupt controllers, and message signalled interrupts with or without a descriptor.
//!
//! A message that this process sends needs no host resource (KVM_SIGNAL_MSI). A vector gets an eventfd, a GSI and a route
//! when somebody first asks for its descriptor, which only devices in the kernel need: machines without such devices
//! never replace the routing table, which makes the kernel wait for all its readers.
//!
//! Locks: a vector's, then the machine's routes. Both are held during a request to the kernel that programs a route,
//! never while anything is waited for.

use std::collections::BTreeSet;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi,
};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use platform::{InterruptError, InterruptLine, MsiMessage, MsiSink};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::host::KvmError;
use crate::vm::Vm;

/// Pins of the I/O APIC that the kernel emulates.
const IOAPIC_PINS: u32 = 24;
/// Interrupts that the two 8259s take.
const PIC_PINS: u32 = 16;
/// Most vectors of a PCI function (PCI 3.0, section 6.8.2: an 11-bit table size).
const MAX_VECTORS: u16 = 2048;
/// Most GSIs with a message route, over the whole machine: bounds what a guest with many functions makes the host keep,
/// and stays, with the routes of the lines, below the kernel's 4096 (KVM_MAX_IRQ_ROUTES).
const MAX_MESSAGE_ROUTES: usize = 4000;

/// Lends `fd` to an interface that wants an `EventFd`.
#[expect(unsafe_code, reason = "EventFd can only be made from a raw descriptor")]
pub(crate) fn event_of(fd: BorrowedFd<'_>) -> ManuallyDrop<EventFd> {
    // SAFETY: the descriptor is open for as long as the borrow, which the callers' use does not outlive, and ManuallyDrop
    // keeps the EventFd from closing it.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd.as_raw_fd()) })
}

/// How many users hold each input of the interrupt controllers high: PCI functions share them (wired or).
pub(crate) type LineLevels = [Mutex<u32>; IOAPIC_PINS as usize];

/// One user's connection to an input of the interrupt controllers, which is high while one of its users holds it so.
#[derive(Debug)]
pub struct GsiLine {
    vm: Arc<Vm>,
    gsi: u32,
    /// Whether this user holds the line high. Changed under the lock of the line's level.
    high: AtomicBool,
}

impl GsiLine {
    pub(crate) fn new(vm: Arc<Vm>, gsi: u32) -> Result<Self, KvmError> {
        if gsi >= IOAPIC_PINS {
            return Err(KvmError::Impossible(format!("interrupt line {gsi} does not exist, the last is 23")));
        }
        Ok(Self { vm, gsi, high: AtomicBool::new(false) })
    }
}

impl InterruptLine for GsiLine {
    fn set_level(&self, high: bool) {
        let mut users = self.vm.lines[self.gsi as usize].lock();
        if self.high.swap(high, Ordering::Relaxed) == high {
            return;
        }
        let before = *users;
        *users = if high { before + 1 } else { before - 1 };
        if (before == 0) != (*users == 0) {
            // Refused only for a machine without interrupt controllers or a pin that does not exist; neither is possible.
            let _ = self.vm.fd.set_irq_line(self.gsi, high);
        }
    }
}

impl Drop for GsiLine {
    fn drop(&mut self) {
        self.set_level(false);
    }
}

/// The machine's interrupt routing table: the lines' fixed routes, then one for each GSI that carries a message.
#[derive(Debug)]
pub(crate) struct Routes {
    entries: Vec<kvm_irq_routing_entry>,
    taken: BTreeSet<u32>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self { entries: line_routes(), taken: BTreeSet::new() }
    }

    /// Takes the lowest GSI that is free.
    fn allocate(&mut self) -> Option<u32> {
        if self.taken.len() >= MAX_MESSAGE_ROUTES {
            return None;
        }
        let gsi = (IOAPIC_PINS..).find(|gsi| !self.taken.contains(gsi))?;
        self.taken.insert(gsi);
        Some(gsi)
    }

    /// Gives a GSI back. Its route disappears with the next change of the table; nothing raises it until then.
    fn release(&mut self, gsi: u32) {
        self.taken.remove(&gsi);
        self.entries.retain(|entry| entry.gsi != gsi);
    }

    /// Routes `gsi` to `message`; whether that differs from before is told by whether the kernel is asked.
    fn set(&mut self, fd: &VmFd, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let wanted = message_route(gsi, message);
        let position = self.entries.iter().position(|entry| entry.gsi == gsi);
        let before = position.map(|position| self.entries[position]);
        match position {
            Some(position) if same_message(&self.entries[position], &wanted) => return Ok(()),
            Some(position) => self.entries[position] = wanted,
            None => self.entries.push(wanted),
        }
        let outcome = KvmIrqRouting::from_entries(&self.entries)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENOSPC))
            .and_then(|table| fd.set_gsi_routing(&table).map_err(io::Error::from));
        if outcome.is_err() {
            // A message that the kernel refuses must not spoil every later table.
            match (position, before) {
                (Some(position), Some(before)) => self.entries[position] = before,
                _ => drop(self.entries.pop()),
            }
        }
        outcome
    }
}

/// The routes that the kernel makes with its interrupt controllers.
fn line_routes() -> Vec<kvm_irq_routing_entry> {
    let mut routes = Vec::new();
    for gsi in 0..IOAPIC_PINS {
        if gsi < PIC_PINS {
            let chip = if gsi < PIC_PINS / 2 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
            routes.push(pin_route(gsi, chip, gsi % (PIC_PINS / 2)));
        }
        routes.push(pin_route(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    }
    routes
}

fn pin_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    route.u.irqchip.irqchip = irqchip;
    route.u.irqchip.pin = pin;
    route
}

fn message_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let (low, high) = halves(message.address);
    route.u.msi.address_lo = low;
    route.u.msi.address_hi = high;
    route.u.msi.data = message.data;
    route
}

#[expect(unsafe_code, reason = "the route is a union")]
fn same_message(a: &kvm_irq_routing_entry, b: &kvm_irq_routing_entry) -> bool {
    // SAFETY: every entry above the lines' is made by `message_route`, so the union holds a message; all its fields are
    // plain integers that were zeroed first.
    let (a, b) = unsafe { (a.u.msi, b.u.msi) };
    (a.address_lo, a.address_hi, a.data) == (b.address_lo, b.address_hi, b.data)
}

fn halves(address: u64) -> (u32, u32) {
    ((address & 0xffff_ffff) as u32, (address >> 32) as u32)
}

/// The message signalled interrupts of one PCI function.
#[derive(Debug)]
pub struct MsiFunction {
    vm: Arc<Vm>,
    vectors: Box<[Vector]>,
}

#[derive(Debug, Default)]
struct Vector {
    state: Mutex<VectorState>,
    /// Set once, under the state's lock.
    wire: OnceLock<Wire>,
}

#[derive(Debug, Default, Clone, Copy)]
struct VectorState {
    message: Option<MsiMessage>,
    /// The wire's event is connected to its GSI.
    connected: bool,
}

#[derive(Debug)]
struct Wire {
    event: EventFd,
    gsi: u32,
}

impl MsiFunction {
    pub(crate) fn new(vm: Arc<Vm>, vectors: u16) -> Result<Self, KvmError> {
        if vectors > MAX_VECTORS {
            return Err(KvmError::Impossible(format!("{vectors} vectors are too many, the most is 2048")));
        }
        let vectors = std::iter::repeat_with(Vector::default).take(usize::from(vectors)).collect();
        Ok(Self { vm, vectors })
    }

    /// Makes the kernel's side of a wired vector follow its message.
    fn rewire(&self, wire: &Wire, state: &mut VectorState) -> io::Result<()> {
        match state.message {
            Some(message) => {
                self.vm.routes.lock().set(&self.vm.fd, wire.gsi, message)?;
                if !state.connected {
                    // An event that came while nothing was connected is delivered now.
                    self.vm.fd.register_irqfd(&wire.event, wire.gsi)?;
                    state.connected = true;
                }
            }
            None if state.connected => {
                self.vm.fd.unregister_irqfd(&wire.event, wire.gsi)?;
                state.connected = false;
            }
            None => {}
        }
        Ok(())
    }

    fn make_wire(&self) -> io::Result<Wire> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let gsi = self.vm.routes.lock().allocate();
        Ok(Wire {
            event,
            gsi: gsi.ok_or_else(|| io::Error::other("the machine has no free interrupt route"))?,
        })
    }
}

impl MsiSink for MsiFunction {
    fn program(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        let error =
            |source| InterruptError { what: format!("programming interrupt vector {vector}"), source };
        let Some(slot) = self.vectors.get(usize::from(vector)) else {
            return Err(error(io::Error::other("the function has no such vector")));
        };
        let mut state = slot.state.lock();
        state.message = message;
        match slot.wire.get() {
            Some(wire) => self.rewire(wire, &mut state).map_err(error),
            None => Ok(()),
        }
    }

    fn signal(&self, vector: u16) {
        let Some(slot) = self.vectors.get(usize::from(vector)) else { return };
        let message = slot.state.lock().message;
        if let Some(message) = message {
            let (address_lo, address_hi) = halves(message.address);
            let request = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
            // Refused only where the guest programmed an address that no interrupt controller has: its own loss.
            let _ = self.vm.fd.signal_msi(request);
        }
    }

    /// Some, even before the vector is programmed: what arrives until then is delivered when it is.
    fn event(&self, vector: u16) -> Option<BorrowedFd<'_>> {
        let slot = self.vectors.get(usize::from(vector))?;
        if slot.wire.get().is_none() {
            let mut state = slot.state.lock();
            if slot.wire.get().is_none() {
                let wire = match self.make_wire() {
                    Ok(wire) => wire,
                    Err(error) => {
                        tracing::warn!(vector, %error, "no interrupt descriptor for a device in the kernel");
                        return None;
                    }
                };
                if let Err(error) = self.rewire(&wire, &mut state) {
                    tracing::warn!(vector, %error, "cannot route an interrupt for a device in the kernel");
                    self.vm.routes.lock().release(wire.gsi);
                    return None;
                }
                let _ = slot.wire.set(wire);
            }
        }
        slot.wire.get().map(|wire| lend(&wire.event))
    }
}

#[expect(unsafe_code, reason = "EventFd lends only a raw descriptor")]
fn lend(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the EventFd, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

impl Drop for MsiFunction {
    fn drop(&mut self) {
        for slot in &self.vectors {
            let Some(wire) = slot.wire.get() else { continue };
            if slot.state.lock().connected {
                // It was connected by this very pair; nothing else takes it off.
                let _ = self.vm.fd.unregister_irqfd(&wire.event, wire.gsi);
            }
            self.vm.routes.lock().release(wire.gsi);
        }
    }
}
