//! Copies of machines.

use super::*;

impl Place {
    /// A domain with a disk in the pool, a read-only one, and an empty drive's worth of nothing.
    fn source(&self) -> String {
        let image = self.raw("base.img", 4 << 20);
        self.ok(&[
            "create",
            "web",
            "--image",
            &image,
            "--network",
            "bridge=br0",
            "--hostname",
            "web",
            "--no-start",
        ]);
        self.text("pool/web.img")
    }
}

#[test]
fn a_copy_has_disks_and_addresses_of_its_own() {
    let place = Place::new();
    let disk = place.source();
    let said = place.ok(&["clone", "web", "web2", "--json"]);
    let told = said.json();
    assert_eq!(told["disks"][0]["path"], place.text("pool/web2.img"));
    assert!(told["notes"][0].as_str().unwrap().contains("seed vdb is made anew"), "{told}");
    place.same(&disk, &place.text("pool/web2.img"));
    let (old, new) = (place.document("web"), place.document("web2"));
    assert_ne!(old.uuid, new.uuid);
    let mac =
        |document: &libvirt_xml::domain::Domain| document.devices.interfaces[0].mac.as_ref().unwrap().address;
    assert_ne!(mac(&old), mac(&new));
    assert_eq!(old.devices.interfaces[0].info, new.devices.interfaces[0].info);
    let seed = |path: &str| {
        let volume = std::fs::read(path).unwrap();
        let files = guest_identity::iso9660::files("cidata", &volume).unwrap();
        files
            .into_iter()
            .map(|file| (file.name, String::from_utf8(file.content).unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(new.devices.disks[1].path(), Some(place.text("pool/web2-seed.iso").as_str()));
    assert!(new.devices.disks[1].readonly);
    let (first, second) = (seed(&place.text("pool/web-seed.iso")), seed(&place.text("pool/web2-seed.iso")));
    let renamed = |(name, content): &(String, String)| {
        let content = content.replace(&old.uuid.unwrap().to_string(), &new.uuid.unwrap().to_string());
        (name.clone(), content.replace("hostname: web\n", "hostname: web2\n"))
    };
    assert_eq!(first.iter().map(renamed).collect::<Vec<_>>(), second);
    assert_ne!(first, second);
    assert_eq!(new.devices.disks[0].path(), Some(place.text("pool/web2.img").as_str()));
    // A copy of the copy, with what is read-only copied too.
    place.ok(&["clone", "web2", "third", "--force-copy", "vdb", "--mac", "52:54:00:0a:0b:0c"]);
    let third = place.document("third");
    assert_eq!(mac(&third).to_string(), "52:54:00:0a:0b:0c");
    assert_ne!(third.devices.disks[1].path(), new.devices.disks[1].path());
    place.same(third.devices.disks[1].path().unwrap(), &place.text("pool/web2-seed.iso"));
}

#[test]
fn an_overlay_holds_only_what_differs_and_says_so() {
    let place = Place::new();
    let disk = place.source();
    let said = place.ok(&["clone", "web", "thin", "--disks", "overlay"]);
    assert!(said.err.contains("must not be started or changed any more"), "{said:?}");
    let info = place.image("thin.qcow2");
    assert_eq!(info["backing-filename"], disk.as_str());
    let document = place.document("thin");
    let driver = document.devices.disks[0].driver.as_ref().unwrap();
    assert_eq!(driver.format.unwrap().word(), "qcow2");
    place.same(&disk, &place.text("pool/thin.qcow2"));
    // And an overlay on an overlay.
    place.ok(&["clone", "thin", "thinner", "--disks", "overlay"]);
    assert_eq!(place.image("thinner.qcow2")["backing-filename"], place.text("pool/thin.qcow2"));
    // A copy of an overlay is whole.
    place.ok(&["clone", "thin", "whole"]);
    assert!(place.image("whole.qcow2").get("backing-filename").is_none());
    place.same(&disk, &place.text("pool/whole.qcow2"));
}

#[test]
fn disks_outside_of_pools_are_copied_where_they_are_or_where_told() {
    let place = Place::new();
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    let disk = place.raw("elsewhere/odd.img", 2 << 20);
    let source = format!(
        "<disk type='file'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
    );
    place.define("odd", &source);
    place.ok(&["clone", "odd", "even"]);
    place.same(&disk, &place.text("elsewhere/even.img"));
    std::fs::create_dir(place.path("there")).unwrap();
    place.ok(&["clone", "odd", "told", "--file", &place.text("there/chosen.raw")]);
    place.same(&disk, &place.text("there/chosen.raw"));
    assert_eq!(place.document("told").devices.disks[0].path(), Some(place.text("there/chosen.raw").as_str()));
    assert_eq!(place.virsh(&["pool-list", "--all", "--name"]).trim(), "default", "passing pools have gone");
}

#[test]
fn what_can_not_be_copied_is_refused_and_leaves_nothing() {
    let place = Place::new();
    place.source();
    place.define(
        "gone",
        "<disk type='file'><source file='/nowhere/x.img'/><target dev='vda' bus='virtio'/></disk>",
    );
    let before = place.everything();
    for (words, code, message) in [
        (&["clone", "web", "web"][..], 1, "there is a domain \"web\" already"),
        (&["clone", "wbe", "new"], 4, "did you mean web?"),
        (&["clone", "web", "a/b"], 2, "is not a name"),
        (&["clone", "gone", "new"], 1, "/nowhere"),
        (&["clone", "web", "new", "--mac", "01:00:00:00:00:01"], 2, "address of a group"),
        (
            &["clone", "web", "new", "--mac", "52:54:00:00:00:01", "--mac", "52:54:00:00:00:02"],
            2,
            "2 addresses for 1",
        ),
        (&["clone", "web", "new", "--force-copy", "vdz"], 2, "the disks are vda, vdb"),
        (&["clone", "web", "new", "--file", "/a/1", "--file", "/a/2"], 1, "/a"),
        (&["clone", "web", "new", "--renew-identity"], 8, "no Linux root file system"),
        (&["clone", "web", "new", "--hostname", "x"], 2, "--renew-identity"),
    ] {
        place.fails(words, code, &[message]);
        assert_eq!(place.everything(), before, "{words:?}");
    }
    // A second disk that fails takes the first one's copy with it.
    let disk = place.raw("pool/two.img", 1 << 20);
    place.virsh(&["pool-refresh", "default"]);
    place.define(
        "two",
        &format!(
            "<disk type='file'><driver type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
             <disk type='file'><driver type='raw'/><source file='{}'/><target dev='vdb' bus='virtio'/></disk>",
            place.text("pool/web.img")
        ),
    );
    let before = place.everything();
    let lock = std::fs::File::options().read(true).write(true).open(place.path("pool/web.img")).unwrap();
    let held = block_io::FileLock::exclusive(std::sync::Arc::new(lock)).unwrap();
    place.fails(&["clone", "two", "new"], 5, &["cannot copy the disk vdb", "is in use"]);
    assert_eq!(place.everything(), before);
    drop(held);
    place.ok(&["clone", "two", "new"]);
}

#[test]
fn a_running_machine_is_not_copied() {
    let place = Place::new();
    let image = place.raw("base.img", 4 << 20);
    let kernel = place.raw("kernel", 1 << 20);
    place.ok(&["create", "web", "--memory", "64M", "--image", &image, "--kernel", &kernel]);
    place.fails(&["clone", "web", "new"], 5, &["is running", "shut it down first"]);
    place.virsh(&["destroy", "web"]);
    place.ok(&["clone", "web", "new"]);
}

#[test]
fn the_new_definition_is_printed_and_nothing_made() {
    let place = Place::new();
    place.source();
    let before = place.everything();
    let document =
        libvirt_xml::domain::Domain::parse(&place.ok(&["clone", "web", "new", "--print-xml"]).out).unwrap();
    assert_eq!(document.devices.disks[0].path(), Some(place.text("pool/new.img").as_str()));
    assert_eq!(place.everything(), before);
}

#[test]
fn the_firmwares_variables_are_never_shared() {
    let place = Place::new();
    let vars = place.raw("web_VARS.fd", 512 << 10);
    let path = place.path("define.xml");
    let document = format!(
        "<domain type='kvm'><name>web</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/x.fd</loader>
         <nvram>{vars}</nvram></os></domain>"
    );
    std::fs::write(&path, document).unwrap();
    place.virsh(&["define", path.to_str().unwrap()]);
    place.ok(&["clone", "web", "new"]);
    let copy = place.text("new_VARS.fd");
    assert_eq!(place.document("new").os.nvram.unwrap().path.as_deref(), Some(copy.as_str()));
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&vars).unwrap());
}
