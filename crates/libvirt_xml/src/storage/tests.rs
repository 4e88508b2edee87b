//! Documents of real clients and of libvirt read, written and read again; hostile ones refused.

use proptest::prelude::*;

use super::*;
use crate::{XmlError, XmlFault, parse};

/// What libvirt 9 tells of a pool.
const POOL: &str = "<pool type='dir'>
  <name>p1</name>
  <uuid>3f9b8415-06e1-4995-a6c5-6c5e3892bd04</uuid>
  <capacity unit='bytes'>270553174016</capacity>
  <allocation unit='bytes'>18862006272</allocation>
  <available unit='bytes'>251691167744</available>
  <source>
  </source>
  <target>
    <path>/var/lib/libvirt/images/pool1</path>
    <permissions>
      <mode>0711</mode>
      <owner>0</owner>
      <group>0</group>
    </permissions>
  </target>
</pool>
";

/// What libvirt 9 tells of a volume.
const VOLUME: &str = "<volume type='file'>
  <name>v1</name>
  <key>/var/lib/libvirt/images/v1</key>
  <capacity unit='bytes'>20971520</capacity>
  <allocation unit='bytes'>200704</allocation>
  <physical unit='bytes'>196616</physical>
  <target>
    <path>/var/lib/libvirt/images/v1</path>
    <format type='qcow2'/>
    <permissions>
      <mode>0600</mode>
      <owner>0</owner>
      <group>0</group>
    </permissions>
    <timestamps>
      <atime>1795360360.757652961</atime>
      <mtime>1795360360.701652964</mtime>
      <ctime>1795360360.701652964</ctime>
      <btime>0</btime>
    </timestamps>
    <clusterSize unit='B'>65536</clusterSize>
  </target>
</volume>
";

fn pool(document: &str) -> Result<PoolDefinition, XmlError> {
    PoolDefinition::from_element(&parse(document)?)
}

fn volume(document: &str) -> Result<VolumeDefinition, XmlError> {
    VolumeDefinition::from_element(&parse(document)?)
}

#[test]
fn what_libvirt_writes_is_written_back_byte_by_byte() {
    assert_eq!(pool(POOL).unwrap().element().to_string(), POOL);
    assert_eq!(volume(VOLUME).unwrap().element().to_string(), VOLUME);
}

#[test]
fn what_clients_send_is_understood() {
    let found =
        pool("<pool type=\"dir\">\n<name>vm</name><target><path>/images/vm/</path></target></pool>").unwrap();
    assert_eq!((found.name.as_str(), found.target.path.as_str(), found.uuid), ("vm", "/images/vm", None));
    assert_eq!(found.source, PoolSource::Directory);
    let found = volume(
        "<volume><name>boot-clone.qcow2</name><capacity>67108864</capacity><allocation>13508608</allocation>\
         <target><format type=\"qcow2\"/><features><lazy_refcounts/></features></target></volume>",
    )
    .unwrap();
    assert_eq!((found.capacity, found.allocation), (Some(67_108_864), Preallocated::Bytes(13_508_608)));
    assert_eq!(found.target.format, Some(VolumeFormat::Qcow2));
    let expected = VolumeFeatures { lazy_refcounts: true, extended_l2: false };
    assert_eq!(found.target.features, Some(expected));
    let found =
        volume("<volume><name>a b</name><capacity unit='MiB'>3</capacity><backingStore/></volume>").unwrap();
    assert_eq!((found.capacity, found.allocation), (Some(3 << 20), Preallocated::All));
    assert_eq!((found.name.as_str(), found.backing), ("a b", None));
}

#[test]
fn every_kind_of_pool_keeps_its_source() {
    for (source, written) in [
        ("type='fs'", "<device path='/dev/vdb1'/><format type='ext4'/>"),
        (
            "type='netfs'",
            "<host name='nfs.example'/><dir path='/export'/><format type='nfs'/><protocol ver='4.2'/>",
        ),
        ("type='netfs'", "<host name='win.example'/><dir path='share'/><format type='cifs'/>"),
        (
            "type='logical'",
            "<device path='/dev/vdb'/><device path='/dev/vdc'/><name>vg0</name><format type='lvm2'/>",
        ),
    ] {
        let document = format!(
            "<pool {source}><name>p</name><source>{written}</source><target><path>/dev/vg0</path></target></pool>"
        );
        let found = pool(&document).unwrap();
        let text = found.element().to_string().replace("\n    ", "").replace("\n  ", "");
        assert!(text.contains(written), "{text}");
        assert_eq!(pool(&found.element().to_string()).unwrap(), found);
    }
}

#[test]
fn a_volume_group_gives_its_pool_a_name_and_a_place() {
    let found = pool("<pool type='logical'><source><name>vg0</name></source></pool>").unwrap();
    assert_eq!((found.name.as_str(), found.target.path.as_str()), ("vg0", "/dev/vg0"));
    let found =
        pool("<pool type='logical'><name>vg1</name><target><path>/etc</path></target></pool>").unwrap();
    assert_eq!(found.target.path, "/dev/vg1", "the path is LVM's choice, not the client's");
}

#[test]
fn what_can_not_be_honoured_is_refused_by_its_name() {
    for kind in ["rbd", "iscsi", "zfs", "disk", "gluster", "vstorage"] {
        let error = pool(&format!("<pool type='{kind}'><name>p</name></pool>")).unwrap_err();
        assert!(matches!(&error.fault, XmlFault::Unsupported(what) if what.contains(kind)), "{error}");
    }
    for (document, named) in [
        ("<pool type='dir'><name>p</name><target><path>/p</path></target><new/></pool>", "pool/new"),
        ("<volume><name>v</name><target><encryption format='luks'/></target></volume>", "encryption"),
        (
            "<volume><name>v</name><target><compat>0.10</compat><features><extended_l2/></features></target></volume>",
            "0.10",
        ),
    ] {
        let read =
            if document.starts_with("<pool") { pool(document).map(drop) } else { volume(document).map(drop) };
        let error = read.unwrap_err();
        assert!(matches!(error.fault, XmlFault::Unsupported(_)), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn hostile_documents_are_refused() {
    let pools = [
        "<pool/>",
        "<pool type='nonsense'><name>p</name></pool>",
        "<pool type='dir'><name>a/b</name><target><path>/p</path></target></pool>",
        "<pool type='dir'><name>..</name><target><path>/p</path></target></pool>",
        "<pool type='dir'><name>p</name></pool>",
        "<pool type='dir'><name>p</name><target><path>relative</path></target></pool>",
        "<pool type='dir'><name>p</name><target><path>/a/../etc</path></target></pool>",
        "<pool type='dir'><name>p</name><uuid>no</uuid><target><path>/p</path></target></pool>",
        "<pool type='fs'><name>p</name><target><path>/p</path></target></pool>",
        "<pool type='fs'><name>p</name><source><device path='vdb'/></source><target><path>/p</path></target></pool>",
        "<pool type='netfs'><name>p</name><source><host name='-o,x'/><dir path='/e'/></source><target><path>/p</path></target></pool>",
        "<pool type='netfs'><name>p</name><source><host name='h'/><dir path='e'/></source><target><path>/p</path></target></pool>",
        "<pool type='netfs'><name>p</name><source><host name='h'/><dir path='/e'/><protocol ver='4,exec'/></source><target><path>/p</path></target></pool>",
        "<pool type='logical'><source><name>-f</name></source></pool>",
        "<pool type='logical'><source><name>a/b</name></source></pool>",
        "<pool type='dir'><name>p</name><target><path>/p</path><permissions><mode>9</mode></permissions></target></pool>",
        "<pool type='dir'><name>p</name><target><path>/p</path><permissions><owner>-2</owner></permissions></target></pool>",
    ];
    for document in pools {
        assert!(pool(document).is_err(), "{document}");
    }
    let volumes = [
        "<volume/>",
        "<volume><name>..</name></volume>",
        "<volume><name>a/b</name></volume>",
        "<volume><name>/etc/passwd</name></volume>",
        "<volume><name>a&#10;b</name></volume>",
        "<volume><name>v</name><capacity>-1</capacity></volume>",
        "<volume><name>v</name><capacity unit='EiB'>8</capacity></volume>",
        "<volume><name>v</name><capacity unit='furlong'>8</capacity></volume>",
        "<volume><name>v</name><target><format type='nonsense'/></target></volume>",
        "<volume><name>v</name><backingStore><format type='raw'/></backingStore></volume>",
        "<volume type='nonsense'><name>v</name></volume>",
        "<volume><name>v</name><target><timestamps><atime>1.1234567890</atime></timestamps></target></volume>",
    ];
    for document in volumes {
        assert!(volume(document).is_err(), "{document}");
    }
    let long = format!("<volume><name>{}</name></volume>", "x".repeat(256));
    assert!(volume(&long).is_err());
}

#[test]
fn found_sources_are_read_as_they_were_written() {
    let query = SourceQuery::from_element(&parse("<source><host name='h'/></source>").unwrap()).unwrap();
    assert_eq!(query.host.as_deref(), Some("h"));
    let sources = PoolSources(vec![
        PoolSource::Logical { volume_group: "a".into(), devices: vec!["/dev/vdb".into()] },
        PoolSource::Logical { volume_group: "b".into(), devices: Vec::new() },
    ]);
    let element = parse(&sources.element().to_string()).unwrap();
    assert_eq!(PoolSources::from_element(&element, "logical").unwrap(), sources);
    assert!(PoolSources::from_element(&element, "rbd").is_err());
}

#[test]
fn capabilities_say_what_works_here() {
    let capabilities = PoolCapabilities { supported: vec![PoolKind::Directory] };
    let text = capabilities.element().to_string();
    assert!(text.contains("<pool type='dir' supported='yes'>"), "{text}");
    assert!(text.contains("<pool type='logical' supported='no'>"), "{text}");
    assert!(text.contains("<value>qcow2</value>"), "{text}");
}

fn permissions() -> impl Strategy<Value = Permissions> {
    let id = || proptest::option::of(0u32..u32::MAX);
    (proptest::option::of(0u32..0o10000), id(), id(), proptest::option::of("[a-z:_]{1,20}"))
        .prop_map(|(mode, owner, group, label)| Permissions { mode, owner, group, label })
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-zA-Z0-9 &<_-]{1,8}[a-z0-9]){1,4}"
}

fn pools() -> impl Strategy<Value = PoolDefinition> {
    let source = prop_oneof![
        Just(PoolSource::Directory),
        (path(), proptest::sample::select(FileSystem::ALL))
            .prop_map(|(device, format)| PoolSource::FileSystem { device, format }),
        ("[a-z0-9.:-]{0,8}[a-z]", path(), proptest::sample::select(NetworkFileSystem::ALL)).prop_map(
            |(host, directory, format)| {
                let host = host.trim_start_matches('-').to_owned();
                let protocol_version = (format == NetworkFileSystem::Nfs).then(|| "4.1".to_owned());
                PoolSource::NetworkFileSystem(NetworkSource { host, directory, format, protocol_version })
            }
        ),
        ("[a-z0-9_][a-z0-9+_.-]{0,8}", proptest::collection::vec(path(), 0..3))
            .prop_map(|(volume_group, devices)| PoolSource::Logical { volume_group, devices }),
    ];
    let sizes = (0..1u64 << 62, 0..1u64 << 62, 0..1u64 << 62);
    (
        "[^/\\p{C}\\p{Z}]{3,12}",
        any::<Option<u128>>(),
        sizes,
        any::<Option<bool>>(),
        source,
        path(),
        permissions(),
    )
        .prop_map(
            |(name, uuid, (capacity, allocation, available), copy_on_write, source, path, permissions)| {
                let path = match &source {
                    PoolSource::Logical { volume_group, .. } => format!("/dev/{volume_group}"),
                    _ => path,
                };
                PoolDefinition {
                    name,
                    uuid: uuid.map(uuid::Uuid::from_u128),
                    sizes: PoolSizes { capacity, allocation, available },
                    copy_on_write,
                    source,
                    target: PoolTarget { path, permissions },
                }
            },
        )
}

fn volumes() -> impl Strategy<Value = VolumeDefinition> {
    let size = || proptest::option::of(0..1u64 << 62);
    let stamp = || {
        (0u64..1 << 40, 0u32..1_000_000_000)
            .prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
    };
    let stamps = (stamp(), stamp(), stamp(), proptest::option::of(stamp()))
        .prop_map(|(access, modification, change, birth)| Timestamps { access, modification, change, birth });
    let stamps = || proptest::option::of(stamps.clone());
    let format = || proptest::option::of(proptest::sample::select(VolumeFormat::ALL));
    let backing =
        (path(), format(), permissions(), stamps()).prop_map(|(path, format, permissions, timestamps)| {
            BackingStore { path, format, permissions, timestamps }
        });
    let extents = proptest::collection::vec(
        (0..3usize, 0..100u64, 0..100u64).prop_map(|(device, start, end)| Extent {
            device: format!("/dev/vd{}", ["a", "b", "c"][device]),
            start,
            end,
        }),
        0..4,
    );
    let target = (
        (proptest::option::of(path()), format(), permissions(), stamps()),
        any::<bool>(),
        size(),
        any::<(bool, bool)>(),
    )
        .prop_map(
            |((path, format, permissions, timestamps), no_copy_on_write, cluster_bytes, features)| {
                VolumeTarget {
                    path,
                    format,
                    permissions,
                    timestamps,
                    compatibility: features.0.then_some(Compatibility::New),
                    no_copy_on_write,
                    cluster_bytes,
                    features: features.0.then_some(VolumeFeatures {
                        lazy_refcounts: cluster_bytes.is_some(),
                        extended_l2: features.1,
                    }),
                }
            },
        );
    let kind = proptest::option::of(proptest::sample::select(VolumeKind::ALL));
    (
        (kind, "[^/\\p{C}\\p{Z}]{3,12}", proptest::option::of(path())),
        extents,
        (size(), size(), size()),
        target,
        proptest::option::of(backing),
    )
        .prop_map(
            |((kind, name, key), mut extents, (capacity, allocation, physical), target, backing)| {
                // Parts of one device stand together.
                extents.sort_by(|first, second| first.device.cmp(&second.device));
                let allocation = allocation.map_or(Preallocated::All, Preallocated::Bytes);
                VolumeDefinition { kind, name, key, extents, capacity, allocation, physical, target, backing }
            },
        )
}

proptest! {
    #[test]
    fn a_written_pool_is_read_as_the_same_pool(definition in pools()) {
        let text = definition.element().to_string();
        prop_assert_eq!(pool(&text).map_err(|error| format!("{error}: {text}")), Ok(definition));
    }

    #[test]
    fn a_written_volume_is_read_as_the_same_volume(definition in volumes()) {
        let text = definition.element().to_string();
        prop_assert_eq!(volume(&text).map_err(|error| format!("{error}: {text}")), Ok(definition));
    }
}
