//! Hardware addresses of Ethernet (IEEE 802), as `52:54:00:12:34:56`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

/// It is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no hardware address: write six bytes as 52:54:00:12:34:56")]
pub struct NotAMacAddress(String);

impl MacAddress {
    /// Every station of the network.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it can be that of one station: neither a group's nor all zeroes.
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hexadecimal(&self.0))
    }
}

impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, NotAMacAddress> {
        let bytes = bytes_of(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| NotAMacAddress(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = NotAMacAddress;

    fn try_from(text: String) -> Result<Self, NotAMacAddress> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

/// Bytes as people write client identifiers and hardware addresses: `01:52:54`.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// The bytes that were written so; each of one or two digits.
pub(crate) fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let byte = |digits: &str| {
        let sound = matches!(digits.len(), 1 | 2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        sound.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
    };
    text.split(':').map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_anything_else_is_refused() {
        let address: MacAddress = "52:54:0:AB:cd:ef".parse().unwrap();
        assert_eq!(address, MacAddress([0x52, 0x54, 0, 0xab, 0xcd, 0xef]));
        assert_eq!(address.to_string().parse(), Ok(address));
        for wrong in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "+2:54:00:12:34:56", "52:54:00:12:34:g6"]
        {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
        assert!(!MacAddress::BROADCAST.is_station() && !MacAddress([0; 6]).is_station());
    }
}
