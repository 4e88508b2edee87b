//! Content that comes and goes.

use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;

const MIB: u64 = 1 << 20;

/// Bytes that repeat nowhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn sixty_four_mebibytes_come_back_as_they_went() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("p");
    let content = noise(64 << 20, 42);
    let file = place.write("content", &content);
    place.ok(&["vol-create-as", "p", "v", "64M", "--allocation", "0"]);
    let available = |place: &Place| -> u64 {
        let document = place.ok(&["pool-dumpxml", "p"]);
        let text = document.split("<allocation unit='bytes'>").nth(1).unwrap();
        text.split('<').next().unwrap().parse().unwrap()
    };
    let before = available(&place);
    place.ok(&["vol-upload", "v", &file, "--pool", "p"]);
    assert_ne!(available(&place), before, "the pool's sizes are those after the upload");
    let back = place.text("back");
    place.ok(&["vol-download", "v", &back, "--pool", "p"]);
    assert!(std::fs::read(&back).unwrap() == content);
}

#[test]
fn holes_stay_holes() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("p");
    let file = File::create(place.path("sparse")).unwrap();
    file.set_len(64 * MIB).unwrap();
    file.write_all_at(&noise(100_000, 1), 5 * MIB).unwrap();
    file.write_all_at(&noise(100_000, 2), 40 * MIB).unwrap();
    place.ok(&["vol-create-as", "p", "v", "64M"]);
    place.ok(&["vol-upload", "v", &place.text("sparse"), "--pool", "p", "--sparse"]);
    let stored = std::fs::metadata(place.path("storage/p/v")).unwrap().blocks() * 512;
    assert!(stored < MIB, "{stored} bytes");
    place.ok(&["vol-download", "v", &place.text("back"), "--pool", "p", "--sparse"]);
    let back = place.path("back");
    assert!(std::fs::metadata(&back).unwrap().blocks() * 512 < MIB);
    assert!(std::fs::read(back).unwrap() == std::fs::read(place.path("sparse")).unwrap());
}

#[test]
fn a_part_is_moved_by_offset_and_length() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("p");
    place.ok(&["vol-create-as", "p", "v", "1M"]);
    let content = noise(300_000, 3);
    let file = place.write("content", &content);
    place.ok(&["vol-upload", "v", &file, "--pool", "p", "--offset", "1000"]);
    let mut expected = vec![0; 1 << 20];
    expected[1000..301_000].copy_from_slice(&content);
    assert!(std::fs::read(place.path("storage/p/v")).unwrap() == expected);
    let back = place.text("back");
    place.ok(&["vol-download", "v", &back, "--pool", "p", "--offset", "900", "--length", "5000"]);
    assert!(std::fs::read(&back).unwrap() == expected[900..5900]);
    place.fails(
        &["vol-upload", "v", &file, "--pool", "p", "--length", "10"],
        &["more bytes come than volume 'v'"],
    );
    let far = "999999999999";
    place.fails(
        &["vol-download", "v", &back, "--pool", "p", "--offset", far],
        &["error: cannot download from volume v"],
    );
    assert!(
        std::fs::read(place.path("storage/p/v")).unwrap() == expected,
        "a refused piece is not written in part"
    );
}

#[test]
fn a_volume_that_is_moved_is_not_changed_by_others() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("p");
    place.ok(&["vol-create-as", "p", "v", "64M"]);
    let mut connection = place.connect();
    let pool = libvirt_rpc::procedures::StoragePoolLookupByName { name: "p".into() };
    let pool = connection.call(&pool).unwrap().pool;
    let volume = libvirt_rpc::procedures::StorageVolLookupByName { pool, name: "v".into() };
    let vol = connection.call(&volume).unwrap().vol;
    let download = libvirt_rpc::procedures::StorageVolDownload { vol, offset: 0, length: 0, flags: 0 };
    let (_, stream) = connection.open_stream(&download).unwrap();
    for verb in [&["vol-delete", "v", "p"][..], &["vol-wipe", "v", "p"], &["vol-resize", "v", "65M", "p"]] {
        place.fails(verb, &["there is a job: read"]);
    }
    place.fails(&["pool-destroy", "p"], &["there is a job on its volume 'v': read"]);
    drop(stream);
    drop(connection);
}
