//! The kernels: Debian's packages, downloaded and unpacked but not installed, with what is used of them made quick to load.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Context;
use crate::cache::{fingerprint, remove};
use crate::command;
use crate::debian::{Apt, Release};
use crate::error::LabError;
use crate::modules::Modules;
use crate::vmlinux;

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Linux 6.12 for clouds: fewer drivers.
    C612,
    /// Linux 6.1 for clouds.
    C61,
    /// Linux 6.12 for every machine; the emulated host runs it too.
    Full,
}

/// The modules that the emulated host loads while it starts. The order is that of their use.
pub(crate) const HOST_CORE: &[&str] = &[
    "irqbypass",
    "kvm",
    "kvm_amd",
    "tun",
    "tap",
    "macvtap",
    "bridge",
    "vhost_net",
    "vhost_vsock",
    "vsock_loopback",
    "vfio_pci",
    "vfio_iommu_type1",
    "igb",
    "igbvf",
    "virtio_blk",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "overlay",
    "loop",
    "crc32c_generic",
    "crc32c_intel",
    "qemu_fw_cfg",
];

/// The modules that jobs in the emulated host may load, so they are unpacked as well.
const HOST_MORE: &[&str] = &[
    "nft_masq",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_compat",
    "nft_reject_inet",
    "nft_fib_inet",
    "nft_log",
    "nft_limit",
    "nft_redir",
    "nft_flow_offload",
    "nft_tproxy",
    "nft_socket",
    "nft_queue",
    "nf_conntrack",
    "nf_nat_tftp",
    "xt_MASQUERADE",
    "xt_conntrack",
    "xt_tcpudp",
    "xt_comment",
    "xt_addrtype",
    "ip_tables",
    "iptable_nat",
    "iptable_filter",
    "ip6_tables",
    "br_netfilter",
    "veth",
    "macvlan",
    "ipvlan",
    "vxlan",
    "dummy",
    "ifb",
    "8021q",
    "sch_tbf",
    "sch_htb",
    "sch_ingress",
    "sch_netem",
    "sch_fq_codel",
    "sch_prio",
    "cls_u32",
    "cls_matchall",
    "cls_flower",
    "cls_bpf",
    "act_mirred",
    "act_police",
    "act_bpf",
    "nbd",
    "ext4",
    "xfs",
    "btrfs",
    "vfat",
    "isofs",
    "squashfs",
    "erofs",
    "fuse",
    "virtiofs",
    "dm_mod",
    "dm_thin_pool",
    "dm_snapshot",
    "dm_crypt",
    "nvme",
    "virtio_scsi",
    "virtio_mmio",
    "virtio_balloon",
    "virtio_iommu",
    "virtio_vdpa",
    "vhost_vdpa",
    "vduse",
    "zram",
    "brd",
    "null_blk",
    "msr",
    "cpuid",
    "nd_pmem",
    "nfit",
    "sctp",
    "wireguard",
    "tcp_bbr",
    "openvswitch",
    "target_core_mod",
    "target_core_file",
    "target_core_iblock",
    "tcm_loop",
    "vhost_scsi",
    "i6300esb",
    "uio_pci_generic",
    "tls",
    "raid1",
    "e1000e",
    "pktgen",
];

/// The modules that a guest loads while it starts, so that devices may be plugged in later; each costs tens of milliseconds.
pub(crate) const GUEST_LOADED: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console", "button", "evdev"];

/// The modules that a guest loads for a device that it finds while it starts, and its kernel when they are asked for.
pub(crate) const GUEST_MORE: &[&str] = &[
    "virtio_mmio",
    "virtio_balloon",
    "virtio_scsi",
    "sd_mod",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "virtio_mem",
    "virtio_pmem",
    "nd_pmem",
    "virtio_iommu",
    "nvme",
    "igbvf",
    "qemu_fw_cfg",
    "pvpanic-pci",
    "pvpanic-mmio",
    "loop",
    "ext4",
    "crc32c_generic",
    "overlay",
    "squashfs",
    "isofs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_iso8859-1",
];

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Holds `lib/modules/VERSION`.
    pub(crate) folder: PathBuf,
    pub(crate) version: String,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::C612, Kind::C61, Kind::Full];

    /// Its short name: `c612`, `c61` or `full`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::C612 => "c612",
            Kind::C61 => "c61",
            Kind::Full => "full",
        }
    }

    fn meta_package(self) -> &'static str {
        match self {
            Kind::C612 | Kind::C61 => "linux-image-cloud-amd64",
            Kind::Full => "linux-image-amd64",
        }
    }

    fn modules(self) -> Vec<&'static str> {
        let host: &[&str] = if self == Kind::Full { &[HOST_CORE, HOST_MORE].concat() } else { &[] };
        [host, GUEST_LOADED, GUEST_MORE].concat()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| format!("no such kernel: {name} (known: c612, c61, full)"))
    }
}

impl Kernel {
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    pub(crate) fn vmlinuz(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub(crate) fn modules(&self) -> Modules<'_> {
        Modules { folder: &self.folder, version: &self.version }
    }

    /// The kernel in the cache, if it is there.
    pub(crate) fn cached(context: &Context, kind: Kind) -> Option<Kernel> {
        let folder = context.cache.path(&format!("kernels/{kind}"));
        let version = std::fs::read_to_string(folder.join("version")).ok()?;
        Some(Kernel { version: version.trim().to_owned(), folder })
    }

    /// The kernel, downloaded and unpacked if need be. With the setup lock held.
    pub(crate) fn prepare(context: &Context, kind: Kind) -> Result<Kernel, LabError> {
        let kernel = match Kernel::cached(context, kind) {
            Some(kernel) => kernel,
            None => {
                download(context, kind)?;
                let missing = || LabError::Image(context.cache.path("kernels"), "a kernel vanished");
                Kernel::cached(context, kind).ok_or_else(missing)?
            }
        };
        // Asked again when the lists have changed.
        let names = kind.modules();
        let stamp = kernel.folder.join("modules.stamp");
        let wanted = fingerprint(names.iter().map(|name| name.as_bytes()));
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(kernel);
        }
        context.report.say(format_args!("unpacking the modules of Linux {}", kernel.version));
        kernel.modules().unpack(&names, &context.interrupt)?;
        std::fs::write(&stamp, wanted).map_err(LabError::file("writing", &stamp))?;
        Ok(kernel)
    }
}

fn download(context: &Context, kind: Kind) -> Result<(), LabError> {
    let making = context.cache.making()?;
    let package = fetch(context, kind, making.path())?;
    let (unpacked, folder) = (making.path().join("package"), making.path().join("kernel"));
    std::fs::create_dir(&folder).map_err(LabError::file("creating", &folder))?;
    let mut dpkg = command::tool("dpkg", "dpkg")?;
    command::check(dpkg.arg("--extract").arg(&package).arg(&unpacked), &context.interrupt)?;
    // Debian 13's packages have everything below /usr.
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| unpacked.join(path));
    let incomplete = || LabError::Image(package.clone(), "not a kernel package");
    let modules = modules.into_iter().find(|path| path.is_dir()).ok_or_else(incomplete)?;
    let version = std::fs::read_dir(&modules).map_err(LabError::file("reading", &modules))?.flatten().next();
    let version = version.and_then(|entry| entry.file_name().into_string().ok()).ok_or_else(incomplete)?;
    let moves = [
        (unpacked.join(format!("boot/vmlinuz-{version}")), folder.join("vmlinuz")),
        (unpacked.join(format!("boot/config-{version}")), folder.join("config")),
        (modules, folder.join("lib/modules")),
    ];
    let library = folder.join("lib");
    std::fs::create_dir(&library).map_err(LabError::file("creating", &library))?;
    for (from, to) in moves {
        std::fs::rename(&from, &to).map_err(LabError::file("renaming", &from))?;
    }
    vmlinux::extract(&folder.join("vmlinuz"), &folder.join("vmlinux"), &context.interrupt)?;
    let file = folder.join("version");
    std::fs::write(&file, &version).map_err(LabError::file("writing", &file))?;
    let to = context.cache.path(&format!("kernels/{kind}"));
    remove(&to)?;
    let kernels = context.cache.path("kernels");
    std::fs::create_dir_all(&kernels).map_err(LabError::file("creating", &kernels))?;
    std::fs::rename(&folder, &to).map_err(LabError::file("renaming", &folder))
}

/// Downloads the package of `kind` to a folder of its own in `making`.
fn fetch(context: &Context, kind: Kind, making: &Path) -> Result<PathBuf, LabError> {
    if std::env::var_os(crate::INSIDE).is_some() {
        return Err(LabError::InsideLab(format!("the kernel {kind}")));
    }
    let apt = Apt::system(context)?;
    apt.prepare_sources()?;
    let newest = apt.release().newest_suite();
    let (apt, suites) = match (kind, apt.release()) {
        (Kind::C612 | Kind::Full, _) => (apt, vec![newest]),
        (Kind::C61, Release::Bookworm) => (apt, vec!["bookworm-security", "bookworm"]),
        (Kind::C61, Release::Trixie) => (apt.private(&making.join("apt"), "bookworm")?, vec!["bookworm"]),
    };
    let folder = making.join("download");
    std::fs::create_dir(&folder).map_err(LabError::file("creating", &folder))?;
    for suite in &suites {
        if let Some(package) = apt.kernel_package(suite, kind.meta_package())? {
            context.report.say(format_args!("downloading {package} ({suite})"));
            return apt.download(&package, suite, &folder);
        }
    }
    Err(LabError::NoKernel { package: kind.meta_package(), suites: suites.join(", ") })
}
