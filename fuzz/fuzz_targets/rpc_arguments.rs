//! Arguments and replies of every procedure of libvirt's protocol, events and errors.
//!
//! Held true: what can be read is written again as the same bytes, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libvirt_rpc::Procedure;
use libvirt_rpc::fuzzing::{recode_arguments, recode_message, recode_reply};

fuzz_target!(|input: &[u8]| {
    let Some((number, bytes)) = input.split_first_chunk() else { return };
    let number = usize::from(u16::from_be_bytes(*number));
    let procedure = Procedure::ALL[number % Procedure::ALL.len()];
    for again in [recode_arguments(procedure, bytes), recode_reply(procedure, bytes)].into_iter().flatten() {
        assert_eq!(again, bytes, "{procedure:?}");
    }
    if let Some(Ok(again)) = recode_message(300 + number as u32 % 200, bytes) {
        assert_eq!(again, bytes);
    }
});
