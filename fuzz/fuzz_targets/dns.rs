//! A question for names: its length and bytes, then what another server answers if it is asked.
//!
//! Held true: nothing panics; an answer has the question's number, is one, and is no longer than who asks can take.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((question, foreign)) = vireo_fuzz::split(input) else { return };
    for stream in [false, true] {
        let Some(answer) = network_services::fuzzing::dns(question, stream, foreign) else { continue };
        assert_eq!(answer[..2], question[..2]);
        assert!(answer.len() >= 12 && answer[2] & 0x80 != 0);
        assert!(answer.len() <= if stream { 65_535 } else { 1232 });
    }
});
