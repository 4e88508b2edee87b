//! What CPUID answers to the guest: pure functions over a table of leaves.
//!
//! The table starts as what KVM supports on this host ([`crate::Kvm::supported_cpuid`]). [`CpuidTable::shape`] makes it
//! one vCPU's: its place in the topology, the features that KVM adds, known frequencies, and what the operator overrides.
//! Sources: Intel SDM volume 2 (CPUID), AMD APM volume 3 appendix E, Documentation/virt/kvm/x86/cpuid.rst.

mod amd;
mod intel;
mod shape;
#[cfg(test)]
mod tests;

pub use shape::CpuidSpec;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// One answer of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuidEntry {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question, where it matters.
    pub subleaf: u32,
    /// Whether `subleaf` matters for this leaf.
    pub indexed: bool,
    /// EAX of the answer.
    pub eax: u32,
    /// EBX of the answer.
    pub ebx: u32,
    /// ECX of the answer.
    pub ecx: u32,
    /// EDX of the answer.
    pub edx: u32,
}

/// The company whose CPUID conventions a table follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// Intel, and Centaur and Zhaoxin, who follow it.
    Intel,
    /// AMD and Hygon.
    Amd,
}

/// A register of a CPUID answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuidRegister {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// Feature bits that an operator switches off, for example so that guests find the same processor on several hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidOverride {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf, 0 where the leaf has none.
    pub subleaf: u32,
    /// Register.
    pub register: CpuidRegister,
    /// Bits to clear.
    pub clear: u32,
}

/// All answers of CPUID to one vCPU, ordered by leaf and subleaf.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuidTable {
    entries: Vec<CpuidEntry>,
}

impl CpuidTable {
    /// A table of `entries`; the first of two with the same leaf and subleaf wins.
    pub fn new(mut entries: Vec<CpuidEntry>) -> Self {
        entries.sort_by_key(|entry| (entry.leaf, entry.subleaf));
        entries.dedup_by_key(|entry| (entry.leaf, entry.subleaf));
        Self { entries }
    }

    /// Every entry, ordered.
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries
    }

    /// The entry of `leaf` and `subleaf`.
    pub fn get(&self, leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
        self.position(leaf, subleaf).ok().map(|position| &self.entries[position])
    }

    /// Whose conventions the table follows (leaf 0: EBX, EDX, ECX spell the vendor).
    pub fn vendor(&self) -> Vendor {
        let name = self.get(0, 0).map(|entry| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes));
        match name.as_ref().map(|name| name.as_flattened()) {
            Some(b"AuthenticAMD" | b"HygonGenuine") => Vendor::Amd,
            _ => Vendor::Intel,
        }
    }

    /// The largest leaf of the range that starts at `base` (0, 4000_0000h or 8000_0000h).
    pub fn max_leaf(&self, base: u32) -> u32 {
        self.get(base, 0).map_or(base, |entry| entry.eax)
    }

    fn position(&self, leaf: u32, subleaf: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&(leaf, subleaf), |entry| (entry.leaf, entry.subleaf))
    }

    /// Changes the entry of `leaf` and `subleaf`, if there is one.
    fn edit(&mut self, leaf: u32, subleaf: u32, change: impl FnOnce(&mut CpuidEntry)) {
        if let Ok(position) = self.position(leaf, subleaf) {
            change(&mut self.entries[position]);
        }
    }

    /// Puts `entry` in, in place of one with the same leaf and subleaf.
    fn put(&mut self, entry: CpuidEntry) {
        match self.position(entry.leaf, entry.subleaf) {
            Ok(position) => self.entries[position] = entry,
            Err(position) => self.entries.insert(position, entry),
        }
    }

    /// Replaces all subleaves of `leaf`.
    fn put_subleaves(&mut self, leaf: u32, subleaves: &[CpuidEntry]) {
        self.remove(leaf);
        subleaves.iter().for_each(|entry| self.put(*entry));
    }

    fn remove(&mut self, leaf: u32) {
        self.entries.retain(|entry| entry.leaf != leaf);
    }

    /// Changes every subleaf of `leaf`.
    fn edit_all(&mut self, leaf: u32, change: impl FnMut(&mut CpuidEntry)) {
        self.entries.iter_mut().filter(|entry| entry.leaf == leaf).for_each(change);
    }

    pub(crate) fn from_kvm(entries: &[kvm_cpuid_entry2]) -> Self {
        let convert = |entry: &kvm_cpuid_entry2| CpuidEntry {
            leaf: entry.function,
            subleaf: entry.index,
            indexed: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        };
        Self::new(entries.iter().map(convert).collect())
    }

    /// `None` if there are more entries than KVM takes.
    pub(crate) fn to_kvm(&self) -> Option<CpuId> {
        let convert = |entry: &CpuidEntry| kvm_cpuid_entry2 {
            function: entry.leaf,
            index: entry.subleaf,
            flags: if entry.indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
            ..Default::default()
        };
        CpuId::from_entries(&self.entries.iter().map(convert).collect::<Vec<_>>()).ok()
    }
}
