//! What a guest has been given, and what happened to it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::mac::MacAddress;

/// An address that a guest may use for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The guest's hardware address: with `iaid`, its identity here.
    pub mac: MacAddress,
    /// What it has.
    pub address: IpAddr,
    /// Length of the network's prefix, bits.
    pub prefix: u8,
    /// The name that it gave itself or that it was given, one label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its client identifier (option 61 of DHCPv4) or DUID (DHCPv6), as `01:52:54:…`. Clones share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Number of the identity association (DHCPv6 only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iaid: Option<u32>,
    /// When it got the address first, seconds since 1970.
    pub since: u64,
    /// When it has to stop using it, seconds since 1970; none for never.
    pub expires: Option<u64>,
}

impl Lease {
    /// Whose it is.
    pub(crate) fn holder(&self) -> Holder {
        Holder { mac: self.mac, iaid: self.iaid }
    }

    /// Whether it is over at this time.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Who has an address: a hardware address, and for DHCPv6 one of its identity associations.
///
/// Client identifiers and DUIDs do not tell guests apart: clones of a disk have those of its source (both are made from the machine-id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) mac: MacAddress,
    pub(crate) iaid: Option<u32>,
}

/// What happened to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseChange {
    /// A guest has a new address.
    Added,
    /// A guest keeps its address for longer.
    Renewed,
    /// Its time is over.
    Expired,
    /// The guest, or the operator, gave it back.
    Released,
    /// What was remembered of a lease that ended before has made room; not told to subscribers.
    Forgotten,
}

impl LeaseChange {
    /// Whether the guest does not have the address any more.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::Expired | Self::Released | Self::Forgotten)
    }
}

/// A lease, and what happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEvent {
    /// What happened.
    pub change: LeaseChange,
    /// The lease afterwards.
    pub lease: Lease,
}
