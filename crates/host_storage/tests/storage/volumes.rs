//! Volumes of a directory.

use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use block_io::{RawDisk, RawOptions};
use host_storage::{DeleteMode, FormatOrigin, Piece, ResizeOptions, WipeAlgorithm};
use libvirt_xml::storage::{VolumeFormat, VolumeKind};

use super::*;

/// The header of a small qcow2 image, as a guest would write it.
fn qcow2_header() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    let parameters = block_io::qcow2::Qcow2Parameters::new(MIB);
    block_io::Qcow2Disk::create(&path, &parameters).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn a_raw_volume_has_its_size_mode_and_storage() {
    let host = Host::new();
    let summary = host.create(&raw("sparse", MIB + 1)).unwrap();
    assert_eq!((summary.kind, summary.path), (VolumeKind::File, host.path("sparse")));
    let found = std::fs::metadata(host.path("sparse")).unwrap();
    assert_eq!((found.len(), found.blocks()), (MIB + 512, 0), "whole sectors, nothing reserved");
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    host.create(
        "<volume><name>full</name><capacity unit='MiB'>1</capacity>\
         <target><permissions><mode>0640</mode></permissions></target></volume>",
    )
    .unwrap();
    let found = std::fs::metadata(host.path("full")).unwrap();
    assert!(found.blocks() * 512 >= MIB, "all of it is reserved when no allocation is given");
    assert_eq!(found.permissions().mode() & 0o7777, 0o640);
    host.create(&raw("empty", 0)).unwrap();
    assert_eq!(host.volumes(), ["empty", "full", "sparse"]);
}

#[test]
fn a_qcow2_volume_is_what_was_asked_for_and_tells_it() {
    let host = Host::new();
    host.create(
        "<volume><name>v</name><capacity unit='GiB'>1</capacity><target><format type='qcow2'/><compat>1.1</compat>\
         <clusterSize unit='KiB'>128</clusterSize><features><lazy_refcounts/><extended_l2/></features></target></volume>",
    )
    .unwrap();
    let told = host.storage.describe_volume(&host.pool, "v").unwrap();
    assert_eq!(told.capacity, Some(1 << 30));
    assert_eq!(told.key.as_deref(), told.target.path.as_deref());
    assert_eq!((told.target.format, told.target.cluster_bytes), (Some(VolumeFormat::Qcow2), Some(128 << 10)));
    let features = told.target.wanted_features();
    assert!(features.lazy_refcounts && features.extended_l2);
    let info = host.storage.volume_info(&host.pool, "v").unwrap();
    assert_eq!((info.capacity, info.physical), (1 << 30, std::fs::metadata(host.path("v")).unwrap().len()));
    assert!(info.allocation < MIB);
    let read = volume(&told.element().to_string());
    assert_eq!(read, told);
}

#[test]
fn an_old_version_of_qcow2_is_made_when_it_is_asked_for() {
    let host = Host::new();
    for (version, compat) in [(2, "<compat>0.10</compat>"), (3, "<compat>1.1</compat>"), (3, "")] {
        let name = format!("v{version}{}", compat.len());
        host.create(&format!(
            "<volume><name>{name}</name><capacity>1048576</capacity><target><format type='qcow2'/>{compat}</target></volume>"
        ))
        .unwrap();
        assert_eq!(block_io::Qcow2Disk::info(&host.path(&name)).unwrap().version, version, "{compat:?}");
    }
}

#[test]
fn what_can_not_be_made_leaves_nothing() {
    let host = Host::new();
    host.create(&raw("v", MIB)).unwrap();
    std::fs::create_dir(host.path("taken")).unwrap();
    for document in [
        raw("v", MIB),
        raw("taken", MIB),
        "<volume><name>a</name><capacity>1</capacity><target><format type='vmdk'/></target></volume>".into(),
        "<volume><name>a</name><capacity>0</capacity><target><format type='qcow2'/></target></volume>".into(),
        "<volume><name>a</name><capacity>512</capacity><target><format type='qcow2'/><clusterSize>3</clusterSize></target></volume>".into(),
        "<volume><name>a</name></volume>".into(),
        "<volume><name>a</name><capacity>512</capacity><backingStore><path>/etc/passwd</path><format type='raw'/></backingStore><target><format type='qcow2'/></target></volume>".into(),
        "<volume><name>a</name><capacity unit='EiB'>7</capacity></volume>".into(),
        "<volume><name>.vireo-1-1.partial</name><capacity>512</capacity></volume>".into(),
    ] {
        assert!(host.create(&document).is_err(), "{document}");
        assert_eq!(host.files(), ["taken", "v"], "{document}");
    }
    let error = host.create(&raw("v", MIB)).unwrap_err();
    assert_eq!(error.to_string(), "storage volume 'v' exists already");
}

#[test]
fn names_that_leave_the_pool_are_refused_even_if_no_document_was_parsed() {
    let host = Host::new();
    let outside = host.directory.path().join("outside");
    for name in ["../outside", "/outside", "a/../../outside", "..", ".", "", "a\0b"] {
        let definition = VolumeDefinition::new(name, MIB);
        let options = CreateOptions::default();
        let result = host.storage.create_volume(&host.pool, &definition, options, &mut go_on);
        assert!(matches!(result, Err(StorageError::InvalidArgument(_))), "{name:?}: {result:?}");
        assert!(host.storage.describe_volume(&host.pool, name).is_err(), "{name:?}");
    }
    assert!(!outside.exists() && host.files().is_empty());
}

#[test]
fn a_link_that_takes_a_volumes_place_is_not_followed() {
    let host = Host::new();
    let secret = host.directory.path().join("secret");
    std::fs::write(&secret, vec![7; 512]).unwrap();
    host.create(&raw("v", 512)).unwrap();
    std::fs::remove_file(host.path("v")).unwrap();
    std::os::unix::fs::symlink(&secret, host.path("v")).unwrap();
    assert!(host.storage.download(&host.pool, "v", 0, 0).is_err());
    assert!(host.storage.upload(&host.pool, "v", 0, 0).is_err());
    assert!(host.storage.wipe_volume(&host.pool, "v", WipeAlgorithm::Zero, &mut go_on).is_err());
    assert!(host.storage.resize_volume(&host.pool, "v", MIB, ResizeOptions::default()).is_err());
    assert!(host.storage.delete_volume(&host.pool, "v", DeleteMode::Zeroed, &mut go_on).is_err());
    host.storage.refresh(&host.pool).unwrap();
    assert!(host.volumes().is_empty(), "links are no volumes");
    assert_eq!(std::fs::read(&secret).unwrap(), [7; 512]);
}

#[test]
fn a_raw_volume_stays_raw_whatever_a_guest_writes_into_it() {
    let host = Host::new();
    host.create(&raw("made", MIB)).unwrap();
    std::fs::write(host.path("found"), vec![1; 1 << 16]).unwrap();
    host.storage.refresh(&host.pool).unwrap();
    let format = |storage: &Storage, pool: &Pool, name| storage.volume_format(pool, name).unwrap();
    assert_eq!(format(&host.storage, &host.pool, "found"), (VolumeFormat::Raw, FormatOrigin::Probed));
    for name in ["made", "found"] {
        let file = std::fs::File::options().write(true).open(host.path(name)).unwrap();
        file.write_all_at(&qcow2_header(), 0).unwrap();
    }
    std::fs::rename(host.path("found"), host.path("renamed")).unwrap();
    host.storage.refresh(&host.pool).unwrap();
    assert_eq!(format(&host.storage, &host.pool, "made"), (VolumeFormat::Raw, FormatOrigin::Told));
    assert_eq!(format(&host.storage, &host.pool, "renamed"), (VolumeFormat::Raw, FormatOrigin::Probed));
    // Also in the next process.
    let again = storage(host.directory.path());
    let pool = again.restore(Some(host.pool.describe_inactive()), Some(host.pool.describe())).unwrap();
    assert_eq!(format(&again, &pool, "made"), (VolumeFormat::Raw, FormatOrigin::Told));
    assert_eq!(format(&again, &pool, "renamed"), (VolumeFormat::Raw, FormatOrigin::Probed));
    assert_eq!(again.describe_volume(&pool, "made").unwrap().capacity, Some(MIB));
    // Another file is looked at anew, and an administrator may say what it is.
    std::fs::write(host.path("other"), qcow2_header()).unwrap();
    again.refresh(&pool).unwrap();
    assert_eq!(format(&again, &pool, "other"), (VolumeFormat::Qcow2, FormatOrigin::Probed));
    again.set_volume_format(&pool, "other", VolumeFormat::Raw).unwrap();
    again.refresh(&pool).unwrap();
    assert_eq!(format(&again, &pool, "other"), (VolumeFormat::Raw, FormatOrigin::Told));
}

#[test]
fn volumes_are_found_by_name_key_and_path() {
    let host = Host::new();
    host.create(&raw("v", MIB)).unwrap();
    let path = host.path("v");
    let (pool, found) = host.storage.volume_by_path(&path).unwrap();
    assert_eq!((pool.name(), found.name.as_str()), ("images", "v"));
    let odd = PathBuf::from(format!("{}//./images/v", host.directory.path().display()));
    assert_eq!(host.storage.volume_by_path(&odd).unwrap().1, found);
    assert_eq!(host.storage.volume_by_key(&found.key).unwrap().1, found);
    assert_eq!(host.pool.volume("v").unwrap(), found);
    let message = host.pool.volume("w").unwrap_err().to_string();
    assert_eq!(message, "no storage vol with matching name 'w'");
    assert!(matches!(host.storage.volume_by_path(Path::new("/w")), Err(StorageError::NoSuchVolume(_))));
    host.storage.stop(&host.pool).unwrap();
    assert!(host.storage.volume_by_path(&path).is_err(), "volumes of a pool that is down can't be used");
}

#[test]
fn a_refresh_shows_what_is_in_the_directory() {
    let host = Host::new();
    std::fs::write(host.path("disk"), vec![1; 512]).unwrap();
    std::fs::write(host.path("cd.iso"), {
        let mut image = vec![0; 40960];
        image[0x8001..0x8006].copy_from_slice(b"CD001");
        image
    })
    .unwrap();
    std::fs::create_dir(host.path("tree")).unwrap();
    std::fs::create_dir(host.path("lost+found")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        host.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    host.storage.refresh(&host.pool).unwrap();
    assert_eq!(host.volumes(), ["cd.iso", "disk", "tree"]);
    assert_eq!(host.storage.volume_format(&host.pool, "cd.iso").unwrap().0, VolumeFormat::Iso);
    assert_eq!(host.storage.volume_info(&host.pool, "tree").unwrap().kind, VolumeKind::Directory);
    assert!(host.storage.upload(&host.pool, "tree", 0, 0).is_err());
    host.storage.delete_volume(&host.pool, "tree", DeleteMode::Normal, &mut go_on).unwrap();
    assert!(!host.path("tree").exists());
}

#[test]
fn sizes_change_as_libvirt_has_it() {
    let host = Host::new();
    for (name, document) in [("r", raw("r", MIB)), ("q", qcow2("q", MIB))] {
        host.create(&document).unwrap();
        let resize = |bytes, options| host.storage.resize_volume(&host.pool, name, bytes, options);
        let capacity = || host.storage.volume_info(&host.pool, name).unwrap().capacity;
        resize(2 * MIB, ResizeOptions::default()).unwrap();
        assert_eq!(capacity(), 2 * MIB, "{name}");
        resize(MIB, ResizeOptions { delta: true, ..ResizeOptions::default() }).unwrap();
        assert_eq!(capacity(), 3 * MIB, "{name}");
        let error = resize(MIB, ResizeOptions::default()).unwrap_err();
        assert!(error.to_string().contains("shrink flag"), "{error}");
        resize(MIB, ResizeOptions { shrink: true, ..ResizeOptions::default() }).unwrap();
        assert_eq!(capacity(), MIB, "{name}");
    }
    let options = ResizeOptions { allocate: true, ..ResizeOptions::default() };
    host.storage.resize_volume(&host.pool, "r", 2 * MIB, options).unwrap();
    assert!(host.storage.volume_info(&host.pool, "r").unwrap().allocation >= 2 * MIB);
    assert!(host.storage.resize_volume(&host.pool, "q", 2 * MIB, options).is_err());
    let error = host.storage.resize_volume(&host.pool, "r", 1 << 60, options).unwrap_err();
    assert!(error.to_string().contains("Not enough space"), "{error}");
}

#[test]
fn a_volume_that_somebody_writes_to_is_left_alone_and_the_holder_is_named() {
    let host = Host::new();
    host.create(&raw("v", MIB)).unwrap();
    let guest = RawDisk::open(&host.path("v"), &RawOptions::default()).unwrap();
    let errors = [
        host.storage.resize_volume(&host.pool, "v", 2 * MIB, ResizeOptions::default()).unwrap_err(),
        host.storage.wipe_volume(&host.pool, "v", WipeAlgorithm::Zero, &mut go_on).unwrap_err(),
        host.storage.upload(&host.pool, "v", 0, 0).unwrap_err(),
        host.storage.download(&host.pool, "v", 0, 0).unwrap_err(),
        host.storage.delete_volume(&host.pool, "v", DeleteMode::Normal, &mut go_on).unwrap_err(),
        host.storage
            .create_volume_from(
                &host.pool,
                &volume(&raw("copy", MIB)),
                &host.pool,
                "v",
                CreateOptions::default(),
                &mut go_on,
            )
            .unwrap_err(),
    ];
    for error in errors {
        let message = error.to_string();
        assert!(matches!(error, StorageError::InUse { .. }), "{message}");
        assert!(message.starts_with("volume 'v' is in use: this process ("), "{message}");
    }
    assert_eq!(host.files(), ["v"]);
    assert_eq!(host.storage.volume_info(&host.pool, "v").unwrap().capacity, MIB, "it can still be looked at");
    drop(guest);
    host.storage.delete_volume(&host.pool, "v", DeleteMode::Normal, &mut go_on).unwrap();
}

#[test]
fn a_volume_that_somebody_reads_is_read_by_others_and_not_changed() {
    let host = Host::new();
    host.create(&raw("v", MIB)).unwrap();
    let options = RawOptions { read_only: true, ..RawOptions::default() };
    let _guest = RawDisk::open(&host.path("v"), &options).unwrap();
    drop(host.storage.download(&host.pool, "v", 0, 0).unwrap());
    let larger = host.storage.resize_volume(&host.pool, "v", 2 * MIB, ResizeOptions::default());
    assert!(matches!(larger, Err(StorageError::InUse { .. })), "{larger:?}");
    let deleted = host.storage.delete_volume(&host.pool, "v", DeleteMode::Normal, &mut go_on);
    assert!(matches!(deleted, Err(StorageError::InUse { .. })), "{deleted:?}");
    assert_eq!(host.storage.volume_info(&host.pool, "v").unwrap().capacity, MIB);
}

#[test]
fn another_process_that_holds_a_volume_is_named_with_its_number() {
    let host = Host::new();
    host.create(&raw("v", MIB)).unwrap();
    let mut child = clones::child("hold", &host.path("v"), Path::new(""));
    let message = host
        .storage
        .resize_volume(&host.pool, "v", 2 * MIB, ResizeOptions::default())
        .unwrap_err()
        .to_string();
    let expected = format!("volume 'v' is in use: process {} (", child.id());
    assert!(message.starts_with(&expected), "{message}");
    child.kill().unwrap();
    child.wait().unwrap();
    host.storage.resize_volume(&host.pool, "v", 2 * MIB, ResizeOptions::default()).unwrap();
}

#[test]
fn wiping_overwrites_what_is_there() {
    let host = Host::new();
    for (algorithm, zero) in [
        (WipeAlgorithm::Zero, true),
        (WipeAlgorithm::Random, false),
        (WipeAlgorithm::Trim, true),
        (WipeAlgorithm::Pfitzner7, false),
    ] {
        let name = format!("{algorithm:?}");
        host.create(&raw(&name, 3 * MIB)).unwrap();
        let file = std::fs::File::options().write(true).open(host.path(&name)).unwrap();
        file.write_all_at(&[7; 4096], MIB).unwrap();
        let mut last = (0, 0);
        let mut watch = |done, total| {
            assert!(done <= total && done >= last.0);
            last = (done, total);
            ControlFlow::Continue(())
        };
        host.storage.wipe_volume(&host.pool, &name, algorithm, &mut watch).unwrap();
        let content = std::fs::read(host.path(&name)).unwrap();
        assert_eq!(content.len() as u64, 3 * MIB);
        assert!(!content.windows(8).any(|bytes| bytes == [7; 8]), "{name}");
        assert_eq!(content.iter().all(|byte| *byte == 0), zero, "{name}");
    }
    assert!(WipeAlgorithm::from_number(4).unwrap_err().to_string().contains("gutmann"));
    assert!(WipeAlgorithm::from_number(10).is_err());
    host.create(&qcow2("q", MIB)).unwrap();
    host.storage.wipe_volume(&host.pool, "q", WipeAlgorithm::Zero, &mut go_on).unwrap();
    assert_eq!(host.storage.volume_format(&host.pool, "q").unwrap().0, VolumeFormat::Raw);
}

#[test]
fn content_goes_up_and_comes_down_with_its_holes() {
    let host = Host::new();
    host.create(&raw("v", 4 * MIB)).unwrap();
    let file = std::fs::File::options().write(true).open(host.path("v")).unwrap();
    file.write_all_at(&vec![9; 4 << 20], 0).unwrap();
    let mut upload = host.storage.upload(&host.pool, "v", 0, 0).unwrap();
    upload.write_all(&[1; 4096]).unwrap();
    upload.hole(2 * MIB).unwrap();
    upload.write_all(&[2; 4096]).unwrap();
    upload.hole(2 * MIB).unwrap();
    let busy = host.storage.download(&host.pool, "v", 0, 0).unwrap_err().to_string();
    assert_eq!(busy, "volume 'v' is in use: there is a job: upload");
    upload.finish().unwrap();
    let mut expected = vec![0; 8192 + (4 << 20)];
    expected[..4096].fill(1);
    expected[(2 << 20) + 4096..(2 << 20) + 8192].fill(2);
    assert!(std::fs::read(host.path("v")).unwrap() == expected);

    let mut download = host.storage.download(&host.pool, "v", 0, 0).unwrap();
    let mut content = Vec::new();
    download.read_to_end(&mut content).unwrap();
    assert!(content == expected, "holes are read as zeroes");
    drop(download);
    let mut download = host.storage.download(&host.pool, "v", 4096, 3 * MIB).unwrap();
    let (mut data, mut holes) = (0, 0);
    loop {
        match download.next_piece().unwrap() {
            Piece::End => break,
            Piece::Hole(bytes) => {
                assert_eq!(download.skip().unwrap(), bytes);
                holes += bytes;
            }
            Piece::Data(bytes) => {
                let mut part = vec![0; usize::try_from(bytes).unwrap()];
                download.read_exact(&mut part).unwrap();
                data += bytes;
            }
        }
    }
    assert_eq!(data + holes, 3 * MIB);
    assert_eq!(holes, 3 * MIB - 4096, "on a file system that knows holes");
    assert!(host.storage.download(&host.pool, "v", 5 * MIB, 0).is_err(), "beyond the end");
    assert!(host.storage.upload(&host.pool, "v", u64::MAX, 1).is_err());
    drop(download);
    let mut upload = host.storage.upload(&host.pool, "v", 512, 4).unwrap();
    upload.write_all(b"four").unwrap();
    assert!(upload.write_all(b"x").is_err(), "more than was announced");
    assert!(upload.hole(1).is_err());
}

#[test]
fn a_volume_below_another_is_not_changed_or_deleted() {
    let host = Host::new();
    host.create(&qcow2("base", 4 * MIB)).unwrap();
    let base = host.path("base").display().to_string();
    host.create(&format!(
        "<volume><name>top</name><target><format type='qcow2'/></target>\
         <backingStore><path>{base}</path><format type='qcow2'/></backingStore></volume>"
    ))
    .unwrap();
    let told = host.storage.describe_volume(&host.pool, "top").unwrap();
    assert_eq!(told.capacity, Some(4 * MIB), "as large as what is below");
    let below = told.backing.unwrap();
    assert_eq!((below.path, below.format), (base, Some(VolumeFormat::Qcow2)));
    assert!(below.timestamps.is_some());
    let delete = |name| host.storage.delete_volume(&host.pool, name, DeleteMode::Normal, &mut go_on);
    let message = delete("base").unwrap_err().to_string();
    assert_eq!(message, "volume 'base' is in use: volume 'top' is based on it");
    assert!(host.storage.wipe_volume(&host.pool, "base", WipeAlgorithm::Zero, &mut go_on).is_err());
    assert!(host.storage.upload(&host.pool, "base", 0, 0).is_err());
    delete("top").unwrap();
    delete("base").unwrap();
    assert!(host.files().is_empty());
}

#[test]
fn a_backing_file_has_to_lie_in_a_pool_and_have_a_format() {
    let host = Host::new();
    let outside = host.directory.path().join("outside");
    std::fs::write(&outside, vec![0; 512]).unwrap();
    std::fs::write(host.path("found"), vec![0; 512]).unwrap();
    std::os::unix::fs::symlink(&outside, host.path("link")).unwrap();
    std::fs::create_dir(host.path("sub")).unwrap();
    std::fs::write(host.path("sub/base"), vec![0; 1024]).unwrap();
    host.storage.refresh(&host.pool).unwrap();
    let make = |path: &Path, format: &str| {
        host.create(&format!(
            "<volume><name>top</name><target><format type='qcow2'/></target>\
             <backingStore><path>{}</path>{format}</backingStore></volume>",
            path.display()
        ))
    };
    let raw = "<format type='raw'/>";
    assert!(make(&outside, raw).unwrap_err().to_string().contains("no directory of an active storage pool"));
    assert!(make(&host.path("link"), raw).is_err());
    assert!(make(&host.path("../outside"), raw).is_err());
    assert!(make(&host.path("found"), "").unwrap_err().to_string().contains("guessing it is unsafe"));
    assert!(make(&host.path("found"), "<format type='qcow2'/>").is_err(), "it is not what was said");
    make(&host.path("sub/base"), raw).unwrap();
    assert_eq!(host.storage.volume_info(&host.pool, "top").unwrap().capacity, 1024);
}

#[test]
fn tables_of_a_preallocated_image_are_there_and_its_clusters_take_no_storage() {
    let host = Host::new();
    let options = CreateOptions { preallocate_metadata: true, ..CreateOptions::default() };
    let make =
        |document: &str| host.storage.create_volume(&host.pool, &volume(document), options, &mut go_on);
    make(&qcow2("q", 64 * MIB)).unwrap();
    let info = host.storage.volume_info(&host.pool, "q").unwrap();
    assert!(info.physical >= 64 * MIB, "every cluster has a place: {info:?}");
    assert!(info.allocation <= 2 * MIB, "and takes no storage: {info:?}");
    let report = block_io::Qcow2Disk::check(&host.path("q"), block_io::qcow2::Repair::Nothing);
    assert!(report.is_ok(), "{report:?}");
    let error = make(&raw("r", MIB)).unwrap_err();
    assert!(error.to_string().contains("only available with qcow2"), "{error}");
    assert_eq!(host.files(), ["q"]);
}

#[test]
fn threads_work_on_different_volumes_at_once() {
    let host = Host::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let host = &host;
            scope.spawn(move || {
                for round in 0..8 {
                    let name = format!("v{thread}-{round}");
                    host.create(&if round % 2 == 0 { raw(&name, MIB) } else { qcow2(&name, MIB) }).unwrap();
                    host.storage.refresh(&host.pool).unwrap();
                    assert!(host.pool.volume(&name).is_ok(), "a refresh forgets nothing");
                    if round % 4 == 0 {
                        let mode = DeleteMode::Normal;
                        host.storage.delete_volume(&host.pool, &name, mode, &mut go_on).unwrap();
                        assert!(host.pool.volume(&name).is_err(), "a refresh brings nothing back");
                    }
                }
            });
        }
    });
    assert_eq!(host.volumes().len(), 8 * 6);
    assert_eq!(host.files().len(), 8 * 6);
}

#[test]
fn one_of_two_makers_of_a_name_wins() {
    let host = Host::new();
    let results: Vec<_> = std::thread::scope(|scope| {
        let make =
            || scope.spawn(|| host.create(&qcow2("v", MIB)).map(drop).map_err(|error| error.to_string()));
        let threads: Vec<_> = (0..8).map(|_| make()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert_eq!(host.files(), ["v"]);
}
