//! CRC-32C (Castagnoli), which guards headers, region tables and log entries ([MS-VHDX] 2.2.2).

/// The polynomial 0x1edc6f41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        // Below 256.
        #[expect(clippy::cast_possible_truncation, reason = "an index below 256")]
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}

/// The checksum of a structure with the four bytes at `field`, which hold the checksum, taken as zeroes.
pub(super) fn without_field(structure: &[u8], field: usize) -> u32 {
    let (before, rest) = structure.split_at(field.min(structure.len()));
    let after = rest.get(4..).unwrap_or_default();
    !update(update(update(!0, before), &[0; 4]), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_the_published_one() {
        assert_eq!(!update(!0, b"123456789"), 0xe306_9283);
        assert_eq!(without_field(b"abcd\x01\x02\x03\x04efgh", 4), !update(!0, b"abcd\0\0\0\0efgh"));
    }
}
