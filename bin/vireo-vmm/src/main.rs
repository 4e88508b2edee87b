//! vireo-vmm: one virtual machine, one process.
//!
//! Almost nothing happens here: arguments become a description, the description a checked specification, and the library
//! does the rest. Arguments are read by hand, because the time from the start of the process to the guest's first
//! instruction is measured in microseconds.
//!
//! For the same reason the C library calls `main` here and not Rust's start-up code, which reads the memory map and gives every
//! thread a signal stack to say more about a stack overflow. One ends the process all the same, by its guard page (SIGSEGV).
#![cfg_attr(not(test), no_main)]

mod arguments;
mod logging;

use std::ffi::{c_char, c_int};

use arguments::{Arguments, Command, UsageError};
use machine_spec::MachineSpec;
use vmm::{ExitStatus, VmmOptions};

// SAFETY: nothing else in the program is called main.
#[cfg_attr(not(test), expect(unsafe_code, reason = "the C library's entry"), unsafe(no_mangle))]
extern "C" fn main(_count: c_int, _words: *const *const c_char) -> c_int {
    as_rust_starts();
    one_heap();
    // The standard library has the words from where the C library keeps them.
    let status = start(std::env::args_os().skip(1)).unwrap_or_else(|error| {
        eprintln!("vireo-vmm: {error}");
        ExitStatus::Refused
    });
    status.code()
}

/// What the rest relies on of Rust's own start: descriptors 0 to 2 are never somebody else's, and a write to a pipe that nobody
/// reads is an error.
#[expect(unsafe_code, reason = "signal, fcntl, open")]
fn as_rust_starts() {
    // SAFETY: called before there are threads; the calls get numbers and a constant text.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        for descriptor in 0..3 {
            // The lowest free number is this one, if it is free.
            if libc::fcntl(descriptor, libc::F_GETFD) < 0 {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
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
