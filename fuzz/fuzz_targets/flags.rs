//! A command line: options of a machine, one a line, name and value divided by a blank.
//!
//! Held true: it is refused with one line, or becomes a description; the machine that this describes is the same after it
//! was described and spelled as options again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machine_spec::MachineSpec;
use machine_spec::flags::{MachineFlags, spell};
use machine_spec::wire::VmConfig;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut flags = MachineFlags::default();
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        if let Err(error) = flags.take(name, value) {
            assert!(!error.to_string().contains('\n'), "{error}");
            return;
        }
    }
    let machine = match MachineSpec::from_config(flags.into_config(), &mut || [0x52, 1, 2, 3, 4, 5]) {
        Ok(machine) => machine,
        Err(error) => return assert!(!error.to_string().contains('\n'), "{error}"),
    };
    let described = VmConfig::from(&machine);
    let mut flags = MachineFlags::default();
    for option in spell(&described).chunks(2) {
        let [name, value] = option else { panic!("an option without a value: {option:?}") };
        let name = name.strip_prefix("--").expect("dashes");
        flags.take(name, value).unwrap_or_else(|error| panic!("{name} {value}: {error}"));
    }
    let again = MachineSpec::from_config(flags.into_config(), &mut || panic!("nothing is left to chance"));
    assert_eq!(again.expect("a machine's description"), machine);
});
