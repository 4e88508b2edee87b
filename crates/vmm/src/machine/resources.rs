//! What a machine needs of the host, opened once: it outlives reboots, so that no lock, terminal or interface is let go
//! while the guest starts again.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_io::BlockBackend;
use machine_spec::MachineSpec;
use machine_spec::spec::{BootSpec, CharacterSpec, NetBackendSpec, NetSpec};
use net_io::{NetBackend, NetError, Stream, Tap, TapOptions};
use platform::character::{CharacterBackend, Endpoint, Existing};
use platform::worker::WorkerHandle;
use virtio::block::BlockCounters;

use super::disks;
use super::error::BuildError;
use crate::control::CharacterDevice;
use crate::firmware::FirmwareImage;

/// What a TAP interface without a name is called: the kernel puts a number that is free.
const ANY_TAP_NAME: &str = "vireo%d";

/// The opened host side of every device, in the order of the specification.
pub(crate) struct HostResources {
    pub(super) disks: Vec<Arc<dyn BlockBackend>>,
    /// What each of them has done, in the same order: for the machine's clients, also across its reboots.
    pub(super) disk_counters: Vec<Arc<BlockCounters>>,
    pub(super) nets: Vec<Interface>,
    pub(super) firmware: Option<FirmwareImage>,
    pub(super) serial: Option<Arc<CharacterBackend>>,
    pub(super) console_ports: Vec<Arc<CharacterBackend>>,
    pub(super) worker: WorkerHandle,
}

/// The host's side of a network interface.
pub(super) enum Interface {
    /// One for each queue pair.
    Taps(Vec<Tap>),
    Stream(Stream),
}

impl Interface {
    /// Backends for one life of the interface.
    fn backends(&self) -> Result<Vec<Box<dyn NetBackend>>, NetError> {
        match self {
            Self::Taps(taps) => taps.iter().map(|tap| Ok(Box::new(tap.try_clone()?) as _)).collect(),
            Self::Stream(stream) => Ok(vec![Box::new(stream.clone())]),
        }
    }
}

impl std::fmt::Debug for HostResources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostResources").field("serial", &self.serial).finish_non_exhaustive()
    }
}

impl HostResources {
    /// Opens everything that `spec` names; on an error nothing stays open. Character devices are pumped on `worker`.
    pub(crate) fn open(spec: &MachineSpec, worker: &WorkerHandle) -> Result<Self, BuildError> {
        let firmware = match &spec.boot {
            BootSpec::Kernel(_) => None,
            BootSpec::Firmware(firmware) => Some(FirmwareImage::open(firmware)?),
        };
        let disks = spec.disks.iter().map(disks::open).collect::<Result<_, _>>()?;
        let disk_counters = spec.disks.iter().map(|_| Arc::default()).collect();
        let nets = spec.nets.iter().map(open_net).collect::<Result<_, _>>()?;
        let serial = match &spec.serial {
            CharacterSpec::Off => None,
            other => Some(open_character("--serial", other, spec.serial_log.as_deref(), worker)?),
        };
        let console_ports = spec
            .console_ports
            .iter()
            .map(|port| open_character("--console", &port.backend, port.log.as_deref(), worker))
            .collect::<Result<_, _>>()?;
        Ok(Self { disks, disk_counters, nets, firmware, serial, console_ports, worker: worker.clone() })
    }

    /// The pseudo-terminals of the devices that have one, for vm.info.
    pub(crate) fn pseudo_terminals(&self) -> Vec<(CharacterDevice, PathBuf)> {
        let serial = self.serial.iter().map(|backend| (CharacterDevice::Serial, backend));
        let ports = (0..).zip(&self.console_ports);
        let ports = ports.map(|(index, backend)| (CharacterDevice::ConsolePort(index), backend));
        let path =
            |(device, backend): (_, &Arc<CharacterBackend>)| Some((device, backend.pty_path()?.to_owned()));
        serial.chain(ports).filter_map(path).collect()
    }

    /// Network backends for one life of interface number `index`.
    pub(super) fn net_backends(&self, index: usize) -> Result<Vec<Box<dyn NetBackend>>, BuildError> {
        self.nets[index].backends().map_err(BuildError::Net)
    }
}

fn open_net(net: &NetSpec) -> Result<Interface, BuildError> {
    match &net.backend {
        NetBackendSpec::Tap { name, address } => {
            let options = TapOptions {
                queue_pairs: net.queue_pairs,
                address: address.map(|(address, mask)| (address, prefix_length(mask))),
                mtu: net.mtu,
                ..TapOptions::new(name.as_deref().unwrap_or(ANY_TAP_NAME))
            };
            Tap::open(&options).map(Interface::Taps).map_err(BuildError::Net)
        }
        NetBackendSpec::TapDescriptors(descriptors) => descriptors
            .iter()
            .map(|number| Tap::adopt(inherited(*number)?).map_err(BuildError::Net))
            .collect::<Result<_, _>>()
            .map(Interface::Taps),
        NetBackendSpec::StreamDescriptor(number) => {
            Stream::adopt(inherited(*number)?).map(Interface::Stream).map_err(BuildError::Net)
        }
    }
}

/// Number of leading ones; the specification has made sure that no others follow.
fn prefix_length(mask: Ipv4Addr) -> u8 {
    u32::from(mask).leading_ones().try_into().unwrap_or(u8::MAX)
}

/// A descriptor that this process was started with, by its number.
#[expect(unsafe_code, reason = "the operator names the descriptor by its number")]
fn inherited(number: RawFd) -> Result<OwnedFd, BuildError> {
    // SAFETY: borrowed for the duplication only, which fails with EBADF when the number is not open; the duplicate is
    // ours alone.
    unsafe { BorrowedFd::borrow_raw(number) }
        .try_clone_to_owned()
        .map_err(|source| BuildError::Host { what: format!("--net: fd {number}"), source })
}

fn open_character(
    option: &str,
    spec: &CharacterSpec,
    log: Option<&Path>,
    worker: &WorkerHandle,
) -> Result<Arc<CharacterBackend>, BuildError> {
    let endpoint = match spec {
        CharacterSpec::Off | CharacterSpec::Null => Endpoint::Null,
        CharacterSpec::Pty => Endpoint::Pty,
        CharacterSpec::File(path) => Endpoint::File { path: path.clone(), existing: Existing::Truncate },
        CharacterSpec::Socket(path) => Endpoint::Socket { path: path.clone() },
        CharacterSpec::Tty => {
            let (input, output) = stdio().map_err(|source| BuildError::Host {
                what: format!("{option} tty: duplicating standard input and output"),
                source,
            })?;
            Endpoint::Stdio { input, output }
        }
    };
    let backend = CharacterBackend::open(endpoint, log, worker)
        .map_err(|error| BuildError::Character { option: option.to_owned(), error })?;
    if let Some(path) = backend.pty_path() {
        tracing::info!(option, path = %path.display(), "pseudo-terminal");
    }
    Ok(Arc::new(backend))
}

fn stdio() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let duplicate = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
    Ok((duplicate(std::io::stdin().as_fd())?, duplicate(std::io::stdout().as_fd())?))
}
