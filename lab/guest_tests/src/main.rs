//! Tests with real guests: stock Debian kernels under `vireo-vmm`, every device used from inside.
//!
//! Needs /dev/kvm with hardware virtualization and root (for a TAP device). `tools/test-guests` runs this program directly
//! where the host has that, otherwise inside the emulated host (`vireo lab`). Arguments are those of Rust's test
//! harness; on an emulated host one test at a time is fastest.

mod boot;
mod control;
mod daemon;
mod devices;
mod disks;
mod domains;
mod faults;
mod guest;
mod lifecycle;
mod limits;
mod memory;
mod network;
mod networks;
mod storage;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test: its name and what it does.
type Test = (String, Box<dyn FnOnce() -> anyhow::Result<()> + Send>);

/// Names a function as a test.
fn test(name: &str, body: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Test {
    (name.to_owned(), Box::new(body))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let devices = [
        devices::tests(),
        disks::tests(),
        storage::tests(),
        domains::tests(),
        memory::tests(),
        limits::tests(),
        networks::tests(),
    ];
    let tests = [boot::tests(), lifecycle::tests(), control::tests(), faults::tests()]
        .into_iter()
        .chain(devices)
        .flatten()
        .map(|(name, body)| {
            Trial::test(name, move || body().map_err(|error| Failed::from(format!("{error:#}"))))
        })
        .collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}
