//! Takes the uncompressed ELF kernel (vmlinux) out of a bzImage, so that it can be started by PVH without decompressing
//! itself, which takes seconds under an emulated CPU.
//!
//! Linux/x86 boot protocol 2.08 and later (Documentation/arch/x86/boot.rst): the protected-mode code starts after
//! `setup_sects` sectors and the boot sector, the payload is `payload_length` bytes at `payload_offset` in it, in one of the
//! formats that its magic number tells, and its last four bytes are the uncompressed length.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::command;
use crate::error::LabError;
use crate::interrupt::Interrupt;

const SECTOR: usize = 512;
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// How a payload is compressed: the program and the Debian package that decompress it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    magic: &'static [u8],
    program: &'static str,
    package: &'static str,
}

const FORMATS: [Format; 4] = [
    Format { magic: b"\x28\xb5\x2f\xfd", program: "zstd", package: "zstd" },
    Format { magic: b"\xfd7zXZ", program: "xz", package: "xz-utils" },
    Format { magic: b"\x1f\x8b", program: "gzip", package: "gzip" },
    Format { magic: b"\x02\x21\x4c\x18", program: "lz4", package: "lz4" },
];

/// The compressed payload of a bzImage.
#[derive(Debug, PartialEq, Eq)]
struct Payload<'a> {
    format: Format,
    /// What the program decompresses.
    compressed: &'a [u8],
    /// Length of the ELF file in bytes.
    length: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Finds the payload; the image's numbers are not trusted.
fn payload(image: &[u8]) -> Result<Payload<'_>, &'static str> {
    const SHORT: &str = "the bzImage is cut off";
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS".as_slice()) {
        return Err("not a bzImage");
    }
    let version = image.get(VERSION..VERSION + 2).ok_or(SHORT)?;
    if u16::from_le_bytes([version[0], version[1]]) < 0x0208 {
        return Err("a boot protocol older than 2.08");
    }
    let sectors = match image.get(SETUP_SECTS).ok_or(SHORT)? {
        0 => 4,
        &sectors => usize::from(sectors),
    };
    let offset = word(image, PAYLOAD_OFFSET).ok_or(SHORT)? as usize;
    let length = word(image, PAYLOAD_LENGTH).ok_or(SHORT)? as usize;
    let start = (sectors + 1) * SECTOR + offset;
    let payload = image.get(start..).and_then(|rest| rest.get(..length)).ok_or(SHORT)?;
    let format = FORMATS
        .into_iter()
        .find(|format| payload.starts_with(format.magic))
        .ok_or("compressed in a format that is not known")?;
    let end = payload.len().checked_sub(4).ok_or(SHORT)?;
    let length = word(payload, end).ok_or(SHORT)?;
    // In a gzip file the length is part of the format, the others got it appended.
    let compressed = if format.program == "gzip" { payload } else { &payload[..end] };
    Ok(Payload { format, compressed, length })
}

/// Writes the ELF kernel of the bzImage `image` to `out`.
///
/// # Errors
/// When the image is none, its decompressor is not installed, or the result is not an ELF file of the announced length.
pub(crate) fn extract(image: &Path, out: &Path, interrupt: &Interrupt) -> Result<(), LabError> {
    let bytes = std::fs::read(image).map_err(LabError::file("reading", image))?;
    let payload = payload(&bytes).map_err(|why| LabError::Image(image.into(), why))?;
    let temporary = |error| LabError::System("creating a temporary file", error);
    let mut input = tempfile::tempfile().map_err(temporary)?;
    input.write_all(payload.compressed).and_then(|()| input.seek(SeekFrom::Start(0))).map_err(temporary)?;
    let mut command = command::tool(payload.format.program, payload.format.package)?;
    let elf = command::check(command.arg("-dc").stdin(input), interrupt)?;
    if !elf.starts_with(b"\x7fELF") || elf.len() != payload.length as usize {
        return Err(LabError::Image(image.into(), "its payload is not an ELF file of the announced length"));
    }
    std::fs::write(out, elf).map_err(LabError::file("writing", out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bzImage with `payload` in it, as far as this module looks at one.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    fn compressed_by(program: &str, contents: &[u8]) -> Vec<u8> {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(contents).unwrap();
        input.seek(SeekFrom::Start(0)).unwrap();
        let output = std::process::Command::new(program).arg("-c").stdin(input).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn the_elf_file_is_taken_out() {
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let interrupt = Interrupt::catch().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("vmlinuz"), folder.path().join("vmlinux"));
        let mut payload = compressed_by("gzip", &elf);
        std::fs::write(&input, image(&payload)).unwrap();
        extract(&input, &output, &interrupt).unwrap();
        assert_eq!(std::fs::read(&output).unwrap(), elf);

        let last = payload.len() - 1;
        payload[last] ^= 1;
        std::fs::write(&input, image(&payload)).unwrap();
        assert!(extract(&input, &output, &interrupt).is_err(), "a wrong length is noticed");
    }

    #[test]
    fn an_appended_length_is_not_part_of_what_is_decompressed() {
        let bytes = image(b"\xfd7zXZrest\x78\x56\x34\x12");
        let found = payload(&bytes).unwrap();
        assert_eq!((found.format.program, found.compressed), ("xz", b"\xfd7zXZrest".as_slice()));
        assert_eq!(found.length, 0x1234_5678);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert_eq!(payload(b"MZ"), Err("not a bzImage"));
        assert_eq!(payload(&image(b"plain text")), Err("compressed in a format that is not known"));
        let mut old = image(b"\x1f\x8b1234");
        old[VERSION] = 7;
        assert_eq!(payload(&old), Err("a boot protocol older than 2.08"));
        let whole = image(b"\x1f\x8b1234");
        assert_eq!(payload(&whole[..whole.len() - 1]), Err("the bzImage is cut off"));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(offset: u32, length: u32, sectors: u8, tail in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = image(&tail);
            bytes[SETUP_SECTS] = sectors;
            bytes[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&offset.to_le_bytes());
            bytes[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
            let _ = payload(&bytes);
        }
    }
}
