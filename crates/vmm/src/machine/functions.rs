//! Virtio devices on the PCI bus: from each part of the specification to a plugged function.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvm_host::Vm;
use machine_spec::MachineSpec;
use machine_spec::spec::{BalloonSpec, ConsolePortSpec, DiskSpec, NetSpec, RngSpec};
use parking_lot::Mutex;
use platform::InterruptLine;
use platform::pci::{BarAllocator, BarWidth, DeviceFunction, PciRoot};
use platform::worker::WorkerHandle;
use virtio::balloon::{Balloon, BalloonConfig, BalloonHandle};
use virtio::block::{Block, BlockConfig, BlockCounters, BlockHandle};
use virtio::console::{Console, ConsoleConfig, ConsoleHandle, PortConfig, PortWatcher};
use virtio::device::{GuestMemory, VirtioDevice};
use virtio::net::{Net, NetConfig, NetHandle};
use virtio::pci::{PciPlace, PciWires, VirtioPciFunction};
use virtio::rng::{Rng, RngConfig, RngHandle};

use super::Function;
use super::error::BuildError;
use super::resources::HostResources;
use crate::acpi::intx_interrupt;
use crate::memory::ReturnedPages;
use crate::vcpu_thread::{EventSink, GuestEvent};

/// Device numbers on bus 0 that functions can have: 0 is the host bridge, 31 the LPC bridge.
const SLOTS: std::ops::Range<u8> = 1..31;

/// Entries in the entropy device's queue: a few requests are in flight at most.
const RNG_QUEUE_SIZE: u16 = 64;

/// What functions are plugged into.
pub(super) struct Host<'a> {
    pub(super) memory: &'a Arc<GuestMemory>,
    /// Size of the huge pages that the memory is made of, if it is.
    pub(super) huge_page_bytes: Option<u64>,
    pub(super) vm: &'a Arc<Vm>,
    pub(super) pci: &'a Arc<PciRoot>,
    pub(super) worker: WorkerHandle,
    /// Firmware places the functions' registers.
    pub(super) firmware: bool,
    /// Who hears of channels that are opened and closed, and of another size of the balloon.
    pub(super) events: &'a EventSink,
}

/// Where a device's counters are read.
#[derive(Debug)]
pub(crate) enum Counters {
    Block(BlockHandle),
    Net(NetHandle),
    Rng(RngHandle),
    Console(ConsoleHandle),
    Balloon(BalloonHandle),
}

impl Counters {
    /// The counters by the names that the control API gives them.
    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Block(handle) => {
                let counters = handle.counters();
                vec![
                    ("read_bytes", counters.read_bytes.get()),
                    ("read_ops", counters.reads.get()),
                    ("read_nanoseconds", counters.read_nanoseconds.get()),
                    ("write_bytes", counters.write_bytes.get()),
                    ("write_ops", counters.writes.get()),
                    ("write_nanoseconds", counters.write_nanoseconds.get()),
                    ("flush_ops", counters.flushes.get()),
                    ("flush_nanoseconds", counters.flush_nanoseconds.get()),
                    ("discard_ops", counters.discards.get()),
                    ("write_zeroes_ops", counters.write_zeroes.get()),
                    ("errors", counters.errors.get()),
                ]
            }
            Self::Net(handle) => {
                let counters = handle.counters();
                vec![
                    ("rx_bytes", counters.rx_bytes.get()),
                    ("rx_frames", counters.rx_frames.get()),
                    ("rx_dropped", counters.rx_dropped.get()),
                    ("rx_errors", counters.rx_errors.get()),
                    ("tx_bytes", counters.tx_bytes.get()),
                    ("tx_frames", counters.tx_frames.get()),
                    ("tx_dropped", counters.tx_dropped.get()),
                    ("tx_errors", counters.tx_errors.get()),
                ]
            }
            Self::Rng(handle) => vec![("read_bytes", handle.counters().bytes.get())],
            Self::Console(handle) => {
                let ports = || (0..).map_while(|port| handle.counters(port));
                let received = ports().map(|port| port.input_bytes.get()).sum();
                let sent = ports().map(|port| port.output_bytes.get()).sum();
                vec![("rx_bytes", received), ("tx_bytes", sent)]
            }
            Self::Balloon(handle) => balloon(handle),
        }
    }
}

/// A balloon's counters, and the guest's figures as they were last told: the guest is asked for new ones, which the next
/// call has.
fn balloon(handle: &BalloonHandle) -> Vec<(&'static str, u64)> {
    let counters = handle.counters();
    let mut values = vec![
        ("actual_bytes", handle.actual_bytes()),
        ("target_bytes", handle.target_bytes()),
        ("inflated_pages", counters.inflated_pages.get()),
        ("deflated_pages", counters.deflated_pages.get()),
        ("reported_bytes", counters.reported_bytes.get()),
        ("refused_pages", counters.refused_pages.get()),
        ("errors", counters.errors.get()),
    ];
    if let Some(statistics) = handle.statistics() {
        let age = statistics.arrived.elapsed().as_millis();
        values.push(("statistics_age_ms", u64::try_from(age).unwrap_or(u64::MAX)));
        values.extend(statistics.figures());
    }
    handle.request_statistics();
    values
}

/// Builds and plugs every virtio device of `spec`: disks first, so that they have the same place whatever else there is. Comes with
/// whether channels have changed since somebody looked.
pub(super) fn plug_all(
    spec: &MachineSpec,
    resources: &HostResources,
    host: &Host<'_>,
    bars: BarAllocator,
) -> Result<(Vec<Function>, Arc<AtomicBool>), BuildError> {
    let channels_untold = Arc::new(AtomicBool::new(false));
    let mut plugger = Plugger { host, bars, slots: SLOTS, functions: Vec::new(), channels_untold };
    for ((disk, backend), counters) in spec.disks.iter().zip(&resources.disks).zip(&resources.disk_counters) {
        plugger.disk(disk, backend, counters)?;
    }
    for (index, net) in spec.nets.iter().enumerate() {
        plugger.net(net, resources.net_backends(index)?)?;
    }
    if let Some(rng) = &spec.rng {
        plugger.rng(rng)?;
    }
    if !spec.console_ports.is_empty() {
        plugger.console(&spec.console_ports, resources)?;
    }
    if let Some(balloon) = &spec.balloon {
        plugger.balloon(balloon)?;
    }
    Ok((plugger.functions, plugger.channels_untold))
}

struct Plugger<'a> {
    host: &'a Host<'a>,
    bars: BarAllocator,
    slots: std::ops::Range<u8>,
    functions: Vec<Function>,
    channels_untold: Arc<AtomicBool>,
}

impl Plugger<'_> {
    fn disk(
        &mut self,
        spec: &DiskSpec,
        backend: &Arc<dyn block_io::BlockBackend>,
        counters: &Arc<BlockCounters>,
    ) -> Result<(), BuildError> {
        let config = BlockConfig {
            backend: Arc::clone(backend),
            queues: spec.queues,
            queue_size: spec.queue_size,
            serial: spec.serial.clone().unwrap_or_default(),
            discard: spec.discard,
            workers: vec![self.host.worker.clone()],
            counters: Arc::clone(counters),
        };
        let block = Block::build(config).map_err(device_error(&spec.id))?;
        let counters = Counters::Block(block.handle());
        self.plug(&spec.id, Box::new(block), counters)
    }

    fn net(&mut self, spec: &NetSpec, backends: Vec<Box<dyn net_io::NetBackend>>) -> Result<(), BuildError> {
        let config = NetConfig {
            backends,
            mac: spec.mac,
            mtu: spec.mtu,
            link_up: spec.link_up,
            queue_size: spec.queue_size,
            workers: vec![self.host.worker.clone()],
        };
        let net = Net::build(config).map_err(device_error(&spec.id))?;
        let counters = Counters::Net(net.handle());
        self.plug(&spec.id, Box::new(net), counters)
    }

    fn rng(&mut self, spec: &RngSpec) -> Result<(), BuildError> {
        let config = RngConfig {
            source: spec.source.clone(),
            queue_size: RNG_QUEUE_SIZE,
            worker: self.host.worker.clone(),
        };
        let rng = Rng::build(config).map_err(device_error("--rng"))?;
        let counters = Counters::Rng(rng.handle());
        self.plug("_rng", Box::new(rng), counters)
    }

    fn console(&mut self, ports: &[ConsolePortSpec], resources: &HostResources) -> Result<(), BuildError> {
        let ports = ports
            .iter()
            .zip(&resources.console_ports)
            .map(|(port, backend)| PortConfig {
                name: port.name.clone(),
                backend: Arc::clone(backend),
                watcher: port.name.is_some().then(|| self.watcher()),
            })
            .collect();
        let config = ConsoleConfig { ports, worker: self.host.worker.clone() };
        let console = Console::build(config).map_err(device_error("--console"))?;
        let counters = Counters::Console(console.handle());
        self.plug("_console", Box::new(console), counters)
    }

    /// Posts that channels have changed: once until somebody has looked, so that a guest that opens and closes without end fills no
    /// queue.
    fn watcher(&self) -> PortWatcher {
        let (events, untold) = (Arc::clone(self.host.events), Arc::clone(&self.channels_untold));
        Arc::new(move || {
            if !untold.swap(true, Ordering::SeqCst) {
                events(GuestEvent::Channels);
            }
        })
    }

    fn balloon(&mut self, spec: &BalloonSpec) -> Result<(), BuildError> {
        let BalloonSpec { bytes, deflate_on_oom, free_page_reporting, statistics_period } = *spec;
        let memory = Arc::clone(self.host.memory);
        let events = Arc::clone(self.host.events);
        let balloon = Balloon::new(BalloonConfig {
            pages: Arc::new(ReturnedPages::new(Arc::clone(&memory), self.host.huge_page_bytes)),
            memory,
            target_bytes: bytes,
            deflate_on_oom,
            free_page_reporting,
            statistics_period: Duration::from_secs(statistics_period.into()),
            changed: Some(Box::new(move || events(GuestEvent::BalloonChanged))),
            worker: self.host.worker.clone(),
        });
        let counters = Counters::Balloon(balloon.handle());
        self.plug("_balloon", Box::new(balloon), counters)
    }

    /// Puts a device into the next slot of the bus.
    fn plug(
        &mut self,
        id: &str,
        device: Box<dyn VirtioDevice>,
        counters: Counters,
    ) -> Result<(), BuildError> {
        let Host { memory, vm, pci, .. } = self.host;
        let slot = self
            .slots
            .next()
            .ok_or_else(|| BuildError::NoSlot { device: id.to_owned(), most: SLOTS.len() })?;
        let vectors = u16::try_from(device.traits().queue_sizes.len()).unwrap_or(u16::MAX).saturating_add(1);
        let gsi = intx_interrupt(slot, 0);
        let wires = PciWires {
            memory: Arc::clone(memory),
            msi: Arc::new(vm.msi_function(vectors)?),
            line: Arc::new(vm.interrupt_line(gsi)?) as Arc<dyn InterruptLine>,
            doorbells: Arc::clone(vm) as Arc<dyn platform::Doorbells>,
        };
        let bar = self.bars.allocate(BarWidth::Bits64, VirtioPciFunction::BAR_BYTES)?;
        let bar = (!self.host.firmware).then_some(bar.start);
        let place = PciPlace { bar, interrupt_line: u8::try_from(gsi).unwrap_or(u8::MAX) };
        let function = Arc::new(Mutex::new(VirtioPciFunction::new(device, wires, place)?));
        pci.insert(DeviceFunction::device_zero(slot), Arc::clone(&function) as _)?;
        self.functions.push(Function { id: id.to_owned(), slot, pci: function, counters });
        Ok(())
    }
}

fn device_error(device: &str) -> impl FnOnce(virtio::BuildError) -> BuildError {
    let device = device.to_owned();
    move |source| BuildError::Device { device, source }
}
