//! Any sequence of accesses and of a device's moods keeps the invariants.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Status(u8),
    NextStatus,
    Features(u8, u32),
    Queue(u16, u16, u64, u64, u64),
    Enable(u16),
    Config(u32, u8),
    Kick(u16),
    Pause,
    Resume,
    Stuck(bool),
    FailStart(bool),
    NeedsReset,
}

fn step() -> impl Strategy<Value = Step> {
    let address = || prop_oneof![4 => (0..64u64).prop_map(|page| page * 0x1000), 1 => any::<u64>()];
    let size = prop_oneof![4 => (0..8u32).prop_map(|shift| 1u16 << shift), 1 => any::<u16>()];
    prop_oneof![
        2 => prop_oneof![Just(0), any::<u8>()].prop_map(Step::Status),
        6 => Just(Step::NextStatus),
        2 => (0..3u8, prop_oneof![Just(1u32), Just(0), any::<u32>()]).prop_map(|(half, value)| Step::Features(half, value)),
        3 => (0..4u16, size, address(), address(), address()).prop_map(|(q, s, d, a, u)| Step::Queue(q, s, d, a, u)),
        3 => (0..4u16).prop_map(Step::Enable),
        1 => (any::<u32>(), any::<u8>()).prop_map(|(offset, value)| Step::Config(offset, value)),
        1 => any::<u16>().prop_map(Step::Kick),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => any::<bool>().prop_map(Step::Stuck),
        1 => any::<bool>().prop_map(Step::FailStart),
        1 => Just(Step::NeedsReset),
    ]
}

fn apply(bench: &mut Bench, step: Step) {
    let transport = &mut bench.transport;
    match step {
        Step::Status(value) => transport.write_status(value),
        Step::NextStatus => {
            // What a driver would do next.
            let status = transport.read_status();
            let next = [status::ACKNOWLEDGE, status::DRIVER, status::FEATURES_OK, status::DRIVER_OK]
                .into_iter()
                .find(|bit| status & bit == 0);
            if next == Some(status::FEATURES_OK) {
                transport.write_driver_features(FeatureHalf::Low, 0);
                transport.write_driver_features(FeatureHalf::High, 1);
            }
            transport.write_status(status | next.unwrap_or(0));
        }
        Step::Features(half, value) => {
            transport.write_driver_features(FeatureHalf::selected(half.into()), value);
        }
        Step::Queue(index, size, descriptors, available, used) => transport.configure_queue(index, |queue| {
            queue.size = size;
            queue.descriptors = descriptors;
            queue.available = available;
            queue.used = used;
        }),
        Step::Enable(index) => transport.enable_queue(index),
        Step::Config(offset, value) => transport.write_config(offset % 8, &[value, value]),
        Step::Kick(index) => transport.kick(index % 4),
        Step::Pause => transport.request_pause(),
        Step::Resume => {
            let _ = transport.resume();
        }
        Step::Stuck(stuck) => bench.script.lock().stuck = stuck,
        Step::FailStart(fail) => bench.script.lock().fail_start = fail,
        Step::NeedsReset => transport.events().needs_reset(),
    }
}

fn check(bench: &mut Bench, before: &[QueueRegisters], was_running: bool) {
    let status = bench.status();
    let clean = status & !(status::NEEDS_RESET | status::FAILED);
    assert!([0, 1, 3, 11, 15].contains(&clean), "{status:#x} skips a step");
    let script = bench.script.lock();
    if let Some(activation) = &script.running {
        assert_ne!(status & status::DRIVER_OK, 0, "a device runs without a driver");
        assert_eq!(activation.features & !(FEATURE_OF_DEVICE | CORE_FEATURES), 0);
        for queue in &activation.queues {
            queue.queue.layout().check(QUEUE_SIZES[usize::from(queue.index)], &activation.memory).unwrap();
        }
        if was_running {
            let now: Vec<_> = (0..2).map(|index| *bench.transport.queue(index).unwrap()).collect();
            assert_eq!(now, before, "queues changed while the device has them");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_sequence_of_accesses_breaks_the_device(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        for step in steps {
            let before: Vec<_> = (0..2).map(|index| *bench.transport.queue(index).unwrap()).collect();
            let was_running = bench.script.lock().running.is_some();
            apply(&mut bench, step);
            check(&mut bench, &before, was_running);
        }
        // Whatever happened: a reset makes it as new, and it can be used.
        {
            let mut script = bench.script.lock();
            (script.stuck, script.fail_start) = (false, false);
        }
        prop_assert!(bench.transport.resume().unwrap());
        bench.transport.write_status(0);
        prop_assert_eq!(bench.status(), 0);
        prop_assert!(bench.transport.is_as_new());
        bench.start();
        prop_assert_eq!(bench.status(), NEGOTIATED | status::DRIVER_OK);
        prop_assert!(bench.script.lock().running.is_some());
    }
}
