//! What targets share that begin with something valid and damage it.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Overwrites up to 8 places among the first `span` bytes of `image`, then perhaps cuts its end off.
pub fn damage(image: &mut Vec<u8>, span: usize, input: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..input.int_in_range(0..=8)? {
        let at = input.int_in_range(0..=span.min(image.len()) - 1)?;
        let bytes = input.arbitrary::<u64>()?.to_le_bytes();
        let width = *input.choose(&[1, 2, 4, 8])?;
        for (byte, new) in image[at..].iter_mut().zip(&bytes[..width]) {
            *byte = *new;
        }
    }
    if input.ratio(1, 8)? {
        let bytes = input.int_in_range(1..=image.len())?;
        image.truncate(bytes);
    }
    Ok(())
}
