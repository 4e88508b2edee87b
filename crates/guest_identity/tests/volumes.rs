//! The seed's volume as others read it: blkid(8) and xorriso(1).
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::process::Command;

use guest_identity::cloud_init::{Seed, SeedNetwork, SshKey};
use guest_identity::iso9660::{self, IsoFile};

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install what tools/install-dependencies lists")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_seed_has_the_label_that_cloud_init_looks_for_and_its_files_with_their_names() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqYQ0hGZ3Nvb2Vp me@here";
    let seed = Seed {
        instance_id: "3b241101-e2bb-4255-8caf-4136c566a962".into(),
        host_name: Some("demo".into()),
        user: Some("ann".into()),
        keys: SshKey::parse_all(key, "key").unwrap(),
        network: SeedNetwork::Dhcp,
        ..Seed::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed.iso");
    std::fs::write(&path, seed.volume().unwrap()).unwrap();
    let blkid = said(Command::new("/usr/sbin/blkid").args(["-p", "-o", "export"]).arg(&path));
    assert!(blkid.contains("LABEL=cidata") && blkid.contains("TYPE=iso9660"), "{blkid}");
    // Both namings, and what stands in the files.
    for joliet in [false, true] {
        let target = directory.path().join(format!("tree{joliet}"));
        let mut command = Command::new("xorriso");
        command.args(["-osirrox", "on"]);
        if joliet {
            command.args(["-read_fs", "norock"]);
        }
        said(command.arg("-indev").arg(&path).args(["-extract", "/"]).arg(&target));
        let mut names: Vec<String> = std::fs::read_dir(&target)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["meta-data", "network-config", "user-data"]);
        for file in seed.files().unwrap() {
            assert_eq!(std::fs::read(target.join(&file.name)).unwrap(), file.content);
        }
    }
}

#[test]
fn a_volume_of_many_large_and_empty_files_comes_back_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("many.iso");
    let files: Vec<IsoFile> = (0..iso9660::MOST_FILES)
        .map(|number| IsoFile {
            name: format!("File.with-a_long-name.{number:03}"),
            content: vec![u8::try_from(number).unwrap(); number * 1021],
        })
        .collect();
    std::fs::write(&path, iso9660::volume("many", &files).unwrap()).unwrap();
    let target = directory.path().join("tree");
    said(
        Command::new("xorriso")
            .args(["-osirrox", "on", "-indev"])
            .arg(&path)
            .args(["-extract", "/"])
            .arg(&target),
    );
    for file in &files {
        assert_eq!(std::fs::read(target.join(&file.name)).unwrap(), file.content, "{}", file.name);
    }
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), files.len());
}
