//! Why a machine could not be built.

use std::io;

use block_io::BlockError;
use kvm_host::KvmError;
use net_io::NetError;
use platform::BusError;
use platform::pci::{NoRoom, PciError};
use virtio::pci::VirtioPciError;

use crate::acpi::AcpiError;
use crate::boot::{BootError, CommandLineError};
use crate::firmware::FirmwareError;
use crate::layout::LayoutError;
use crate::memory::MemoryError;

/// Why a machine could not be built. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// KVM is missing or refused something.
    #[error("kvm: {0}")]
    Kvm(#[from] KvmError),
    /// More vCPUs than KVM runs.
    #[error("--cpus: {wanted} vCPUs are more than this host's KVM runs in one machine: give at most {most}")]
    TooManyCpus {
        /// What was asked for.
        wanted: u8,
        /// What is possible.
        most: usize,
    },
    /// The topology has no APIC identifiers.
    #[error("--cpus: {0}")]
    Topology(#[from] kvm_host::TopologyError),
    /// Guest memory has no place in the address map.
    #[error("--memory: {0}")]
    Layout(#[from] LayoutError),
    /// Guest memory could not be had.
    #[error("--memory: {0}")]
    Memory(#[from] MemoryError),
    /// The kernel or its initramfs could not be loaded.
    #[error("{0}")]
    Boot(#[from] BootError),
    /// The firmware can't be used.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// The kernel's command line is bad.
    #[error("--cmdline: {0}")]
    CommandLine(#[from] CommandLineError),
    /// The ACPI tables could not be made.
    #[error("acpi tables: {0}")]
    Acpi(#[from] AcpiError),
    /// A disk could not be opened.
    #[error("--disk: {0}")]
    Disk(#[source] BlockError),
    /// A network interface could not be opened.
    #[error("--net: {0}")]
    Net(#[source] NetError),
    /// A character device could not be opened.
    #[error("{option}: {error}")]
    Character {
        /// The option.
        option: String,
        /// Why.
        #[source]
        error: platform::character::CharacterError,
    },
    /// A device's descriptor, thread or file could not be had.
    #[error("{what}: {source}")]
    Host {
        /// The option or device, and what was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A device was described in a way that it can't be built.
    #[error("{device}: {source}")]
    Device {
        /// The device's identifier.
        device: String,
        /// What is wrong with it.
        source: virtio::BuildError,
    },
    /// There are more devices than the PCI bus takes.
    #[error("{device}: there is no free slot on the PCI bus: a machine takes {most} devices")]
    NoSlot {
        /// The device's identifier.
        device: String,
        /// How many fit.
        most: usize,
    },
    /// The board is laid out wrongly.
    #[error("laying out the board: {0}")]
    Board(String),
}

macro_rules! board_errors {
    ($($source:ty),*) => {$(
        impl From<$source> for BuildError {
            fn from(error: $source) -> Self {
                Self::Board(error.to_string())
            }
        }
    )*};
}

board_errors!(BusError, PciError, VirtioPciError, NoRoom);
