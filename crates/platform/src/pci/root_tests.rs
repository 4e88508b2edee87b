#![expect(clippy::cast_possible_truncation, reason = "offsets in the tests are small")]

use proptest::prelude::*;

use super::*;
use crate::pci::{BarWidth, Class, ConfigSpace, HostBridge, Identity, LpcBridge, Prefetch};

/// A function with a 32-bit and a 64-bit BAR that answers reads with its tag.
struct Dummy {
    config: ConfigSpace,
    tag: u8,
    mirrorable: bool,
}

impl PciFunction for Dummy {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        assert!(!data.is_empty() && usize::from(offset % 4) + data.len() <= 4 && offset < 4096);
        self.config.read(offset, data);
    }
    fn write_config(&mut self, offset: u16, data: &[u8]) -> Effect {
        assert!(!data.is_empty() && usize::from(offset % 4) + data.len() <= 4 && offset < 4096);
        self.config.write(offset, data);
        Effect::None
    }
    fn decoded(&self) -> [Option<Range<u64>>; BAR_COUNT] {
        self.config.decoded()
    }
    fn read_bar(&mut self, bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(self.tag << 4 | bar);
    }
    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) -> Effect {
        Effect::Ask(VmRequest::PowerOff)
    }
    fn mirrorable(&self) -> bool {
        self.mirrorable
    }
}

fn dummy(tag: u8) -> Arc<Mutex<Dummy>> {
    let mut config = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device: 0x1040 + u16::from(tag),
        revision: 1,
        class: Class { base: 0xff, sub: 0, interface: 0 },
        subsystem_vendor: 0,
        subsystem: 0,
    });
    config.add_bar(0, BarWidth::Bits32, Prefetch::No, 0x1000).unwrap();
    config.add_bar(2, BarWidth::Bits64, Prefetch::Yes, 0x1000).unwrap();
    Arc::new(Mutex::new(Dummy { config, tag, mirrorable: true }))
}

fn slot(device: u8) -> DeviceFunction {
    DeviceFunction::new(device, 0).unwrap()
}

fn read(bus: &Bus, address: u64) -> u8 {
    let mut data = [0];
    bus.read(address, &mut data);
    data[0]
}

fn set(root: &PciRoot, device: u8, offset: u16, value: u32) {
    assert_eq!(root.write_config(slot(device), offset, &value.to_le_bytes()), Effect::None);
}

fn get(root: &PciRoot, device: u8, offset: u16) -> u32 {
    let mut data = [0; 4];
    root.read_config(slot(device), offset, &mut data);
    u32::from_le_bytes(data)
}

fn two_functions() -> (Arc<Bus>, Arc<PciRoot>) {
    let bus = Arc::new(Bus::new());
    let root = PciRoot::new(Arc::clone(&bus), None);
    root.insert(slot(1), dummy(1)).unwrap();
    root.insert(slot(2), dummy(2)).unwrap();
    (bus, root)
}

#[test]
fn a_bar_answers_where_the_guest_places_it_and_nowhere_else() {
    let (bus, root) = two_functions();
    set(&root, 1, 0x10, 0xc000_0000);
    assert_eq!(read(&bus, 0xc000_0000), 0xff, "decoding is off");
    set(&root, 1, 0x04, 2);
    assert_eq!(read(&bus, 0xc000_0fff), 0x10);
    assert_eq!(bus.write(0xc000_0000, &[0]), Effect::Ask(VmRequest::PowerOff));
    set(&root, 1, 0x10, 0xc000_4000);
    assert_eq!((read(&bus, 0xc000_0000), read(&bus, 0xc000_4000)), (0xff, 0x10));
    set(&root, 1, 0x1c, 0x70);
    assert_eq!(read(&bus, 0x70_0000_0000), 0x12);
    set(&root, 1, 0x04, 0);
    assert_eq!((read(&bus, 0xc000_4000), read(&bus, 0x70_0000_0000)), (0xff, 0xff));
}

#[test]
fn a_bar_that_collides_is_unmapped_until_the_other_leaves() {
    let (bus, root) = two_functions();
    for device in [1, 2] {
        set(&root, device, 0x10, 0xc000_0000 + u32::from(device) * 0x1000);
        set(&root, device, 0x04, 2);
    }
    // Swap the two with decoding on.
    set(&root, 1, 0x10, 0xc000_2000);
    assert_eq!((read(&bus, 0xc000_1000), read(&bus, 0xc000_2000)), (0xff, 0x20));
    set(&root, 2, 0x10, 0xc000_1000);
    assert_eq!((read(&bus, 0xc000_1000), read(&bus, 0xc000_2000)), (0x20, 0x10));
}

#[test]
fn unplugging_takes_the_ranges_away() {
    let (bus, root) = two_functions();
    set(&root, 1, 0x10, 0xc000_0000);
    set(&root, 1, 0x04, 2);
    root.remove(slot(1)).unwrap();
    assert_eq!(root.remove(slot(1)), Err(PciError::Absent(slot(1))));
    assert_eq!(read(&bus, 0xc000_0000), 0xff);
    assert_eq!(get(&root, 1, 0), u32::MAX);
    root.insert(slot(1), dummy(3)).unwrap();
    assert_eq!(root.insert(slot(1), dummy(3)), Err(PciError::Taken(slot(1))));
    assert_eq!(get(&root, 1, 0), 0x1043_1af4);
}

#[test]
fn the_ports_reach_what_the_address_register_names() {
    let (_, root) = two_functions();
    let mut ports = ConfigPorts::new(Arc::clone(&root));
    let mut data = [0; 4];
    ports.read(4, &mut data);
    assert_eq!(data, [0xff; 4], "not enabled");
    let _ = ports.write(0, &0x8000_1003u32.to_le_bytes());
    ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_1000);
    ports.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1042_1af4);
    ports.read(6, &mut data[..2]);
    assert_eq!(data[..2], [0x42, 0x10]);
    // Bits 30:24 of the address are reserved and read as zero: still bus 0.
    let _ = ports.write(0, &0x8100_1000u32.to_le_bytes());
    ports.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1042_1af4);
    let _ = ports.write(0, &0x8001_1000u32.to_le_bytes());
    ports.read(4, &mut data);
    assert_eq!(data, [0xff; 4], "there is no bus 1");
    let _ = ports.write(0, &0x8000_1010u32.to_le_bytes());
    let _ = ports.write(6, &[0x12, 0xc0]);
    assert_eq!(get(&root, 2, 0x10), 0xc012_0000);
}

#[test]
fn the_reset_control_register_resets_when_its_cpu_bit_rises() {
    let (_, root) = two_functions();
    let mut ports = ConfigPorts::new(root);
    let _ = ports.write(0, &0x8000_1000u32.to_le_bytes());
    assert_eq!(ports.write(1, &[0x02]), Effect::None);
    assert_eq!(ports.write(1, &[0x06]), Effect::Ask(VmRequest::Reset));
    assert_eq!(ports.write(1, &[0x0e]), Effect::None, "it is up already");
    let mut data = [0; 4];
    ports.read(1, &mut data[..1]);
    assert_eq!(data[0], 0x0e);
    ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_1000, "the address is unharmed");
}

#[test]
fn ecam_follows_pciexbar_and_reads_as_all_ones_beyond_bus_0() {
    let (bus, root) = two_functions();
    root.insert_host_bridge(slot(0), Arc::new(Mutex::new(HostBridge::new(Some(0xe000_0000))))).unwrap();
    let mut data = [0; 8];
    bus.read(0xe000_8000, &mut data[..4]);
    assert_eq!(data[..4], [0xf4, 0x1a, 0x41, 0x10]);
    bus.read(0xe000_8001, &mut data);
    assert_eq!(data, [0x1a, 0x41, 0x10, 0, 0, 0, 0, 1], "misaligned and 8 bytes wide");
    bus.read(0xe000_8ffc, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "past the function");
    bus.read(0xe010_0000, &mut data);
    assert_eq!(data, [0xff; 8]);
    // The guest moves ECAM through ECAM itself.
    assert_eq!(bus.write(0xe000_0060, &0xb000_0001u32.to_le_bytes()), Effect::None);
    bus.read(0xe000_8000, &mut data);
    assert_eq!(data, [0xff; 8]);
    bus.read(0xb000_8000, &mut data[..4]);
    assert_eq!(data[..4], [0xf4, 0x1a, 0x41, 0x10]);
}

struct Copy(Mutex<(Vec<u8>, Vec<bool>)>);

impl ConfigMirror for Copy {
    fn store(&self, ecam_offset: u64, bytes: &[u8]) {
        let (copy, valid) = &mut *self.0.lock();
        copy[ecam_offset as usize..][..bytes.len()].copy_from_slice(bytes);
        let function = ecam_offset as usize >> 12;
        assert!(valid[function] || bytes.len() == 4096);
        valid[function] = true;
    }
    fn withdraw(&self, ecam_offset: u64) {
        self.0.lock().1[ecam_offset as usize >> 12] = false;
    }
}

fn mirrored() -> (Arc<Copy>, Arc<PciRoot>) {
    let copy = Arc::new(Copy(Mutex::new((vec![0xff; ECAM_BUS_BYTES as usize], vec![true; 256]))));
    let mirror = Arc::clone(&copy) as Arc<dyn ConfigMirror>;
    (copy, PciRoot::new(Arc::new(Bus::new()), Some(mirror)))
}

#[test]
fn a_function_that_may_not_be_mirrored_is_withdrawn_until_it_may() {
    let (copy, root) = mirrored();
    let function = dummy(1);
    root.insert(slot(1), Arc::clone(&function) as SharedFunction).unwrap();
    assert!(copy.0.lock().1[8]);
    function.lock().mirrorable = false;
    set(&root, 1, 0x10, 0xc000_0000);
    assert!(!copy.0.lock().1[8]);
    function.lock().mirrorable = true;
    set(&root, 1, 0x3c, 5);
    assert!(copy.0.lock().1[8]);
    assert_eq!(copy.0.lock().0[0x8010..0x8014], [0, 0, 0, 0xc0]);
    root.remove(slot(1)).unwrap();
    assert!(copy.0.lock().0[0x8000..0x9000].iter().all(|byte| *byte == 0xff));
}

proptest! {
    #[test]
    fn whatever_a_guest_does_the_mirror_reads_as_configuration_space(
        steps in proptest::collection::vec(
            (0u8..5, prop_oneof![any::<u64>(), 0xe000_0000u64..0xe011_0000, Just(0xe000_8010), Just(0xe001_0010),
                                 Just(0xe000_8004), Just(0xe001_0004), Just(0xe000_0060)],
             any::<[u8; 8]>(), 1usize..=8), 0..50)
    ) {
        let (copy, root) = mirrored();
        let bus = Arc::clone(&root.memory);
        root.insert_host_bridge(slot(0), Arc::new(Mutex::new(HostBridge::new(Some(0xe000_0000))))).unwrap();
        root.insert(slot(31), Arc::new(Mutex::new(LpcBridge::new()))).unwrap();
        for device in [1, 2] {
            root.insert(slot(device), dummy(device)).unwrap();
        }
        let mut ports = ConfigPorts::new(Arc::clone(&root));
        for (what, address, bytes, length) in steps {
            let mut data = bytes;
            let data = &mut data[..length];
            match what {
                0 => ports.read(address % 8, data),
                1 => { let _ = ports.write(address % 8, data); }
                2 => bus.read(address, data),
                _ => { let _ = bus.write(address, data); }
            }
        }
        for function in 0..=255 {
            let at = DeviceFunction(function);
            let mut now = vec![0; 4096];
            root.read_config(at, 0, &mut now);
            let copy = copy.0.lock();
            prop_assert_eq!(&copy.0[at.ecam_offset() as usize..][..4096], &now[..]);
        }
        // What is mapped never overlaps and is what the functions decode.
        let layout = root.layout.lock();
        for placement in layout.bars.values().flatten() {
            prop_assert!(placement.mapped.is_none() || placement.mapped == placement.wanted);
        }
    }
}
