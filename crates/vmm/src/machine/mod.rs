//! The live machine: memory, KVM, board, devices and vCPU threads, built from a specification in one go.
//!
//! The order matters for the time to the first instruction: memory slots before interrupt controllers (then the kernel
//! has no readers to wait for), and everything that only a running guest needs (eventfds, routes, doorbells) is left to
//! the moment when its driver asks for it.
//!
//! Owned by the VM driver. Dropped in the order of the fields: vCPUs leave the guest first, then devices drain, memory
//! goes last.

mod board;
mod disks;
mod error;
mod functions;
mod resources;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvm_host::{Kvm, KvmFlavour, LegacyTimer, MemorySlot, SlotAccess, Topology, Vcpu, VcpuSpec, Vm, VmSpec};
use machine_spec::MachineSpec;
use machine_spec::spec::{BootSpec, CpuTopology, KernelSpec, MemoryBacking};
use parking_lot::Mutex;
use platform::Bus;
use platform::pci::{BarAllocator, PciRoot};
use virtio::balloon::BalloonHandle;
use virtio::console::ConsoleHandle;
use virtio::device::GuestMemory;
use virtio::pci::VirtioPciFunction;
use vm_memory::GuestMemoryBackend;

pub(crate) use error::BuildError;
pub(crate) use resources::HostResources;

use crate::boot::{self, CommandLine, EntryPoint, KernelBoot};
use crate::layout::{self, MemoryLayout};
use crate::vcpu_thread::{AddressSpaces, EventSink, First, VcpuThreads};
use board::Board;

/// The device through which KVM is reached.
const KVM_DEVICE: &str = "/dev/kvm";

/// Longest wait for devices to finish what is in flight when the machine is paused. Storage that does not answer for so
/// long is broken, and the pause is refused rather than waited for.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// One counter of a device.
pub(crate) type DeviceCounters = Vec<(String, Vec<(&'static str, u64)>)>;

/// A machine with a guest in it.
#[derive(Debug)]
pub(crate) struct Machine {
    vcpus: VcpuThreads,
    board: Board,
    functions: Vec<Function>,
    /// The guest has opened or closed channels, and nobody has looked since.
    channels_untold: Arc<AtomicBool>,
    _vm: Arc<Vm>,
    _memory: Arc<GuestMemory>,
}

/// A virtio device on the PCI bus.
#[derive(Debug)]
pub(crate) struct Function {
    /// The device's identifier in the specification.
    pub(crate) id: String,
    /// Its device number on bus 0.
    slot: u8,
    pub(crate) pci: Arc<Mutex<VirtioPciFunction>>,
    pub(crate) counters: functions::Counters,
}

impl Machine {
    /// Builds the machine and its threads; unless it is to wait, the guest runs when this returns.
    pub(crate) fn build(
        spec: &MachineSpec,
        resources: &HostResources,
        events: &EventSink,
        first: First,
    ) -> Result<Self, BuildError> {
        let kvm = Arc::new(Kvm::open(Path::new(KVM_DEVICE))?);
        let machine = Self::assemble(&kvm, spec, resources, events, first);
        // Last, because nobody waits for it; also when there is no machine, because it may be the reason.
        if kvm.flavour() == KvmFlavour::Paravirtual {
            tracing::warn!(
                "this host's KVM is paravirtual: only kernels that are made for it run, stock kernels do not"
            );
        }
        machine
    }

    fn assemble(
        kvm: &Arc<Kvm>,
        spec: &MachineSpec,
        resources: &HostResources,
        events: &EventSink,
        first: First,
    ) -> Result<Self, BuildError> {
        if usize::from(spec.cpus.count) > kvm.max_vcpus() {
            return Err(BuildError::TooManyCpus { wanted: spec.cpus.count, most: kvm.max_vcpus() });
        }
        let topology = topology(spec.cpus.topology)?;
        let layout = MemoryLayout::new(spec.memory.bytes, kvm.address_bits()?)?;
        let memory = Arc::new(crate::memory::build(&spec.memory, &layout)?);
        let mut slots = slots(&memory);
        let firmware = match &resources.firmware {
            Some(image) => {
                let placed = image.place(&memory, u32::try_from(slots.len()).unwrap_or(u32::MAX))?;
                slots.extend(placed.slots.iter().cloned());
                Some((image, placed))
            }
            None => None,
        };
        // Firmware and boot loaders count the ticks of the PC's first timer.
        let timer = if firmware.is_some() { LegacyTimer::Pit } else { LegacyTimer::Absent };
        let vm = Vm::build(kvm, VmSpec { memory: slots, timer })?;
        let mut vcpus = create_vcpus(&vm, topology)?;

        let spaces = AddressSpaces { ports: Arc::new(Bus::new()), memory: Arc::new(Bus::new()) };
        let pci = PciRoot::new(Arc::clone(&spaces.memory), None);
        let board = Board::build(&spaces, &pci, &vm, &layout, resources)?;
        let with_firmware = firmware.is_some();
        if let Some((image, placed)) = firmware {
            placed.plug(image, &vm, &spaces.memory)?;
        }
        let bars = BarAllocator::new(layout::PCI_WINDOW_32, layout.pci_window_64());
        let huge_page_bytes = match spec.memory.backing {
            MemoryBacking::HugePages { page_bytes, .. } => Some(page_bytes),
            MemoryBacking::Anonymous | MemoryBacking::Shared => None,
        };
        let worker = resources.worker.clone();
        let host = functions::Host {
            memory: &memory,
            huge_page_bytes,
            vm: &vm,
            pci: &pci,
            worker,
            firmware: with_firmware,
            events,
        };
        let (functions, channels_untold) = functions::plug_all(spec, resources, &host, bars)?;

        match &spec.boot {
            BootSpec::Kernel(kernel) => {
                let root_pointer = board.write_acpi(&memory, topology, &layout)?;
                start_kernel(kernel, &memory, &layout, root_pointer, &mut vcpus)?;
            }
            BootSpec::Firmware(_) => {
                let order: Vec<String> = functions.iter().filter_map(Function::boot_name).collect();
                board.tell_firmware(&spaces, &pci, &memory, topology, &layout, &order)?;
                enter(&kvm_host::BootState::Reset, &mut vcpus)?;
            }
        }
        let vcpus = VcpuThreads::start(vcpus, &spaces, events, first)
            .map_err(|source| BuildError::Host { what: "starting a vCPU thread".into(), source })?;
        Ok(Self { vcpus, board, functions, channels_untold, _vm: vm, _memory: memory })
    }

    /// Takes the vCPUs out of the guest, then waits until no device has anything in flight. If one does not come to
    /// rest, everything goes on as before.
    pub(crate) fn pause(&self) -> Result<(), String> {
        self.vcpus.pause()?;
        for function in &self.functions {
            function.pci.lock().request_pause();
        }
        let deadline = Instant::now() + DRAIN_PATIENCE;
        for function in &self.functions {
            if !function.wait_paused(deadline) {
                self.resume()?;
                return Err(format!(
                    "device {} still had requests in flight after {} seconds: the machine goes on",
                    function.id,
                    DRAIN_PATIENCE.as_secs()
                ));
            }
        }
        Ok(())
    }

    /// Devices first, then the vCPUs.
    pub(crate) fn resume(&self) -> Result<(), String> {
        for function in &self.functions {
            // A device that cannot start has told its driver that it needs a reset; the others go on.
            if let Err(error) = function.pci.lock().resume() {
                tracing::error!(device = function.id, "{error}");
            }
        }
        if let Some(balloon) = self.balloon() {
            balloon.tell_target();
        }
        self.vcpus.run()
    }

    pub(crate) fn inject_nmi(&self) -> Result<(), String> {
        self.vcpus.nmi()
    }

    pub(crate) fn press_power_button(&self) {
        self.board.press_power_button();
    }

    /// Makes a disk larger and tells its driver.
    pub(crate) fn resize_disk(&self, id: &str, bytes: u64) -> Result<(), String> {
        let disk = self.functions.iter().find_map(|function| match &function.counters {
            functions::Counters::Block(handle) if function.id == id => Some(handle),
            _ => None,
        });
        let disk =
            disk.ok_or_else(|| format!("there is no disk {id:?}: vm.info has the identifiers of all"))?;
        let now = disk.capacity();
        if bytes < now {
            return Err(format!(
                "disk {id} has {now} bytes: a disk of a running machine only grows, not to {bytes} bytes"
            ));
        }
        disk.resize(bytes).map_err(|error| format!("disk {id}: {error}"))
    }

    /// Plugs or pulls the cable of a network interface, and tells its driver.
    pub(crate) fn set_link(&self, id: &str, up: bool) {
        for function in &self.functions {
            if let functions::Counters::Net(handle) = &function.counters
                && function.id == id
            {
                handle.set_link(up);
            }
        }
    }

    /// Names of the channels that somebody in the guest has open.
    pub(crate) fn open_channels(&self) -> Vec<String> {
        // Before the look, so that a change that comes after it is told.
        self.channels_untold.store(false, Ordering::SeqCst);
        let console = self.functions.iter().find_map(|function| match &function.counters {
            functions::Counters::Console(handle) => Some(handle),
            _ => None,
        });
        console.map(ConsoleHandle::open_channels).unwrap_or_default()
    }

    /// How large the balloon is, by what its driver says.
    pub(crate) fn balloon_bytes(&self) -> u64 {
        self.balloon().map_or(0, BalloonHandle::actual_bytes)
    }

    pub(crate) fn balloon(&self) -> Option<&BalloonHandle> {
        self.functions.iter().find_map(|function| match &function.counters {
            functions::Counters::Balloon(handle) => Some(handle),
            _ => None,
        })
    }

    pub(crate) fn counters(&self) -> DeviceCounters {
        self.functions.iter().map(|function| (function.id.clone(), function.counters.read())).collect()
    }
}

impl Function {
    /// What firmware calls it when it is to be booted from (the binding of Open Firmware for PCI; SeaBIOS's src/boot.c).
    fn boot_name(&self) -> Option<String> {
        let slot = self.slot;
        match &self.counters {
            functions::Counters::Block(_) => Some(format!("/pci@i0cf8/scsi@{slot:x}/disk@0,0")),
            functions::Counters::Net(_) => Some(format!("/pci@i0cf8/ethernet@{slot:x}/ethernet-phy@0")),
            _ => None,
        }
    }

    fn wait_paused(&self, deadline: Instant) -> bool {
        loop {
            // Waits a bounded time for the device's worker each time, without spinning.
            if self.pci.lock().poll_paused() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }
}

fn topology(topology: CpuTopology) -> Result<Topology, BuildError> {
    let CpuTopology { threads_per_core, cores_per_die, dies_per_socket, sockets } = topology;
    Ok(Topology::new(sockets.into(), dies_per_socket.into(), cores_per_die.into(), threads_per_core.into())?)
}

fn slots(memory: &GuestMemory) -> Vec<MemorySlot> {
    (0..)
        .zip(memory.iter())
        .map(|(index, region)| MemorySlot::new(index, region, SlotAccess::ReadWrite))
        .collect()
}

fn create_vcpus(vm: &Arc<Vm>, topology: Topology) -> Result<Vec<Vcpu>, BuildError> {
    let spec = VcpuSpec { topology, dedicated: false, nested: false, overrides: Vec::new() };
    let created: Result<_, _> = (0..topology.vcpus()).map(|index| Vcpu::create(vm, index, &spec)).collect();
    Ok(created?)
}

/// Loads a kernel and sets the vCPUs to enter it.
fn start_kernel(
    kernel: &KernelSpec,
    memory: &GuestMemory,
    layout: &MemoryLayout,
    acpi_root_pointer: u64,
    vcpus: &mut [Vcpu],
) -> Result<(), BuildError> {
    let KernelSpec { image, initramfs, command_line } = kernel;
    let command_line = CommandLine::new(command_line)?;
    let boot = KernelBoot {
        kernel: image,
        initramfs: initramfs.as_deref(),
        command_line: &command_line,
        layout,
        acpi_root_pointer,
    };
    enter(&boot_state(boot::load(memory, &boot)?), vcpus)
}

/// Sets the first vCPU to begin in a state; the others wait until it starts them.
fn enter(state: &kvm_host::BootState, vcpus: &mut [Vcpu]) -> Result<(), BuildError> {
    let Some((first, others)) = vcpus.split_first_mut() else {
        return Err(BuildError::Board("a machine without a vCPU".into()));
    };
    first.set_boot_state(state)?;
    for vcpu in others {
        vcpu.set_boot_msrs(state)?;
    }
    Ok(())
}

fn boot_state(entry: EntryPoint) -> kvm_host::BootState {
    match entry {
        EntryPoint::Linux64 { rip, rsi, page_table, gdt_base, .. } => {
            kvm_host::BootState::Long { rip, rsi, rsp: 0, cr3: page_table, gdt: gdt_base }
        }
        EntryPoint::Pvh { eip, ebx } => kvm_host::BootState::Pvh { eip, start_info: ebx },
    }
}
