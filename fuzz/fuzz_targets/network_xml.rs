//! Network documents, and changes of them: what is accepted is written, read as the same, completed and changed without a panic.
//!
//! The input is a document, and after a line of its own with `%` the section (a letter from `a` for 0) and the entry of a change.

#![no_main]

use libfuzzer_sys::fuzz_target;
use libvirt_xml::network::Network;
use libvirt_xml::network::assign::{define, start};
use libvirt_xml::network::check::check;
use libvirt_xml::network::update::{Command, Section, update};

fuzz_target!(|input: &str| {
    let (document, change) = input.split_once("\n%\n").unwrap_or((input, ""));
    let Ok(mut network) = Network::parse(document) else { return };
    let written = network.to_xml();
    let read = Network::parse(&written).expect("what was written is read");
    assert_eq!(read, network, "{written}");
    let mut random = |buffer: &mut [u8]| buffer.fill(7);
    define(&mut network, None, &mut |_| false, &mut random);
    if check(&network).is_err() {
        return;
    }
    let mut again = network.clone();
    define(&mut again, None, &mut |_| false, &mut random);
    assert_eq!(again, network, "a completed definition is complete");
    start(&mut again);
    let mut characters = change.chars();
    let section = characters.next().map_or(0, |letter| u32::from(letter).wrapping_sub(u32::from('a')));
    let Ok(section) = Section::from_number(section, &network) else { return };
    for command in [Command::Modify, Command::Delete, Command::AddLast, Command::AddFirst] {
        if let Ok(changed) = update(&network, command, section, None, characters.as_str()) {
            check(&changed).expect("a changed network is checked");
            assert_eq!(Network::parse(&changed.to_xml()).expect("our own document"), changed);
        }
    }
});
