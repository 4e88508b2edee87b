//! Which files a descriptor may make us open.

use super::*;

fn descriptor(directory: &Path, lines: &str) -> PathBuf {
    let path = directory.join("image.vmdk");
    let text =
        format!("# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n{lines}\n");
    std::fs::write(&path, text).unwrap();
    path
}

fn refusal(path: &Path, options: &FormatOptions) -> String {
    let error = FormatDisk::open(path, Format::Vmdk, options).unwrap_err().to_string();
    assert!(!error.contains('\n') && error.contains(text(path)), "{error}");
    error
}

#[test]
fn a_flat_extent_of_esxi_is_read_at_its_offset() {
    let directory = tempfile::tempdir().unwrap();
    let path = descriptor(
        directory.path(),
        "RW 4 ZERO\nRW 2 VMFS \"image-flat.vmdk\" 1\nRW 1 VMFS \"image-flat.vmdk\" 0",
    );
    std::fs::write(directory.path().join("image-flat.vmdk"), [[1; 512], [2; 512], [3; 512]].concat())
        .unwrap();
    let disk = FormatDisk::open(&path, Format::Vmdk, &allowed()).unwrap();
    let expected = [[0; 512], [0; 512], [0; 512], [0; 512], [2; 512], [3; 512], [1; 512]].concat();
    assert_eq!(disk::read_range(&disk, 0, 7 * 512), expected);
}

#[test]
fn no_file_but_the_one_named_is_opened_unless_that_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let path = descriptor(directory.path(), "RW 1 FLAT \"data\" 0");
    std::fs::write(directory.path().join("data"), [1; 512]).unwrap();
    assert!(refusal(&path, &FormatOptions::default()).contains("not allowed"));
    FormatDisk::open(&path, Format::Vmdk, &allowed()).unwrap();
}

#[test]
fn links_directories_and_paths_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), [1; 512]).unwrap();
    std::os::unix::fs::symlink(secret.path(), directory.path().join("link")).unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, directory.path().join("fifo"), rustix::fs::FileType::Fifo, mode, 0)
        .unwrap();
    for (name, message) in [
        ("link", "symbolic link"),
        ("sub", "directory"),
        ("fifo", "FIFO"),
        ("nothing", "No such file"),
        ("../image.vmdk", "plain name"),
        (text(secret.path()), "plain name"),
        ("/dev/zero", "plain name"),
        ("nbd:localhost:10809", "plain name"),
        ("json:{\\\"driver\\\":\\\"file\\\"}", "plain name"),
    ] {
        let path = descriptor(directory.path(), &format!("RW 1 FLAT \"{name}\" 0"));
        let error = refusal(&path, &allowed());
        assert!(error.contains(message), "{name}: {error}");
    }
}

#[test]
fn a_descriptor_is_no_extent_so_that_nothing_goes_in_circles() {
    let directory = tempfile::tempdir().unwrap();
    let path = descriptor(directory.path(), "RW 1 SPARSE \"image.vmdk\"");
    assert!(refusal(&path, &allowed()).contains("KDMV"));
}

#[test]
fn an_extent_that_is_shorter_than_its_line_says_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("data"), [1; 1024]).unwrap();
    for line in [
        "RW 3 FLAT \"data\" 0",
        "RW 2 FLAT \"data\" 1",
        "RW 1 FLAT \"data\" 36028797018963968",
        "RW 36028797018963968 FLAT \"data\" 0",
        "RW 18446744073709551615 FLAT \"data\" 18446744073709551615",
        "RW 0 FLAT \"data\" 0",
    ] {
        let path = descriptor(directory.path(), line);
        assert!(refusal(&path, &allowed()).contains("the size of an extent is"), "{line}");
    }
    let path = descriptor(directory.path(), "RW 36028797018963967 ZERO\nRW 36028797018963967 ZERO");
    assert!(refusal(&path, &allowed()).contains("size"));
}
