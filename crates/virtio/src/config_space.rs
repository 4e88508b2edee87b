//! Reading a device-specific configuration space that is laid out as bytes (virtio 1.2, 2.5).

/// Copies what lies at `offset` of `space` to `data`; what lies beyond reads as zero.
pub(crate) fn read(space: &[u8], offset: u32, data: &mut [u8]) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    for (at, byte) in data.iter_mut().enumerate() {
        *byte = offset.checked_add(at).and_then(|at| space.get(at)).copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_beyond_the_space_read_as_zero() {
        let mut data = [0xff; 4];
        super::read(&[1, 2, 3], 1, &mut data);
        assert_eq!(data, [2, 3, 0, 0]);
        super::read(&[1, 2, 3], u32::MAX, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
