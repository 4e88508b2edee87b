//! Pools that are directories: plain ones, and those at which a file system of a device or of another host is mounted.
//!
//! Mounts get nodev, nosuid and noexec, as libvirt's do. Source: formatstorage, mount(8), nfs(5), mount.cifs(8).

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libvirt_xml::storage::{
    FileSystem, NetworkFileSystem, NetworkSource, Permissions, PoolDefinition, PoolSizes, PoolSource,
    VolumeFormat, VolumeKind,
};
use rustix::fs::{AtFlags, CWD, FileType, Gid, IFlags, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{BuildMode, Known, Seen};
use crate::command::{Commands, failed};
use crate::directory::PoolDirectory;
use crate::error::StorageError;
use crate::formats::{FormatOrigin, FormatRecord, Identity, KnownFormat};
use crate::image;
use crate::mounts;
use crate::undo::UndoStack;

/// Mode of a new directory, as libvirt has it.
const DIRECTORY_MODE: u32 = 0o711;

/// What the kernel mounts: the source, the type and the options.
#[derive(Debug, PartialEq, Eq)]
struct MountPlan {
    source: String,
    kind: Option<&'static str>,
    options: String,
}

impl MountPlan {
    /// `None` for a plain directory.
    fn of(source: &PoolSource) -> Option<Self> {
        let options = "nodev,nosuid,noexec".to_owned();
        match source {
            PoolSource::Directory | PoolSource::Logical { .. } => None,
            PoolSource::FileSystem { device, format } => {
                let file = std::fs::metadata(device).is_ok_and(|metadata| metadata.is_file());
                let options = if file { format!("{options},loop") } else { options };
                let kind = (*format != FileSystem::Auto).then(|| match format {
                    FileSystem::HfsPlus => "hfsplus",
                    other => other.name(),
                });
                Some(Self { source: device.clone(), kind, options })
            }
            PoolSource::NetworkFileSystem(network) => Some(Self::of_network(network, options)),
        }
    }

    fn of_network(network: &NetworkSource, mut options: String) -> Self {
        let NetworkSource { host, directory, format, protocol_version } = network;
        // An address of IPv6 has colons of its own.
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let name = directory.trim_start_matches('/');
        let (source, kind) = match format {
            NetworkFileSystem::Auto => (format!("{host}:{directory}"), None),
            NetworkFileSystem::Nfs => (format!("{host}:{directory}"), Some("nfs")),
            NetworkFileSystem::Gluster => (format!("{host}:/{name}"), Some("glusterfs")),
            NetworkFileSystem::Cifs => {
                options.push_str(",guest");
                (format!("//{host}/{name}"), Some("cifs"))
            }
        };
        if let Some(version) = protocol_version {
            options.push_str(",nfsvers=");
            options.push_str(version);
        }
        Self { source, kind, options }
    }

    fn arguments(&self, target: &str) -> Vec<String> {
        let kind = self.kind.into_iter().flat_map(|kind| ["-t".to_owned(), kind.to_owned()]);
        let rest =
            ["-o".to_owned(), self.options.clone(), "--".to_owned(), self.source.clone(), target.to_owned()];
        kind.chain(rest).collect()
    }

    /// Whether what is mounted is this. Names of devices may be links, and files appear as their loop devices.
    fn is(&self, mounted: &str) -> bool {
        let same =
            |first: &Path, second: &Path| match (std::fs::canonicalize(first), std::fs::canonicalize(second))
            {
                (Ok(first), Ok(second)) => first == second,
                _ => false,
            };
        if self.source == mounted || self.source.trim_end_matches('/') == mounted.trim_end_matches('/') {
            return true;
        }
        let loop_file = mounted
            .strip_prefix("/dev/")
            .and_then(|name| std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok());
        self.source.starts_with('/')
            && !self.source.starts_with("//")
            && (same(Path::new(&self.source), Path::new(mounted))
                || loop_file.is_some_and(|file| same(Path::new(&self.source), Path::new(file.trim_end()))))
    }
}

/// Whether the file system is mounted; another one in its place is an error.
pub(super) fn is_mounted(definition: &PoolDefinition) -> Result<bool, StorageError> {
    let Some(plan) = MountPlan::of(&definition.source) else { return Ok(false) };
    let target = Path::new(&definition.target.path);
    match mounts::at(target)? {
        None => Ok(false),
        Some(mount) if plan.is(&mount.source) => Ok(true),
        Some(mount) => Err(StorageError::InvalidOperation(format!(
            "{} is mounted at {}: unmount it first",
            mount.source,
            target.display()
        ))),
    }
}

pub(super) fn start(
    commands: &Commands,
    definition: &PoolDefinition,
    undo: &mut UndoStack,
) -> Result<(), StorageError> {
    let target = &definition.target.path;
    if !Path::new(target).is_dir() {
        let source = std::io::Error::from(Errno::NOENT);
        return Err(StorageError::system("start the pool: build it first; open directory", target, source));
    }
    let Some(plan) = MountPlan::of(&definition.source) else { return Ok(()) };
    if is_mounted(definition)? {
        return Ok(());
    }
    if let Some(kind @ ("nfs" | "cifs" | "glusterfs")) = plan.kind {
        commands.require(&format!("mount.{kind}"))?;
    }
    commands.run("mount", &plan.arguments(target))?;
    let (commands, target) = (commands.clone(), target.clone());
    undo.push(format!("unmount {target}"), move || Ok(unmount(&commands, &target)?));
    Ok(())
}

pub(super) fn stop(commands: &Commands, definition: &PoolDefinition) -> Result<(), StorageError> {
    let target = &definition.target.path;
    if MountPlan::of(&definition.source).is_none() || mounts::at(Path::new(target))?.is_none() {
        return Ok(());
    }
    unmount(commands, target)
}

/// How long somebody may take to let go of a file system that is to be unmounted.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(1);

/// Unmounts. A file that was closed just now can still be open for a moment: in a child of this process that has not begun its own
/// program yet, or in the kernel's I/O workers; so "busy" is believed only if it lasts.
fn unmount(commands: &Commands, target: &str) -> Result<(), StorageError> {
    let begun = Instant::now();
    loop {
        match commands.run("umount", &["--", target]) {
            Err(StorageError::ProgramFailed { output, .. })
                if output.contains("busy") && begun.elapsed() < UNMOUNT_PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result.map(drop),
        }
    }
}

pub(super) fn build(
    commands: &Commands,
    definition: &PoolDefinition,
    mode: BuildMode,
) -> Result<(), StorageError> {
    let mut undo = UndoStack::new(format!("build storage pool '{}'", definition.name));
    let target = Path::new(&definition.target.path);
    make_directory(target, &mut undo)?;
    let permissions = &definition.target.permissions;
    apply(target, permissions)?;
    if let Some(copy) = definition.copy_on_write {
        set_copy_on_write(target, copy)?;
    }
    if mode != BuildMode::Plain {
        let PoolSource::FileSystem { device, format } = &definition.source else {
            let kind = definition.source.kind();
            let rule =
                format!("a pool of the type {kind} has no device on which a file system could be made");
            return Err(StorageError::InvalidArgument(rule));
        };
        make_file_system(commands, device, *format, mode)?;
    }
    undo.commit();
    Ok(())
}

/// Makes a directory and those above it.
fn make_directory(path: &Path, undo: &mut UndoStack) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent, undo)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => {
            let made = path.to_owned();
            undo.push(format!("remove {}", path.display()), move || Ok(std::fs::remove_dir(made)?));
            Ok(())
        }
        // Somebody was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(StorageError::system("make directory", path, error)),
    }
}

/// Gives a directory its mode and owners, as far as they were said.
fn apply(path: &Path, permissions: &Permissions) -> Result<(), StorageError> {
    let owner = permissions.owner.map(Uid::from_raw);
    let group = permissions.group.map(Gid::from_raw);
    if owner.is_some() || group.is_some() {
        rustix::fs::chownat(CWD, path, owner, group, AtFlags::empty())
            .map_err(StorageError::on("change the owner of", path))?;
    }
    if let Some(mode) = permissions.mode {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))
            .map_err(StorageError::on("change the mode of", path))?;
    }
    Ok(())
}

/// New files inherit the flag (ioctl_iflags(2), FS_NOCOW_FL). Where the file system has no such flag, there is nothing to choose.
fn set_copy_on_write(path: &Path, copy: bool) -> Result<(), StorageError> {
    let fail = || StorageError::on("change copy on write of", path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(fail())?;
    let absent = |errno| matches!(errno, Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL);
    let mut flags = match rustix::fs::ioctl_getflags(&directory) {
        Ok(flags) => flags,
        Err(errno) if absent(errno) => return Ok(()),
        Err(errno) => return Err(fail()(errno)),
    };
    flags.set(IFlags::NOCOW, !copy);
    match rustix::fs::ioctl_setflags(&directory, flags) {
        Err(errno) if !absent(errno) => Err(fail()(errno)),
        _ => Ok(()),
    }
}

fn make_file_system(
    commands: &Commands,
    device: &str,
    format: FileSystem,
    mode: BuildMode,
) -> Result<(), StorageError> {
    let force: &[&str] = match format {
        FileSystem::Ext2 | FileSystem::Ext3 | FileSystem::Ext4 => &["-q", "-F"],
        FileSystem::Xfs | FileSystem::Btrfs => &["-q", "-f"],
        FileSystem::Vfat | FileSystem::Ocfs2 | FileSystem::Udf => &[],
        other => {
            let rule =
                format!("a file system of the type {other} can't be made here: name one, as in ext4 or xfs");
            return Err(StorageError::Unsupported(rule));
        }
    };
    if mode == BuildMode::NoOverwrite {
        require_empty(commands, device)?;
    }
    let arguments: Vec<&str> = force.iter().copied().chain([device]).collect();
    commands.run(&format!("mkfs.{format}"), &arguments).map(drop)
}

/// Refuses if there is something on a device. blkid(8): 2 means that nothing was found.
pub(super) fn require_empty(commands: &Commands, device: &str) -> Result<(), StorageError> {
    let arguments = ["--probe", "--output", "value", "--match-tag", "TYPE", "--match-tag", "PTTYPE", device];
    let output = commands.output("blkid", &arguments)?;
    match output.status.code() {
        Some(2) => Ok(()),
        Some(0 | 8) => {
            let found =
                String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(", ");
            let rule = format!("{device} is not empty ({found}): build with overwrite if it is to be lost");
            Err(StorageError::AlreadyBuilt(rule))
        }
        _ => Err(failed("blkid", &arguments, &output)),
    }
}

/// Removes the directory, if it is empty.
pub(super) fn delete(definition: &PoolDefinition) -> Result<(), StorageError> {
    let path = Path::new(&definition.target.path);
    std::fs::remove_dir(path).map_err(|source| StorageError::system("remove directory", path, source))
}

pub(super) fn sizes(path: &Path) -> Result<PoolSizes, StorageError> {
    let found = rustix::fs::statvfs(path).map_err(StorageError::on("find the size of", path))?;
    let capacity = found.f_blocks.saturating_mul(found.f_frsize);
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    Ok(PoolSizes { capacity, allocation: capacity.saturating_sub(available), available })
}

/// Looks at every entry of the directory; what nobody has seen before is looked into once.
pub(super) fn scan(path: &Path, record: &FormatRecord) -> Result<Seen, StorageError> {
    let directory = PoolDirectory::open(path)?;
    let stat = directory.own_stat()?;
    directory.sweep()?;
    let before = record.identities();
    let (mut volumes, mut formats) = (Vec::new(), Vec::new());
    for name in directory.names()? {
        let path = directory.path_of(&name);
        match look(&directory, &name, record) {
            Ok(Some((known, identity))) => {
                formats.extend(identity.map(|identity| {
                    let format = KnownFormat { format: known.format, origin: known.origin };
                    (identity, name.clone(), format)
                }));
                volumes.push(known);
            }
            Ok(None) => {}
            Err(StorageError::NoSuchVolume(_)) => {}
            Err(error) => tracing::warn!("{} is left out of the pool: {error}", path.display()),
        }
    }
    record.replace(&before, &formats)?;
    let permissions = Permissions {
        mode: Some(stat.st_mode & 0o7777),
        owner: Some(stat.st_uid),
        group: Some(stat.st_gid),
        label: None,
    };
    Ok(Seen { volumes, sizes: sizes(path)?, permissions: Some(permissions) })
}

/// What an entry is, if it can be a volume; with the identity of a file whose format is to be remembered.
fn look(
    directory: &PoolDirectory,
    name: &str,
    record: &FormatRecord,
) -> Result<Option<(Known, Option<Identity>)>, StorageError> {
    let Some(stat) = directory.stat(name)? else { return Ok(None) };
    let path: PathBuf = directory.path_of(name);
    let known = |kind, format, origin| Known {
        name: name.to_owned(),
        key: path.display().to_string(),
        path: path.clone(),
        kind,
        format,
        origin,
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if name == "lost+found" => return Ok(None),
        FileType::Directory => {
            return Ok(Some((
                known(VolumeKind::Directory, VolumeFormat::Directory, FormatOrigin::Told),
                None,
            )));
        }
        FileType::RegularFile => VolumeKind::File,
        FileType::BlockDevice => VolumeKind::Block,
        _ => return Ok(None),
    };
    let file = directory.open_volume(name, OFlags::RDONLY)?;
    let identity = Identity::of(&file).map_err(StorageError::on("look at", &path))?;
    if let Some(found) = record.get(identity) {
        return Ok(Some((known(kind, found.format, found.origin), Some(identity))));
    }
    let format = image::probe(&file).map_err(|source| StorageError::system("read", &path, source))?;
    // A file that is still empty has no content to be known by.
    let settled = image::length(&file, &path)? > 0;
    Ok(Some((known(kind, format, FormatOrigin::Probed), settled.then_some(identity))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(source: PoolSource) -> String {
        MountPlan::of(&source).unwrap().arguments("/p").join(" ")
    }

    fn network(host: &str, directory: &str, format: NetworkFileSystem, version: Option<&str>) -> PoolSource {
        PoolSource::NetworkFileSystem(NetworkSource {
            host: host.into(),
            directory: directory.into(),
            format,
            protocol_version: version.map(str::to_owned),
        })
    }

    #[test]
    fn what_is_mounted_is_what_the_pool_says() {
        const SAFE: &str = "-o nodev,nosuid,noexec";
        let device = |format| PoolSource::FileSystem { device: "/dev/vdx".into(), format };
        assert_eq!(arguments(device(FileSystem::Auto)), format!("{SAFE} -- /dev/vdx /p"));
        assert_eq!(arguments(device(FileSystem::HfsPlus)), format!("-t hfsplus {SAFE} -- /dev/vdx /p"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = file.path().display().to_string();
        assert!(
            arguments(PoolSource::FileSystem { device, format: FileSystem::Ext4 })
                .starts_with(&format!("-t ext4 {SAFE},loop -- "))
        );
        let nfs = |host, version| arguments(network(host, "/e", NetworkFileSystem::Nfs, version));
        assert_eq!(nfs("h", None), format!("-t nfs {SAFE} -- h:/e /p"));
        assert_eq!(nfs("fe80::1", Some("4.2")), format!("-t nfs {SAFE},nfsvers=4.2 -- [fe80::1]:/e /p"));
        let cifs = arguments(network("h", "/share", NetworkFileSystem::Cifs, None));
        assert_eq!(cifs, format!("-t cifs {SAFE},guest -- //h/share /p"));
        let gluster = arguments(network("h", "vol", NetworkFileSystem::Gluster, None));
        assert_eq!(gluster, format!("-t glusterfs {SAFE} -- h:/vol /p"));
        assert_eq!(MountPlan::of(&PoolSource::Directory), None);
    }
}
