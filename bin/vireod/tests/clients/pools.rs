//! Every verb of virsh about pools, what it says of mistakes, and pool events.

use super::*;

#[test]
fn a_pool_goes_through_its_life() {
    let place = Place::new();
    let _vireod = place.start();
    let target = place.text("storage/p");
    assert_eq!(place.ok(&["pool-define-as", "p", "dir", "--target", &target]), "Pool p defined\n\n");
    let missing = place.virsh(&["pool-start", "p"]);
    missing.failed_with(&["pool-start"], &["error: Failed to start pool p", "No such file or directory"]);
    assert_eq!(place.ok(&["pool-build", "p"]), "Pool p built\n\n");
    assert_eq!(place.ok(&["pool-start", "p"]), "Pool p started\n\n");
    place.fails(
        &["pool-start", "p"],
        &["Requested operation is not valid: storage pool 'p' is already active"],
    );
    place.fails(
        &["pool-build", "p"],
        &["Requested operation is not valid: storage pool 'p' is already active"],
    );
    place.fails(
        &["pool-undefine", "p"],
        &["Requested operation is not valid: storage pool 'p' is still active"],
    );
    place.fails(
        &["pool-delete", "p"],
        &["Requested operation is not valid: storage pool 'p' is still active"],
    );
    assert_eq!(place.ok(&["pool-autostart", "p"]), "Pool p marked as autostarted\n\n");
    let information = place.ok(&["pool-info", "p"]);
    for line in ["Name:           p", "State:          running", "Persistent:     yes", "Autostart:      yes"]
    {
        assert!(information.contains(line), "{information}");
    }
    assert_eq!(
        place.ok(&["pool-list"]),
        " Name   State    Autostart\n----------------------------\n p      active   yes\n\n"
    );
    let uuid = place.ok(&["pool-uuid", "p"]);
    assert_eq!(place.ok(&["pool-name", uuid.trim()]).trim(), "p");
    let document = place.ok(&["pool-dumpxml", "p"]);
    for line in [
        "<pool type='dir'>",
        "  <name>p</name>",
        &format!("    <path>{target}</path>"),
        "      <mode>0711</mode>",
    ] {
        assert!(document.lines().any(|found| found == line), "{line}: {document}");
    }
    assert_eq!(place.ok(&["pool-refresh", "p"]), "Pool p refreshed\n\n");
    assert_eq!(place.ok(&["pool-destroy", "p"]), "Pool p destroyed\n\n");
    place
        .fails(&["pool-destroy", "p"], &["Requested operation is not valid: storage pool 'p' is not active"]);
    place
        .fails(&["pool-refresh", "p"], &["Requested operation is not valid: storage pool 'p' is not active"]);
    std::fs::write(place.path("storage/p/kept"), "kept").unwrap();
    place.fails(&["pool-delete", "p"], &["error: Failed to delete pool p", "Directory not empty"]);
    std::fs::remove_file(place.path("storage/p/kept")).unwrap();
    assert_eq!(place.ok(&["pool-delete", "p"]), "Pool p deleted\n\n");
    assert!(!place.path("storage/p").exists());
    assert_eq!(place.ok(&["pool-autostart", "p", "--disable"]), "Pool p unmarked as autostarted\n\n");
    assert_eq!(place.ok(&["pool-undefine", "p"]), "Pool p has been undefined\n\n");
    assert_eq!(place.ok(&["pool-list", "--all", "--name"]).trim(), "");
}

#[test]
fn pools_that_are_not_there_are_not_found() {
    let place = Place::new();
    let _vireod = place.start();
    for verb in [
        "pool-info",
        "pool-start",
        "pool-destroy",
        "pool-undefine",
        "pool-build",
        "pool-delete",
        "pool-refresh",
        "pool-dumpxml",
        "pool-autostart",
        "pool-uuid",
        "vol-list",
    ] {
        let message = "error: Storage pool not found: no storage pool with matching name 'nowhere'";
        place.fails(&[verb, "nowhere"], &["error: failed to get pool 'nowhere'", message]);
    }
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    place.fails(&["pool-name", uuid], &["Storage pool not found", uuid]);
}

#[test]
fn definitions_that_can_not_be_are_refused() {
    let place = Place::new();
    let _vireod = place.start();
    for (document, message) in [
        ("<pool type='dir'><name>p</name>", "error: "),
        ("<pool type='nope'><name>p</name></pool>", "XML error: "),
        ("<pool type='dir'><target><path>/x</path></target></pool>", "XML error: "),
        ("<pool type='dir'><name>p</name></pool>", "XML error: "),
        ("<!DOCTYPE pool [<!ENTITY a 'p'>]><pool type='dir'><name>&a;</name></pool>", "error: "),
    ] {
        let file = place.write("bad.xml", document);
        place.fails(&["pool-define", &file], &["error: Failed to define pool from", message]);
        place.fails(&["pool-create", &file], &["error: Failed to create pool from", message]);
    }
    place.pool("p");
    let (p, q) = (place.text("storage/p"), place.text("storage/q"));
    let message = "operation failed: pool 'p' already exists with uuid ";
    place
        .fails(&["pool-define-as", "p", "dir", "--target", &q], &["error: Failed to define pool p", message]);
    place
        .fails(&["pool-create-as", "p", "dir", "--target", &q], &["error: Failed to create pool p", message]);
    let message = "operation failed: Storage source conflict with pool: 'p'";
    place
        .fails(&["pool-define-as", "q", "dir", "--target", &p], &["error: Failed to define pool q", message]);
    assert_eq!(place.ok(&["pool-list", "--all", "--name"]).trim(), "p");
}

#[test]
fn a_transient_pool_is_gone_when_it_stops() {
    let place = Place::new();
    let _vireod = place.start();
    let target = place.text("storage/t");
    place.fails(&["pool-create-as", "t", "dir", "--target", &target], &["No such file or directory"]);
    assert_eq!(
        place.ok(&["pool-create-as", "t", "dir", "--target", &target, "--build"]),
        "Pool t created\n\n"
    );
    assert!(place.ok(&["pool-info", "t"]).contains("Persistent:     no"));
    place.fails(&["pool-autostart", "t"], &["error: failed to mark pool t as autostarted"]);
    assert!(place.ok(&["pool-list", "--transient", "--name"]).contains('t'));
    assert_eq!(place.ok(&["pool-list", "--persistent", "--name", "--all"]).trim(), "");
    place.ok(&["pool-destroy", "t"]);
    place.fails(&["pool-info", "t"], &["Storage pool not found"]);
}

#[test]
fn lists_are_chosen_by_state_and_type() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("up");
    place.pool("down");
    place.ok(&["pool-destroy", "down"]);
    place.ok(&["pool-autostart", "up"]);
    let names = |arguments: &[&str]| -> Vec<String> {
        let printed = place.ok(&[&["pool-list", "--name"], arguments].concat());
        printed.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(names(&[]), ["up"]);
    assert_eq!(names(&["--all"]), ["down", "up"]);
    assert_eq!(names(&["--inactive"]), ["down"]);
    assert_eq!(names(&["--all", "--autostart"]), ["up"]);
    assert_eq!(names(&["--all", "--no-autostart"]), ["down"]);
    assert_eq!(names(&["--all", "--type", "dir"]), ["down", "up"]);
    assert_eq!(names(&["--all", "--type", "logical"]), [] as [&str; 0]);
    assert!(place.ok(&["pool-list", "--details", "--all"]).contains("inactive"));
    let told = python(
        &place.uri(&place.socket()),
        "print(connection.listStoragePools(), connection.numOfStoragePools(), connection.listDefinedStoragePools(),
      connection.numOfDefinedStoragePools(), len(connection.listAllStoragePools(0)))",
    );
    assert_eq!(told.out.trim(), "['up'] 1 ['down'] 1 2", "{told:?}");
}

#[test]
fn sources_and_capabilities_are_told() {
    let place = Place::new();
    let _vireod = place.start();
    place
        .fails(&["find-storage-pool-sources", "dir"], &["pool type 'dir' does not support source discovery"]);
    place.fails(&["find-storage-pool-sources", "nope"], &["error: Failed to find any nope pool sources"]);
    place.fails(&["find-storage-pool-sources-as", "netfs"], &["invalid argument: the host"]);
    assert!(place.ok(&["pool-capabilities"]).contains("<pool type='dir' supported='yes'>"));
}

#[test]
fn read_only_connections_change_nothing() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("p");
    place.ok(&["vol-create-as", "p", "v", "1M"]);
    let target = place.text("storage/q");
    let data = place.write("data", "data");
    let read_only = place.uri(&place.read_only_socket());
    // The same socket, by a client that asks for less.
    let asked = |arguments: &[&str]| place.virsh(&[&["-r"], arguments].concat());
    let socket = |arguments: &[&str]| virsh(&read_only, arguments);
    let calls: [&[&str]; 14] = [
        &["pool-define-as", "q", "dir", "--target", &target],
        &["pool-create-as", "q", "dir", "--target", &target, "--build"],
        &["pool-destroy", "p"],
        &["pool-undefine", "p"],
        &["pool-build", "p"],
        &["pool-refresh", "p"],
        &["pool-autostart", "p"],
        &["vol-create-as", "p", "w", "1M"],
        &["vol-clone", "v", "w", "--pool", "p"],
        &["vol-delete", "v", "--pool", "p"],
        &["vol-resize", "v", "2M", "--pool", "p"],
        &["vol-wipe", "v", "--pool", "p"],
        &["vol-upload", "v", &data, "--pool", "p"],
        &["vol-download", "v", &target, "--pool", "p"],
    ];
    for call in calls {
        asked(call).failed_with(call, &["read only"]);
        socket(call).failed_with(call, &["read only"]);
    }
    for call in [&["pool-list"][..], &["vol-list", "p"], &["vol-dumpxml", "v", "p"], &["pool-info", "p"]] {
        assert!(asked(call).status.success() && socket(call).status.success(), "{call:?}");
    }
    // The daemon holds to it, whatever libvirt's library does: its own client asks nobody.
    let mut connection = Connection::open_socket(&place.read_only_socket(), None, false).unwrap();
    let call = libvirt_rpc::procedures::StoragePoolLookupByName { name: "p".into() };
    let pool = connection.call(&call).unwrap().pool;
    let error = connection.call(&libvirt_rpc::procedures::StoragePoolDestroy { pool }).unwrap_err();
    assert!(error.to_string().contains("read"), "{error}");
    assert_eq!(place.ok(&["vol-list", "p"]).lines().count(), 4);
}

/// What virsh prints of the first `count` events of pool `p` while `work` is done.
fn events_of_p(place: &Place, event: &str, count: usize, work: impl FnOnce()) -> Vec<String> {
    let nudge = || {
        for verb in ["pool-destroy", "pool-start", "pool-refresh"] {
            place.ok(&[verb, "other"]);
        }
    };
    events_during(place, &["pool-event", "--event", event], nudge, " pool p", count, work)
}

#[test]
fn events_of_pools_are_seen_in_their_order() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("other");
    let lifecycle = events_of_p(&place, "lifecycle", 6, || {
        place.pool("p");
        for verb in ["pool-refresh", "pool-destroy", "pool-delete", "pool-undefine"] {
            place.ok(&[verb, "p"]);
        }
    });
    let told = ["Defined", "Created", "Started", "Stopped", "Deleted", "Undefined"];
    let expected = told.map(|what| format!("event 'lifecycle' for storage pool p: {what}"));
    assert_eq!(lifecycle, expected);
    place.pool("p");
    place.ok(&["vol-create-as", "p", "v", "1M"]);
    let data = place.write("data", "data");
    let upload = || drop(place.ok(&["vol-upload", "v", &data, "--pool", "p"]));
    assert_eq!(events_of_p(&place, "refresh", 1, upload), ["event 'refresh' for storage pool p"]);
}

#[test]
fn what_virt_install_does_with_pools_and_volumes_works() {
    let place = Place::new();
    let _vireod = place.start();
    let target = place.text("storage/default");
    // As virt-install 4 has it: a pool at a disk's directory, a volume in it, and its path.
    let pool = place.write(
        "pool.xml",
        format!("<pool type=\"dir\">\n  <name>default</name>\n  <target>\n    <path>{target}</path>\n  </target>\n</pool>\n"),
    );
    let volume = place.write(
        "volume.xml",
        "<volume>\n  <name>vi3.qcow2</name>\n  <capacity>1073741824</capacity>\n  <allocation>0</allocation>\n  <target>\n    \
         <format type=\"qcow2\"/>\n    <features>\n      <lazy_refcounts/>\n    </features>\n  </target>\n</volume>\n",
    );
    place.ok(&["pool-define", &pool]);
    place.ok(&["pool-build", "default"]);
    place.ok(&["pool-start", "default"]);
    place.ok(&["pool-autostart", "default"]);
    place.ok(&["vol-create", "default", &volume]);
    let path = format!("{target}/vi3.qcow2");
    assert_eq!(place.ok(&["vol-path", "vi3.qcow2", "default"]).trim(), path);
    let document = place.ok(&["vol-dumpxml", &path]);
    for part in [
        "<format type='qcow2'/>",
        "<compat>1.1</compat>",
        "<lazy_refcounts/>",
        "<capacity unit='bytes'>1073741824<",
    ] {
        assert!(document.contains(part), "{part}: {document}");
    }
    // virt-clone's copy of it.
    let copy = place.write(
        "copy.xml",
        "<volume><name>copy.qcow2</name><capacity>1073741824</capacity><allocation>13508608</allocation><target>\
         <format type=\"qcow2\"/><features><lazy_refcounts/></features></target></volume>",
    );
    place.ok(&["vol-create-from", "default", &copy, "vi3.qcow2", "--inputpool", "default"]);
    assert!(place.ok(&["vol-list", "default"]).contains("copy.qcow2"));
}
