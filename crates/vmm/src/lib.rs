//! Assembly: from a machine's description to a running guest.
//!
//! Data flows one way: [`machine_spec`] describes, this crate builds the live machine (memory layout, boot protocol, ACPI
//! tables, devices, vCPU threads) and drives it. One thread, the VM driver, owns the machine and is its only mutator;
//! the control API, the terminal and signals are clients that send it requests.

pub mod acpi;
pub mod boot;
pub mod control;
pub mod layout;
pub mod memory;
