//! vireod: the daemon that keeps virtual machines.
//!
//! Arguments, messages and the exit code; the daemon itself is a library.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use daemon::{Instance, Running, Settings};
use tokio::signal::unix::{SignalKind, signal};

const AFTER_HELP: &str = "\
Clients reach it as qemu:///system when it runs as root, as qemu:///session otherwise. When it hears them, it says so to the service
manager (sd_notify) and by a line on standard output. SIGTERM, SIGINT and SIGHUP end it; machines run on, and the next daemon finds them.

Exit codes: 0 when told to end, 1 when it could not run, 2 when the options are wrong.";

/// Keep virtual machines, and answer clients of libvirt's protocol.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Directory for what has to outlive a restart of the host [default: /var/lib/vireo, or vireo in the user's XDG state directory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Directory for sockets and running machines [default: /run/vireo, or vireo in the user's XDG runtime directory]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Listen also where libvirt's clients look by default, if no other daemon does
    #[arg(long)]
    libvirt_default_socket: bool,
    /// The program that runs a machine [default: vireo-vmm beside this one]
    #[arg(long, value_name = "FILE")]
    machine_program: Option<PathBuf>,
    /// Say more: -v informs, -vv debugs, -vvv traces
    #[arg(short, action = clap::ArgAction::Count, global = true)]
    verbosity: u8,
}

/// Processes that the daemon starts beside itself.
#[derive(Debug, Subcommand)]
enum Part {
    /// DHCP, router advertisements and DNS of one virtual network
    #[command(hide = true)]
    NetworkServices {
        /// The network's description
        #[arg(long, value_name = "FILE")]
        description: PathBuf,
        /// Directory for leases
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// Where the daemon connects
        #[arg(long, value_name = "SOCKET")]
        control: PathBuf,
    },
}

/// Lets all threads share one heap. What one thread has freed after a large answer is there for the others then, where heaps of
/// their own would each keep as much.
#[expect(unsafe_code, reason = "mallopt")]
fn share_heap() {
    // SAFETY: called before there are threads, with a parameter and a value that mallopt(3) defines.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

fn main() -> ExitCode {
    share_heap();
    let arguments = Arguments::parse();
    let level = match arguments.verbosity {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    let ended = match &arguments.part {
        Some(Part::NetworkServices { description, state, control }) => {
            serve_network(description, state, control).context("network services")
        }
        None => settings(&arguments).and_then(run),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vireod: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_network(description: &Path, state: &Path, control: &Path) -> anyhow::Result<()> {
    let options = network_services::Options {
        description_path: description.to_owned(),
        database_path: state.join("leases.sqlite"),
        control_socket: control.to_owned(),
    };
    Ok(network_services::serve(&options)?)
}

fn settings(arguments: &Arguments) -> anyhow::Result<Settings> {
    let instance = Instance::of_user(rustix::process::geteuid().as_raw());
    let chosen = |given: &Option<PathBuf>, system: &str, user: fn() -> anyhow::Result<PathBuf>| match given {
        Some(given) => std::path::absolute(given).context("finding this directory"),
        None if instance == Instance::System => Ok(system.into()),
        None => Ok(user()?.join("vireo")),
    };
    let further_sockets = match instance {
        _ if !arguments.libvirt_default_socket => None,
        Instance::System => Some("/run/libvirt".into()),
        Instance::Session => Some(runtime_home()?.join("libvirt")),
    };
    let machine_program = match &arguments.machine_program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("finding this program")?.with_file_name("vireo-vmm"),
    };
    Ok(Settings {
        instance,
        state_directory: chosen(&arguments.state_dir, "/var/lib/vireo", state_home)?,
        runtime_directory: chosen(&arguments.runtime_dir, "/run/vireo", runtime_home)?,
        further_sockets,
        machine_program,
        // Also when the file has been replaced meanwhile.
        services_program: "/proc/self/exe".into(),
        // A directory that somebody has chosen gets what is put there and nothing else.
        default_network: instance == Instance::System && arguments.state_dir.is_none(),
    })
}

/// A user's directory for sockets (XDG Base Directory Specification).
fn runtime_home() -> anyhow::Result<PathBuf> {
    absolute_variable("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set: log in, or give --runtime-dir")
}

/// A user's directory for state (XDG Base Directory Specification).
fn state_home() -> anyhow::Result<PathBuf> {
    absolute_variable("XDG_STATE_HOME")
        .or_else(|| Some(absolute_variable("HOME")?.join(".local/state")))
        .context("neither XDG_STATE_HOME nor HOME is set: give --state-dir")
}

/// The specification has relative paths ignored.
fn absolute_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[tokio::main]
async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        signals.push(signal(kind).context("waiting for signals")?);
    }
    let [terminate, interrupt, hangup] = &mut signals[..] else { unreachable!("three signals") };
    let running = Running::start(settings).await?;
    ready(running.socket());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    running.shut_down().await;
    Ok(())
}

/// Tells whoever started the daemon that it answers: a line on standard output, and sd_notify(3).
fn ready(socket: &Path) {
    let mut output = std::io::stdout();
    // Whoever started it may not listen.
    let _ = writeln!(output, "ready: {}", socket.display()).and_then(|()| output.flush());
    if let Some(manager) = absolute_variable("NOTIFY_SOCKET")
        && let Err(error) = UnixDatagram::unbound().and_then(|own| own.send_to(b"READY=1", &manager))
    {
        tracing::warn!("the service manager can't be told: {}: {error}", manager.display());
    }
}
