//! The PCI function: identity, BAR decoding, and the moments at which doorbells and interrupts are brought in line.

use std::ops::Range;
use std::sync::Arc;

use platform::pci::config_space::MsixPlace;
use platform::pci::{
    BAR_COUNT, BarWidth, Class, ConfigError, ConfigSpace, Identity, Msix, PciFunction, Prefetch,
};
use platform::{Doorbells, Effect, InterruptLine, MsiSink};

use super::common::{Common, Selects};
use super::doorbells::BoundDoorbells;
use super::interrupts::PciInterrupts;
use super::place;
use super::window::{Target, Window, add_capabilities};
use crate::device::{DeviceEvents, DeviceTraits, GuestMemory, StartError, VirtioDevice};
use crate::transport::Transport;
use crate::transport::events::Interrupts;

/// The most queues of a device: with one more vector for the configuration, what the MSI-X table has room for.
pub const MAX_QUEUES: u16 = 767;

/// PCI vendor of virtio devices (4.1.2).
const VENDOR: u16 = 0x1af4;
/// PCI device ID of virtio device 0.
const DEVICE_BASE: u16 = 0x1040;
/// Lowest revision of a device without a legacy interface.
const REVISION: u8 = 1;
/// Subsystem ID: drivers for Windows look for this one, with the vendor's ID.
const SUBSYSTEM: u16 = 0x1100;
/// INTA#.
const INTERRUPT_PIN: u8 = 1;

/// A device that can't be put on PCI: a mistake of its author or of the machine's, never the guest's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VirtioPciError {
    /// More queues than there are vectors and notification addresses for.
    #[error("virtio device {device_id} has {queues} queues, more than {MAX_QUEUES}")]
    Queues {
        /// Virtio device ID.
        device_id: u16,
        /// Its queues.
        queues: usize,
    },
    /// A configuration that does not fit its page.
    #[error("virtio device {device_id} has a configuration of {bytes} bytes, more than {most}", most = place::DEVICE_BYTES)]
    Config {
        /// Virtio device ID.
        device_id: u16,
        /// Length of its configuration.
        bytes: u32,
    },
    /// The configuration space can't be laid out, or the BAR not be placed.
    #[error("virtio device {device_id}: {source}")]
    Space {
        /// Virtio device ID.
        device_id: u16,
        /// Why.
        source: ConfigError,
    },
}

/// What the machine lends to a function.
#[derive(Clone)]
pub struct PciWires {
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// The function's message signalled interrupts.
    pub msi: Arc<dyn MsiSink>,
    /// The input that the function's INTA# pin is routed to.
    pub line: Arc<dyn InterruptLine>,
    /// Where doorbells are bound.
    pub doorbells: Arc<dyn Doorbells>,
}

impl std::fmt::Debug for PciWires {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciWires").finish_non_exhaustive()
    }
}

/// Where a function is found, as far as the machine decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciPlace {
    /// Guest-physical address of the BAR, a multiple of [`VirtioPciFunction::BAR_BYTES`], with memory decoding on from the
    /// start; `None` leaves both to the firmware.
    pub bar: Option<u64>,
    /// What the interrupt line register shows: the input that the INTA# pin is routed to, for guests without ACPI.
    pub interrupt_line: u8,
}

/// A virtio device as a PCI function.
pub struct VirtioPciFunction {
    space: ConfigSpace,
    window: Window,
    selects: Selects,
    transport: Transport,
    interrupts: Arc<PciInterrupts>,
    msix: Msix,
    doorbells: BoundDoorbells,
}

impl std::fmt::Debug for VirtioPciFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioPciFunction").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl VirtioPciFunction {
    /// Size of the BAR's range.
    pub const BAR_BYTES: u64 = place::BAR_BYTES;

    /// Puts `device` on PCI. Makes no system call: descriptors are created when a driver activates the device.
    ///
    /// # Errors
    /// The device has too many queues or too much configuration, or `place.bar` is not a multiple of the BAR's size.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        wires: PciWires,
        place: PciPlace,
    ) -> Result<Self, VirtioPciError> {
        let PciWires { memory, msi, line, doorbells } = wires;
        let traits = device.traits();
        let device_id = traits.device_id;
        let queues = match u16::try_from(traits.queue_sizes.len()) {
            Ok(queues) if queues <= MAX_QUEUES => queues,
            _ => return Err(VirtioPciError::Queues { device_id, queues: traits.queue_sizes.len() }),
        };
        if u64::from(traits.config_bytes) > place::DEVICE_BYTES {
            return Err(VirtioPciError::Config { device_id, bytes: traits.config_bytes });
        }
        let msix = Msix::new(queues + 1, msi);
        let (space, window) = config_space(traits, queues, &msix, place)
            .map_err(|source| VirtioPciError::Space { device_id, source })?;
        let interrupts = Arc::new(PciInterrupts::new(msix.clone(), queues, line));
        let transport = Transport::new(device, memory, Arc::clone(&interrupts) as Arc<dyn Interrupts>);
        let doorbells = BoundDoorbells::new(doorbells);
        Ok(Self { space, window, selects: Selects::default(), transport, interrupts, msix, doorbells })
    }

    /// The way to tell the driver of a change that comes from outside (a resized disk), for the function's whole life. Works
    /// without the function's lock.
    pub fn events(&self) -> Arc<dyn DeviceEvents> {
        self.transport.events()
    }

    /// Asks the device to stand still, as [`Transport::request_pause`]. Doorbells stay bound: what the driver says
    /// meanwhile is heard after the pause.
    pub fn request_pause(&mut self) {
        self.transport.request_pause();
    }

    /// Whether it does, as [`Transport::poll_paused`].
    pub fn poll_paused(&mut self) -> bool {
        let paused = self.transport.poll_paused();
        self.settle();
        paused
    }

    /// Lets it work again, as [`Transport::resume`].
    ///
    /// # Errors
    /// The device could not start; its driver sees that it needs a reset.
    pub fn resume(&mut self) -> Result<bool, StartError> {
        let resumed = self.transport.resume();
        self.settle();
        resumed
    }

    /// Brings this layer in line after anything that may have activated, reset or moved the device.
    fn settle(&mut self) {
        if self.transport.take_reset_done() {
            self.selects = Selects::default();
            self.interrupts.reset();
        }
        let base = self.bar_range().map(|range| range.start + place::NOTIFY);
        // Without a base there is nothing to bind: an empty slice of kicks.
        let kicks = if base.is_some() { self.transport.kicks() } else { &[] };
        let base = base.unwrap_or(0);
        self.doorbells.follow(kicks.iter().map(|(index, event)| {
            (base + u64::from(*index) * u64::from(place::NOTIFY_MULTIPLIER), Arc::clone(event))
        }));
    }

    fn bar_range(&self) -> Option<Range<u64>> {
        let [range, ..] = self.space.decoded();
        range
    }

    fn read_registers(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            place::COMMON..place::ISR => {
                self.common().read(offset - place::COMMON, data);
                self.settle();
            }
            place::ISR => {
                if let Some(first) = data.first_mut() {
                    *first = self.interrupts.take_isr();
                }
            }
            place::DEVICE..place::NOTIFY => {
                // Below 4 KiB.
                let offset = u32::try_from(offset - place::DEVICE).unwrap_or(u32::MAX);
                self.transport.read_config(offset, data);
            }
            place::MSIX_TABLE..place::MSIX_PENDING => self.msix.read_table(offset - place::MSIX_TABLE, data),
            place::MSIX_PENDING..place::BAR_BYTES => {
                self.msix.read_pending(offset - place::MSIX_PENDING, data)
            }
            _ => {}
        }
    }

    fn write_registers(&mut self, offset: u64, data: &[u8]) {
        if offset < place::NOTIFY {
            // A write that did not wait for the driver's own reset: what belongs to the reset comes first.
            if !self.transport.ready_for_write() {
                return;
            }
            self.settle();
        }
        match offset {
            place::COMMON..place::ISR => {
                self.common().write(offset - place::COMMON, data);
                self.settle();
            }
            place::DEVICE..place::NOTIFY => {
                let offset = u32::try_from(offset - place::DEVICE).unwrap_or(u32::MAX);
                self.transport.write_config(offset, data);
                self.settle();
            }
            place::NOTIFY..place::MSIX_TABLE => {
                // The address names the queue; the value, which repeats it, is not needed (4.1.5.2).
                let index = (offset - place::NOTIFY) / u64::from(place::NOTIFY_MULTIPLIER);
                if let Ok(index) = u16::try_from(index) {
                    self.transport.kick(index);
                }
            }
            place::MSIX_TABLE..place::MSIX_PENDING => self.msix.write_table(offset - place::MSIX_TABLE, data),
            _ => {}
        }
    }

    fn common(&mut self) -> Common<'_> {
        Common { selects: &mut self.selects, transport: &mut self.transport, interrupts: &self.interrupts }
    }

    /// Carries an access to the window's data register out on the BAR. `bytes` are at the data register's start.
    fn through_window(&mut self, access: impl FnOnce(&mut Self, Target)) {
        if let Some(target) = self.window.target(&self.space) {
            access(self, target);
        }
    }
}

/// Configuration space of a function, with where its window is.
fn config_space(
    traits: &DeviceTraits,
    queues: u16,
    msix: &Msix,
    place: PciPlace,
) -> Result<(ConfigSpace, Window), ConfigError> {
    let mut space = ConfigSpace::new(Identity {
        vendor: VENDOR,
        device: DEVICE_BASE + traits.device_id,
        revision: REVISION,
        class: class(traits.device_id),
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    });
    space.set_interrupt(INTERRUPT_PIN, place.interrupt_line);
    space.add_bar(place::BAR, BarWidth::Bits64, Prefetch::Yes, place::BAR_BYTES)?;
    space.add_msix(msix.clone(), MSIX_PLACE)?;
    let window = add_capabilities(&mut space, queues, traits.config_bytes)?;
    space.add_express_capability()?;
    if let Some(address) = place.bar {
        space.place_bar(place::BAR, address)?;
        space.enable_memory();
    }
    Ok((space, window))
}

const _: () = {
    assert!(MAX_QUEUES as u64 * place::NOTIFY_MULTIPLIER as u64 <= place::NOTIFY_BYTES);
    assert!((MAX_QUEUES as u64 + 1) * 16 <= place::MSIX_TABLE_BYTES);
};

const MSIX_PLACE: MsixPlace = MsixPlace {
    bar: place::BAR,
    table: truncated(place::MSIX_TABLE),
    pending: truncated(place::MSIX_PENDING),
};

/// An offset in the BAR as PCI stores it.
#[expect(clippy::cast_possible_truncation, reason = "the assertion rules it out, at compile time")]
const fn truncated(offset: u64) -> u32 {
    assert!(offset < place::BAR_BYTES, "inside the BAR");
    offset as u32
}

/// Class code of a virtio device (PCI Code and ID Assignment 1.11, section 1): what it would be if it were hardware.
fn class(device_id: u16) -> Class {
    let (base, sub) = match device_id {
        1 => (0x02, 0x00),       // network: Ethernet controller
        2 | 8 => (0x01, 0x00),   // block, SCSI host: SCSI controller
        3 | 19 => (0x07, 0x80),  // console, socket: other communication controller
        16 => (0x03, 0x80),      // GPU: other display controller
        18 => (0x09, 0x80),      // input: other input controller
        23 => (0x08, 0x06),      // IOMMU
        25 => (0x04, 0x01),      // sound: audio device
        26 | 27 => (0x01, 0x80), // file system, persistent memory: other mass storage
        20 => (0x10, 0x00),      // crypto: network and computing
        _ => (0x00, 0xff),       // entropy, balloon, …: no class fits
    };
    Class { base, sub, interface: 0 }
}

impl PciFunction for VirtioPciFunction {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.space.set_interrupt_status(self.interrupts.intx_pending());
        if self.window.hit(offset, data.len()) {
            // The register shows what was last read through it; bytes beyond the window's width read as zero.
            let at = self.window.data();
            self.through_window(|function, target| {
                let mut value = [0; 4];
                function.read_registers(target.offset, &mut value[..target.bytes]);
                function.space.write(at, &value);
            });
        }
        self.space.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.space.write(offset, data);
        if self.window.hit(offset, data.len()) {
            let at = self.window.data();
            self.through_window(|function, target| {
                let mut value = [0; 4];
                function.space.read(at, &mut value);
                function.write_registers(target.offset, &value[..target.bytes]);
            });
        }
        self.interrupts.set_intx_off(self.space.intx_disabled() || self.msix.enabled());
        self.settle();
        Effect::None
    }

    fn decoded(&self) -> [Option<Range<u64>>; BAR_COUNT] {
        self.space.decoded()
    }

    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == place::BAR {
            self.read_registers(offset, data);
        } else {
            data.fill(0);
        }
    }

    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) -> Effect {
        if bar == place::BAR {
            self.write_registers(offset, data);
        }
        Effect::None
    }

    fn mirrorable(&self) -> bool {
        // With INTx, the interrupt status changes by itself.
        self.msix.enabled() && !self.window.open(&self.space)
    }
}
