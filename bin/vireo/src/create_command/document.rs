//! The domain's document.

use libvirt_xml::domain::character::{
    CharacterBackend, CharacterDevice, CharacterTarget, CharacterType, TargetType,
};
use libvirt_xml::domain::cpu::{Cpu, CpuMode};
use libvirt_xml::domain::device::{Rng, RngBackend, RngBackendModel};
use libvirt_xml::domain::disk::{
    Discard, Disk, DiskBus, DiskDevice, DiskDriver, DiskSource, DiskTarget, DiskType, ImageFormat,
    VirtioModel,
};
use libvirt_xml::domain::features::{Apic, Clock, Features};
use libvirt_xml::domain::interface::{
    ForwardProtocol, Interface, InterfaceBackend, InterfaceModel, InterfaceSource, InterfaceTarget,
    InterfaceType, Mac, NetBackendType, PortForward, PortRange,
};
use libvirt_xml::domain::os::{BootDevice, Os, OsBoot, OsType};
use libvirt_xml::domain::tuning::{Memory, VcpuCount};
use libvirt_xml::domain::{CrashAction, Devices, Domain, DomainType, LifecycleAction};
use libvirt_xml::size::Kib;
use libvirt_xml::{Uuid, YesNo};
use net_io::passt::{Forward, Transport};
use serde_json::{Value, json};

use super::Arguments;

/// A disk's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskFile {
    pub(super) path: String,
    pub(super) format: ImageFormat,
    pub(super) read_only: bool,
}

impl DiskFile {
    pub(super) fn as_json(&self) -> Value {
        json!({ "path": self.path, "format": self.format.word(), "readonly": self.read_only })
    }
}

/// Where an interface goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Nic {
    Network(String),
    Bridge(String),
    Tap(String),
    User(Vec<Forward>),
}

/// Everything that the document says.
pub(super) struct Plan<'a> {
    pub(super) arguments: &'a Arguments,
    pub(super) uuid: uuid::Uuid,
    pub(super) disks: &'a [DiskFile],
    pub(super) nic: Option<&'a Nic>,
    pub(super) kvm: bool,
}

/// The document; addresses, aliases and what else libvirt assigns is left to the daemon.
pub(super) fn build(plan: &Plan<'_>) -> Domain {
    let arguments = plan.arguments;
    let kind = if plan.kvm { DomainType::Kvm } else { DomainType::Qemu };
    let host_cpu = || Cpu { mode: Some(CpuMode::HostPassthrough), ..Cpu::default() };
    Domain {
        kind,
        name: Some(arguments.name.clone()),
        uuid: Some(Uuid(*plan.uuid.as_bytes())),
        title: arguments.title.clone(),
        description: arguments.description.clone(),
        memory: Some(Memory { size: Kib(arguments.memory.div_ceil(1024)), ..Memory::default() }),
        vcpu: Some(VcpuCount { count: arguments.cpus, ..VcpuCount::default() }),
        os: os(arguments),
        features: Some(Features { acpi: true, apic: Some(Apic::default()), ..Features::default() }),
        // Emulated processors have a model of the emulator's own.
        cpu: plan.kvm.then(host_cpu),
        clock: Some(Clock::default()),
        on_poweroff: Some(LifecycleAction::Destroy),
        on_reboot: Some(LifecycleAction::Restart),
        on_crash: Some(CrashAction::Destroy),
        devices: Devices {
            disks: plan.disks.iter().zip('a'..='z').map(|(file, letter)| disk(file, letter)).collect(),
            interfaces: plan.nic.map(|nic| interface(arguments, nic)).into_iter().collect(),
            serials: vec![terminal(TargetType::IsaSerial)],
            consoles: vec![terminal(TargetType::Serial)],
            channels: vec![agent()],
            rngs: vec![entropy()],
            ..Devices::default()
        },
        ..Domain::default()
    }
}

fn os(arguments: &Arguments) -> Os {
    let text = |path: &std::path::PathBuf| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        absolute.to_string_lossy().into_owned()
    };
    let kernel = arguments.kernel.as_ref().map(text);
    let command_line = || arguments.cmdline.clone().unwrap_or_else(|| "console=ttyS0".to_owned());
    Os {
        kind: OsType {
            arch: Some("x86_64".to_owned()),
            machine: Some("q35".to_owned()),
            ..OsType::default()
        },
        initrd: arguments.initrd.as_ref().map(text),
        cmdline: kernel.is_some().then(command_line),
        boot: if kernel.is_some() { Vec::new() } else { vec![OsBoot { dev: BootDevice::Hd }] },
        kernel,
        ..Os::default()
    }
}

fn disk(file: &DiskFile, letter: char) -> Disk {
    let discard = (!file.read_only).then_some(Discard::Unmap);
    Disk {
        kind: DiskType::File,
        device: DiskDevice::Disk,
        driver: Some(DiskDriver {
            name: Some("qemu".to_owned()),
            format: Some(file.format),
            discard,
            ..DiskDriver::default()
        }),
        source: Some(DiskSource { file: Some(file.path.clone()), ..DiskSource::default() }),
        target: DiskTarget {
            dev: format!("vd{letter}"),
            bus: Some(DiskBus::Virtio),
            ..DiskTarget::default()
        },
        readonly: file.read_only,
        ..Disk::default()
    }
}

fn interface(arguments: &Arguments, nic: &Nic) -> Interface {
    let source = |source: InterfaceSource| Some(source);
    let (kind, source, target) = match nic {
        Nic::Network(name) => (
            InterfaceType::Network,
            source(InterfaceSource { network: Some(name.clone()), ..InterfaceSource::default() }),
            None,
        ),
        Nic::Bridge(name) => (
            InterfaceType::Bridge,
            source(InterfaceSource { bridge: Some(name.clone()), ..InterfaceSource::default() }),
            None,
        ),
        Nic::Tap(name) => {
            let target = InterfaceTarget { dev: Some(name.clone()), managed: Some(YesNo::No) };
            (InterfaceType::Ethernet, None, Some(target))
        }
        Nic::User(_) => (InterfaceType::User, None, None),
    };
    let (backend, port_forwards) = match nic {
        Nic::User(forwards) => {
            let backend =
                InterfaceBackend { kind: Some(NetBackendType::Passt), ..InterfaceBackend::default() };
            (Some(backend), forwards.iter().map(port_forward).collect())
        }
        _ => (None, Vec::new()),
    };
    Interface {
        kind,
        mac: arguments.mac.map(|address| Mac { address, ..Mac::default() }),
        source,
        target,
        model: Some(InterfaceModel { kind: "virtio".to_owned() }),
        backend,
        port_forwards,
        ..Interface::default()
    }
}

fn port_forward(forward: &Forward) -> PortForward {
    let ranges = forward.ports.iter().map(|ports| PortRange {
        start: ports.first,
        end: (ports.last > ports.first).then_some(ports.last),
        to: ports.guest,
        exclude: None,
    });
    PortForward {
        protocol: match forward.transport {
            Transport::Tcp => ForwardProtocol::Tcp,
            Transport::Udp => ForwardProtocol::Udp,
        },
        address: forward.address.map(|address| address.to_string()),
        dev: None,
        ranges: ranges.collect(),
    }
}

fn terminal(kind: TargetType) -> CharacterDevice {
    CharacterDevice {
        backend: CharacterBackend { kind: CharacterType::Pty, ..CharacterBackend::default() },
        target: Some(CharacterTarget { kind: Some(kind), port: Some(0), ..CharacterTarget::default() }),
        ..CharacterDevice::default()
    }
}

/// The channel of qemu-guest-agent.
fn agent() -> CharacterDevice {
    let name = Some("org.qemu.guest_agent.0".to_owned());
    CharacterDevice {
        backend: CharacterBackend { kind: CharacterType::Unix, ..CharacterBackend::default() },
        target: Some(CharacterTarget { kind: Some(TargetType::Virtio), name, ..CharacterTarget::default() }),
        ..CharacterDevice::default()
    }
}

fn entropy() -> Rng {
    let backend = RngBackend { model: RngBackendModel::Random, path: Some("/dev/urandom".to_owned()) };
    Rng { model: VirtioModel::Virtio, backend, ..Rng::default() }
}
