//! `vireo-bench`: runs benchmarks and prints a table, or JSON for machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::contender::{Contender, Kind};
use bench::daemon::DaemonOptions;
use bench::image::ImageOptions;
use bench::job::{Devices, Job};
use bench::network::NetworkOptions;
use bench::tiny_kernel::{Ending, GREETING};
use bench::{daemon, image, memory, network, report, time, tiny_kernel};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;

/// What `/init` of the lab's guests prints when it runs.
const GUEST_IS_UP: &[u8] = b"VIREO-GUEST-UP";
/// The same for all; "quiet" because a serial line costs more than what is measured.
const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=k panic=-1 vireo.tty=ttyS0 vireo.shell";
/// For the tiny kernel, and for a stock one in the emulated host.
const START_PATIENCE: Duration = Duration::from_secs(20);
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

#[derive(Parser)]
#[command(version, about = "Compare Vireo with its peers")]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Time from execution to the guest's first instruction, which needs no more of KVM than that it exists
    Start(StartOptions),
    /// Time from execution to /init of a stock Linux guest
    Boot(BootOptions),
    /// What programs with a stock Linux guest have resident, apart from the guest's memory
    Memory(MemoryOptions),
    /// Converting disk images, requests to them, and making overlays, beside qemu-img
    Image(ImageArguments),
    /// Calls to vireod with many definitions, its start and its memory, beside libvirtd
    Daemon(DaemonArguments),
    /// Virtual networks of vireod: from start to readiness, leases and transfers by NAT, beside libvirtd with dnsmasq
    Network(NetworkArguments),
    /// Write the tiny PVH kernel that the benchmarks boot
    Kernel {
        /// What it does after its greeting
        #[arg(long, default_value = "reset")]
        ending: EndingName,
        /// The file to write
        output: PathBuf,
    },
}

#[derive(Args)]
struct Common {
    /// Guest memory in MiB
    #[arg(long, default_value_t = 256)]
    memory: u32,
    /// Machines without disk, network interface, entropy device and console
    #[arg(long)]
    bare: bool,
    /// Compare only these, by name
    #[arg(long)]
    only: Vec<String>,
    /// Compare this program as well: NAME=COMMAND with {kernel}, {initramfs}, {cmdline}, {memory}, {disk} and {tap}
    #[arg(long, value_name = "NAME=COMMAND")]
    with: Vec<String>,
    /// Write the numbers to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct StartOptions {
    /// Rounds; every program runs once in each
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// What the guest does after its greeting
    #[arg(long, default_value = "reset")]
    ending: EndingName,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct BootOptions {
    /// Rounds; every program runs once in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct MemoryOptions {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct ImageArguments {
    /// Rounds; every program runs once in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Size of the disks in MiB
    #[arg(long, default_value_t = 4096)]
    size: u64,
    /// Requests of a run of bench
    #[arg(long, default_value_t = 75_000)]
    requests: u64,
    /// Only cases whose names contain this (may be repeated)
    #[arg(long)]
    only: Vec<String>,
    /// Where the images are made, which take three times the size; on the file system that is to be measured
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// Write the numbers to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct DaemonArguments {
    /// Rounds; every program takes part in each
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Domains that are defined
    #[arg(long, default_value_t = 1000)]
    domains: usize,
    /// Where the daemons keep what they write, a few MiB; on the file system that is to be measured
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// Write the numbers to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct NetworkArguments {
    /// Rounds; every program takes part in each
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Guests that ask for an address in each round
    #[arg(long, default_value_t = 200)]
    guests: u8,
    /// Seconds of each transfer
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Where the daemons keep what they write, a few MiB; on the file system that is to be measured
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// Write the numbers to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EndingName {
    Reset,
    PowerOff,
    Halt,
    TripleFault,
    Count,
}

impl EndingName {
    fn ending(self) -> Ending {
        match self {
            Self::Reset => Ending::Reset,
            Self::PowerOff => Ending::PowerOff,
            Self::Halt => Ending::Halt,
            Self::TripleFault => Ending::TripleFault,
            Self::Count => Ending::Count,
        }
    }

    fn ends(self) -> bool {
        matches!(self, Self::Reset | Self::PowerOff | Self::TripleFault)
    }
}

fn main() -> Result<()> {
    match Cli::parse().benchmark {
        Benchmark::Start(options) => start(&options),
        Benchmark::Boot(options) => boot(&options),
        Benchmark::Memory(options) => resident(&options),
        Benchmark::Image(arguments) => images(arguments),
        Benchmark::Daemon(arguments) => daemons(arguments),
        Benchmark::Network(arguments) => networks(arguments),
        Benchmark::Kernel { ending, output } => fs::write(&output, tiny_kernel::image(ending.ending()))
            .with_context(|| format!("writing {}", output.display())),
    }
}

impl Common {
    /// The programs that are there and wanted; the yardstick only where it is one.
    fn contenders(&self, with_floor: bool) -> Result<Vec<Contender>> {
        let program = std::env::current_exe().context("finding this program")?;
        let here = program.parent().context("finding this program's folder")?;
        let mut contenders = Contender::installed(here, &std::env::var("PATH").unwrap_or_default());
        for text in &self.with {
            contenders.push(Contender::parse(text)?);
        }
        contenders.retain(|contender| {
            (with_floor || contender.kind != Kind::Floor)
                && (self.only.is_empty() || self.only.contains(&contender.name))
        });
        ensure!(!contenders.is_empty(), "none of the programs is installed: {}", self.only.join(", "));
        Ok(contenders)
    }

    fn devices(&self, folder: &Path) -> Result<Option<Devices>> {
        if self.bare { Ok(None) } else { Devices::make(folder).map(Some) }
    }

    fn describe(&self, job: &Job, rounds: usize) -> serde_json::Value {
        json!({
            "rounds": rounds,
            "memory_mib": self.memory,
            "devices": job.devices.is_some(),
            "network_interface": job.tap().is_some(),
        })
    }

    fn save(
        &self,
        name: &str,
        options: &impl serde::Serialize,
        results: &impl serde::Serialize,
    ) -> Result<()> {
        self.json.as_ref().map_or(Ok(()), |path| report::save(path, name, options, results))
    }
}

fn start(options: &StartOptions) -> Result<()> {
    let StartOptions { rounds, ending, common } = options;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, tiny_kernel::image(ending.ending())).context("writing the kernel")?;
    let job =
        Job { devices: common.devices(folder.path())?, ..Job::new(kernel, common.memory, folder.path()) };
    let long = START_PATIENCE / 20;
    let goal = time::Goal { words: &[GREETING], patience: START_PATIENCE, ends: ending.ends(), long };
    let contenders = common.contenders(true)?.into_iter().map(|contender| contender.install(folder.path()));
    let contenders: Vec<_> = contenders.collect::<Result<_>>()?;
    let (outcomes, excluded) = time::compare(&contenders, &job, *rounds, goal)?;
    report::print_times(&outcomes, ("us", 1.0));
    let results = json!({ "outcomes": outcomes, "excluded": excluded });
    common.save("start", &common.describe(&job, *rounds), &results)
}

fn boot(options: &BootOptions) -> Result<()> {
    let BootOptions { rounds, common } = options;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let job = stock_guest(common, folder.path())?;
    let goal = time::Goal { words: GUEST_IS_UP, patience: BOOT_PATIENCE, ends: false, long: BOOT_PATIENCE };
    let (outcomes, excluded) = time::compare(&common.contenders(false)?, &job, *rounds, goal)?;
    report::print_times(&outcomes, ("ms", 1000.0));
    let results = json!({ "outcomes": outcomes, "excluded": excluded });
    common.save("boot", &common.describe(&job, *rounds), &results)
}

fn resident(options: &MemoryOptions) -> Result<()> {
    let MemoryOptions { common } = options;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let job = stock_guest(common, folder.path())?;
    let (footprints, excluded) =
        memory::compare(&common.contenders(false)?, &job, GUEST_IS_UP, BOOT_PATIENCE)?;
    report::print_memory(&footprints);
    let results = json!({ "footprints": footprints, "excluded": excluded });
    common.save("memory", &common.describe(&job, 1), &results)
}

fn images(arguments: ImageArguments) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let options = ImageOptions {
        vireo: program.with_file_name("vireo"),
        directory: arguments.directory,
        bytes: arguments.size << 20,
        rounds: arguments.rounds,
        requests: arguments.requests,
        only: arguments.only,
    };
    report::print_image_heading();
    let outcomes = image::compare(&options, report::print_image)?;
    arguments.json.map_or(Ok(()), |path| report::save(&path, "image", &options, &outcomes))
}

fn daemons(arguments: DaemonArguments) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let options = DaemonOptions {
        vireod: program.with_file_name("vireod"),
        directory: arguments.directory,
        domains: arguments.domains,
        rounds: arguments.rounds,
    };
    report::print_daemon_heading();
    let results = daemon::compare(&options, report::print_daemon)?;
    report::print_daemon_memory(&results.memory);
    arguments.json.map_or(Ok(()), |path| report::save(&path, "daemon", &options, &results))
}

fn networks(arguments: NetworkArguments) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let options = NetworkOptions {
        vireod: program.with_file_name("vireod"),
        directory: arguments.directory,
        rounds: arguments.rounds,
        guests: arguments.guests,
        seconds: arguments.seconds,
    };
    report::print_daemon_heading();
    let results = network::compare(&options, report::print_daemon)?;
    arguments.json.map_or(Ok(()), |path| report::save(&path, "network", &options, &results))
}

/// Debian's cloud kernel 6.12 with its initramfs, copied so that everybody reads them from memory.
fn stock_guest(common: &Common, folder: &Path) -> Result<Job> {
    let guest = lab::guest::Guest::prepare(lab::Kind::C612).context("preparing the guest")?;
    let copy = |from: &Path, name: &str| {
        let to = folder.join(name);
        fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        anyhow::Ok(to)
    };
    Ok(Job {
        initramfs: Some(copy(&guest.initramfs, "initramfs")?),
        command_line: COMMAND_LINE.to_owned(),
        devices: common.devices(folder)?,
        ..Job::new(copy(&guest.vmlinux, "vmlinux")?, common.memory, folder)
    })
}
