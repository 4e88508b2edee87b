//! The shape of the emulated host: what the user asks for, as arguments for QEMU, and as the key under which a snapshot of such
//! a machine is kept. Pure data; nothing here touches the system.
//!
//! The board is as bare as it can be, because every device that the firmware or the kernel looks at costs time under an
//! emulated CPU: no firmware at all (PVH start of an ELF kernel), no disks, no VGA, no USB, no HPET.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cache::fingerprint;
use crate::error::LabError;

/// So many directories can be shared for writing; the slots exist in every machine, so that snapshots do not depend on them.
pub const SHARES: usize = 4;

const MACHINE: &str = "q35,hpet=off,vmport=off,smbus=off,sata=off,usb=off,graphics=off";
const KERNEL: &str = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check \
    random.trust_cpu=on audit=0 apparmor=0 selinux=0 nowatchdog rcupdate.rcu_expedited=1 cryptomgr.notests \
    raid6_pq.disable=1 kvm.halt_poll_ns=0 kvm.ignore_msrs=1 kvm.report_ignored_msrs=0 \
    vfio_iommu_type1.allow_unsafe_interrupts=1";
/// QEMU's cache of translated code, in MiB.
const TRANSLATION_CACHE: u32 = 512;
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 512..=1024 * 1024;
const CPUS: std::ops::RangeInclusive<u32> = 1..=64;

/// An IOMMU in the emulated host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iommu {
    /// Intel VT-d. The one that works with snapshots and pass-through.
    Intel,
    /// AMD-Vi. QEMU can't save it, so every start is a cold one.
    Amd,
}

impl FromStr for Iommu {
    type Err = String;

    fn from_str(name: &str) -> Result<Iommu, String> {
        match name {
            "intel" => Ok(Iommu::Intel),
            "amd" => Ok(Iommu::Amd),
            other => Err(format!("no such IOMMU: {other} (known: intel, amd)")),
        }
    }
}

/// What the emulated host is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// CPUs. One is the reliable number: with two QEMU's emulation of nested paging crashed the emulated host in about one
    /// of ten guest starts.
    pub cpus: u32,
    /// QEMU's name of the CPU model, with its options.
    pub cpu_model: String,
    /// Two NUMA nodes at distance 20 with half of the memory and CPUs each.
    pub numa: bool,
    /// An IOMMU.
    pub iommu: Option<Iommu>,
    /// A network card (igb) with SR-IOV, up to 7 virtual functions. Wants an IOMMU: Intel's, if none is named.
    pub sriov: bool,
    /// An NVMe disk of 64 MiB that reads as zeroes, to be passed through.
    pub nvme: bool,
    /// More kernel parameters.
    pub kernel_parameters: String,
    /// More arguments for QEMU.
    pub qemu_arguments: Vec<String>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            memory_mib: 4096,
            cpus: 1,
            // Four-level page tables: one level less to walk for every nested translation.
            cpu_model: "max,-la57".to_owned(),
            numa: false,
            iommu: None,
            sriov: false,
            nvme: false,
            kernel_parameters: String::new(),
            qemu_arguments: Vec::new(),
        }
    }
}

/// Where the emulated host's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory<'a> {
    /// Nowhere but in QEMU.
    Anonymous,
    /// In files of this folder, to become a snapshot.
    Saved(&'a Path),
    /// Copied on write from the files of this folder.
    CopyOf(&'a Path),
}

/// The files that the arguments name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// The shared directories, at most [`SHARES`].
    pub(crate) shares: &'a [PathBuf],
    /// An empty folder for the slots of shared directories that are not used.
    pub(crate) empty: &'a Path,
}

/// `text` with the file `path` at its end, as the value of a QEMU option, in which a comma is written twice.
pub(crate) fn option_with_path(text: &str, path: &Path) -> OsString {
    let mut bytes = text.as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

impl Shape {
    /// # Errors
    /// [`LabError::Shape`], when no such machine can be.
    pub fn check(&self) -> Result<(), LabError> {
        let wrong = |what: String| Err(LabError::Shape(what));
        if !MEMORY_MIB.contains(&self.memory_mib) {
            return wrong(format!(
                "{} MiB of memory: it has to be {} to {}",
                self.memory_mib,
                MEMORY_MIB.start(),
                MEMORY_MIB.end()
            ));
        }
        if !CPUS.contains(&self.cpus) {
            return wrong(format!("{} CPUs: there have to be {} to {}", self.cpus, CPUS.start(), CPUS.end()));
        }
        Ok(())
    }

    /// # Errors
    /// [`LabError::Shape`], when so many huge pages of 2 MiB and 1 GiB leave the machine no memory to run.
    pub fn check_huge_pages(&self, pages_2m: u32, pages_1g: u32) -> Result<(), LabError> {
        let huge = u64::from(pages_2m) * 2 + u64::from(pages_1g) * 1024;
        if huge + u64::from(*MEMORY_MIB.start()) > u64::from(self.memory_mib) && huge > 0 {
            return Err(LabError::Shape(format!(
                "{huge} MiB of huge pages leave less than {} MiB of the memory: give --mem {} or more",
                MEMORY_MIB.start(),
                huge + u64::from(*MEMORY_MIB.start())
            )));
        }
        Ok(())
    }

    /// Whether QEMU can save such a machine: not with its models of an NVMe disk and of AMD's IOMMU.
    #[must_use]
    pub fn can_be_saved(&self) -> bool {
        !self.nvme && self.iommu != Some(Iommu::Amd)
    }

    fn iommu(&self) -> Option<Iommu> {
        self.iommu.or(self.sriov.then_some(Iommu::Intel))
    }

    /// The kernel's command line.
    pub(crate) fn kernel_command_line(&self) -> String {
        let mut line = KERNEL.to_owned();
        match self.iommu() {
            Some(Iommu::Intel) => line.push_str(" intel_iommu=on iommu=pt"),
            Some(Iommu::Amd) => line.push_str(" amd_iommu=on iommu=pt"),
            None => {}
        }
        if !self.kernel_parameters.is_empty() {
            line.push(' ');
            line.push_str(&self.kernel_parameters);
        }
        line
    }

    /// QEMU's arguments, but for ports, console, monitor and the kernel command line.
    pub(crate) fn arguments(&self, files: &Files<'_>, memory: Memory<'_>) -> Vec<OsString> {
        let mut arguments = Arguments(Vec::new());
        arguments.add([
            "-name",
            "vireo-lab",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        arguments.add(["-accel", &format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE}")]);
        let sockets = if self.numa && self.cpus.is_multiple_of(2) { 2 } else { 1 };
        arguments.add(["-cpu", &self.cpu_model, "-smp", &format!("{},sockets={sockets}", self.cpus)]);
        arguments.add(["-m", &self.memory_mib.to_string()]);
        arguments.add([OsStr::new("-kernel"), files.kernel.as_os_str()]);
        arguments.add([OsStr::new("-initrd"), files.initramfs.as_os_str()]);
        let mut machine = MACHINE.to_owned();
        match self.iommu() {
            Some(Iommu::Intel) => {
                machine.push_str(",kernel-irqchip=split");
                arguments.device("intel-iommu,intremap=on,caching-mode=off,aw-bits=48");
            }
            Some(Iommu::Amd) => arguments.device("amd-iommu,intremap=on,xtsup=on"),
            None => {}
        }
        if self.numa {
            self.numa_nodes(&mut arguments, memory);
        } else {
            arguments.memory(0, self.memory_mib, memory);
            machine.push_str(",memory-backend=m0");
        }
        arguments.add(["-machine", &machine]);
        arguments.device("virtio-serial-pci,id=ports,romfile=");
        arguments.share("host", Path::new("/"), ",readonly=on");
        for index in 0..SHARES {
            let path = files.shares.get(index).map_or(files.empty, PathBuf::as_path);
            arguments.share(&format!("rw{index}"), path, "");
        }
        if self.sriov {
            arguments.device("pcie-root-port,id=port0,chassis=1");
            arguments.add(["-netdev", "hubport,id=net0,hubid=0"]);
            arguments.device("igb,bus=port0,netdev=net0,mac=52:54:00:aa:00:01,romfile=");
        }
        if self.nvme {
            arguments.device("pcie-root-port,id=port1,chassis=2");
            arguments.add(["-blockdev", "null-co,node-name=disk0,size=67108864,read-zeroes=on"]);
            arguments.device("nvme,bus=port1,drive=disk0,serial=vireo-lab");
        }
        arguments.add(&self.qemu_arguments);
        arguments.0
    }

    fn numa_nodes(&self, arguments: &mut Arguments, memory: Memory<'_>) {
        let (half, half_cpus) = (self.memory_mib / 2, self.cpus / 2);
        let nodes = [(0, half, 0..half_cpus), (1, self.memory_mib - half, half_cpus..self.cpus)];
        for (node, size, cpus) in nodes {
            arguments.memory(node, size, memory);
            let mut option = format!("node,nodeid={node},memdev=m{node}");
            if !cpus.is_empty() {
                option.push_str(&format!(",cpus={}-{}", cpus.start, cpus.end - 1));
            }
            arguments.add(["-numa", &option]);
        }
        arguments.add(["-numa", "dist,src=0,dst=1,val=20"]);
    }

    /// The name of the snapshot of such a machine. `files` describes the kernel, the initramfs and QEMU, so that the name
    /// changes with them.
    pub(crate) fn snapshot_key(&self, files: &str) -> String {
        let placeholder = Files {
            kernel: Path::new("kernel"),
            initramfs: Path::new("initramfs"),
            shares: &[],
            empty: Path::new("empty"),
        };
        let arguments = self.arguments(&placeholder, Memory::Anonymous);
        let command_line = self.kernel_command_line();
        let mut parts: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        parts.extend([command_line.as_bytes(), files.as_bytes()]);
        let mut key = fingerprint(parts);
        key.truncate(16);
        key
    }
}

/// Arguments in the making.
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add<T: Into<OsString>>(&mut self, arguments: impl IntoIterator<Item = T>) {
        self.0.extend(arguments.into_iter().map(Into::into));
    }

    fn device(&mut self, device: &str) {
        self.add(["-device", device]);
    }

    fn memory(&mut self, node: u32, size_mib: u32, memory: Memory<'_>) {
        let (kind, file) = match memory {
            Memory::Anonymous => ("ram", None),
            Memory::Saved(folder) => ("file", Some((folder, "on"))),
            Memory::CopyOf(folder) => ("file", Some((folder, "off"))),
        };
        let mut option = OsString::from(format!("memory-backend-{kind},id=m{node},size={size_mib}M"));
        if let Some((folder, share)) = file {
            option.push(option_with_path(
                &format!(",share={share},mem-path="),
                &folder.join(format!("m{node}")),
            ));
        }
        self.add([OsString::from("-object"), option]);
    }

    /// A file system that the machine mounts by `tag`.
    fn share(&mut self, tag: &str, path: &Path, options: &str) {
        self.device(&format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
        // A directory may have other file systems below it, whose inode numbers would be mistaken for its own.
        let text = format!("local,id={tag},security_model=none,multidevs=remap{options},path=");
        self.add([OsString::from("-fsdev"), option_with_path(&text, path)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shape: &Shape, memory: Memory<'_>) -> String {
        let files = Files {
            kernel: Path::new("/c/vmlinux"),
            initramfs: Path::new("/c/host.cpio"),
            shares: &[PathBuf::from("/out,1")],
            empty: Path::new("/run/empty"),
        };
        let arguments = shape.arguments(&files, memory);
        let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn a_plain_machine_has_one_memory_and_all_share_slots() {
        let text = text(&Shape::default(), Memory::Anonymous);
        assert!(text.contains("-cpu max,-la57 -smp 1,sockets=1 -m 4096"), "{text}");
        assert!(text.contains("-object memory-backend-ram,id=m0,size=4096M "), "{text}");
        assert!(text.contains("graphics=off,memory-backend=m0"), "{text}");
        assert!(text.contains("id=host,security_model=none,multidevs=remap,readonly=on,path=/ "), "{text}");
        assert!(
            text.contains("id=rw0,security_model=none,multidevs=remap,path=/out,,1 "),
            "a comma is doubled: {text}"
        );
        assert!(text.contains("id=rw3,security_model=none,multidevs=remap,path=/run/empty"), "{text}");
        assert!(!text.contains("iommu") && !text.contains("igb") && !text.contains("nvme"), "{text}");
    }

    #[test]
    fn numa_splits_memory_and_cpus() {
        let shape = Shape { numa: true, cpus: 3, memory_mib: 2049, ..Shape::default() };
        let text = text(&shape, Memory::Saved(Path::new("/s")));
        assert!(text.contains("memory-backend-file,id=m0,size=1024M,share=on,mem-path=/s/m0 "), "{text}");
        assert!(text.contains("memory-backend-file,id=m1,size=1025M,share=on,mem-path=/s/m1 "), "{text}");
        assert!(text.contains("node,nodeid=0,memdev=m0,cpus=0-0 "), "{text}");
        assert!(text.contains("node,nodeid=1,memdev=m1,cpus=1-2 "), "{text}");
        assert!(!text.contains("memory-backend=m0"), "{text}");
        let one = Shape { numa: true, ..Shape::default() };
        let text = super::tests::text(&one, Memory::Anonymous);
        assert!(text.contains("node,nodeid=0,memdev=m0 "), "one CPU leaves a node without any: {text}");
    }

    #[test]
    fn sriov_brings_an_iommu_of_its_own() {
        let shape = Shape { sriov: true, ..Shape::default() };
        let words = text(&shape, Memory::Anonymous);
        assert!(words.contains("kernel-irqchip=split") && words.contains("-device intel-iommu"), "{words}");
        assert!(shape.kernel_command_line().ends_with("intel_iommu=on iommu=pt"));
        let amd = Shape { iommu: Some(Iommu::Amd), kernel_parameters: "debug".to_owned(), ..shape };
        assert!(text(&amd, Memory::Anonymous).contains("-device amd-iommu"));
        assert!(amd.kernel_command_line().ends_with("amd_iommu=on iommu=pt debug"));
    }

    #[test]
    fn every_property_changes_the_snapshot_key() {
        let plain = Shape::default();
        let shapes = [
            Shape { memory_mib: 2048, ..plain.clone() },
            Shape { cpus: 2, ..plain.clone() },
            Shape { cpu_model: "EPYC".to_owned(), ..plain.clone() },
            Shape { numa: true, ..plain.clone() },
            Shape { iommu: Some(Iommu::Intel), ..plain.clone() },
            Shape { sriov: true, ..plain.clone() },
            Shape { nvme: true, ..plain.clone() },
            Shape { kernel_parameters: "debug".to_owned(), ..plain.clone() },
            Shape { qemu_arguments: vec!["-s".to_owned()], ..plain.clone() },
        ];
        let mut keys: Vec<_> = shapes.iter().map(|shape| shape.snapshot_key("a")).collect();
        keys.extend([plain.snapshot_key("a"), plain.snapshot_key("b")]);
        assert!(keys.iter().all(|key| key.len() == 16));
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert_eq!(plain.snapshot_key("a"), Shape::default().snapshot_key("a"));
    }

    #[test]
    fn machines_with_devices_that_qemu_cannot_save_start_cold() {
        assert!(Shape { sriov: true, numa: true, ..Shape::default() }.can_be_saved());
        assert!(!Shape { nvme: true, ..Shape::default() }.can_be_saved());
        assert!(!Shape { iommu: Some(Iommu::Amd), ..Shape::default() }.can_be_saved());
    }

    #[test]
    fn impossible_machines_are_refused() {
        assert!(Shape::default().check().is_ok());
        assert!(Shape { memory_mib: 64, ..Shape::default() }.check().is_err());
        assert!(Shape { cpus: 0, ..Shape::default() }.check().is_err());
        assert!(Shape::default().check_huge_pages(1024, 1).is_ok());
        let error = Shape::default().check_huge_pages(0, 4).unwrap_err().to_string();
        assert!(error.contains("--mem 4608"), "{error}");
        assert!(Shape::default().check_huge_pages(u32::MAX, u32::MAX).is_err());
    }
}
