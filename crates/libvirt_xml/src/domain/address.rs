//! Where a device sits, and what all devices have in common: alias, boot order, ROM, ACPI index.

use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::model::{Model, model};
use crate::tree::Element;
use crate::value::{Hex, OnOff, Value, YesNo, parse_number, words};

/// A PCI function's place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciPlace {
    /// Domain (segment).
    pub domain: u16,
    /// Bus: the index of the PCI controller that it hangs on.
    pub bus: u8,
    /// Slot (device), below 32.
    pub slot: u8,
    /// Function, below 8.
    pub function: u8,
}

impl std::fmt::Display for PciPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.slot, self.function)
    }
}

impl Model for PciPlace {
    /// Absent parts are 0.
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        Ok(Self {
            domain: small(fields, "domain", u16::MAX.into())?,
            bus: small(fields, "bus", u8::MAX.into())?,
            slot: small(fields, "slot", 31)?,
            function: small(fields, "function", 7)?,
        })
    }

    fn put(&self, element: &mut Element) {
        let parts = [
            ("domain", format!("0x{:04x}", self.domain)),
            ("bus", format!("0x{:02x}", self.bus)),
            ("slot", format!("0x{:02x}", self.slot)),
            ("function", format!("0x{:x}", self.function)),
        ];
        element.attributes.extend(parts.map(|(name, value)| (name.to_owned(), value)));
    }
}

/// An attribute with a number of at most `max`, decimal or hexadecimal; absent means 0.
fn small<T: TryFrom<u64>>(fields: &mut Fields<'_>, name: &str, max: u64) -> Result<T, XmlError> {
    let Some(text) = fields.attribute(name) else {
        return T::try_from(0).map_err(|_| fields.fault(XmlFault::Missing(name.to_owned())));
    };
    let number = parse_number(text).filter(|number| *number <= max);
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| fields.invalid_attribute(name, text, &format!("a number of at most {max:#x}")))
}

model! {
    /// A PCI address.
    pub struct PciAddress {
        /// The place; `None` asks for one to be assigned.
        place: part => Option<PciPlace>,
        /// Whether other functions share the slot.
        multifunction: attribute("multifunction") => Option<OnOff>,
    }

    /// A disk's place on its controller.
    pub struct DriveAddress {
        /// Index of the controller.
        controller: defaulted("controller") => u32,
        /// Bus of the controller.
        bus: defaulted("bus") => u32,
        /// SCSI target.
        target: defaulted("target") => u32,
        /// Unit.
        unit: defaulted("unit") => u32,
    }

    /// A port of a virtio-serial controller.
    pub struct VirtioSerialAddress {
        /// Index of the controller.
        controller: defaulted("controller") => u32,
        /// Bus of the controller; always 0.
        bus: defaulted("bus") => u32,
        /// Port; 0 is the first console.
        port: defaulted("port") => u32,
    }

    /// A place on a USB bus.
    pub struct UsbAddress {
        /// Index of the controller.
        bus: defaulted("bus") => u32,
        /// Port, hubs separated by dots.
        port: attribute("port") => Option<String>,
    }

    /// Resources of an ISA device.
    pub struct IsaAddress {
        /// First I/O port.
        iobase: attribute("iobase") => Option<Hex<1>>,
        /// Interrupt line.
        irq: attribute("irq") => Option<Hex<1>>,
    }

    /// A slot of a smart card reader.
    pub struct CcidAddress {
        /// Index of the controller.
        controller: defaulted("controller") => u32,
        /// Slot.
        slot: defaulted("slot") => u32,
    }

    /// A memory slot.
    pub struct DimmAddress {
        /// Slot.
        slot: attribute("slot") => Option<u32>,
        /// Guest-physical address.
        base: attribute("base") => Option<Hex<1>>,
    }
}

impl Model for Option<PciPlace> {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        let given = ["domain", "bus", "slot", "function"].iter().any(|name| fields.has_attribute(name));
        given.then(|| PciPlace::take(fields)).transpose()
    }

    fn put(&self, element: &mut Element) {
        if let Some(place) = self {
            place.put(element);
        }
    }
}

/// An address, by the kind of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `pci`
    Pci(PciAddress),
    /// `drive`
    Drive(DriveAddress),
    /// `virtio-serial`
    VirtioSerial(VirtioSerialAddress),
    /// `usb`
    Usb(UsbAddress),
    /// `isa`
    Isa(IsaAddress),
    /// `ccid`
    Ccid(CcidAddress),
    /// `dimm`
    Dimm(DimmAddress),
    /// `unassigned`: the device stays away from the guest.
    Unassigned,
}

impl Address {
    /// An assigned PCI address with one function.
    pub fn pci(bus: u8, slot: u8, function: u8) -> Self {
        let place = PciPlace { domain: 0, bus, slot, function };
        Self::Pci(PciAddress { place: Some(place), multifunction: None })
    }
}

impl Default for Address {
    fn default() -> Self {
        Self::Pci(PciAddress::default())
    }
}

impl Model for Address {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        Ok(match fields.required_attribute("type")? {
            "pci" => Self::Pci(Model::take(fields)?),
            "drive" => Self::Drive(Model::take(fields)?),
            "virtio-serial" => Self::VirtioSerial(Model::take(fields)?),
            "usb" => Self::Usb(Model::take(fields)?),
            "isa" => Self::Isa(Model::take(fields)?),
            "ccid" => Self::Ccid(Model::take(fields)?),
            "dimm" => Self::Dimm(Model::take(fields)?),
            "unassigned" => Self::Unassigned,
            other @ ("ccw" | "spapr-vio" | "virtio-s390" | "virtio-mmio") => {
                return Err(fields.fault(XmlFault::Unsupported(format!("addresses of type {other:?}"))));
            }
            other => {
                return Err(fields.invalid_attribute("type", other, "a type of address, as pci or drive"));
            }
        })
    }

    fn put(&self, element: &mut Element) {
        let mut put = |kind: &str, model: &dyn Fn(&mut Element)| {
            element.attributes.push(("type".to_owned(), kind.to_owned()));
            model(element);
        };
        match self {
            Self::Pci(address) => put("pci", &|element| address.put(element)),
            Self::Drive(address) => put("drive", &|element| address.put(element)),
            Self::VirtioSerial(address) => put("virtio-serial", &|element| address.put(element)),
            Self::Usb(address) => put("usb", &|element| address.put(element)),
            Self::Isa(address) => put("isa", &|element| address.put(element)),
            Self::Ccid(address) => put("ccid", &|element| address.put(element)),
            Self::Dimm(address) => put("dimm", &|element| address.put(element)),
            Self::Unassigned => put("unassigned", &|_| {}),
        }
    }
}

/// Where a USB or PCI device of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAddress {
    /// A PCI function of the host.
    Pci(PciPlace),
    /// A USB device: bus and device number.
    Usb {
        /// Bus.
        bus: u32,
        /// Device on the bus.
        device: u32,
    },
    /// A mediated device.
    Mediated(crate::value::Uuid),
}

impl Default for HostAddress {
    fn default() -> Self {
        Self::Pci(PciPlace::default())
    }
}

impl Model for HostAddress {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        // Says what the other attributes say as well.
        let kind = fields.attribute("type");
        if let Some(kind) = kind.filter(|kind| !matches!(*kind, "pci" | "usb")) {
            return Err(fields.invalid_attribute("type", kind, "pci or usb"));
        }
        if let Some(uuid) = fields.value("uuid")? {
            return Ok(Self::Mediated(uuid));
        }
        if let Some(device) = fields.value("device")? {
            return Ok(Self::Usb { bus: fields.required_value("bus")?, device });
        }
        Ok(Self::Pci(Model::take(fields)?))
    }

    fn put(&self, element: &mut Element) {
        match self {
            Self::Pci(place) => place.put(element),
            Self::Usb { bus, device } => {
                element.attributes.push(("bus".to_owned(), bus.print()));
                element.attributes.push(("device".to_owned(), device.print()));
            }
            Self::Mediated(uuid) => element.attributes.push(("uuid".to_owned(), uuid.print())),
        }
    }
}

words! {
    /// Whether a device may be missing when the domain starts.
    pub enum StartupPolicy {
        Mandatory = "mandatory",
        Requisite = "requisite",
        Optional = "optional",
    }
}

model! {
    /// A boot order.
    pub struct BootOrder {
        /// 1 is tried first.
        order: required("order") => u32,
    }

    /// The name of a live device, or one that the user chose (`ua-…`).
    pub struct Alias {
        /// The name.
        name: required("name") => String,
    }

    /// The part of a USB 2 controller that a USB 1 companion serves.
    pub struct UsbMaster {
        /// Its first port.
        start_port: required("startport") => u32,
    }

    /// An option ROM.
    pub struct Rom {
        /// Whether the guest sees one at all.
        enabled: attribute("enabled") => Option<YesNo>,
        /// Whether it is in the PCI configuration space.
        bar: attribute("bar") => Option<OnOff>,
        /// File with its content.
        file: attribute("file") => Option<String>,
    }

    /// Firmware naming.
    pub struct AcpiIndex {
        /// The index that predictable interface names are made from.
        index: required("index") => u32,
    }

    /// What all devices have in common.
    pub struct DeviceInfo {
        /// When it is tried for booting.
        boot: child("boot") => Option<BootOrder>,
        /// Its name.
        alias: child("alias") => Option<Alias>,
        /// Companion controllers only.
        master: child("master") => Option<UsbMaster>,
        /// Option ROM.
        rom: child("rom") => Option<Rom>,
        /// Firmware naming.
        acpi: child("acpi") => Option<AcpiIndex>,
        /// Where it sits.
        address: child("address") => Option<Address>,
    }

    /// Switches that every virtio device has (virtio 1.2, 6).
    pub struct VirtioOptions {
        /// Accesses go through the platform's IOMMU.
        iommu: attribute("iommu") => Option<OnOff>,
        /// Address translation service.
        ats: attribute("ats") => Option<OnOff>,
        /// Packed virtqueues.
        packed: attribute("packed") => Option<OnOff>,
        /// A page for each queue's notification.
        page_per_vq: attribute("page_per_vq") => Option<OnOff>,
    }

    /// A `<driver>` with nothing but the virtio switches.
    pub struct VirtioDriver {
        /// The switches.
        virtio: part => VirtioOptions,
    }
}

impl DeviceInfo {
    /// The alias, if there is one.
    pub fn alias_name(&self) -> Option<&str> {
        self.alias.as_ref().map(|alias| alias.name.as_str())
    }

    /// The boot order, if there is one.
    pub fn boot_order(&self) -> Option<u32> {
        self.boot.as_ref().map(|boot| boot.order)
    }

    /// The PCI place, if one is given.
    pub fn pci_place(&self) -> Option<PciPlace> {
        match &self.address {
            Some(Address::Pci(address)) => address.place,
            _ => None,
        }
    }
}

#[cfg(test)]
mod draws {
    use super::*;
    use crate::draw::{Bytes, Draw};

    impl Draw for PciPlace {
        fn draw(bytes: &mut Bytes) -> Self {
            let [bus, slot, function] = bytes.array();
            Self { domain: Draw::draw(bytes), bus, slot: slot % 32, function: function % 8 }
        }
    }

    impl Draw for Address {
        fn draw(bytes: &mut Bytes) -> Self {
            match bytes.byte() % 8 {
                0 => Self::Pci(Draw::draw(bytes)),
                1 => Self::Drive(Draw::draw(bytes)),
                2 => Self::VirtioSerial(Draw::draw(bytes)),
                3 => Self::Usb(Draw::draw(bytes)),
                4 => Self::Isa(Draw::draw(bytes)),
                5 => Self::Ccid(Draw::draw(bytes)),
                6 => Self::Dimm(Draw::draw(bytes)),
                _ => Self::Unassigned,
            }
        }
    }

    impl Draw for HostAddress {
        fn draw(bytes: &mut Bytes) -> Self {
            match bytes.byte() % 3 {
                0 => Self::Pci(Draw::draw(bytes)),
                1 => Self::Usb { bus: Draw::draw(bytes), device: Draw::draw(bytes) },
                _ => Self::Mediated(Draw::draw(bytes)),
            }
        }
    }
}
