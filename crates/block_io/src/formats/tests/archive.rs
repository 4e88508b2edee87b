//! Disks inside OVA archives.

use super::*;

const OVF: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:id="f1" ovf:href="one.vmdk"/><File ovf:id="f2" ovf:href="two.vmdk"/></References>
<DiskSection><Info/>
<Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
<Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
</DiskSection></Envelope>"#;

/// A ustar header.
pub(super) fn header(name: &str, bytes: usize, kind: u8) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{bytes:011o}").as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

fn member(name: &str, content: &[u8], kind: u8) -> Vec<u8> {
    let mut member = header(name, content.len(), kind);
    member.extend(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

/// An archive with two disks, and what they hold.
pub(super) fn archive() -> Option<(Vec<u8>, [Vec<u8>; 2])> {
    let contents = [content(2 * MIB, 5), content(3 * MIB, 6)];
    let mut archive = member("machine.ovf", OVF.as_bytes(), b'0');
    for (name, content) in ["one.vmdk", "two.vmdk"].into_iter().zip(&contents) {
        let (_directory, path) = make("vmdk", "subformat=streamOptimized", content)?;
        archive.extend(member(name, &std::fs::read(path).unwrap(), b'0'));
    }
    archive.extend([0; 1024]);
    Some((archive, contents))
}

#[test]
fn disks_in_an_archive_are_read_in_place() {
    let Some((bytes, contents)) = archive() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine.ova");
    std::fs::write(&path, bytes).unwrap();
    let disks = FormatDisk::list_ova(&path).unwrap();
    let names: Vec<_> = disks.iter().map(|disk| (disk.id.as_str(), disk.file.as_str())).collect();
    assert_eq!(names, [("d1", "one.vmdk"), ("d2", "two.vmdk")]);
    for (wanted, expected) in [("d1", 0), ("two.vmdk", 1), ("d2", 1)] {
        let disk = FormatDisk::open_ova(&path, Some(wanted), &FormatOptions::default()).unwrap();
        assert!(
            disk::read_through_queue(&disk, crate::EngineChoice::Automatic) == contents[expected],
            "{wanted}"
        );
    }
    let error = FormatDisk::open(&path, Format::Ova, &allowed()).unwrap_err().to_string();
    assert!(error.contains("choose one of d1, d2"), "{error}");
    let error = FormatDisk::open_ova(&path, Some("d3"), &allowed()).unwrap_err().to_string();
    assert!(error.contains("disk d3 is not in the archive"), "{error}");
}

#[test]
fn names_and_sizes_may_come_from_extensions() {
    let long = format!("{}/one.vmdk", "x".repeat(120));
    let ovf = OVF
        .replace("\"one.vmdk\"", &format!("\"{long}\""))
        .replace("<Disk ovf:diskId=\"d2\" ovf:fileRef=\"f2\"", "<Disk");
    let content = content(MIB, 5);
    let Some((_directory, path)) = make("vmdk", "subformat=streamOptimized", &content) else { return };
    let vmdk = std::fs::read(path).unwrap();
    let pax = format!(
        "{} path={long}\n{:>2} size={}\n",
        long.len() + 10,
        16 + vmdk.len().to_string().len() - 7,
        vmdk.len()
    );
    let pax_length = long.len() + 10;
    assert_eq!(pax.as_bytes()[pax_length - 1], b'\n', "the record's length counts itself");
    for extension in
        [member("PaxHeader", pax.as_bytes(), b'x'), member("././@LongLink", long.as_bytes(), b'L')]
    {
        let mut archive = member("m.ovf", ovf.as_bytes(), b'0');
        archive.extend(member("dir/", &[], b'5'));
        archive.extend(extension);
        archive.extend(member("short", &vmdk, b'0'));
        archive.extend([0; 1024]);
        let archive: SharedSource = Arc::new(archive);
        let image = open_in_memory(Format::Vmdk, ova_disk(&archive, None).unwrap()).unwrap();
        assert!(read_all(&image).unwrap() == content);
    }
}

#[test]
fn archives_that_lead_astray_are_refused() {
    let Some((bytes, _)) = archive() else { return };
    let refusal = |archive: Vec<u8>| {
        let archive: SharedSource = Arc::new(archive);
        let error = ova_disk(&archive, Some("d1")).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    assert!(refusal(vec![0; 4096]).contains(".ovf"));
    assert!(refusal(vec![1; 4096]).contains("ustar"));
    assert!(refusal(Vec::new()).contains("tar header"));
    let mut damaged = bytes.clone();
    damaged[0] = b'M';
    assert!(refusal(damaged).contains("checksum"));
    let text = [member("m.ovf", OVF.as_bytes(), b'0'), vec![0; 1024]].concat();
    assert!(refusal(text).contains("one.vmdk"), "the file is missing");
    let huge = [header("m.ovf", 8 * 1024 * 1024 * 1024 - 1, b'0'), vec![0; 1024]].concat();
    assert!(refusal(huge).contains("more than the archive has"));
    let many = header("empty", 0, b'0').repeat(5000);
    assert!(refusal(many).contains("the number of tar members"));
    let linked = [member("m.ovf", OVF.as_bytes(), b'0'), header("one.vmdk", 0, b'2'), vec![0; 1024]].concat();
    assert!(refusal(linked).contains("one.vmdk"), "a link is no file");
    let cut = bytes[..bytes.len() / 2].to_vec();
    assert!(refusal(cut).contains("more than the archive has"));
}
