//! The members of a tar archive: POSIX ustar, with the extensions for long names and large members (pax, GNU).
//!
//! Source: POSIX.1-2017, `pax`, sections "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Basic
//! Tar Format". Every step goes forward and their number is bounded, so that reading ends.

use crate::formats::error::{ImageError, require};
use crate::formats::source::{CHECKSUMS_COUNT, ImageSource, fits, read_array, read_vec};

const BLOCK_BYTES: u64 = 512;
const HEADER_BYTES: usize = 512;
/// Where the checksum is in a header.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// `magic` and its place; the old GNU format has it too.
pub(in crate::formats) const MAGIC: &[u8; 5] = b"ustar";
pub(in crate::formats) const MAGIC_AT: usize = 257;
/// Most headers that are looked at: an OVA has a handful. Stops an archive of empty members from taking forever.
const MOST_HEADERS: usize = 4096;
/// Longest extension (a name, a set of pax records), bytes.
const MOST_EXTENSION_BYTES: u64 = 64 << 10;

/// A regular file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its content begins, bytes.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What an extension says about the member that follows it.
#[derive(Debug, Default)]
struct Extension {
    name: Option<String>,
    bytes: Option<u64>,
}

/// All regular members, in their order.
pub(super) fn members(source: &dyn ImageSource) -> Result<Vec<Member>, ImageError> {
    let mut members = Vec::new();
    let mut extension = Extension::default();
    let mut at = 0u64;
    for _ in 0..MOST_HEADERS {
        if at == source.bytes() && !members.is_empty() {
            // Without the two empty blocks that should be at the end.
            return Ok(members);
        }
        let header = read_array::<HEADER_BYTES>(source, "a tar header", at)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(members);
        }
        check(&header, at)?;
        let offset = at + BLOCK_BYTES;
        let kind = header[156];
        let is_extension = matches!(kind, b'x' | b'g' | b'L' | b'K');
        let named = number(&header[124..136]);
        let bytes = if is_extension { named } else { extension.bytes.or(named) };
        let bytes = bytes
            .ok_or_else(|| ImageError::field("the size of a tar member", at, "at that byte is no number"))?;
        let next = bytes.checked_next_multiple_of(BLOCK_BYTES).and_then(|bytes| offset.checked_add(bytes));
        // The last member's padding may be missing.
        let (true, Some(next)) = (fits(offset, bytes, source.bytes()), next) else {
            let rule = format!("at byte {at} that is more than the archive has");
            return Err(ImageError::field("the size of a tar member", bytes, rule));
        };
        if is_extension {
            extend(&mut extension, kind, source, offset, bytes)?;
        } else {
            let extension = std::mem::take(&mut extension);
            if matches!(kind, b'0' | 0 | b'7') {
                let name = extension.name.unwrap_or_else(|| name(&header));
                members.push(Member { name, offset, bytes });
            }
        }
        at = next.min(source.bytes());
    }
    Err(ImageError::field("the number of tar members", MOST_HEADERS as u64, "is more than is supported"))
}

fn check(header: &[u8; HEADER_BYTES], at: u64) -> Result<(), ImageError> {
    if header.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC) {
        return Err(ImageError::Magic { format: "tar", field: "the magic \"ustar\" of a header" });
    }
    let sum = header
        .iter()
        .enumerate()
        .fold(0u64, |sum, (at, byte)| sum + u64::from(if CHECKSUM.contains(&at) { b' ' } else { *byte }));
    if CHECKSUMS_COUNT && number(&header[CHECKSUM]) != Some(sum) {
        return Err(ImageError::Checksum { what: "a tar header", offset: at });
    }
    Ok(())
}

/// Octal digits, or a big-endian binary number after a byte 0x80 (GNU).
fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first().map(|(first, rest)| (*first, rest)) {
        return rest.iter().try_fold(0u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(field.get(..end)?).ok()?.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

fn name(header: &[u8; HEADER_BYTES]) -> String {
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    // The old GNU format ("ustar" and a space) has other things where the prefix is.
    if prefix.is_empty() || header[262] == b' ' { name } else { format!("{prefix}/{name}") }
}

fn extend(
    extension: &mut Extension,
    kind: u8,
    source: &dyn ImageSource,
    offset: u64,
    bytes: u64,
) -> Result<(), ImageError> {
    let rule = format!("must be at most {MOST_EXTENSION_BYTES} bytes");
    require(bytes <= MOST_EXTENSION_BYTES, "the size of a tar extension", bytes, rule)?;
    let content = read_vec(source, "a tar extension", offset, usize::try_from(bytes).unwrap_or(usize::MAX))?;
    match kind {
        b'L' => extension.name = Some(text(&content)),
        b'x' => {
            let wrong = || ImageError::Unsupported(format!("the pax records at byte {offset} are damaged"));
            read_records(&content, extension).ok_or_else(wrong)?;
        }
        // Records for all members, and long targets of links: nothing that matters here.
        _ => {}
    }
    Ok(())
}

/// Records are `LENGTH KEY=VALUE\n`, the length of all of it.
fn read_records(mut records: &[u8], extension: &mut Extension) -> Option<()> {
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
        let record = records.get(space + 1..length.checked_sub(1)?)?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let value = std::str::from_utf8(record.get(equals + 1..)?).ok();
        match record.get(..equals)? {
            b"path" => extension.name = Some(value?.to_owned()),
            b"size" => extension.bytes = Some(value?.parse().ok()?),
            _ => {}
        }
        records = records.get(length..)?;
    }
    Some(())
}
