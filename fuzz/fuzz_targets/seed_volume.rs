//! A volume that may be a cloud-init seed. What is taken for one of ours is a volume with its label, and a copy of its copy is the same
//! copy; what a volume of sound files holds is found in it.
#![no_main]

use guest_identity::cloud_init::{LABEL, Seed};
use guest_identity::iso9660;
use libfuzzer_sys::fuzz_target;

/// Files of a volume that is sound, out of the input.
fn sound(input: &[u8]) -> Option<Vec<u8>> {
    let mut parts = input.split(|byte| *byte == 0xff);
    let mut files = Vec::new();
    while let (Some(name), Some(content)) = (parts.next(), parts.next()) {
        files.push(iso9660::IsoFile {
            name: String::from_utf8(name.to_vec()).ok()?,
            content: content.to_vec(),
        });
    }
    let volume = iso9660::volume(LABEL, &files).ok()?;
    let found = iso9660::files(LABEL, &volume).expect("a volume of our own");
    assert_eq!(found.len(), files.len());
    assert!(files.iter().all(|file| found.contains(file)));
    Some(volume)
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let made = if kind & 1 == 1 { sound(rest) } else { None };
    let volume = made.as_deref().unwrap_or(rest);
    let Ok(Some(copy)) = Seed::of_copy(volume, "another", Some("copy")) else { return };
    assert!(iso9660::files(LABEL, volume).is_some());
    let again = Seed::of_copy(&copy, "another", Some("copy")).expect("a good name");
    assert_eq!(again, Some(copy), "a copy of a copy is the same");
});
