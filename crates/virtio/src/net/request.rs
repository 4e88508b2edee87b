//! From a control command's bytes to what is to be done (virtio 1.2, 5.1.6.5). Pure.

use super::{
    FEATURE_CTRL_GUEST_OFFLOADS, FEATURE_CTRL_MAC_ADDR, FEATURE_CTRL_RX, FEATURE_MQ, GUEST_OFFLOAD_FEATURES,
};

/// VIRTIO_NET_OK.
pub(super) const ACK_OK: u8 = 0;
/// VIRTIO_NET_ERR.
pub(super) const ACK_ERROR: u8 = 1;

/// The longest command, class and command included: a table of ten thousand MAC addresses. Stops a guest from making the
/// device copy a chain of gigabytes.
pub(super) const MAX_COMMAND_BYTES: u32 = 64 << 10;

const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_MQ: u8 = 4;
const CLASS_GUEST_OFFLOADS: u8 = 5;

const RX_PROMISC: u8 = 0;
const RX_ALLMULTI: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDR_SET: u8 = 1;
const MQ_VQ_PAIRS_SET: u8 = 0;
const GUEST_OFFLOADS_SET: u8 = 0;

/// What a driver may ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Negotiated features.
    pub(super) features: u64,
    /// Queue pairs that the device has.
    pub(super) pairs: u16,
}

/// A command that is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// A receive mode or filter, which a device that filters nothing satisfies already.
    Filter,
    /// The interface's address from now on.
    SetMac([u8; 6]),
    /// How many queue pairs the driver uses from now on, from 1 to the device's.
    SetPairs(u16),
    /// The GUEST features that are in force from now on, a subset of the negotiated ones.
    SetGuestOffloads(u64),
}

impl Command {
    /// Understands a command; `None` when it is unknown, not negotiated or malformed.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Option<Self> {
        let has = |feature| limits.features & feature != 0;
        let (&[class, command], data) = bytes.split_first_chunk::<2>()?;
        match (class, command) {
            (CLASS_RX, RX_PROMISC | RX_ALLMULTI) if has(FEATURE_CTRL_RX) => {
                // On or off, nothing else.
                matches!(data, [0 | 1]).then_some(Self::Filter)
            }
            (CLASS_MAC, MAC_TABLE_SET) if has(FEATURE_CTRL_RX) => {
                let rest = skip_mac_table(skip_mac_table(data)?)?;
                rest.is_empty().then_some(Self::Filter)
            }
            (CLASS_MAC, MAC_ADDR_SET) if has(FEATURE_CTRL_MAC_ADDR) => {
                Some(Self::SetMac(data.try_into().ok()?))
            }
            (CLASS_MQ, MQ_VQ_PAIRS_SET) if has(FEATURE_MQ) => {
                let pairs = u16::from_le_bytes(data.try_into().ok()?);
                (1..=limits.pairs).contains(&pairs).then_some(Self::SetPairs(pairs))
            }
            (CLASS_GUEST_OFFLOADS, GUEST_OFFLOADS_SET) if has(FEATURE_CTRL_GUEST_OFFLOADS) => {
                let offloads = u64::from_le_bytes(data.try_into().ok()?);
                let allowed = limits.features & GUEST_OFFLOAD_FEATURES;
                (offloads & !allowed == 0).then_some(Self::SetGuestOffloads(offloads))
            }
            _ => None,
        }
    }
}

/// What follows one `struct virtio_net_ctrl_mac`: a count and as many addresses.
fn skip_mac_table(bytes: &[u8]) -> Option<&[u8]> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    let addresses = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
    rest.get(addresses..)
}
