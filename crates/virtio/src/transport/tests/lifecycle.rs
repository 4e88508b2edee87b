//! Activation, reset, pause and resume.

use super::*;

#[test]
fn driver_ok_starts_the_device_with_the_enabled_queues() {
    let mut bench = Bench::new();
    assert!(bench.transport.kicks().is_empty());
    bench.start();
    let script = bench.script.lock();
    let activation = script.running.as_ref().unwrap();
    assert_eq!(activation.features, FEATURE_VERSION_1);
    let queues: Vec<_> =
        activation.queues.iter().map(|queue| (queue.index, queue.queue.layout().size)).collect();
    assert_eq!(queues, [(0, 16), (1, 64)]);
    activation.queues[1].interrupt.signal();
    assert_eq!(bench.interrupts.queue.load(Ordering::SeqCst), 1);
    for ((index, kick), queue) in bench.transport.kicks().iter().zip(&activation.queues) {
        assert_eq!(*index, queue.index);
        assert!(Arc::ptr_eq(kick, &queue.kick));
    }
}

#[test]
fn a_kick_reaches_the_descriptor_of_its_queue() {
    let mut bench = Bench::new();
    bench.start();
    bench.transport.kick(1);
    let script = bench.script.lock();
    let queues = &script.running.as_ref().unwrap().queues;
    let count = |at: usize| {
        let mut raw = [0; 8];
        rustix::io::read(queues[at].kick.as_ref(), &mut raw).map(|_| u64::from_ne_bytes(raw))
    };
    assert_eq!((count(0), count(1)), (Err(rustix::io::Errno::AGAIN), Ok(1)));
}

#[test]
fn a_reset_brings_everything_back_to_as_new_and_the_driver_can_bind_again() {
    let mut bench = Bench::new();
    for round in 1..=3 {
        bench.start();
        bench.transport.write_config(0, &[7]);
        bench.transport.events().needs_reset();
        bench.transport.write_status(0);
        assert_eq!(bench.status(), 0);
        assert!(bench.transport.is_as_new());
        let script = bench.script.lock();
        assert_eq!((script.starts, script.resets, script.config), (round, round, [0; 4]));
        assert!(script.running.is_none());
    }
    // No interrupts after a reset either.
    bench.transport.events().config_changed();
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 3);
}

#[test]
fn the_status_is_not_zero_before_the_device_has_stopped() {
    let mut bench = Bench::new();
    bench.start();
    bench.script.lock().stuck = true;
    bench.transport.write_status(0);
    for _ in 0..3 {
        assert_ne!(bench.status(), 0);
    }
    assert_eq!(bench.script.lock().resets, 0);
    bench.script.lock().stuck = false;
    assert_eq!(bench.status(), 0);
    assert_eq!(bench.script.lock().resets, 1);
    assert_eq!(bench.script.lock().patient_polls, 0, "a driver that reads the status is not made to wait");
}

#[test]
fn a_driver_that_does_not_wait_for_its_reset_is_made_to_wait() {
    let mut bench = Bench::new();
    bench.start();
    bench.script.lock().slow = true;
    bench.transport.write_status(0);
    bench.transport.write_status(status::ACKNOWLEDGE);
    assert_eq!(bench.status(), status::ACKNOWLEDGE);
    assert_eq!(bench.script.lock().patient_polls, 1);
}

#[test]
fn writes_during_a_reset_that_does_not_end_are_ignored_and_wait_once() {
    let mut bench = Bench::new();
    bench.start();
    bench.script.lock().stuck = true;
    bench.transport.write_status(0);
    let before = bench.status();
    for _ in 0..3 {
        bench.transport.write_status(status::ACKNOWLEDGE);
        bench.transport.write_driver_features(FeatureHalf::Low, 1);
        bench.transport.configure_queue(0, |_| panic!("the device may still use the queue"));
        bench.transport.enable_queue(0);
        bench.transport.write_config(0, &[1]);
        bench.transport.write_status(0);
    }
    assert_eq!(bench.status(), before);
    assert_eq!(bench.script.lock().patient_polls, 1);
    assert_eq!(bench.script.lock().config, [0; 4]);
    bench.script.lock().stuck = false;
    assert_eq!(bench.status(), 0);
    assert!(bench.transport.is_as_new());
    assert_eq!(bench.script.lock().resets, 1);
}

#[test]
fn a_device_that_can_not_start_needs_a_reset_and_recovers_by_it() {
    let mut bench = Bench::new();
    bench.script.lock().fail_start = true;
    bench.start();
    assert_eq!(bench.status(), NEGOTIATED | status::DRIVER_OK | status::NEEDS_RESET);
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 1);
    bench.transport.kick(0);
    bench.script.lock().fail_start = false;
    bench.transport.write_status(0);
    assert_eq!(bench.status(), 0);
    bench.start();
    assert_eq!(bench.status(), NEGOTIATED | status::DRIVER_OK);
}

#[test]
fn a_pause_keeps_the_queues_and_resuming_starts_with_them() {
    let mut bench = Bench::new();
    bench.start();
    let kicks: Vec<_> = bench.transport.kicks().to_vec();
    bench.script.lock().stuck = true;
    bench.transport.request_pause();
    bench.transport.request_pause();
    assert!(!bench.transport.poll_paused());
    bench.script.lock().stuck = false;
    assert!(bench.transport.poll_paused());
    assert!(bench.transport.poll_paused());
    assert_eq!(bench.status(), NEGOTIATED | status::DRIVER_OK, "the driver notices nothing");
    assert!(bench.script.lock().running.is_none());

    assert!(bench.transport.resume().unwrap());
    assert!(bench.transport.resume().unwrap());
    assert!(!bench.transport.poll_paused());
    let script = bench.script.lock();
    assert_eq!(script.starts, 2);
    for ((index, kick), queue) in kicks.iter().zip(&script.running.as_ref().unwrap().queues) {
        assert_eq!(*index, queue.index);
        assert!(Arc::ptr_eq(kick, &queue.kick));
        let mut raw = [0; 8];
        assert_eq!(rustix::io::read(queue.kick.as_ref(), &mut raw), Ok(8), "the device is made to look");
    }
}

#[test]
fn a_device_without_a_driver_is_paused_at_once_and_starts_after_the_pause_only() {
    let mut bench = Bench::new();
    bench.transport.request_pause();
    assert!(bench.transport.poll_paused());
    bench.start();
    assert_eq!(bench.script.lock().starts, 0);
    assert!(bench.transport.poll_paused());
    assert!(bench.transport.resume().unwrap());
    assert_eq!(bench.script.lock().starts, 1);
}

#[test]
fn a_reset_during_a_pause_leaves_the_pause_alone() {
    let mut bench = Bench::new();
    bench.start();
    bench.transport.request_pause();
    assert!(bench.transport.poll_paused());
    bench.transport.write_status(0);
    assert_eq!(bench.status(), 0);
    assert!(bench.transport.is_as_new());
    assert!(bench.transport.poll_paused());
    bench.start();
    assert_eq!(bench.script.lock().starts, 1);
    assert!(bench.transport.resume().unwrap());
    assert_eq!(bench.script.lock().starts, 2);
}

#[test]
fn a_pause_during_a_reset_is_reached_when_the_device_stops() {
    let mut bench = Bench::new();
    bench.start();
    bench.script.lock().stuck = true;
    bench.transport.write_status(0);
    bench.transport.request_pause();
    assert!(!bench.transport.poll_paused());
    bench.script.lock().stuck = false;
    assert!(bench.transport.poll_paused());
    assert_eq!(bench.status(), 0);
    assert!(bench.transport.resume().unwrap());
    bench.start();
    assert_eq!(bench.status(), NEGOTIATED | status::DRIVER_OK);
}

#[test]
fn a_pause_that_is_given_up_ends_when_the_device_has_stopped() {
    let mut bench = Bench::new();
    bench.start();
    bench.script.lock().stuck = true;
    bench.transport.request_pause();
    assert!(!bench.transport.resume().unwrap());
    bench.script.lock().stuck = false;
    assert!(bench.transport.resume().unwrap());
    assert_eq!(bench.script.lock().starts, 2);
}

#[test]
fn a_device_that_can_not_resume_says_so_to_both_sides() {
    let mut bench = Bench::new();
    bench.start();
    bench.transport.request_pause();
    assert!(bench.transport.poll_paused());
    bench.script.lock().fail_start = true;
    bench.transport.resume().unwrap_err();
    assert_ne!(bench.status() & status::NEEDS_RESET, 0);
    bench.script.lock().fail_start = false;
    bench.transport.write_status(0);
    assert_eq!(bench.status(), 0);
    bench.start();
    assert_eq!(bench.status(), NEGOTIATED | status::DRIVER_OK);
}

#[test]
fn a_running_device_is_asked_to_stop_when_the_function_goes_away() {
    let mut bench = Bench::new();
    bench.start();
    drop(bench.transport);
    assert!(bench.script.lock().stop_requested);
}
