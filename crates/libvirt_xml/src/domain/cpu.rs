//! The guest's CPU (formatdomain, "CPU model and topology") and its NUMA cells.
//!
//! Refused: memory side caches and heterogeneous memory (`cache` and `interconnects` of cells).

use crate::model::{Model, model};
use crate::size::CellMemory;
use crate::value::{NumberSet, OnOff, YesNo, words};
use crate::{Element, Fields, XmlError};

words! {
    /// Where a CPU model comes from.
    pub enum CpuMode {
        Custom = "custom",
        HostModel = "host-model",
        HostPassthrough = "host-passthrough",
        Maximum = "maximum",
    }

    /// How well the host must match.
    pub enum CpuMatch { Exact = "exact", Minimum = "minimum", Strict = "strict", }

    /// Who checks it.
    pub enum CpuCheck { None = "none", Partial = "partial", Full = "full", }

    /// Whether another model will do.
    pub enum CpuFallback { Allow = "allow", Forbid = "forbid", }

    /// What is said of a feature.
    pub enum FeaturePolicy {
        Require = "require",
        Force = "force",
        Optional = "optional",
        Disable = "disable",
        Forbid = "forbid",
    }

    /// What a guest sees of the caches.
    pub enum CpuCacheMode { Emulate = "emulate", Passthrough = "passthrough", Disable = "disable", }

    /// Where the width of physical addresses comes from.
    pub enum PhysAddrMode { Emulate = "emulate", Passthrough = "passthrough", }
}

model! {
    /// A CPU model.
    pub struct CpuModel {
        /// Whether another will do.
        fallback: attribute("fallback") => Option<CpuFallback>,
        /// The vendor string that CPUID shows, 12 characters.
        vendor_id: attribute("vendor_id") => Option<String>,
        /// Name.
        name: own_text => Option<String>,
    }

    /// A microcode's version.
    pub struct Microcode {
        /// The number.
        version: required("version") => u32,
    }

    /// Family, model and stepping.
    pub struct Signature {
        /// Family.
        family: required("family") => u32,
        /// Model.
        model: required("model") => u32,
        /// Stepping.
        stepping: attribute("stepping") => Option<u32>,
    }

    /// Caches.
    pub struct CpuCache {
        /// Level; all when absent.
        level: attribute("level") => Option<u32>,
        /// What the guest sees.
        mode: required("mode") => CpuCacheMode,
    }

    /// Width of physical addresses.
    pub struct MaxPhysAddr {
        /// Where it comes from.
        mode: required("mode") => PhysAddrMode,
        /// Bits.
        bits: attribute("bits") => Option<u32>,
        /// At most so many bits of the host's.
        limit: attribute("limit") => Option<u32>,
    }

    /// A feature.
    pub struct CpuFeature {
        /// What is said of it; hosts say nothing.
        policy: attribute("policy") => Option<FeaturePolicy>,
        /// Name, as libvirt's CPU map has it.
        name: required("name") => String,
    }

    /// How far another cell is.
    pub struct CellDistance {
        /// The other cell.
        id: required("id") => u32,
        /// 10 is the cell itself.
        value: required("value") => u32,
    }

    /// A NUMA cell.
    pub struct NumaCell {
        /// Number; follows from the order when absent.
        id: attribute("id") => Option<u32>,
        /// vCPUs.
        cpus: attribute("cpus") => Option<NumberSet>,
        /// Memory.
        memory: part => CellMemory,
        /// Whether it is shared.
        access: attribute("memAccess") => Option<super::tuning::MemoryAccess>,
        /// Whether it is thrown away at the end.
        discard: attribute("discard") => Option<YesNo>,
        /// How far the others are.
        distances: list("distances", "sibling") => Vec<CellDistance>,
    }

    /// The guest's CPU.
    pub struct Cpu {
        /// Where the model comes from.
        mode: attribute("mode") => Option<CpuMode>,
        /// How well the host must match.
        matching: attribute("match") => Option<CpuMatch>,
        /// Who checks it.
        check: attribute("check") => Option<CpuCheck>,
        /// Whether it can migrate.
        migratable: attribute("migratable") => Option<OnOff>,
        /// Model.
        model: child("model") => Option<CpuModel>,
        /// Vendor of the host that it needs.
        vendor: field("vendor") => Option<String>,
        /// Topology.
        topology: child("topology") => Option<Topology>,
        /// Caches.
        cache: child("cache") => Option<CpuCache>,
        /// Width of physical addresses.
        max_phys_addr: child("maxphysaddr") => Option<MaxPhysAddr>,
        /// Features.
        features: children("feature") => Vec<CpuFeature>,
        /// NUMA cells.
        numa: list("numa", "cell") => Vec<NumaCell>,
    }
}

/// How vCPUs are arranged. None of the numbers is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Dies of a socket.
    pub dies: u32,
    /// Clusters of a die; written when it is not 1.
    pub clusters: u32,
    /// Cores of a cluster.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Self { sockets: 1, dies: 1, clusters: 1, cores: 1, threads: 1 }
    }
}

impl Topology {
    /// How many vCPUs it has room for; `None` when that is not a number of 32 bits.
    pub fn vcpus(&self) -> Option<u32> {
        [self.dies, self.clusters, self.cores, self.threads]
            .into_iter()
            .try_fold(self.sockets, |product, factor| product.checked_mul(factor))
    }
}

impl Model for Topology {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        let mut part = |name: &str, needed: bool| {
            let value = if needed { Some(fields.required_value(name)?) } else { fields.value(name)? };
            match value.unwrap_or(1) {
                0 => Err(fields.invalid_attribute(name, "0", "a number above 0")),
                number => Ok(number),
            }
        };
        Ok(Self {
            sockets: part("sockets", true)?,
            dies: part("dies", false)?,
            clusters: part("clusters", false)?,
            cores: part("cores", true)?,
            threads: part("threads", true)?,
        })
    }

    fn put(&self, element: &mut Element) {
        let clusters = (self.clusters != 1).then_some(("clusters", self.clusters));
        let parts = [Some(("sockets", self.sockets)), Some(("dies", self.dies)), clusters]
            .into_iter()
            .chain([Some(("cores", self.cores)), Some(("threads", self.threads))]);
        element.attributes.extend(parts.flatten().map(|(name, value)| (name.to_owned(), value.to_string())));
    }
}

#[cfg(test)]
impl crate::draw::Draw for Topology {
    fn draw(bytes: &mut crate::draw::Bytes) -> Self {
        let [sockets, dies, clusters, cores, threads] = bytes.array().map(|byte: u8| u32::from(byte) + 1);
        Self { sockets, dies, clusters, cores, threads }
    }
}
