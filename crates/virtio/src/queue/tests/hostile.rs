//! Drivers that break the rules.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use proptest::prelude::*;
use vm_memory::{GuestMemory as _, Permissions};

use super::*;
use crate::testing::{Descriptor, PATIENCE, flags};

const END: u64 = MEMORY_BYTES as u64;
const TABLE: u64 = 0x8000;

fn buffer(address: u64, bytes: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, bytes, flags, next }
}

/// What popping a chain answers whose descriptors are `direct` in the queue and `table` in an indirect table at `TABLE`.
fn pop(
    size: u16,
    features: u64,
    direct: &[Descriptor],
    table: &[Descriptor],
) -> Result<Option<Chain>, QueueFault> {
    let (mut ring, mut queue, memory) = rings(size, features);
    for (index, descriptor) in (0u16..).zip(direct) {
        ring.set_descriptor(index, *descriptor);
    }
    for (index, descriptor) in (0u16..).zip(table) {
        descriptor.store(&memory, GuestAddress(TABLE), index);
    }
    ring.publish(0);
    let result = queue.pop(&memory);
    if let Err(fault) = &result {
        assert_eq!(queue.in_flight(), 0, "nothing is taken");
        assert_eq!(queue.pop(&memory).unwrap_err(), *fault, "the fault stays");
    }
    result
}

fn direct_fault(direct: &[Descriptor]) -> QueueFault {
    pop(4, 0, direct, &[]).unwrap_err()
}

fn indirect_fault(head: Descriptor, table: &[Descriptor]) -> QueueFault {
    pop(4, FEATURE_INDIRECT_DESCRIPTORS, &[head], table).unwrap_err()
}

#[test]
fn a_head_that_is_no_descriptor_is_a_fault() {
    let (mut ring, mut queue, memory) = rings(4, 0);
    ring.publish(4);
    assert_eq!(queue.pop(&memory).unwrap_err(), QueueFault::DescriptorIndex { index: 4, entries: 4 });
}

#[test]
fn a_next_that_is_no_descriptor_is_a_fault() {
    let fault = direct_fault(&[buffer(BUFFERS, 1, flags::NEXT, 4)]);
    assert_eq!(fault, QueueFault::DescriptorIndex { index: 4, entries: 4 });
}

#[test]
fn a_loop_is_a_fault() {
    let to_itself = direct_fault(&[buffer(BUFFERS, 1, flags::NEXT, 0)]);
    assert_eq!(to_itself, QueueFault::ChainLength { most: 4 });
    let of_two = direct_fault(&[buffer(BUFFERS, 1, flags::NEXT, 1), buffer(BUFFERS, 1, flags::NEXT, 0)]);
    assert_eq!(of_two, QueueFault::ChainLength { most: 4 });
    let head = buffer(TABLE, 32, flags::INDIRECT, 0);
    let indirect =
        indirect_fault(head, &[buffer(BUFFERS, 1, flags::NEXT, 1), buffer(BUFFERS, 1, flags::NEXT, 0)]);
    assert_eq!(indirect, QueueFault::ChainLength { most: MAX_INDIRECT_DESCRIPTORS.into() });
}

#[test]
fn a_chain_as_long_as_the_queue_is_fine() {
    let descriptors: Vec<_> =
        (0..4).map(|index| buffer(BUFFERS, 1, if index == 3 { 0 } else { flags::NEXT }, index + 1)).collect();
    assert_eq!(pop(4, 0, &descriptors, &[]).unwrap().unwrap().readable_bytes(), 4);
}

#[test]
fn an_indirect_chain_may_have_1024_buffers_and_no_more() {
    let table: Vec<_> = (0..1025).map(|index| buffer(BUFFERS, 1, flags::NEXT, index + 1)).collect();
    let chain = |length: usize| {
        let mut table = table[..length].to_vec();
        table[length - 1].flags = 0;
        pop(4, FEATURE_INDIRECT_DESCRIPTORS, &[buffer(TABLE, 1025 * 16, flags::INDIRECT, 0)], &table)
    };
    assert_eq!(chain(1024).unwrap().unwrap().readable_bytes(), 1024);
    assert_eq!(chain(1025).unwrap_err(), QueueFault::ChainLength { most: 1024 });
}

#[test]
fn an_empty_buffer_is_a_fault() {
    assert_eq!(
        direct_fault(&[buffer(BUFFERS, 0, 0, 0)]),
        QueueFault::EmptyBuffer { address: GuestAddress(BUFFERS) }
    );
}

#[test]
fn a_readable_buffer_after_a_writable_one_is_a_fault() {
    let fault = direct_fault(&[buffer(BUFFERS, 1, flags::NEXT | flags::WRITE, 1), buffer(BUFFERS, 1, 0, 0)]);
    assert_eq!(fault, QueueFault::ReadableAfterWritable);
}

#[test]
fn a_buffer_outside_guest_memory_is_a_fault() {
    for (address, bytes) in [(END, 1), (END - 1, 2), (0, u32::MAX), (u64::MAX, 1), (u64::MAX - 1, 4)] {
        let fault = direct_fault(&[buffer(address, bytes, 0, 0)]);
        let what = "buffer";
        let bytes = u64::from(bytes);
        assert_eq!(fault, QueueFault::OutsideMemory { what, address: GuestAddress(address), bytes });
    }
    assert!(pop(4, 0, &[buffer(END - 1, 1, 0, 0)], &[]).is_ok());
}

#[test]
fn a_chain_of_four_gibibytes_is_a_fault() {
    // The same 4 MiB over and over.
    let table: Vec<_> = (0..1024)
        .map(|index| {
            buffer(
                0,
                u32::try_from(END).unwrap(),
                flags::WRITE | if index == 1023 { 0 } else { flags::NEXT },
                index + 1,
            )
        })
        .collect();
    let head = buffer(TABLE, 1024 * 16, flags::INDIRECT, 0);
    assert_eq!(indirect_fault(head, &table), QueueFault::ChainBytes);
}

#[test]
fn indirect_tables_follow_their_rules() {
    let one = buffer(BUFFERS, 1, 0, 0);
    let head = buffer(TABLE, 16, flags::INDIRECT, 0);
    assert_eq!(pop(4, 0, &[head], &[one]).unwrap_err(), QueueFault::IndirectNotNegotiated);
    assert_eq!(indirect_fault(head, &[head]), QueueFault::NestedIndirect);
    let with_next = Descriptor { flags: flags::INDIRECT | flags::NEXT, ..head };
    assert_eq!(indirect_fault(with_next, &[one]), QueueFault::IndirectWithNext);
    for bytes in [0, 1, 15, 17, u32::MAX] {
        let fault = indirect_fault(Descriptor { bytes, ..head }, &[one]);
        assert_eq!(fault, QueueFault::IndirectBytes { bytes });
    }
    for address in [END, END - 15, u64::MAX - 15] {
        let fault = indirect_fault(Descriptor { address, ..head }, &[one]);
        let what = "indirect table";
        assert_eq!(fault, QueueFault::OutsideMemory { what, address: GuestAddress(address), bytes: 16 });
    }
    let beyond = indirect_fault(head, &[buffer(BUFFERS, 1, flags::NEXT, 1)]);
    assert_eq!(beyond, QueueFault::DescriptorIndex { index: 1, entries: 1 });
}

#[test]
fn an_indirect_table_may_follow_direct_buffers() {
    let direct = [buffer(BUFFERS, 3, flags::NEXT, 1), buffer(TABLE, 16, flags::INDIRECT, 0)];
    let table = [buffer(BUFFERS, 5, flags::WRITE, 0)];
    let chain = pop(4, FEATURE_INDIRECT_DESCRIPTORS, &direct, &table).unwrap().unwrap();
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (3, 5));
}

#[test]
fn an_available_index_that_runs_ahead_is_a_fault() {
    let (ring, mut queue, memory) = rings(4, 0);
    for index in [5, 100, 0xffff] {
        ring.set_available_index(index);
        let fault = QueueFault::AvailableIndex { index, next: 0, size: 4 };
        assert_eq!(queue.pop(&memory).unwrap_err(), fault);
        assert_eq!(queue.enable_notifications(&memory).unwrap_err(), fault);
    }
}

#[test]
fn more_chains_than_descriptors_in_flight_is_a_fault() {
    let (mut ring, mut queue, memory) = rings(4, 0);
    ring.set_descriptor(0, buffer(BUFFERS, 1, 0, 0));
    let mut chains = Vec::new();
    for _ in 0..4 {
        ring.publish(0);
        chains.push(queue.pop(&memory).unwrap().unwrap());
    }
    ring.publish(0);
    assert_eq!(queue.pop(&memory).unwrap_err(), QueueFault::TooManyInFlight { size: 4 });
    queue.complete(&memory, chains.remove(0), 0).unwrap();
    assert!(queue.pop(&memory).unwrap().is_some());
}

#[test]
fn a_layout_that_breaks_a_rule_is_refused() {
    let memory = memory();
    let good = QueueLayout {
        size: 8,
        descriptors: GuestAddress(0x1000),
        available: GuestAddress(0x2000),
        used: GuestAddress(0x3000),
    };
    good.check(8, &memory).unwrap();
    for size in [0, 3, 7, 16, 0x8000, 0xffff] {
        let layout = QueueLayout { size, ..good };
        assert_eq!(layout.check(8, &memory), Err(QueueFault::Size { size, most: 8 }));
    }
    let at = |address: u64| GuestAddress(address);
    for (layout, alignment) in [
        (QueueLayout { descriptors: at(0x1008), ..good }, 16),
        (QueueLayout { available: at(0x2001), ..good }, 2),
        (QueueLayout { used: at(0x3002), ..good }, 4),
    ] {
        let fault = layout.check(8, &memory).unwrap_err();
        assert!(
            matches!(fault, QueueFault::Alignment { alignment: found, .. } if found == alignment),
            "{fault}"
        );
    }
    // One byte too far, wholly outside, and around the end of the address space.
    for (layout, last) in [
        (
            QueueLayout { descriptors: at(END - 112), ..good },
            QueueLayout { descriptors: at(END - 128), ..good },
        ),
        (QueueLayout { available: at(END - 20), ..good }, QueueLayout { available: at(END - 22), ..good }),
        (QueueLayout { used: at(END - 68), ..good }, QueueLayout { used: at(END - 72), ..good }),
    ] {
        assert!(matches!(layout.check(8, &memory), Err(QueueFault::OutsideMemory { .. })), "{layout:?}");
        last.check(8, &memory).unwrap();
    }
    for address in [at(END), at(u64::MAX - 15)] {
        let all = [
            QueueLayout { descriptors: address, ..good },
            QueueLayout { available: address, ..good },
            QueueLayout { used: address, ..good },
        ];
        for layout in all {
            assert!(matches!(layout.check(8, &memory), Err(QueueFault::OutsideMemory { .. })), "{layout:?}");
        }
    }
}

#[test]
fn a_chain_is_not_affected_by_descriptors_that_change_afterwards() {
    let (mut ring, mut queue, memory) = rings(4, 0);
    ring.set_descriptor(0, buffer(BUFFERS, 4, 0, 0));
    ring.publish(0);
    let chain = queue.pop(&memory).unwrap().unwrap();
    ring.set_descriptor(0, buffer(u64::MAX, u32::MAX, flags::WRITE, 0xffff));
    assert_eq!(
        chain.readable().iter().collect::<Vec<_>>(),
        [Buffer { address: GuestAddress(BUFFERS), bytes: 4 }]
    );
    read_all(&memory, &chain);
    queue.complete(&memory, chain, 0).unwrap();
}

/// Takes chains until the queue is empty or broken; checks each. Gives back how many there were.
fn drain(queue: &mut Queue, memory: &GuestMemory) -> usize {
    let mut taken = Vec::new();
    let most = usize::from(queue.layout().size);
    while let Ok(Some(chain)) = queue.pop(memory) {
        check(&chain, most, memory);
        taken.push((chain, 1));
    }
    assert!(taken.len() <= most, "never more in flight than the queue is long");
    let count = taken.len();
    queue.complete_all(memory, taken).unwrap();
    let _ = queue.wants_interrupt(memory);
    let _ = queue.enable_notifications(memory);
    count
}

/// What holds for every chain, whatever the driver does.
fn check(chain: &Chain, queue_size: usize, memory: &GuestMemory) {
    let buffers: Vec<Buffer> = chain.readable().iter().chain(chain.writable().iter()).collect();
    assert!(buffers.len() <= queue_size.max(usize::from(MAX_INDIRECT_DESCRIPTORS)));
    assert!(!buffers.is_empty());
    for Buffer { address, bytes } in &buffers {
        assert!(*bytes != 0 && memory.check_range(*address, *bytes as usize, Permissions::ReadWrite));
    }
    let total: u64 = buffers.iter().map(|buffer| u64::from(buffer.bytes)).sum();
    assert_eq!(total, u64::from(chain.readable_bytes()) + u64::from(chain.writable_bytes()));
    assert!(u32::try_from(total).is_ok());
}

/// A descriptor that is often nearly right: garbage alone seldom gets past the first check.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![4 => 0..END, 2 => Just(TABLE), 1 => END - 32..END + 32, 1 => any::<u64>()];
    let bytes = prop_oneof![4 => 0..64u32, 2 => (0..64u32).prop_map(|count| count * 16), 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0..8u16, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..20u16, 1 => any::<u16>()];
    (address, bytes, flags, next).prop_map(|(address, bytes, flags, next)| Descriptor {
        address,
        bytes,
        flags,
        next,
    })
}

proptest! {
    #[test]
    fn garbage_in_the_rings_is_answered_with_chains_in_memory_or_a_fault(
        direct in prop::collection::vec(descriptor(), 16),
        table in prop::collection::vec(descriptor(), 32),
        heads in prop::collection::vec(prop_oneof![8 => 0..16u16, 1 => any::<u16>()], 1..20),
        index in prop_oneof![8 => 0..20u16, 1 => any::<u16>()],
        features in prop::sample::select(vec![0, FEATURE_INDIRECT_DESCRIPTORS, FEATURE_EVENT_INDEX, ALL_FEATURES]),
    ) {
        let (mut ring, mut queue, memory) = rings(16, features);
        for (at, descriptor) in (0u16..).zip(&direct) {
            ring.set_descriptor(at, *descriptor);
        }
        for (at, descriptor) in (0u16..).zip(&table) {
            descriptor.store(&memory, GuestAddress(TABLE), at);
        }
        ring.publish_all(&heads);
        ring.set_available_index(index);
        drain(&mut queue, &memory);
        // The state of a queue is always one that can be continued from.
        Queue::from_state(queue.state(), features, &memory).unwrap();
    }
}

#[test]
fn rings_that_change_while_they_are_read_yield_chains_in_memory_or_a_fault() {
    let (mut ring, mut queue, memory) = rings(4, ALL_FEATURES);
    let done = AtomicBool::new(false);
    let good = buffer(BUFFERS, 16, flags::NEXT, 1);
    let evil = [
        buffer(END - 8, 16, flags::NEXT, 1),
        buffer(BUFFERS, u32::MAX, flags::WRITE, 1),
        buffer(TABLE, 16, flags::INDIRECT, 0),
        buffer(BUFFERS, 16, flags::NEXT, 0xffff),
        buffer(BUFFERS, 0, 0, 0),
    ];
    let mutator = ring.layout();
    let (mut taken, mut faults) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0usize;
            while !done.load(Ordering::Relaxed) {
                let descriptor = if round.is_multiple_of(2) { good } else { evil[round / 2 % evil.len()] };
                descriptor.store(&memory, mutator.descriptors, 0);
                let second = buffer(BUFFERS, 16, if round.is_multiple_of(3) { flags::WRITE } else { 0 }, 0);
                second.store(&memory, mutator.descriptors, 1);
                second.store(&memory, GuestAddress(TABLE), 0);
                round += 1;
            }
        });
        let deadline = Instant::now() + PATIENCE;
        // Until both kinds have been seen often: how the threads are scheduled must not matter.
        while taken < 1000 || faults < 1000 {
            if Instant::now() > deadline {
                break;
            }
            if !queue.has_available(&memory).unwrap() {
                ring.publish(0);
            }
            match drain(&mut queue, &memory) {
                0 => faults += 1,
                count => taken += count,
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(taken >= 1000 && faults >= 1000, "{taken} chains, {faults} faults");
}
