//! LVM, by programs that stand in for its commands and write down how they were called: the kernel of a test machine often
//! lacks the device mapper. What they print was written by hand after lvmreport(7).

use std::os::unix::fs::PermissionsExt;

use host_storage::{BuildMode, Commands, DeleteMode, ResizeOptions};
use libvirt_xml::storage::{PoolKind, PoolSources, SourceQuery, VolumeKind};

use super::*;

/// Programs in a directory, and a log of their calls.
struct Lvm {
    directory: TempDir,
    storage: Storage,
    pool: Arc<Pool>,
}

const VOLUMES: &str = r#"{"report":[{"lv":[
{"lv_name":"disk1","lv_uuid":"AbCdEf-0","lv_attr":"-wi-a-----","origin":""},
{"lv_name":"snap","lv_uuid":"AbCdEf-1","lv_attr":"swi-a-s---","origin":"base"},
{"lv_name":"base","lv_uuid":"AbCdEf-2","lv_attr":"owi-a-s---","origin":""},
{"lv_name":"thin","lv_uuid":"AbCdEf-3","lv_attr":"twi-aotz--","origin":""},
{"lv_name":"off","lv_uuid":"AbCdEf-4","lv_attr":"-wi-------","origin":""}]}]}"#;

impl Lvm {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, "").unwrap();
        let answers = [
            ("vgs", r#"{"report":[{"vg":[{"vg_size":"1073741824","vg_free":"536870912"}]}]}"#),
            ("lvs", VOLUMES),
            (
                "pvs",
                r#"{"report":[{"pv":[{"pv_name":"/dev/vdb","vg_name":"vg0"},{"pv_name":"/dev/vdc","vg_name":""}]}]}"#,
            ),
            ("vgchange", ""),
            ("vgcreate", ""),
            ("vgremove", ""),
            ("pvcreate", ""),
            ("pvremove", ""),
            ("lvcreate", ""),
            ("lvremove", ""),
            ("lvresize", ""),
        ];
        for (program, answer) in answers {
            program_at(directory.path(), program, &format!("echo '{answer}'"), &log);
        }
        program_at(directory.path(), "blkid", "exit 2", &log);
        let commands = Commands::within(vec![directory.path().to_owned()]);
        let storage = Storage::new(StorageOptions { commands, ..StorageOptions::default() });
        let definition = pool(
            "<pool type='logical'><name>vg0</name><source><device path='/dev/vdb'/><device path='/dev/vdc'/></source></pool>",
        );
        let pool = storage.define(definition).unwrap();
        Self { directory, storage, pool }
    }

    /// What was called since the last time.
    fn calls(&self) -> Vec<String> {
        let log = self.directory.path().join("log");
        let calls = std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
        std::fs::write(&log, "").unwrap();
        calls
    }
}

pub(crate) fn program_at(directory: &Path, name: &str, body: &str, log: &Path) {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\necho \"{name} $*\" >> '{}'\n{body}\n", log.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_volume_group_is_made_activated_listed_and_removed() {
    let lvm = Lvm::new();
    lvm.storage.build(&lvm.pool, BuildMode::NoOverwrite).unwrap();
    let calls = lvm.calls();
    assert!(calls[0].starts_with("blkid") && calls[1].starts_with("blkid"), "{calls:?}");
    assert_eq!(
        calls[2..],
        [
            "pvcreate --yes --force /dev/vdb",
            "pvcreate --yes --force /dev/vdc",
            "vgcreate vg0 /dev/vdb /dev/vdc"
        ]
    );
    lvm.storage.start(&lvm.pool, None).unwrap();
    assert_eq!(lvm.calls()[0], "vgchange --activate ly vg0");
    let volumes = lvm.pool.volumes().unwrap();
    let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["base", "disk1", "snap"], "neither pools of thin volumes nor what is not active");
    assert_eq!(volumes[1].key, "AbCdEf-0");
    assert_eq!((volumes[1].path.to_str(), volumes[1].kind), (Some("/dev/vg0/disk1"), VolumeKind::Block));
    assert_eq!(lvm.pool.info().sizes.allocation, 512 * MIB);
    lvm.storage.stop(&lvm.pool).unwrap();
    lvm.storage.delete(&lvm.pool).unwrap();
    assert_eq!(
        lvm.calls(),
        [
            "vgchange --activate ln vg0",
            "vgremove --force vg0",
            "pvremove --yes /dev/vdb",
            "pvremove --yes /dev/vdc"
        ]
    );
}

#[test]
fn devices_are_given_back_when_the_group_can_not_be_made() {
    let lvm = Lvm::new();
    let log = lvm.directory.path().join("log");
    program_at(lvm.directory.path(), "vgcreate", "echo 'it is in use' >&2; exit 5", &log);
    let message = lvm.storage.build(&lvm.pool, BuildMode::Overwrite).unwrap_err().to_string();
    assert_eq!(message, "vgcreate vg0 /dev/vdb /dev/vdc failed (exit status: 5): it is in use");
    assert_eq!(lvm.calls()[3..], ["pvremove --yes /dev/vdc", "pvremove --yes /dev/vdb"]);
    program_at(lvm.directory.path(), "blkid", "echo ext4", &log);
    let error = lvm.storage.build(&lvm.pool, BuildMode::Plain).unwrap_err();
    assert!(matches!(error, StorageError::AlreadyBuilt(_)), "{error}");
    assert_eq!(lvm.calls().len(), 1, "nothing but the look");
}

#[test]
fn logical_volumes_are_made_with_what_was_asked_for() {
    let lvm = Lvm::new();
    lvm.storage.start(&lvm.pool, None).unwrap();
    lvm.calls();
    let create = |document: &str| {
        lvm.storage.create_volume(&lvm.pool, &volume(document), CreateOptions::default(), &mut go_on)
    };
    // The stand-in's list does not grow: the new volume is not found.
    for (document, call) in [
        (
            "<volume><name>new</name><capacity unit='MiB'>8</capacity></volume>",
            "lvcreate --yes --name new --size 8388608b vg0",
        ),
        (
            "<volume><name>new</name><capacity unit='MiB'>8</capacity><allocation unit='MiB'>1</allocation></volume>",
            "lvcreate --yes --name new --type snapshot --virtualsize 8388608b --size 1048576b vg0",
        ),
        (
            "<volume><name>new</name><capacity unit='MiB'>8</capacity>\
             <backingStore><path>/dev/vg0/disk1</path></backingStore></volume>",
            "lvcreate --yes --name new --snapshot --size 8388608b vg0/disk1",
        ),
    ] {
        let error = create(document).unwrap_err();
        assert!(matches!(error, StorageError::NoSuchVolume(_)), "{error}");
        assert_eq!(lvm.calls()[0], call);
    }
    for document in [
        "<volume><name>-f</name><capacity>512</capacity></volume>",
        "<volume><name>a b</name><capacity>512</capacity></volume>",
        "<volume><name>disk1</name><capacity>512</capacity></volume>",
        "<volume><name>q</name><capacity>512</capacity><target><format type='qcow2'/></target></volume>",
        "<volume><name>q</name><capacity>512</capacity><backingStore><path>/dev/vda</path></backingStore></volume>",
    ] {
        create(document).unwrap_err();
        assert!(lvm.calls().is_empty(), "{document}");
    }
    // There is no such device on this host.
    let resized = lvm.storage.resize_volume(&lvm.pool, "disk1", MIB, ResizeOptions::default());
    assert!(matches!(resized, Err(StorageError::System { .. })), "{resized:?}");
    assert!(lvm.storage.delete_volume(&lvm.pool, "base", DeleteMode::Normal, &mut go_on).is_err());
    assert!(lvm.calls().iter().all(|call| !call.starts_with("lvremove")));
}

#[test]
fn volume_groups_of_the_host_are_found() {
    let lvm = Lvm::new();
    let found = lvm.storage.find_sources(PoolKind::Logical, &SourceQuery::default()).unwrap();
    let text = found.element().to_string();
    assert!(
        text.contains("<name>vg0</name>") && text.contains("/dev/vdb") && !text.contains("/dev/vdc"),
        "{text}"
    );
    assert_eq!(PoolSources::from_element(&parse(&text).unwrap(), "logical").unwrap(), found);
}
