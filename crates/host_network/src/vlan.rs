//! VLANs of ports of bridges (IEEE 802.1Q, 6.9 and 8.8; linux/if_bridge.h): in which a guest's frames are, and which carry their tag.
//!
//! Numbers are 1 to 4094: 0 is a priority without a VLAN, and 4095 is reserved (IEEE 802.1Q, table 9-2). A port that is put into some
//! leaves all others, that of ports of which nobody says more among them.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;

use rustix::io::Errno;

use crate::netlink::{ACKNOWLEDGE, Socket, Writer};

/// Numbers that VLANs have.
const NUMBERS: RangeInclusive<u16> = 1..=4094;
/// `RTM_DELLINK` and `RTM_SETLINK` of linux/rtnetlink.h, with `PF_BRIDGE`: VLANs are taken away and added.
const DELETE: u16 = 17;
const SET: u16 = 19;
const BRIDGE_FAMILY: u8 = 7;
/// `IFLA_AF_SPEC`, and `IFLA_BRIDGE_VLAN_INFO` in it.
const SPECIFIC: u16 = 26;
const VLAN_INFO: u16 = 2;
/// `BRIDGE_VLAN_INFO_PVID`, `_UNTAGGED`, `_RANGE_BEGIN`, `_RANGE_END`.
const PVID: u16 = 1 << 1;
const UNTAGGED: u16 = 1 << 2;
const RANGE_BEGIN: u16 = 1 << 3;
const RANGE_END: u16 = 1 << 4;

/// The VLANs of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortVlans {
    /// That of frames without a tag, and whether they have one when they are sent to the guest.
    native: Option<(u16, bool)>,
    /// Those whose frames carry their tag in both directions.
    tagged: BTreeSet<u16>,
}

/// Why a port can't have some VLANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongVlans {
    /// Not a number that VLANs have.
    #[error("VLAN {0} is not 1 to 4094")]
    Number(u16),
    /// A port that is in none hears nothing.
    #[error("a trunk has at least one VLAN")]
    None,
}

fn number(vlan: u16) -> Result<u16, WrongVlans> {
    if NUMBERS.contains(&vlan) { Ok(vlan) } else { Err(WrongVlans::Number(vlan)) }
}

impl PortVlans {
    /// A guest that knows nothing of VLANs, and is in one.
    ///
    /// # Errors
    /// No VLAN has the number.
    pub fn access(vlan: u16) -> Result<Self, WrongVlans> {
        Ok(Self { native: Some((number(vlan)?, false)), tagged: BTreeSet::new() })
    }

    /// A guest that tags its frames itself. Those that it does not tag are in the native VLAN (with `true`: and have its tag when they
    /// are sent to it), or dropped when there is none.
    ///
    /// # Errors
    /// No VLAN has one of the numbers, or there is none at all.
    pub fn trunk(
        native: Option<(u16, bool)>,
        tagged: impl IntoIterator<Item = u16>,
    ) -> Result<Self, WrongVlans> {
        let mut tagged = tagged.into_iter().map(number).collect::<Result<BTreeSet<_>, _>>()?;
        if let Some((vlan, _)) = native {
            tagged.remove(&number(vlan)?);
        } else if tagged.is_empty() {
            return Err(WrongVlans::None);
        }
        Ok(Self { native, tagged })
    }

    /// `struct bridge_vlan_info` of each.
    fn entries(&self) -> impl Iterator<Item = (u16, u16)> {
        let native = self.native.map(|(vlan, tagged)| (PVID | if tagged { 0 } else { UNTAGGED }, vlan));
        native.into_iter().chain(self.tagged.iter().map(|vlan| (0, *vlan)))
    }
}

/// Puts a port into these VLANs and no others.
pub(crate) fn set(port: u32, vlans: Option<&PortVlans>) -> io::Result<()> {
    let socket = Socket::open(None)?;
    // What it is not in is passed over.
    let all = [(RANGE_BEGIN, *NUMBERS.start()), (RANGE_END, *NUMBERS.end())];
    let done = request(&socket, DELETE, port, all).and_then(|()| match vlans {
        Some(vlans) => request(&socket, SET, port, vlans.entries()),
        None => Ok(()),
    });
    done.map_err(explained)
}

/// What the kernel means when it is asked for VLANs of bridges.
pub(crate) fn explained(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel's bridges have no VLANs (CONFIG_BRIDGE_VLAN_FILTERING): leave <vlan> out",
        ),
        _ => error,
    }
}

fn request(
    socket: &Socket,
    kind: u16,
    port: u32,
    entries: impl IntoIterator<Item = (u16, u16)>,
) -> io::Result<()> {
    // `struct ifinfomsg`: family, type, number, flags, which of them change.
    let mut header = vec![BRIDGE_FAMILY, 0, 0, 0];
    header.extend_from_slice(&port.to_ne_bytes());
    header.extend_from_slice(&[0; 8]);
    let mut message = Writer::default();
    message.message(kind, ACKNOWLEDGE, 1, &header, |link| {
        link.nest(SPECIFIC, |bridge| {
            for (flags, vlan) in entries {
                let [flags, vlan] = [flags.to_ne_bytes(), vlan.to_ne_bytes()];
                bridge.attribute(VLAN_INFO, &[flags, vlan].concat());
            }
        });
    });
    socket.exchange(&message, 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_in_its_vlan_without_knowing_or_in_those_that_it_tags() {
        let entries = |vlans: PortVlans| vlans.entries().collect::<Vec<_>>();
        assert_eq!(entries(PortVlans::access(42).unwrap()), [(PVID | UNTAGGED, 42)]);
        assert_eq!(entries(PortVlans::trunk(None, [7, 5, 7]).unwrap()), [(0, 5), (0, 7)]);
        // The native VLAN is named among the others.
        let untagged = PortVlans::trunk(Some((5, false)), [7, 5]).unwrap();
        assert_eq!(entries(untagged), [(PVID | UNTAGGED, 5), (0, 7)]);
        assert_eq!(entries(PortVlans::trunk(Some((5, true)), []).unwrap()), [(PVID, 5)]);
    }

    #[test]
    fn numbers_that_no_vlan_has_are_refused() {
        for wrong in [0, 4095, u16::MAX] {
            let refused = Err(WrongVlans::Number(wrong));
            assert_eq!(PortVlans::access(wrong), refused);
            assert_eq!(PortVlans::trunk(None, [1, wrong]), refused);
            assert_eq!(PortVlans::trunk(Some((wrong, true)), [1]), refused);
        }
        assert_eq!(PortVlans::trunk(None, []), Err(WrongVlans::None));
        assert!(PortVlans::access(4094).is_ok());
    }
}
