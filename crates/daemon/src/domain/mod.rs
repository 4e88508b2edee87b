//! Domains: what libvirt's clients define, and the machines that run them.

pub mod machine;
