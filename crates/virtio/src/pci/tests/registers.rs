//! The structures in the BAR: widths, vectors, interrupts, doorbells.

use super::*;

const BAR_ADDRESS: u64 = 0xe000_0000;

fn read_bar<const N: usize>(driver: &mut FakeDriver, offset: u64) -> [u8; N] {
    let mut data = [0xee; N];
    driver.function.read_bar(place::BAR, offset, &mut data);
    data
}

fn write_bar(driver: &mut FakeDriver, offset: u64, data: &[u8]) {
    assert_eq!(driver.function.write_bar(place::BAR, offset, data), platform::Effect::None);
}

#[test]
fn fields_can_be_accessed_in_parts_and_several_at_once() {
    let (mut driver, _control, _worker) = echo(&[16, 32]);
    driver.write(common::QUEUE_SELECT, 1);
    assert_eq!(read_bar(&mut driver, 22), [1, 0, 32, 0, 0xff, 0xff, 0, 0], "select, size, vector, enable");
    // An address in halves, as drivers for 32 bits do it, and byte by byte.
    write_bar(&mut driver, 32, &0x2000u32.to_le_bytes());
    write_bar(&mut driver, 36, &0x1u32.to_le_bytes());
    assert_eq!(driver.read(common::QUEUE_DESCRIPTORS), 0x1_0000_2000);
    for (at, byte) in (40u64..).zip(0x1122_3344_5566_7788u64.to_le_bytes()) {
        write_bar(&mut driver, at, &[byte]);
    }
    assert_eq!(driver.read(common::QUEUE_AVAILABLE), 0x1122_3344_5566_7788);
    // Across the structure's end.
    assert_eq!(read_bar(&mut driver, 0x34), [0; 8]);
    write_bar(&mut driver, 0x34, &[0xff; 8]);
    assert_eq!(driver.read(common::QUEUE_USED), 0xffff_ffff_0000_0000);
}

#[test]
fn places_without_a_register_read_as_zero_and_take_writes_without_effect() {
    let (mut driver, _control, _worker) = echo(&[16]);
    for offset in
        [0x38, 0xfff, 0x1001, 0x1ff8, 0x2008, 0x2fff, 0x3000, 0x3ff8, 0x4fff, 0x7fff, 0x8000, u64::MAX]
    {
        write_bar(&mut driver, offset, &[0xff; 8]);
        assert_eq!(read_bar(&mut driver, offset), [0; 8], "{offset:#x}");
    }
    for bar in 1..=255 {
        let mut data = [0xee; 4];
        driver.function.read_bar(bar, 0, &mut data);
        assert_eq!(data, [0; 4]);
        assert_eq!(driver.function.write_bar(bar, 20, &[1]), platform::Effect::None);
    }
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_vector_that_does_not_exist_is_answered_with_no_vector() {
    let (mut driver, _control, _worker) = echo(&[16]);
    for (register, last) in [(common::CONFIG_VECTOR, 1), (common::QUEUE_VECTOR, 1)] {
        assert_eq!(driver.read(register), u64::from(NO_VECTOR));
        driver.write(register, last);
        assert_eq!(driver.read(register), last);
        for wrong in [last + 1, 0x7ff, 0xffff] {
            driver.write(register, wrong);
            assert_eq!(driver.read(register), u64::from(NO_VECTOR));
        }
    }
    driver.write(common::QUEUE_SELECT, 7);
    driver.write(common::QUEUE_VECTOR, 1);
    assert_eq!(driver.read(common::QUEUE_VECTOR), u64::from(NO_VECTOR));
}

#[test]
fn the_vectors_are_forgotten_by_a_reset() {
    let (mut driver, _control, _worker) = echo(&[16]);
    driver.initialize(0);
    driver.write(common::DEVICE_FEATURE_SELECT, 1);
    driver.reset();
    assert_eq!(driver.read(common::CONFIG_VECTOR), u64::from(NO_VECTOR));
    assert_eq!(driver.read(common::QUEUE_VECTOR), u64::from(NO_VECTOR));
    assert_eq!(driver.read(common::DEVICE_FEATURE_SELECT), 0);
}

#[test]
fn without_msix_the_line_is_raised_until_the_isr_is_read() {
    let (mut driver, _control, _worker) = echo(&[16]);
    driver.negotiate(0);
    driver.enable_queue(0, 16);
    driver.add_status(status::DRIVER_OK);
    driver.add(0, &[Piece::Out(b"ab"), Piece::In(2)]);
    driver.kick(0);
    driver.line.wait_high();
    assert_eq!(driver.ring(0).take_used().unwrap().data, b"ba");
    assert_eq!(read_config::<1>(&mut driver, 6)[0] & 8, 8, "interrupt status");
    assert_eq!(read_bar(&mut driver, place::ISR), [1]);
    assert!(!driver.line.is_high());
    assert_eq!(read_config::<1>(&mut driver, 6)[0] & 8, 0);
    assert_eq!(read_bar(&mut driver, place::ISR), [0]);

    driver.function.events().config_changed();
    assert!(driver.line.is_high());
    assert_eq!(read_bar(&mut driver, place::ISR), [2]);
    assert_eq!(driver.line.rises(), 2);
}

#[test]
fn the_line_stays_low_while_it_is_disabled_or_replaced_by_msix() {
    let (mut driver, _control, _worker) = echo(&[16]);
    driver.negotiate(0);
    driver.add_status(status::DRIVER_OK);
    driver.function.events().config_changed();
    assert!(driver.line.is_high());
    write_config(&mut driver, 5, &[4]);
    assert!(!driver.line.is_high());
    write_config(&mut driver, 5, &[0]);
    assert!(driver.line.is_high(), "the cause is still there");
    driver.enable_msix();
    assert!(!driver.line.is_high());
    driver.write(common::CONFIG_VECTOR, u64::from(NO_VECTOR));
    assert_eq!(read_bar(&mut driver, place::ISR), [2]);
    driver.function.events().config_changed();
    assert_eq!(read_bar(&mut driver, place::ISR), [0], "no vector means no interrupt");
    assert_eq!(driver.msi.sent(0), 0);
}

#[test]
fn a_reset_takes_the_line_down() {
    let (mut driver, _control, _worker) = echo(&[16]);
    driver.negotiate(0);
    driver.add_status(status::DRIVER_OK);
    driver.function.events().config_changed();
    driver.reset();
    assert!(!driver.line.is_high());
    assert_eq!(read_bar(&mut driver, place::ISR), [0]);
}

#[test]
fn doorbells_are_bound_from_driver_ok_to_reset() {
    let (mut driver, _control, _worker) = echo(&[16, 16, 16]);
    assert!(driver.doorbells.addresses().is_empty());
    driver.negotiate(0);
    driver.enable_queue(0, 16);
    driver.enable_queue(2, 16);
    assert!(driver.doorbells.addresses().is_empty());
    driver.add_status(status::DRIVER_OK);
    let notify = BAR_ADDRESS + place::NOTIFY;
    assert_eq!(driver.doorbells.addresses(), [notify, notify + 8]);
    driver.reset();
    assert!(driver.doorbells.addresses().is_empty());
}

#[test]
fn doorbells_follow_the_bar() {
    let (mut driver, _control, _worker) = echo(&[16]);
    driver.initialize(0);
    check_request(&mut driver, 0);
    // Firmware moves a BAR with decoding off.
    write_config(&mut driver, 4, &[0]);
    assert!(driver.doorbells.addresses().is_empty());
    write_config(&mut driver, 0x10, &0xc000_0000u32.to_le_bytes());
    write_config(&mut driver, 0x14, &1u32.to_le_bytes());
    assert!(driver.doorbells.addresses().is_empty());
    write_config(&mut driver, 4, &[6]);
    let address = 0x1_c000_0000 + place::NOTIFY;
    assert_eq!(driver.doorbells.addresses(), [address]);
    assert_eq!(driver.function.decoded()[0], Some(0x1_c000_0000..0x1_c000_8000));
    driver.add(0, &[Piece::Out(b"ab"), Piece::In(2)]);
    assert!(driver.doorbells.ring(address));
    assert_eq!(driver.wait_used(0).data, b"ba");
    // The fake driver rings at the old address, where no doorbell is: the register does it.
    check_request(&mut driver, 0);
    let doorbells = Arc::clone(&driver.doorbells);
    drop(driver);
    assert!(doorbells.addresses().is_empty());
}

#[test]
fn the_device_configuration_can_be_read_and_written() {
    let (mut driver, _control, _worker) = echo(&[16]);
    driver.write_config(0, b"abcdefgh");
    let mut data = [0; 8];
    driver.read_config(0, &mut data);
    assert_eq!(&data, b"abcdefgh");
    driver.reset();
    driver.read_config(0, &mut data);
    assert_eq!(data, [0; 8]);
}
