//! The header of a qcow2 image: parsing with every field bounded, and encoding.
//!
//! Source: "qcow2 Image File Format", docs/interop/qcow2.rst of QEMU, sections "Header", "Header extensions". Everything
//! here comes out of the image and is hostile until checked; a refusal names the field and its value. Pure: no I/O.

use std::fmt::Write as _;

/// `QFI\xfb`.
const MAGIC: u32 = 0x5146_49fb;
/// Most bytes of an image that are looked at for its header, extensions and backing file name.
pub(crate) const HEADER_BYTES: usize = 64 << 10;
/// Largest L1 table, bytes: what QEMU allows too. Stops an image from making us hold gigabytes.
pub(crate) const MOST_L1_BYTES: u64 = 32 << 20;
/// Largest refcount table, bytes: what QEMU allows too, for the same reason.
pub(crate) const MOST_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Most internal snapshots, as in QEMU.
pub(crate) const MOST_SNAPSHOTS: u32 = 65536;
/// Longest name of a backing file, bytes (the specification's limit).
pub(crate) const MOST_NAME_BYTES: u32 = 1023;

/// Length of a version 2 header, and of the shortest version 3 header, bytes.
const V2_BYTES: u32 = 72;
const V3_BYTES: u32 = 104;

pub(crate) const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
pub(crate) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
pub(crate) const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
pub(crate) const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
pub(crate) const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = 0x1f;
/// Counts may be written late; the image is marked dirty meanwhile.
pub(crate) const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;
/// The bitmaps extension agrees with the disk.
pub(crate) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
pub(crate) const AUTOCLEAR_RAW_DATA_FILE: u64 = 1 << 1;

const EXTENSION_END: u32 = 0;
pub(crate) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Why an image is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is something else.
    #[error("not a qcow2 image: it does not begin with QFI\\xfb")]
    NotQcow2,
    /// It ends before its header does.
    #[error("the image is cut: it ends within its header")]
    Short,
    /// A field has a value that it may not have.
    #[error("{field} is {value}: {rule}")]
    Field {
        /// Name in the specification.
        field: &'static str,
        /// Value found.
        value: u64,
        /// What is allowed.
        rule: String,
    },
    /// An option for a new image contradicts another, or is not known.
    #[error("{option}: {reason}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Why not.
        reason: String,
    },
    /// A string is not one.
    #[error("{field} is not text")]
    Text {
        /// Name in the specification.
        field: &'static str,
    },
    /// The image needs something that is not known here.
    #[error("the image needs features that are not supported: {0}")]
    Features(String),
    /// The table of snapshots contradicts itself.
    #[error("the table of snapshots is damaged: {0}")]
    Snapshots(String),
    /// The image must not be written to before it has been repaired.
    #[error("the image is marked {0}: repair it first (qemu-img check -r all), or open it read-only")]
    NeedsRepair(&'static str),
}

fn bad<T>(field: &'static str, value: impl Into<u64>, rule: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError::Field { field, value: value.into(), rule: rule.into() })
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate streams.
    #[default]
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// A header, checked in itself. What it says about the rest of the file is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// Size of the virtual disk, bytes.
    pub(crate) size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    /// Refcounts have `1 << refcount_order` bits.
    pub(crate) refcount_order: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
    pub(crate) incompatible: u64,
    pub(crate) compatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) compression: Compression,
    pub(crate) backing: Option<String>,
    pub(crate) backing_format: Option<String>,
    pub(crate) data_file: Option<String>,
    pub(crate) bitmaps: Option<BitmapDirectory>,
}

/// Where the directory of dirty bitmaps is (section "Bitmaps extension"). Not checked against anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitmapDirectory {
    pub(crate) bitmaps: u32,
    pub(crate) bytes: u64,
    pub(crate) offset: u64,
}

/// Reads big-endian numbers out of a header; what is beyond its end is an error.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], FormatError> {
        let bytes = at.checked_add(N).and_then(|end| self.0.get(at..end)).ok_or(FormatError::Short)?;
        bytes.try_into().map_err(|_| FormatError::Short)
    }

    fn u32(&self, at: usize) -> Result<u32, FormatError> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, FormatError> {
        self.array(at).map(u64::from_be_bytes)
    }

    fn text(&self, field: &'static str, at: usize, bytes: usize) -> Result<String, FormatError> {
        let bytes = at.checked_add(bytes).and_then(|end| self.0.get(at..end)).ok_or(FormatError::Short)?;
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(FormatError::Text { field }),
        }
    }
}

impl Header {
    pub(crate) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(crate) fn extended_l2(&self) -> bool {
        self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0
    }

    /// Guest bytes that one entry of the L1 table stands for.
    pub(crate) fn bytes_per_l1_entry(&self) -> u64 {
        let entry_bits = if self.extended_l2() { 4 } else { 3 };
        1 << (2 * self.cluster_bits - entry_bits)
    }

    /// Parses the first bytes of an image (up to [`HEADER_BYTES`] of them).
    pub(crate) fn parse(image: &[u8]) -> Result<Self, FormatError> {
        let fields = Fields(&image[..image.len().min(HEADER_BYTES)]);
        if fields.u32(0).map_err(|_| FormatError::NotQcow2)? != MAGIC {
            return Err(FormatError::NotQcow2);
        }
        let version = fields.u32(4)?;
        if !(2..=3).contains(&version) {
            return bad("version", version, "2 and 3 are known");
        }
        let mut header = Self {
            version,
            cluster_bits: fields.u32(20)?,
            size: fields.u64(24)?,
            l1_entries: fields.u32(36)?,
            l1_offset: fields.u64(40)?,
            refcount_table_offset: fields.u64(48)?,
            refcount_table_clusters: fields.u32(56)?,
            refcount_order: 4,
            snapshots: fields.u32(60)?,
            snapshots_offset: fields.u64(64)?,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            compression: Compression::Zlib,
            backing: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
        };
        let mut header_bytes = V2_BYTES;
        if version == 3 {
            header_bytes = header.parse_version_3(&fields)?;
        }
        header.check_sizes()?;
        let crypt_method = fields.u32(32)?;
        if crypt_method != 0 {
            return bad("crypt_method", crypt_method, "encrypted images are not supported");
        }
        if u64::from(header_bytes) > header.cluster_bytes() {
            return bad("header_length", header_bytes, "longer than a cluster");
        }
        // Names and extensions lie in the first cluster.
        let most = usize::try_from(header.cluster_bytes()).unwrap_or(usize::MAX).min(fields.0.len());
        let first_cluster = Fields(&fields.0[..most]);
        let names = header.parse_extensions(&first_cluster, header_bytes)?;
        header.check_features(&names)?;
        header.parse_backing(&first_cluster)?;
        if header.incompatible & INCOMPATIBLE_DATA_FILE == 0
            && header.autoclear & AUTOCLEAR_RAW_DATA_FILE != 0
        {
            return bad(
                "autoclear_features",
                header.autoclear,
                "raw external data without an external data file",
            );
        }
        if header.autoclear & AUTOCLEAR_RAW_DATA_FILE != 0 && header.backing.is_some() {
            return bad("autoclear_features", header.autoclear, "raw external data with a backing file");
        }
        if header.incompatible & INCOMPATIBLE_DATA_FILE != 0 && header.snapshots > 0 {
            return bad("nb_snapshots", header.snapshots, "an external data file allows none");
        }
        Ok(header)
    }

    /// The fields that version 3 added. Returns the header's length in bytes.
    fn parse_version_3(&mut self, fields: &Fields<'_>) -> Result<u32, FormatError> {
        self.incompatible = fields.u64(72)?;
        self.compatible = fields.u64(80)?;
        self.autoclear = fields.u64(88)?;
        self.refcount_order = fields.u32(96)?;
        let header_bytes = fields.u32(100)?;
        if header_bytes < V3_BYTES || !header_bytes.is_multiple_of(8) {
            return bad("header_length", header_bytes, "at least 104, and a multiple of 8");
        }
        let code = if header_bytes > V3_BYTES { fields.array::<1>(104)?[0] } else { 0 };
        self.compression = match code {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            _ => return bad("compression_type", code, "0 (zlib) and 1 (zstd) are known"),
        };
        if (self.incompatible & INCOMPATIBLE_COMPRESSION != 0) != (code != 0) {
            return bad("compression_type", code, "contradicts the compression bit of incompatible_features");
        }
        Ok(header_bytes)
    }

    /// Sizes and places, in the order in which one depends on the other.
    fn check_sizes(&self) -> Result<(), FormatError> {
        let least = if self.extended_l2() { 14 } else { 9 };
        if !(least..=21).contains(&self.cluster_bits) {
            return bad("cluster_bits", self.cluster_bits, format!("{least} to 21 (512 bytes to 2 MiB)"));
        }
        if self.refcount_order > 6 {
            return bad("refcount_order", self.refcount_order, "at most 6 (64 bits)");
        }
        if self.size == 0 || !self.size.is_multiple_of(512) {
            return bad("size", self.size, "a positive multiple of 512");
        }
        let most_entries = MOST_L1_BYTES / 8;
        let needed = self.size.div_ceil(self.bytes_per_l1_entry());
        if needed > most_entries {
            let most = most_entries.saturating_mul(self.bytes_per_l1_entry());
            return bad("size", self.size, format!("at most {most} with this cluster size"));
        }
        if u64::from(self.l1_entries) < needed || u64::from(self.l1_entries) > most_entries {
            return bad(
                "l1_size",
                self.l1_entries,
                format!("{needed} to {most_entries} for a disk of this size"),
            );
        }
        self.check_place("l1_table_offset", self.l1_offset, u64::from(self.l1_entries) * 8)?;
        let table_bytes = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if table_bytes == 0 || table_bytes > MOST_REFCOUNT_TABLE_BYTES {
            let rule = format!("1 to {} of this size", MOST_REFCOUNT_TABLE_BYTES >> self.cluster_bits);
            return bad("refcount_table_clusters", self.refcount_table_clusters, rule);
        }
        self.check_place("refcount_table_offset", self.refcount_table_offset, table_bytes)?;
        if self.snapshots > MOST_SNAPSHOTS {
            return bad("nb_snapshots", self.snapshots, format!("at most {MOST_SNAPSHOTS}"));
        }
        if self.snapshots > 0 {
            self.check_place("snapshots_offset", self.snapshots_offset, u64::from(self.snapshots) * 40)?;
        }
        Ok(())
    }

    /// A table begins on a cluster, not on the header's, and ends where offsets can still be written down (56 bits).
    fn check_place(&self, field: &'static str, offset: u64, bytes: u64) -> Result<(), FormatError> {
        if offset == 0 || !offset.is_multiple_of(self.cluster_bytes()) {
            return bad(field, offset, "a positive multiple of the cluster size");
        }
        if offset.checked_add(bytes).is_none_or(|end| end > 1 << 56) {
            return bad(field, offset, "the table does not end within 56 bits");
        }
        Ok(())
    }

    /// Reads the extensions that matter. Returns the names that the image has for feature bits, for messages.
    fn parse_extensions(
        &mut self,
        fields: &Fields<'_>,
        header_bytes: u32,
    ) -> Result<Vec<(u8, u8, String)>, FormatError> {
        let mut names = Vec::new();
        let mut at = header_bytes as usize;
        // Old images have none, and zeroes (the end marker) or nothing there.
        while let (Ok(kind), Ok(bytes)) = (fields.u32(at), fields.u32(at.saturating_add(4))) {
            if kind == EXTENSION_END {
                break;
            }
            let length = bytes as usize;
            let start = at + 8;
            let Some(data) = start.checked_add(length).and_then(|end| fields.0.get(start..end)) else {
                return bad(
                    "header extension length",
                    bytes,
                    "it does not end in the first cluster (or 64 KiB)",
                );
            };
            match kind {
                EXTENSION_BACKING_FORMAT => {
                    self.backing_format = Some(fields.text("backing format", start, length)?);
                }
                EXTENSION_BITMAPS => {
                    self.bitmaps = Some(BitmapDirectory {
                        bitmaps: fields.u32(start)?,
                        bytes: fields.u64(start + 8)?,
                        offset: fields.u64(start + 16)?,
                    });
                }
                EXTENSION_DATA_FILE => self.data_file = Some(fields.text("data file name", start, length)?),
                EXTENSION_FEATURE_NAMES => {
                    for row in data.chunks_exact(48) {
                        let name = row[2..].split(|byte| *byte == 0).next().unwrap_or_default();
                        names.push((row[0], row[1], String::from_utf8_lossy(name).into_owned()));
                    }
                }
                // Unknown ones are harmless: what must be understood has a feature bit.
                _ => {}
            }
            at = start + length.next_multiple_of(8);
        }
        Ok(names)
    }

    fn check_features(&self, names: &[(u8, u8, String)]) -> Result<(), FormatError> {
        let unknown = self.incompatible & !INCOMPATIBLE_KNOWN;
        if unknown == 0 {
            return Ok(());
        }
        let mut list = String::new();
        for bit in (0..64u8).filter(|bit| unknown >> bit & 1 != 0) {
            let name =
                names.iter().find(|(kind, of, _)| *kind == 0 && *of == bit).map(|(_, _, name)| name.as_str());
            let separator = if list.is_empty() { "" } else { ", " };
            // Writing to a string can't fail. The name is the image's own word, so it is quoted.
            let _ = write!(list, "{separator}bit {bit} ({:?})", name.unwrap_or("unnamed"));
        }
        Err(FormatError::Features(list))
    }

    fn parse_backing(&mut self, fields: &Fields<'_>) -> Result<(), FormatError> {
        let (offset, bytes) = (fields.u64(8)?, fields.u32(16)?);
        if offset == 0 || bytes == 0 {
            return Ok(());
        }
        if bytes > MOST_NAME_BYTES {
            return bad("backing_file_size", bytes, format!("at most {MOST_NAME_BYTES}"));
        }
        let end = offset.checked_add(u64::from(bytes));
        if end.is_none_or(|end| end > fields.0.len() as u64) {
            return bad(
                "backing_file_offset",
                offset,
                "the name does not end in the first cluster (or 64 KiB)",
            );
        }
        let start = usize::try_from(offset).map_err(|_| FormatError::Short)?;
        self.backing = Some(fields.text("backing file name", start, bytes as usize)?);
        Ok(())
    }

    /// The header with its extensions, as the start of a new image's first cluster. Names must have been checked to fit.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(self.version.to_be_bytes());
        // The backing file's place and length follow once the extensions are there.
        bytes.extend([0; 12]);
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend(self.l1_offset.to_be_bytes());
        bytes.extend(self.refcount_table_offset.to_be_bytes());
        bytes.extend(self.refcount_table_clusters.to_be_bytes());
        bytes.extend(self.snapshots.to_be_bytes());
        bytes.extend(self.snapshots_offset.to_be_bytes());
        if self.version == 3 {
            bytes.extend(self.incompatible.to_be_bytes());
            bytes.extend(self.compatible.to_be_bytes());
            bytes.extend(self.autoclear.to_be_bytes());
            bytes.extend(self.refcount_order.to_be_bytes());
            bytes.extend((V3_BYTES + 8).to_be_bytes());
            bytes.extend([u8::from(self.compression == Compression::Zstd), 0, 0, 0, 0, 0, 0, 0]);
        }
        for (kind, text) in
            [(EXTENSION_BACKING_FORMAT, &self.backing_format), (EXTENSION_DATA_FILE, &self.data_file)]
        {
            if let Some(text) = text {
                bytes.extend(kind.to_be_bytes());
                bytes.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
                bytes.extend(text.as_bytes());
                bytes.resize(bytes.len().next_multiple_of(8), 0);
            }
        }
        bytes.extend([0; 8]);
        if let Some(name) = &self.backing {
            let at = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&at.to_be_bytes());
            bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
            bytes.extend(name.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            size: 1 << 30,
            l1_entries: 2,
            l1_offset: 3 << 16,
            refcount_table_offset: 1 << 16,
            refcount_table_clusters: 1,
            refcount_order: 4,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            compression: Compression::Zlib,
            backing: Some("base.qcow2".to_owned()),
            backing_format: Some("qcow2".to_owned()),
            data_file: None,
            bitmaps: None,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let zstd =
            Header { incompatible: INCOMPATIBLE_COMPRESSION, compression: Compression::Zstd, ..valid() };
        let old = Header { version: 2, backing: None, backing_format: None, ..valid() };
        let extended = Header { incompatible: INCOMPATIBLE_EXTENDED_L2, l1_entries: 9, ..valid() };
        for header in [valid(), zstd, old, extended] {
            assert_eq!(Header::parse(&header.encode()), Ok(header));
        }
    }

    /// Overwrites bytes of a valid header and expects the refusal to name a field.
    #[track_caller]
    fn refused(at: usize, bytes: &[u8], field: &str) {
        let mut image = valid().encode();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let message = Header::parse(&image).unwrap_err().to_string();
        assert!(message.contains(field), "{message}");
    }

    #[test]
    fn a_field_out_of_bounds_is_named() {
        refused(0, b"QFIx", "not a qcow2 image");
        refused(4, &1u32.to_be_bytes(), "version is 1");
        refused(4, &4u32.to_be_bytes(), "version is 4");
        refused(8, &u64::MAX.to_be_bytes(), "backing_file_offset is 18446744073709551615");
        refused(16, &1024u32.to_be_bytes(), "backing_file_size is 1024");
        for bits in [0u32, 8, 22, 64, u32::MAX] {
            refused(20, &bits.to_be_bytes(), &format!("cluster_bits is {bits}"));
        }
        for size in [0u64, 513, 1 << 62, u64::MAX] {
            refused(24, &size.to_be_bytes(), &format!("size is {size}"));
        }
        refused(32, &1u32.to_be_bytes(), "crypt_method is 1");
        for entries in [0u32, 1, 4_194_305, u32::MAX] {
            refused(36, &entries.to_be_bytes(), &format!("l1_size is {entries}"));
        }
        for offset in [0u64, 1, 0x10200, u64::MAX, u64::MAX << 16, 1 << 56] {
            refused(40, &offset.to_be_bytes(), "l1_table_offset");
            refused(48, &offset.to_be_bytes(), "refcount_table_offset");
        }
        for clusters in [0u32, 129, u32::MAX] {
            refused(56, &clusters.to_be_bytes(), &format!("refcount_table_clusters is {clusters}"));
        }
        refused(60, &65537u32.to_be_bytes(), "nb_snapshots is 65537");
        refused(60, &1u32.to_be_bytes(), "snapshots_offset is 0");
        refused(72, &(1u64 << 63).to_be_bytes(), "bit 63");
        refused(72, &INCOMPATIBLE_COMPRESSION.to_be_bytes(), "compression_type is 0");
        refused(88, &AUTOCLEAR_RAW_DATA_FILE.to_be_bytes(), "raw external data");
        refused(96, &7u32.to_be_bytes(), "refcount_order is 7");
        for bytes in [0u32, 96, 103, 105, u32::MAX - 7] {
            refused(100, &bytes.to_be_bytes(), "header_length");
        }
        refused(104, &[1], "compression_type is 1");
        refused(104, &[2], "compression_type is 2");
        refused(116, &u32::MAX.to_be_bytes(), "header extension length is 4294967295");
    }

    #[test]
    fn an_unknown_feature_is_called_what_the_image_calls_it() {
        let mut image = valid().encode();
        image[72..80].copy_from_slice(&(1u64 << 40).to_be_bytes());
        let mut table = Vec::new();
        table.extend(EXTENSION_FEATURE_NAMES.to_be_bytes());
        table.extend(48u32.to_be_bytes());
        table.extend([0, 40]);
        table.extend(b"time travel");
        table.resize(8 + 48, 0);
        image.splice(112..112, table);
        let message = Header::parse(&image).unwrap_err().to_string();
        assert!(message.contains("bit 40 (\"time travel\")"), "{message}");
    }

    #[test]
    fn a_cut_header_is_refused() {
        let image = valid().encode();
        for length in 0..112 {
            assert!(Header::parse(&image[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(start in prop::collection::vec(any::<u8>(), 0..300), at in 8usize..112) {
            let mut image = valid().encode();
            let end = (at + start.len()).min(image.len());
            image[at..end].copy_from_slice(&start[..end - at]);
            if let Ok(header) = Header::parse(&image) {
                prop_assert!(u64::from(header.l1_entries) * header.bytes_per_l1_entry() >= header.size);
            }
            let _ = Header::parse(&start);
        }
    }
}
