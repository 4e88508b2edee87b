//! Network interfaces of the host, and what has gone through them.
//!
//! Source: Documentation/ABI/testing/sysfs-class-net-statistics of Linux.

use crate::{Host, HostError};

/// What has gone through an interface, as the host sees it: of a machine's tap, what the guest sent was received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceStatistics {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that were received broken.
    pub rx_errors: u64,
    /// Packets that were received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets that were dropped instead of sent.
    pub tx_dropped: u64,
}

impl InterfaceStatistics {
    /// The same from the other end of the wire.
    pub fn reversed(self) -> Self {
        Self {
            rx_bytes: self.tx_bytes,
            rx_packets: self.tx_packets,
            rx_errors: self.tx_errors,
            rx_dropped: self.tx_dropped,
            tx_bytes: self.rx_bytes,
            tx_packets: self.rx_packets,
            tx_errors: self.rx_errors,
            tx_dropped: self.rx_dropped,
        }
    }
}

/// Longest name of an interface, with the end of the text (IFNAMSIZ).
const NAME_SIZE: usize = 16;

impl Host {
    /// What has gone through an interface; nothing if there is no such.
    pub fn interface_statistics(&self, name: &str) -> Result<Option<InterfaceStatistics>, HostError> {
        // As the kernel judges names (dev_valid_name), so that none leads elsewhere.
        let valid = !name.is_empty()
            && name.len() < NAME_SIZE
            && name != "."
            && name != ".."
            && !name.contains(|letter: char| letter == '/' || letter == ':' || letter.is_whitespace());
        if !valid {
            return Ok(None);
        }
        let number = |what: &str| self.number_if_there(&format!("sys/class/net/{name}/statistics/{what}"));
        let Some(rx_bytes) = number("rx_bytes")? else { return Ok(None) };
        // One that goes away while it is read has counted nothing more.
        let number = |what: &str| number(what).map(Option::unwrap_or_default);
        Ok(Some(InterfaceStatistics {
            rx_bytes,
            rx_packets: number("rx_packets")?,
            rx_errors: number("rx_errors")?,
            rx_dropped: number("rx_dropped")?,
            tx_bytes: number("tx_bytes")?,
            tx_packets: number("tx_packets")?,
            tx_errors: number("tx_errors")?,
            tx_dropped: number("tx_dropped")?,
        }))
    }
}
