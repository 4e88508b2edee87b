//! libvirt's remote protocol over unix sockets: wire types, framing, the client's half and the server's half.
//!
//! It knows what travels, not what it means: no domain, no XML, no state of a daemon. A daemon gives it a table of typed
//! functions ([`server::Table`]) and gets connections, limits, keepalive, events and streams; a client gets typed calls
//! ([`client::Connection`]).
//!
//! Trusts nothing that comes from the peer, in both halves: whatever is decoded is bounded by its limits and by the bytes that
//! came ([`xdr`], [`frame`]), and no peer can make the other side wait or keep memory without a bound. The server's half runs
//! as tasks of a tokio runtime that the caller owns, one a connection and one for each call that has to wait; the client's
//! half blocks its caller's thread and has none of its own.
//!
//! Specification: RFC 4506 (XDR) and libvirt's protocol descriptions, src/rpc/virnetprotocol.x, virkeepaliveprotocol.x and
//! src/remote/remote_protocol.x of libvirt 9 to 11, cited where they are used. libvirt calls the protocol internal; it has
//! never changed a number or a field that was released.
//!
//! The published crate libvirt-xdr is not used: its lists and strings know no limits, and fixed arrays, short integers inside of
//! lists and enumerations with numbers are not what the protocol has.

mod call;
pub mod client;
mod error;
pub mod events;
pub mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod limits;
mod names;
pub mod procedures;
#[cfg(test)]
mod samples;
pub mod server;
pub mod types;
pub mod xdr;

pub use call::{Call, Event};
pub use error::{ErrorCode, ErrorDomain, RpcError};
pub use procedures::Procedure;

use frame::{QEMU_PROGRAM, REMOTE_PROGRAM};

/// Added to the number of a procedure of the QEMU program.
const QEMU_KEY: u32 = 0x1_0000;

/// Highest number that a procedure may have in either program, more than libvirt will have in decades.
const NUMBER_MAX: u32 = 0xffff;

impl Procedure {
    /// The procedure with `number` in `program`, if it has types here.
    pub fn find(program: u32, number: u32) -> Option<Self> {
        match program {
            _ if number > NUMBER_MAX => None,
            REMOTE_PROGRAM => Self::from_key(number),
            QEMU_PROGRAM => Self::from_key(QEMU_KEY | number),
            _ => None,
        }
    }

    /// The program that it belongs to.
    pub fn program(self) -> u32 {
        if self as u32 >= QEMU_KEY { QEMU_PROGRAM } else { REMOTE_PROGRAM }
    }

    /// Its number in its program.
    pub fn number(self) -> u32 {
        self as u32 & NUMBER_MAX
    }
}

/// Numbers that CONNECT_SUPPORTS_FEATURE asks about (VIR_DRV_FEATURE_* of libvirt's src/libvirt_internal.h).
pub mod feature {
    /// Typed parameters may be strings.
    pub const TYPED_PARAM_STRING: i32 = 9;
    /// Keepalive messages; asking switches the server's own on.
    pub const PROGRAM_KEEPALIVE: i32 = 10;
    /// Events with callback numbers.
    pub const REMOTE_EVENT_CALLBACK: i32 = 14;
    /// Messages when the daemon loses its hypervisor.
    pub const REMOTE_CLOSE_CALLBACK: i32 = 15;
    /// NETWORK_UPDATE has its arguments in the order of its name.
    pub const NETWORK_UPDATE_HAS_CORRECT_ORDER: i32 = 16;
}

/// CONNECT_OPEN: the connection is read-only (VIR_CONNECT_RO).
pub const OPEN_READ_ONLY: u32 = 1;
