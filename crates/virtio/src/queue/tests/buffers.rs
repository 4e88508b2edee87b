//! Cursors over the parts of a chain.

use proptest::prelude::*;
use vm_memory::Bytes as _;

use super::*;

#[test]
fn a_header_is_read_across_buffers_and_a_status_written_at_the_end() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    ring.add(
        &[Piece::Out(&[1, 2, 3]), Piece::Out(&[4, 5, 6, 7, 8, 9]), Piece::In(4), Piece::In(1)],
        allocator(),
    );
    let chain = queue.pop(&memory).unwrap().unwrap();
    let mut readable = chain.readable();
    let header: [u8; 8] = readable.read_object(&memory).unwrap();
    assert_eq!(header, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(readable.bytes(), 1);
    assert_eq!(
        readable.read_object::<[u8; 2]>(&memory).unwrap_err(),
        QueueFault::TooShort { needed: 2, available: 1 }
    );
    let mut writable = chain.writable();
    let mut status = writable.take_last(1).unwrap();
    writable.write(&memory, b"data").unwrap();
    assert!(writable.is_empty());
    status.write(&memory, b"!").unwrap();
    assert_eq!(status.write(&memory, b"!").unwrap_err(), QueueFault::TooShort { needed: 1, available: 0 });
    queue.complete(&memory, chain, 5).unwrap();
    assert_eq!(ring.take_used().unwrap().data, b"data!");
}

#[test]
fn a_buffer_across_two_memory_regions_becomes_two_slices() {
    let (mut ring, mut queue, memory) = rings(8, 0);
    let border = MEMORY_BYTES as u64 / 2;
    ring.add(&[Piece::Out(b"abcdef"), Piece::In(2)], |_| GuestAddress(border - 2));
    let chain = queue.pop(&memory).unwrap().unwrap();
    // Both pieces lie at the same place: the input's filler replaced the first two letters.
    assert_eq!(read_all(&memory, &chain), b"\xa5\xa5cdef");
    let mut slices = Vec::new();
    chain.readable().slices(&memory, &mut slices).unwrap();
    assert_eq!(slices.iter().map(vm_memory::VolatileSlice::len).collect::<Vec<_>>(), [2, 4]);
    let mut segments = Vec::new();
    #[expect(unsafe_code, reason = "the segments are looked at while the memory is alive")]
    // SAFETY: no request is made of them.
    unsafe { chain.readable().segments(&memory, &mut segments) }.unwrap();
    assert_eq!(segments.iter().map(block_io::Segment::bytes).collect::<Vec<_>>(), [2, 4]);
    for (slice, segment) in slices.iter().zip(&segments) {
        assert_eq!(slice.ptr_guard().as_ptr(), segment.pointer().as_ptr().cast_const());
    }
}

/// What a test does with a cursor.
#[derive(Debug, Clone, Copy)]
enum Step {
    Take(u32),
    TakeLast(u32),
    Read(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..40u32).prop_map(Step::Take),
        (0..40u32).prop_map(Step::TakeLast),
        (0..40u32).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 0..12)
}

proptest! {
    #[test]
    fn cursors_behave_as_one_contiguous_buffer(sizes in prop::collection::vec(1..30usize, 1..8), steps in steps()) {
        let (mut ring, mut queue, memory) = rings(8, 0);
        let mut text = 0u8;
        let pieces: Vec<Vec<u8>> = sizes
            .iter()
            .map(|size| (0..*size).map(|_| { text = text.wrapping_add(1); text }).collect())
            .collect();
        let mut next = 0x2_0000;
        // With gaps between the buffers, so that running over an end is noticed.
        ring.add(&pieces.iter().map(|piece| Piece::Out(piece)).collect::<Vec<_>>(), |bytes| {
            next += u64::from(bytes) + 7;
            GuestAddress(next - u64::from(bytes) - 7)
        });
        let chain = queue.pop(&memory).unwrap().unwrap();
        let mut model: Vec<u8> = pieces.concat();
        let mut cursor = chain.readable();
        for step in steps {
            let left = u32::try_from(model.len()).unwrap();
            match step {
                Step::Take(bytes) | Step::TakeLast(bytes) | Step::Read(bytes) if bytes > left => {
                    let fault = QueueFault::TooShort { needed: bytes as usize, available: left };
                    prop_assert_eq!(cursor.clone().take(bytes), Err(fault));
                    prop_assert_eq!(cursor.take_last(bytes), Err(fault));
                }
                Step::Take(bytes) => {
                    let taken = cursor.take(bytes).unwrap();
                    prop_assert_eq!(content(&memory, &taken), model.drain(..bytes as usize).collect::<Vec<_>>());
                }
                Step::TakeLast(bytes) => {
                    let taken = cursor.take_last(bytes).unwrap();
                    prop_assert_eq!(content(&memory, &taken), model.split_off(model.len() - bytes as usize));
                }
                Step::Read(bytes) => {
                    let mut data = vec![0; bytes as usize];
                    cursor.read(&memory, &mut data).unwrap();
                    prop_assert_eq!(data, model.drain(..bytes as usize).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(cursor.bytes() as usize, model.len());
            prop_assert_eq!(content(&memory, &cursor), model.clone());
        }
    }
}

/// What a cursor covers, by its pieces.
fn content(memory: &GuestMemory, cursor: &Buffers<'_, Readable>) -> Vec<u8> {
    let mut all = Vec::new();
    for Buffer { address, bytes } in cursor.iter() {
        assert_ne!(bytes, 0);
        let mut data = vec![0; bytes as usize];
        memory.read_slice(&mut data, address).unwrap();
        all.extend(data);
    }
    all
}
