//! The descriptor: a text that lists the extents ("The Descriptor", "Extent Description" in Virtual Disk Format 5.0).

use crate::formats::error::ImageError;

/// Most extents: a 2 TiB disk in pieces of 2 GiB. Stops a descriptor from using up the process's open files.
const MOST_EXTENTS: usize = 1024;
/// Longest name of an extent, bytes: what file systems allow.
const MOST_NAME_BYTES: usize = 255;
/// `CID_NOPARENT`.
const NO_PARENT: &str = "ffffffff";
/// What a descriptor begins with.
const FIRST_LINE: &str = "# disk descriptorfile";

/// What may be done with an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
    None,
}

/// How an extent holds its sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// As they are (FLAT, and VMFS on ESXi).
    Flat,
    /// Through grain tables.
    Sparse,
    /// Not at all.
    Zero,
}

impl ExtentKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
        }
    }
}

/// A line that describes an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) access: Access,
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
    /// A plain file name; none for ZERO.
    pub(super) name: Option<String>,
    /// Where in the file a flat extent begins, sectors.
    pub(super) offset: u64,
}

/// What of a descriptor matters for reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) create_type: String,
    pub(super) content_id: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) extents: Vec<ExtentLine>,
}

/// Whether a file's first bytes are those of a descriptor.
pub(in crate::formats) fn looks_like_a_descriptor(first: &[u8]) -> bool {
    let start = first.trim_ascii_start();
    start.get(..FIRST_LINE.len()).is_some_and(|line| line.eq_ignore_ascii_case(FIRST_LINE.as_bytes()))
}

impl Descriptor {
    /// Takes a descriptor apart; it ends at the first NUL, if there is one.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        // Only names of extents may be in another encoding, and such a name is refused below.
        let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
        let mut descriptor = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let access = match line.split_ascii_whitespace().next() {
                Some("RW") => Access::ReadWrite,
                Some("RDONLY") => Access::ReadOnly,
                Some("NOACCESS") => Access::None,
                _ => {
                    descriptor.set(line);
                    continue;
                }
            };
            if descriptor.extents.len() == MOST_EXTENTS {
                let rule = format!("at most {MOST_EXTENTS} are supported");
                return Err(ImageError::field("the number of extents", MOST_EXTENTS as u64 + 1, rule));
            }
            descriptor.extents.push(extent(line, access)?);
        }
        if descriptor.extents.is_empty() {
            return Err(ImageError::field("the number of extents", 0u32, "the descriptor lists none"));
        }
        Ok(descriptor)
    }

    fn set(&mut self, line: &str) {
        let Some((key, value)) = line.split_once('=') else { return };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "createtype" => value.clone_into(&mut self.create_type),
            "cid" => self.content_id = Some(value.to_owned()),
            "parentcid" => self.parent = Some(value.to_owned()),
            _ => {}
        }
    }

    /// Refuses what is not a disk by itself or is laid out in a way that is not known here.
    pub(super) fn check_is_whole(&self) -> Result<(), ImageError> {
        if let Some(parent) = &self.parent
            && !parent.eq_ignore_ascii_case(NO_PARENT)
        {
            let rule = "disks on top of a parent are not supported: consolidate its snapshots first";
            return Err(ImageError::text("parentCID", parent, rule));
        }
        let known = [
            "monolithicFlat",
            "monolithicSparse",
            "twoGbMaxExtentFlat",
            "twoGbMaxExtentSparse",
            "streamOptimized",
            "vmfs",
            "custom",
        ];
        if !known.iter().any(|known| known.eq_ignore_ascii_case(&self.create_type)) {
            return Err(ImageError::text(
                "createType",
                &self.create_type,
                "is not supported: export it as OVA or clone it",
            ));
        }
        Ok(())
    }
}

/// `RW 4192256 SPARSE "disk-s001.vmdk"`, `RW 1024 FLAT "disk-flat.vmdk" 0`, `RW 512 ZERO`.
fn extent(line: &str, access: Access) -> Result<ExtentLine, ImageError> {
    let bad = |rule| ImageError::text("a line of the extent description", line, rule);
    let mut quoted = line.splitn(3, '"');
    let mut words = quoted.next().unwrap_or_default().split_ascii_whitespace().skip(1);
    let sectors =
        words.next().and_then(|word| word.parse().ok()).ok_or_else(|| bad("has no size in sectors"))?;
    let kind = match words.next() {
        Some("FLAT" | "VMFS") => ExtentKind::Flat,
        Some("SPARSE") => ExtentKind::Sparse,
        Some("ZERO") => ExtentKind::Zero,
        _ => return Err(bad("its type is not supported (FLAT, VMFS, SPARSE and ZERO are)")),
    };
    if words.next().is_some() {
        return Err(bad("has something before its name that is not known"));
    }
    let (name, rest) = (quoted.next(), quoted.next());
    if kind == ExtentKind::Zero {
        return Ok(ExtentLine { access, sectors, kind, name: None, offset: 0 });
    }
    let (Some(name), Some(rest)) = (name, rest) else { return Err(bad("has no name in quotes")) };
    check_name(name)?;
    let offset = match rest.split_ascii_whitespace().next() {
        None => 0,
        Some(word) => word.parse().map_err(|_| bad("its offset is not a number"))?,
    };
    Ok(ExtentLine { access, sectors, kind, name: Some(name.to_owned()), offset })
}

/// A name must be that of a file next to the descriptor: no path, no `protocol:`, nothing that a file system would resolve.
/// What stops it from naming other files of the host (CVE-2022-47951).
fn check_name(name: &str) -> Result<(), ImageError> {
    let plain = !name.is_empty()
        && name.len() <= MOST_NAME_BYTES
        && name != "."
        && name != ".."
        && !name.contains(|c: char| {
            matches!(c, '/' | '\\' | ':' | char::REPLACEMENT_CHARACTER) || c.is_control()
        });
    if plain {
        return Ok(());
    }
    let rule = "must be the plain name of a file beside the descriptor";
    Err(ImageError::text("the name of an extent", name, rule))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(lines: &str) -> Result<Descriptor, ImageError> {
        Descriptor::parse(
            format!("# Disk DescriptorFile\nversion=1\ncreateType=\"custom\"\n{lines}").as_bytes(),
        )
    }

    #[test]
    fn a_descriptor_is_taken_apart() {
        let text = "parentCID=ffffffff\r\n\r\n# Extent description\r\nRW 10 FLAT \"a b-f001.vmdk\" 128\r\n\
                    RDONLY 20 SPARSE \"a-s002.vmdk\"\nRW 5 ZERO\n\nddb.adapterType = \"ide\"\n\0garbage RW";
        let descriptor = parse(text).unwrap();
        descriptor.check_is_whole().unwrap();
        let line = |access, sectors, kind, name: Option<&str>, offset| ExtentLine {
            access,
            sectors,
            kind,
            name: name.map(str::to_owned),
            offset,
        };
        let expected = [
            line(Access::ReadWrite, 10, ExtentKind::Flat, Some("a b-f001.vmdk"), 128),
            line(Access::ReadOnly, 20, ExtentKind::Sparse, Some("a-s002.vmdk"), 0),
            line(Access::ReadWrite, 5, ExtentKind::Zero, None, 0),
        ];
        assert_eq!(descriptor.extents, expected);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["/etc/shadow", "../a", "a/b", "..", ".", "", "nbd:host:1", "json:{}", "a\\b", "a\tb"] {
            let error = parse(&format!("RW 10 FLAT \"{name}\" 0")).unwrap_err().to_string();
            assert!(error.contains("name"), "{name}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(parse(&format!("RW 10 FLAT \"{}\" 0", "a".repeat(256))).is_err());
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        for line in [
            "RW",
            "RW x FLAT \"a\"",
            "RW -1 FLAT \"a\"",
            "RW 99999999999999999999999 FLAT \"a\"",
            "RW 10 VMFSSPARSE \"a\"",
            "RW 10 FLAT a 0",
            "RW 10 FLAT \"a",
            "RW 10 FLAT \"a\" x",
            "RW 10 FLAT b \"a\"",
            "",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse(&"RW 1 ZERO\n".repeat(MOST_EXTENTS)).is_ok());
        assert!(parse(&"RW 1 ZERO\n".repeat(MOST_EXTENTS + 1)).is_err());
    }

    #[test]
    fn disks_with_a_parent_and_unknown_layouts_are_refused() {
        let error = parse("parentCID=12345678\nRW 1 ZERO").unwrap().check_is_whole().unwrap_err();
        assert!(error.to_string().contains("parentCID is \"12345678\""), "{error}");
        let text = b"# Disk DescriptorFile\ncreateType=\"vmfsRawDeviceMap\"\nRW 1 ZERO";
        let error = Descriptor::parse(text).unwrap().check_is_whole().unwrap_err();
        assert!(error.to_string().contains("createType is \"vmfsRawDeviceMap\""), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(RW|RDONLY|createType|[ =\"0-9A-Z\n/#-])*") {
            if let Ok(descriptor) = Descriptor::parse(text.as_bytes()) {
                prop_assert!(descriptor.extents.iter().all(|line| line.name.iter().all(|name| !name.contains('/'))));
            }
        }
    }
}
