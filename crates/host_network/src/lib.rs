//! Virtual networks on the host: bridges, address translation, filters, guards at guests' interfaces, bandwidth, VLANs.
//!
//! A [`Network`] is data. [`HostNetwork`] makes it be there and not be there any more, and finds after a crash what is half done.
//! What serves in a network (DHCP, names) and which machine is connected is others' business.
//!
//! # Whose is what
//! The kernel remembers it: bridges have an alias (IFLA_IFALIAS) with the network's UUID and the directory of whoever made them; rules
//! are in tables of our own name, and those in others' chains have a comment that begins with it. What is not marked so is never
//! changed or removed. A bridge has a name of its own (`vireo`, four digits of the maker and six of the UUID) until it is marked,
//! so it can be told even if its maker died between the two steps. Settings of the whole host are written down before they change (`sysctl`).
//!
//! # Rules
//! All rules of all networks are made from their descriptions and replace what was there, in one transaction over netlink (no program,
//! no library): there is nothing half done, and putting them back is the same as making them. `rules` says what they do, `foreign`
//! and `legacy` how packets pass where Docker, firewalld or an administrator refuses what is not known, `guard` how guests are
//! kept from pretending to be others. A [`Watcher`] hears of every change of rules on the host and puts ours back.
//!
//! # Trust
//! The kernel is trusted. Descriptions are checked ([`Network::check`], [`HostNetwork::check`]) before anything changes.
//! `CAP_NET_ADMIN` is needed. Everything happens in the network namespace of the thread that asks.
//!
//! # Machines
//! [`Taps`] makes the interfaces of machines, and hands over open descriptors of them.
//!
//! # Threads
//! None of its own: links are tasks of the caller's tokio runtime, rules are changed on its blocking threads.

mod bandwidth;
mod check;
mod foreign;
mod guard;
mod host;
mod interfaces;
mod legacy;
mod links;
mod macvtap;
mod netlink;
mod network;
mod nftables;
mod programs;
mod rules;
mod state;
mod sysctl;
mod taps;
#[cfg(test)]
mod tests;
mod vlan;
mod watch;

pub use guard::Guard;
pub use host::{Error, HostNetwork, Options, Running};
pub use interfaces::{limit, set_vlans};
pub use links::Statistics;
pub use network::{
    Bandwidth, BridgeSettings, Kind, Limit, MacvtapMode, Nat, Network, PortForward, Protocol, Refused, Route,
    Services, Subnet,
};
pub use taps::{OpenTap, TapError, Taps, Uplink, WantedTap};
pub use vlan::{PortVlans, WrongVlans};
pub use watch::Watcher;
