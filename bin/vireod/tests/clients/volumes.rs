//! Every verb of virsh about volumes but those that move content, and what it says of mistakes.

use std::os::unix::fs::MetadataExt;

use super::*;

fn with_pool() -> (Place, Vireod) {
    let place = Place::new();
    let vireod = place.start();
    place.pool("p");
    (place, vireod)
}

#[test]
fn a_volume_goes_through_its_life() {
    let (place, _vireod) = with_pool();
    let path = place.text("storage/p/v");
    assert_eq!(place.ok(&["vol-create-as", "p", "v", "20M", "--format", "qcow2"]), "Vol v created\n\n");
    let again = ["vol-create-as", "p", "v", "20M"];
    place.fails(&again, &["error: Failed to create vol v", "error: storage volume 'v' exists already"]);
    assert_eq!(place.ok(&["vol-path", "v", "p"]).trim(), path);
    assert_eq!(place.ok(&["vol-key", "v", "p"]).trim(), path);
    assert_eq!(place.ok(&["vol-name", &path]).trim(), "v");
    assert_eq!(place.ok(&["vol-pool", &path]).trim(), "p");
    assert!(place.ok(&["vol-pool", &path, "--uuid"]).trim().len() == 36);
    let list = place.ok(&["vol-list", "p"]);
    assert!(list.lines().nth(2).unwrap().split_whitespace().eq(["v", &path]), "{list}");
    assert!(place.ok(&["vol-list", "p", "--details"]).contains("20.00 MiB"));
    let information = place.ok(&["vol-info", "v", "p", "--bytes", "--physical"]);
    let length = std::fs::metadata(&path).unwrap().len();
    for line in
        ["Type:           file", "Capacity:       20971520 bytes", &format!("Physical:       {length} bytes")]
    {
        assert!(information.contains(line), "{line}: {information}");
    }
    assert_eq!(
        place.ok(&["vol-resize", "v", "30M", "p"]),
        "Size of volume 'v' successfully changed to 30M\n\n"
    );
    place.fails(&["vol-resize", "v", "10M", "p"], &["error: Failed to change size of volume 'v' to 10M"]);
    place.ok(&["vol-resize", "v", "10M", "p", "--shrink"]);
    place.ok(&["vol-resize", "v", "1M", "p", "--delta"]);
    assert!(place.ok(&["vol-info", "v", "p", "--bytes"]).contains("Capacity:       11534336 bytes"));
    assert_eq!(place.ok(&["vol-clone", "v", "w", "p"]), "Vol w cloned from v\n\n");
    place.fails(&["vol-clone", "v", "w", "p"], &["error: Failed to clone vol from v", "'w'"]);
    assert_eq!(place.ok(&["vol-wipe", "w", "p"]), "Vol w wiped\n\n");
    assert_eq!(place.ok(&["vol-delete", "w", "p"]), "Vol w deleted\n\n");
    assert!(!place.path("storage/p/w").exists());
    assert_eq!(place.ok(&["vol-delete", &path]), "Vol {path} deleted\n\n".replace("{path}", &path));
    assert_eq!(std::fs::read_dir(place.path("storage/p")).unwrap().count(), 0);
}

#[test]
fn volumes_that_are_not_there_are_not_found() {
    let (place, _vireod) = with_pool();
    let file = place.write("file", "x");
    let verbs: [&[&str]; 11] = [
        &["vol-info", "no", "p"],
        &["vol-dumpxml", "no", "p"],
        &["vol-path", "no", "p"],
        &["vol-key", "no", "p"],
        &["vol-pool", "/no"],
        &["vol-resize", "no", "1M", "p"],
        &["vol-clone", "no", "new", "p"],
        &["vol-wipe", "no", "p"],
        &["vol-delete", "no", "p"],
        &["vol-upload", "no", &file, "p"],
        &["vol-download", "no", &file, "p"],
    ];
    for verb in verbs {
        place.fails(
            verb,
            &["error: failed to get vol '", "Storage volume not found: no storage vol with matching"],
        );
    }
    place.fails(
        &["vol-create-as", "no", "v", "1M"],
        &["error: failed to get pool 'no'", "Storage pool not found"],
    );
    place.ok(&["vol-create-as", "p", "v", "1M"]);
    place.ok(&["pool-destroy", "p"]);
    let stopped = "Requested operation is not valid: storage pool 'p' is not active";
    place.fails(&["vol-create-as", "p", "w", "1M"], &[stopped]);
    place.fails(&["vol-info", "v", "p"], &["error: pool 'p' is not active"]);
    place.fails(&["vol-list", "p"], &[stopped]);
}

#[test]
fn documents_that_can_not_be_make_nothing() {
    let (place, _vireod) = with_pool();
    place.ok(&["vol-create-as", "p", "base", "1M"]);
    for document in [
        "<volume><name>b",
        "<volume><name>b</name></volume>",
        "<volume><name>../b</name><capacity>5</capacity></volume>",
        "<volume><name>b</name><capacity unit='EiB'>16</capacity></volume>",
        "<volume><name>b</name><capacity>512</capacity><target><format type='nope'/></target></volume>",
        "<volume><name>b</name><capacity>512</capacity><target><encryption format='luks'/></target></volume>",
        "<volume><name>b</name><capacity>512</capacity><target><format type='qcow2'/></target><backingStore>\
         <path>/etc/passwd</path><format type='raw'/></backingStore></volume>",
    ] {
        let file = place.write("bad.xml", document);
        place.fails(&["vol-create", "p", &file], &["error: Failed to create vol from"]);
        // A copy has the size of its source.
        if document != "<volume><name>b</name></volume>" {
            let from = ["vol-create-from", "p", &file, "base", "--inputpool", "p"];
            place.fails(&from, &["error: Failed to create vol from"]);
        }
    }
    assert_eq!(std::fs::read_dir(place.path("storage/p")).unwrap().count(), 1);
    place.fails(&["vol-create-as", "p", "b", "1M", "--format", "vmdk"], &["vmdk"]);
    place.fails(
        &["vol-create-as", "p", "b", "1M", "--format", "qcow2", "--backing-vol", "no"],
        &["error: failed to get vol 'no'"],
    );
    place.fails(&["vol-wipe", "base", "p", "--algorithm", "nope"], &["Unsupported algorithm"]);
}

#[test]
fn a_clone_of_an_overlay_is_independent_and_its_base_stays() {
    let (place, _vireod) = with_pool();
    place.ok(&["vol-create-as", "p", "base", "1M"]);
    let data = place.write("data", vec![7; 1 << 20]);
    place.ok(&["vol-upload", "base", &data, "--pool", "p"]);
    place.ok(&[
        "vol-create-as",
        "p",
        "top",
        "1M",
        "--format",
        "qcow2",
        "--backing-vol",
        "base",
        "--backing-vol-format",
        "raw",
    ]);
    let base = place.text("storage/p/base");
    assert!(place.ok(&["vol-dumpxml", "top", "p"]).contains(&format!("<path>{base}</path>")));
    place.fails(&["vol-delete", "base", "p"], &["volume 'top' is based on it"]);
    assert_eq!(place.ok(&["vol-clone", "top", "copy", "p"]), "Vol copy cloned from top\n\n");
    let document = place.ok(&["vol-dumpxml", "copy", "p"]);
    assert!(!document.contains("backingStore"), "{document}");
    place.ok(&["vol-delete", "top", "p"]);
    place.ok(&["vol-delete", "base", "p"]);
    place.ok(&["vol-create-as", "p", "other", "1M"]);
    let raw = place.write(
        "raw.xml",
        "<volume><name>flat</name><capacity>0</capacity><target><format type='raw'/></target></volume>",
    );
    place.ok(&["vol-create-from", "p", &raw, "copy", "--inputpool", "p"]);
    assert!(std::fs::read(place.path("storage/p/flat")).unwrap() == vec![7; 1 << 20]);
}

#[test]
fn allocation_and_owners_are_as_asked() {
    let (place, _vireod) = with_pool();
    place.ok(&["vol-create-as", "p", "full", "2M"]);
    place.ok(&["vol-create-as", "p", "sparse", "2M", "--allocation", "0"]);
    let allocated =
        |name: &str| std::fs::metadata(place.path("storage/p").join(name)).unwrap().blocks() * 512;
    assert_eq!((allocated("full"), allocated("sparse")), (2 << 20, 0));
    place.ok(&["vol-create-as", "p", "tables", "1G", "--format", "qcow2", "--prealloc-metadata"]);
    assert!(std::fs::metadata(place.path("storage/p/tables")).unwrap().len() > 1 << 30);
    let file = place.write("mode.xml", "<volume><name>m</name><capacity>512</capacity><target><permissions><mode>0640</mode></permissions></target></volume>");
    place.ok(&["vol-create", "p", &file]);
    assert_eq!(std::fs::metadata(place.path("storage/p/m")).unwrap().mode() & 0o7777, 0o640);
    assert!(place.ok(&["vol-dumpxml", "m", "p"]).contains("<mode>0640</mode>"));
}

#[test]
fn what_appears_in_the_directory_is_there_after_a_refresh() {
    let (place, _vireod) = with_pool();
    std::fs::write(place.path("storage/p/found"), vec![0; 4096]).unwrap();
    assert!(!place.ok(&["vol-list", "p"]).contains("found"));
    place.ok(&["pool-refresh", "p"]);
    assert!(place.ok(&["vol-list", "p"]).contains("found"));
    let path = place.text("storage/p/found");
    let told = python(
        &place.uri(&place.socket()),
        &format!(
            "
pool = connection.storagePoolLookupByName('p')
print(pool.listVolumes(), pool.numOfVolumes(), [volume.name() for volume in pool.listAllVolumes()])
volume = connection.storageVolLookupByKey('{path}')
print(volume.info()[:2], volume.storagePoolLookupByVolume().name(), connection.storagePoolLookupByTargetPath('{target}').name())
",
            target = place.text("storage/p")
        ),
    );
    assert_eq!(told.out, "['found'] 1 ['found']\n[0, 4096] p p\n", "{told:?}");
}
