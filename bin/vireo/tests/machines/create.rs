//! Machines from nothing but words.

use super::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqYQ0hGZ3Nvb2Vp me@here";

#[test]
fn a_machine_of_an_image_has_its_disk_its_seed_and_runs() {
    let place = Place::new();
    let raw = place.raw("raw", 4 << 20);
    let image = place.text("base.qcow2");
    ran(Command::new("qemu-img").args(["convert", "-O", "qcow2", "-c", &raw, &image]));
    let kernel = place.raw("kernel", 1 << 20);
    let said = place.ok(&[
        "create",
        "web",
        "--memory",
        "96M",
        "--cpus",
        "2",
        "--disk",
        "20M",
        "--image",
        &image,
        "--kernel",
        &kernel,
        "--cmdline",
        "root=/dev/vda",
        "--user",
        "ann",
        "--ssh-key",
        KEY,
        "--hostname",
        "web.example.org",
        "--title",
        "A server",
        "--description",
        "For tests",
        "--autostart",
        "--json",
    ]);
    let told = said.json();
    assert_eq!(told["done"], "created and started");
    assert!(told["notes"][0].as_str().unwrap().contains("no network interface"), "{told}");
    assert_eq!(place.virsh(&["domstate", "web"]).trim(), "running");
    assert_eq!(told["disks"][0]["path"], place.text("pool/web.qcow2"));

    let info = place.image("web.qcow2");
    assert_eq!((&info["format"], &info["virtual-size"]), (&"qcow2".into(), &(20 << 20).into()));
    place.same(&image, &place.text("pool/web.qcow2"));
    let document = place.document("web");
    assert_eq!((document.memory_kib(), document.max_vcpus()), (96 << 10, 2));
    assert_eq!(document.title.as_deref(), Some("A server"));
    assert_eq!(document.os.cmdline.as_deref(), Some("root=/dev/vda"));
    let [disk, seed] = &document.devices.disks[..] else { panic!("two disks") };
    assert!(!disk.readonly && seed.readonly && seed.target.dev == "vdb");
    assert!(place.virsh(&["dominfo", "web"]).contains("Autostart:      enable"));

    let seed = place.text("pool/web-seed.iso");
    assert!(ran(Command::new("/usr/sbin/blkid").args(["-p", &seed])).contains("LABEL=\"cidata\""));
    let tree = place.text("tree");
    ran(Command::new("xorriso").args(["-osirrox", "on", "-indev", &seed, "-extract", "/", &tree]));
    let user_data = std::fs::read_to_string(place.path("tree/user-data")).unwrap();
    assert!(
        user_data.starts_with("#cloud-config\n")
            && user_data.contains(KEY)
            && user_data.contains("name: ann")
    );
    let meta_data = std::fs::read_to_string(place.path("tree/meta-data")).unwrap();
    assert!(meta_data.contains(&document.uuid.unwrap().to_string()), "{meta_data}");
    assert!(meta_data.contains("web.example.org"));
}

#[test]
fn formats_are_converted_and_raw_images_stay_raw() {
    let place = Place::new();
    let raw = place.raw("base.img", 4 << 20);
    let vmdk = place.text("base.vmdk");
    ran(Command::new("qemu-img").args(["convert", "-O", "vmdk", &raw, &vmdk]));
    place.ok(&["create", "one", "--image", &raw, "--no-start"]);
    assert_eq!(place.image("one.img")["format"], "raw");
    place.same(&raw, &place.text("pool/one.img"));
    place.ok(&["create", "two", "--image", &raw, "--format", "qcow2", "--no-start"]);
    place.ok(&["create", "three", "--image", &vmdk, "--disk", "8M", "--no-start"]);
    for (name, bytes) in [("two", 4 << 20), ("three", 8 << 20)] {
        let info = place.image(&format!("{name}.qcow2"));
        assert_eq!((&info["format"], &info["virtual-size"]), (&"qcow2".into(), &bytes.into()), "{name}");
        place.same(&raw, &place.text(&format!("pool/{name}.qcow2")));
    }
    // The pools through which images were reached have gone.
    assert_eq!(place.virsh(&["pool-list", "--all", "--name"]).trim(), "default");
}

#[test]
fn an_overlay_is_based_on_its_image_and_an_empty_disk_on_nothing() {
    let place = Place::new();
    std::fs::create_dir(place.path("images")).unwrap();
    let raw = place.raw("images/base.img", 4 << 20);
    let said = place.ok(&["create", "thin", "--image", &raw, "--overlay", "--disk", "6M", "--no-start"]);
    assert!(said.err.contains("must not change any more"), "{said:?}");
    let info = place.image("thin.qcow2");
    assert_eq!(
        (&info["backing-filename"], &info["backing-filename-format"]),
        (&raw.as_str().into(), &"raw".into())
    );
    assert_eq!(info["virtual-size"], 6 << 20);
    place.same(&raw, &place.text("pool/thin.qcow2"));
    assert!(place.virsh(&["pool-list", "--all", "--name"]).contains("images"), "the pool of the image stays");
    place.ok(&["create", "empty", "--disk", "5M", "--no-start"]);
    assert_eq!(place.image("empty.qcow2")["virtual-size"], 5 << 20);
}

#[test]
fn whatever_fails_leaves_nothing_unless_told() {
    let place = Place::new();
    let image = place.raw("base.img", 4 << 20);
    let before = place.everything();
    // Without firmware a machine needs a kernel.
    let words = ["create", "web", "--image", &image, "--hostname", "web"];
    place.fails(&words, 8, &["cannot start domain web", "--kernel"]);
    assert_eq!(place.everything(), before);
    let kept: Vec<&str> = words.iter().copied().chain(["--keep-on-failure"]).collect();
    place.fails(&kept, 8, &["kept: the definition of domain web", "kept: the volume"]);
    assert!(place.path("pool/web.img").exists());
    assert_eq!(place.virsh(&["domstate", "web"]).trim(), "shut off");
    // What was there already is not touched.
    place.fails(&["create", "web", "--disk", "1M"], 1, &["there is a domain \"web\" already"]);
    place.virsh(&["undefine", "web"]);
    place.fails(&["create", "web", "--image", &image, "--no-start"], 1, &["web.img"]);
    assert!(place.path("pool/web.img").exists() && place.path("pool/web-seed.iso").exists());
}

#[test]
fn a_pool_that_was_made_for_a_machine_goes_with_it_when_that_fails() {
    let place = Place::new();
    let image = place.raw("base.img", 4 << 20);
    let before = place.everything();
    let directory = place.text("new");
    place.fails(&["create", "web", "--image", &image, "--pool", &directory], 8, &["cannot start domain web"]);
    assert_eq!(place.everything(), before);
    assert!(!place.path("new").exists());
    place.ok(&["create", "web", "--image", &image, "--pool", &directory, "--no-start"]);
    assert!(place.path("new/web.img").exists());
    place.ok(&["create", "other", "--disk", "1M", "--pool", "new", "--no-start"]);
    assert!(place.path("new/other.qcow2").exists());
}

#[test]
fn the_definition_is_printed_and_nothing_made() {
    let place = Place::new();
    let before = place.everything();
    let words = [
        "create",
        "web",
        "--disk",
        "1G",
        "--network",
        "bridge=br7",
        "--mac",
        "52:54:00:01:02:03",
        "--user",
        "ann",
        "--ssh-key",
        KEY,
        "--print-xml",
    ];
    let document = libvirt_xml::domain::Domain::parse(&place.ok(&words).out).unwrap();
    assert_eq!(place.everything(), before);
    let disks: Vec<_> = document.devices.disks.iter().map(|disk| disk.path().unwrap().to_owned()).collect();
    assert_eq!(disks, [place.text("pool/web.qcow2"), place.text("pool/web-seed.iso")]);
    let interface = &document.devices.interfaces[0];
    assert_eq!(interface.source.as_ref().unwrap().bridge.as_deref(), Some("br7"));
    assert_eq!(interface.mac.as_ref().unwrap().address.to_string(), "52:54:00:01:02:03");
    let tap = place.ok(&["create", "web", "--disk", "1G", "--network", "tap=tap7", "--dry-run"]).out;
    let document = libvirt_xml::domain::Domain::parse(&tap).unwrap();
    assert_eq!(document.devices.interfaces[0].target.as_ref().unwrap().dev.as_deref(), Some("tap7"));
    let user = "user,tcp=127.0.0.1/2222:22,udp=5000-5010";
    let user = place.ok(&["create", "web", "--disk", "1G", "--network", user, "--dry-run"]).out;
    for line in [
        "<interface type='user'>",
        "<backend type='passt'/>",
        "<portForward proto='tcp' address='127.0.0.1'>",
        "<range start='2222' to='22'/>",
        "<range start='5000' end='5010'/>",
    ] {
        assert!(user.contains(line), "{line}: {user}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let place = Place::new();
    let image = place.raw("base.img", 4 << 20);
    let based = place.text("based.qcow2");
    ran(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &image, &based]));
    let before = place.everything();
    for (words, code, message) in [
        (&["create", "a/b", "--disk", "1M"][..], 2, "is not a name"),
        (&["create", "web"], 2, "nothing to boot from"),
        (&["create", "web", "--disk", "1X"], 2, "is not a size"),
        (&["create", "web", "--image", "/nowhere"], 1, "cannot find the image"),
        (&["create", "web", "--image", &image, "--disk", "1M"], 2, "would lose its end"),
        (&["create", "web", "--image", &based], 2, "based on another file"),
        (&["create", "web", "--disk", "1M", "--user", "ann"], 2, "nobody could log in"),
        (&["create", "web", "--disk", "1M", "--user", "Ann", "--ssh-key", KEY], 2, "not a user name"),
        (&["create", "web", "--disk", "1M", "--ssh-key", "/nowhere"], 1, "/nowhere"),
        (
            &["create", "web", "--disk", "1M", "--user", "ann", "--password-hash", "secret"],
            2,
            "password hash",
        ),
        (&["create", "web", "--disk", "1M", "--hostname", "a_b"], 2, "not a host name"),
        (&["create", "web", "--disk", "1M", "--pool", "defualt"], 4, "did you mean default?"),
        (&["create", "web", "--disk", "1M", "--network", "lan"], 4, "there is no network \"lan\""),
        (&["create", "web", "--disk", "1M", "--overlay"], 2, "--image"),
        (&["create", "web", "--disk", "1M", "--no-start", "--paused"], 2, "cannot be used with"),
    ] {
        place.fails(words, code, &[message]);
        assert_eq!(place.everything(), before, "{words:?}");
    }
    place.ok(&["create", "web", "--image", &based, "--image-format", "qcow2", "--no-start"]);
    assert!(place.image("web.qcow2").get("backing-filename").is_none(), "a copy is whole");
    place.same(&image, &place.text("pool/web.qcow2"));
}

#[test]
fn a_machine_can_wait_before_its_first_instruction() {
    let place = Place::new();
    let kernel = place.raw("kernel", 1 << 20);
    place.ok(&["create", "web", "--memory", "64M", "--kernel", &kernel, "--paused"]);
    assert_eq!(place.virsh(&["domstate", "web"]).trim(), "paused");
}

#[test]
fn the_callers_own_keys_are_those_of_a_user_without_any() {
    let place = Place::new();
    std::fs::create_dir(place.path("home/.ssh")).unwrap();
    std::fs::write(place.path("home/.ssh/id_ed25519.pub"), KEY).unwrap();
    std::fs::write(place.path("home/.ssh/other.pub"), "no key").unwrap();
    place.ok(&["create", "web", "--disk", "1M", "--user", "ann", "--no-start"]);
    let seed = std::fs::read(place.path("pool/web-seed.iso")).unwrap();
    assert!(seed.windows(KEY.len()).any(|part| part == KEY.as_bytes()));
}
