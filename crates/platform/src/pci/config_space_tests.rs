use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::interrupt::MsiSink;
use crate::pci::Notified;
use crate::pci::msix::tests::Recorder;

const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1042,
    revision: 1,
    class: Class { base: 1, sub: 0x80, interface: 0 },
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(IDENTITY);
    space.add_bar(0, BarWidth::Bits32, Prefetch::No, 0x1000).unwrap();
    space.add_bar(4, BarWidth::Bits64, Prefetch::Yes, 0x8000).unwrap();
    space
}

fn dword(space: &ConfigSpace, offset: u16) -> u32 {
    let mut data = [0; 4];
    space.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn set(space: &mut ConfigSpace, offset: u16, value: u32) {
    space.write(offset, &value.to_le_bytes());
}

#[test]
fn the_header_names_the_function_and_cannot_be_changed() {
    let mut space = space();
    for offset in [0x00, 0x08, 0x2c] {
        let before = dword(&space, offset);
        set(&mut space, offset, !before);
        assert_eq!(dword(&space, offset), before);
    }
    assert_eq!(dword(&space, 0x00), 0x1042_1af4);
    assert_eq!(dword(&space, 0x08), 0x0180_0001);
    assert_eq!(dword(&space, 0x2c), 0x1100_1af4);
}

#[test]
fn sizing_a_bar_shows_its_size_and_kind() {
    let mut space = space();
    for (register, expected) in
        [(0x10, 0xffff_f000), (0x14, 0), (0x20, 0xffff_800c), (0x24, 0xffff_ffff), (0x30, 0)]
    {
        set(&mut space, register, u32::MAX);
        assert_eq!(dword(&space, register), expected, "register {register:#x}");
    }
}

#[test]
fn a_bar_decodes_while_memory_is_enabled_and_its_address_makes_sense() {
    let mut space = space();
    set(&mut space, 0x10, 0xfebf_1000);
    set(&mut space, 0x20, 0x0000_8000);
    set(&mut space, 0x24, 0x0000_0080);
    assert_eq!(space.decoded(), [const { None }; BAR_COUNT]);
    set(&mut space, 0x04, 2);
    let decoded = space.decoded();
    assert_eq!(decoded[0], Some(0xfebf_1000..0xfebf_2000));
    assert_eq!(decoded[4], Some(0x80_0000_8000..0x80_0001_0000));
    assert_eq!(decoded.iter().flatten().count(), 2);
    set(&mut space, 0x10, u32::MAX);
    set(&mut space, 0x20, 0);
    set(&mut space, 0x24, 0);
    assert_eq!(space.decoded(), [const { None }; BAR_COUNT]);
}

#[test]
fn bars_that_cannot_exist_are_refused() {
    let mut space = space();
    let mut add = |index, width, bytes| space.add_bar(index, width, Prefetch::No, bytes);
    for taken in [0, 4, 5, 6] {
        assert_eq!(add(taken, BarWidth::Bits32, 0x1000), Err(ConfigError::BarTaken(taken)));
    }
    assert_eq!(add(3, BarWidth::Bits64, 0x1000), Err(ConfigError::BarTaken(3)));
    for bytes in [0, 8, 0x1001, 1 << 32] {
        assert_eq!(add(1, BarWidth::Bits32, bytes), Err(ConfigError::BarSize { index: 1, bytes }));
    }
}

#[test]
fn a_placed_bar_keeps_its_kind_and_refuses_what_does_not_fit() {
    let mut space = space();
    space.place_bar(0, 0xc000_0000).unwrap();
    space.place_bar(4, 0x70_0000_0000).unwrap();
    space.enable_memory();
    assert_eq!(space.decoded()[0], Some(0xc000_0000..0xc000_1000));
    assert_eq!(space.decoded()[4], Some(0x70_0000_0000..0x70_0000_8000));
    assert_eq!(dword(&space, 0x20), 0xc);
    for address in [0x800, 0x1_0000_0000] {
        assert_eq!(space.place_bar(0, address), Err(ConfigError::BarAddress { index: 0, address }));
    }
    assert_eq!(space.place_bar(1, 0), Err(ConfigError::BarTaken(1)));
}

#[test]
fn capabilities_are_linked_in_order() {
    let mut space = space();
    assert_eq!(dword(&space, 0x04) >> 16 & 0x10, 0);
    let first = space.add_vendor_capability(&[1, 2, 3], &[0, 0xff]).unwrap();
    let second = space.add_express_capability().unwrap();
    assert_eq!(dword(&space, 0x04) >> 16 & 0x10, 0x10);
    assert_eq!(dword(&space, 0x34), u32::from(first));
    assert_eq!(dword(&space, first), u32::from_le_bytes([9, second.to_le_bytes()[0], 6, 1]));
    assert_eq!(dword(&space, second) & 0xffff, 0x0010);
    assert_eq!(dword(&space, second) >> 20 & 0xf, 9, "root complex integrated endpoint");
    set(&mut space, first, u32::MAX);
    set(&mut space, first + 4, u32::MAX);
    assert_eq!(dword(&space, first + 4), 0x03ff);
    assert_eq!(dword(&space, 0x100), 0, "no extended capabilities");
}

#[test]
fn a_capability_list_that_is_too_long_is_refused() {
    let mut space = space();
    space.add_vendor_capability(&[0; 186], &[]).unwrap();
    assert_eq!(space.add_capability(9, &[0; 4], &[]), Err(ConfigError::CapabilityRoom { id: 9, bytes: 6 }));
    assert!(space.add_vendor_capability(&[0; 300], &[]).is_err());
}

#[test]
fn the_msix_capability_drives_the_vectors() {
    let sink = Arc::new(Recorder::default());
    let msix = Msix::new(4, Arc::clone(&sink) as Arc<dyn MsiSink>);
    let mut space = space();
    let place = MsixPlace { bar: 4, table: 0x1000, pending: 0x2000 };
    let at = space.add_msix(msix.clone(), place).unwrap();
    assert_eq!(dword(&space, at), 0x0003_0011);
    assert_eq!((dword(&space, at + 4), dword(&space, at + 8)), (0x1004, 0x2004));
    assert_eq!(msix.notify(1), Notified::Disabled);
    space.write(at + 2, &0xc000u16.to_le_bytes());
    assert_eq!(msix.notify(1), Notified::Pending);
    assert_eq!(dword(&space, at) >> 16, 0xc003);
    msix.write_table(16 + 12, &[0; 4]);
    space.write(at + 3, &[0x80]);
    assert_eq!(*sink.signalled.lock(), [1]);
}

#[test]
fn msix_structures_outside_a_bar_are_refused() {
    let sink = Arc::new(Recorder::default());
    let msix = Msix::new(4, sink as Arc<dyn MsiSink>);
    for (bar, table) in [(1, 0), (0, 4), (0, 0xff8), (0, 0xffff_fff8)] {
        let place = MsixPlace { bar, table, pending: 0x800 };
        let refusal = ConfigError::MsixPlace { bar, offset: table };
        assert_eq!(space().add_msix(msix.clone(), place), Err(refusal));
    }
}

proptest! {
    #[test]
    fn no_access_panics_or_changes_what_is_read_only(
        writes in proptest::collection::vec((0u16..4096, any::<[u8; 8]>(), 1usize..=8), 0..40)
    ) {
        let mut space = space();
        let sink = Arc::new(Recorder::default());
        let msix = Msix::new(4, sink as Arc<dyn MsiSink>);
        space.add_msix(msix, MsixPlace { bar: 4, table: 0x1000, pending: 0x2000 }).unwrap();
        space.add_express_capability().unwrap();
        let before = space.value;
        for (offset, bytes, length) in writes {
            space.write(offset, &bytes[..length]);
            space.read(offset, &mut vec![0; length]);
            for range in space.decoded().into_iter().flatten() {
                prop_assert!(range.start < range.end && range.start % 0x1000 == 0);
            }
        }
        for ((now, then), mask) in space.value.iter().zip(before).zip(space.writable) {
            prop_assert_eq!(now & !mask, then & !mask);
        }
    }
}
