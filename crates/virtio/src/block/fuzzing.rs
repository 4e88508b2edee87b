//! For fuzz targets: the request parser.

use zerocopy::FromBytes;

use super::request::{Header, Limits, RANGE_BYTES, RawRange, Request, parse_ranges};

/// What a disk makes of a request with this header, with `readable` bytes behind it and room for `writable` before the
/// status, of which `data` are the first readable ones: every range in bytes (offset, length) that it is about.
///
/// # Errors
/// The status that the driver gets.
pub fn ranges(
    header: &[u8; 16],
    readable: u32,
    writable: u32,
    data: &[u8],
    (features, block_bytes): (u64, u64),
) -> Result<Vec<(u64, u64)>, u8> {
    let header = Header::read_from_bytes(header).map_err(|_| 0xff)?;
    let limits = Limits { features, block_bytes };
    let request = Request::parse(&header, readable, writable, &limits).map_err(|status| status as u8)?;
    match request {
        Request::Read { offset } => Ok(vec![(offset, writable.into())]),
        Request::Write { offset } => Ok(vec![(offset, readable.into())]),
        Request::Flush | Request::GetId => Ok(Vec::new()),
        Request::Discard { ranges } | Request::WriteZeroes { ranges } => {
            let raw: Vec<RawRange> = data
                .chunks_exact(RANGE_BYTES as usize)
                .take(ranges as usize)
                .filter_map(|chunk| RawRange::read_from_bytes(chunk).ok())
                .collect();
            let found = parse_ranges(&raw, request, &limits).map_err(|status| status as u8)?;
            Ok(found.iter().map(|range| (range.offset, range.bytes)).collect())
        }
    }
}
