//! File systems in files, mounted by the pool: needs root and loop devices.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use host_storage::{BuildMode, CloneMethod, CloneMode, DeleteMode, ResizeOptions};

use super::*;

/// A pool of the type fs in a file of a directory of its own; stopped when dropped.
struct Mounted {
    directory: TempDir,
    storage: Storage,
    pool: Arc<Pool>,
}

impl Mounted {
    /// `None`, with a word why, where that is not possible.
    fn new(format: &str, bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut mounted = Self::defined(directory, format, bytes);
        if !is_root() {
            eprintln!("skipped: only root can mount {format}");
            return None;
        }
        if !Path::new(&format!("/usr/sbin/mkfs.{format}")).exists() {
            eprintln!("skipped: mkfs.{format} is not installed");
            return None;
        }
        mounted.storage.build(&mounted.pool, BuildMode::NoOverwrite).unwrap();
        let known = std::fs::read_to_string("/proc/filesystems").unwrap();
        match mounted.storage.start(&mounted.pool, None) {
            Ok(()) => Some(mounted),
            Err(error) if !known.contains(format) || !Path::new("/dev/loop-control").exists() => {
                eprintln!("skipped: this kernel can't mount {format} in a file: {error}");
                mounted.storage = Storage::new(StorageOptions::default());
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn defined(directory: TempDir, format: &str, bytes: u64) -> Self {
        let device = directory.path().join("device");
        std::fs::File::create(&device).unwrap().set_len(bytes).unwrap();
        let storage = Storage::new(StorageOptions::default());
        let definition = pool(&format!(
            "<pool type='fs'><name>{format}</name><source><device path='{}'/><format type='{format}'/></source>\
             <target><path>{}</path></target></pool>",
            device.display(),
            directory.path().join("mount").display()
        ));
        let pool = storage.define(definition).unwrap();
        Self { directory, storage, pool }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("mount").join(name)
    }

    fn create(&self, document: &str) -> Result<VolumeSummary, StorageError> {
        self.storage.create_volume(&self.pool, &volume(document), CreateOptions::default(), &mut go_on)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "lost+found").collect();
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.pool.is_active() {
            self.storage.stop(&self.pool).unwrap();
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

#[test]
fn a_file_system_is_made_once_mounted_and_unmounted() {
    let Some(host) = Mounted::new("ext4", 16 * MIB) else { return };
    let target = host.path("");
    let target = Path::new(target.to_str().unwrap().trim_end_matches('/'));
    assert!(is_mounted(target));
    let options = Command::new("findmnt").args(["-no", "OPTIONS"]).arg(target).output().unwrap();
    let options = String::from_utf8(options.stdout).unwrap();
    for option in ["nodev", "nosuid", "noexec"] {
        assert!(options.contains(option), "{options}");
    }
    assert!(host.pool.volumes().unwrap().is_empty(), "lost+found is no volume");
    host.create(&raw("v", MIB)).unwrap();
    // The next process finds it mounted, and uses it.
    let again = Storage::new(StorageOptions::default());
    let restored = again.restore(Some(host.pool.describe_inactive()), Some(host.pool.describe())).unwrap();
    assert_eq!(restored.volumes().unwrap().len(), 1);
    // Something that is open there keeps it from being stopped.
    let open = std::fs::File::open(host.path("v")).unwrap();
    let error = host.storage.stop(&host.pool).unwrap_err().to_string();
    assert!(error.contains("busy") && host.pool.is_active(), "{error}");
    drop(open);
    host.storage.stop(&host.pool).unwrap();
    assert!(!is_mounted(target));
    let error = host.storage.build(&host.pool, BuildMode::NoOverwrite).unwrap_err();
    assert!(matches!(error, StorageError::AlreadyBuilt(_)), "{error}");
    assert!(error.to_string().contains("ext4"), "{error}");
    host.storage.start(&host.pool, None).unwrap();
    assert_eq!(host.pool.volumes().unwrap().len(), 1);
    host.storage.stop(&host.pool).unwrap();
    host.storage.build(&host.pool, BuildMode::Overwrite).unwrap();
    host.storage.start(&host.pool, None).unwrap();
    assert!(host.pool.volumes().unwrap().is_empty());
}

#[test]
fn what_can_not_be_mounted_is_an_error_and_nothing_stays_mounted() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let host = Mounted::defined(directory, "ext4", MIB);
    host.storage.build(&host.pool, BuildMode::Plain).unwrap();
    let error = host.storage.start(&host.pool, None).unwrap_err();
    assert!(matches!(error, StorageError::ProgramFailed { .. }), "{error}");
    assert!(error.to_string().contains("mount -t ext4 -o nodev,nosuid,noexec,loop"), "{error}");
    assert!(!host.pool.is_active() && !is_mounted(&host.directory.path().join("mount")));
}

#[test]
fn another_file_system_in_the_pools_place_is_not_used() {
    let Some(host) = Mounted::new("ext4", 16 * MIB) else { return };
    host.storage.stop(&host.pool).unwrap();
    let target = host.directory.path().join("mount");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "other"]).arg(&target).status().unwrap();
    assert!(mounted.success());
    let result = host.storage.start(&host.pool, None);
    assert!(Command::new("umount").arg(&target).status().unwrap().success());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("other is mounted at"), "{message}");
}

#[test]
fn a_full_file_system_is_an_error_that_leaves_nothing_and_work_goes_on() {
    let Some(host) = Mounted::new("ext4", 16 * MIB) else { return };
    host.create(&raw("source", 8 * MIB)).unwrap();
    let file = std::fs::File::options().write(true).open(host.path("source")).unwrap();
    file.write_all_at(&vec![5; 8 << 20], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let full = "<volume><name>full</name><capacity unit='MiB'>64</capacity></volume>";
    let error = host.create(full).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    for document in [raw("copy", 0), qcow2("copy", 0)] {
        let options = CreateOptions::default();
        let copy = || {
            host.storage.create_volume_from(
                &host.pool,
                &volume(&document),
                &host.pool,
                "source",
                options,
                &mut go_on,
            )
        };
        let error = copy().unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(host.names(), ["source"]);
    }
    let options = ResizeOptions { allocate: true, ..ResizeOptions::default() };
    assert!(host.storage.resize_volume(&host.pool, "source", 64 * MIB, options).is_err());
    assert_eq!(host.storage.volume_info(&host.pool, "source").unwrap().capacity, 8 * MIB);
    host.storage.delete_volume(&host.pool, "source", DeleteMode::Normal, &mut go_on).unwrap();
    // ext4 gives away the blocks of a removed file when its journal has noted the removal.
    let directory = std::fs::File::open(host.path("")).unwrap();
    rustix::fs::syncfs(&directory).unwrap();
    host.create("<volume><name>small</name><capacity unit='MiB'>6</capacity></volume>").unwrap();
    assert_eq!(host.names(), ["small"]);
}

fn shares_storage(format: &str, bytes: u64) {
    let Some(host) = Mounted::new(format, bytes) else { return };
    for (document, name) in [(raw("r", 8 * MIB), "r"), (qcow2("q", 8 * MIB), "q")] {
        host.create(&document).unwrap();
        let file = std::fs::File::options().write(true).open(host.path(name)).unwrap();
        if name == "r" {
            file.write_all_at(&vec![5; 8 << 20], 0).unwrap();
            file.sync_all().unwrap();
        }
        drop(file);
        let clone = |target: &str, mode| {
            let document = format!(
                "<volume><name>{target}</name><capacity>{}</capacity><allocation>0</allocation></volume>",
                9 * MIB
            );
            let options = CreateOptions::default();
            host.storage
                .clone_volume(&host.pool, &volume(&document), &host.pool, name, mode, options, &mut go_on)
                .unwrap()
                .1
        };
        let target = format!("{name}-copy");
        assert_eq!(clone(&target, CloneMode::Automatic), CloneMethod::Reflink, "{format}");
        assert_eq!(host.storage.volume_info(&host.pool, &target).unwrap().capacity, 9 * MIB);
        assert_eq!(clone(&format!("{name}-own"), CloneMode::FullCopy), CloneMethod::FullCopy);
        if name == "r" {
            let copy = std::fs::read(host.path(&target)).unwrap();
            assert!(
                copy[..8 << 20].iter().all(|byte| *byte == 5)
                    && copy[8 << 20..].iter().all(|byte| *byte == 0)
            );
            let written = std::fs::File::options().write(true).open(host.path(&target)).unwrap();
            written.write_all_at(&[6; 4096], 0).unwrap();
            let source = std::fs::read(host.path("r")).unwrap();
            assert!(source.iter().all(|byte| *byte == 5), "the copy's writes are its own");
        } else {
            let report = block_io::Qcow2Disk::check(&host.path(&target), block_io::qcow2::Repair::Nothing);
            assert!(report.is_ok(), "{report:?}");
        }
    }
    let no_cow = "<volume><name>n</name><capacity>1048576</capacity><target><nocow/></target></volume>";
    host.create(no_cow).unwrap();
    assert_eq!(std::fs::metadata(host.path("n")).unwrap().size(), MIB);
    host.create("<volume><name>nq</name><capacity>1048576</capacity><target><format type='qcow2'/><nocow/></target></volume>")
        .unwrap();
    if format == "btrfs" {
        for name in ["n", "nq"] {
            let file = std::fs::File::open(host.path(name)).unwrap();
            let flags = rustix::fs::ioctl_getflags(&file).unwrap();
            assert!(flags.contains(rustix::fs::IFlags::NOCOW), "{name}");
        }
    }
}

#[test]
fn a_copy_on_btrfs_shares_its_storage() {
    shares_storage("btrfs", 256 * MIB);
}

#[test]
fn a_copy_on_xfs_shares_its_storage() {
    shares_storage("xfs", 320 * MIB);
}

#[test]
fn a_reflink_where_there_are_none_is_refused_and_automatic_copies() {
    let Some(host) = Mounted::new("ext4", 16 * MIB) else { return };
    host.create(&raw("r", MIB)).unwrap();
    let options = CreateOptions { reflink: true, ..CreateOptions::default() };
    let copy = volume(&raw("copy", 0));
    let error =
        host.storage.create_volume_from(&host.pool, &copy, &host.pool, "r", options, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("reflinks"), "{error}");
    assert_eq!(host.names(), ["r"]);
    let options = CreateOptions::default();
    let mode = CloneMode::Automatic;
    let (_, method) =
        host.storage.clone_volume(&host.pool, &copy, &host.pool, "r", mode, options, &mut go_on).unwrap();
    assert_eq!(method, CloneMethod::FullCopy);
}
