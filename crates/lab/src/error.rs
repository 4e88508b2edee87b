//! What can go wrong around the emulated host, in one enum, because one place (the CLI) shows all of it.

use std::path::PathBuf;

/// Why the emulated host, its cache or a guest could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Reading or writing a file, a directory or a socket failed.
    #[error("{action} {path}: {source}")]
    File {
        /// What was done, as a gerund: "reading", "creating".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A system call that concerns no file failed.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
    /// Programs are missing and this process may not install them.
    #[error(
        "{program} is not installed: run `vireo lab --setup` as root (or install the packages: {packages})"
    )]
    MissingProgram {
        /// The first program that is missing.
        program: String,
        /// The Debian packages that would be installed.
        packages: String,
    },
    /// A program ran and failed.
    #[error("{program} failed ({status}){detail}")]
    Command {
        /// The program's name.
        program: String,
        /// How it ended.
        status: String,
        /// The end of its standard error, or nothing.
        detail: String,
    },
    /// This distribution is not one that setup knows.
    #[error(
        "setup knows Debian 12 and 13, this is {0}: prepare the cache on such a machine and copy it here \
         ($VIREO_LAB_CACHE); using a prepared cache only needs qemu-system-x86_64 8.2 or later"
    )]
    Distribution(String),
    /// Packages can't be downloaded from inside the emulated host.
    #[error("{0} is not prepared: run `vireo lab --setup` outside of the emulated host first")]
    InsideLab(String),
    /// The archive has no such kernel.
    #[error("the package archive has no {package} in any of: {suites}")]
    NoKernel {
        /// The meta package.
        package: &'static str,
        /// Where it was looked for.
        suites: String,
    },
    /// A kernel image or module is not what it should be.
    #[error("{0}: {1}")]
    Image(PathBuf, &'static str),
    /// The shape of the machine contradicts itself.
    #[error("{0}")]
    Shape(String),
    /// The emulator refused a command or talked nonsense.
    #[error("qemu: {0}")]
    Qemu(String),
    /// The emulated host ended without handing back an exit code.
    #[error("the emulated host died: {0}")]
    Died(String),
    /// SIGINT, SIGTERM or SIGHUP came.
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    /// For `map_err`: an error of `action` on `path`.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> LabError {
        let path = path.into();
        move |source| LabError::File { action, path, source }
    }
}
