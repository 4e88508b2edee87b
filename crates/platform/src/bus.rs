//! One address space (port I/O or memory-mapped I/O): who answers at which address.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::register_file::{Effect, RegisterFile};

/// A device with the lock under which vCPUs reach its registers.
pub type SharedDevice = Arc<Mutex<dyn RegisterFile>>;

/// Why a range could not be placed or moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The range is empty or wraps around the end of the address space.
    #[error("address range {0:#x?} is empty or wraps around")]
    BadRange(Range<u64>),
    /// Another device answers in part of the range.
    #[error("address range {wanted:#x?} overlaps {taken:#x?}")]
    Overlap {
        /// The range that was asked for.
        wanted: Range<u64>,
        /// The range in its way.
        taken: Range<u64>,
    },
    /// No device starts at this address.
    #[error("no device at address {0:#x}")]
    Vacant(u64),
}

/// An address space. Looked up by every exit, changed when a guest moves a BAR.
///
/// The map's lock is held only for the look-up, never while a device works.
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, (u64, SharedDevice)>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ranges.read().iter().map(|(start, (end, _))| *start..*end)).finish()
    }
}

impl Bus {
    /// An address space where nobody answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Places `device` at `range`.
    pub fn insert(&self, range: Range<u64>, device: SharedDevice) -> Result<(), BusError> {
        if range.start >= range.end {
            return Err(BusError::BadRange(range));
        }
        let mut ranges = self.ranges.write();
        if let Some((start, (end, _))) = ranges.range(..range.end).next_back()
            && *end > range.start
        {
            return Err(BusError::Overlap { taken: *start..*end, wanted: range });
        }
        ranges.insert(range.start, (range.end, device));
        Ok(())
    }

    /// Takes away the device that starts at `start`.
    pub fn remove(&self, start: u64) -> Result<SharedDevice, BusError> {
        self.ranges.write().remove(&start).map(|(_, device)| device).ok_or(BusError::Vacant(start))
    }

    /// The device that answers at `address`, and the offset of `address` in its range.
    fn find(&self, address: u64) -> Option<(SharedDevice, u64)> {
        let ranges = self.ranges.read();
        let (start, (end, device)) = ranges.range(..=address).next_back()?;
        (address < *end).then(|| (Arc::clone(device), address - start))
    }

    /// Reads as a vCPU does; where nobody answers the bus floats and every bit reads as one.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => device.lock().read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes as a vCPU does; where nobody answers the write is lost.
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        match self.find(address) {
            Some((device, offset)) => device.lock().write(offset, data),
            None => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl RegisterFile for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + u8::try_from(offset).expect("small range"));
        }
        fn write(&mut self, _offset: u64, data: &[u8]) -> Effect {
            self.0 = data[0];
            Effect::None
        }
    }

    fn echo(value: u8) -> SharedDevice {
        Arc::new(Mutex::new(Echo(value)))
    }

    #[test]
    fn an_access_reaches_the_device_with_an_offset_into_its_range() {
        let bus = Bus::new();
        bus.insert(0x10..0x18, echo(1)).unwrap();
        let mut data = [0; 2];
        bus.read(0x13, &mut data);
        assert_eq!(data, [4, 4]);
        assert_eq!(bus.write(0x10, &[9]), Effect::None);
        bus.read(0x10, &mut data);
        assert_eq!(data, [9, 9]);
    }

    #[test]
    fn an_address_without_a_device_reads_as_all_ones() {
        let bus = Bus::new();
        bus.insert(0x10..0x18, echo(1)).unwrap();
        for address in [0, 0xf, 0x18, u64::MAX] {
            let mut data = [0];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff], "{address:#x}");
        }
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        let bus = Bus::new();
        bus.insert(0x10..0x18, echo(1)).unwrap();
        for range in [0x10..0x18, 0x0..0x11, 0x17..0x20, 0x0..0x100, 0x12..0x13] {
            assert!(matches!(bus.insert(range, echo(2)), Err(BusError::Overlap { .. })));
        }
        assert!(matches!(bus.insert(5..5, echo(2)), Err(BusError::BadRange(_))));
        bus.insert(0x18..0x20, echo(2)).unwrap();
        bus.insert(0x8..0x10, echo(2)).unwrap();
    }

    #[test]
    fn a_removed_device_answers_no_more() {
        let bus = Bus::new();
        bus.insert(0x10..0x18, echo(1)).unwrap();
        bus.remove(0x10).unwrap();
        assert_eq!(bus.remove(0x10).err(), Some(BusError::Vacant(0x10)));
        let mut data = [0];
        bus.read(0x10, &mut data);
        assert_eq!(data, [0xff]);
    }
}
