//! The host's processor in libvirt's words: the closest model of libvirt's CPU map, and what it has beyond that.
//!
//! Sources: /proc/cpuinfo (names of flags: arch/x86/include/asm/cpufeatures.h of Linux), the names of models and features in
//! libvirt's CPU map.

use std::collections::BTreeSet;

use host_tune::{PagePool, Processor};
use libvirt_rpc::RpcError;
use libvirt_xml::capabilities::{HostCpu, PageSizes};
use libvirt_xml::domain::cpu::{CpuFeature, MaxPhysAddr, Microcode, PhysAddrMode, Signature, Topology};

/// A model: its vendor, and what it has that the model before it of the same vendor does not.
struct Model {
    name: &'static str,
    vendor: &'static str,
    adds: &'static [&'static str],
}

/// Models that a host may be, in the kernel's words for flags; each one has what its vendor's earlier ones have.
const MODELS: &[Model] = &[
    Model {
        name: "Nehalem",
        vendor: "GenuineIntel",
        adds: &["lm", "nx", "syscall", "cx16", "lahf_lm", "popcnt", "ssse3", "sse4_1", "sse4_2"],
    },
    Model { name: "Westmere", vendor: "GenuineIntel", adds: &["aes"] },
    Model {
        name: "SandyBridge",
        vendor: "GenuineIntel",
        adds: &["avx", "xsave", "pclmulqdq", "rdtscp", "tsc_deadline_timer", "x2apic"],
    },
    Model {
        name: "IvyBridge",
        vendor: "GenuineIntel",
        adds: &["f16c", "rdrand", "erms", "fsgsbase", "smep"],
    },
    Model {
        name: "Haswell-noTSX",
        vendor: "GenuineIntel",
        adds: &["avx2", "bmi1", "bmi2", "fma", "movbe", "invpcid", "pcid", "abm"],
    },
    Model {
        name: "Broadwell-noTSX",
        vendor: "GenuineIntel",
        adds: &["adx", "rdseed", "smap", "3dnowprefetch"],
    },
    Model {
        name: "Skylake-Server-noTSX-IBRS",
        vendor: "GenuineIntel",
        adds: &[
            "avx512f",
            "avx512bw",
            "avx512cd",
            "avx512dq",
            "avx512vl",
            "clwb",
            "clflushopt",
            "pdpe1gb",
            "xsavec",
            "xgetbv1",
            "ibrs",
        ],
    },
    Model {
        name: "Icelake-Server-noTSX",
        vendor: "GenuineIntel",
        adds: &[
            "avx512vbmi",
            "avx512_vbmi2",
            "gfni",
            "vaes",
            "vpclmulqdq",
            "avx512_vnni",
            "avx512_bitalg",
            "avx512_vpopcntdq",
            "umip",
            "la57",
            "pku",
            "ssbd",
        ],
    },
    Model {
        name: "Opteron_G3",
        vendor: "AuthenticAMD",
        adds: &["lm", "nx", "syscall", "cx16", "lahf_lm", "popcnt", "sse4a", "abm", "misalignsse"],
    },
    Model {
        name: "EPYC",
        vendor: "AuthenticAMD",
        adds: &[
            "ssse3",
            "sse4_1",
            "sse4_2",
            "aes",
            "avx",
            "avx2",
            "bmi1",
            "bmi2",
            "f16c",
            "fma",
            "movbe",
            "pclmulqdq",
            "rdrand",
            "rdseed",
            "adx",
            "smep",
            "smap",
            "fsgsbase",
            "clflushopt",
            "sha_ni",
            "xsave",
            "xsavec",
            "xgetbv1",
            "rdtscp",
            "3dnowprefetch",
            "pdpe1gb",
        ],
    },
    Model { name: "EPYC-Rome", vendor: "AuthenticAMD", adds: &["clwb", "umip", "wbnoinvd", "rdpid"] },
    Model { name: "EPYC-Milan", vendor: "AuthenticAMD", adds: &["erms", "fsrm", "invpcid", "pcid", "pku"] },
];

/// Flags that guests can be told of and that models differ in, where libvirt has another word than the kernel.
const WORDS: &[(&str, &str)] = &[
    ("sse4_1", "sse4.1"),
    ("sse4_2", "sse4.2"),
    ("tsc_deadline_timer", "tsc-deadline"),
    ("sha_ni", "sha-ni"),
    ("avx512_vbmi2", "avx512vbmi2"),
    ("avx512_vnni", "avx512vnni"),
    ("avx512_bitalg", "avx512bitalg"),
    ("avx512_vpopcntdq", "avx512-vpopcntdq"),
    ("avx512_bf16", "avx512-bf16"),
    ("avx512_fp16", "avx512-fp16"),
    ("avx_vnni", "avx-vnni"),
    ("amx_bf16", "amx-bf16"),
    ("amx_tile", "amx-tile"),
    ("amx_int8", "amx-int8"),
    ("md_clear", "md-clear"),
    ("arch_capabilities", "arch-capabilities"),
    ("nonstop_tsc", "invtsc"),
];

/// Flags beyond the models' that libvirt calls as the kernel does.
const SAME: &[&str] = &[
    "vme",
    "ss",
    "ht",
    "hypervisor",
    "arat",
    "tsc_adjust",
    "avx512ifma",
    "ospke",
    "rdpid",
    "cldemote",
    "movdiri",
    "movdir64b",
    "fsrm",
    "serialize",
    "stibp",
    "ibpb",
    "xsaveopt",
    "xsaves",
    "vmx",
    "svm",
    "npt",
    "topoext",
    "perfctr_core",
    "osxsave",
    "rtm",
    "hle",
    "mpx",
];

/// What the host says about one of its processors; all are alike.
#[derive(Debug, Clone, Default)]
pub(super) struct HostProcessor {
    vendor: String,
    family: Option<u32>,
    model: Option<u32>,
    stepping: Option<u32>,
    microcode: Option<u32>,
    address_bits: Option<u32>,
    flags: BTreeSet<String>,
}

impl HostProcessor {
    /// This host's.
    pub(super) fn this() -> Result<Self, RpcError> {
        let path = "/proc/cpuinfo";
        let text = std::fs::read_to_string(path)
            .map_err(|error| RpcError::system(format!("cannot read '{path}': {error}")))?;
        Ok(Self::read(&text))
    }

    /// The first processor of /proc/cpuinfo.
    fn read(text: &str) -> Self {
        let mut processor = Self::default();
        for line in text.lines().take_while(|line| !line.trim().is_empty()) {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.trim() {
                "vendor_id" => processor.vendor = value.to_owned(),
                "cpu family" => processor.family = value.parse().ok(),
                "model" => processor.model = value.parse().ok(),
                "stepping" => processor.stepping = value.parse().ok(),
                "microcode" => {
                    let digits = value.trim_start_matches("0x");
                    processor.microcode = u32::from_str_radix(digits, 16).ok();
                }
                // "46 bits physical, 48 bits virtual"
                "address sizes" => {
                    processor.address_bits = value.split(' ').next().and_then(|bits| bits.parse().ok());
                }
                "flags" => processor.flags = value.split_ascii_whitespace().map(str::to_owned).collect(),
                _ => {}
            }
        }
        processor
    }

    /// The newest model whose flags are all there, and what it and its vendor's earlier ones have.
    fn closest(&self) -> (Option<&'static str>, BTreeSet<&'static str>) {
        let mut found = (None, BTreeSet::new());
        for model in MODELS.iter().filter(|model| model.vendor == self.vendor) {
            if !model.adds.iter().all(|flag| self.flags.contains(*flag)) {
                break;
            }
            found.0 = Some(model.name);
            found.1.extend(model.adds);
        }
        found
    }

    /// In libvirt's words.
    pub(super) fn describe(&self) -> HostCpu {
        let (model, has) = self.closest();
        let known = MODELS.iter().flat_map(|model| model.adds).chain(SAME).copied();
        let known: BTreeSet<&str> = known.chain(WORDS.iter().map(|(flag, _)| *flag)).collect();
        let further = known.into_iter().filter(|flag| self.flags.contains(*flag) && !has.contains(flag));
        let named = |flag: &str| {
            let word = WORDS.iter().find(|(from, _)| *from == flag).map_or(flag, |(_, to)| to);
            CpuFeature { policy: None, name: word.to_owned() }
        };
        let signature = match (self.family, self.model) {
            (Some(family), Some(model)) => Some(Signature { family, model, stepping: self.stepping }),
            _ => None,
        };
        let bits = self.address_bits;
        HostCpu {
            model: model.map(str::to_owned),
            vendor: match self.vendor.as_str() {
                "GenuineIntel" => Some("Intel".to_owned()),
                "AuthenticAMD" => Some("AMD".to_owned()),
                "HygonGenuine" => Some("Hygon".to_owned()),
                _ => None,
            },
            microcode: self.microcode.map(|version| Microcode { version }),
            signature,
            max_phys_addr: bits.map(|_| MaxPhysAddr { mode: PhysAddrMode::Emulate, bits, limit: None }),
            features: further.map(named).collect(),
            ..HostCpu::default()
        }
    }
}

/// Names of all models.
pub(super) fn model_names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|model| model.name)
}

/// How the host's processors are arranged; a host that is not regular is one socket with all of them as cores.
pub(super) fn topology(processors: &[Processor]) -> Topology {
    let online: Vec<&Processor> = processors.iter().filter(|processor| processor.online).collect();
    let distinct = |place: fn(&Processor) -> (u32, u32, u32)| {
        let places: BTreeSet<_> = online.iter().map(|processor| place(processor)).collect();
        places.len().max(1)
    };
    let sockets = distinct(|one| (one.socket, 0, 0));
    let dies = distinct(|one| (one.socket, one.die, 0));
    let cores = distinct(|one| (one.socket, one.die, one.core));
    let all = online.len().max(1);
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let regular = dies.is_multiple_of(sockets) && cores.is_multiple_of(dies) && all.is_multiple_of(cores);
    let (sockets, dies, cores, threads) =
        if regular { (sockets, dies / sockets, cores / dies, all / cores) } else { (1, 1, all, 1) };
    Topology {
        sockets: number(sockets),
        dies: number(dies),
        clusters: 1,
        cores: number(cores),
        threads: number(threads),
    }
}

/// A size of pages that the host has.
pub(super) fn page_size(pool: &PagePool) -> PageSizes {
    PageSizes { unit: "KiB".to_owned(), size: pool.kib.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(vendor: &str, flags: &str) -> HostCpu {
        let text = format!(
            "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 6\nmodel\t\t: 85\nstepping\t: 7\nmicrocode\t: 0x1f\n\
             flags\t\t: {flags}\naddress sizes\t: 46 bits physical, 48 bits virtual\n\nprocessor\t: 1\nmodel\t: 1\n"
        );
        HostProcessor::read(&text).describe()
    }

    const WESTMERE: &str = "lm nx syscall cx16 lahf_lm popcnt ssse3 sse4_1 sse4_2 aes";

    #[test]
    fn the_model_is_the_newest_that_the_host_has_all_flags_of() {
        assert_eq!(processor("GenuineIntel", WESTMERE).model.as_deref(), Some("Westmere"));
        let gap = format!("{WESTMERE} avx2 bmi1");
        assert_eq!(processor("GenuineIntel", &gap).model.as_deref(), Some("Westmere"));
        assert_eq!(processor("AuthenticAMD", WESTMERE).model, None);
        assert_eq!(processor("Unheard", WESTMERE).vendor, None);
    }

    #[test]
    fn flags_beyond_the_model_have_libvirts_names() {
        let cpu = processor("GenuineIntel", &format!("{WESTMERE} sha_ni avx2 arat"));
        let names: Vec<&str> = cpu.features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, ["arat", "avx2", "sha-ni"]);
    }

    #[test]
    fn numbers_are_those_of_the_first_processor() {
        let cpu = processor("GenuineIntel", "lm");
        let signature = cpu.signature.unwrap();
        assert_eq!((signature.family, signature.model, signature.stepping), (6, 85, Some(7)));
        assert_eq!(cpu.microcode.unwrap().version, 31);
        assert_eq!(cpu.max_phys_addr.unwrap().bits, Some(46));
    }
}
