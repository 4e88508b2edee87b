//! What a host can do with pools (`virConnectGetStoragePoolCapabilities`).

use super::{FileSystem, NetworkFileSystem, PoolKind, VolumeFormat};
use crate::tree::Element;

/// Kinds of pools, and whether this host has what they need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolCapabilities {
    /// Kinds that work here.
    pub supported: Vec<PoolKind>,
}

impl PoolCapabilities {
    /// The `<storagepoolCapabilities>` as libvirt writes them: every kind that is known, with its source and volume formats.
    pub fn element(&self) -> Element {
        let pools = PoolKind::ALL.iter().map(|kind| {
            let supported = if self.supported.contains(kind) { "yes" } else { "no" };
            Element::new("pool").with("type", kind).with("supported", supported).children_from(details(*kind))
        });
        Element::new("storagepoolCapabilities").children_from(pools)
    }
}

fn details(kind: PoolKind) -> Vec<Element> {
    let values = |name: &str, values: &mut dyn Iterator<Item = &'static str>| {
        Element::new("enum")
            .with("name", name)
            .children_from(values.map(|value| Element::new("value").text(value)))
    };
    let sources = match kind {
        PoolKind::Directory => None,
        PoolKind::FileSystem => {
            Some(values("sourceFormatType", &mut FileSystem::ALL.iter().map(|format| format.name())))
        }
        PoolKind::NetworkFileSystem => {
            Some(values("sourceFormatType", &mut NetworkFileSystem::ALL.iter().map(|format| format.name())))
        }
        PoolKind::Logical => Some(values("sourceFormatType", &mut ["unknown", "lvm2"].into_iter())),
    };
    let (default, targets) = match kind {
        // Volumes of a volume group are devices: they have no format.
        PoolKind::Logical => return vec![options("poolOptions", Some("lvm2"), sources)],
        PoolKind::FileSystem => (Some("auto"), true),
        PoolKind::NetworkFileSystem => (Some("auto"), true),
        PoolKind::Directory => (None, true),
    };
    let formats = values("targetFormatType", &mut VolumeFormat::ALL.iter().map(|format| format.name()));
    let mut parts = Vec::new();
    if sources.is_some() {
        parts.push(options("poolOptions", default, sources));
    }
    if targets {
        parts.push(options("volOptions", Some("raw"), Some(formats)));
    }
    parts
}

fn options(name: &str, default: Option<&str>, values: Option<Element>) -> Element {
    Element::new(name)
        .children_from(default.map(|default| Element::new("defaultFormat").with("type", default)))
        .children_from(values)
}
