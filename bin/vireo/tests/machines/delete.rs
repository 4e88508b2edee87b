//! Machines that go.

use super::*;

#[test]
fn a_machine_goes_with_its_disk_and_its_seed() {
    let place = Place::new();
    let image = place.raw("base.img", 4 << 20);
    let before = place.everything();
    place.ok(&["create", "web", "--image", &image, "--hostname", "web", "--no-start"]);
    let told = place.ok(&["delete", "web", "--json"]).json();
    assert_eq!(told["removed"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(place.everything(), before);
    place.fails(&["delete", "web"], 4, &["there is no domain \"web\""]);
}

#[test]
fn disks_stay_when_told() {
    let place = Place::new();
    place.ok(&["create", "web", "--disk", "1M", "--no-start"]);
    place.ok(&["delete", "web", "--keep-disks"]);
    assert!(place.path("pool/web.qcow2").exists());
    assert_eq!(place.virsh(&["list", "--all", "--name"]).trim(), "");
}

#[test]
fn what_others_use_stays() {
    let place = Place::new();
    let image = place.raw("base.img", 4 << 20);
    place.ok(&["create", "web", "--image", &image, "--hostname", "web", "--no-start"]);
    place.ok(&["clone", "web", "thin", "--disks", "overlay"]);
    let seed = place.text("pool/web-seed.iso");
    place.define(
        "reader",
        &format!(
            "<disk type='file'><source file='{seed}'/><target dev='vda' bus='virtio'/><readonly/></disk>"
        ),
    );
    // The seed is the reader's as well, and the clone's disk is based on the other.
    let said = place.ok(&["delete", "web"]);
    assert!(said.out.contains("web-seed.iso: domain reader uses it"), "{said:?}");
    assert!(said.out.contains("web.img: ") && said.out.contains("is based on it"), "{said:?}");
    assert!(place.path("pool/web.img").exists() && place.path("pool/web-seed.iso").exists());
    place.ok(&["delete", "thin"]);
    assert!(!place.path("pool/thin.qcow2").exists() && place.path("pool/web.img").exists());
}

#[test]
fn what_may_be_somebody_elses_stays_unless_told() {
    let place = Place::new();
    let [own, read, shared] =
        ["own.img", "read.img", "shared.img"].map(|name| place.raw(&format!("pool/{name}"), 1 << 20));
    let outside = place.raw("outside.img", 1 << 20);
    place.virsh(&["pool-refresh", "default"]);
    let disk = |path: &str, target: &str, more: &str| {
        format!(
            "<disk type='file'><driver type='raw'/><source file='{path}'/><target dev='{target}' bus='virtio'/>{more}</disk>"
        )
    };
    let devices = [
        disk(&own, "vda", ""),
        disk(&read, "vdb", "<readonly/>"),
        disk(&shared, "vdc", "<shareable/>"),
        disk(&outside, "vdd", ""),
    ]
    .concat();
    place.define("web", &devices);
    let told = place.ok(&["delete", "web", "--json"]).json();
    assert_eq!(told["removed"], serde_json::json!([own]));
    assert_eq!(told["kept"].as_array().unwrap().len(), 3, "{told}");
    place.define("web", &devices.replace(&disk(&own, "vda", ""), ""));
    let told = place.ok(&["delete", "web", "--remove-all-storage", "--json"]).json();
    assert_eq!(told["removed"], serde_json::json!([read, shared]));
    assert!(place.path("outside.img").exists(), "what is in no pool is nobody's to remove");
}

#[test]
fn a_running_machine_goes_only_by_force() {
    let place = Place::new();
    let kernel = place.raw("kernel", 1 << 20);
    place.ok(&["create", "web", "--memory", "64M", "--disk", "1M", "--kernel", &kernel]);
    place.fails(&["delete", "web"], 5, &["is running", "--force"]);
    assert_eq!(place.virsh(&["domstate", "web"]).trim(), "running");
    assert!(place.path("pool/web.qcow2").exists());
    place.ok(&["delete", "web", "--force"]);
    assert_eq!(place.virsh(&["list", "--all", "--name"]).trim(), "");
    assert!(!place.path("pool/web.qcow2").exists());
}
