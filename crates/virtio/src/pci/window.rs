//! The capabilities that tell a driver where the structures are (virtio 1.2, 4.1.4), and the last of them, a window through
//! which they are reached without mapping the BAR (4.1.4.9).

use platform::pci::{ConfigError, ConfigSpace};

use super::place;

const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Offsets in `struct virtio_pci_cap` and what follows it, from the capability's start.
const BAR: u16 = 4;
const OFFSET: u16 = 8;
const DATA: u16 = 16;

/// The bytes of a capability after its length: type, BAR, id, padding, offset, length.
fn payload(kind: u8, offset: u64, bytes: u64) -> Vec<u8> {
    let mut payload = vec![kind, place::BAR, 0, 0, 0];
    // Every offset and length lies in the BAR, which has 32 KiB.
    payload.extend_from_slice(&offset.to_le_bytes()[..4]);
    payload.extend_from_slice(&bytes.to_le_bytes()[..4]);
    payload
}

/// Adds the capabilities of a device with `queues` queues and `config_bytes` of configuration; returns where the window is.
pub(super) fn add_capabilities(
    space: &mut ConfigSpace,
    queues: u16,
    config_bytes: u32,
) -> Result<Window, ConfigError> {
    space.add_vendor_capability(&payload(COMMON_CFG, place::COMMON, place::COMMON_BYTES), &[])?;
    let notify_bytes = u64::from(queues) * u64::from(place::NOTIFY_MULTIPLIER);
    let mut notify = payload(NOTIFY_CFG, place::NOTIFY, notify_bytes);
    notify.extend_from_slice(&place::NOTIFY_MULTIPLIER.to_le_bytes());
    space.add_vendor_capability(&notify, &[])?;
    space.add_vendor_capability(&payload(ISR_CFG, place::ISR, place::ISR_BYTES), &[])?;
    if config_bytes != 0 {
        space.add_vendor_capability(&payload(DEVICE_CFG, place::DEVICE, u64::from(config_bytes)), &[])?;
    }
    let mut window = payload(PCI_CFG, 0, 0);
    window.extend_from_slice(&[0; 4]);
    let mut writable = vec![0xff; window.len()];
    writable[0] = 0; // the type
    writable[2..5].fill(0); // id and padding
    let capability = space.add_vendor_capability(&window, &writable)?;
    Ok(Window { capability })
}

/// Where the window's capability is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    capability: u16,
}

/// What the window shows: a place in the BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

impl Window {
    /// Where its data register is in configuration space.
    pub(super) fn data(self) -> u16 {
        self.capability + DATA
    }

    /// Whether an access to configuration space touches the data register.
    pub(super) fn hit(self, offset: u16, length: usize) -> bool {
        let end = usize::from(offset) + length;
        usize::from(offset) < usize::from(self.data()) + 4 && end > usize::from(self.data())
    }

    /// Where the driver has pointed it; `None` when that is no aligned access inside the BAR (4.1.4.9.1).
    pub(super) fn target(self, space: &ConfigSpace) -> Option<Target> {
        let mut bar = [0];
        let mut raw = [0; 8];
        space.read(self.capability + BAR, &mut bar);
        space.read(self.capability + OFFSET, &mut raw);
        let [o0, o1, o2, o3, l0, l1, l2, l3] = raw;
        let offset = u64::from(u32::from_le_bytes([o0, o1, o2, o3]));
        let bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        let valid = bar == [place::BAR]
            && matches!(bytes, 1 | 2 | 4)
            && offset.is_multiple_of(u64::from(bytes))
            && offset + u64::from(bytes) <= place::BAR_BYTES;
        valid.then_some(Target { offset, bytes: bytes as usize })
    }

    /// Whether the driver has set it to anything.
    pub(super) fn open(self, space: &ConfigSpace) -> bool {
        self.target(space).is_some()
    }
}
