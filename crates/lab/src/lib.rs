//! The emulated host: an AMD-V machine with real KVM on any Linux, and the guests to run in it.
//!
//! Many machines offer no VT-x or AMD-V to a process, and on some /dev/kvm exists but can't run stock kernels. Here QEMU's
//! software CPU, which has AMD-V with nested paging, runs Debian's kernel, and a command runs in that machine as if it were this
//! one: the same files (changes to them are lost, but for shared directories), working directory, environment, output, exit
//! code. Started once for each machine shape and resumed from a snapshot after that, it is there in less than a second.
//!
//! - [`setup`] installs and downloads what is needed into the [`Cache`], [`guest`] makes guests from the same kernels;
//! - [`shape`] describes the machine, [`run()`] runs a command in it.
//!
//! Trusted: Debian's packages, QEMU, the caller. What comes out of the emulated host is bounded but not defended against: its root
//! can read every file that the caller can. No threads: one poll loop, which signals end ([`Interrupt`]); what was started or
//! created is a value that cleans up when dropped, and what a killed process left behind the next one removes.

mod cache;
mod command;
mod cpio;
mod debian;
mod error;
pub mod guest;
mod initramfs;
mod interrupt;
mod kernel;
mod machine;
mod modules;
mod qmp;
mod report;
pub mod rootfs;
mod run;
mod run_folder;
mod session;
pub mod setup;
pub mod shape;
mod snapshot;
mod vmlinux;
mod wait;

pub use cache::Cache;
pub use error::LabError;
pub use interrupt::Interrupt;
pub use kernel::Kind;
pub use report::{Report, Verbosity};
pub use run::{Options, Outcome, run};

/// Set in the environment of every command in the emulated host.
pub const INSIDE: &str = "VIREO_LAB";

/// What every operation works with.
#[derive(Debug)]
pub struct Context {
    /// Where things are kept.
    pub cache: Cache,
    /// What ends every wait.
    pub interrupt: Interrupt,
    /// Where progress goes.
    pub report: Report,
}

impl Context {
    /// With the cache that the environment names.
    ///
    /// # Errors
    /// When there is no folder for the cache, or signals can't be caught.
    pub fn new(verbosity: Verbosity) -> Result<Context, LabError> {
        Ok(Context {
            cache: Cache::from_environment()?,
            interrupt: Interrupt::catch()?,
            report: Report::new(verbosity),
        })
    }
}
