//! A request to a disk: header, ranges, lengths.
//!
//! Held true: what it is about are whole blocks, without overflow; ranges are bounded in number and length, and a disk that
//! is read-only is never asked to write.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use virtio::block::fuzzing::ranges;

/// VIRTIO_BLK_F_RO (virtio 1.2, 5.2.3).
const FEATURE_RO: u64 = 1 << 5;

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut header: [u8; 16] = input.arbitrary()?;
    let kind = u32::from(input.arbitrary::<u8>()?);
    header[..4].copy_from_slice(&kind.to_le_bytes());
    let block_bytes = 512u64 << input.int_in_range(0..=3)?;
    let features: u64 = input.arbitrary()?;
    let writable = input.arbitrary()?;
    let length: Option<u32> = input.arbitrary()?;
    let data = input.bytes(input.len())?;
    let readable = length.unwrap_or(u32::try_from(data.len()).expect("a small input"));
    match ranges(&header, readable, writable, data, (features, block_bytes)) {
        Err(status) => assert!(status == 1 || status == 2, "{status}"),
        Ok(found) => {
            assert!(kind == 0 || found.is_empty() || features & FEATURE_RO == 0, "read-only");
            assert!(found.len() <= 32);
            for (offset, bytes) in found {
                assert!(offset.checked_add(bytes).is_some());
                assert!((offset | bytes).is_multiple_of(block_bytes), "{offset:#x} {bytes:#x}");
                assert!(bytes <= 1 << 32);
            }
        }
    }
    Ok(())
}
