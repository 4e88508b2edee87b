//! The disk of a new machine: empty, a copy of an image, or based on one; and the disk with the seed.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use block_io::RawOptions;
use block_io::operations::{
    self, CopyOptions, ImageAccess, ImageFormat as Known, ImageInfo, NewImage, OpenImage, OperationError,
};
use block_io::qcow2::{Preallocation, Qcow2Parameters};
use libvirt_rpc::types::RemoteStoragePool;
use libvirt_xml::storage::{BackingStore, Permissions, Preallocated, VolumeDefinition, VolumeFormat};

use super::Arguments;
use super::arguments::DiskFormat;
use super::document::DiskFile;
use crate::connection::{Error, Exit};
use crate::storage_client::{REFLINK, Session, spinner};

/// An image, and what is known of it.
struct Image {
    path: PathBuf,
    text: String,
    format: Known,
    bytes: u64,
    file_bytes: u64,
    /// Its content is all in this file.
    alone: bool,
}

/// What the disk will be.
struct Wish {
    name: String,
    format: DiskFormat,
    bytes: u64,
    image: Option<Image>,
}

fn wish(arguments: &Arguments) -> Result<Option<Wish>, Error> {
    let image = arguments.image.as_deref().map(|path| image(arguments, path)).transpose()?;
    let bytes = match (arguments.disk, &image) {
        (None, None) => return Ok(None),
        (Some(bytes), Some(image)) if bytes < image.bytes => {
            let message = format!(
                "--disk: the image {} has {} bytes, and a disk of {bytes} would lose its end",
                image.path.display(),
                image.bytes
            );
            return Err(Error::usage(message));
        }
        (Some(bytes), _) => bytes,
        (None, Some(image)) => image.bytes,
    };
    let own = match &image {
        Some(image) if image.format == Known::Raw && !arguments.overlay => DiskFormat::Raw,
        _ => DiskFormat::Qcow2,
    };
    let format = arguments.format.unwrap_or(own);
    let name = format!("{}.{}", arguments.name, format.suffix());
    Ok(Some(Wish { name, format, bytes: bytes.next_multiple_of(512), image }))
}

/// Looks at an image. A format that is not told is taken from the first bytes only where whoever wrote them can gain nothing by it: the image
/// is based on no other file.
fn image(arguments: &Arguments, path: &Path) -> Result<Image, Error> {
    let path =
        std::fs::canonicalize(path).with_context(|| format!("cannot find the image {}", path.display()))?;
    let info = ImageInfo::read(&path, arguments.image_format.map(Known::from))
        .map_err(|error| Error::trouble(Exit::Failed, format!("cannot use the image: {error}"), ""))?;
    if info.format == Known::Ova {
        let advice = "take its disk out with `vireo image convert`, and give that";
        return Err(Error::trouble(
            Exit::Usage,
            format!("{} is an archive of a machine", path.display()),
            advice,
        ));
    }
    let alone = info.qcow2.as_ref().is_none_or(|qcow2| qcow2.backing.is_none() && qcow2.data_file.is_none());
    if info.probed && !alone {
        let message = format!("the image {} is based on another file", path.display());
        return Err(Error::trouble(Exit::Usage, message, "give --image-format qcow2 if you trust it"));
    }
    let text = path
        .to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} can't be written into XML", path.display()))?;
    Ok(Image {
        path,
        text,
        format: info.format,
        bytes: info.virtual_bytes,
        file_bytes: info.file_bytes,
        alone,
    })
}

/// Makes the disk, if there is to be one.
pub(super) fn make(
    arguments: &Arguments,
    session: &mut Session<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<DiskFile>, Error> {
    let Some(wish) = wish(arguments)? else { return Ok(Vec::new()) };
    let pool = session.pool(arguments.pool.as_deref())?;
    let mut volume = VolumeDefinition::new(&wish.name, wish.bytes);
    volume.allocation = Preallocated::Bytes(0);
    volume.target.format = Some(wish.format.of_volume());
    let made = match &wish.image {
        None => session.create(&pool, &volume)?,
        Some(image) if arguments.overlay => {
            let format = match image.format {
                Known::Raw => VolumeFormat::Raw,
                Known::Qcow2 => VolumeFormat::Qcow2,
                other => {
                    return Err(Error::usage(format!(
                        "--overlay: an image of the format {other} can't be below a disk"
                    )));
                }
            };
            // The daemon opens files below disks only where pools are; this one stays, because the disk needs it.
            if session.volume_at(&image.text)?.is_none()
                && let Some(directory) = image.path.parent()
            {
                let of_image = session.pool_of_directory(directory)?;
                notes.push(format!(
                    "The image is read where it is, in the pool {}: it must not change any more",
                    of_image.name
                ));
            } else {
                notes.push("The image is read where it is: it must not change any more".to_owned());
            }
            volume.backing = Some(BackingStore {
                path: image.text.clone(),
                format: Some(format),
                permissions: Permissions::default(),
                timestamps: None,
            });
            session.create(&pool, &volume)?
        }
        Some(image) => copy(session, &pool, &volume, &wish, image)?,
    };
    Ok(vec![DiskFile { path: session.path(&made)?, format: wish.format.of_disk(), read_only: false }])
}

/// Copies an image: sharing its storage where that is possible, as the bytes that it is where formats are the same, converted otherwise.
fn copy(
    session: &mut Session<'_>,
    pool: &RemoteStoragePool,
    volume: &VolumeDefinition,
    wish: &Wish,
    image: &Image,
) -> Result<libvirt_rpc::types::RemoteStorageVol, Error> {
    let same_format = match wish.format {
        DiskFormat::Raw => image.format == Known::Raw,
        DiskFormat::Qcow2 => image.format == Known::Qcow2 && image.alone,
    };
    if !matches!(image.format, Known::Raw | Known::Qcow2) {
        return convert(session, pool, volume, wish, image);
    }
    if !same_format {
        let source = session.volume_or_file(&image.text)?;
        session.undo.step()?;
        let made = session.create_from(pool, volume, &source, 0);
        return made.map_err(|error| Error::daemon(format!("cannot copy the image {}", image.text), error));
    }
    if can_share(session, pool, &image.path)? {
        let source = session.volume_or_file(&image.text)?;
        // Whatever keeps it from sharing does not keep it from copying.
        if let Ok(made) = session.create_from(pool, volume, &source, REFLINK) {
            return Ok(made);
        }
    }
    let file =
        File::open(&image.path).with_context(|| format!("cannot open the image {}", image.path.display()))?;
    send(session, pool, volume, wish, image, (file, image.file_bytes))
}

/// Converts an image of another hypervisor, which daemons do not read, into a passing file, and sends that.
fn convert(
    session: &mut Session<'_>,
    pool: &RemoteStoragePool,
    volume: &VolumeDefinition,
    wish: &Wish,
    image: &Image,
) -> Result<libvirt_rpc::types::RemoteStorageVol, Error> {
    let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let directory = tempfile::tempdir_in(&parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
    let path = directory.path().join("converted");
    let (new, format) = match wish.format {
        DiskFormat::Raw => {
            let preallocation = Preallocation::Off;
            (NewImage::Raw { bytes: image.bytes, preallocation, no_copy_on_write: false }, Known::Raw)
        }
        DiskFormat::Qcow2 => (NewImage::Qcow2(Qcow2Parameters::new(image.bytes)), Known::Qcow2),
    };
    let failed = |error: OperationError| {
        Error::trouble(Exit::Failed, format!("cannot convert the image {}: {error}", image.text), "")
    };
    let access = |read_only| ImageAccess {
        file: RawOptions { read_only, ..RawOptions::default() },
        ..ImageAccess::default()
    };
    let shown = session.shown.then(|| spinner(&format!("converting {}", image.text))).flatten();
    let undo = &*session.undo;
    let converted = new.create(&path).map_err(OperationError::from).and_then(|()| {
        let source = OpenImage::open(&image.path, image.format, &access(true))?;
        let target = OpenImage::open(&path, format, &access(false))?;
        operations::copy(&source, &target, &CopyOptions::default(), &mut |_, _| {
            if undo.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    if let Some(shown) = shown {
        shown.finish_and_clear();
    }
    converted.map_err(failed)?;
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?.len();
    send(session, pool, volume, wish, image, (file, bytes))
}

/// Sends the bytes of a file that is an image in the volume's format, and grows the disk to what is wanted.
fn send(
    session: &mut Session<'_>,
    pool: &RemoteStoragePool,
    volume: &VolumeDefinition,
    wish: &Wish,
    image: &Image,
    (file, bytes): (File, u64),
) -> Result<libvirt_rpc::types::RemoteStorageVol, Error> {
    let at_first = VolumeDefinition { capacity: Some(image.bytes), ..volume.clone() };
    let made = session.create(pool, &at_first)?;
    session.upload(&made, file, bytes)?;
    if wish.bytes > image.bytes {
        session.resize(&made, wish.bytes)?;
    }
    Ok(made)
}

/// Whether a file and the volumes of a pool are on one file system of a kind that shares storage.
fn can_share(session: &mut Session<'_>, pool: &RemoteStoragePool, image: &Path) -> Result<bool, Error> {
    /// Btrfs, XFS, bcachefs, OCFS2 (linux/magic.h).
    const SHARING: [u64; 4] = [0x9123_683e, 0x5846_5342, 0xca45_1a4e, 0x7461_636f];
    let directory = session.directory(pool)?;
    let (Ok(one), Ok(other)) = (rustix::fs::stat(&directory), rustix::fs::stat(image)) else {
        return Ok(false);
    };
    let kind = rustix::fs::statfs(&directory).map_or(0, |status| status.f_type.cast_unsigned() & 0xffff_ffff);
    Ok(one.st_dev == other.st_dev && SHARING.contains(&kind))
}

fn seed_name(arguments: &Arguments) -> String {
    format!("{}-seed.iso", arguments.name)
}

/// Makes the disk with the seed.
pub(super) fn make_seed(
    arguments: &Arguments,
    session: &mut Session<'_>,
    content: &[u8],
) -> Result<DiskFile, Error> {
    let pool = session.pool(arguments.pool.as_deref())?;
    let mut volume = VolumeDefinition::new(seed_name(arguments), content.len() as u64);
    volume.target.format = Some(VolumeFormat::Raw);
    let made = session.create(&pool, &volume)?;
    session.upload(&made, content, content.len() as u64)?;
    Ok(DiskFile { path: session.path(&made)?, format: DiskFormat::Raw.of_disk(), read_only: true })
}

/// What [`make`] would make.
pub(super) fn foreseen(arguments: &Arguments, session: &mut Session<'_>) -> Result<Vec<DiskFile>, Error> {
    let Some(wish) = wish(arguments)? else { return Ok(Vec::new()) };
    Ok(vec![DiskFile {
        path: foreseen_path(arguments, session, &wish.name)?,
        format: wish.format.of_disk(),
        read_only: false,
    }])
}

/// What [`make_seed`] would make.
pub(super) fn foreseen_seed(arguments: &Arguments, session: &mut Session<'_>) -> Result<DiskFile, Error> {
    let path = foreseen_path(arguments, session, &seed_name(arguments))?;
    Ok(DiskFile { path, format: DiskFormat::Raw.of_disk(), read_only: true })
}

fn foreseen_path(arguments: &Arguments, session: &mut Session<'_>, name: &str) -> Result<String, Error> {
    let directory = session.foreseen_directory(arguments.pool.as_deref())?;
    Ok(directory.join(name).to_string_lossy().into_owned())
}
