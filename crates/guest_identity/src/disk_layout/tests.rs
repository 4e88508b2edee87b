use proptest::prelude::*;

use super::*;

/// A disk in memory that counts how much is read of it.
struct Memory {
    content: Vec<u8>,
    read: std::cell::Cell<u64>,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        Self { content: vec![0; bytes], read: 0.into() }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.content[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn ext(&mut self, at: usize, blocks: u32) -> &mut Self {
        self.put(at + 1024 + 4, &blocks.to_le_bytes()).put(at + 1024 + 0x38, &[0x53, 0xef])
    }

    /// An entry of the boot record at `at`, in sectors.
    fn entry(&mut self, at: usize, place: usize, kind: u8, first: u32, sectors: u32) -> &mut Self {
        let entry = at + 446 + 16 * place;
        self.put(entry + 4, &[kind])
            .put(entry + 8, &first.to_le_bytes())
            .put(entry + 12, &sectors.to_le_bytes());
        self.put(at + 510, &[0x55, 0xaa])
    }

    /// A GPT header at sector `own` with its table at sector `table`.
    fn guid(&mut self, own: u64, table: u64, partitions: &[(u64, u64)]) -> &mut Self {
        let mut entries = vec![0; 128 * 128];
        for (place, (first, last)) in partitions.iter().enumerate() {
            let entry = &mut entries[place * 128..];
            entry[..16].fill(7);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12] = 92;
        header[24..32].copy_from_slice(&own.to_le_bytes());
        header[72..80].copy_from_slice(&table.to_le_bytes());
        header[80] = 128;
        header[84] = 128;
        header[88..92].copy_from_slice(&checksum(&entries).to_le_bytes());
        let sum = checksum(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        self.put(usize::try_from(table).unwrap() * 512, &entries)
            .put(usize::try_from(own).unwrap() * 512, &header)
    }
}

impl ReadDisk for Memory {
    fn bytes(&self) -> u64 {
        self.content.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(512) && buffer.len().is_multiple_of(512));
        let at = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.content[at..at + buffer.len()]);
        self.read.set(self.read.get() + buffer.len() as u64);
        Ok(())
    }
}

fn found(disk: &Memory) -> Vec<(u32, u64, u64, Content)> {
    let partitions = survey(disk).unwrap();
    partitions.into_iter().map(|one| (one.number, one.start, one.bytes, one.content)).collect()
}

#[test]
fn the_checksum_is_that_of_the_specification() {
    assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_disk_without_a_table_is_its_own_file_system() {
    let mut disk = Memory::new(1 << 20);
    assert_eq!(found(&disk), [(0, 0, 1 << 20, Content::Other)]);
    disk.ext(0, 1000);
    assert_eq!(found(&disk), [(0, 0, 1 << 20, Content::Ext { bytes: 1000 << 10 })]);
    // Larger than the disk: none of ours.
    disk.ext(0, 1025);
    assert_eq!(found(&disk)[0].3, Content::Other);
    for (place, magic, content) in [
        (0, &b"XFSB"[..], Content::Xfs),
        (0, b"LUKS\xba\xbe", Content::Luks),
        (0x10040, b"_BHRfS_M", Content::Btrfs),
    ] {
        assert_eq!(found(Memory::new(1 << 20).put(place, magic))[0].3, content);
    }
    let mut disk = Memory::new(1 << 20);
    assert_eq!(found(disk.put(512, b"LABELONE").put(536, b"LVM2 001"))[0].3, Content::Lvm);
}

#[test]
fn partitions_of_a_boot_record_are_found_logical_ones_too() {
    let mut disk = Memory::new(4 << 20);
    disk.entry(0, 0, 0x83, 8, 1000).entry(0, 2, 0x05, 2000, 4000).ext(4096, 100);
    // Two links: each record has its partition relative to itself, and the next record relative to the first.
    disk.entry(2000 * 512, 0, 0x83, 8, 500).entry(2000 * 512, 1, 0x05, 1000, 1000);
    disk.entry(3000 * 512, 0, 0x83, 16, 100).put(3016 * 512, b"XFSB");
    assert_eq!(
        found(&disk),
        [
            (1, 4096, 512_000, Content::Ext { bytes: 100 << 10 }),
            (5, 2008 * 512, 256_000, Content::Other),
            (6, 3016 * 512, 51_200, Content::Xfs),
        ]
    );
}

#[test]
fn a_chain_that_leads_back_ends() {
    let mut disk = Memory::new(4 << 20);
    disk.entry(0, 0, 0x05, 100, 4000).entry(100 * 512, 0, 0x83, 8, 8).entry(100 * 512, 1, 0x05, 0, 1000);
    assert_eq!(found(&disk).len(), 1);
    disk.entry(100 * 512, 1, 0x05, 50, 1000).entry(150 * 512, 1, 0x05, 50, 1000);
    assert_eq!(found(&disk).len(), 1);
}

#[test]
fn a_guid_table_is_found_and_its_copy_when_the_first_is_broken() {
    let mut disk = Memory::new(4 << 20);
    let last = (4 << 20) / 512 - 1;
    disk.entry(0, 0, 0xee, 1, u32::MAX)
        .guid(1, 2, &[(64, 127), (128, 1 << 40), (256, 1255)])
        .ext(256 * 512, 500);
    disk.guid(last, last - 32, &[(64, 127)]);
    assert_eq!(
        found(&disk),
        [(1, 64 * 512, 64 * 512, Content::Other), (3, 256 * 512, 512_000, Content::Ext { bytes: 500 << 10 })],
        "what ends beyond the disk is no partition"
    );
    // One bit of the table.
    disk.content[1024] ^= 1;
    assert_eq!(found(&disk), [(1, 64 * 512, 64 * 512, Content::Other)]);
}

#[test]
fn a_journal_on_its_own_is_no_file_system() {
    let mut disk = Memory::new(1 << 20);
    disk.ext(0, 1000).put(1024 + 0x60, &[8]);
    assert_eq!(found(&disk)[0].3, Content::Other);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever a disk says, reading it ends soon, and what is found lies on it.
    #[test]
    fn no_disk_makes_it_panic_or_read_without_end(
        sectors in 0usize..64,
        writes in prop::collection::vec((0usize..64, 0usize..512, prop::collection::vec(any::<u8>(), 1..32)), 0..24),
        signatures in prop::collection::vec((0usize..64, 0u8..3), 0..24),
        fix in any::<bool>(),
    ) {
        let mut disk = Memory::new(sectors * 512);
        let end = disk.content.len();
        for (sector, at, bytes) in writes {
            for (byte, place) in bytes.iter().zip(sector * 512 + at..end) {
                disk.content[place] = *byte;
            }
        }
        for (sector, kind) in signatures {
            let at = sector * 512;
            if at + 512 > end {
                continue;
            }
            match kind {
                0 => { disk.put(at + 510, &[0x55, 0xaa]); }
                1 => { disk.put(at, b"EFI PART").put(at + 12, &[92, 0, 0, 0]).put(at + 80, &[128, 0, 0, 0, 128, 0, 0, 0]); }
                _ => { disk.put(at + 446, &[0x80]).put(at + 450, &[5]); }
            }
        }
        if fix && end > 1024 {
            disk.content[536..544].copy_from_slice(&1_u64.to_le_bytes());
            disk.content[528..532].fill(0);
            let sum = checksum(&disk.content[512..604]);
            disk.put(528, &sum.to_le_bytes());
        }
        let partitions = survey(&disk).unwrap();
        prop_assert!(!partitions.is_empty() && partitions.len() <= MOST_PARTITIONS);
        for one in &partitions {
            prop_assert!(one.start + one.bytes <= disk.bytes());
            if let Content::Ext { bytes } = one.content {
                prop_assert!(bytes <= one.bytes);
            }
        }
        prop_assert!(disk.read.get() <= 5 << 20, "{} bytes were read", disk.read.get());
    }

    /// Only the boot record, as a fuzzer would have it.
    #[test]
    fn any_boot_record_is_taken_or_not(content in prop::collection::vec(any::<u8>(), 512..513)) {
        let mut disk = Memory::new(64 << 10);
        disk.put(0, &content).put(510, &[0x55, 0xaa]);
        for place in 0..4 {
            disk.content[446 + 16 * place] = 0;
        }
        for one in survey(&disk).unwrap() {
            prop_assert!(one.start + one.bytes <= disk.bytes());
        }
    }
}
