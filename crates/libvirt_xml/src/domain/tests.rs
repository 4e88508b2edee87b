//! Arbitrary domains, and documents that no honest client sends.

use proptest::prelude::*;

use super::Domain;
use crate::XmlFault;
use crate::draw::{Bytes, Draw};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_written_domain_is_read_as_the_same_domain(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        let domain = Domain::draw(&mut Bytes::new(bytes));
        let document = domain.to_xml();
        let read = Domain::parse(&document).map_err(|error| TestCaseError::fail(format!("{error}\n{document}")))?;
        prop_assert_eq!(&read, &domain);
        prop_assert_eq!(read.to_xml(), document);
    }
}

#[test]
fn arbitrary_domains_have_devices() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut disks = 0;
    for _ in 0..50 {
        let bytes: [u8; 4000] = std::array::from_fn(|_| rand_byte(&mut runner));
        disks += Domain::draw(&mut Bytes::new(bytes.to_vec())).devices.disks.len();
    }
    assert!(disks > 10, "{disks}");
}

fn rand_byte(runner: &mut proptest::test_runner::TestRunner) -> u8 {
    let tree = any::<u8>().new_tree(runner).unwrap();
    proptest::strategy::ValueTree::current(&tree)
}

/// A domain with more in its `<devices>`.
fn with_device(device: &str) -> String {
    format!("<domain type='kvm'><name>a</name><os><type>hvm</type></os><devices>{device}</devices></domain>")
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_path() {
    for (device, path) in [
        ("<disk type='network'><target dev='vda'/></disk>", "domain/devices/disk/@type"),
        ("<disk><encryption format='luks'/><target dev='vda'/></disk>", "domain/devices/disk/encryption"),
        ("<disk><target dev='vda' colour='red'/></disk>", "domain/devices/disk/target/@colour"),
        ("<smartcard mode='host'/>", "domain/devices/smartcard"),
        ("<rng model='virtio'><backend model='egd'/></rng>", "domain/devices/rng/backend/@model"),
        ("<watchdog model='i6300esb'><address type='ccw'/></watchdog>", "domain/devices/watchdog/address"),
    ] {
        let error = Domain::parse(&with_device(device)).unwrap_err();
        assert_eq!(error.path, path, "{device}: {error}");
        assert!(matches!(error.fault, XmlFault::Unsupported(_)), "{device}: {error}");
    }
    let outside = "<domain type='kvm' xmlns:qemu='q'><qemu:commandline/></domain>";
    assert_eq!(Domain::parse(outside).unwrap_err().path, "domain/qemu:commandline");
}

#[test]
fn values_that_cannot_be_are_refused_by_their_path() {
    for (device, path) in [
        ("<disk type='tape'><target dev='vda'/></disk>", "domain/devices/disk/@type"),
        ("<disk><target/></disk>", "domain/devices/disk/target"),
        (
            "<interface type='user'><mac address='52:54:00:12:34'/></interface>",
            "domain/devices/interface/mac/@address",
        ),
        (
            "<interface type='user'><mac address='52:54:00:12:34:+6'/></interface>",
            "domain/devices/interface/mac/@address",
        ),
        ("<hub type='usb'><address type='pci' slot='0x20'/></hub>", "domain/devices/hub/address/@slot"),
        ("<hub type='usb'><address type='pci' bus='+1'/></hub>", "domain/devices/hub/address/@bus"),
        ("<shmem name='a'><size unit='E'>99</size></shmem>", "domain/devices/shmem/size"),
        ("<disk><target dev='vda'/><target dev='vdb'/></disk>", "domain/devices/disk/target"),
    ] {
        let error = Domain::parse(&with_device(device)).unwrap_err();
        assert_eq!(error.path, path, "{device}: {error}");
    }
}

#[test]
fn long_chains_and_large_sets_stay_small() {
    let chain = format!("{}{}", "<backingStore type='file'>".repeat(200), "</backingStore>".repeat(200));
    let domain = Domain::parse(&with_device(&format!("<disk><target dev='vda'/>{chain}</disk>"))).unwrap();
    assert_eq!(Domain::parse(&domain.to_xml()).unwrap(), domain);
    let pins: String =
        (0..20_000).map(|vcpu| format!("<vcpupin vcpu='{vcpu}' cpuset='0-16383,^7'/>")).collect();
    let document = format!("<domain type='kvm'><cputune>{pins}</cputune><os><type>hvm</type></os></domain>");
    let domain = Domain::parse(&document).unwrap();
    assert_eq!(domain.cputune.unwrap().vcpu_pins[1].cpuset.to_string(), "0-6,8-16383");
}

#[test]
fn units_are_read_as_libvirt_reads_them() {
    for (text, kib) in [
        ("<memory>524288</memory>", 524_288),
        ("<memory unit='bytes'>1025</memory>", 2),
        ("<memory unit='b'>1024</memory>", 1),
        ("<memory unit='KB'>1000</memory>", 977),
        ("<memory unit='MiB'>512</memory>", 524_288),
        ("<memory unit='M'>512</memory>", 524_288),
        ("<memory unit='g'>1</memory>", 1 << 20),
        ("<memory unit='GB'>1</memory>", 976_563),
    ] {
        let domain =
            Domain::parse(&format!("<domain type='kvm'>{text}<os><type>hvm</type></os></domain>")).unwrap();
        assert_eq!(domain.memory_kib(), kib, "{text}");
    }
    for text in
        ["<memory unit='GiBB'>1</memory>", "<memory>-1</memory>", "<memory unit='E'>16</memory>", "<memory/>"]
    {
        assert!(
            Domain::parse(&format!("<domain type='kvm'>{text}<os><type>hvm</type></os></domain>")).is_err(),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_completed_definition_is_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..6000), q35: bool) {
        let host = super::assign::HostDefaults::default();
        let mut domain = Domain::draw(&mut Bytes::new(bytes));
        domain.os.kind.machine = Some(if q35 { "q35" } else { "pc" }.to_owned());
        let mut random = |buffer: &mut [u8]| buffer.fill(7);
        if super::assign::define(&mut domain, &host, &mut random).is_ok() {
            let _ = super::check::check(&domain);
            let mut again = domain.clone();
            super::assign::define(&mut again, &host, &mut random).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(again.to_xml(), domain.to_xml());
            super::assign::start(&mut again, 1);
            prop_assert_eq!(Domain::parse(&again.to_xml()).map_err(|error| TestCaseError::fail(error.to_string()))?, again);
        }
    }
}
