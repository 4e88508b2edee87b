//! `vireo run`: a machine in the foreground, for a person.
//!
//! Finds `vireo-vmm`, gives it the same options and its standard streams. On a terminal it stands between the two: the
//! terminal is raw while the guest runs, `Ctrl-]` leaves, and whatever happens the terminal is as before afterwards. On a
//! pipe it becomes `vireo-vmm`: nothing is in between.
//!
//! On a host that cannot run ordinary guests the whole command runs again in the emulated host of `vireo lab`.

mod host;
mod session;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use host::Host;
use machine_spec::MachineSpec;
use machine_spec::flags::{self, MachineFlags};
use machine_spec::spec::{CharacterSpec, MemoryBacking, NetBackendSpec, NetSpec};
use machine_spec::wire::{ConsoleMode, VmConfig};
use net_io::passt::{Passt, PasstError};

use crate::user_network::{self, UserNetwork};

/// What is refused before anything starts; the same as vireo-vmm's.
const REFUSED: u8 = 2;
/// How long a machine may run in the emulated host, in seconds: the most that it takes.
const LAB_SECONDS: u64 = 7 * 24 * 3600;
/// What the emulated host needs beside the guest's memory, in MiB.
const LAB_OWN_MIB: u64 = 2048;
/// What it has at least, in MiB.
const LAB_LEAST_MIB: u64 = 4096;
/// Directories that the emulated host can write to at most.
const LAB_DIRECTORIES: usize = 4;
/// Stand for sockets that are not open yet, while the machine is checked.
const FIRST_DESCRIPTOR: u32 = 1 << 30;

const AFTER_HELP: &str = "\
On a terminal, Ctrl-] leaves and ends the machine at once (the guest is not asked to shut down).

Exit codes: those of vireo-vmm
  0  the guest powered off, or reset with --on-reset exit, or Ctrl-] was pressed
  1  the guest crashed, or the host failed it while it ran
  2  what was asked for was refused before a guest started
or 128 + n when signal n ended this command.

On a host without KVM, or with a paravirtual one that cannot run ordinary guests, the machine runs in the
emulated host of `vireo lab`: slowly, and without access to networks and sockets of this host.";

/// Run a virtual machine in the foreground.
///
/// Its console is this terminal, or the standard streams.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RunArguments {
    /// Kernel to boot: a bzImage, or an ELF image with a PVH note
    #[arg(long, value_name = "FILE")]
    kernel: String,
    /// Initial RAM file system
    #[arg(long, value_name = "FILE")]
    initramfs: Option<String>,
    /// Kernel command line [default: console=ttyS0, or console=hvc0 when there is only a --console]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// vCPUs: N, or boot=N,topology=THREADS:CORES:DIES:SOCKETS [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Guest memory, such as 1G; more with commas: shared=on, hugepages=on, prefault=on ... [default: 512M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Disk from an image or a block device, raw if nothing else is said; more with commas: image_type=qcow2 (or, with
    /// readonly=on, vmdk, vhd, vhdx, vdi), backing_files=on, backing_directories=[DIR,...], readonly=on, direct=on,
    /// cache=MODE, sparse=off, num_queues=N, queue_size=N, serial=TEXT, id=ID. May be repeated
    #[arg(long, value_name = "FILE")]
    disk: Vec<String>,
    /// Network interface: user (through passt, without any rights; tcp=PORT[:GUEST] and udp=PORT[:GUEST] forward ports of this
    /// host, as in user,tcp=2222:22), tap=NAME (a TAP device), fd=N or socket_fd=N; more with commas: mac=MAC, ip=ADDRESS,
    /// mask=MASK, mtu=N, num_queues=N, queue_size=N, id=ID. May be repeated
    #[arg(long, value_name = "user|tap=NAME")]
    net: Vec<String>,
    /// Entropy device that is fed from a file, such as /dev/urandom
    #[arg(long, value_name = "FILE")]
    rng: Option<String>,
    /// Memory balloon: how much of its memory the guest is to give back, such as 256M; more with commas: deflate_on_oom=on,
    /// free_page_reporting=on, statistics_period=SECONDS
    #[arg(long, value_name = "SIZE")]
    balloon: Option<String>,
    /// Serial port: tty, pty, null, off, file=PATH or socket=PATH [default: tty, or off when there is a --console]
    #[arg(long, value_name = "WHERE")]
    serial: Option<String>,
    /// Virtio console: tty, pty, null, off, file=PATH or socket=PATH; name=NAME for a named port. May be repeated
    #[arg(long, value_name = "WHERE")]
    console: Vec<String>,
    /// What a reset by the guest does: reboot or exit [default: reboot]
    #[arg(long, value_name = "ACTION")]
    on_reset: Option<String>,
    /// Where the machine listens for requests (HTTP and JSON, as Cloud Hypervisor's API v1)
    #[arg(long, value_name = "PATH")]
    api_socket: Option<String>,
    /// Append messages of the machine monitor to a file instead of standard error
    #[arg(long, value_name = "FILE")]
    log_file: Option<String>,
    /// Say more: -v informs, -vv debugs, -vvv traces
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Run on this host, whatever it can do
    #[arg(long)]
    no_lab: bool,
}

/// Runs the machine; returns its exit code. Does not return on success if standard input is not a terminal.
pub(crate) fn run(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let (mut config, spec) = match arguments.describe() {
        Ok(described) => described,
        Err(error) => {
            eprintln!("vireo run: {error}");
            return Ok(ExitCode::from(REFUSED));
        }
    };
    let host = Host::detect();
    if host != Host::Kvm && !arguments.no_lab {
        return in_lab(&arguments, &config, &spec, host);
    }
    let program = find_vmm()?;
    if let Err(error) = arguments.connect(&mut config) {
        eprintln!("vireo run: --net user: {error}");
        return Ok(ExitCode::from(REFUSED));
    }
    let mut command = Command::new(program);
    command.args(flags::spell(&config)).args(arguments.process_options());
    launch(command, has_terminal(&spec))
}

impl RunArguments {
    fn describe(&self) -> anyhow::Result<(VmConfig, MachineSpec)> {
        let mut machine = MachineFlags::default();
        let singles = [
            ("kernel", Some(&self.kernel)),
            ("initramfs", self.initramfs.as_ref()),
            ("cmdline", self.cmdline.as_ref()),
            ("cpus", self.cpus.as_ref()),
            ("memory", self.memory.as_ref()),
            ("rng", self.rng.as_ref()),
            ("balloon", self.balloon.as_ref()),
            ("serial", self.serial.as_ref()),
            ("on-reset", self.on_reset.as_ref()),
        ];
        let nets = (FIRST_DESCRIPTOR..).zip(&self.net).map(|(number, net)| match UserNetwork::parse(net)? {
            Some(user) => Ok([user.rest, vec![format!("socket_fd={number}")]].concat().join(",")),
            None => Ok(net.clone()),
        });
        let nets: Vec<String> = nets.collect::<Result<_, String>>().map_err(anyhow::Error::msg)?;
        let several = [("disk", &self.disk), ("net", &nets), ("console", &self.console)];
        let singles = singles.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let several =
            several.into_iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        for (name, value) in singles.chain(several) {
            machine.take(name, value)?;
        }
        let mut config = machine.into_config();
        config.payload.cmdline.get_or_insert_with(|| default_command_line(&self.serial, &config.console));
        // Checked before anything is started. The addresses that this makes are not used: vireo-vmm makes its own.
        let spec = MachineSpec::from_config(config.clone(), &mut || [0; 6])?;
        Ok((config, spec))
    }

    /// Starts passt for each user-mode interface, and puts the sockets into `config`.
    fn connect(&self, config: &mut VmConfig) -> Result<(), PasstError> {
        let mut started = Vec::new();
        for (text, net) in self.net.iter().zip(config.net.iter_mut().flatten()) {
            let Ok(Some(user)) = UserNetwork::parse(text) else { continue };
            let passt = Passt { mtu: net.mtu, forwards: user.forwards, ..Passt::default() };
            started.push((net, passt.start()?));
        }
        // Only now, so that none of them has the socket of another.
        for (net, socket) in started {
            net.socket_fd = Some(user_network::hand_down(socket)?);
        }
        Ok(())
    }

    fn process_options(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (option, value) in [("--api-socket", &self.api_socket), ("--log-file", &self.log_file)] {
            words.extend(value.iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        if self.verbose > 0 {
            words.push(format!("-{}", "v".repeat(self.verbose.into())));
        }
        words
    }
}

/// What makes the kernel use the console that a person looks at.
fn default_command_line(
    serial: &Option<String>,
    console: &Option<machine_spec::wire::ConsoleConfig>,
) -> String {
    let on_hvc0 = console.as_ref().is_some_and(|console| console.mode != ConsoleMode::Off);
    if on_hvc0 && serial.is_none() { "console=hvc0".to_owned() } else { "console=ttyS0".to_owned() }
}

fn has_terminal(spec: &MachineSpec) -> bool {
    let backends = spec.console_ports.iter().map(|port| &port.backend);
    backends.chain([&spec.serial]).any(|backend| *backend == CharacterSpec::Tty)
}

/// The `vireo-vmm` beside this program, or else the one on PATH.
fn find_vmm() -> anyhow::Result<PathBuf> {
    const NAME: &str = "vireo-vmm";
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let beside = own.parent().map(|directory| directory.join(NAME));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&search).map(|directory| directory.join(NAME));
    beside
        .into_iter()
        .chain(on_path)
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("there is no {NAME} beside {} nor on PATH: install it there", own.display()))
}

/// Runs `command` with the terminal in between if there is one and the machine uses it, otherwise in place of this
/// process.
fn launch(mut command: Command, uses_terminal: bool) -> anyhow::Result<ExitCode> {
    if uses_terminal && std::io::stdin().is_terminal() {
        return session::attend(command);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", command.get_program().display()))
}

/// Runs the same machine in the emulated host.
fn in_lab(
    arguments: &RunArguments,
    config: &VmConfig,
    spec: &MachineSpec,
    host: Host,
) -> anyhow::Result<ExitCode> {
    if std::env::var_os("VIREO_LAB").is_some() {
        bail!("{host}, and this is the emulated host already: run `vireo lab` outside of it");
    }
    eprintln!("vireo run: {host}: the machine runs in the emulated host, see `vireo lab --help`");
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(&own);
    command.args(lab_words(&own, arguments, config, spec)?);
    launch(command, has_terminal(spec))
}

/// The arguments with which this program (`own`) runs the machine in the emulated host.
fn lab_words(
    own: &Path,
    arguments: &RunArguments,
    config: &VmConfig,
    spec: &MachineSpec,
) -> anyhow::Result<Vec<OsString>> {
    if arguments.net.iter().any(|net| matches!(UserNetwork::parse(net), Ok(Some(_)))) {
        bail!("--net user: the emulated host has no network that the machine could use: leave it out");
    }
    let is_handed = |net: &NetSpec| !matches!(net.backend, NetBackendSpec::Tap { .. });
    if spec.nets.iter().any(is_handed) {
        bail!(
            "--net fd=: an open device cannot be handed to the emulated host: use tap=NAME, which it makes"
        );
    }
    let memory_mib = (spec.memory.bytes >> 20).saturating_add(LAB_OWN_MIB).max(LAB_LEAST_MIB);
    let mut words: Vec<OsString> = ["lab", "--no-lock", "--stdin", "--timeout"].map(OsString::from).into();
    words.push(LAB_SECONDS.to_string().into());
    words.extend(["--mem".into(), memory_mib.to_string().into()]);
    if let MemoryBacking::HugePages { page_bytes, .. } = spec.memory.backing {
        let option = if page_bytes == 2 << 20 { "--hugepages" } else { "--hugepages1g" };
        words.extend([option.into(), (spec.memory.bytes / page_bytes).to_string().into()]);
    }
    for directory in written_directories(arguments, spec)? {
        words.extend(["--rw".into(), directory.into()]);
    }
    words.extend(["--".into(), own.into(), "run".into()]);
    words.extend(flags::spell(config).into_iter().map(OsString::from));
    words.extend(arguments.process_options().into_iter().map(OsString::from));
    Ok(words)
}

/// Where the machine writes: the directories of its images, outputs and messages.
fn written_directories(arguments: &RunArguments, spec: &MachineSpec) -> anyhow::Result<BTreeSet<PathBuf>> {
    let disks = spec.disks.iter().filter(|disk| !disk.read_only).map(|disk| disk.path.clone());
    let backends = spec.console_ports.iter().map(|port| &port.backend).chain([&spec.serial]);
    let outputs = backends.filter_map(|backend| match backend {
        CharacterSpec::File(path) => Some(path.clone()),
        _ => None,
    });
    let logs = spec.console_ports.iter().filter_map(|port| port.log.clone()).chain(spec.serial_log.clone());
    let log = arguments.log_file.iter().map(PathBuf::from).chain(logs);
    let mut directories = BTreeSet::new();
    for file in disks.chain(outputs).chain(log) {
        let file = std::path::absolute(&file).with_context(|| format!("cannot place {}", file.display()))?;
        directories.insert(file.parent().unwrap_or(&file).to_owned());
    }
    if directories.len() > LAB_DIRECTORIES {
        bail!(
            "the machine writes in {} directories, and the emulated host can in {LAB_DIRECTORIES}: \
             put the files together or make disks readonly",
            directories.len()
        );
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(change: impl FnOnce(&mut RunArguments)) -> RunArguments {
        let mut arguments = RunArguments { kernel: "/k".to_owned(), ..RunArguments::default() };
        change(&mut arguments);
        arguments
    }

    fn lab(change: impl FnOnce(&mut RunArguments)) -> anyhow::Result<Vec<String>> {
        let arguments = arguments(change);
        let (config, spec) = arguments.describe()?;
        let words = lab_words(Path::new("/bin/vireo"), &arguments, &config, &spec)?;
        Ok(words.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn the_kernel_speaks_where_the_person_listens() {
        let spoken =
            |change: fn(&mut RunArguments)| arguments(change).describe().unwrap().0.payload.cmdline.unwrap();
        assert_eq!(spoken(|_| {}), "console=ttyS0");
        assert_eq!(spoken(|a| a.console = vec!["tty".into()]), "console=hvc0");
        assert_eq!(spoken(|a| a.console = vec!["off".into()]), "console=ttyS0");
        assert_eq!(
            spoken(|a| (a.serial, a.console) = (Some("tty".into()), vec!["null".into()])),
            "console=ttyS0"
        );
        assert_eq!(spoken(|a| a.cmdline = Some(String::new())), "");
    }

    #[test]
    fn every_option_reaches_the_machine() {
        let arguments = arguments(|a| {
            a.initramfs = Some("/i".into());
            a.cpus = Some("2".into());
            a.memory = Some("1G".into());
            a.disk = vec!["/d".into(), "/e,readonly=on".into()];
            a.net = vec!["tap=t0".into()];
            a.rng = Some("/dev/urandom".into());
            a.balloon = Some("256M,deflate_on_oom=on".into());
            a.serial = Some("null".into());
            a.console = vec!["null,name=a".into()];
            a.on_reset = Some("exit".into());
        });
        let (config, spec) = arguments.describe().unwrap();
        assert_eq!((spec.cpus.count, spec.memory.bytes), (2, 1 << 30));
        assert_eq!((spec.disks.len(), spec.nets.len(), spec.console_ports.len()), (2, 1, 1));
        assert!(spec.rng.is_some() && !has_terminal(&spec));
        assert!(spec.balloon.is_some_and(|balloon| balloon.bytes == 256 << 20 && balloon.deflate_on_oom));
        assert_eq!(spec.on_reset, machine_spec::spec::OnReset::Exit);
        assert_eq!(config.payload.initramfs, Some("/i".into()));
    }

    #[test]
    fn user_mode_interfaces_are_interfaces_on_sockets() {
        let nets = vec!["user,tcp=2222:22,mac=52:54:00:00:00:01".into(), "user".into(), "tap=t0".into()];
        let (_, spec) = arguments(|a| a.net = nets).describe().unwrap();
        assert!(matches!(spec.nets[0].backend, NetBackendSpec::StreamDescriptor(_)));
        assert_eq!(spec.nets[0].mac, [0x52, 0x54, 0, 0, 0, 1]);
        assert!(matches!(spec.nets[1].backend, NetBackendSpec::StreamDescriptor(_)));
        assert!(matches!(spec.nets[2].backend, NetBackendSpec::Tap { .. }));
        for (wrong, expected) in [
            ("user,tcp=x", "tcp=\"x\""),
            ("user,tap=t", "socket_fd with tap"),
            ("user,num_queues=4", "too many"),
        ] {
            let error = arguments(|a| a.net = vec![wrong.into()]).describe().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_emulated_host_gets_what_the_machine_needs() {
        let words = lab(|a| {
            a.memory = Some("size=4G,hugepages=on".into());
            a.disk = vec!["/images/a.raw".into(), "/images/b.raw".into(), "/read/c.raw,readonly=on".into()];
            a.serial = Some("file=/logs/serial".into());
            a.console = vec!["null,log=/consoles/hvc0".into()];
            a.verbose = 2;
        })
        .unwrap();
        let text = words.join(" ");
        let expected = "lab --no-lock --stdin --timeout 604800 --mem 6144 --hugepages 2048 --rw /consoles --rw /images --rw /logs -- \
                        /bin/vireo run --kernel /k --cmdline console=ttyS0 --cpus boot=1,max=1 ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with(" -vv"), "{text}");
        assert!(lab(|_| {}).unwrap().join(" ").contains("--mem 4096 -- "));
    }

    #[test]
    fn what_cannot_be_taken_into_the_emulated_host_is_refused() {
        let refusal = |change: fn(&mut RunArguments)| lab(change).unwrap_err().to_string();
        assert!(refusal(|a| a.net = vec!["fd=3".into()]).contains("--net fd="));
        assert!(refusal(|a| a.net = vec!["user,tcp=2222:22".into()]).contains("--net user"));
        let many = refusal(|a| a.disk = (0..5).map(|n| format!("/d{n}/disk")).collect());
        assert!(many.contains("writes in 5 directories"), "{many}");
    }
}
