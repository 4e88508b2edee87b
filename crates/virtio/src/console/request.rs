//! Control messages (virtio 1.2, 5.3.6.2). Pure.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::WindowSize;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// `struct virtio_console_control`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct RawMessage {
    pub(super) id: U32,
    pub(super) event: U16,
    pub(super) value: U16,
}

/// What a driver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriverMessage {
    /// The driver wants to know the ports; false: it failed.
    DeviceReady(bool),
    /// The driver has set up a port; false: it failed to.
    PortReady { port: usize, ready: bool },
    /// A program in the guest has opened or closed a port.
    PortOpen { port: usize, open: bool },
}

impl DriverMessage {
    /// Understands a message; `None` when it is not one that a driver sends or names none of the `ports` ports.
    pub(super) fn parse(raw: &RawMessage, ports: usize) -> Option<Self> {
        let port = || usize::try_from(raw.id.get()).ok().filter(|port| *port < ports);
        let value = raw.value.get() != 0;
        match raw.event.get() {
            DEVICE_READY => Some(Self::DeviceReady(value)),
            PORT_READY => Some(Self::PortReady { port: port()?, ready: value }),
            PORT_OPEN => Some(Self::PortOpen { port: port()?, open: value }),
            _ => None,
        }
    }
}

/// What the device says about a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceMessage<'a> {
    /// The port exists.
    Add,
    /// It is a console.
    Console,
    /// Its name.
    Name(&'a str),
    /// Somebody is at the other end, or nobody.
    Open(bool),
    /// Size of its window.
    Resize(WindowSize),
}

impl DeviceMessage<'_> {
    /// The message's bytes.
    pub(super) fn encode(&self, port: usize) -> Vec<u8> {
        let (event, value) = match self {
            Self::Add => (DEVICE_ADD, 1),
            Self::Console => (CONSOLE_PORT, 1),
            Self::Name(_) => (PORT_NAME, 1),
            Self::Open(open) => (PORT_OPEN, u16::from(*open)),
            Self::Resize(_) => (RESIZE, 0),
        };
        let id = U32::new(u32::try_from(port).unwrap_or(u32::MAX));
        let message = RawMessage { id, event: U16::new(event), value: U16::new(value) };
        let mut bytes = message.as_bytes().to_vec();
        match self {
            // Not terminated: the length of the buffer tells (5.3.6.2.1).
            Self::Name(name) => bytes.extend_from_slice(name.as_bytes()),
            // Columns first, as the specification has it. Linux before 6.15 reads them the other way round; a plain
            // console, which reads the configuration space instead, is right with either.
            Self::Resize(WindowSize { columns, rows }) => {
                bytes.extend_from_slice(&columns.to_le_bytes());
                bytes.extend_from_slice(&rows.to_le_bytes());
            }
            Self::Add | Self::Console | Self::Open(_) => {}
        }
        bytes
    }
}
