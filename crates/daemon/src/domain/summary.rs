//! What a definition says, in the form in which it is asked for: small, and made once.

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::disk::{Disk, DiskType, ImageFormat};
use libvirt_xml::domain::interface::Interface;

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskSummary {
    /// Name of the target, as in `vda`.
    pub(crate) target: String,
    /// Path of a file or a device; none for an empty drive, and for a volume that only its pool can find.
    pub(crate) path: Option<String>,
    /// Format of the image.
    pub(crate) format: ImageFormat,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceSummary {
    /// Name of the host's end, when it has one.
    pub(crate) target: Option<String>,
    /// The guest's address.
    pub(crate) mac: Option<String>,
}

/// Numbers and names of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// KiB.
    pub(crate) memory: u64,
    /// What the balloon leaves, KiB.
    pub(crate) current_memory: u64,
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
    }
}
