//! vireo-vmm: one virtual machine, one process.
//!
//! Almost nothing happens here: arguments become a description, the description a checked specification, and the library
//! does the rest. Arguments are read by hand, because the time from the start of the process to the guest's first
//! instruction is measured in microseconds.

mod arguments;
mod logging;

use std::process::ExitCode;

use arguments::{Arguments, Command, UsageError};
use machine_spec::MachineSpec;
use vmm::{ExitStatus, VmmOptions};

fn main() -> ExitCode {
    one_heap();
    match start(std::env::args_os().skip(1)) {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("vireo-vmm: {error}");
            ExitStatus::Refused.into()
        }
    }
}

/// Lets all threads share one heap instead of one each: they allocate little, and each more heap costs a start 0.05 ms and stays
/// resident.
#[expect(unsafe_code, reason = "mallopt")]
fn one_heap() {
    // SAFETY: called before there are threads, with a parameter and a value that mallopt(3) defines.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

fn start(words: impl Iterator<Item = std::ffi::OsString>) -> Result<ExitStatus, UsageError> {
    let arguments = match arguments::parse(words)? {
        Command::Help => {
            arguments::print(&arguments::help());
            return Ok(ExitStatus::Ended);
        }
        Command::Version => {
            arguments::print(concat!("vireo-vmm ", env!("CARGO_PKG_VERSION"), "\n"));
            return Ok(ExitStatus::Ended);
        }
        Command::Run(arguments) => arguments,
    };
    let spec =
        arguments.machine.map(|config| MachineSpec::from_config(config, &mut vmm::random_mac)).transpose()?;
    logging::start(arguments.verbosity, arguments.log_file.as_deref())?;
    let Arguments { api_socket, event_monitor, .. } = *arguments;
    Ok(vmm::run(VmmOptions { spec, api_socket, event_monitor })?)
}
