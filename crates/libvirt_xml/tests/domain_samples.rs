//! Documents of real clients and of a real libvirt.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::path::PathBuf;

use libvirt_xml::domain::Domain;

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name);
    fs::read_to_string(path).unwrap()
}

fn domain_samples() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.contains("domain") && name.ends_with(".xml")).collect();
    names.sort();
    assert!(names.len() >= 15, "{names:?}");
    names
}

#[test]
fn what_is_written_is_read_as_the_same_domain() {
    for name in domain_samples() {
        let domain = Domain::parse(&sample(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Domain::parse(&domain.to_xml()).unwrap(), domain, "{name}");
    }
}

#[test]
fn libvirts_own_documents_are_written_byte_for_byte() {
    for name in ["domain-inactive-t1.xml", "domain-running-t1.xml"] {
        let document = sample(name);
        let domain = Domain::parse(&document).unwrap();
        // The tool that wrote the sample ended it with a line of its own.
        assert_eq!(format!("{}\n", domain.to_xml()), document, "{name}");
    }
}
