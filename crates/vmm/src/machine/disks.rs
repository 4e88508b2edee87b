//! Opening the images of disks: in the format that the description says, whatever they hold.
//!
//! A raw disk is the guest's to write, header of another format included, so what an image looks like decides nothing; it is
//! worth a hint to the operator. Other files that an image names are opened only where the description allows it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_io::formats::{self, ExtentAccess, Format};
use block_io::qcow2::BackingAccess;
use block_io::{
    BlockBackend, BlockError, CacheMode, FormatDisk, FormatOptions, Qcow2Disk, Qcow2Options, RawDisk,
    RawOptions,
};
use machine_spec::spec::{BackingFiles, DiskCache, DiskFormat, DiskSpec};

use super::error::BuildError;

/// Opens and locks the image of a disk.
pub(super) fn open(disk: &DiskSpec) -> Result<Arc<dyn BlockBackend>, BuildError> {
    let file =
        RawOptions { read_only: disk.read_only, cache: cache_mode(disk.cache), ..RawOptions::default() };
    let path = disk.path.as_path();
    let backend: Result<Arc<dyn BlockBackend>, BlockError> = match &disk.format {
        DiskFormat::Raw => {
            hint_at_other_format(path);
            RawDisk::open(path, &file).map(shared)
        }
        DiskFormat::Qcow2(backing) => {
            let options =
                Qcow2Options { file, backing: backing_access(path, backing), ..Qcow2Options::default() };
            Qcow2Disk::open(path, &options).map(shared)
        }
        DiskFormat::Vmdk { extents } => open_foreign(path, Format::Vmdk, *extents),
        DiskFormat::Vhd => open_foreign(path, Format::Vhd, false),
        DiskFormat::Vhdx => open_foreign(path, Format::Vhdx, false),
        DiskFormat::Vdi => open_foreign(path, Format::Vdi, false),
    };
    backend.map_err(BuildError::Disk)
}

fn shared(disk: impl BlockBackend + 'static) -> Arc<dyn BlockBackend> {
    Arc::new(disk)
}

fn open_foreign(path: &Path, format: Format, extents: bool) -> Result<Arc<dyn BlockBackend>, BlockError> {
    let extents = if extents { ExtentAccess::SameDirectory } else { ExtentAccess::Refused };
    FormatDisk::open(path, format, &FormatOptions { extents, ..FormatOptions::default() }).map(shared)
}

fn cache_mode(cache: DiskCache) -> CacheMode {
    match cache {
        DiskCache::Writeback => CacheMode::Writeback,
        DiskCache::None => CacheMode::None,
        DiskCache::Writethrough => CacheMode::Writethrough,
        DiskCache::Directsync => CacheMode::Directsync,
        DiskCache::Unsafe => CacheMode::Unsafe,
    }
}

fn backing_access(image: &Path, backing: &BackingFiles) -> BackingAccess {
    match backing {
        BackingFiles::Refused => BackingAccess::Refused,
        BackingFiles::Within(more) => {
            let own = image.parent().filter(|parent| !parent.as_os_str().is_empty());
            let own = own.unwrap_or(Path::new(".")).to_owned();
            BackingAccess::Within([own].into_iter().chain(more.iter().cloned()).collect::<Vec<PathBuf>>())
        }
    }
}

/// Tells the operator that an image that is used as raw looks like one of another format, which is right if a guest wrote
/// that and wrong if the option was forgotten.
fn hint_at_other_format(path: &Path) {
    let mut first = [0; formats::PROBE_BYTES];
    let looks_like = |path: &Path| {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        let bytes = first.len().min(usize::try_from(metadata.len()).unwrap_or(usize::MAX));
        File::open(path).ok()?.read_exact(&mut first[..bytes]).ok()?;
        formats::probe(&first[..bytes], &[])
    };
    if let Some(format) = { looks_like }(path) {
        tracing::warn!(
            path = %path.display(),
            "the image looks like {format} and is used as raw: if it is {format}, say so with image_type={format}"
        );
    }
}

#[cfg(test)]
mod tests {
    use block_io::qcow2::{BackingName, Qcow2Parameters};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn spec(path: &Path, format: DiskFormat) -> DiskSpec {
        DiskSpec {
            id: "disk0".to_owned(),
            path: path.to_owned(),
            format,
            read_only: false,
            cache: DiskCache::Writeback,
            discard: true,
            queues: 1,
            queue_size: 128,
            serial: None,
        }
    }

    fn make(path: &Path, bytes: u64, backing: Option<&Path>) {
        let backing =
            backing.map(|name| BackingName { name: name.display().to_string(), format: "qcow2".to_owned() });
        Qcow2Disk::create(path, &Qcow2Parameters { backing, ..Qcow2Parameters::new(bytes) }).unwrap();
    }

    fn refusal(disk: &DiskSpec) -> String {
        let text = open(disk).err().expect("it is refused").to_string();
        assert!(text.starts_with("--disk: ") && !text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn a_raw_disk_with_a_header_of_another_format_in_it_stays_raw() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make(&path, 64 * MIB, Some(Path::new("/etc/hostname")));
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!(bytes < MIB);
        let raw = open(&spec(&path, DiskFormat::Raw)).unwrap();
        assert_eq!(raw.capacity(), bytes, "the file's bytes are the disk");
        drop(raw);
        std::fs::remove_file(&path).unwrap();
        make(&path, 64 * MIB, None);
        let qcow2 = open(&spec(&path, DiskFormat::Qcow2(BackingFiles::Refused))).unwrap();
        assert_eq!(qcow2.capacity(), 64 * MIB);
        drop(qcow2);
        std::fs::write(&path, [0; 65536]).unwrap();
        let text = refusal(&spec(&path, DiskFormat::Qcow2(BackingFiles::Refused)));
        assert!(text.contains("cannot open the qcow2 image"), "{text}");
    }

    #[test]
    fn backing_files_are_opened_in_allowed_directories_only() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let (base, far) = (directory.path().join("base"), elsewhere.path().join("far"));
        let (top, far_top) = (directory.path().join("top"), directory.path().join("far_top"));
        make(&base, 4 * MIB, None);
        make(&far, 4 * MIB, None);
        make(&top, 4 * MIB, Some(Path::new("base")));
        make(&far_top, 4 * MIB, Some(&far));
        let within = |more: Vec<PathBuf>| DiskFormat::Qcow2(BackingFiles::Within(more));

        let text = refusal(&spec(&top, DiskFormat::Qcow2(BackingFiles::Refused)));
        assert!(text.contains("\"base\"") && text.contains("backing_files=on"), "{text}");
        assert!(open(&spec(&top, within(vec![]))).is_ok());
        let text = refusal(&spec(&far_top, within(vec![])));
        assert!(text.contains(&far.display().to_string()) && text.contains("backing directory"), "{text}");
        assert!(open(&spec(&far_top, within(vec![elsewhere.path().to_owned()]))).is_ok());
    }

    #[test]
    fn an_image_whose_directory_is_not_named_lies_in_the_current_one() {
        let access = |path| backing_access(Path::new(path), &BackingFiles::Within(vec!["/b".into()]));
        let within = |own: &str| BackingAccess::Within(vec![own.into(), "/b".into()]);
        assert_eq!(access("disk"), within("."));
        assert_eq!(access("/a/disk"), within("/a"));
    }

    #[test]
    fn a_backing_file_that_another_disk_writes_is_refused_with_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let (base, top) = (directory.path().join("base"), directory.path().join("top"));
        make(&base, 4 * MIB, None);
        make(&top, 4 * MIB, Some(Path::new("base")));
        let _writer = open(&spec(&base, DiskFormat::Qcow2(BackingFiles::Refused))).unwrap();
        let text = refusal(&spec(&top, DiskFormat::Qcow2(BackingFiles::Within(vec![]))));
        assert!(text.contains(&base.display().to_string()), "{text}");
        assert!(text.contains("this process"), "{text}");
    }
}
