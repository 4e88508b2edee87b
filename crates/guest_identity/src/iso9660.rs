//! Small ISO 9660 volumes, as cloud-init and others look for them: one directory with a few files, named by Rock Ridge and by Joliet.
//!
//! The volume has no time in it, so that equal content makes equal bytes.
//!
//! Specifications: ECMA-119 (descriptors in 8, records in 9), IEEE P1281 (system use sharing), IEEE P1282 (Rock Ridge), and Microsoft's Joliet
//! specification.

/// Bytes of a logical sector (ECMA-119, 6.1.2).
const SECTOR: usize = 2048;
/// Sectors that are left to boot loaders (ECMA-119, 6.2.1).
const SYSTEM_SECTORS: u32 = 16;
/// The first descriptor is at a place that the specification fixes; what follows has places of our own choice.
const PATH_TABLES: u32 = SYSTEM_SECTORS + 3;
/// The continuation of the root's own record.
const CONTINUATION: u32 = PATH_TABLES + 4;
const DIRECTORIES: u32 = CONTINUATION + 1;
/// Length of a path table with nothing but the root (ECMA-119, 9.4).
const PATH_TABLE_BYTES: u32 = 10;
/// Most bytes that a volume's files have together: far more than any seed, far less than a 32-bit number of sectors.
pub const MOST_BYTES: usize = 64 << 20;
/// Most files: records of a flat directory.
pub const MOST_FILES: usize = 64;
/// Longest name, so that a record with everything in it stays below 256 bytes; Joliet has 64 characters.
const MOST_NAME_BYTES: usize = 60;
/// Longest volume identifier in both descriptors: Joliet has room for 16 characters.
const MOST_LABEL_BYTES: usize = 16;

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsoFile {
    /// Its name: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Why a volume can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsoError {
    /// The volume's name can't be written down.
    #[error("the label {0:?} is not 1 to {MOST_LABEL_BYTES} letters, digits, '_' or '-'")]
    Label(String),
    /// A file's name can't be written down.
    #[error("the name {0:?} is not 1 to {MOST_NAME_BYTES} letters, digits, '.', '_' or '-'")]
    Name(String),
    /// Two files have the same name.
    #[error("there are two files with the name {0:?}")]
    Twice(String),
    /// Too much of it.
    #[error("a volume has at most {MOST_FILES} files with {MOST_BYTES} bytes together")]
    TooLarge,
}

/// Makes a volume.
///
/// # Errors
/// Names that can't be written down, or too much content.
pub fn volume(label: &str, files: &[IsoFile]) -> Result<Vec<u8>, IsoError> {
    let files = check(label, files)?;
    // A directory's first two records, and records never cross sectors: the numbers of sectors follow from the records alone.
    let mut trees = Vec::new();
    for naming in [Naming::RockRidge, Naming::Joliet] {
        let placeless: Vec<Placed<'_>> = files.iter().map(|file| Placed { sector: 0, file }).collect();
        trees.push((naming, sectors(directory(naming, 0, 0, &placeless).len())));
    }
    let first_data = DIRECTORIES + trees.iter().map(|(_, sectors)| sectors).sum::<u32>();
    let mut next = first_data;
    let mut placed = Vec::new();
    for file in &files {
        placed.push(Placed { sector: next, file });
        next += sectors(file.source.content.len());
    }
    let end = next;
    let mut out = vec![0; SYSTEM_SECTORS as usize * SECTOR];
    let mut at = DIRECTORIES;
    let mut bodies = Vec::new();
    for (naming, count) in trees {
        out.extend(descriptor(naming, label, end, at, count));
        bodies.push((at, directory(naming, at, count, &placed)));
        at += count;
    }
    // The set terminator (ECMA-119, 8.3).
    push_sector(&mut out, b"\xffCD001\x01");
    for (at, _) in &bodies {
        push_sector(&mut out, &path_table(at.to_le_bytes(), 1_u16.to_le_bytes()));
        push_sector(&mut out, &path_table(at.to_be_bytes(), 1_u16.to_be_bytes()));
    }
    push_sector(&mut out, &extension_record());
    for (_, body) in bodies {
        out.extend(body);
    }
    for file in &files {
        out.extend_from_slice(&file.source.content);
        out.resize(out.len().next_multiple_of(SECTOR), 0);
    }
    Ok(out)
}

/// The files of a volume that [`volume`] has made with this label; `None` of any other. Nothing in `bytes` is trusted: what is found
/// has to make the same bytes.
pub fn files(label: &str, bytes: &[u8]) -> Option<Vec<IsoFile>> {
    if bytes.len() > MOST_BYTES.saturating_mul(2) {
        return None;
    }
    // Of the second tree, whose names are the real ones. The root's record is at byte 156 of its descriptor (ECMA-119, 8.5).
    let root = bytes.get((SYSTEM_SECTORS as usize + 1) * SECTOR..)?.get(156..)?;
    let mut files = Vec::new();
    // Records never cross sectors; what is left of one is zero.
    for mut records in extent(bytes, root)?.chunks(SECTOR) {
        while let Some(length @ 1..) = records.first().copied().map(usize::from) {
            let (one, rest) = records.split_at_checked(length)?;
            records = rest;
            let name = one.get(33..33 + usize::from(*one.get(32)?))?;
            // The directory itself and the one above have names of one byte.
            if name.len() < 2 {
                continue;
            }
            let letters = name.as_chunks::<2>().0.iter().map(|letter| u16::from_be_bytes(*letter));
            let name = String::from_utf16(&letters.collect::<Vec<_>>()).ok()?;
            if files.len() == MOST_FILES {
                return None;
            }
            let name = name.strip_suffix(";1")?.to_owned();
            files.push(IsoFile { name, content: extent(bytes, one)?.to_vec() });
        }
    }
    let same = volume(label, &files).ok()?;
    let (found, rest) = bytes.split_at_checked(same.len())?;
    (found == same && rest.iter().all(|byte| *byte == 0)).then_some(files)
}

/// What a record names (ECMA-119, 9.1): sector and length in the first of both orders of bytes.
fn extent<'a>(bytes: &'a [u8], record: &[u8]) -> Option<&'a [u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(*record.get(at..)?.first_chunk()?));
    let from = usize::try_from(number(2)?).ok()?.checked_mul(SECTOR)?;
    let length = usize::try_from(number(10)?).ok()?;
    bytes.get(from..)?.get(..length)
}

/// A file with the name that the base specification has for it.
#[derive(Debug)]
struct Named<'a> {
    source: &'a IsoFile,
    plain: String,
}

#[derive(Debug)]
struct Placed<'a> {
    sector: u32,
    file: &'a Named<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    RockRidge,
    Joliet,
}

/// Checks and sorts the files; records are in the order of their names (ECMA-119, 9.3).
fn check<'a>(label: &str, files: &'a [IsoFile]) -> Result<Vec<Named<'a>>, IsoError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if label.is_empty() || label.len() > MOST_LABEL_BYTES || !label.bytes().all(plain) {
        return Err(IsoError::Label(label.to_owned()));
    }
    let total = files.iter().try_fold(0_usize, |sum, file| sum.checked_add(file.content.len()));
    if files.len() > MOST_FILES || total.is_none_or(|total| total > MOST_BYTES) {
        return Err(IsoError::TooLarge);
    }
    let mut sorted: Vec<&IsoFile> = files.iter().collect();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));
    for file in &sorted {
        let good = !file.name.is_empty()
            && file.name.len() <= MOST_NAME_BYTES
            && file.name.bytes().all(|byte| plain(byte) || byte == b'.')
            && !matches!(file.name.as_str(), "." | "..");
        if !good {
            return Err(IsoError::Name(file.name.clone()));
        }
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(IsoError::Twice(pair[0].name.clone()));
    }
    // Names of level 1 (ECMA-119, 10.1) that are in the same order and different whatever the real ones are.
    let named = |(number, source): (usize, &'a IsoFile)| {
        let stem: String = source
            .name
            .bytes()
            .filter(u8::is_ascii_alphanumeric)
            .take(5)
            .map(|byte| char::from(byte.to_ascii_uppercase()))
            .collect();
        Named { source, plain: format!("F{number:02}{stem}.;1") }
    };
    Ok(sorted.into_iter().enumerate().map(named).collect())
}

fn sectors(bytes: usize) -> u32 {
    // `check` keeps sizes far below what a 32-bit number of sectors has.
    u32::try_from(bytes.div_ceil(SECTOR)).unwrap_or(u32::MAX)
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn push_sector(out: &mut Vec<u8>, content: &[u8]) {
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

/// A 32-bit number in both orders of bytes (ECMA-119, 7.3.3).
fn both32(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_le_bytes());
    out.extend(number.to_be_bytes());
}

/// A 16-bit number in both orders of bytes (ECMA-119, 7.2.3).
fn both16(out: &mut Vec<u8>, number: u16) {
    out.extend(number.to_le_bytes());
    out.extend(number.to_be_bytes());
}

/// A text in the characters of a tree.
fn characters(naming: Naming, text: &str) -> Vec<u8> {
    match naming {
        Naming::RockRidge => text.as_bytes().to_vec(),
        Naming::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    }
}

/// A text in a field that blanks fill up.
fn field(out: &mut Vec<u8>, naming: Naming, text: &str, bytes: usize) {
    let mut content = characters(naming, text);
    let blank = characters(naming, " ");
    while content.len() + blank.len() <= bytes {
        content.extend_from_slice(&blank);
    }
    content.resize(bytes, 0);
    out.extend(content);
}

/// The primary volume descriptor (ECMA-119, 8.4) or the supplementary one that makes Joliet (8.5).
fn descriptor(naming: Naming, label: &str, volume_sectors: u32, root: u32, root_sectors: u32) -> Vec<u8> {
    let joliet = naming == Naming::Joliet;
    let mut out = vec![if joliet { 2 } else { 1 }];
    out.extend(b"CD001\x01\x00");
    field(&mut out, naming, "LINUX", 32);
    field(&mut out, naming, label, 32);
    out.extend([0; 8]);
    both32(&mut out, volume_sectors);
    let mut escapes = [0; 32];
    if joliet {
        // UCS-2 level 3.
        escapes[..3].copy_from_slice(b"%/E");
    }
    out.extend(escapes);
    for _ in 0..2 {
        both16(&mut out, 1);
    }
    out.extend(2048_u16.to_le_bytes());
    out.extend(2048_u16.to_be_bytes());
    both32(&mut out, PATH_TABLE_BYTES);
    let tables = if joliet { PATH_TABLES + 2 } else { PATH_TABLES };
    out.extend(tables.to_le_bytes());
    out.extend([0; 4]);
    out.extend((tables + 1).to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(&[0], root, root_sectors * 2048, true, &[]));
    // Volume set, publisher, preparer, application.
    for bytes in [128, 128, 128, 128, 37, 37, 37] {
        field(&mut out, naming, "", bytes);
    }
    for _ in 0..4 {
        // A time that is not given (8.4.26.1).
        out.extend([b'0'; 16]);
        out.push(0);
    }
    out.push(1);
    out.resize(SECTOR, 0);
    out
}

/// A path table that has the root only.
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut out = vec![1, 0];
    out.extend(root);
    out.extend(parent);
    out.extend([0, 0]);
    out
}

/// A record of a directory (ECMA-119, 9.1) with what Rock Ridge adds.
fn record(name: &[u8], sector: u32, bytes: u32, is_directory: bool, system_use: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0];
    both32(&mut out, sector);
    both32(&mut out, bytes);
    // A time that is not given (9.1.5).
    out.extend([0; 7]);
    out.extend([if is_directory { 2 } else { 0 }, 0, 0]);
    both16(&mut out, 1);
    out.push(small(name.len()));
    out.extend_from_slice(name);
    if out.len() % 2 == 1 {
        out.push(0);
    }
    out.extend_from_slice(system_use);
    if out.len() % 2 == 1 {
        out.push(0);
    }
    out[0] = small(out.len());
    out
}

/// Lengths that `check` keeps below 256.
fn small(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// The records of the only directory, in whole sectors.
fn directory(naming: Naming, own: u32, own_sectors: u32, files: &[Placed<'_>]) -> Vec<u8> {
    let rock_ridge = naming == Naming::RockRidge;
    let own_bytes = own_sectors * 2048;
    let mut records = Vec::new();
    for (name, first) in [(0, true), (1, false)] {
        let mut system_use = Vec::new();
        if rock_ridge {
            if first {
                // Sharing is used here (IEEE P1281, 5.3).
                system_use.extend(b"SP\x07\x01\xbe\xef\x00");
            }
            posix_attributes(&mut system_use, 0o040_555, 2);
            if first {
                continuation(&mut system_use);
            }
        }
        records.push(record(&[name], own, own_bytes, true, &system_use));
    }
    for Placed { sector, file } in files {
        let (mut system_use, name) = match naming {
            Naming::RockRidge => (Vec::new(), file.plain.clone()),
            Naming::Joliet => (Vec::new(), format!("{};1", file.source.name)),
        };
        if rock_ridge {
            posix_attributes(&mut system_use, 0o100_444, 1);
            // The name (IEEE P1282, 4.1.4).
            system_use.extend(b"NM");
            system_use.extend([small(5 + file.source.name.len()), 1, 0]);
            system_use.extend(file.source.name.bytes());
        }
        let bytes = length(file.source.content.len());
        records.push(record(&characters(naming, &name), *sector, bytes, false, &system_use));
    }
    let mut out: Vec<u8> = Vec::new();
    for record in records {
        if out.len() % SECTOR + record.len() > SECTOR {
            out.resize(out.len().next_multiple_of(SECTOR), 0);
        }
        out.extend(record);
    }
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    out
}

/// Mode and links (IEEE P1282, 4.1.1); owner and group are root's.
fn posix_attributes(out: &mut Vec<u8>, mode: u32, links: u32) {
    out.extend(b"PX\x24\x01");
    for number in [mode, links, 0, 0] {
        both32(out, number);
    }
}

/// Where the rest of a record is (IEEE P1281, 5.1).
fn continuation(out: &mut Vec<u8>) {
    out.extend(b"CE\x1c\x01");
    for number in [CONTINUATION, 0, length(extension_record().len())] {
        both32(out, number);
    }
}

/// That Rock Ridge is used, in the words that its specification fixes (IEEE P1282, 4.3; IEEE P1281, 5.5).
fn extension_record() -> Vec<u8> {
    const IDENTIFIER: &str = "RRIP_1991A";
    const DESCRIPTION: &str =
        "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
    const SOURCE: &str = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY \
                          VOLUME DESCRIPTOR FOR CONTACT INFORMATION.";
    let texts = [IDENTIFIER, DESCRIPTION, SOURCE];
    let total = 8 + texts.iter().map(|text| text.len()).sum::<usize>();
    let mut out = b"ER".to_vec();
    out.extend([small(total), 1]);
    out.extend(texts.map(|text| small(text.len())));
    out.push(1);
    for text in texts {
        out.extend(text.bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> IsoFile {
        IsoFile { name: name.to_owned(), content: content.to_vec() }
    }

    #[test]
    fn a_volume_is_whole_sectors_with_descriptors_where_they_have_to_be() {
        let volume = volume("cidata", &[file("meta-data", b"a"), file("user-data", &[7; 5000])]).unwrap();
        assert!(volume.len().is_multiple_of(SECTOR));
        for (sector, kind) in [(16, 1), (17, 2), (18, 255)] {
            let at = sector * SECTOR;
            assert_eq!((volume[at], &volume[at + 1..at + 6]), (kind, &b"CD001"[..]));
        }
        let primary = &volume[16 * SECTOR..17 * SECTOR];
        assert_eq!(&primary[40..46], b"cidata");
        let told = u32::from_le_bytes(primary[80..84].try_into().unwrap());
        assert_eq!(told as usize * SECTOR, volume.len());
        assert_eq!(primary[881], 1);
        assert_eq!(
            volume,
            super::volume("cidata", &[file("user-data", &[7; 5000]), file("meta-data", b"a")]).unwrap()
        );
    }

    #[test]
    fn many_files_never_have_a_record_across_two_sectors() {
        let files: Vec<IsoFile> =
            (0..MOST_FILES).map(|number| file(&format!("{number:060}"), &[1])).collect();
        let volume = volume("many", &files).unwrap();
        let root = DIRECTORIES as usize * SECTOR;
        let sectors = u32::from_le_bytes(volume[root + 10..root + 14].try_into().unwrap()) as usize / SECTOR;
        assert!(sectors > 1);
        let mut found = 0;
        for sector in volume[root..root + sectors * SECTOR].chunks(SECTOR) {
            let mut at = 0;
            while at < SECTOR && sector[at] != 0 {
                at += usize::from(sector[at]);
                found += 1;
            }
            assert!(at <= SECTOR);
        }
        assert_eq!(found, 2 + MOST_FILES);
    }

    #[test]
    fn what_can_not_be_written_down_is_refused() {
        assert_eq!(volume("", &[]), Err(IsoError::Label(String::new())));
        assert!(matches!(volume("a b", &[]), Err(IsoError::Label(_))));
        for name in ["", ".", "..", "a/b", "é", &"x".repeat(61)] {
            assert_eq!(volume("l", &[file(name, b"")]), Err(IsoError::Name(name.to_owned())), "{name}");
        }
        assert_eq!(volume("l", &[file("a", b""), file("a", b"b")]), Err(IsoError::Twice("a".to_owned())));
        let large = file("a", &vec![0; MOST_BYTES + 1]);
        assert_eq!(volume("l", &[large]), Err(IsoError::TooLarge));
    }
}
