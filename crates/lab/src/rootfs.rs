//! A Debian root file system for guests, as a raw image and as qcow2: systemd, network and disk tools, root without password.

use std::path::Path;

use crate::Context;
use crate::cache::fingerprint;
use crate::command;
use crate::debian::{Apt, Suite, is_root};
use crate::error::LabError;
use crate::kernel::{GUEST_LOADED, GUEST_MORE, Kernel, Kind};
use crate::modules::Modules;
use crate::setup;

/// The release in the image, whatever runs outside.
const RELEASE: &str = "bookworm";
const PACKAGES: &str = "systemd-sysv,udev,iproute2,iputils-ping,fio,iperf3,kmod,ethtool,pciutils,procps,socat,login,\
    libpam-systemd,dbus";
const SIZE: u64 = 1500 << 20;
const RAW: &str = "rootfs.ext4";
const QCOW2: &str = "rootfs.qcow2";
/// Units that only cost time in a guest that lives for a test.
const MASKED: [&str; 8] = [
    "e2scrub_reap.service",
    "systemd-update-utmp.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-hwdb-update.service",
];
const GETTY: &str = "[Service]\nExecStart=\nExecStart=-/sbin/agetty --keep-baud 115200 %I $TERM\n";

/// Makes `rootfs.ext4` and `rootfs.qcow2` in the cache, with the modules of all kernels in the cache.
///
/// # Errors
/// When a tool is missing or fails, or this process is not root, which unpacking packages as their owners needs.
pub fn prepare(context: &Context) -> Result<(), LabError> {
    let kernels: Vec<Kernel> = Kind::ALL.iter().filter_map(|kind| Kernel::cached(context, *kind)).collect();
    let texts = kernels.iter().map(|kernel| kernel.version.as_str()).chain([RELEASE, PACKAGES, GETTY]);
    let wanted = fingerprint(texts.chain(MASKED).map(str::as_bytes));
    if context.cache.is_current(RAW, &wanted) && context.cache.is_current(QCOW2, &wanted) {
        return Ok(());
    }
    let _lock = setup::lock(context)?;
    let apt = Apt::system(context)?;
    let missing = apt.missing(&["mmdebstrap", "e2fsprogs"])?;
    if !missing.is_empty() {
        apt.install(&missing, Suite::Release, "mmdebstrap")?;
    }
    if !apt.missing(&["qemu-utils"])?.is_empty() {
        apt.install(&["qemu-utils"], Suite::Newest, "qemu-img")?;
    }
    if !is_root() {
        return Err(LabError::Shape("a root file system can be made by root only".to_owned()));
    }
    context.report.say("making the Debian root file system (about a minute)");
    let making = context.cache.making()?;
    let tree = making.path().join("tree");
    let mut command = command::tool("mmdebstrap", "mmdebstrap")?;
    command.args(["--variant=minbase", "--mode=root", "--aptopt=Apt::Install-Recommends \"false\""]);
    command.arg(format!("--include={PACKAGES}")).arg(RELEASE).arg(&tree).arg(apt.archive());
    command::check(&mut command, &context.interrupt)?;
    for kernel in &kernels {
        modules(context, kernel, &tree)?;
    }
    configure(&tree)?;
    let (raw, qcow2) = (making.path().join(RAW), making.path().join(QCOW2));
    image(context, &tree, &raw)?;
    let mut convert = command::tool("qemu-img", "qemu-utils")?;
    command::check(convert.args(["convert", "-O", "qcow2"]).arg(&raw).arg(&qcow2), &context.interrupt)?;
    context.cache.install(&raw, RAW, &wanted)?;
    context.cache.install(&qcow2, QCOW2, &wanted)
}

fn modules(context: &Context, kernel: &Kernel, tree: &Path) -> Result<(), LabError> {
    let copy = |from: &Path| {
        let to = tree.join(from.strip_prefix(&kernel.folder).unwrap_or(from));
        let folder = to.parent().unwrap_or(tree);
        std::fs::create_dir_all(folder).map_err(LabError::file("creating", folder))?;
        std::fs::copy(from, &to).map(drop).map_err(LabError::file("copying", from))
    };
    for file in kernel.modules().resolve(&[GUEST_LOADED, GUEST_MORE].concat(), &context.interrupt)? {
        copy(&file)?;
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        copy(&kernel.folder.join(format!("lib/modules/{}/{name}", kernel.version)))?;
    }
    Modules { folder: tree, version: &kernel.version }.index(&context.interrupt)
}

fn configure(tree: &Path) -> Result<(), LabError> {
    let write = |name: &str, text: &str| {
        let path = tree.join(name);
        let folder = path.parent().unwrap_or(tree);
        std::fs::create_dir_all(folder).map_err(LabError::file("creating", folder))?;
        std::fs::write(&path, text).map_err(LabError::file("writing", &path))
    };
    let shadow = tree.join("etc/shadow");
    let text = std::fs::read_to_string(&shadow).map_err(LabError::file("reading", &shadow))?;
    write("etc/shadow", &without_password(&text))?;
    write("etc/hostname", "vireo-guest\n")?;
    write("etc/fstab", "/dev/vda / ext4 defaults,noatime 0 0\n")?;
    write("etc/systemd/system/serial-getty@.service.d/terminal.conf", GETTY)?;
    for unit in MASKED {
        let link = tree.join("etc/systemd/system").join(unit);
        std::os::unix::fs::symlink("/dev/null", &link).map_err(LabError::file("creating", &link))?;
    }
    for name in ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists"] {
        crate::cache::remove(&tree.join(name))?;
    }
    Ok(())
}

/// `shadow` with an empty password for root (shadow(5)).
fn without_password(shadow: &str) -> String {
    let line = |line: &str| match line.strip_prefix("root:").and_then(|rest| rest.split_once(':')) {
        Some((_, rest)) => format!("root::{rest}\n"),
        None => format!("{line}\n"),
    };
    shadow.lines().map(line).collect()
}

fn image(context: &Context, tree: &Path, raw: &Path) -> Result<(), LabError> {
    let file = std::fs::File::create(raw).map_err(LabError::file("creating", raw))?;
    file.set_len(SIZE).map_err(LabError::file("growing", raw))?;
    let mut command = command::tool("mke2fs", "e2fsprogs")?;
    // No checksums of metadata: they cost much under an emulated CPU.
    command.args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum,^64bit", "-L", "root", "-d"]);
    command::check(command.arg(tree).arg(raw), &context.interrupt).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_nobody_else_loses_the_password() {
        let shadow = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
        let wanted = "root::19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
        assert_eq!(without_password(shadow), wanted);
    }
}
