//! The transport as a driver sees it, through PCI, with a device that has a worker.

mod config;
mod lifecycle;
mod random;
mod registers;

use std::sync::Arc;

use platform::pci::PciFunction as _;
use platform::worker::Worker;

use super::*;
use crate::testing::{EchoControl, EchoDevice, FakeDriver, Piece, common};
use crate::transport::status;

/// An echo device with its driver; the worker outlives both.
fn echo(queue_sizes: &[u16]) -> (FakeDriver, Arc<EchoControl>, Worker) {
    let worker = Worker::spawn("echo").unwrap();
    let (device, control) = EchoDevice::new(worker.handle(), queue_sizes);
    (FakeDriver::new(Box::new(device)), control, worker)
}

fn check_request(driver: &mut FakeDriver, queue: u16) {
    let used = driver.request(queue, &[Piece::Out(b"abc"), Piece::Out(b"de"), Piece::In(1), Piece::In(9)]);
    assert_eq!((used.written, &used.data[..5]), (5, &b"edcba"[..]));
}

/// Writes configuration space; no such write asks anything of the machine.
fn write_config(driver: &mut FakeDriver, offset: u16, data: &[u8]) {
    assert_eq!(driver.function.write_config(offset, data), platform::Effect::None);
}

fn read_config<const N: usize>(driver: &mut FakeDriver, offset: u16) -> [u8; N] {
    let mut data = [0xee; N];
    driver.function.read_config(offset, &mut data);
    data
}
