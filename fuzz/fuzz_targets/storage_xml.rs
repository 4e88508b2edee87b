//! Documents of storage pools, volumes and sources of pools.
//!
//! Held true: each is refused or becomes a value; the document of that value is read as the same value again; and no name or
//! path in it leads out of where it may lie.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libvirt_xml::parse;
use libvirt_xml::storage::{PoolDefinition, PoolSources, SourceQuery, VolumeDefinition};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(root) = parse(text) else { return };
    if let Ok(pool) = PoolDefinition::from_element(&root) {
        assert!(!pool.name.contains('/') && pool.name != "." && pool.name != "..");
        assert!(pool.target.path.starts_with('/') && !pool.target.path.split('/').any(|part| part == ".."));
        let again = parse(&pool.element().to_string()).expect("our own document");
        assert_eq!(PoolDefinition::from_element(&again).expect("our own pool"), pool);
    }
    if let Ok(volume) = VolumeDefinition::from_element(&root) {
        assert!(!volume.name.contains(['/', '\0', '\n']) && volume.name != "." && volume.name != "..");
        let again = parse(&volume.element().to_string()).expect("our own document");
        assert_eq!(VolumeDefinition::from_element(&again).expect("our own volume"), volume);
    }
    let _ = SourceQuery::from_element(&root);
    for kind in ["dir", "fs", "netfs", "logical", "rbd"] {
        if let Ok(sources) = PoolSources::from_element(&root, kind) {
            let again = parse(&sources.element().to_string()).expect("our own document");
            assert_eq!(PoolSources::from_element(&again, kind).expect("our own sources"), sources);
        }
    }
});
