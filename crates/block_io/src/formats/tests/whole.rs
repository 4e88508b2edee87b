//! Images as they should be.

use super::*;

#[test]
fn every_kind_reads_as_what_it_was_made_from() {
    for (number, (kind, options, format)) in KINDS.into_iter().enumerate() {
        let content = content(9 * MIB + 512 * 5, number as u64);
        let Some((directory, path)) = make(kind, options, &content) else { return };
        let mut opener = |name: &str| -> std::io::Result<SharedSource> {
            Ok(Arc::new(std::fs::read(directory.path().join(name))?))
        };
        let source: SharedSource = Arc::new(std::fs::read(&path).unwrap());
        let image = Image::open(format, source, &mut opener).unwrap();
        let read = read_all(&image).unwrap();
        assert!(read.len() >= content.len(), "{kind} {options}");
        assert!(read[..content.len()] == content, "{kind} {options}");
        assert!(read[content.len()..].iter().all(|byte| *byte == 0), "{kind} {options}");
        // Pieces at odd places.
        for (offset, length) in
            [(1, 511), (65535, 2), (MIB - 1, 2), (3 * MIB + 7, 70_000), (content.len() - 1, 1)]
        {
            let mut buffer = vec![0xee; length];
            image.read_at(&mut buffer, offset as u64).unwrap();
            assert!(buffer == content[offset..offset + length], "{kind} {options} at {offset}");
        }
    }
}

#[test]
fn what_qemu_io_writes_is_read() {
    for (kind, options, format) in KINDS {
        if options.contains("streamOptimized") {
            // Can't be written to after it was made.
            continue;
        }
        let Some((directory, path)) = make(kind, options, &content(5 * MIB, 3)) else { return };
        let writes = [
            "write -P 0x11 0 512",
            "write -P 0x22 1000k 200k",
            "write -P 0x33 3071k 2k",
            "write -z 2000k 300k",
            "write -P 0x44 5119k 1k",
            "write -P 0x55 65024 1024",
        ];
        let mut arguments = vec!["-f", kind];
        for write in writes {
            arguments.extend(["-c", write]);
        }
        arguments.push(text(&path));
        let raw = directory.path().join("after");
        if !run("qemu-io", &arguments)
            || !run("qemu-img", &["convert", "-f", kind, "-O", "raw", text(&path), text(&raw)])
        {
            return;
        }
        let disk = FormatDisk::open(&path, format, &allowed()).unwrap();
        let read = disk::read_through_queue(&disk, crate::EngineChoice::Automatic);
        assert!(read == std::fs::read(&raw).unwrap(), "{kind} {options}");
        assert_eq!(read[3071 << 10], 0x33);
    }
}

#[test]
fn what_is_not_stored_is_known_to_be_zeroes() {
    for Small { format, name, bytes, content } in small_images() {
        let image = open_in_memory(format, bytes).unwrap();
        let (mut offset, mut stored_bytes) = (0u64, 0);
        while offset < image.capacity() {
            let (stored, run) = image.stored(offset, image.capacity() - offset).unwrap();
            let start = usize::try_from(offset).unwrap();
            let part = &content[start..start + usize::try_from(run).unwrap()];
            assert!(stored || part.iter().all(|byte| *byte == 0), "{name} at {offset}+{run}");
            stored_bytes += if stored { part.len() } else { 0 };
            offset += run;
        }
        assert!(stored_bytes >= MIB, "{name}");
        assert!(image.stored(image.capacity(), 1).is_err() && image.stored(0, 0).is_err());
        if format == Format::Vmdk {
            assert!(stored_bytes < content.len(), "{name} stores zeroes");
        }
    }
}

#[test]
fn extents_beyond_two_gibibytes_are_found() {
    const SIZE: &str = "4500M";
    for options in
        ["subformat=twoGbMaxExtentSparse", "subformat=twoGbMaxExtentFlat", "subformat=monolithicSparse"]
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.vmdk");
        // Around both ends of an extent (2047 MiB each), and the last sector.
        let writes = [
            "write -P 1 2047M 64k",
            "write -P 2 2096127k 1k",
            "write -P 3 4094M 512",
            "write -P 4 4607999k 1k",
        ];
        let mut arguments = vec!["-f", "vmdk"];
        for write in writes {
            arguments.extend(["-c", write]);
        }
        arguments.push(text(&path));
        if !run("qemu-img", &["create", "-f", "vmdk", "-o", options, text(&path), SIZE])
            || !run("qemu-io", &arguments)
        {
            return;
        }
        let disk = FormatDisk::open(&path, Format::Vmdk, &allowed()).unwrap();
        assert_eq!(crate::BlockBackend::capacity(&disk), 4500 << 20);
        let expected = [
            (2047u64 << 20, 65536, 1),
            (2_096_127 << 10, 1024, 2),
            (4094 << 20, 512, 3),
            (4_607_999 << 10, 1024, 4),
            ((2047 << 20) + 65536, 4096, 0),
            (0, 4096, 0),
        ];
        for (offset, length, value) in expected {
            let read = disk::read_range(&disk, offset, length);
            assert!(read.iter().all(|byte| *byte == value), "{options} at {offset}");
        }
        let across = disk::read_range(&disk, (2047 << 20) - 1024, 2048);
        assert!(across[..1024].iter().all(|byte| *byte == 2) && across[1024..].iter().all(|byte| *byte == 1));
    }
}

#[test]
fn blocks_behind_a_sector_bitmap_block_are_found() {
    // With blocks of 1 MiB and sectors of 512 bytes every 4096 entries are followed by one of a bitmap.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.vhdx");
    let options = "subformat=dynamic,block_size=1M";
    let writes = ["write -P 1 4095M 64k", "write -P 2 4096M 64k", "write -P 3 8255M 64k"];
    let mut arguments = vec!["-f", "vhdx"];
    for write in writes {
        arguments.extend(["-c", write]);
    }
    arguments.push(text(&path));
    if !run("qemu-img", &["create", "-f", "vhdx", "-o", options, text(&path), "8256M"])
        || !run("qemu-io", &arguments)
    {
        return;
    }
    let disk = FormatDisk::open(&path, Format::Vhdx, &allowed()).unwrap();
    for (mebibyte, value) in [(0u64, 0), (4095, 1), (4096, 2), (4097, 0), (8255, 3)] {
        let read = disk::read_range(&disk, mebibyte << 20, 65536);
        assert!(read.iter().all(|byte| *byte == value), "at {mebibyte} MiB");
    }
}

#[test]
fn the_footer_of_a_streamed_image_counts() {
    let footer = small_images().into_iter().find(|image| image.name.contains("footer"));
    let Some(Small { bytes, content, .. }) = footer else { return };
    let image = open_in_memory(Format::Vmdk, Arc::clone(&bytes) as SharedSource).unwrap();
    assert!(read_all(&image).unwrap() == content);
    let cut = bytes[..bytes.len() - 512].to_vec();
    let error = open_in_memory(Format::Vmdk, Arc::new(cut)).unwrap_err().to_string();
    assert!(error.contains("the file is cut"), "{error}");
}

#[test]
fn sectors_that_a_vhd_bitmap_does_not_name_are_zeroes() {
    let content = vec![7; 4 * MIB];
    let Some((_directory, path)) = make("vpc", "subformat=dynamic,force_size=on", &content) else { return };
    let mut bytes = std::fs::read(&path).unwrap();
    let table = usize::try_from(u64::from_be_bytes(bytes[512 + 16..512 + 24].try_into().unwrap())).unwrap();
    let bitmap = u32::from_be_bytes(bytes[table..table + 4].try_into().unwrap()) as usize * 512;
    assert_eq!(bytes[bitmap..bitmap + 512], [0xff; 512]);
    // The most significant bit is the first sector.
    bytes[bitmap] = 0x9f;
    bytes[bitmap + 2] = 0;
    let mut expected = content;
    expected[512..3 * 512].fill(0);
    expected[16 * 512..24 * 512].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let disk = FormatDisk::open(&path, Format::Vhd, &allowed()).unwrap();
    for _ in 0..2 {
        assert!(disk::read_through_queue(&disk, crate::EngineChoice::Automatic) == expected);
    }
}

#[test]
fn a_damaged_footer_of_a_dynamic_vhd_is_replaced_by_its_copy() {
    for small in small_images().into_iter().filter(|image| image.format == Format::Vhd) {
        let mut bytes = small.bytes.to_vec();
        let length = bytes.len();
        bytes[length - 300] ^= 1;
        let image = open_in_memory(Format::Vhd, Arc::new(bytes.clone())).unwrap();
        assert!(read_all(&image).unwrap() == small.content, "{}", small.name);
        bytes[300] ^= 1;
        let error = open_in_memory(Format::Vhd, Arc::new(bytes)).unwrap_err().to_string();
        assert!(error.contains("the VHD footer") && error.contains("checksum"), "{error}");
    }
}

#[test]
fn sectors_of_4096_bytes_are_known() {
    let found = small_images().into_iter().find(|image| image.format == Format::Vhdx);
    let Some(Small { bytes, content, .. }) = found else {
        return;
    };
    let mut bytes = bytes.to_vec();
    // The item's GUID in the metadata table, then its offset within the region, which begins before it.
    let guid = 0x5fab_faa8_33f2_47ba_4709_a96f_8141_bf1d_u128.to_le_bytes();
    let place = bytes.windows(16).position(|window| window == guid).expect("a logical sector size");
    let table = bytes.windows(8).position(|window| window == b"metadata").unwrap();
    let item = table + u32::from_le_bytes(bytes[place + 16..place + 20].try_into().unwrap()) as usize;
    assert_eq!(bytes[item..item + 4], 512u32.to_le_bytes());
    bytes[item..item + 4].copy_from_slice(&4096u32.to_le_bytes());
    let image = open_in_memory(Format::Vhdx, Arc::new(bytes.clone())).unwrap();
    assert_eq!(image.sector_bytes(), 4096);
    // Below the first chunk's end the layout is the same.
    assert!(read_all(&image).unwrap() == content);
    bytes[item..item + 4].copy_from_slice(&1024u32.to_le_bytes());
    let error = open_in_memory(Format::Vhdx, Arc::new(bytes)).unwrap_err().to_string();
    assert_eq!(error, "LogicalSectorSize is 1024: must be 512 or 4096");
}

#[test]
fn formats_are_told_by_their_magic_numbers() {
    for (kind, options, format) in KINDS {
        let Some((_directory, path)) = make(kind, options, &content(MIB, 1)) else { return };
        let bytes = std::fs::read(&path).unwrap();
        let last = &bytes[bytes.len().saturating_sub(PROBE_BYTES)..];
        assert_eq!(probe(&bytes[..bytes.len().min(PROBE_BYTES)], last), Some(format), "{kind} {options}");
    }
    let Some((_directory, path)) = make("qcow2", "compat=1.1", &content(MIB, 1)) else { return };
    assert_eq!(probe(&std::fs::read(path).unwrap()[..PROBE_BYTES], &[]), Some(Format::Qcow2));
    assert_eq!(probe(&[0x55; 512], &[0xaa; 512]), None);
    for cut in 0..8 {
        assert_eq!(probe(&b"vhdxfile"[..cut], &b"conectix"[..cut]), None);
    }
}
