//! What libvirt makes of the documents that clients send.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::path::PathBuf;

use libvirt_xml::domain::assign::{HostDefaults, define, start};
use libvirt_xml::domain::check::check;
use libvirt_xml::domain::edit::Device;
use libvirt_xml::domain::metadata::Described;
use libvirt_xml::domain::{Domain, controller::ControllerType};
use libvirt_xml::{MacAddress, Uuid, XmlFault};

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name);
    fs::read_to_string(path).unwrap()
}

/// Random bytes that count up.
fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0_u8;
    move |buffer| {
        for byte in buffer {
            next = next.wrapping_add(1);
            *byte = next;
        }
    }
}

fn defined_on(document: &str, host: &HostDefaults) -> Domain {
    let mut domain = Domain::parse(document).unwrap();
    define(&mut domain, host, &mut counting()).unwrap();
    check(&domain).unwrap();
    domain
}

fn defined(document: &str) -> Domain {
    defined_on(document, &HostDefaults::default())
}

/// libvirt's CPU for guests that ask for none, with QEMU's emulation.
fn emulated_host() -> HostDefaults {
    let cpu = "<domain type='qemu'><os><type>hvm</type></os><cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu></domain>";
    HostDefaults { cpu: Domain::parse(cpu).unwrap().cpu, ..HostDefaults::default() }
}

const T1: &str = "<domain type='qemu'>
  <name>t1</name>
  <uuid>bed40049-5889-48df-b11f-7c23e833863b</uuid>
  <memory unit='MiB'>192</memory>
  <vcpu current='1'>2</vcpu>
  <iothreads>1</iothreads>
  <os>
    <type machine='q35'>hvm</type>
    <kernel>/var/lib/libvirt/images/vmlinuz-6.12.95+deb12-cloud-amd64</kernel>
    <initrd>/var/lib/libvirt/images/initrd.gz</initrd>
    <cmdline>console=ttyS0 panic=-1</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'/>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/d1.qcow2'/>
      <target dev='vda'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:86:9c:9a'/>
      <source network='default'/>
    </interface>
    <console type='pty'/>
    <graphics type='vnc' listen='127.0.0.1'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>";

#[test]
fn a_definition_is_completed_as_libvirt_completes_it() {
    let domain = defined(T1);
    assert_eq!(format!("{}\n", domain.to_xml()), sample("domain-inactive-t1.xml"));
}

#[test]
fn a_stored_definition_stays_as_it_is() {
    for document in [sample("domain-inactive-t1.xml"), sample("client-virt-clone-auto-domain_define_xml.xml")]
    {
        let once = Domain::parse(&document).unwrap();
        assert_eq!(defined(&document), once);
    }
}

#[test]
fn virt_installs_document_becomes_what_libvirt_stored() {
    let mut domain =
        defined_on(&sample("client-virt-install-import-domain_define_xml.xml"), &emulated_host());
    // A clone of that very domain, whose identity virt-clone changed.
    let clone = Domain::parse(&sample("client-virt-clone-auto-domain_define_xml.xml")).unwrap();
    domain.name.clone_from(&clone.name);
    domain.uuid = clone.uuid;
    domain.devices.interfaces[0].mac = clone.devices.interfaces[0].mac.clone();
    domain.devices.disks[0].source.clone_from(&clone.devices.disks[0].source);
    assert_eq!(domain.to_xml(), clone.to_xml());
}

#[test]
fn what_clients_send_is_completed_once() {
    for name in fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        if !name.contains("domain") || name.starts_with("domain-running") {
            continue;
        }
        let once = defined(&sample(&name));
        let again = defined(&once.to_xml());
        assert_eq!(again.to_xml(), once.to_xml(), "{name}");
    }
}

#[test]
fn running_domains_have_libvirts_aliases() {
    let running = Domain::parse(&sample("domain-running-t1.xml")).unwrap();
    let mut domain = Domain::parse(&sample("domain-inactive-t1.xml")).unwrap();
    start(&mut domain, 3);
    assert_eq!(domain.id, Some(3));
    let aliases = |domain: &Domain| -> Vec<_> {
        domain.devices.infos().iter().map(|(name, info)| (*name, info.alias.clone())).collect()
    };
    assert_eq!(aliases(&domain), aliases(&running));
}

#[test]
fn a_running_domains_document_can_be_defined_again() {
    let running = Domain::parse(&sample("domain-running-t1.xml")).unwrap();
    let inactive = Domain::parse(&sample("domain-inactive-t1.xml")).unwrap();
    assert_eq!(running.without_live_details(), inactive);
}

#[test]
fn the_tuned_domain_is_honoured_as_written() {
    let domain = defined(&sample("optimized-domain.xml"));
    assert_eq!(domain.machine(), Some("pc-q35-6.2"));
    let balloon = domain.devices.memballoon.as_ref().unwrap();
    assert!(balloon.info.address.is_none(), "no balloon, no place");
    let usb =
        domain.devices.controllers.iter().find(|controller| controller.kind == ControllerType::Usb).unwrap();
    assert_eq!((usb.index, &usb.info.address), (Some(0), &None));
    let pins = &domain.cputune.as_ref().unwrap().iothread_pins;
    assert_eq!(pins[0].cpuset.to_string(), "4-5");
    assert_eq!(
        domain.devices.interfaces[0].mac.as_ref().unwrap().address.to_string().get(..8),
        Some("52:54:00")
    );
    assert_ne!(domain.uuid, Some(Uuid::default()));
}

#[test]
fn a_new_device_leaves_the_others_where_they_are() {
    let before = Domain::parse(&sample("domain-inactive-t1.xml")).unwrap();
    let mut after = before.clone();
    let disk = "<disk type='file'><source file='/b.raw'/><target dev='vdb' bus='virtio'/></disk>";
    Device::parse(disk).unwrap().add_to(&mut after.devices).unwrap();
    define(&mut after, &HostDefaults::default(), &mut counting()).unwrap();
    check(&after).unwrap();
    let place = after.devices.disks[1].info.pci_place().unwrap();
    assert_eq!(place.to_string(), "0000:06:00.0", "the spare port");
    after.devices.disks.pop();
    assert_eq!(after, before);
}

#[test]
fn more_devices_than_ports_get_more_ports() {
    let disks: String = (0..40)
        .map(|number| {
            let letters: String = match number {
                0..26 => char::from(b'a' + number).to_string(),
                _ => format!("a{}", char::from(b'a' + number - 26)),
            };
            format!(
                "<disk type='file'><source file='/{number}'/><target dev='vd{letters}' bus='virtio'/></disk>"
            )
        })
        .collect();
    for machine in ["q35", "pc"] {
        let document = format!(
            "<domain type='kvm'><name>a</name><memory>1024</memory><os><type machine='{machine}'>hvm</type></os><devices>{disks}</devices></domain>"
        );
        let domain = defined(&document);
        let placed = domain.devices.disks.iter().filter(|disk| disk.info.pci_place().is_some()).count();
        assert_eq!(placed, 40, "{machine}");
        assert_eq!(defined(&domain.to_xml()), domain, "{machine}");
    }
}

/// The tuned domain with a part replaced.
fn tuned_with(from: &str, to: &str) -> XmlFaultAt {
    let document = sample("optimized-domain.xml");
    assert!(document.contains(from), "{from}");
    let mut domain = Domain::parse(&document.replacen(from, to, 1)).unwrap();
    let result = define(&mut domain, &HostDefaults::default(), &mut counting()).and_then(|()| check(&domain));
    let error = result.expect_err(to);
    XmlFaultAt { unsupported: matches!(error.fault, XmlFault::Unsupported(_)), path: error.path }
}

struct XmlFaultAt {
    path: String,
    unsupported: bool,
}

#[test]
fn what_does_not_agree_is_refused_by_its_path() {
    let source = "<source file='/var/lib/libvirt/images/vm-disk.qcow2'/>";
    let rng = "<rng model='virtio'>";
    let second = |rest: &str| format!("<disk type='file'><source file='/b'/>{rest}</disk>{rng}");
    for (from, to, path, unsupported) in [
        ("optimized-vm", "a/b", "domain/name", false),
        ("optimized-vm", "..", "domain/name", false),
        ("cores='4'", "cores='3'", "domain/cpu/topology", true),
        ("cpus='0-3'", "cpus='0-4'", "domain/cpu/numa/cell/@cpus", false),
        ("iothread='1'", "iothread='2'", "domain/devices/disk/driver/@iothread", true),
        ("vcpupin vcpu='3'", "vcpupin vcpu='4'", "domain/cputune/vcpupin/@vcpu", false),
        ("vcpupin vcpu='3'", "vcpupin vcpu='2'", "domain/cputune/vcpupin/@vcpu", false),
        (
            "iothreadpin iothread='1'",
            "iothreadpin iothread='7'",
            "domain/cputune/iothreadpin/@iothread",
            false,
        ),
        ("vcpus='0-3'", "vcpus='0-7'", "domain/cputune/vcpusched/@vcpus", false),
        (source, "", "domain/devices/disk", false),
        (source, "<source dev='/dev/sda'/>", "domain/devices/disk/source/@dev", true),
        ("network='default'", "bridge='br0'", "domain/devices/interface/source", false),
        (rng, &second("<target dev='vda' bus='virtio'/>"), "domain/devices/disk/target/@dev", false),
        (
            rng,
            &second("<target dev='vdb' bus='virtio'/><boot order='1'/>"),
            "domain/devices/disk/boot/@order",
            true,
        ),
        (
            rng,
            &second("<target dev='sda' bus='sata'/><address type='drive' unit='40'/>"),
            "domain/devices/disk/address",
            true,
        ),
        (
            rng,
            "<interface type='user'><mac address='53:54:00:00:00:01'/></interface><rng model='virtio'>",
            "domain/devices/interface/mac/@address",
            false,
        ),
        (
            rng,
            "<watchdog model='i6300esb'><address type='pci' bus='0' slot='0x1f' function='2'/></watchdog><rng model='virtio'>",
            "domain/devices/watchdog/address",
            false,
        ),
    ] {
        let fault = tuned_with(from, to);
        assert_eq!((fault.path.as_str(), fault.unsupported), (path, unsupported), "{to}");
    }
}

#[test]
fn metadata_is_kept_and_edited_by_its_namespace() {
    let document = "<domain type='kvm' xmlns:o='http://example.org/o'>
  <name>a</name>
  <metadata>
    <o:note size='2'>x <o:b>y</o:b></o:note>
    <app:a xmlns:app=\"http://example.org/app\">
      <app:b/>
    </app:a>
  </metadata>
  <os><type>hvm</type></os>
</domain>";
    let mut domain = Domain::parse(document).unwrap();
    let note = domain.metadata_element("http://example.org/o").unwrap();
    assert_eq!(note.attribute("xmlns:o"), Some("http://example.org/o"), "the declaration came from the root");
    let printed = domain.to_xml();
    assert!(
        printed.contains("<app:a xmlns:app=\"http://example.org/app\">\n      <app:b/>\n    </app:a>"),
        "{printed}"
    );
    assert_eq!(Domain::parse(&printed).unwrap(), domain);

    domain.set_metadata_element("http://example.org/app", "new", Some("<c><d/></c>")).unwrap();
    let app = domain.metadata_element("http://example.org/app").unwrap();
    assert_eq!(app.name, "new:c");
    domain.set_metadata_element("http://example.org/o", "o", None).unwrap();
    domain.set_metadata_element("http://example.org/app", "new", None).unwrap();
    assert_eq!(domain.metadata, None);
    for key in ["", "a b", "1a", "xmlns", "a:b"] {
        assert!(domain.set_metadata_element("http://example.org/o", key, Some("<c/>")).is_err(), "{key:?}");
    }
}

#[test]
fn devices_are_read_on_their_own() {
    let nic = "<interface type='network'>\n  <mac address='52:54:00:00:00:01'/>\n  <source network='default'/>\n</interface>\n";
    let device = Device::parse(nic).unwrap();
    assert_eq!(device.to_xml(), nic);
    let Device::Interface(interface) = &device else { panic!("{device:?}") };
    assert_eq!(interface.mac.as_ref().unwrap().address, MacAddress([0x52, 0x54, 0, 0, 0, 1]));
    assert_eq!(Device::parse("<emulator>/bin/sh</emulator>").unwrap_err().path, "emulator");
    let mut domain = Domain::parse(&sample("domain-inactive-t1.xml")).unwrap();
    let second = Device::parse("<memballoon model='virtio'/>").unwrap();
    assert!(second.add_to(&mut domain.devices).is_err());
}

#[test]
fn passwords_are_shown_to_nobody_by_accident() {
    let document = sample("domain-inactive-t1.xml").replace("<graphics ", "<graphics passwd='secret' ");
    let domain = Domain::parse(&document).unwrap();
    assert!(domain.to_xml().contains("secret"));
    assert!(!domain.without_secrets().to_xml().contains("secret"));
}
