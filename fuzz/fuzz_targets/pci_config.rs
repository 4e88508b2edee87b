//! PCI configuration space by ECAM and by the ports CF8h and CFCh: bridges and two virtio functions whose BARs move.
//!
//! Held true: no access panics; only the reset register asks something of the machine; the copy that answers reads without an
//! exit is what a read would give; two BARs at one place are sorted out.
#![no_main]

mod devices;

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use platform::pci::{ConfigMirror, ConfigPorts, DeviceFunction, HostBridge, LpcBridge, PciFunction, PciRoot};
use platform::worker::Worker;
use platform::{Bus, Effect, VmRequest, board};
use virtio::device::GuestMemory;
use virtio::pci::{PciPlace, PciWires, VirtioPciFunction};
use virtio::testing::{FakeDoorbells, FakeLine, FakeMsi};
use vm_memory::GuestAddress;

const ECAM: u64 = 0xe000_0000;
const BAR: u64 = 0xc000_0000;
const SLOTS: [u8; 5] = [0, 1, 2, 31, 7];

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let worker = Worker::spawn("fuzz").expect("a thread");
    let (memory, ports) = (Arc::new(Bus::new()), Bus::new());
    let mirror = Arc::<Mirror>::default();
    let root = PciRoot::new(Arc::clone(&memory), Some(Arc::clone(&mirror) as _));
    let host = Arc::new(Mutex::new(HostBridge::new(Some(ECAM))));
    root.insert_host_bridge(board::HOST_BRIDGE, host).expect("a free slot");
    root.insert(board::LPC_BRIDGE, Arc::new(Mutex::new(LpcBridge::new()))).expect("a free slot");
    for (slot, kind) in [(1u8, 0u8), (2, 2)] {
        let function = function(slot, kind, &worker);
        root.insert(DeviceFunction::device_zero(slot), function).expect("a free slot");
    }
    let config_ports = Arc::new(Mutex::new(ConfigPorts::new(Arc::clone(&root))));
    ports.insert(board::PCI_CONFIG_PORTS, config_ports).expect("a free place");

    while !input.is_empty() {
        let kind = input.int_in_range(0..=15u8)?;
        let width = input.int_in_range(1..=8usize)?;
        let value = input.arbitrary::<u64>()?;
        let value = (if input.arbitrary()? { value } else { BAR | value & 0xffff }).to_le_bytes();
        let slot = u64::from(*input.choose(&SLOTS)?);
        let offset = u64::from(input.arbitrary::<u16>()? % if input.ratio(1, 8)? { 4096 } else { 256 });
        match kind {
            0..=5 => assert_eq!(memory.write(ECAM + (slot << 15) + offset, &value[..width]), Effect::None),
            6 => memory.read(ECAM + (slot << 15) + offset, &mut [0; 8][..width]),
            7..=9 => {
                let address = 1u64 << 31 | slot << 11 | offset & 0xfc;
                assert_eq!(ports.write(0xcf8, &address.to_le_bytes()[..4]), Effect::None);
                assert_eq!(ports.write(0xcfc + offset % 4, &value[..width]), Effect::None);
            }
            10 | 11 => {
                let port = board::PCI_CONFIG_PORTS.start + offset % 8;
                match ports.write(port, &value[..width]) {
                    Effect::None | Effect::Ask(VmRequest::Reset) => {}
                    other => panic!("{other:?}"),
                }
            }
            12 => ports.read(board::PCI_CONFIG_PORTS.start + offset % 8, &mut [0; 8][..width]),
            13 => drop(memory.write(BAR + offset, &value[..width])),
            _ => memory.read(BAR + 0x8000 * (slot % 4) + offset, &mut [0; 8][..width]),
        }
        mirror.check(&root);
    }
    Ok(())
}

fn function(slot: u8, kind: u8, worker: &Worker) -> Arc<Mutex<dyn PciFunction>> {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).expect("guest memory");
    let wires = PciWires {
        memory: Arc::new(memory),
        msi: Arc::<FakeMsi>::default(),
        line: Arc::<FakeLine>::default(),
        doorbells: Arc::<FakeDoorbells>::default(),
    };
    let place = PciPlace { bar: Some(BAR + 0x8000 * u64::from(slot)), interrupt_line: 11 };
    let (device, _) = devices::device(kind, worker.handle());
    Arc::new(Mutex::new(VirtioPciFunction::new(device, wires, place).expect("a function")))
}

/// The pages that answer reads, by their place in ECAM.
#[derive(Default)]
struct Mirror {
    pages: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Mirror {
    fn check(&self, root: &PciRoot) {
        for (at, page) in self.pages.lock().iter() {
            let place =
                DeviceFunction::new((at >> 15) as u8, (at >> 12 & 7) as u8).expect("a place on bus 0");
            for (offset, bytes) in (0u16..).step_by(4).zip(page.chunks_exact(4)) {
                let mut read = [0; 4];
                root.read_config(place, offset, &mut read);
                assert_eq!(read, bytes, "{place} {offset:#x}");
            }
        }
    }
}

impl ConfigMirror for Mirror {
    fn store(&self, ecam_offset: u64, bytes: &[u8]) {
        let (page, offset) = (ecam_offset & !0xfff, (ecam_offset & 0xfff) as usize);
        let mut pages = self.pages.lock();
        let page = pages.entry(page).or_insert_with(|| {
            assert_eq!(bytes.len(), 4096, "a function becomes valid with all of its bytes");
            vec![0xff; 4096]
        });
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn withdraw(&self, ecam_offset: u64) {
        self.pages.lock().remove(&ecam_offset);
    }
}
