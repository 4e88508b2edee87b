//! Assembly: from a machine's description to a running guest.
//!
//! Data flows one way: [`machine_spec`] describes, this crate builds the live machine (memory layout, boot protocol, ACPI
//! tables, devices, vCPU threads) and drives it. One thread, the VM driver, owns the machine and is its only mutator;
//! the control API, the terminal and signals are clients that send it requests.

pub mod acpi;
mod admission;
pub mod api;
pub mod boot;
pub mod control;
mod driver;
mod event_monitor;
mod firmware;
pub mod layout;
mod machine;
pub mod memory;
mod options;
mod random_mac;
mod run;
mod vcpu_thread;

pub use driver::ExitStatus;
pub use options::VmmOptions;
pub use random_mac::random_mac;
pub use run::{Refusal, run};
