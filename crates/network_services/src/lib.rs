//! DHCP for IPv4 and IPv6, router advertisements and DNS for one virtual network, as a process of its own.
//!
//! The daemon describes a network ([`Description`]), starts a process that calls [`serve`], and talks to it with [`Control`]. The process outlives the daemon,
//! so guests keep their addresses and names when the daemon is replaced or killed.
//!
//! **Trusts** the kernel, the files that the daemon names, and who has the control socket (root, or who started it). Guests are hostile: the parsers and
//! state machines of DHCP and DNS are functions of bytes, state and time, without input or output, and everything that a guest can make grow is bounded. When its
//! sockets and files are open the process gives up its user, its capabilities and most system calls ([`confinement`]).
//!
//! **Owns** its sockets, all bound to the bridge, and its database. A lease is on stable storage before a guest is told of it.
//!
//! **Threads:** one for all sockets (a tokio runtime of one thread), and `leases`, which writes the database.
//!
//! Specifications: RFC 2131, 2132, 3442, 4702 (DHCPv4), RFC 8415, 3646, 4704 (DHCPv6), RFC 4861, 8106 (router advertisements), RFC 1035, 6891, 7766 (DNS).

mod alarm;
mod confinement;
pub mod control;
mod database;
pub mod description;
mod dhcpv4;
mod dhcpv6;
mod dns;
#[cfg(fuzzing)]
pub mod fuzzing;
mod lease;
mod mac;
mod packet_socket;
mod packets;
mod plan;
mod pool;
mod process;
mod router_advertisement;
mod service;
mod sockets;

pub use confinement::ConfinementError;
pub use control::{Control, ControlError, Status, Subscription};
pub use database::DatabaseError;
pub use description::Description;
pub use lease::{Lease, LeaseChange, LeaseEvent};
pub use mac::{MacAddress, NotAMacAddress};
pub use plan::{DescriptionError, Plan};
pub use process::{Options, ServeError, serve};
pub use sockets::SocketError;
