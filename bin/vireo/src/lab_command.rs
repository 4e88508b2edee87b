//! `vireo lab`: runs a command in the emulated host of the `lab` crate, or prepares it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lab::guest::Guest;
use lab::shape::{Iommu, Shape};
use lab::{Context, Kind, LabError, Options, Verbosity};

const EXIT_CODES: &str = "\
Exit codes: the command's own (128 + n if signal n ended it), or
  124  the time limit was exceeded
  125  the emulated host could not be set up or started, or died
  127  there is no such command
  130  interrupted (SIGINT, SIGTERM, SIGHUP)
  141  nobody reads the output any more

The command sees this machine's files (what it writes is lost, except in --rw directories), the working
directory and the environment, with VIREO_LAB=1 added. It runs as root of the emulated host and has
/dev/kvm, vhost, tun, vfio, cgroups and so on there; files are read with the rights of the caller.

Everything is kept in $VIREO_LAB_CACHE (default: vireo/lab in $XDG_CACHE_HOME or ~/.cache).";

/// Run a command in an emulated AMD-V host with real KVM, on a machine that has none.
///
/// QEMU's software CPU with nested paging runs a Debian kernel, so nothing but QEMU is needed, and programs are 3 to 30
/// times slower than on a real host. What is missing is installed and downloaded on first use (Debian 12 and 13; about 2
/// minutes). The first start of each kind of machine takes about 7 s, later ones less than a second.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Memory of the emulated host
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    mem: u32,
    /// Its CPUs (with more than one, it crashes now and then while it runs guests)
    #[arg(long, value_name = "N", default_value_t = 1)]
    smp: u32,
    /// Two NUMA nodes with half of the CPUs and memory each
    #[arg(long)]
    numa: bool,
    /// An IOMMU: intel (if none is named) or amd
    #[arg(long, value_name = "KIND", num_args = 0..=1, default_missing_value = "intel")]
    iommu: Option<Iommu>,
    /// A network card with SR-IOV (igb, up to 7 virtual functions), and an IOMMU
    #[arg(long)]
    sriov: bool,
    /// An NVMe disk (64 MiB of zeroes) to pass through
    #[arg(long)]
    nvme: bool,
    /// Huge pages of 2 MiB
    #[arg(long, value_name = "N", default_value_t = 0)]
    hugepages: u32,
    /// Huge pages of 1 GiB
    #[arg(long, value_name = "N", default_value_t = 0)]
    hugepages1g: u32,
    /// A directory that the command can write to (up to 4 times)
    #[arg(long, value_name = "DIR")]
    rw: Vec<PathBuf>,
    /// End the run after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    timeout: Duration,
    /// Pass standard input to the command
    #[arg(long)]
    stdin: bool,
    /// Start from cold instead of resuming a snapshot
    #[arg(long)]
    no_snap: bool,
    /// Do not wait for other labs to end
    #[arg(long)]
    no_lock: bool,
    /// More kernel parameters for the emulated host
    #[arg(long, value_name = "PARAMETERS", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// More arguments for its QEMU, separated by blanks
    #[arg(long, value_name = "ARGUMENTS", default_value = "", allow_hyphen_values = true)]
    qemu: String,
    /// Its CPU model, as QEMU names them
    #[arg(long, value_name = "MODEL", default_value_t = Shape::default().cpu_model)]
    cpu: String,
    /// Keep what its console shows in this file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Tell when each step is done
    #[arg(short, long)]
    verbose: bool,
    /// Prepare everything now and run nothing
    #[arg(long, conflicts_with_all = ["command", "guest"])]
    setup: bool,
    /// With --setup: make a Debian root file system for guests, too
    #[arg(long, requires = "setup")]
    rootfs: bool,
    /// Print where a guest's kernel and initramfs are, as JSON: c612, c61 or full
    #[arg(long, value_name = "KIND", conflicts_with = "command")]
    guest: Option<Kind>,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND", required_unless_present_any = ["setup", "guest"])]
    command: Vec<OsString>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| !time.is_zero() && *time <= Duration::from_secs(7 * 24 * 3600))
        .ok_or_else(|| "has to be more than 0 and at most a week".to_owned())
}

/// Does what the arguments ask for; the exit code is the command's or one of those in the help.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    match work(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(if matches!(error, LabError::Interrupted) { 130 } else { 125 })
        }
    }
}

fn work(arguments: Arguments) -> Result<u8, LabError> {
    let verbosity = if arguments.verbose { Verbosity::Timings } else { Verbosity::Normal };
    let context = Context::new(verbosity)?;
    if arguments.setup {
        lab::setup::prepare_all(&context)?;
        if arguments.rootfs {
            lab::rootfs::prepare(&context)?;
        }
        return Ok(0);
    }
    if let Some(kind) = arguments.guest {
        let guest = Guest::prepare_in(&context, kind)?;
        let text = serde_json::to_string_pretty(&guest);
        println!("{}", text.map_err(|error| LabError::System("printing", error.into()))?);
        return Ok(0);
    }
    let options = Options {
        shape: Shape {
            memory_mib: arguments.mem,
            cpus: arguments.smp,
            cpu_model: arguments.cpu,
            numa: arguments.numa,
            iommu: arguments.iommu,
            sriov: arguments.sriov,
            nvme: arguments.nvme,
            kernel_parameters: arguments.append,
            qemu_arguments: arguments.qemu.split_whitespace().map(str::to_owned).collect(),
        },
        huge_pages_2m: arguments.hugepages,
        huge_pages_1g: arguments.hugepages1g,
        shares: arguments.rw,
        time_limit: arguments.timeout,
        standard_input: arguments.stdin,
        snapshot: !arguments.no_snap,
        alone: !arguments.no_lock,
        console: arguments.console,
    };
    Ok(lab::run(&context, &options, &arguments.command)?.exit_code())
}
