//! Capabilities, as a real libvirt prints them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::path::PathBuf;

use libvirt_xml::capabilities::Capabilities;
use libvirt_xml::domain_capabilities::DomainCapabilities;
use libvirt_xml::{Fields, Model, parse};

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn capabilities_are_written_as_libvirt_writes_them() {
    for name in ["capabilities-tcg.xml", "capabilities-with-kvm.xml"] {
        let document = sample(name);
        let capabilities =
            Capabilities::read(Fields::of_root(&parse(&document).unwrap(), "capabilities").unwrap()).unwrap();
        assert_eq!(capabilities.to_xml().trim_end(), document.trim_end(), "{name}");
    }
}

#[test]
fn domain_capabilities_are_written_as_libvirt_writes_them() {
    for name in [
        "domcapabilities-kvm-pc-default.xml",
        "domcapabilities-qemu-pc.xml",
        "domcapabilities-qemu-q35.xml",
        "domcapabilities-tcg-default.xml",
    ] {
        let document = sample(name);
        let root = parse(&document).unwrap();
        let fields = Fields::of_root(&root, "domainCapabilities").unwrap();
        let capabilities = DomainCapabilities::read(fields).unwrap();
        assert_eq!(capabilities.to_xml().trim_end(), document.trim_end(), "{name}");
    }
}
