//! Controllers (formatdomain, "Controllers").
//!
//! Refused: the controllers of Xen and of other architectures. USB, SATA, IDE and floppy controllers are models here; whether a
//! machine can have them is the daemon's to say.

use super::address::{DeviceInfo, VirtioOptions};
use crate::model::model;
use crate::size::Kib;
use crate::value::{Hex, OnOff, words};

words! {
    /// Kinds of controllers.
    pub enum ControllerType {
        Pci = "pci",
        Ide = "ide",
        Fdc = "fdc",
        Scsi = "scsi",
        Sata = "sata",
        VirtioSerial = "virtio-serial",
        Ccid = "ccid",
        Usb = "usb",
        Isa = "isa",
    }
    refused "xenbus", "nvme";
}

words! {
    /// Models of controllers, of all types; [`ControllerModel::fits`] says which belongs to which.
    pub enum ControllerModel {
        PciRoot = "pci-root",
        PcieRoot = "pcie-root",
        PciBridge = "pci-bridge",
        DmiToPciBridge = "dmi-to-pci-bridge",
        PcieToPciBridge = "pcie-to-pci-bridge",
        PcieRootPort = "pcie-root-port",
        PcieSwitchUpstreamPort = "pcie-switch-upstream-port",
        PcieSwitchDownstreamPort = "pcie-switch-downstream-port",
        PciExpanderBus = "pci-expander-bus",
        PcieExpanderBus = "pcie-expander-bus",
        None = "none",
        Piix3Uhci = "piix3-uhci",
        Piix4Uhci = "piix4-uhci",
        Ehci = "ehci",
        Ich9Ehci1 = "ich9-ehci1",
        Ich9Uhci1 = "ich9-uhci1",
        Ich9Uhci2 = "ich9-uhci2",
        Ich9Uhci3 = "ich9-uhci3",
        Vt82c686bUhci = "vt82c686b-uhci",
        PciOhci = "pci-ohci",
        NecXhci = "nec-xhci",
        QemuXhci = "qemu-xhci",
        Piix3 = "piix3",
        Piix4 = "piix4",
        Ich6 = "ich6",
        Auto = "auto",
        Buslogic = "buslogic",
        Lsilogic = "lsilogic",
        Lsisas1068 = "lsisas1068",
        Lsisas1078 = "lsisas1078",
        Vmpvscsi = "vmpvscsi",
        VirtioScsi = "virtio-scsi",
        Virtio = "virtio",
        VirtioTransitional = "virtio-transitional",
        VirtioNonTransitional = "virtio-non-transitional",
    }
    refused "ibmvscsi", "ncr53c90", "dc390", "am53c974", "qusb1", "qusb2";
}

impl ControllerModel {
    /// Whether a controller of that type can be of this model.
    pub fn fits(self, kind: ControllerType) -> bool {
        use ControllerType as Type;
        match self {
            Self::PciRoot
            | Self::PcieRoot
            | Self::PciBridge
            | Self::DmiToPciBridge
            | Self::PcieToPciBridge
            | Self::PcieRootPort
            | Self::PcieSwitchUpstreamPort
            | Self::PcieSwitchDownstreamPort
            | Self::PciExpanderBus
            | Self::PcieExpanderBus => kind == Type::Pci,
            Self::None
            | Self::Piix3Uhci
            | Self::Piix4Uhci
            | Self::Ehci
            | Self::Ich9Ehci1
            | Self::Ich9Uhci1
            | Self::Ich9Uhci2
            | Self::Ich9Uhci3
            | Self::Vt82c686bUhci
            | Self::PciOhci
            | Self::NecXhci
            | Self::QemuXhci => kind == Type::Usb,
            Self::Piix3 | Self::Piix4 | Self::Ich6 => kind == Type::Ide,
            Self::Auto
            | Self::Buslogic
            | Self::Lsilogic
            | Self::Lsisas1068
            | Self::Lsisas1078
            | Self::Vmpvscsi
            | Self::VirtioScsi => kind == Type::Scsi,
            Self::Virtio => kind == Type::VirtioSerial,
            Self::VirtioTransitional | Self::VirtioNonTransitional => {
                matches!(kind, Type::Scsi | Type::VirtioSerial)
            }
        }
    }
}

words! {
    /// What emulates a PCI controller.
    pub enum PciModelName {
        PcieRootPort = "pcie-root-port",
        PciBridge = "pci-bridge",
        I82801b11Bridge = "i82801b11-bridge",
        Ioh3420 = "ioh3420",
        X3130Upstream = "x3130-upstream",
        Xio3130Downstream = "xio3130-downstream",
        Pxb = "pxb",
        PxbPcie = "pxb-pcie",
        PciePciBridge = "pcie-pci-bridge",
    }
    refused "spapr-pci-host-bridge";
}

model! {
    /// How the host serves a controller.
    pub struct ControllerDriver {
        /// Virtqueues.
        queues: attribute("queues") => Option<u32>,
        /// Commands in flight for each unit.
        cmd_per_lun: attribute("cmd_per_lun") => Option<u32>,
        /// Sectors of 512 bytes in a transfer.
        max_sectors: attribute("max_sectors") => Option<u32>,
        /// Doorbells through the kernel.
        ioeventfd: attribute("ioeventfd") => Option<OnOff>,
        /// I/O thread that serves it.
        iothread: attribute("iothread") => Option<u32>,
        /// Virtio's switches.
        virtio: part => VirtioOptions,
    }

    /// What emulates a PCI controller.
    pub struct PciControllerModel {
        /// The name.
        name: required("name") => PciModelName,
    }

    /// What the guest sees of a PCI controller.
    pub struct PciControllerTarget {
        /// Of bridges.
        chassis_nr: attribute("chassisNr") => Option<u32>,
        /// Of ports: number of the chassis.
        chassis: attribute("chassis") => Option<u32>,
        /// Of ports: number of the port.
        port: attribute("port") => Option<Hex<1>>,
        /// Of expander buses.
        bus_nr: attribute("busNr") => Option<u32>,
        /// Of host bridges.
        index: attribute("index") => Option<u32>,
        /// Whether devices come and go while the guest runs.
        hotplug: attribute("hotplug") => Option<OnOff>,
        /// Of expander buses: guest NUMA cell.
        node: field("node") => Option<u32>,
    }

    /// A controller.
    pub struct Controller {
        /// Kind.
        kind: required("type") => ControllerType,
        /// Number among its kind.
        index: attribute("index") => Option<u32>,
        /// Model.
        model: attribute("model") => Option<ControllerModel>,
        /// Ports.
        ports: attribute("ports") => Option<u32>,
        /// MSI-X vectors.
        vectors: attribute("vectors") => Option<u32>,
        /// What emulates a PCI controller.
        model_name: child("model") => Option<PciControllerModel>,
        /// What the guest sees of a PCI controller.
        target: child("target") => Option<PciControllerTarget>,
        /// How the host serves it.
        driver: child("driver") => Option<ControllerDriver>,
        /// Alias, address.
        info: part => DeviceInfo,
        /// Size of the 64-bit window of a PCI root.
        pci_hole_64: child("pcihole64") => Option<Kib>,
    }
}

impl Controller {
    /// A controller with its index.
    pub fn new(kind: ControllerType, index: u32) -> Self {
        Self { kind, index: Some(index), ..Self::default() }
    }
}
