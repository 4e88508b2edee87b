//! Copies of machines with a Linux inside.

use super::*;

impl Place {
    /// A raw image with a root file system that has been started before.
    fn linux(&self, name: &str) -> String {
        let root = self.path("tree");
        std::fs::create_dir_all(root.join("etc/ssh")).unwrap();
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        std::fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        std::fs::write(root.join("etc/hostname"), "old\n").unwrap();
        let key = root.join("etc/ssh/ssh_host_ed25519_key");
        if !key.exists() {
            ran(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key));
        }
        let image = self.text(name);
        ran(Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-d"]).arg(&root).args([&image, "16M"]));
        image
    }

    fn inside(&self, image: &str, path: &str) -> String {
        let raw = self.text("inside.raw");
        ran(Command::new("qemu-img").args(["convert", "-U", "-O", "raw", image, &raw]));
        ran(Command::new("/usr/sbin/debugfs").args(["-R", &format!("cat {path}"), &raw]))
    }
}

#[test]
fn the_linux_in_a_copy_is_another_one_however_it_was_copied() {
    let place = Place::new();
    let image = place.linux("base.img");
    let public = "/etc/ssh/ssh_host_ed25519_key.pub";
    for (source, format) in [("plain", "raw"), ("packed", "qcow2")] {
        place.ok(&["create", source, "--image", &image, "--format", format, "--no-start"]);
        let suffix = if format == "raw" { "img" } else { "qcow2" };
        let own = place.text(&format!("pool/{source}.{suffix}"));
        for (how, copy_suffix) in [("copy", suffix), ("overlay", "qcow2")] {
            let name = format!("{source}-{how}");
            let words = ["clone", source, &name, "--disks", how, "--renew-identity", "--hostname", &name];
            let said = place.ok(&words);
            assert!(said.err.contains("ssh host key ed25519"), "{said:?}");
            let copy = place.text(&format!("pool/{name}.{copy_suffix}"));
            assert_eq!(place.inside(&copy, "/etc/machine-id"), "");
            assert_eq!(place.inside(&copy, "/etc/hostname"), format!("{name}\n"));
            assert_ne!(place.inside(&copy, public), place.inside(&image, public));
            assert_eq!(place.inside(&copy, "/etc/passwd"), place.inside(&image, "/etc/passwd"));
            assert_eq!(
                place.inside(&own, public),
                place.inside(&image, public),
                "the source stays who it is"
            );
        }
    }
}

#[test]
fn what_can_not_be_renewed_is_known_before_anything_is_made() {
    let place = Place::new();
    let image = place.raw("base.img", 1 << 20);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"XFSB", 0).unwrap();
    place.ok(&["create", "web", "--image", &image, "--no-start"]);
    let before = place.everything();
    place.fails(
        &["clone", "web", "new", "--renew-identity"],
        8,
        &["the whole disk has XFS", "inside the guest"],
    );
    place.fails(&["clone", "web", "new", "--renew-identity", "--hostname", "a b"], 2, &["not a host name"]);
    assert_eq!(place.everything(), before);
}
