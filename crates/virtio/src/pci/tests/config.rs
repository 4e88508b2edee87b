//! Configuration space: identity, capabilities, the window.

use super::*;

/// The virtio capabilities: type, offset in configuration space, and the structure's offset and length in the BAR.
fn virtio_capabilities(driver: &mut FakeDriver) -> Vec<(u8, u16, u64, u64)> {
    let mut found = Vec::new();
    let [mut at] = read_config::<1>(driver, 0x34);
    while at != 0 {
        let [id, next, _, kind, bar] = read_config::<5>(driver, at.into());
        if id == 9 {
            assert_eq!(bar, place::BAR);
            let offset = u32::from_le_bytes(read_config(driver, u16::from(at) + 8));
            let length = u32::from_le_bytes(read_config(driver, u16::from(at) + 12));
            found.push((kind, at.into(), offset.into(), length.into()));
        }
        at = next;
    }
    found
}

#[test]
fn the_function_calls_itself_a_modern_virtio_device() {
    let (mut driver, _control, _worker) = echo(&[16]);
    assert_eq!(u16::from_le_bytes(read_config(&mut driver, 0)), 0x1af4);
    assert_eq!(u16::from_le_bytes(read_config(&mut driver, 2)), 0x1040 + 42);
    let [revision, interface, sub, base] = read_config(&mut driver, 8);
    assert_eq!((revision, interface, sub, base), (1, 0, 0xff, 0));
    assert_eq!(u16::from_le_bytes(read_config(&mut driver, 0x2c)), 0x1af4);
    assert_eq!(u16::from_le_bytes(read_config(&mut driver, 0x2e)), 0x1100);
    assert_eq!(read_config(&mut driver, 0x3c), [11, 1]);
    assert_eq!(read_config::<1>(&mut driver, 0x10)[0] & 0xf, 0b1100, "64 bits, prefetchable");
}

#[test]
fn the_capabilities_name_structures_in_the_bar_that_do_not_overlap() {
    let (mut driver, _control, _worker) = echo(&[16; 5]);
    let capabilities = virtio_capabilities(&mut driver);
    let kinds: Vec<u8> = capabilities.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [1, 2, 3, 4, 5]);
    let mut ranges: Vec<_> =
        capabilities[..4].iter().map(|(_, _, offset, bytes)| (*offset, offset + bytes)).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:?}");
    assert!(ranges.iter().all(|(start, end)| start < end && *end <= VirtioPciFunction::BAR_BYTES));
    let (_, notify, offset, bytes) = capabilities[1];
    assert_eq!(u32::from_le_bytes(read_config(&mut driver, notify + 16)), 4);
    assert_eq!((offset, bytes), (place::NOTIFY, 5 * 4));
    for index in 0..5 {
        driver.write(common::QUEUE_SELECT, index);
        assert_eq!(driver.read(common::QUEUE_NOTIFY_OFFSET), index);
    }
}

#[test]
fn a_device_with_too_many_queues_or_a_misplaced_bar_is_refused() {
    let wires = || {
        let memory = vm_memory::GuestMemoryMmap::from_ranges(&[(vm_memory::GuestAddress(0), 4096)]).unwrap();
        PciWires {
            memory: Arc::new(memory),
            msi: Arc::<crate::testing::FakeMsi>::default(),
            line: Arc::<crate::testing::FakeLine>::default(),
            doorbells: Arc::<crate::testing::FakeDoorbells>::default(),
        }
    };
    let worker = Worker::spawn("echo").unwrap();
    let build = |queues: u16, bar: Option<u64>| {
        let (device, _) = EchoDevice::new(worker.handle(), &vec![1; usize::from(queues)]);
        VirtioPciFunction::new(Box::new(device), wires(), PciPlace { bar, interrupt_line: 0xff })
    };
    build(MAX_QUEUES, None).unwrap();
    build(MAX_QUEUES + 1, None).unwrap_err();
    build(1, Some(VirtioPciFunction::BAR_BYTES)).unwrap();
    build(1, Some(VirtioPciFunction::BAR_BYTES / 2)).unwrap_err();
}

#[test]
fn registers_can_be_reached_through_the_window() {
    let (mut driver, _control, _worker) = echo(&[16]);
    let (_, window, ..) = virtio_capabilities(&mut driver)[4];
    let point = |driver: &mut FakeDriver, offset: u32, bytes: u32| {
        write_config(driver, window + 8, &offset.to_le_bytes());
        write_config(driver, window + 12, &bytes.to_le_bytes());
    };
    point(&mut driver, 18, 2);
    assert_eq!(read_config(&mut driver, window + 16), [1, 0, 0, 0], "one queue");
    point(&mut driver, 20, 1);
    write_config(&mut driver, window + 16, &[status::ACKNOWLEDGE]);
    assert_eq!(driver.status(), status::ACKNOWLEDGE);
    // Misaligned, of a width that does not exist, beyond the BAR, in a BAR that does not exist: nothing happens.
    let bar_bytes = u32::try_from(VirtioPciFunction::BAR_BYTES).unwrap();
    for (offset, bytes) in
        [(19, 2), (20, 3), (20, 0), (20, 8), (bar_bytes, 1), (u32::MAX, 1), (u32::MAX - 3, 4)]
    {
        point(&mut driver, offset, bytes);
        write_config(&mut driver, window + 16, &[status::ACKNOWLEDGE | status::DRIVER; 4]);
        assert_eq!(driver.status(), status::ACKNOWLEDGE, "{offset} {bytes}");
    }
    point(&mut driver, 20, 1);
    write_config(&mut driver, window + 4, &[1]);
    write_config(&mut driver, window + 16, &[status::ACKNOWLEDGE | status::DRIVER]);
    assert_eq!(driver.status(), status::ACKNOWLEDGE);
}

#[test]
fn a_copy_of_configuration_space_may_answer_only_when_reads_have_no_effects() {
    let (mut driver, _control, _worker) = echo(&[16]);
    assert!(!driver.function.mirrorable(), "the interrupt status changes by itself");
    driver.enable_msix();
    assert!(driver.function.mirrorable());
    let (_, window, ..) = virtio_capabilities(&mut driver)[4];
    write_config(&mut driver, window + 12, &1u32.to_le_bytes());
    assert!(!driver.function.mirrorable(), "the window is open");
}
