//! What a definition says, in the form in which it is asked for: small, and made once.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use host_tune::InterfaceStatistics;
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::disk::{Disk, DiskType, ImageFormat};
use libvirt_xml::domain::interface::{Interface, InterfaceType};
use parking_lot::Mutex;

use super::machine::balloon_demands;

/// A file whose last change is younger could change once more under the same time stamp.
const SETTLED: Duration = Duration::from_secs(2);

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskSummary {
    /// Name of the target, as in `vda`.
    pub(crate) target: String,
    /// Path of a file or a device; none for an empty drive, and for a volume that only its pool can find.
    pub(crate) path: Option<String>,
    /// Format of the image.
    pub(crate) format: ImageFormat,
    /// What was found when the image was looked at.
    pub(crate) capacity: KnownCapacity,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceSummary {
    /// Name of the host's end, when it has one.
    pub(crate) target: Option<String>,
    /// The guest's address.
    pub(crate) mac: Option<String>,
    /// Whether the host's end receives what the guest does, as one that lies on another interface of the host. Others receive what the
    /// guest sends.
    pub(crate) shares_view: bool,
}

impl InterfaceSummary {
    /// What the host's end has counted, as the guest sees it.
    pub(crate) fn of_guest(&self, counted: InterfaceStatistics) -> InterfaceStatistics {
        if self.shares_view { counted } else { counted.reversed() }
    }
}

/// The size of an image's disk as it was read from a file, and the file's state then: as long as it has that state, nobody has to
/// read it again. It is knowledge about the host and no part of what a definition says, so all are equal.
#[derive(Debug, Default)]
pub(crate) struct KnownCapacity(Mutex<Option<(FileState, u64)>>);

/// Changes with every change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    length: u64,
    /// The time of the last change of content or attributes, seconds and nanoseconds, which no program can set.
    changed: (i64, i64),
}

impl FileState {
    fn of(file: &Metadata) -> Self {
        let changed = (file.ctime(), file.ctime_nsec());
        Self { device: file.dev(), inode: file.ino(), length: file.len(), changed }
    }

    /// Whether a further change would show at `now`.
    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = u64::try_from(self.changed.0).map(Duration::from_secs).unwrap_or_default();
        now.duration_since(SystemTime::UNIX_EPOCH + changed).is_ok_and(|age| age > SETTLED)
    }
}

impl KnownCapacity {
    /// Bytes, if they were read from the file in this state.
    pub(crate) fn get(&self, file: &Metadata) -> Option<u64> {
        let known = *self.0.lock();
        known.filter(|(state, _)| *state == FileState::of(file)).map(|(_, bytes)| bytes)
    }

    /// Remembers what was read after the file had this state.
    pub(crate) fn set(&self, file: &Metadata, bytes: u64) {
        let state = FileState::of(file);
        *self.0.lock() = (file.is_file() && state.is_settled(SystemTime::now())).then_some((state, bytes));
    }
}

impl Clone for KnownCapacity {
    fn clone(&self) -> Self {
        Self(Mutex::new(*self.0.lock()))
    }
}

impl PartialEq for KnownCapacity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for KnownCapacity {}

/// Numbers and names of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// KiB.
    pub(crate) memory: u64,
    /// What the balloon is to leave, KiB.
    pub(crate) current_memory: u64,
    /// Whether there is a balloon.
    pub(crate) balloon: bool,
    /// vCPUs at start.
    pub(crate) vcpus: u32,
    /// vCPUs that there can be.
    pub(crate) max_vcpus: u32,
    /// `hvm`
    pub(crate) os_type: String,
    /// Disks in order.
    pub(crate) disks: Box<[DiskSummary]>,
    /// Network interfaces in order.
    pub(crate) interfaces: Box<[InterfaceSummary]>,
    /// The file with variables of firmware.
    pub(crate) nvram: Option<String>,
    /// The document without passwords, where it has any.
    pub(crate) public: Option<Box<str>>,
}

impl Summary {
    /// What a completed definition says.
    pub(crate) fn of(definition: &Definition) -> Self {
        let memory = definition.memory_kib();
        let nvram = definition.os.nvram.as_ref();
        let public = definition.clone().without_secrets();
        Self {
            memory,
            current_memory: definition.current_memory.map_or(memory, |current| current.0),
            balloon: balloon_demands(definition).is_some(),
            vcpus: definition.current_vcpus(),
            max_vcpus: definition.max_vcpus(),
            os_type: definition.os.kind.name.to_string(),
            disks: definition.devices.disks.iter().map(disk).collect(),
            interfaces: definition.devices.interfaces.iter().map(interface).collect(),
            nvram: nvram.and_then(|nvram| {
                let source = nvram.source.as_ref().and_then(|source| source.file.clone());
                nvram.path.clone().or(source)
            }),
            public: (public != *definition).then(|| public.to_xml().into_boxed_str()),
        }
    }

    /// The memory that a balloon with so many KiB leaves, KiB. A guest may claim anything.
    pub(crate) fn left_by(&self, ballooned: u64) -> u64 {
        self.memory.saturating_sub(ballooned)
    }

    /// The disk that a client names by its target or its path.
    pub(crate) fn disk(&self, name: &str) -> Option<&DiskSummary> {
        self.disks.iter().find(|disk| disk.target == name || disk.path.as_deref() == Some(name))
    }

    /// The interface that a client names by the host's end or the guest's address.
    pub(crate) fn interface(&self, name: &str) -> Option<&InterfaceSummary> {
        self.interfaces.iter().find(|interface| {
            [&interface.target, &interface.mac].into_iter().any(|known| known.as_deref() == Some(name))
        })
    }
}

fn interface(interface: &Interface) -> InterfaceSummary {
    InterfaceSummary {
        target: interface.target.as_ref().and_then(|target| target.dev.clone()),
        mac: interface.mac.as_ref().map(|mac| mac.address.to_string()),
        shares_view: interface.kind == InterfaceType::Direct,
    }
}

fn disk(disk: &Disk) -> DiskSummary {
    let source = disk.source.as_ref();
    let path = source.and_then(|source| match disk.kind {
        DiskType::File => source.file.clone(),
        DiskType::Block => source.dev.clone(),
        DiskType::Dir => source.dir.clone(),
        DiskType::Volume => None,
    });
    DiskSummary {
        target: disk.target.dev.clone(),
        path,
        // Never guessed: whoever can write into an image could choose.
        format: disk.driver.as_ref().and_then(|driver| driver.format).unwrap_or(ImageFormat::Raw),
        capacity: KnownCapacity::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_holds_until_its_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, "one").unwrap();
        let state = |path| FileState::of(&std::fs::metadata(path).unwrap());
        let first = state(&path);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(first.changed.0.cast_unsigned());
        assert!(!first.is_settled(changed) && !first.is_settled(changed + SETTLED));
        assert!(!first.is_settled(changed - SETTLED), "a clock that was set back");
        assert!(first.is_settled(changed + 2 * SETTLED));

        let known = KnownCapacity::default();
        let file = std::fs::metadata(&path).unwrap();
        known.set(&file, 7);
        assert_eq!(known.get(&file), None, "it could change once more at the same time");
        *known.0.lock() = Some((first, 7));
        assert_eq!((known.get(&file), known.clone().get(&file)), (Some(7), Some(7)));
        let other = directory.path().join("other");
        std::fs::write(&other, "two").unwrap();
        assert_eq!(known.get(&std::fs::metadata(&other).unwrap()), None);
        std::fs::write(&path, "longer").unwrap();
        assert_eq!(known.get(&std::fs::metadata(&path).unwrap()), None);
    }
}
