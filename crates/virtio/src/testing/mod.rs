//! A driver that plays the guest: sets a device up through its PCI registers, fills rings in guest memory and reads the
//! answers back, with interrupts and doorbells that are recorded instead of delivered.
//!
//! For the tests of devices. What goes wrong here panics with a message; every wait ends after [`PATIENCE`] with a panic.
//! It trusts the device for nothing that a guest would not: answers are read from guest memory only.

pub mod common;
mod driver;
mod echo;
mod fakes;
mod ring;

use std::time::Duration;

pub use driver::FakeDriver;
pub use echo::{EchoControl, EchoDevice};
pub use fakes::{FakeDoorbells, FakeLine, FakeMsi};
pub use ring::{Descriptor, DriverRing, Piece, Used, flags};

/// How long a test waits for a device before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
