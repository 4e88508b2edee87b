//! The root bus: which function answers at which device number, how configuration accesses reach it, and where its BARs
//! are on the memory bus.
//!
//! [`PciRoot`] is the owned value; [`Ecam`] (memory-mapped, PCI Express Base 5.0, section 7.2.2) and [`ConfigPorts`]
//! (ports CF8h to CFFh, PCI Local Bus 3.0, section 3.2.2.3.2) are its two faces for the guest. Only bus 0 exists.
//!
//! Locks, in the order in which they are taken: the face's own (by the bus), `layout` (configuration writes only), the
//! function's. The memory bus's map is locked last and briefly; no device lock is waited for under it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::{BAR_COUNT, CONFIG_SPACE_BYTES, PciFunction};
use crate::bus::{Bus, SharedDevice};
use crate::guest_warn;
use crate::register_file::{Effect, RegisterFile, VmRequest};

/// Bytes of ECAM that bus 0 takes: 32 devices of 8 functions of 4096 bytes.
pub const ECAM_BUS_BYTES: u64 = 1 << 20;

/// Bytes of configuration space that a mirror follows after a write elsewhere in the function: everything that
/// [`super::ConfigSpace`] has.
const MIRRORED_BYTES: usize = 256;

/// Device and function number on bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceFunction(u8);

impl DeviceFunction {
    /// `device` is 0 to 31, `function` 0 to 7; `None` when one of them is not.
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 { Some(Self(device << 3 | function)) } else { None }
    }

    /// Function 0 of `device`, of which only the lower five bits count.
    pub const fn device_zero(device: u8) -> Self {
        Self((device & 31) << 3)
    }

    /// Device number.
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }

    /// Function number.
    pub const fn function(self) -> u8 {
        self.0 & 7
    }

    /// Offset of the function's configuration space in ECAM.
    pub const fn ecam_offset(self) -> u64 {
        (self.0 as u64) << 12
    }
}

impl std::fmt::Display for DeviceFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00:{:02x}.{}", self.device(), self.function())
    }
}

/// Why a function could not be plugged in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// Another function is there.
    #[error("PCI function {0} is already there")]
    Taken(DeviceFunction),
    /// No function is there.
    #[error("there is no PCI function {0}")]
    Absent(DeviceFunction),
}

/// A copy of configuration space that answers the guest's reads without an exit, for example a read-only memory slot
/// over ECAM whose writes still arrive here.
///
/// The owner starts with all ones everywhere (what absent functions read as) and applies what it is told, which is
/// under a lock of the root, so the calls are in the order of the changes. It follows configuration *writes* only:
/// a function whose configuration space changes otherwise, or whose reads have side effects, must say so
/// ([`PciFunction::mirrorable`]); its reads have to exit.
pub trait ConfigMirror: Send + Sync {
    /// The bytes at `ecam_offset` read as `bytes` from now on. Also makes a withdrawn function valid again (then all of
    /// its 4096 bytes are stored at once).
    fn store(&self, ecam_offset: u64, bytes: &[u8]);

    /// The copy of the function whose 4096 bytes start at `ecam_offset` must not answer reads any more, until its next
    /// [`ConfigMirror::store`].
    fn withdraw(&self, ecam_offset: u64);
}

type SharedFunction = Arc<Mutex<dyn PciFunction>>;

struct Slot {
    function: SharedFunction,
    /// What answers on the memory bus where each BAR decodes.
    windows: [SharedDevice; BAR_COUNT],
}

/// Where one BAR is, and where the guest wants it.
#[derive(Debug, Clone, Default)]
struct Placement {
    wanted: Option<Range<u64>>,
    mapped: Option<Range<u64>>,
}

#[derive(Default)]
struct Layout {
    bars: BTreeMap<DeviceFunction, [Placement; BAR_COUNT]>,
    /// What the mirror holds of each function; `None` while it is withdrawn.
    mirrored: BTreeMap<DeviceFunction, Option<Box<[u8]>>>,
}

/// The root bus and its functions.
pub struct PciRoot {
    slots: RwLock<BTreeMap<DeviceFunction, Slot>>,
    layout: Mutex<Layout>,
    memory: Arc<Bus>,
    mirror: Option<Arc<dyn ConfigMirror>>,
}

impl std::fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.slots.read().keys().map(ToString::to_string)).finish()
    }
}

/// A function's BAR on the memory bus.
struct BarWindow {
    function: SharedFunction,
    bar: u8,
}

impl RegisterFile for BarWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.function.lock().read_bar(self.bar, offset, data);
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        self.function.lock().write_bar(self.bar, offset, data)
    }
}

impl PciRoot {
    /// An empty bus whose functions' BARs are placed on `memory`. `mirror` is told of configuration space's contents.
    pub fn new(memory: Arc<Bus>, mirror: Option<Arc<dyn ConfigMirror>>) -> Arc<Self> {
        Arc::new(Self { slots: RwLock::default(), layout: Mutex::default(), memory, mirror })
    }

    /// Plugs `function` in at `at` and maps what it decodes already.
    pub fn insert(&self, at: DeviceFunction, function: SharedFunction) -> Result<(), PciError> {
        let windows = [0u8, 1, 2, 3, 4, 5].map(|bar| -> SharedDevice {
            Arc::new(Mutex::new(BarWindow { function: Arc::clone(&function), bar }))
        });
        self.plug(at, Slot { function, windows })
    }

    /// As [`PciRoot::insert`] for the host bridge, whose range 0 is ECAM itself: `PCIEXBAR` says where.
    pub fn insert_host_bridge(
        self: &Arc<Self>,
        at: DeviceFunction,
        function: SharedFunction,
    ) -> Result<(), PciError> {
        let windows = [0u8, 1, 2, 3, 4, 5].map(|bar| -> SharedDevice {
            if bar == 0 {
                Arc::new(Mutex::new(Ecam { root: Arc::downgrade(self) }))
            } else {
                Arc::new(Mutex::new(BarWindow { function: Arc::clone(&function), bar }))
            }
        });
        self.plug(at, Slot { function, windows })
    }

    fn plug(&self, at: DeviceFunction, slot: Slot) -> Result<(), PciError> {
        let mut layout = self.layout.lock();
        let function = Arc::clone(&slot.function);
        {
            let mut slots = self.slots.write();
            if slots.contains_key(&at) {
                return Err(PciError::Taken(at));
            }
            slots.insert(at, slot);
        }
        let mut function = function.lock();
        let decoded = function.decoded();
        self.mirror_all(&mut layout, at, &mut *function);
        drop(function);
        self.place(&mut layout, at, decoded);
        Ok(())
    }

    /// Unplugs the function at `at`: its ranges answer no more and its configuration space reads as all ones.
    pub fn remove(&self, at: DeviceFunction) -> Result<(), PciError> {
        let mut layout = self.layout.lock();
        if !self.slots.read().contains_key(&at) {
            return Err(PciError::Absent(at));
        }
        self.place(&mut layout, at, [const { None }; BAR_COUNT]);
        layout.bars.remove(&at);
        layout.mirrored.remove(&at);
        self.slots.write().remove(&at);
        if let Some(mirror) = &self.mirror {
            mirror.store(at.ecam_offset(), &[0xff; CONFIG_SPACE_BYTES as usize]);
        }
        Ok(())
    }

    /// Where the functions' BARs answer now; ECAM is the host bridge's.
    pub fn mapped(&self) -> Vec<(DeviceFunction, Range<u64>)> {
        let layout = self.layout.lock();
        let bars = layout.bars.iter().flat_map(|(at, bars)| bars.iter().map(|bar| (*at, bar.mapped.clone())));
        bars.filter_map(|(at, mapped)| Some((at, mapped?))).collect()
    }

    fn function(&self, at: DeviceFunction) -> Option<SharedFunction> {
        self.slots.read().get(&at).map(|slot| Arc::clone(&slot.function))
    }

    /// Reads configuration space as a vCPU does: any width and alignment; all ones where no function is and past the
    /// function's last byte.
    pub fn read_config(&self, at: DeviceFunction, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(function) = self.function(at) else { return };
        let mut function = function.lock();
        for (offset, part) in dword_parts(offset, data.len()) {
            function.read_config(offset, &mut data[part]);
        }
    }

    /// Writes configuration space as a vCPU does: any width and alignment; moves the function's BARs on the memory bus
    /// when the write changed what they decode.
    pub fn write_config(&self, at: DeviceFunction, offset: u16, data: &[u8]) -> Effect {
        let Some(function) = self.function(at) else { return Effect::None };
        let mut layout = self.layout.lock();
        let mut function = function.lock();
        let mut effect = Effect::None;
        for (offset, part) in dword_parts(offset, data.len()) {
            match function.write_config(offset, &data[part]) {
                Effect::None => {}
                asked => effect = asked,
            }
        }
        let decoded = function.decoded();
        self.mirror_change(&mut layout, at, offset, &mut *function);
        drop(function);
        self.place(&mut layout, at, decoded);
        effect
    }

    /// Moves the BARs of `at` to what it decodes now. First everything that moves is taken away, then whatever has no
    /// place is tried: a BAR that was in the way of another's new place may just have left.
    fn place(&self, layout: &mut Layout, at: DeviceFunction, decoded: [Option<Range<u64>>; BAR_COUNT]) {
        let mut changed = false;
        for (placement, wanted) in layout.bars.entry(at).or_default().iter_mut().zip(decoded) {
            if placement.wanted == wanted {
                continue;
            }
            changed = true;
            placement.wanted = wanted;
            if let Some(mapped) = placement.mapped.take()
                && let Err(error) = self.memory.remove(mapped.start)
            {
                tracing::error!(function = %at, %error, "a BAR was not where it had been placed");
            }
        }
        if !changed {
            return;
        }
        let slots = self.slots.read();
        for (&owner, placements) in &mut layout.bars {
            let Some(slot) = slots.get(&owner) else { continue };
            for (bar, placement) in placements.iter_mut().enumerate() {
                let (Some(wanted), None) = (&placement.wanted, &placement.mapped) else { continue };
                match self.memory.insert(wanted.clone(), Arc::clone(&slot.windows[bar])) {
                    Ok(()) => placement.mapped = Some(wanted.clone()),
                    // Usual for a moment while a guest sizes or swaps BARs with decoding on.
                    Err(error) if owner == at => {
                        guest_warn!(function = %at, bar, %error, "a BAR stays unmapped where the guest placed it");
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Stores all of a function in the mirror, or withdraws it.
    fn mirror_all(&self, layout: &mut Layout, at: DeviceFunction, function: &mut dyn PciFunction) {
        let Some(mirror) = &self.mirror else { return };
        if !function.mirrorable() {
            mirror.withdraw(at.ecam_offset());
            layout.mirrored.insert(at, None);
            return;
        }
        let mut bytes = vec![0; usize::from(CONFIG_SPACE_BYTES)];
        for (offset, part) in dword_parts(0, bytes.len()) {
            function.read_config(offset, &mut bytes[part]);
        }
        mirror.store(at.ecam_offset(), &bytes);
        layout.mirrored.insert(at, Some(bytes.into_boxed_slice()));
    }

    /// Brings the mirror in line after a write at `offset`: what differs in the conventional part and around `offset`.
    fn mirror_change(
        &self,
        layout: &mut Layout,
        at: DeviceFunction,
        offset: u16,
        function: &mut dyn PciFunction,
    ) {
        let Some(mirror) = &self.mirror else { return };
        let known = layout.mirrored.get_mut(&at).and_then(Option::as_deref_mut);
        let (Some(known), true) = (known, function.mirrorable()) else {
            let withdrawn = matches!(layout.mirrored.get(&at), Some(None));
            if !withdrawn || function.mirrorable() {
                self.mirror_all(layout, at, function);
            }
            return;
        };
        let written = offset & !3;
        // A write of 8 bytes, misaligned, reaches into three dwords.
        let around = (0..3).filter_map(|step| written.checked_add(step * 4));
        let around = around.filter(|at| usize::from(*at) >= MIRRORED_BYTES && *at < CONFIG_SPACE_BYTES);
        for offset in (0u16..).step_by(4).take(MIRRORED_BYTES / 4).chain(around) {
            let mut now = [0; 4];
            function.read_config(offset, &mut now);
            let then = &mut known[usize::from(offset)..][..4];
            if then != now {
                then.copy_from_slice(&now);
                mirror.store(at.ecam_offset() + u64::from(offset), &now);
            }
        }
    }
}

/// Cuts an access into parts that do not cross a dword, with their offsets in configuration space; what lies past its
/// end is left out.
fn dword_parts(offset: u16, length: usize) -> impl Iterator<Item = (u16, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = u16::try_from(done).ok().and_then(|done| offset.checked_add(done))?;
        if done >= length || at >= CONFIG_SPACE_BYTES {
            return None;
        }
        let start = done;
        done = length.min(start + usize::from(4 - at % 4));
        Some((at, start..done))
    })
}

/// ECAM: configuration space of bus 0 as memory. Other buses in its range read as all ones.
pub struct Ecam {
    root: Weak<PciRoot>,
}

impl Ecam {
    /// The function and the register that `offset` falls on.
    fn target(&self, offset: u64) -> Option<(Arc<PciRoot>, DeviceFunction, u16)> {
        let at = DeviceFunction(u8::try_from(offset >> 12).ok()?);
        let register = u16::try_from(offset & 0xfff).ok()?;
        Some((self.root.upgrade()?, at, register))
    }
}

impl RegisterFile for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match self.target(offset) {
            Some((root, at, register)) => root.read_config(at, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match self.target(offset) {
            Some((root, at, register)) => root.write_config(at, register, data),
            None => Effect::None,
        }
    }
}

/// Ports CF8h to CFFh: the configuration address and data registers, and the reset control register that hides behind
/// byte accesses to CF9h (ICH9 datasheet, section 13.7.5).
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: u32,
    reset_control: u8,
}

/// Configuration address bit 31: data accesses become configuration cycles.
const ADDRESS_ENABLE: u32 = 1 << 31;
/// Reset control bit 2: a change from 0 to 1 resets. Bit 1 tells a hard reset from a soft one, bit 3 asks for a power
/// cycle; a virtual machine has one kind of reset.
const RESET_CPU: u8 = 1 << 2;
const RESET_WRITABLE: u8 = 0b1110;

impl ConfigPorts {
    /// The ports of `root`, to be placed at [`crate::board::PCI_CONFIG_PORTS`].
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root, address: 0, reset_control: 0 }
    }

    fn target(&self, offset: u64) -> Option<(DeviceFunction, u16)> {
        let [register, function, bus, _] = self.address.to_le_bytes();
        let enabled = self.address & ADDRESS_ENABLE != 0 && bus == 0;
        let byte = u16::try_from(offset & 3).ok()?;
        enabled.then_some((DeviceFunction(function), u16::from(register & !3) | byte))
    }
}

impl RegisterFile for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let length = data.len();
        data.fill(0xff);
        match (offset, length) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (1, 1) => data[0] = self.reset_control,
            (4..8, _) => {
                let Some((at, register)) = self.target(offset) else { return };
                let within = length.min(4 - usize::from(register & 3));
                self.root.read_config(at, register, &mut data[..within]);
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (0, &[a, b, c, d]) => {
                self.address = u32::from_le_bytes([a, b, c, d]) & (ADDRESS_ENABLE | 0x00ff_fffc);
                Effect::None
            }
            (1, &[value]) => {
                let before = std::mem::replace(&mut self.reset_control, value & RESET_WRITABLE);
                let rises = before & RESET_CPU == 0 && value & RESET_CPU != 0;
                if rises { Effect::Ask(VmRequest::Reset) } else { Effect::None }
            }
            (4..8, _) => {
                let Some((at, register)) = self.target(offset) else { return Effect::None };
                let within = data.len().min(4 - usize::from(register & 3));
                self.root.write_config(at, register, &data[..within])
            }
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
