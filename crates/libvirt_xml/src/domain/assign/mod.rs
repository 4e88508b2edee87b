//! What libvirt adds to a domain when it is defined or started: identifiers, defaults, implicit devices, addresses, aliases.
//!
//! [`define`] completes a definition so that it stays the same over redefinition: whatever is there already is kept, and a completed
//! definition is left alone. [`start`] adds what only running domains have. Both follow what libvirt 9 does for QEMU's machines `q35` and `pc` on
//! x86, so that documents of the one are understood by clients of the other.

mod addresses;
mod alias;
mod defaults;
mod devices;
mod pci;

pub(super) use self::alias::USER_PREFIX;
use super::Domain;
use super::cpu::Cpu;
use super::device::{HostDeviceDriver, HostDeviceType, HostDriverName};
use crate::error::{XmlError, XmlFault};
use crate::value::{MacAddress, Uuid};

/// Memory of running machines comes in whole mebibytes, KiB.
const MEMORY_GRANULE: u64 = 1024;

/// The first three bytes of assigned Ethernet addresses: QEMU's.
const MAC_PREFIX: [u8; 3] = [0x52, 0x54, 0x00];

/// What definitions are completed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDefaults {
    /// Architecture of guests.
    pub arch: String,
    /// Path of the program that runs them.
    pub emulator: String,
    /// Machines by alias: `q35` stands for the second of its pair. The first pair is the default machine.
    pub machine_aliases: Vec<(String, String)>,
    /// The CPU of guests that ask for none.
    pub cpu: Option<Cpu>,
    /// Model of interfaces that say none.
    pub interface_model: String,
}

impl Default for HostDefaults {
    /// QEMU 10's machines, virtio interfaces, no CPU.
    fn default() -> Self {
        let alias = |alias: &str, machine: &str| (alias.to_owned(), machine.to_owned());
        Self {
            arch: "x86_64".to_owned(),
            emulator: "/usr/bin/qemu-system-x86_64".to_owned(),
            machine_aliases: vec![alias("q35", "pc-q35-10.0"), alias("pc", "pc-i440fx-10.0")],
            cpu: None,
            interface_model: "virtio".to_owned(),
        }
    }
}

/// Where random bytes come from; tests have their own.
pub trait Random {
    /// Fills a buffer.
    fn fill(&mut self, buffer: &mut [u8]);
}

impl<F: FnMut(&mut [u8])> Random for F {
    fn fill(&mut self, buffer: &mut [u8]) {
        self(buffer);
    }
}

/// A random UUID (RFC 9562, version 4).
pub fn random_uuid(random: &mut dyn Random) -> Uuid {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid(bytes)
}

/// A random Ethernet address in QEMU's range.
pub fn random_mac(random: &mut dyn Random) -> MacAddress {
    let mut tail = [0; 3];
    random.fill(&mut tail);
    let [a, b, c] = MAC_PREFIX;
    let [d, e, f] = tail;
    MacAddress([a, b, c, d, e, f])
}

/// Completes a definition. Call [`super::check::check`] on the result.
pub fn define(domain: &mut Domain, host: &HostDefaults, random: &mut dyn Random) -> Result<(), XmlError> {
    defaults::complete(domain, host, random)?;
    devices::complete(domain, host, random)?;
    addresses::assign(domain)?;
    pci::assign(domain)
}

/// Adds what only running domains have: number, aliases, whole mebibytes of memory, the driver of PCI devices of the host, the
/// address that displays listen at when they name none.
pub fn start(domain: &mut Domain, id: i32) {
    domain.id = Some(id);
    let round = |kib: &mut u64| *kib = kib.checked_next_multiple_of(MEMORY_GRANULE).unwrap_or(*kib);
    if let Some(memory) = &mut domain.memory {
        let all = domain.current_memory.is_some_and(|current| current == memory.size);
        round(&mut memory.size.0);
        if all {
            domain.current_memory = Some(memory.size);
        }
    }
    for device in domain.devices.host_devices.iter_mut().filter(|device| device.kind == HostDeviceType::Pci) {
        device.driver.get_or_insert_with(HostDeviceDriver::default).name.get_or_insert(HostDriverName::Vfio);
    }
    for cell in domain.cpu.iter_mut().flat_map(|cpu| &mut cpu.numa) {
        round(&mut cell.memory.0);
    }
    alias::assign(domain);
    for graphics in &mut domain.devices.graphics {
        for listen in &mut graphics.listens {
            let unset = listen.address.is_none() && listen.network.is_none();
            if listen.kind == super::display::ListenType::Address && unset {
                listen.address = Some("127.0.0.1".to_owned());
            }
        }
        devices::sync_listen(graphics);
    }
}

/// The machine's board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Board {
    /// PCI Express, with SATA at 00:1f.2.
    Q35,
    /// PCI, with IDE at 00:01.1.
    I440fx,
    /// Without PCI slots of its own.
    Other,
}

impl Board {
    fn of(domain: &Domain) -> Self {
        match domain.machine() {
            Some(machine) if machine == "q35" || machine.starts_with("pc-q35") => Self::Q35,
            Some(machine) if machine == "pc" || machine.starts_with("pc-") => Self::I440fx,
            _ => Self::Other,
        }
    }
}

fn unsupported(path: &str, what: impl Into<String>) -> XmlError {
    XmlError::new(path, XmlFault::Unsupported(what.into()))
}
