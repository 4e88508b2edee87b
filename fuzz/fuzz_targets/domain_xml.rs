//! Domain documents: what is accepted is written, read as the same and completed without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use libvirt_xml::domain::Domain;
use libvirt_xml::domain::assign::{HostDefaults, define, start};
use libvirt_xml::domain::check::check;

fuzz_target!(|document: &str| {
    let Ok(mut domain) = Domain::parse(document) else { return };
    let written = domain.to_xml();
    let read = Domain::parse(&written).expect("what was written is read");
    assert_eq!(read, domain, "{written}");
    let mut random = |buffer: &mut [u8]| buffer.fill(7);
    let host = HostDefaults::default();
    if define(&mut domain, &host, &mut random).is_ok() && check(&domain).is_ok() {
        let mut again = domain.clone();
        define(&mut again, &host, &mut random).expect("a completed definition is complete");
        assert_eq!(again, domain);
        start(&mut again, 1);
        let _ = again.without_live_details();
    }
});
