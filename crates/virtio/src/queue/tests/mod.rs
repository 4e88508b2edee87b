//! The queue against a driver that follows the rules and one that does not.

mod buffers;
mod hostile;

use std::sync::Arc;

use vm_memory::GuestAddress;

use super::*;
use crate::testing::{DriverRing, Piece};

const BUFFERS: u64 = 0x10_0000;
const MEMORY_BYTES: usize = 4 << 20;
const ALL_FEATURES: u64 = FEATURE_INDIRECT_DESCRIPTORS | FEATURE_EVENT_INDEX;

/// Two regions side by side, so that a buffer can lie in both.
fn memory() -> Arc<GuestMemory> {
    let half = MEMORY_BYTES / 2;
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), half), (GuestAddress(half as u64), half)]).unwrap())
}

fn rings(size: u16, features: u64) -> (DriverRing, Queue, Arc<GuestMemory>) {
    let memory = memory();
    let ring = DriverRing::new(Arc::clone(&memory), 0x1000, size, features & FEATURE_EVENT_INDEX != 0);
    let queue = Queue::new(ring.layout(), features, &memory).unwrap();
    (ring, queue, memory)
}

/// Hands out buffers one after the other.
fn allocator() -> impl FnMut(u32) -> GuestAddress {
    let mut next = BUFFERS;
    move |bytes| {
        next += u64::from(bytes);
        GuestAddress(next - u64::from(bytes))
    }
}

fn read_all(memory: &GuestMemory, chain: &Chain) -> Vec<u8> {
    let mut data = vec![0; chain.readable_bytes() as usize];
    chain.readable().read(memory, &mut data).unwrap();
    data
}

#[test]
fn a_chain_is_taken_with_its_readable_and_writable_part_and_given_back() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    let head = ring.add(&[Piece::Out(b"head"), Piece::Out(b"er"), Piece::In(3), Piece::In(5)], allocator());
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!(read_all(&memory, &chain), b"header");
    assert_eq!((chain.readable_bytes(), chain.writable_bytes(), queue.in_flight()), (6, 8, 1));
    chain.writable().write(&memory, b"answer").unwrap();
    assert!(queue.pop(&memory).unwrap().is_none());
    queue.complete(&memory, chain, 6).unwrap();
    assert_eq!(queue.in_flight(), 0);
    let used = ring.take_used().unwrap();
    assert_eq!((used.head, used.written, &used.data[..6]), (head, 6, &b"answer"[..]));
    assert!(ring.take_used().is_none());
}

#[test]
fn a_chain_may_go_through_an_indirect_table() {
    let (mut ring, mut queue, memory) = rings(2, FEATURE_INDIRECT_DESCRIPTORS);
    let pieces = [Piece::Out(b"a"), Piece::Out(b"b"), Piece::Out(b"c"), Piece::In(1), Piece::In(2)];
    ring.add_indirect(&pieces, allocator());
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!(read_all(&memory, &chain), b"abc");
    assert_eq!(chain.writable_bytes(), 3);
    queue.complete(&memory, chain, 0).unwrap();
}

#[test]
fn indices_wrap_around() {
    for features in [0, ALL_FEATURES] {
        let (mut ring, mut queue, memory) = rings(4, features);
        for round in 0..70_000u32 {
            let text = round.to_le_bytes();
            ring.add(&[Piece::Out(&text), Piece::In(4)], allocator());
            let chain = queue.pop(&memory).unwrap().unwrap();
            assert_eq!(read_all(&memory, &chain), text);
            chain.writable().write(&memory, &text).unwrap();
            queue.complete(&memory, chain, 4).unwrap();
            assert!(queue.wants_interrupt(&memory).unwrap(), "round {round}");
            assert_eq!(ring.take_used().unwrap().data, text);
        }
        assert_eq!(queue.state().next_available, 4464);
        assert_eq!(queue.state().next_used, 4464);
    }
}

#[test]
fn chains_are_completed_in_any_order() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    let mut allocate = allocator();
    let heads: Vec<u16> = (0..4).map(|_| ring.add(&[Piece::In(1)], &mut allocate)).collect();
    let mut chains: Vec<Chain> = (0..4).map(|_| queue.pop(&memory).unwrap().unwrap()).collect();
    while let Some(chain) = chains.pop() {
        queue.complete(&memory, chain, 1).unwrap();
    }
    let used: Vec<u16> = std::iter::from_fn(|| ring.take_used()).map(|used| used.head).collect();
    assert_eq!(used, heads.iter().rev().copied().collect::<Vec<_>>());
}

#[test]
fn several_chains_appear_in_the_used_ring_at_once() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    let mut allocate = allocator();
    let heads = [ring.add(&[Piece::In(10)], &mut allocate), ring.add(&[Piece::In(10)], &mut allocate)];
    let first = queue.pop(&memory).unwrap().unwrap();
    let second = queue.pop(&memory).unwrap().unwrap();
    let seen_between = std::cell::Cell::new(0);
    let chains = [(first, 10), (second, 3)].into_iter().inspect(|_| seen_between.set(ring.used_index()));
    queue.complete_all(&memory, chains).unwrap();
    assert_eq!(seen_between.get(), 0, "the first is not to be seen before the second");
    let used: Vec<_> =
        std::iter::from_fn(|| ring.take_used()).map(|used| (used.head, used.written)).collect();
    assert_eq!(used, [(heads[0], 10), (heads[1], 3)]);
}

#[test]
fn the_used_length_never_exceeds_the_writable_part() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    ring.add(&[Piece::Out(b"xyz"), Piece::In(2)], allocator());
    let chain = queue.pop(&memory).unwrap().unwrap();
    queue.complete(&memory, chain, u32::MAX).unwrap();
    assert_eq!(ring.take_used().unwrap().written, 2);
}

#[test]
fn chains_that_are_put_back_are_taken_again_in_order() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    let mut allocate = allocator();
    ring.add(&[Piece::Out(b"1"), Piece::In(1)], &mut allocate);
    ring.add(&[Piece::Out(b"2"), Piece::In(1)], &mut allocate);
    for _ in 0..3 {
        let first = queue.pop(&memory).unwrap().unwrap();
        let second = queue.pop(&memory).unwrap().unwrap();
        assert!(queue.pop(&memory).unwrap().is_none());
        assert_eq!((read_all(&memory, &first), read_all(&memory, &second)), (b"1".to_vec(), b"2".to_vec()));
        queue.undo_pop(second);
        queue.undo_pop(first);
        assert_eq!(queue.in_flight(), 0);
        assert!(queue.has_available(&memory).unwrap());
    }
}

#[test]
#[should_panic(expected = "reverse order")]
fn putting_chains_back_out_of_order_is_a_bug() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    let mut allocate = allocator();
    ring.add(&[Piece::In(1)], &mut allocate);
    ring.add(&[Piece::In(1)], &mut allocate);
    let first = queue.pop(&memory).unwrap().unwrap();
    let _second = queue.pop(&memory).unwrap().unwrap();
    queue.undo_pop(first);
}

#[test]
fn without_event_index_the_flags_decide_on_interrupts_and_notifications() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    let complete_one = |ring: &mut DriverRing, queue: &mut Queue| {
        ring.add(&[Piece::In(1)], allocator());
        let chain = queue.pop(&memory).unwrap().unwrap();
        queue.complete(&memory, chain, 0).unwrap();
        ring.take_used().unwrap();
    };
    assert!(!queue.wants_interrupt(&memory).unwrap(), "nothing was completed");
    complete_one(&mut ring, &mut queue);
    assert!(queue.wants_interrupt(&memory).unwrap());
    assert!(!queue.wants_interrupt(&memory).unwrap(), "nothing since then");
    ring.set_available_flags(1);
    complete_one(&mut ring, &mut queue);
    assert!(!queue.wants_interrupt(&memory).unwrap());

    assert!(ring.wants_kick(ring.next_available()));
    queue.disable_notifications(&memory).unwrap();
    assert_eq!(ring.used_flags(), 1);
    assert!(!queue.enable_notifications(&memory).unwrap());
    assert_eq!(ring.used_flags(), 0);
}

#[test]
fn with_event_index_the_driver_is_interrupted_when_the_index_passes_its_event() {
    // Completed before, driver's event, completed now, whether it wants to know.
    for (before, event, now, wanted) in [
        (0, 0, 1, true),
        (0, 1, 1, false),
        (0, 1, 2, true),
        (0, 3, 3, false),
        (2, 1, 3, false),
        (2, 2, 3, true),
    ] {
        let (mut ring, mut queue, memory) = rings(8, FEATURE_EVENT_INDEX);
        let mut allocate = allocator();
        let mut complete = |count: u16, ring: &mut DriverRing, queue: &mut Queue| {
            for _ in 0..count {
                ring.add(&[Piece::In(1)], &mut allocate);
                let chain = queue.pop(&memory).unwrap().unwrap();
                queue.complete(&memory, chain, 0).unwrap();
            }
        };
        complete(before, &mut ring, &mut queue);
        queue.wants_interrupt(&memory).unwrap();
        ring.set_used_event(event);
        complete(now - before, &mut ring, &mut queue);
        assert_eq!(queue.wants_interrupt(&memory).unwrap(), wanted, "{before} {event} {now}");
    }
}

#[test]
fn with_event_index_the_device_asks_for_the_next_notification_only() {
    let (mut ring, mut queue, memory) = rings(8, FEATURE_EVENT_INDEX);
    let mut allocate = allocator();
    let mut add = |ring: &mut DriverRing| {
        let before = ring.next_available();
        ring.add(&[Piece::In(1)], &mut allocate);
        ring.wants_kick(before)
    };
    assert!(add(&mut ring), "a new queue wants its first notification");
    assert!(!add(&mut ring), "none is needed until it is asked for");
    let _ = (queue.pop(&memory).unwrap().unwrap(), queue.pop(&memory).unwrap().unwrap());
    assert!(!queue.enable_notifications(&memory).unwrap());
    assert_eq!(ring.available_event(), 2);
    assert!(add(&mut ring));
    assert!(queue.enable_notifications(&memory).unwrap(), "what came meanwhile is reported");
}

#[test]
fn passing_an_event_is_decided_as_by_counting() {
    for before in [0u16, 5, 65530, 65535] {
        for moved in 0..12u16 {
            for event in (0..16u16).map(|offset| before.wrapping_sub(3).wrapping_add(offset)) {
                let passed = (0..moved).any(|step| before.wrapping_add(step) == event);
                assert_eq!(
                    crossed(event, before, before.wrapping_add(moved)),
                    passed,
                    "{event} {before} {moved}"
                );
            }
        }
    }
}

#[test]
fn a_queue_continues_from_its_state() {
    let (mut ring, mut queue, memory) = rings(4, ALL_FEATURES);
    let mut allocate = allocator();
    for _ in 0..3 {
        ring.add(&[Piece::In(1)], &mut allocate);
        let chain = queue.pop(&memory).unwrap().unwrap();
        queue.complete(&memory, chain, 1).unwrap();
        ring.take_used().unwrap();
    }
    let state = queue.state();
    let mut queue = Queue::from_state(state, ALL_FEATURES, &memory).unwrap();
    assert_eq!(queue.state(), state);
    assert!(queue.pop(&memory).unwrap().is_none());
    let head = ring.add(&[Piece::In(1)], &mut allocate);
    let chain = queue.pop(&memory).unwrap().unwrap();
    queue.complete(&memory, chain, 1).unwrap();
    assert!(queue.wants_interrupt(&memory).unwrap());
    assert_eq!(ring.take_used().unwrap().head, head);

    let impossible = QueueState { next_available: 5, next_used: 0, ..state };
    let fault = Queue::from_state(impossible, 0, &memory).unwrap_err();
    assert_eq!(fault, QueueFault::State { next_available: 5, next_used: 0, size: 4 });
}

#[test]
fn taking_chains_reuses_memory_within_bounds() {
    let (mut ring, mut queue, memory) = rings(256, FEATURE_INDIRECT_DESCRIPTORS);
    let mut allocate = allocator();
    for _ in 0..200 {
        ring.add(&[Piece::In(1)], &mut allocate);
    }
    ring.add_indirect(&vec![Piece::In(1); 1000], &mut allocate);
    let chains: Vec<Chain> = std::iter::from_fn(|| queue.pop(&memory).unwrap()).collect();
    assert_eq!(chains.len(), 201);
    queue.complete_all(&memory, chains.into_iter().rev().map(|chain| (chain, 0))).unwrap();
    assert_eq!(queue.spare.len(), SPARE_CHAINS);
    assert!(queue.spare.iter().all(|buffers| buffers.is_empty() && buffers.capacity() <= SPARE_BUFFERS));
}
