//! Requests, broken rings, resets and pauses with a worker.

use platform::worker::{Poller, Task};

use super::*;
use crate::testing::{Descriptor, flags};

#[test]
fn a_request_comes_back_answered_with_an_interrupt() {
    for features in [0, u64::MAX] {
        let (mut driver, _control, _worker) = echo(&[64, 64]);
        driver.initialize(features);
        for queue in [0, 1] {
            check_request(&mut driver, queue);
        }
    }
}

#[test]
fn many_requests_at_once_are_all_answered() {
    for features in [0, u64::MAX] {
        let (mut driver, _control, _worker) = echo(&[256]);
        driver.initialize(features);
        for round in 0..50u8 {
            for number in 0..100u8 {
                driver.add(0, &[Piece::Out(&[number, round]), Piece::In(2)]);
            }
            driver.kick(0);
            for number in 0..100u8 {
                assert_eq!(driver.wait_used(0).data, [round, number]);
            }
        }
    }
}

#[test]
fn a_broken_ring_makes_the_device_need_a_reset_after_which_it_works() {
    let (mut driver, _control, _worker) = echo(&[16, 16]);
    for _ in 0..3 {
        driver.initialize(u64::MAX);
        let endless = Descriptor { address: 0x1000, bytes: 1, flags: flags::NEXT, next: 0 };
        driver.ring(0).set_descriptor(0, endless);
        driver.ring(0).publish(0);
        driver.kick(0);
        driver.wait_needs_reset();
        // The other queue goes on.
        check_request(&mut driver, 1);
        driver.reset();
    }
    driver.initialize(u64::MAX);
    check_request(&mut driver, 0);
}

#[test]
fn a_driver_binds_again_after_a_reset() {
    let (mut driver, control, _worker) = echo(&[16, 16]);
    for round in 1..=50 {
        driver.initialize(u64::MAX);
        check_request(&mut driver, 0);
        check_request(&mut driver, 1);
        assert_eq!(control.starts(), round);
    }
    // The first thing a driver does is a reset, of a device that is new or used.
    assert_eq!(control.resets(), 50);
}

#[test]
fn a_reset_waits_for_what_is_in_flight() {
    let (mut driver, control, _worker) = echo(&[16]);
    driver.initialize(0);
    control.hold();
    driver.write(common::STATUS, 0);
    for _ in 0..100 {
        assert_ne!(driver.status(), 0);
    }
    let doorbells = driver.doorbells.addresses();
    assert_eq!(doorbells.len(), 1, "the queue is in use until the device has stopped");
    let resets = control.resets();
    control.release();
    driver.wait_reset();
    assert_eq!(control.resets(), resets + 1);
    assert!(driver.doorbells.addresses().is_empty());
    driver.initialize(0);
    check_request(&mut driver, 0);
}

#[test]
fn a_driver_that_does_not_wait_for_its_reset_finds_registers_as_new() {
    let (mut driver, control, _worker) = echo(&[16]);
    driver.initialize(0);
    driver.write(common::STATUS, 0);
    // Waits for the worker, which has nothing in flight.
    driver.write(common::CONFIG_VECTOR, 1);
    assert_eq!(driver.read(common::CONFIG_VECTOR), 1, "the reset does not come after the write");
    assert_eq!(driver.read(common::QUEUE_VECTOR), u64::from(NO_VECTOR));
    assert_eq!(driver.status(), 0);
    assert_eq!(control.resets(), 2);
}

#[test]
fn a_driver_is_not_made_to_wait_for_ever() {
    let (mut driver, control, _worker) = echo(&[16]);
    driver.initialize(0);
    control.hold();
    driver.write(common::STATUS, 0);
    driver.write(common::CONFIG_VECTOR, 1);
    assert_eq!(driver.read(common::CONFIG_VECTOR), 0, "the write came during the reset");
    control.release();
    driver.wait_reset();
    driver.write(common::CONFIG_VECTOR, 1);
    assert_eq!(driver.read(common::CONFIG_VECTOR), 1);
}

#[test]
fn a_thousand_pauses_lose_no_request() {
    let (mut driver, control, _worker) = echo(&[16, 16]);
    driver.initialize(u64::MAX);
    for round in 0..1000u32 {
        let text = round.to_le_bytes();
        let expected: Vec<u8> = text.iter().rev().copied().collect();
        // Before, while it comes into effect, and during the pause.
        driver.add(0, &[Piece::Out(&text), Piece::In(4)]);
        driver.kick(0);
        driver.function.request_pause();
        driver.add(1, &[Piece::Out(&text), Piece::In(4)]);
        driver.kick(1);
        driver.pause();
        driver.add(0, &[Piece::Out(&text), Piece::In(4)]);
        driver.kick(0);
        driver.resume();
        for queue in [0, 0, 1] {
            assert_eq!(driver.wait_used(queue).data, expected);
        }
    }
    assert_eq!(control.starts(), 1001);
}

/// A task that does nothing but come and go.
struct Visitor;

impl Task for Visitor {
    fn watch(&mut self, _poller: &mut Poller<'_>) -> std::io::Result<()> {
        Ok(())
    }
    fn ready(&mut self, _token: u16, _poller: &mut Poller<'_>) {}
    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        true
    }
}

#[test]
fn a_paused_device_answers_only_after_the_pause() {
    let (mut driver, _control, worker) = echo(&[16]);
    driver.initialize(0);
    driver.pause();
    driver.add(0, &[Piece::Out(b"ab"), Piece::In(2)]);
    driver.kick(0);
    for _ in 0..10 {
        // The worker has been through its loop when a visitor is back.
        worker.handle().attach(Visitor).map_err(|(_, error)| error).unwrap().detach();
    }
    assert_eq!(driver.ring(0).used_index(), 0);
    driver.resume();
    assert_eq!(driver.wait_used(0).data, b"ba");
}

#[test]
fn doorbells_stay_bound_during_a_pause() {
    let (mut driver, _control, _worker) = echo(&[16]);
    driver.initialize(0);
    let before = driver.doorbells.addresses();
    driver.pause();
    assert_eq!(driver.doorbells.addresses(), before);
    driver.resume();
    assert_eq!(driver.doorbells.addresses(), before);
}

#[test]
fn a_device_that_can_not_start_needs_a_reset() {
    let (mut driver, control, _worker) = echo(&[16]);
    control.fail_start(true);
    driver.negotiate(0);
    driver.enable_msix();
    driver.enable_queue(0, 16);
    driver.add_status(status::DRIVER_OK);
    driver.wait_needs_reset();
    assert_eq!(driver.msi.sent(0), 1);
    control.fail_start(false);
    driver.initialize(0);
    check_request(&mut driver, 0);
}
