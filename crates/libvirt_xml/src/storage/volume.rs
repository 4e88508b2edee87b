//! Volumes.

use super::pool::MOST_NAME_BYTES;
use super::{Permissions, names, size};
use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::tree::Element;

names! {
    /// What a volume is on the host.
    VolumeKind {
        /// A regular file.
        File = "file",
        /// A block device.
        Block = "block",
        /// A directory.
        Directory = "dir",
        /// Something on the network.
        Network = "network",
        /// A directory on the network.
        NetworkDirectory = "netdir",
    }
}

names! {
    /// Formats of volumes: those that libvirt knows, and `vhdx`.
    VolumeFormat {
        /// The bytes of the volume are the disk's.
        Raw = "raw",
        /// A directory.
        Directory = "dir",
        /// Bochs' images.
        Bochs = "bochs",
        /// Compressed loop devices.
        Cloop = "cloop",
        /// Apple's images.
        Dmg = "dmg",
        /// Images of CD-ROMs.
        Iso = "iso",
        /// Virtual PC's images (.vhd).
        Vpc = "vpc",
        /// VirtualBox's images.
        Vdi = "vdi",
        /// FAT file systems.
        Fat = "fat",
        /// Hyper-V's old images.
        Vhd = "vhd",
        /// Parallels' images.
        Ploop = "ploop",
        /// Copy on write of user mode Linux.
        Cow = "cow",
        /// QEMU's first format.
        Qcow = "qcow",
        /// QEMU's format.
        Qcow2 = "qcow2",
        /// QEMU's enhanced disks.
        Qed = "qed",
        /// VMware's images.
        Vmdk = "vmdk",
        /// Hyper-V's images.
        Vhdx = "vhdx",
    }
}

names! {
    /// Versions of qcow2 (formatstorage, "compat").
    Compatibility {
        /// Version 2.
        Old = "0.10",
        /// Version 3.
        New = "1.1",
    }
}

/// A point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Nanoseconds, less than 1,000,000,000.
    pub nanoseconds: u32,
}

/// When a volume was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// Read.
    pub access: Timestamp,
    /// Written.
    pub modification: Timestamp,
    /// Changed in any way.
    pub change: Timestamp,
    /// Made, if the file system knows.
    pub birth: Option<Timestamp>,
}

/// Optional parts of qcow2 (formatstorage, "features").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeFeatures {
    /// Reference counts may be updated late.
    pub lazy_refcounts: bool,
    /// Clusters consist of subclusters.
    pub extended_l2: bool,
}

/// How much of the storage is reserved when a volume is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocated {
    /// All of it: no `<allocation>` was given.
    All,
    /// So many bytes.
    Bytes(u64),
}

/// Where the volume is on the host, and what it is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeTarget {
    /// Absolute path, told by the host; not looked at in documents of clients.
    pub path: Option<String>,
    /// Format.
    pub format: Option<VolumeFormat>,
    /// Mode and owners.
    pub permissions: Permissions,
    /// Told by the host.
    pub timestamps: Option<Timestamps>,
    /// Version of qcow2.
    pub compatibility: Option<Compatibility>,
    /// No copy on write by the file system.
    pub no_copy_on_write: bool,
    /// Size of a cluster of qcow2, bytes.
    pub cluster_bytes: Option<u64>,
    /// Optional parts of qcow2. libvirt tells them of every image of version 3, even if it has none.
    pub features: Option<VolumeFeatures>,
}

impl VolumeTarget {
    /// Optional parts that were asked for.
    pub fn wanted_features(&self) -> VolumeFeatures {
        self.features.unwrap_or_default()
    }
}

/// The volume below a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingStore {
    /// Its path.
    pub path: String,
    /// Its format, if that is known.
    pub format: Option<VolumeFormat>,
    /// Mode and owners, told by the host.
    pub permissions: Permissions,
    /// Told by the host.
    pub timestamps: Option<Timestamps>,
}

/// A part of a device that a logical volume consists of. Bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The device.
    pub device: String,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

/// A storage volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDefinition {
    /// What it is; told by the host.
    pub kind: Option<VolumeKind>,
    /// Its name: not empty, no slash, no NUL, no line break, not "." or "..".
    pub name: String,
    /// What identifies it on the host; told by the host.
    pub key: Option<String>,
    /// Parts of devices that it consists of; told by the host.
    pub extents: Vec<Extent>,
    /// Size of the disk, bytes; may be left out where something else tells it.
    pub capacity: Option<u64>,
    /// How much of the storage is, or is to be, reserved.
    pub allocation: Preallocated,
    /// Length of the file, bytes; told by the host.
    pub physical: Option<u64>,
    /// Where it is and what it is like.
    pub target: VolumeTarget,
    /// What is below it.
    pub backing: Option<BackingStore>,
}

impl VolumeDefinition {
    /// A volume of which nothing is said but its name and size.
    pub fn new(name: impl Into<String>, capacity: u64) -> Self {
        Self {
            kind: None,
            name: name.into(),
            key: None,
            extents: Vec::new(),
            capacity: Some(capacity),
            allocation: Preallocated::All,
            physical: None,
            target: VolumeTarget::default(),
            backing: None,
        }
    }

    /// Takes a `<volume>` apart.
    pub fn from_element(root: &Element) -> Result<Self, XmlError> {
        let mut fields = Fields::of_root(root, "volume")?;
        let kind = match fields.attribute("type") {
            None => None,
            Some(name) => Some(
                VolumeKind::from_name(name)
                    .ok_or_else(|| fields.invalid_attribute("type", name, "a type of volumes"))?,
            ),
        };
        let name = fields.required_text_of("name")?;
        if let Err(rule) = check_volume_name(&name) {
            return Err(fields.invalid(&name, rule));
        }
        let key = fields.text_of("key")?;
        let extents = extents(&mut fields)?;
        let capacity = size::take(&mut fields, "capacity")?;
        let allocation =
            size::take(&mut fields, "allocation")?.map_or(Preallocated::All, Preallocated::Bytes);
        let physical = size::take(&mut fields, "physical")?;
        let target = match fields.child("target") {
            Some(inner) => target(inner)?,
            None => VolumeTarget::default(),
        };
        let backing = match fields.child("backingStore") {
            Some(inner) => backing(inner)?,
            None => None,
        };
        fields.finish()?;
        Ok(Self { kind, name, key, extents, capacity, allocation, physical, target, backing })
    }

    /// The `<volume>` as libvirt writes it.
    pub fn element(&self) -> Element {
        let mut root = Element::new("volume").with_optional("type", self.kind);
        root = root.field("name", &self.name).optional_field("key", self.key.as_deref());
        if !self.extents.is_empty() {
            root.push(extents_element(&self.extents));
        }
        let mut size = |name: &str, bytes: Option<u64>| {
            if let Some(bytes) = bytes {
                root.push(size::element(name, bytes));
            }
        };
        size("capacity", self.capacity);
        size(
            "allocation",
            match self.allocation {
                Preallocated::All => None,
                Preallocated::Bytes(bytes) => Some(bytes),
            },
        );
        size("physical", self.physical);
        let root = root.child(target_element(&self.target));
        root.children_from(self.backing.as_ref().map(|backing| {
            Element::new("backingStore")
                .field("path", &backing.path)
                .children_from(format_element(backing.format))
                .children_from(backing.permissions.element())
                .children_from(backing.timestamps.as_ref().map(timestamps_element))
        }))
    }
}

/// Whether a name can be a volume's; if not, the rule that it breaks. Control characters are refused because a list of
/// names is made of lines, and a terminal shows them.
pub fn check_volume_name(name: &str) -> Result<(), &'static str> {
    if matches!(name, "" | "." | "..") || name.len() > MOST_NAME_BYTES {
        return Err("a volume's name: 1 to 255 bytes, not \".\" or \"..\"");
    }
    if name.chars().any(|character| character == '/' || character.is_control()) {
        return Err("a volume's name: no slash, no control characters");
    }
    Ok(())
}

fn extents(fields: &mut Fields<'_>) -> Result<Vec<Extent>, XmlError> {
    let mut found = Vec::new();
    let Some(mut source) = fields.child("source") else { return Ok(found) };
    for mut device in source.children("device") {
        let path = device.required_attribute("path")?.to_owned();
        for mut extent in device.children("extent") {
            let mut number = |name: &str| {
                extent.parsed_attribute::<u64>(name, "a number of bytes").map(Option::unwrap_or_default)
            };
            let (start, end) = (number("start")?, number("end")?);
            extent.finish()?;
            found.push(Extent { device: path.clone(), start, end });
        }
        device.finish()?;
    }
    source.finish()?;
    Ok(found)
}

fn extents_element(extents: &[Extent]) -> Element {
    let mut source = Element::new("source");
    for part in extents.chunk_by(|first, second| first.device == second.device) {
        let inner = part
            .iter()
            .map(|extent| Element::new("extent").with("start", extent.start).with("end", extent.end));
        let device = part.first().map_or("", |extent| extent.device.as_str());
        source.push(Element::new("device").with("path", device).children_from(inner));
    }
    source
}

fn take_format(fields: &mut Fields<'_>) -> Result<Option<VolumeFormat>, XmlError> {
    let Some(mut format) = fields.child("format") else { return Ok(None) };
    let name = format.required_attribute("type")?;
    let found = VolumeFormat::from_name(name)
        .ok_or_else(|| format.invalid_attribute("type", name, "a format of volumes"))?;
    format.finish()?;
    Ok(Some(found))
}

fn format_element(format: Option<VolumeFormat>) -> Option<Element> {
    format.map(|format| Element::new("format").with("type", format))
}

fn target(mut inner: Fields<'_>) -> Result<VolumeTarget, XmlError> {
    let path = inner.text_of("path")?;
    let format = take_format(&mut inner)?;
    let permissions = Permissions::take(&mut inner)?;
    let timestamps = timestamps(&mut inner)?;
    if inner.child("encryption").is_some() {
        return Err(inner.fault(XmlFault::Unsupported("encryption of volumes".into())));
    }
    let compatibility = match inner.text_of("compat")? {
        None => None,
        Some(text) => Some(
            Compatibility::from_name(&text)
                .ok_or_else(|| inner.invalid(&text, "a version of qcow2 (0.10 or 1.1)"))?,
        ),
    };
    let mut flag = |name: &str| -> Result<bool, XmlError> {
        let Some(child) = inner.child(name) else { return Ok(false) };
        child.finish().map(|()| true)
    };
    let no_copy_on_write = flag("nocow")?;
    let cluster_bytes = size::take(&mut inner, "clusterSize")?;
    let mut features = None;
    if let Some(mut words) = inner.child("features") {
        let mut flag = |name: &str| -> Result<bool, XmlError> {
            let Some(child) = words.child(name) else { return Ok(false) };
            child.finish().map(|()| true)
        };
        features = Some(VolumeFeatures {
            lazy_refcounts: flag("lazy_refcounts")?,
            extended_l2: flag("extended_l2")?,
        });
        words.finish()?;
    }
    if features.is_some_and(|features| features != VolumeFeatures::default())
        && compatibility == Some(Compatibility::Old)
    {
        return Err(inner.fault(XmlFault::Unsupported("features with version 0.10 of qcow2".into())));
    }
    inner.finish()?;
    Ok(VolumeTarget {
        path,
        format,
        permissions,
        timestamps,
        compatibility,
        no_copy_on_write,
        cluster_bytes,
        features,
    })
}

fn target_element(target: &VolumeTarget) -> Element {
    let mut root = Element::new("target")
        .optional_field("path", target.path.as_deref())
        .children_from(format_element(target.format))
        .children_from(target.permissions.element())
        .children_from(target.timestamps.as_ref().map(timestamps_element))
        .optional_field("compat", target.compatibility);
    if target.no_copy_on_write {
        root.push(Element::new("nocow"));
    }
    if let Some(bytes) = target.cluster_bytes {
        root.push(Element::new("clusterSize").with("unit", "B").text(bytes));
    }
    if let Some(VolumeFeatures { lazy_refcounts, extended_l2 }) = target.features {
        let words = [("lazy_refcounts", lazy_refcounts), ("extended_l2", extended_l2)];
        let words = words.into_iter().filter(|(_, on)| *on).map(|(name, _)| Element::new(name));
        root.push(Element::new("features").children_from(words));
    }
    root
}

/// An empty `<backingStore/>` means that there is none.
fn backing(mut inner: Fields<'_>) -> Result<Option<BackingStore>, XmlError> {
    let path = inner.text_of("path")?;
    let format = take_format(&mut inner)?;
    let permissions = Permissions::take(&mut inner)?;
    let timestamps = timestamps(&mut inner)?;
    let Some(path) = path else {
        return match format {
            None => inner.finish().map(|()| None),
            Some(_) => Err(inner.fault(XmlFault::Missing("element \"path\"".into()))),
        };
    };
    if path.contains(['\0', '\n']) {
        return Err(inner.invalid(&path, "the path of a volume"));
    }
    inner.finish()?;
    Ok(Some(BackingStore { path, format, permissions, timestamps }))
}

fn timestamps(fields: &mut Fields<'_>) -> Result<Option<Timestamps>, XmlError> {
    let Some(mut inner) = fields.child("timestamps") else { return Ok(None) };
    let mut stamp = |name: &str| -> Result<Option<Timestamp>, XmlError> {
        let Some(text) = inner.text_of(name)? else { return Ok(None) };
        let found = parse_timestamp(&text);
        found.map(Some).ok_or_else(|| inner.invalid(&text, "seconds since 1970"))
    };
    let stamps = Timestamps {
        access: stamp("atime")?.unwrap_or_default(),
        modification: stamp("mtime")?.unwrap_or_default(),
        change: stamp("ctime")?.unwrap_or_default(),
        birth: stamp("btime")?,
    };
    inner.finish()?;
    Ok(Some(stamps))
}

fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    Some(Timestamp { seconds: seconds.parse().ok()?, nanoseconds })
}

fn timestamps_element(stamps: &Timestamps) -> Element {
    let text = |stamp: Timestamp| match stamp.nanoseconds {
        0 => stamp.seconds.to_string(),
        nanoseconds => format!("{}.{nanoseconds:09}", stamp.seconds),
    };
    Element::new("timestamps")
        .field("atime", text(stamps.access))
        .field("mtime", text(stamps.modification))
        .field("ctime", text(stamps.change))
        .optional_field("btime", stamps.birth.map(text))
}
