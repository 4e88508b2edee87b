//! From a request's bytes to what is to be done (virtio 1.2, 5.2.6). Pure: no memory, no disk.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    FEATURE_DISCARD, FEATURE_RO, FEATURE_WRITE_ZEROES, MAX_RANGE_SECTORS, MAX_RANGES, SECTOR_BYTES,
    SERIAL_BYTES,
};

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

/// Flag of a write-zeroes range: its storage may be given back.
const RANGE_FLAG_UNMAP: u32 = 1;

/// Outcome of a request, the last byte that the device writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// VIRTIO_BLK_S_OK.
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR: the device or the driver failed.
    IoError = 1,
    /// VIRTIO_BLK_S_UNSUPP: the device does not know the request.
    Unsupported = 2,
}

/// What every request starts with: `struct virtio_blk_req` without data and status.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Header {
    pub(super) kind: U32,
    pub(super) reserved: U32,
    pub(super) sector: U64,
}

/// `struct virtio_blk_discard_write_zeroes`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct RawRange {
    pub(super) sector: U64,
    pub(super) sectors: U32,
    pub(super) flags: U32,
}

/// Length of a [`RawRange`] in a request.
pub(super) const RANGE_BYTES: u32 = 16;

/// What a disk allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Negotiated features and, whether negotiated or not, [`FEATURE_RO`] when the disk is read-only.
    pub(super) features: u64,
    /// Unit of every offset and length, a power of two, at least 512.
    pub(super) block_bytes: u64,
}

/// What a request asks for. Offsets and lengths are in bytes, multiples of the disk's logical block, and their sum does
/// not overflow; whether they lie on the disk is for the backend to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Fill the writable part.
    Read { offset: u64 },
    /// Store the readable part.
    Write { offset: u64 },
    /// Make completed writes durable.
    Flush,
    /// Tell the serial number.
    GetId,
    /// Discard the ranges that follow, this many.
    Discard { ranges: u32 },
    /// Zero the ranges that follow, this many.
    WriteZeroes { ranges: u32 },
}

impl Request {
    /// Understands a request of which `readable` bytes follow the header and `writable` bytes precede the status.
    pub(super) fn parse(
        header: &Header,
        readable: u32,
        writable: u32,
        limits: &Limits,
    ) -> Result<Self, Status> {
        match header.kind.get() {
            TYPE_IN => Ok(Self::Read { offset: limits.extent(header.sector.get(), writable)? }),
            TYPE_OUT => {
                limits.check_writable()?;
                Ok(Self::Write { offset: limits.extent(header.sector.get(), readable)? })
            }
            TYPE_FLUSH => Ok(Self::Flush),
            TYPE_GET_ID if writable as usize >= SERIAL_BYTES => Ok(Self::GetId),
            TYPE_GET_ID => Err(Status::IoError),
            TYPE_DISCARD if limits.features & FEATURE_DISCARD != 0 => {
                Ok(Self::Discard { ranges: limits.ranges(readable)? })
            }
            TYPE_WRITE_ZEROES if limits.features & FEATURE_WRITE_ZEROES != 0 => {
                Ok(Self::WriteZeroes { ranges: limits.ranges(readable)? })
            }
            _ => Err(Status::Unsupported),
        }
    }
}

impl Limits {
    fn check_writable(&self) -> Result<(), Status> {
        if self.features & FEATURE_RO != 0 { Err(Status::IoError) } else { Ok(()) }
    }

    /// The offset in bytes of `bytes` bytes at `sector`.
    fn extent(&self, sector: u64, bytes: impl Into<u64>) -> Result<u64, Status> {
        let bytes = bytes.into();
        let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Status::IoError)?;
        offset.checked_add(bytes).ok_or(Status::IoError)?;
        if (offset | bytes).is_multiple_of(self.block_bytes) { Ok(offset) } else { Err(Status::IoError) }
    }

    /// How many ranges `readable` bytes hold.
    fn ranges(&self, readable: u32) -> Result<u32, Status> {
        self.check_writable()?;
        let ranges = readable / RANGE_BYTES;
        if ranges == 0 || ranges > MAX_RANGES || !readable.is_multiple_of(RANGE_BYTES) {
            return Err(Status::IoError);
        }
        Ok(ranges)
    }
}

/// A range to discard or zero, in bytes; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) may_unmap: bool,
}

/// The ranges of a request, those of no length left out. All are checked before the first is acted on.
pub(super) fn parse_ranges(
    raw: &[RawRange],
    request: Request,
    limits: &Limits,
) -> Result<Vec<Range>, Status> {
    let known_flags = match request {
        Request::WriteZeroes { .. } => RANGE_FLAG_UNMAP,
        _ => 0,
    };
    let mut ranges = Vec::with_capacity(raw.len());
    for RawRange { sector, sectors, flags } in raw {
        if flags.get() & !known_flags != 0 {
            return Err(Status::Unsupported);
        }
        if sectors.get() > MAX_RANGE_SECTORS {
            return Err(Status::IoError);
        }
        let bytes = u64::from(sectors.get()) * SECTOR_BYTES;
        let offset = limits.extent(sector.get(), bytes)?;
        if bytes != 0 {
            ranges.push(Range { offset, bytes, may_unmap: flags.get() & RANGE_FLAG_UNMAP != 0 });
        }
    }
    Ok(ranges)
}
