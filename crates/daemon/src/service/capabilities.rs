//! What the host can do, for clients that choose by it how machines are made: procedures over [`libvirt_xml::capabilities`] and
//! [`libvirt_xml::domain_capabilities`].

mod processor;

use std::path::Path;
use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_xml::capabilities::{
    Capabilities, CapabilitiesGuest, CapabilitiesHost, GuestArch, GuestDomain, GuestFeatures, GuestMachine,
    GuestToggle, IommuSupport, NodeCell, NodeCells, NodeCpu, NodeCpus, NodeDistance, NodePages, NodeTopology,
    SecurityModel,
};
use libvirt_xml::domain::cpu::{CpuFallback, FeaturePolicy};
use libvirt_xml::domain_capabilities::{
    CpuModeSupport, CpuModelSupport, CpuSupport, DomainCapabilities, Enumeration, NamedSupport, OsSupport,
    Supported, VcpuLimit,
};
use libvirt_xml::size::Kib;
use libvirt_xml::{OnOff, Uuid, Value, YesNo};

use self::processor::HostProcessor;
use super::connection::MOST_VCPUS;
use super::domain::MACHINES;
use super::{Daemon, count};

/// The only architecture.
const ARCH: &str = "x86_64";

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(of_host).on(of_domains).on(processor_models)
}

/// Whether machines can run here.
fn has_kvm() -> bool {
    Path::new("/dev/kvm").exists()
}

fn most_vcpus() -> u32 {
    MOST_VCPUS.unsigned_abs()
}

async fn of_host(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectGetCapabilities,
) -> Result<ConnectGetCapabilitiesReply, RpcError> {
    let host = daemon.host_capabilities()?;
    let capabilities = Capabilities { host, guests: vec![daemon.guest_capabilities()] };
    Ok(ConnectGetCapabilitiesReply { capabilities: capabilities.to_xml() })
}

impl Daemon {
    fn host_capabilities(&self) -> Result<CapabilitiesHost, RpcError> {
        let processors = self.processors()?;
        let cells = self.cells()?;
        let mut cpu = HostProcessor::this()?.describe();
        cpu.arch = Some(ARCH.to_owned());
        cpu.topology = Some(processor::topology(&processors));
        cpu.pages =
            cells.first().map_or(&[][..], |cell| &cell.pages).iter().map(processor::page_size).collect();
        let cells: Vec<NodeCell> = cells.iter().map(|cell| node_cell(cell, &processors)).collect();
        let num = u32::try_from(cells.len()).unwrap_or(u32::MAX);
        let has_iommu = std::fs::read_dir("/sys/class/iommu").is_ok_and(|mut all| all.next().is_some());
        let unlabelled = SecurityModel {
            model: Some("none".to_owned()),
            doi: Some("0".to_owned()),
            ..SecurityModel::default()
        };
        Ok(CapabilitiesHost {
            uuid: host_uuid(),
            cpu,
            power_management: Some(Default::default()),
            iommu: Some(IommuSupport { support: has_iommu.into() }),
            topology: Some(NodeTopology { cells: NodeCells { num, cells } }),
            security_models: vec![unlabelled],
            ..CapabilitiesHost::default()
        })
    }

    fn guest_capabilities(&self) -> CapabilitiesGuest {
        let machine = |name: &str, canonical: Option<&str>| GuestMachine {
            canonical: canonical.map(str::to_owned),
            max_cpus: Some(most_vcpus()),
            deprecated: None,
            name: name.to_owned(),
        };
        let machines =
            MACHINES.iter().flat_map(|(alias, name)| [machine(name, None), machine(alias, Some(name))]);
        let toggle = |default, toggle| Some(GuestToggle { default, toggle });
        CapabilitiesGuest {
            os_type: Some("hvm".to_owned()),
            arch: GuestArch {
                name: ARCH.to_owned(),
                word_size: Some(64),
                emulator: Some(self.domains.host().emulator.clone()),
                machines: machines.collect(),
                domains: has_kvm().then(|| GuestDomain { kind: "kvm".to_owned() }).into_iter().collect(),
            },
            features: Some(GuestFeatures {
                acpi: toggle(OnOff::On, YesNo::No),
                apic: toggle(OnOff::On, YesNo::No),
                cpu_selection: true,
                device_boot: true,
                disk_snapshot: toggle(OnOff::Off, YesNo::No),
                ..GuestFeatures::default()
            }),
        }
    }
}

/// What the host's makers call it, or who installed it.
fn host_uuid() -> Option<Uuid> {
    ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find_map(|text| Uuid::read(&text).ok())
}

fn node_cell(cell: &host_tune::Cell, processors: &[host_tune::Processor]) -> NodeCell {
    let own = processors.iter().filter(|processor| cell.processors.contains(&processor.id));
    let cpus: Vec<NodeCpu> = own
        .map(|processor| NodeCpu {
            id: processor.id,
            socket_id: Some(processor.socket),
            die_id: Some(processor.die),
            core_id: Some(processor.core),
            siblings: Some(processor.siblings.iter().copied().collect()),
        })
        .collect();
    let pages = cell.pages.iter().map(|pool| NodePages {
        unit: "KiB".to_owned(),
        size: pool.kib.into(),
        count: pool.total,
    });
    NodeCell {
        id: cell.id,
        memory: Some(Kib(cell.memory.total)),
        pages: pages.collect(),
        distances: cell.distances.iter().map(|(id, value)| NodeDistance { id: *id, value: *value }).collect(),
        cpus: NodeCpus { num: u32::try_from(cpus.len()).unwrap_or(u32::MAX), cpus },
    }
}

async fn of_domains(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectGetDomainCapabilities,
) -> Result<ConnectGetDomainCapabilitiesReply, RpcError> {
    super::only(call.flags, 0)?;
    let emulator = &daemon.domains.host().emulator;
    let wrong = |what: &str| Err(RpcError::invalid_argument(what.to_owned()));
    if call.emulatorbin.as_ref().is_some_and(|asked| asked != emulator) {
        return wrong(&format!("the program that runs machines here is '{emulator}'"));
    }
    if let Some(arch) = call.arch.filter(|arch| arch != ARCH) {
        return wrong(&format!("unknown architecture: {arch}: machines here are {ARCH}"));
    }
    if let Some(kind) = call.virttype.filter(|kind| kind != "kvm") {
        return wrong(&format!("unknown virttype: {kind}: machines here are run by KVM (kvm)"));
    }
    if !has_kvm() {
        return wrong("machines here are run by KVM, which needs /dev/kvm");
    }
    let machine = match call.machine.as_deref() {
        None => MACHINES[0].1,
        Some(asked) => match MACHINES.iter().find(|(alias, name)| asked == *alias || asked == *name) {
            Some((_, name)) => name,
            None => {
                return wrong(&format!("the machine '{asked}' is not supported by emulator '{emulator}'"));
            }
        },
    };
    let capabilities = DomainCapabilities {
        path: Some(emulator.clone()),
        domain: Some("kvm".to_owned()),
        machine: Some(machine.to_owned()),
        arch: Some(ARCH.to_owned()),
        vcpu: Some(VcpuLimit { max: most_vcpus() }),
        iothreads: Some(Supported::yes(&[])),
        os: Some(booting()),
        cpu: Some(processor_modes()?),
        memory_backing: Some(Supported::yes(&[("sourceType", &["file", "anonymous", "memfd"])])),
        devices: devices(),
        features: features(),
    };
    Ok(ConnectGetDomainCapabilitiesReply { capabilities: capabilities.to_xml() })
}

/// Machines boot a kernel that the host gives them; firmware they have none.
fn booting() -> OsSupport {
    OsSupport {
        supported: YesNo::Yes,
        enumerations: vec![Enumeration { name: "firmware".to_owned(), values: Vec::new() }],
        loader: Some(Supported::no()),
    }
}

fn processor_modes() -> Result<CpuSupport, RpcError> {
    let mode = |name: &str, supported: bool| CpuModeSupport {
        name: name.to_owned(),
        supported: supported.into(),
        ..CpuModeSupport::default()
    };
    let migratable = |name: &str| {
        let values = vec!["on".to_owned(), "off".to_owned()];
        vec![Enumeration { name: name.to_owned(), values }]
    };
    let described = HostProcessor::this()?.describe();
    let model = described.model.map(|name| CpuModelSupport {
        fallback: Some(CpuFallback::Forbid),
        name,
        ..CpuModelSupport::default()
    });
    let mut features = described.features;
    for feature in &mut features {
        feature.policy = Some(FeaturePolicy::Require);
    }
    Ok(CpuSupport {
        modes: vec![
            CpuModeSupport {
                enumerations: migratable("hostPassthroughMigratable"),
                ..mode("host-passthrough", true)
            },
            CpuModeSupport { enumerations: migratable("maximumMigratable"), ..mode("maximum", true) },
            match model {
                Some(model) => CpuModeSupport {
                    models: vec![model],
                    vendor: described.vendor,
                    features,
                    ..mode("host-model", true)
                },
                None => mode("host-model", false),
            },
            mode("custom", false),
        ],
    })
}

/// What machines can have. An attribute without values says that the element is known and nothing fits it.
fn devices() -> NamedSupport {
    let yes = Supported::yes;
    let named = [
        (
            "disk",
            yes(&[
                ("diskDevice", &["disk", "cdrom"]),
                ("bus", &["virtio"]),
                ("model", &["virtio", "virtio-non-transitional"]),
            ]),
        ),
        ("graphics", yes(&[("type", &[])])),
        ("video", yes(&[("modelType", &["none"])])),
        ("hostdev", Supported::no()),
        ("rng", yes(&[("model", &["virtio", "virtio-non-transitional"]), ("backendModel", &["random"])])),
        ("filesystem", Supported::no()),
        ("tpm", Supported::no()),
        ("redirdev", Supported::no()),
        ("channel", yes(&[("type", &["pty", "unix"])])),
    ];
    NamedSupport(named.into_iter().map(|(name, support)| (name.to_owned(), support)).collect())
}

fn features() -> NamedSupport {
    let named = ["gic", "vmcoreinfo", "genid", "backingStoreInput", "backup", "sev", "sgx", "hyperv"];
    NamedSupport(named.into_iter().map(|name| (name.to_owned(), Supported::no())).collect())
}

async fn processor_models(
    _: Arc<Daemon>,
    _: CallContext,
    call: ConnectGetCpuModelNames,
) -> Result<ConnectGetCpuModelNamesReply, RpcError> {
    super::only(call.flags, 0)?;
    if call.arch != ARCH {
        return Err(RpcError::invalid_argument(format!("cannot find architecture {}", call.arch)));
    }
    let models: Vec<String> = processor::model_names().map(str::to_owned).collect();
    let ret = count(models.len());
    Ok(ConnectGetCpuModelNamesReply { models: if call.need_results == 0 { Vec::new() } else { models }, ret })
}
