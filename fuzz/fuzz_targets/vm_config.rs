//! The JSON description of a machine.
//!
//! Held true: it is refused or becomes a machine; describing that machine gives the same machine again, also by way of JSON
//! text and by way of the command line's options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machine_spec::MachineSpec;
use machine_spec::flags::{MachineFlags, spell};
use machine_spec::wire::VmConfig;

fuzz_target!(|input: &[u8]| {
    let Ok(config) = serde_json::from_slice::<VmConfig>(input) else { return };
    let Ok(machine) = MachineSpec::from_config(config, &mut || [0x52, 1, 2, 3, 4, 5]) else { return };
    let described = VmConfig::from(&machine);
    let again = |config| MachineSpec::from_config(config, &mut || panic!("nothing is left to chance"));
    assert_eq!(again(described.clone()).expect("a machine's description"), machine);

    let text = serde_json::to_string(&described).expect("JSON");
    let read = serde_json::from_str(&text).expect("our own JSON");
    assert_eq!(again(read).expect("a machine's description"), machine);

    let mut flags = MachineFlags::default();
    for option in spell(&described).chunks(2) {
        let [name, value] = option else { panic!("an option without a value: {option:?}") };
        let name = name.strip_prefix("--").expect("dashes");
        flags.take(name, value).unwrap_or_else(|error| panic!("{name} {value}: {error}"));
    }
    assert_eq!(again(flags.into_config()).expect("a machine's description"), machine);
});
