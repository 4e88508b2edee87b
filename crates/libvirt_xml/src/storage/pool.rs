//! Pools.

use uuid::Uuid;

use super::{Permissions, names, size};
use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::tree::Element;

names! {
    /// Kinds of pools.
    PoolKind {
        /// A directory.
        Directory = "dir",
        /// A file system on a block device.
        FileSystem = "fs",
        /// A network file system.
        NetworkFileSystem = "netfs",
        /// A volume group of LVM.
        Logical = "logical",
    }
}

/// What libvirt knows besides, to be refused by name.
const OTHER_KINDS: [&str; 10] =
    ["disk", "iscsi", "iscsi-direct", "scsi", "mpath", "rbd", "sheepdog", "gluster", "zfs", "vstorage"];

names! {
    /// File systems that a pool can have (formatstorage, "Filesystem pool").
    FileSystem {
        /// The kernel finds out.
        Auto = "auto",
        /// Second extended file system.
        Ext2 = "ext2",
        /// Third extended file system.
        Ext3 = "ext3",
        /// Fourth extended file system.
        Ext4 = "ext4",
        /// Unix file system.
        Ufs = "ufs",
        /// Of CD-ROMs.
        Iso9660 = "iso9660",
        /// Universal Disk Format.
        Udf = "udf",
        /// Global File System.
        Gfs = "gfs",
        /// Global File System 2.
        Gfs2 = "gfs2",
        /// FAT with long names.
        Vfat = "vfat",
        /// Apple's.
        HfsPlus = "hfs+",
        /// SGI's.
        Xfs = "xfs",
        /// Oracle's cluster file system.
        Ocfs2 = "ocfs2",
        /// VMware's.
        Vmfs = "vmfs",
        /// The B-tree file system (not in libvirt's list; it clones files in an instant).
        Btrfs = "btrfs",
    }
}

names! {
    /// Network file systems (formatstorage, "Network filesystem pool").
    NetworkFileSystem {
        /// NFS, whatever version both sides know.
        Auto = "auto",
        /// NFS.
        Nfs = "nfs",
        /// GlusterFS.
        Gluster = "glusterfs",
        /// Windows shares.
        Cifs = "cifs",
    }
}

/// A directory of another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSource {
    /// Name or address of the server.
    pub host: String,
    /// The directory there, or the share.
    pub directory: String,
    /// How it is spoken to.
    pub format: NetworkFileSystem,
    /// Version of NFS to use, as in "4.2".
    pub protocol_version: Option<String>,
}

/// Where a pool's storage comes from: this decides the pool's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolSource {
    /// The target directory itself.
    Directory,
    /// A file system that is mounted at the target directory.
    FileSystem {
        /// The block device, or a file that holds the file system.
        device: String,
        /// Its type.
        format: FileSystem,
    },
    /// A network file system that is mounted at the target directory.
    NetworkFileSystem(NetworkSource),
    /// A volume group.
    Logical {
        /// Its name.
        volume_group: String,
        /// Devices that it is made of when the pool is built.
        devices: Vec<String>,
    },
}

impl PoolSource {
    /// The pool's kind.
    pub fn kind(&self) -> PoolKind {
        match self {
            Self::Directory => PoolKind::Directory,
            Self::FileSystem { .. } => PoolKind::FileSystem,
            Self::NetworkFileSystem(_) => PoolKind::NetworkFileSystem,
            Self::Logical { .. } => PoolKind::Logical,
        }
    }
}

/// Where a pool's volumes appear on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTarget {
    /// Absolute path of the directory, without a slash at its end.
    pub path: String,
    /// What the directory gets when the pool is built.
    pub permissions: Permissions,
}

/// Sizes, bytes; all zero for a pool that is not active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolSizes {
    /// All of it.
    pub capacity: u64,
    /// What is used.
    pub allocation: u64,
    /// What is free.
    pub available: u64,
}

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDefinition {
    /// Its name: no slash, no control characters.
    pub name: String,
    /// Its identity; `None` in documents that leave it to the host.
    pub uuid: Option<Uuid>,
    /// What was told about its sizes.
    pub sizes: PoolSizes,
    /// Whether new files are copied on write, where the file system lets one choose.
    pub copy_on_write: Option<bool>,
    /// Where its storage comes from.
    pub source: PoolSource,
    /// Where its volumes appear.
    pub target: PoolTarget,
}

/// Longest name of a pool or a volume, bytes: what a file's name can have.
pub(super) const MOST_NAME_BYTES: usize = 255;

impl PoolDefinition {
    /// Takes a `<pool>` apart.
    pub fn from_element(root: &Element) -> Result<Self, XmlError> {
        let mut fields = Fields::of_root(root, "pool")?;
        let kind = kind(&mut fields)?;
        let uuid = fields.parsed_text_of("uuid", "a UUID")?;
        let sizes = PoolSizes {
            capacity: size::take(&mut fields, "capacity")?.unwrap_or(0),
            allocation: size::take(&mut fields, "allocation")?.unwrap_or(0),
            available: size::take(&mut fields, "available")?.unwrap_or(0),
        };
        let copy_on_write = features(&mut fields)?;
        let given_name = fields.text_of("name")?;
        let (source, source_name) = source(&mut fields, kind, given_name.as_deref())?;
        // As libvirt has it: a pool without a name is called as its source is.
        let Some(name) = given_name.or(source_name) else {
            return Err(fields.fault(XmlFault::Missing("element \"name\"".into())));
        };
        check_name(&fields, &name)?;
        let target = target(&mut fields, &source)?;
        fields.finish()?;
        Ok(Self { name, uuid, sizes, copy_on_write, source, target })
    }

    /// The `<pool>` as libvirt writes it.
    pub fn element(&self) -> Element {
        let cow = self.copy_on_write.map(|on| {
            let state = if on { "yes" } else { "no" };
            Element::new("features").child(Element::new("cow").with("state", state))
        });
        let target = Element::new("target")
            .field("path", &self.target.path)
            .children_from(self.target.permissions.element());
        Element::new("pool")
            .with("type", self.source.kind())
            .field("name", &self.name)
            .optional_field("uuid", self.uuid)
            .child(size::element("capacity", self.sizes.capacity))
            .child(size::element("allocation", self.sizes.allocation))
            .child(size::element("available", self.sizes.available))
            .children_from(cow)
            .child(source_element(&self.source))
            .child(target)
    }
}

pub(super) fn kind(fields: &mut Fields<'_>) -> Result<PoolKind, XmlError> {
    let name = fields.required_attribute("type")?;
    kind_of(name).map_err(|fault| XmlError::new(format!("{}/@type", fields.path()), fault))
}

/// The kind of a name.
pub(super) fn kind_of(name: &str) -> Result<PoolKind, XmlFault> {
    if OTHER_KINDS.contains(&name) {
        return Err(XmlFault::Unsupported(format!("pools of the type {name:?}")));
    }
    PoolKind::from_name(name).ok_or_else(|| XmlFault::Invalid {
        value: name.to_owned(),
        expected: "a type of storage pools".into(),
    })
}

fn check_name(fields: &Fields<'_>, name: &str) -> Result<(), XmlError> {
    let fine = !matches!(name, "." | "..")
        && name.len() <= MOST_NAME_BYTES
        && !name.chars().any(|character| character == '/' || character.is_control());
    let rule = "a pool's name: at most 255 bytes, no slash, no control characters";
    if fine { Ok(()) } else { Err(fields.invalid(name, rule)) }
}

fn features(fields: &mut Fields<'_>) -> Result<Option<bool>, XmlError> {
    let Some(mut features) = fields.child("features") else { return Ok(None) };
    let mut state = None;
    if let Some(mut cow) = features.child("cow") {
        state = Some(match cow.required_attribute("state")? {
            "yes" => true,
            "no" => false,
            other => return Err(cow.invalid_attribute("state", other, "\"yes\" or \"no\"")),
        });
        cow.finish()?;
    }
    features.finish()?;
    Ok(state)
}

/// The attribute of a child that has to be there, and is not empty.
fn only_attribute(source: &mut Fields<'_>, child: &str, attribute: &str) -> Result<String, XmlError> {
    let Some(mut found) = source.child(child) else {
        return Err(source.fault(XmlFault::Missing(format!("element {child:?}"))));
    };
    let value = found.required_attribute(attribute)?;
    if value.is_empty() || value.contains(['\n', '\0']) {
        return Err(found.invalid_attribute(attribute, value, "a name"));
    }
    found.finish()?;
    Ok(value.to_owned())
}

fn format<T: Copy>(
    source: &mut Fields<'_>,
    from_name: fn(&str) -> Option<T>,
    default: T,
) -> Result<T, XmlError> {
    let Some(mut format) = source.child("format") else { return Ok(default) };
    let Some(name) = format.attribute("type") else { return Ok(default) };
    let found = from_name(name)
        .ok_or_else(|| format.invalid_attribute("type", name, "a format that this type of pools has"))?;
    format.finish()?;
    Ok(found)
}

/// An absolute path of a device or directory.
fn check_absolute(fields: &Fields<'_>, path: &str) -> Result<String, XmlError> {
    if !path.starts_with('/') || path.contains(['\n', '\0']) || path.split('/').any(|part| part == "..") {
        return Err(fields.invalid(path, "an absolute path without \"..\""));
    }
    let trimmed = path.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

/// A pool's source, and the name that it gives to a pool without one.
fn source(
    fields: &mut Fields<'_>,
    kind: PoolKind,
    pool_name: Option<&str>,
) -> Result<(PoolSource, Option<String>), XmlError> {
    let Some(mut inner) = fields.child("source") else {
        return match (kind, pool_name) {
            (PoolKind::Directory, _) => Ok((PoolSource::Directory, None)),
            (PoolKind::Logical, Some(name)) => {
                check_volume_group(fields, name)?;
                Ok((PoolSource::Logical { volume_group: name.to_owned(), devices: Vec::new() }, None))
            }
            _ => Err(fields.fault(XmlFault::Missing("element \"source\"".into()))),
        };
    };
    let found = source_of(&mut inner, kind, pool_name)?;
    inner.finish()?;
    Ok(found)
}

/// Takes what a source of this kind has out of `<source>`.
pub(super) fn source_of(
    inner: &mut Fields<'_>,
    kind: PoolKind,
    pool_name: Option<&str>,
) -> Result<(PoolSource, Option<String>), XmlError> {
    // Words about the hardware, which nobody acts on.
    for word in ["vendor", "product"] {
        inner.child(word);
    }
    let mut name = None;
    let source = match kind {
        PoolKind::Directory => PoolSource::Directory,
        PoolKind::FileSystem => {
            let device = only_attribute(inner, "device", "path")?;
            PoolSource::FileSystem {
                device: check_absolute(inner, &device)?,
                format: format(inner, FileSystem::from_name, FileSystem::Auto)?,
            }
        }
        PoolKind::NetworkFileSystem => PoolSource::NetworkFileSystem(network(inner)?),
        PoolKind::Logical => {
            name = inner.text_of("name")?;
            let mut devices = Vec::new();
            for mut device in inner.children("device") {
                let path = device.required_attribute("path")?;
                devices.push(check_absolute(&device, path)?);
                device.finish()?;
            }
            let lvm2 = |format: &str| ["lvm2", "auto", "unknown"].contains(&format).then_some(());
            format(inner, lvm2, ())?;
            let group = name.as_deref().or(pool_name);
            let Some(group) = group else {
                return Err(inner.fault(XmlFault::Missing("element \"name\"".into())));
            };
            check_volume_group(inner, group)?;
            PoolSource::Logical { volume_group: group.to_owned(), devices }
        }
    };
    Ok((source, name))
}

/// lvm(8), "VALID NAMES".
fn check_volume_group(fields: &Fields<'_>, name: &str) -> Result<(), XmlError> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "+_.-".contains(character);
    let fine = !name.starts_with('-') && !matches!(name, "" | "." | "..") && name.chars().all(allowed);
    if fine && name.len() < 128 {
        return Ok(());
    }
    Err(fields.invalid(name, "a name of a volume group (letters, digits, + _ . -)"))
}

fn network(inner: &mut Fields<'_>) -> Result<NetworkSource, XmlError> {
    let host = only_attribute(inner, "host", "name")?;
    if host.starts_with('-')
        || host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/' || c == ',')
    {
        return Err(inner.invalid(&host, "the name of a host"));
    }
    let directory = only_attribute(inner, "dir", "path")?;
    let format = format(inner, NetworkFileSystem::from_name, NetworkFileSystem::Auto)?;
    let directory = match format {
        // A share or a volume: a name, with or without a slash before it.
        NetworkFileSystem::Cifs | NetworkFileSystem::Gluster => directory,
        NetworkFileSystem::Auto | NetworkFileSystem::Nfs => check_absolute(inner, &directory)?,
    };
    let mut protocol_version = None;
    if let Some(mut protocol) = inner.child("protocol") {
        let version = protocol.required_attribute("ver")?;
        let digits =
            |part: &str| !part.is_empty() && part.len() < 4 && part.bytes().all(|b| b.is_ascii_digit());
        if version.split('.').count() > 2 || !version.split('.').all(digits) {
            return Err(protocol.invalid_attribute("ver", version, "a version of NFS, as in \"4.2\""));
        }
        if !matches!(format, NetworkFileSystem::Auto | NetworkFileSystem::Nfs) {
            let fault = XmlFault::Unsupported(format!("a protocol version with {format}"));
            return Err(protocol.fault(fault));
        }
        protocol_version = Some(version.to_owned());
        protocol.finish()?;
    }
    Ok(NetworkSource { host, directory, format, protocol_version })
}

fn target(fields: &mut Fields<'_>, source: &PoolSource) -> Result<PoolTarget, XmlError> {
    let mut path = None;
    let mut permissions = Permissions::default();
    if let Some(mut inner) = fields.child("target") {
        if let Some(text) = inner.text_of("path")? {
            path = Some(check_absolute(&inner, &text)?);
        }
        permissions = Permissions::take(&mut inner)?;
        inner.finish()?;
    }
    // Where the volumes of a volume group appear is LVM's choice.
    if let PoolSource::Logical { volume_group, .. } = source {
        path = Some(format!("/dev/{volume_group}"));
    }
    let Some(path) = path else {
        return Err(fields.fault(XmlFault::Missing("element \"target/path\"".into())));
    };
    Ok(PoolTarget { path, permissions })
}

/// `<source>`.
pub(super) fn source_element(source: &PoolSource) -> Element {
    let root = Element::new("source");
    let format = |name: &str| Element::new("format").with("type", name);
    let device = |path: &String| Element::new("device").with("path", path);
    match source {
        // libvirt puts a line break there.
        PoolSource::Directory => root.text("\n  "),
        PoolSource::FileSystem { device: path, format: kind } => {
            root.child(device(path)).child(format(kind.name()))
        }
        PoolSource::NetworkFileSystem(network) => root
            .child(Element::new("host").with("name", &network.host))
            .child(Element::new("dir").with("path", &network.directory))
            .child(format(network.format.name()))
            .children_from(
                network
                    .protocol_version
                    .as_ref()
                    .map(|version| Element::new("protocol").with("ver", version)),
            ),
        PoolSource::Logical { volume_group, devices } => {
            root.children_from(devices.iter().map(device)).field("name", volume_group).child(format("lvm2"))
        }
    }
}
