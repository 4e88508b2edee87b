//! The transport as a driver sees it, through PCI.

use std::sync::Arc;

use platform::worker::Worker;

use crate::testing::{EchoControl, EchoDevice, FakeDriver, Piece};

fn echo(queue_sizes: &[u16]) -> (FakeDriver, Arc<EchoControl>, Worker) {
    let worker = Worker::spawn("echo").unwrap();
    let (device, control) = EchoDevice::new(worker.handle(), queue_sizes);
    (FakeDriver::new(Box::new(device)), control, worker)
}

#[test]
fn a_request_comes_back_answered_with_an_interrupt() {
    let (mut driver, _control, _worker) = echo(&[64, 64]);
    driver.initialize(u64::MAX);
    for queue in [0, 1] {
        let used =
            driver.request(queue, &[Piece::Out(b"abc"), Piece::Out(b"de"), Piece::In(1), Piece::In(9)]);
        assert_eq!((used.written, &used.data[..5]), (5, &b"edcba"[..]));
    }
}
