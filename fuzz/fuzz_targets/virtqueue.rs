//! A virtqueue in guest memory of any content, which changes while the device works.
//!
//! Held true: nothing panics; chains in flight, the buffers of a chain and their bytes are bounded; every buffer lies in
//! guest memory; what was taken can be completed or put back.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use virtio::device::GuestMemory;
use virtio::queue::{
    Chain, FEATURE_EVENT_INDEX, FEATURE_INDIRECT_DESCRIPTORS, MAX_INDIRECT_DESCRIPTORS, Queue, QueueLayout,
};
use vm_memory::{Bytes as _, GuestAddress};

/// Two regions side by side, so that areas and buffers can cross from one to the other.
const REGION_BYTES: u64 = 0x1000;
const MEMORY_BYTES: u64 = 2 * REGION_BYTES;

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let memory = memory();
    memory.write_slice(&[0; MEMORY_BYTES as usize], GuestAddress(0)).expect("guest memory");
    let layout = if input.ratio(1, 16)? {
        QueueLayout {
            size: input.arbitrary()?,
            descriptors: GuestAddress(input.arbitrary()?),
            available: GuestAddress(input.arbitrary()?),
            used: GuestAddress(input.arbitrary()?),
        }
    } else {
        QueueLayout {
            size: 1 << input.int_in_range(0..=5u32)?,
            descriptors: GuestAddress(u64::from(input.arbitrary::<u8>()?) * 16),
            available: GuestAddress(u64::from(input.arbitrary::<u8>()?) * 16),
            used: GuestAddress(u64::from(input.arbitrary::<u8>()?) * 16),
        }
    };
    let features = *input.choose(&[
        0,
        FEATURE_INDIRECT_DESCRIPTORS,
        FEATURE_EVENT_INDEX,
        FEATURE_INDIRECT_DESCRIPTORS | FEATURE_EVENT_INDEX,
    ])?;
    let Ok(mut queue) = Queue::new(layout, features, memory) else { return Ok(()) };
    let mut taken = Vec::new();
    while !input.is_empty() {
        match input.int_in_range(0..=9u8)? {
            // A descriptor, as drivers write them or not.
            0..=2 => {
                let index = u64::from(input.arbitrary::<u8>()? % 32);
                let address = u64::from(input.arbitrary::<u16>()?);
                let bytes = u32::from(input.arbitrary::<u16>()?) << (input.arbitrary::<u8>()? % 17);
                let flags = input.arbitrary::<u8>()? % 8;
                let mut raw = [0; 16];
                raw[..8].copy_from_slice(&address.to_le_bytes());
                raw[8..12].copy_from_slice(&bytes.to_le_bytes());
                raw[12] = flags;
                raw[14] = input.arbitrary::<u8>()? % 32;
                let table = if input.ratio(1, 4)? { address } else { layout.descriptors.0 };
                let _ = memory.write_slice(&raw, GuestAddress(table.saturating_add(16 * index)));
            }
            // A head, and an available index.
            3 | 4 => {
                let next = queue.state().next_available;
                let entry = layout.available.0 + 4 + 2 * u64::from(next % layout.size);
                let head = u16::from(input.arbitrary::<u8>()?) % (layout.size + 1);
                let _ = memory.write_slice(&head.to_le_bytes(), GuestAddress(entry));
                let index = next.wrapping_add(u16::from(input.int_in_range(1..=3u8)?));
                let _ = memory.write_slice(&index.to_le_bytes(), GuestAddress(layout.available.0 + 2));
            }
            // Anything anywhere.
            5 => {
                let at = u64::from(input.arbitrary::<u16>()?) % MEMORY_BYTES;
                let _ = memory.write_slice(&input.arbitrary::<u32>()?.to_le_bytes(), GuestAddress(at));
            }
            6 | 7 => {
                if let Ok(Some(chain)) = queue.pop(memory) {
                    check(&chain, layout.size, memory);
                    taken.push((queue.state().next_available, chain));
                }
            }
            8 if !taken.is_empty() => {
                let (end, chain) = taken.remove(input.choose_index(taken.len())?);
                if end == queue.state().next_available && input.ratio(1, 4)? {
                    queue.undo_pop(chain);
                } else {
                    queue.complete(memory, chain, input.arbitrary()?).expect("the ring is in memory");
                }
            }
            _ => {
                let _ = queue.wants_interrupt(memory);
                if input.arbitrary()? {
                    let _ = queue.enable_notifications(memory);
                } else {
                    let _ = queue.disable_notifications(memory);
                }
            }
        }
        assert_eq!(usize::from(queue.in_flight()), taken.len());
        assert!(queue.in_flight() <= layout.size);
    }
    for (_, chain) in taken {
        queue.complete(memory, chain, u32::MAX).expect("the ring is in memory");
    }
    Ok(())
}

/// What a device relies on when it works on a chain.
fn check(chain: &Chain, size: u16, memory: &GuestMemory) {
    let (readable, writable) = (chain.readable(), chain.writable());
    let most = usize::from(size) + usize::from(MAX_INDIRECT_DESCRIPTORS);
    assert!(readable.iter().count() + writable.iter().count() <= most);
    let sum = |bytes: &mut dyn Iterator<Item = u32>| bytes.map(u64::from).sum::<u64>();
    assert_eq!(sum(&mut readable.iter().map(|buffer| buffer.bytes)), u64::from(readable.bytes()));
    assert_eq!(sum(&mut writable.iter().map(|buffer| buffer.bytes)), u64::from(writable.bytes()));
    assert!(readable.bytes().checked_add(writable.bytes()).is_some(), "more than 4 GiB");
    let mut slices = Vec::new();
    readable.slices(memory, &mut slices).expect("buffers in guest memory");
    writable.slices(memory, &mut slices).expect("buffers in guest memory");
    let found: usize = slices.iter().map(vm_memory::VolatileSlice::len).sum();
    assert_eq!(found as u64, u64::from(readable.bytes()) + u64::from(writable.bytes()));
    let mut start = [0; 64];
    let _ = chain.readable().read(memory, &mut start);
    let _ = chain.writable().write(memory, &start);
}

fn memory() -> &'static GuestMemory {
    static MEMORY: OnceLock<GuestMemory> = OnceLock::new();
    MEMORY.get_or_init(|| {
        let regions = [0, REGION_BYTES].map(|start| (GuestAddress(start), REGION_BYTES as usize));
        GuestMemory::from_ranges(&regions).expect("guest memory")
    })
}
