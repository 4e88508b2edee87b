//! `vireo-bench`: runs benchmarks and prints a table, or JSON for machines.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bench::contender::{Contender, Job};
use bench::start::{After, Outcome, compare};
use bench::tiny_kernel::{Ending, image};
use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(version, about = "Compare Vireo with its peers")]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Time from execution to the guest's first instruction
    Start(StartOptions),
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
struct StartOptions {
    /// Rounds; every program runs once in each
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Guest memory in MiB
    #[arg(long, default_value_t = 256)]
    memory: u32,
    /// What the guest does after its greeting
    #[arg(long, default_value = "reset")]
    ending: EndingName,
    /// Compare only these, by name
    #[arg(long)]
    only: Vec<String>,
    /// Compare this program as well: NAME=COMMAND with {kernel}, {memory} and {config}
    #[arg(long, value_name = "NAME=COMMAND")]
    with: Vec<String>,
    /// Write the numbers to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
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

    fn after(self) -> After {
        match self {
            Self::Reset | Self::PowerOff | Self::TripleFault => After::Exits,
            Self::Halt | Self::Count => After::Kill,
        }
    }
}

fn main() -> Result<()> {
    match Cli::parse().benchmark {
        Benchmark::Start(options) => start(&options),
        Benchmark::Kernel { ending, output } => fs::write(&output, image(ending.ending()))
            .with_context(|| format!("writing {}", output.display())),
    }
}

fn start(options: &StartOptions) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let here = program.parent().context("finding this program's folder")?;
    let mut contenders = vec![Contender::floor(here)];
    contenders.extend(Contender::installed(here, &std::env::var("PATH").unwrap_or_default()));
    for text in &options.with {
        contenders.push(Contender::parse(text)?);
    }
    if !options.only.is_empty() {
        contenders.retain(|contender| options.only.contains(&contender.name));
    }
    ensure!(!contenders.is_empty(), "none of the programs is installed: {}", options.only.join(", "));
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, image(options.ending.ending())).context("writing the kernel")?;
    let job = Job { kernel, memory: options.memory, folder: folder.path().to_owned() };
    let outcomes = compare(&contenders, &job, options.rounds, options.ending.after())?;
    print(&outcomes);
    if let Some(path) = &options.json {
        let report = serde_json::json!({
            "benchmark": "start",
            "rounds": options.rounds,
            "memory_mib": options.memory,
            "host_kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "outcomes": outcomes,
        });
        fs::write(path, format!("{report:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn print(outcomes: &[Outcome]) {
    println!(
        "{:<18} {:>10} {:>10} {:>10} {:>7} {:>10}",
        "", "median us", "min us", "p90 us", "ratio", "exit us"
    );
    for outcome in outcomes {
        let first = &outcome.first_byte_us;
        let exit = outcome.exit_us.map_or_else(|| "-".to_owned(), |exit| format!("{:.0}", exit.median));
        println!(
            "{:<18} {:>10.0} {:>10.0} {:>10.0} {:>7.2} {:>10}",
            outcome.name, first.median, first.minimum, first.p90, outcome.first_byte_ratio, exit
        );
    }
}
