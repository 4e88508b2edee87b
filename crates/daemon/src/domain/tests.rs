//! Definitions without protocol: what is kept, taken back, and changed.

use libvirt_xml::domain::assign::HostDefaults;
use libvirt_xml::domain::edit::Device;
use libvirt_xml::{NumberSet, Value};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::{self, Store};

const DOCUMENT: &str = "<domain type='kvm'><name>one</name><memory unit='MiB'>64</memory><vcpu>4</vcpu>
    <os><type machine='q35'>hvm</type></os><devices>
    <disk type='file'><source file='/nowhere/a.img'/><target dev='vda'/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/></interface>
    <interface type='network'><mac address='52:54:00:00:00:02'/><source network='default'/></interface>
    </devices></domain>";

fn store() -> (TempDir, Store, Vec<Record>) {
    let directory = tempfile::tempdir().unwrap();
    let (store, records) = Store::open(directory.path()).unwrap();
    (directory, store, records)
}

fn definition() -> Definition {
    let domains = Domains::restore(HostDefaults::default(), Vec::new()).0;
    let mut definition = Definition::parse(DOCUMENT).unwrap();
    domains.complete(&mut definition).unwrap();
    definition
}

#[tokio::test]
async fn a_restored_domain_is_the_one_that_was_defined() {
    let (directory, store, records) = store();
    let domains = Domains::restore(HostDefaults::default(), records).0;
    let change = domains.define(&store, DOCUMENT).unwrap();
    let (before, defined) = domains.settle(change).await.unwrap();
    assert!(before.is_none());
    let defined = defined.unwrap();
    drop(store);
    let (_store, records) = Store::open(directory.path()).unwrap();
    let restored = Domains::restore(HostDefaults::default(), records).0;
    let domain = restored.by_uuid(defined.uuid()).unwrap();
    assert_eq!(domain.document(Form::Defined, true).unwrap(), defined.document(Form::Present, true).unwrap());
    assert_eq!(domain.summary(Form::Defined).unwrap(), defined.summary(Form::Defined).unwrap());
    assert_eq!(restored.by_name("one").unwrap().uuid(), defined.uuid());
}

#[tokio::test]
async fn what_the_store_refuses_is_taken_back() {
    let (_directory, store, records) = store();
    let domains = Domains::restore(HostDefaults::default(), records).0;
    // The store knows of another domain with the name.
    let other = Record {
        kind: Kind::Domain,
        uuid: [7; 16],
        name: "one".to_owned(),
        definition: Some(DOCUMENT.to_owned()),
        autostart: false,
        live: None,
    };
    store.submit(vec![store::Change::Put(other)]).remembered().await.unwrap();
    let change = domains.define(&store, DOCUMENT).unwrap();
    assert!(matches!(domains.settle(change).await, Err(DomainError::Store(_))));
    assert!(domains.all().is_empty() && domains.by_name("one").is_none());
}

#[tokio::test]
async fn a_rename_that_the_store_refuses_leaves_the_old_name() {
    let (_directory, store, records) = store();
    let domains = Domains::restore(HostDefaults::default(), records).0;
    let change = domains.define(&store, DOCUMENT).unwrap();
    let (_, domain) = domains.settle(change).await.unwrap();
    let other = Record { uuid: [7; 16], name: "two".to_owned(), ..domain.as_ref().unwrap().record() };
    store.submit(vec![store::Change::Put(other)]).remembered().await.unwrap();
    let change = domains.rename(&store, domain.as_ref().unwrap().uuid(), "two").unwrap();
    assert!(domains.settle(change).await.is_err());
    assert_eq!(domains.by_name("one").unwrap().uuid(), domain.unwrap().uuid());
    assert!(domains.by_name("two").is_none());
}

#[test]
fn a_device_is_found_by_what_is_said_of_it() {
    let mut definition = definition();
    let device = |document: &str| Device::parse(document).unwrap();
    let any = device("<interface type='network'><source network='default'/></interface>");
    assert!(matches!(device::detach(&mut definition, &any), Err(DomainError::Ambiguous(_))));
    let unknown = device("<interface type='network'><mac address='52:54:00:00:00:03'/></interface>");
    assert!(matches!(device::detach(&mut definition, &unknown), Err(DomainError::NoDevice(_))));
    let second = device("<interface type='network'><mac address='52:54:00:00:00:02'/></interface>");
    device::detach(&mut definition, &second).unwrap();
    device::detach(&mut definition, &any).unwrap();
    assert!(definition.devices.interfaces.is_empty());
}

#[test]
fn an_updated_device_stays_in_its_place() {
    let mut definition = definition();
    let place = definition.devices.disks[0].info.address.clone();
    assert!(place.is_some());
    let new = "<disk type='file'><source file='/nowhere/b.img'/><target dev='vda' bus='virtio'/></disk>";
    device::update(&mut definition, Device::parse(new).unwrap()).unwrap();
    assert_eq!(definition.devices.disks[0].info.address, place);
    assert_eq!(Summary::of(&definition).disks[0].path.as_deref(), Some("/nowhere/b.img"));
    let rng =
        Device::parse("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>").unwrap();
    assert!(matches!(device::update(&mut definition, rng), Err(DomainError::Unsupported(_))));
}

#[test]
fn a_device_with_the_users_alias_is_detached_by_it() {
    let mut definition = definition();
    let document =
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='ua-r'/></rng>";
    device::attach(&mut definition, Device::parse(document).unwrap()).unwrap();
    device::detach_alias(&mut definition, "ua-r").unwrap();
    assert!(definition.devices.rngs.is_empty());
    assert!(matches!(device::detach_alias(&mut definition, "ua-r"), Err(DomainError::NoDevice(_))));
}

#[test]
fn pins_go_with_their_vcpus_and_leave_nothing_behind() {
    let mut definition = definition();
    let set = |text: &str| Some(NumberSet::read(text).unwrap());
    tune::pin_vcpu(&mut definition, 3, set("1")).unwrap();
    tune::pin_emulator(&mut definition, set("0-1"));
    assert_eq!(tune::vcpu_places(&definition, 3), set("1").as_ref());
    assert_eq!(tune::vcpu_places(&definition, 0), None);
    tune::set_max_vcpus(&mut definition, 2).unwrap();
    assert!(definition.cputune.as_ref().unwrap().vcpu_pins.is_empty());
    tune::pin_emulator(&mut definition, None);
    assert_eq!(definition.cputune, None);
    assert!(tune::pin_vcpu(&mut definition, 2, None).is_err());
}

#[test]
fn vcpus_that_contradict_the_topology_are_refused() {
    let document =
        DOCUMENT.replace("<devices>", "<cpu><topology sockets='1' cores='4' threads='1'/></cpu><devices>");
    let mut definition = Definition::parse(&document).unwrap();
    let wrong = tune::set_max_vcpus(&mut definition, 3).unwrap_err().to_string();
    assert_eq!(wrong, "CPU topology doesn't match the desired vcpu count");
    tune::set_max_vcpus(&mut definition, 4).unwrap();
}

proptest! {
    #[test]
    fn whatever_numbers_are_accepted_the_definition_still_passes_its_checks(
        memory in 0_u64..300_000, most in 0_u64..300_000, vcpus in 0_u32..10, max_vcpus in 0_u32..10,
    ) {
        let domains = Domains::restore(HostDefaults::default(), Vec::new()).0;
        let mut definition = definition();
        let _ = tune::set_max_memory(&mut definition, most);
        let _ = tune::set_memory(&mut definition, memory);
        let _ = tune::set_max_vcpus(&mut definition, max_vcpus);
        let _ = tune::set_vcpus(&mut definition, vcpus);
        prop_assert!(domains.complete(&mut definition).is_ok());
        let again = Definition::parse(&definition.to_xml()).unwrap();
        prop_assert_eq!(again, definition);
    }
}
