//! A VMDK file, and what each extent that it names holds.
#![no_main]

use block_io::formats::Format;
use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{file, read, split};

fuzz_target!(|input: &[u8]| {
    let Some((extent, image)) = split(input) else { return };
    read(Format::Vmdk, file(image), &mut |name| {
        assert!(!name.contains(['/', '\0']) && name != "..", "a name that leads elsewhere");
        Ok(file(extent))
    });
});
