//! The domains: definitions as virt-install writes them for Debian 12 (`--import --disk --network bridge=br0 --graphics vnc`, without the
//! path of an emulator, which is each daemon's own), and their disks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const TEMPLATE: &str = include_str!("domain.xml");

/// Definitions, all different.
#[derive(Debug)]
pub(super) struct Documents(Vec<String>);

impl Documents {
    /// Writes definitions and the disks that they name.
    pub(super) fn make(folder: &Path, count: usize) -> Result<Self> {
        let images = folder.join("images");
        fs::create_dir(&images).context("a folder for disks")?;
        let first = images.join("image.qcow2");
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]).arg(&first).arg("20G");
        ensure!(command.status().context("executing qemu-img")?.success(), "qemu-img can't make a disk");
        // Without KVM libvirtd takes no machine that wants it.
        let kind = if Path::new("/dev/kvm").exists() { "kvm" } else { "qemu" };
        let make = |number| {
            let disk = images.join(format!("{}.qcow2", name(number)));
            // Nobody writes: one image with many names will do.
            fs::hard_link(&first, &disk).context("a name for a disk")?;
            Ok(document(kind, number, &disk))
        };
        (0..count).map(make).collect::<Result<_>>().map(Self)
    }

    /// The definitions.
    pub(super) fn all(&self) -> &[String] {
        &self.0
    }
}

fn name(number: usize) -> String {
    format!("guest-{number:05}")
}

fn document(kind: &str, number: usize, disk: &Path) -> String {
    let [.., high, middle, low] = number.to_be_bytes();
    TEMPLATE
        .replace("{type}", kind)
        .replace("{name}", &name(number))
        // Version 4, variant 1 (RFC 9562).
        .replace("{uuid}", &format!("5d3f8f0a-7d52-4e0b-9c1d-{number:012x}"))
        .replace("{mac}", &format!("52:54:00:{high:02x}:{middle:02x}:{low:02x}"))
        .replace("{disk}", &disk.display().to_string())
}

#[cfg(test)]
mod tests {
    use libvirt_xml::domain::Domain;

    use super::*;

    #[test]
    fn definitions_are_complete_and_have_their_own_name_uuid_address_and_disk() {
        let read = |number: usize| {
            let text = document("kvm", number, Path::new(&format!("/images/{number}.qcow2")));
            assert!(!text.contains('{'), "{text}");
            Domain::parse(&text).unwrap()
        };
        let (one, two) = (read(255), read(256));
        assert_eq!(one.name.as_deref(), Some("guest-00255"));
        assert_ne!(one.uuid, two.uuid);
        assert_ne!(one.devices.interfaces[0].mac, two.devices.interfaces[0].mac);
        assert_ne!(one.devices.disks[0].source, two.devices.disks[0].source);
    }
}
