//! A VDI file.
#![no_main]

use block_io::formats::Format;
use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{file, no_extents, read};

fuzz_target!(|input: &[u8]| read(Format::Vdi, file(input), &mut no_extents));
