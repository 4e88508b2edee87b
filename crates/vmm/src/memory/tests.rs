use super::*;
use crate::layout::{HIGH_RAM_START, LOW_RAM_LIMIT};

const MIB: u64 = 1 << 20;

fn spec(bytes: u64, backing: MemoryBacking) -> MemorySpec {
    MemorySpec { bytes, backing, transparent_hugepages: false, mergeable: false, prefault: false }
}

fn layout(bytes: u64) -> MemoryLayout {
    MemoryLayout::new(bytes, 46).unwrap()
}

/// A line of /proc/self/smaps about the host mapping of the first region. The host joins neighbouring mappings with the
/// same flags, also those of tests that run at the same time, so only what they have in common may be asked for.
fn smaps(memory: &GuestMemoryMmap<()>, key: &str) -> String {
    let start = memory.iter().next().unwrap().as_ptr().addr();
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let has_start = |line: &str| {
        let range = line.split(' ').next()?.split_once('-')?;
        let bound = |text| usize::from_str_radix(text, 16).ok();
        Some((bound(range.0)?..bound(range.1)?).contains(&start))
    };
    maps.lines()
        .skip_while(|line| has_start(line) != Some(true))
        .find_map(|line| line.strip_prefix(key))
        .unwrap()
        .trim()
        .to_owned()
}

/// How many pages of the regions the host has given (Linux `Documentation/admin-guide/mm/pagemap.rst`, bits 63 and 62).
fn resident_pages(memory: &GuestMemoryMmap<()>) -> usize {
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let mut resident = 0;
    for region in memory.iter() {
        let mut entries = vec![0; region.size() / 4096 * 8];
        let offset = region.as_ptr().addr() as u64 / 4096 * 8;
        std::os::unix::fs::FileExt::read_exact_at(&pagemap, &mut entries, offset).unwrap();
        resident += entries.chunks(8).filter(|entry| entry[7] & 0xc0 != 0).count();
    }
    resident
}

fn has_flag(memory: &GuestMemoryMmap<()>, flag: &str) -> bool {
    smaps(memory, "VmFlags:").split(' ').any(|word| word == flag)
}

#[test]
fn every_range_is_one_mapping_aligned_for_large_pages_and_costs_nothing_untouched() {
    for backing in [MemoryBacking::Anonymous, MemoryBacking::Shared] {
        let bytes = LOW_RAM_LIMIT + 6 * MIB;
        let memory = build(&spec(bytes, backing), &layout(bytes)).unwrap();
        let regions: Vec<_> = memory.iter().map(|region| (region.start_addr().0, region.len())).collect();
        assert_eq!(regions, [(0, LOW_RAM_LIMIT), (HIGH_RAM_START, 6 * MIB)]);
        assert!(memory.iter().all(|region| is_aligned(region)));
        assert_eq!(resident_pages(&memory), 0);
        assert!(has_flag(&memory, "dd"), "guest memory would be in core dumps");
    }
}

#[test]
fn a_hole_between_pads_is_where_the_next_mapping_lands() {
    let length = 3 * ALIGNMENT;
    let pads = Pads::around_aligned_hole(length).unwrap();
    let (head, head_length) = pads.parts[0];
    let hole = head.wrapping_byte_add(head_length);
    assert!(hole.addr().is_multiple_of(ALIGNMENT));
    assert_eq!(hole.wrapping_byte_add(length), pads.parts[1].0);
    assert!(pads.parts.iter().all(|(_, length)| *length > 0));
}

#[test]
fn shared_memory_is_one_sealed_file_that_every_region_maps_in_order() {
    let bytes = LOW_RAM_LIMIT + 6 * MIB;
    let memory = build(&spec(bytes, MemoryBacking::Shared), &layout(bytes)).unwrap();
    memory.write_obj(0x55aa_u16, GuestAddress(HIGH_RAM_START)).unwrap();
    let offsets: Vec<_> = memory.iter().map(|region| region.file_offset().unwrap().start()).collect();
    assert_eq!(offsets, [0, LOW_RAM_LIMIT]);
    let file = memory.iter().next().unwrap().file_offset().unwrap().arc().clone();
    let mut word = [0; 2];
    std::os::unix::fs::FileExt::read_exact_at(&*file, &mut word, LOW_RAM_LIMIT).unwrap();
    assert_eq!(u16::from_le_bytes(word), 0x55aa);
    assert_eq!(file.set_len(0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn advice_reaches_the_host() {
    let mut wanted = spec(64 * MIB, MemoryBacking::Anonymous);
    wanted.transparent_hugepages = true;
    let memory = build(&wanted, &layout(64 * MIB)).unwrap();
    assert!(has_flag(&memory, "hg"));
    wanted.transparent_hugepages = false;
    wanted.prefault = true;
    let memory = build(&wanted, &layout(64 * MIB)).unwrap();
    assert!(!has_flag(&memory, "hg"));
    assert_eq!(resident_pages(&memory), 16384);
}

#[test]
fn only_private_normal_pages_are_mergeable() {
    let mut wanted = spec(64 * MIB, MemoryBacking::Shared);
    wanted.mergeable = true;
    assert!(matches!(build(&wanted, &layout(64 * MIB)), Err(MemoryError::NotMergeable)));
    wanted.backing = MemoryBacking::Anonymous;
    if !Path::new("/sys/kernel/mm/ksm").exists() {
        eprintln!("skipped: this kernel has no KSM");
        return;
    }
    assert!(has_flag(&build(&wanted, &layout(64 * MIB)).unwrap(), "mg"));
}

#[test]
fn more_memory_than_the_host_has_is_refused_with_numbers() {
    let bytes = 16 << 40;
    let error = build(&spec(bytes, MemoryBacking::Anonymous), &layout(bytes)).unwrap_err();
    assert!(error.to_string().starts_with("guest memory of 16777216 MiB is more than the "), "{error}");
}

#[test]
fn a_layout_of_another_size_is_refused() {
    let error = build(&spec(64 * MIB, MemoryBacking::Anonymous), &layout(128 * MIB)).unwrap_err();
    assert!(matches!(error, MemoryError::LayoutMismatch { .. }));
}

/// A folder that looks like /sys/kernel/mm/hugepages.
fn pools(free: u64, promised: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pool = folder.path().join("hugepages-2048kB");
    fs::create_dir(&pool).unwrap();
    let numbers = [
        ("nr_hugepages", 40),
        ("free_hugepages", free),
        ("resv_hugepages", promised),
        ("nr_overcommit_hugepages", 0),
        ("surplus_hugepages", 0),
    ];
    for (name, number) in numbers {
        fs::write(pool.join(name), format!("{number}\n")).unwrap();
    }
    folder
}

#[test]
fn huge_pages_must_exist_be_free_and_divide_the_guest() {
    let layout = layout(64 * MIB);
    let folder = pools(34, 2);
    check_huge_pages(folder.path(), &layout, 2 * MIB).unwrap();
    let error = check_huge_pages(folder.path(), &layout, 1 << 30).unwrap_err();
    assert_eq!(error.to_string(), "this host has no huge pages of 1048576 KiB: it has 2048 KiB");
    let error = check_huge_pages(folder.path(), &layout, 3 * MIB).unwrap_err();
    assert!(matches!(error, MemoryError::NoSuchHugePage { .. }));
    fs::create_dir(folder.path().join("hugepages-1048576kB")).unwrap();
    let error = check_huge_pages(folder.path(), &layout, 1 << 30).unwrap_err();
    assert!(matches!(error, MemoryError::NotWholeHugePages { .. }));

    let folder = pools(33, 2);
    let error = check_huge_pages(folder.path(), &layout, 2 * MIB).unwrap_err();
    let advice = format!("`echo 41 > {}/hugepages-2048kB/nr_hugepages`", folder.path().display());
    assert!(error.to_string().starts_with("guest memory needs 32 huge pages of 2048 KiB and 31 are free"));
    assert!(error.to_string().ends_with(&advice), "{error}");
}

#[test]
fn huge_pages_of_this_host_back_a_guest() {
    let layout = layout(64 * MIB);
    if let Err(error) = check_huge_pages(Path::new("/sys/kernel/mm/hugepages"), &layout, 2 * MIB) {
        eprintln!("skipped: {error}");
        return;
    }
    for shared in [false, true] {
        let backing = MemoryBacking::HugePages { page_bytes: 2 * MIB, shared };
        let memory = build(&spec(64 * MIB, backing), &layout).unwrap();
        memory.write_obj(1_u8, GuestAddress(64 * MIB - 1)).unwrap();
        assert_eq!(smaps(&memory, "KernelPageSize:"), "2048 kB");
    }
}

#[test]
fn zeroing_clears_exactly_its_range() {
    for backing in [MemoryBacking::Anonymous, MemoryBacking::Shared] {
        let memory = build(&spec(64 * MIB, backing), &layout(64 * MIB)).unwrap();
        for (start, length) in [(0x1234, 1), (0x1000, 0x1000), (0x1ff0, 0x2020), (0x1001, 0xffe), (0x5000, 0)]
        {
            memory.write_slice(&[0xee; 0x8000], GuestAddress(0)).unwrap();
            zero(&memory, GuestAddress(start), length).unwrap();
            let mut bytes = [0; 0x8000];
            memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
            for (address, byte) in (0u64..).zip(bytes) {
                let inside = (start..start + length).contains(&address);
                assert_eq!(byte, if inside { 0 } else { 0xee }, "{start:#x}+{length:#x} at {address:#x}");
            }
        }
    }
}

#[test]
fn zeroing_untouched_memory_takes_none_from_the_host() {
    let memory = build(&spec(64 * MIB, MemoryBacking::Anonymous), &layout(64 * MIB)).unwrap();
    zero(&memory, GuestAddress(4096), 32 * MIB).unwrap();
    assert_eq!(resident_pages(&memory), 0);
}

#[test]
fn zeroing_outside_of_memory_is_an_error() {
    let memory = build(&spec(64 * MIB, MemoryBacking::Anonymous), &layout(64 * MIB)).unwrap();
    assert!(zero(&memory, GuestAddress(64 * MIB - 4096), 8192).is_err());
    assert!(zero(&memory, GuestAddress(u64::MAX - 4096), u64::MAX).is_err());
}

#[test]
fn populating_takes_exactly_the_pages_that_are_asked_for() {
    let memory = build(&spec(64 * MIB, MemoryBacking::Anonymous), &layout(64 * MIB)).unwrap();
    populate(&memory, GuestAddress(0x1800), 0x1000);
    // Two pages, or the huge page around them where the host prefers those.
    assert!((2..=512).contains(&resident_pages(&memory)));
    populate(&memory, GuestAddress(u64::MAX), u64::MAX);
}
