//! What domains of one kind, machine and emulator can have (libvirt's formatdomaincaps): written from plain data.
//!
//! virt-install takes its defaults from it: firmware, CPU modes, displays, models of video cards, memory sources.

use crate::domain::cpu::{CpuFallback, CpuFeature};
use crate::error::XmlError;
use crate::fields::Fields;
use crate::model::{Model, model};
use crate::tree::Element;
use crate::value::YesNo;

model! {
    /// Values that an attribute can have.
    pub struct Enumeration {
        /// Name of the attribute.
        name: required("name") => String,
        /// Values.
        values: fields("value") => Vec<String>,
    }

    /// Whether something is there.
    pub struct Supported {
        /// Whether.
        supported: required("supported") => YesNo,
        /// Values, as paths of firmware.
        values: fields("value") => Vec<String>,
        /// Values of attributes.
        enumerations: children("enum") => Vec<Enumeration>,
    }

    /// How many vCPUs there can be.
    pub struct VcpuLimit {
        /// At most.
        max: required("max") => u32,
    }

    /// How guests boot.
    pub struct OsSupport {
        /// Whether.
        supported: required("supported") => YesNo,
        /// Values of attributes.
        enumerations: children("enum") => Vec<Enumeration>,
        /// Firmware.
        loader: child("loader") => Option<Supported>,
    }

    /// A CPU model.
    pub struct CpuModelSupport {
        /// Of host-model: whether another will do.
        fallback: attribute("fallback") => Option<CpuFallback>,
        /// Whether the host can run it.
        usable: attribute("usable") => Option<YesNo>,
        /// Vendor.
        vendor: attribute("vendor") => Option<String>,
        /// Name.
        name: text => String,
    }

    /// A CPU mode.
    pub struct CpuModeSupport {
        /// Name.
        name: required("name") => String,
        /// Whether.
        supported: required("supported") => YesNo,
        /// Values of attributes.
        enumerations: children("enum") => Vec<Enumeration>,
        /// Models.
        models: children("model") => Vec<CpuModelSupport>,
        /// Vendor of host-model.
        vendor: field("vendor") => Option<String>,
        /// Features of host-model.
        features: children("feature") => Vec<CpuFeature>,
    }

    /// CPU modes.
    pub struct CpuSupport {
        /// The modes.
        modes: children("mode") => Vec<CpuModeSupport>,
    }

    /// What domains can have.
    pub struct DomainCapabilities {
        /// Emulator.
        path: field("path") => Option<String>,
        /// Kind of domain.
        domain: field("domain") => Option<String>,
        /// Machine.
        machine: field("machine") => Option<String>,
        /// Architecture.
        arch: field("arch") => Option<String>,
        /// vCPUs.
        vcpu: child("vcpu") => Option<VcpuLimit>,
        /// I/O threads.
        iothreads: child("iothreads") => Option<Supported>,
        /// Booting.
        os: child("os") => Option<OsSupport>,
        /// CPUs.
        cpu: child("cpu") => Option<CpuSupport>,
        /// Sources of memory.
        memory_backing: child("memoryBacking") => Option<Supported>,
        /// Devices.
        devices: always("devices") => NamedSupport,
        /// Features.
        features: always("features") => NamedSupport,
    }
}

/// Things by name, in order: `disk`, `graphics`, …
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedSupport(pub Vec<(String, Supported)>);

impl Model for NamedSupport {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        let children = fields.take_all();
        let named = children
            .into_iter()
            .map(|element| Ok((element.name.clone(), Supported::read(fields.of_child(element))?)));
        named.collect::<Result<_, _>>().map(Self)
    }

    fn put(&self, element: &mut Element) {
        for (name, support) in &self.0 {
            element.push(support.write(name));
        }
    }
}

impl Supported {
    /// Something that is there, with values of attributes.
    pub fn yes(enumerations: &[(&str, &[&str])]) -> Self {
        let enumeration = |(name, values): &(&str, &[&str])| Enumeration {
            name: (*name).to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        Self { enumerations: enumerations.iter().map(enumeration).collect(), ..Self::default() }
    }

    /// Something that is not there.
    pub fn no() -> Self {
        Self { supported: YesNo::No, ..Self::default() }
    }
}

impl DomainCapabilities {
    /// The document.
    pub fn to_xml(&self) -> String {
        self.write("domainCapabilities").to_string()
    }
}

#[cfg(test)]
impl crate::draw::Draw for NamedSupport {
    fn draw(bytes: &mut crate::draw::Bytes) -> Self {
        let names = ["disk", "graphics", "video"];
        Self(names.map(|name| (name.to_owned(), crate::draw::Draw::draw(bytes))).into())
    }
}
