//! Pools and volumes, by the names of this program and by virsh's.

use super::*;

#[test]
fn a_pool_is_made_seen_stopped_and_removed() {
    let place = Place::new();
    let directory = place.text("other/images");
    assert_eq!(place.ok(&["pool", "define", "other", "--target", &directory]).out, "Pool 'other' defined\n");
    assert!(place.path("other/images").is_dir());
    assert_eq!(place.ok(&["pool", "list", "--name"]).out, "default\n");
    assert_eq!(place.ok(&["pool-list", "--all", "--name"]).out, "default\nother\n");
    assert_eq!(place.ok(&["pool", "start", "other"]).out, "Pool 'other' started\n");
    place.fails(&["pool", "start", "other"], 5, &["active"]);
    place.ok(&["pool", "autostart", "other"]);
    let info = place.ok(&["pool", "info", "other", "--json"]).json();
    assert_eq!(
        (&info["state"], &info["autostart"], &info["persistent"]),
        (&"running".into(), &true.into(), &true.into())
    );
    assert!(info["capacity"].as_u64().unwrap() > 0);
    // The same as virsh says, but for the places of words.
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&place.ok(&["pool-list", "--all"]).out), words(&place.virsh(&["pool-list", "--all"])));
    let all = place.ok(&["pool", "list", "--all", "--json"]).json();
    assert_eq!(all["pools"][1], info);
    place.ok(&["pool", "autostart", "other", "--disable"]);
    place.raw("other/images/came.img", 1 << 20);
    assert!(!place.ok(&["volume", "list", "other"]).out.contains("came.img"));
    place.ok(&["pool", "refresh", "other"]);
    assert!(place.ok(&["volume", "list", "other"]).out.contains("came.img"));
    place.fails(&["pool", "delete", "other", "--remove-directory"], 1, &["cannot remove the directory"]);
    assert_eq!(place.ok(&["pool", "info", "other", "--json"]).json()["state"], "running", "as it was");
    place.ok(&["volume", "delete", "came.img", "--pool", "other"]);
    place.ok(&["pool", "stop", "other"]);
    place.ok(&["pool", "delete", "other", "--remove-directory"]);
    assert!(!place.path("other/images").exists());
    place.fails(&["pool", "info", "other"], 4, &["there is no storage pool \"other\""]);
    place.fails(&["pool", "info", "defualt"], 4, &["did you mean default?"]);
    place.fails(&["pool", "define", "x", "logical", "--target", &directory], 2, &["dir"]);
    // What fails half-way leaves nothing.
    let file = place.raw("file", 512);
    let before = place.everything();
    place.fails(
        &["pool", "define", "x", "--target", &format!("{file}/below")],
        1,
        &["cannot make the directory"],
    );
    assert_eq!(place.everything(), before);
}

#[test]
fn a_volume_is_made_filled_copied_read_and_removed() {
    let place = Place::new();
    assert_eq!(place.ok(&["volume", "create", "default", "a.img", "1M"]).out, "Volume 'a.img' created\n");
    place.ok(&["vol-create-as", "default", "b.qcow2", "1G", "--format", "qcow2"]);
    assert_eq!(place.image("b.qcow2")["format"], "qcow2");
    place.fails(&["volume", "create", "default", "a.img", "1M"], 1, &["a.img"]);
    place.fails(&["volume", "create", "default", "a/b", "1M"], 2, &["a/b"]);
    let content = place.raw("content", 1 << 20);
    assert_eq!(place.ok(&["volume", "upload", "a.img", &content]).out, "Volume 'a.img' uploaded\n");
    place.ok(&["volume", "clone", "a.img", "c.img"]);
    // By its path too, and by virsh's name.
    place.ok(&["vol-download", &place.text("pool/c.img"), &place.text("back")]);
    assert!(std::fs::read(place.path("back")).unwrap() == std::fs::read(&content).unwrap());
    a_download_replaces_files_that_are_whole(&place, &content);
    place.ok(&["volume", "resize", "c.img", "2M"]);
    place.fails(&["volume", "resize", "c.img", "1M"], 1, &["shrink"]);
    let info = place.ok(&["volume", "info", "c.img", "--json"]).json();
    assert_eq!((&info["capacity"], &info["type"]), (&(2 << 20).into(), &"file".into()));
    assert_eq!(info["path"], place.text("pool/c.img"));
    let list = place.ok(&["volume", "list", "--json"]).json();
    let names: Vec<_> =
        list["volumes"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.img", "b.qcow2", "c.img"]);
    assert_eq!(list["volumes"][2], info);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&place.ok(&["vol-list", "default"]).out), words(&place.virsh(&["vol-list", "default"])));
    for name in ["a.img", "b.qcow2", "c.img"] {
        place.ok(&["volume", "delete", name]);
    }
    place.fails(&["volume", "info", "a.img"], 4, &["there is no volume \"a.img\""]);
    place.fails(&["volume", "download", "a.img", &place.text("none")], 4, &["there is no volume"]);
    assert!(!place.path("none").exists(), "nothing is made for what is not there");
}

fn a_download_replaces_files_that_are_whole(place: &Place, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    let (kept, link) = (place.path("kept"), place.text("link"));
    std::fs::write(&kept, "kept").unwrap();
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("kept", &link).unwrap();
    let count = || std::fs::read_dir(place.path("")).unwrap().count();
    let before = count();
    // The daemon finds out that it has no file when it opens it.
    place.ok(&["volume", "create", "default", "gone.img", "1M"]);
    std::fs::remove_file(place.path("pool/gone.img")).unwrap();
    place.fails(&["volume", "download", "gone.img", &link], 4, &["cannot read the volume"]);
    assert_eq!((std::fs::read(&kept).unwrap(), count()), (b"kept".to_vec(), before), "as it was");
    place.ok(&["volume", "download", "c.img", &link]);
    assert!(std::fs::read(&kept).unwrap() == std::fs::read(content).unwrap());
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    // What is no file is written as it is.
    place.ok(&["volume", "download", "c.img", "/dev/null"]);
    assert_eq!(count(), before);
    place.ok(&["pool", "refresh", "default"]);
}
