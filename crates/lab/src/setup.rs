//! Prepares the cache: programs from packages, the emulated host's kernel and initramfs, and on request a Debian root file
//! system for guests. Every step looks first whether it is done, so setting up again costs little.

use std::path::Path;
use std::process::Stdio;

use crate::cache::{Lock, fingerprint};
use crate::command;
use crate::debian::{Apt, Suite, is_root};
use crate::error::LabError;
use crate::guest::Guest;
use crate::initramfs::{Busybox, Initramfs};
use crate::kernel::{HOST_CORE, Kernel, Kind};
use crate::{Context, INSIDE};

const HOST_INIT: &str = include_str!("../../../lab/host-init");
const JOB_INIT: &str = include_str!("../../../lab/job-init");
const CR8TRAP_SOURCE: &str = include_str!("../../../lab/cr8trap.c");
/// The emulated host's initramfs, in the cache.
pub(crate) const HOST_IMAGE: &str = "host.cpio";
/// Held by a run that wants to be the only one.
pub(crate) const RUN_LOCK: &str = ".run.lock";
const CR8TRAP: &str = "cr8trap.ko";
/// The oldest QEMU that can migrate to a file.
const QEMU_VERSION: (u32, u32) = (8, 2);

/// A program, and the package and suite that have it.
struct Program {
    name: &'static str,
    package: &'static str,
    suite: Suite,
}

const QEMU: Program =
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86", suite: Suite::Newest };
const PROGRAMS: [Program; 6] = [
    Program { name: "busybox", package: "busybox-static", suite: Suite::Release },
    Program { name: "modprobe", package: "kmod", suite: Suite::Release },
    Program { name: "xz", package: "xz-utils", suite: Suite::Release },
    Program { name: "zstd", package: "zstd", suite: Suite::Release },
    Program { name: "lz4", package: "lz4", suite: Suite::Release },
    Program { name: "gzip", package: "gzip", suite: Suite::Release },
];

/// Prepares everything: the emulated host and all guests.
///
/// # Errors
/// When packages are missing and this process is not root, or a step fails; what is done stays done.
pub fn prepare_all(context: &Context) -> Result<(), LabError> {
    {
        let _lock = lock(context)?;
        qemu(context)?;
        host(context)?;
    }
    for kind in Kind::ALL {
        Guest::prepare_in(context, kind)?;
    }
    context.report.say(format_args!("ready in {}", context.cache.root().display()));
    Ok(())
}

/// What the emulated host's image is made from, as far as this program decides it.
fn host_fingerprint(kernel: &Kernel) -> String {
    let texts = [HOST_INIT, JOB_INIT, CR8TRAP_SOURCE, &kernel.version];
    fingerprint(texts.iter().chain(HOST_CORE).map(|text| text.as_bytes()))
}

/// Whether a run needs no setup first.
#[must_use]
pub fn is_ready(context: &Context) -> bool {
    current_host(context).is_some() && command::find(QEMU.name.as_ref()).is_some()
}

/// The kernel of the emulated host, everything else for it being there too; prepared if need be.
pub(crate) fn ready_host(context: &Context) -> Result<Kernel, LabError> {
    if let Some(kernel) = current_host(context) {
        if command::find(QEMU.name.as_ref()).is_none() {
            let _lock = lock(context)?;
            qemu(context)?;
        }
        Ok(kernel)
    } else {
        let _lock = lock(context)?;
        qemu(context)?;
        host(context)
    }
}

fn current_host(context: &Context) -> Option<Kernel> {
    let kernel = Kernel::cached(context, Kind::Full)?;
    context.cache.is_current(HOST_IMAGE, &host_fingerprint(&kernel)).then_some(kernel)
}

/// Creates the cache folder if need be, and keeps other setups out.
pub(crate) fn lock(context: &Context) -> Result<Lock, LabError> {
    if std::env::var_os(INSIDE).is_some() {
        return Err(LabError::InsideLab("the lab".to_owned()));
    }
    let root = context.cache.root();
    std::fs::create_dir_all(root).map_err(LabError::file("creating", root))?;
    let lock = context.cache.lock(".setup.lock", "another setup", &context.report, &context.interrupt)?;
    context.cache.clean()?;
    // For users who can't create it in somebody else's cache.
    context.cache.lock_file(RUN_LOCK)?;
    Ok(lock)
}

/// Installs what unpacking kernels and packing images needs.
pub(crate) fn programs(context: &Context) -> Result<(), LabError> {
    let is_there = |program: &Program| match program.name {
        "busybox" => Busybox::find().is_ok(),
        name => command::find(name.as_ref()).is_some(),
    };
    let missing: Vec<&Program> = PROGRAMS.iter().filter(|program| !is_there(program)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    Apt::system(context)?.install(&packages, first.suite, first.name)
}

fn qemu(context: &Context) -> Result<(), LabError> {
    if command::find(QEMU.name.as_ref()).is_some() {
        let mut command = command::tool(QEMU.name, QEMU.package)?;
        let output = command::check(command.arg("--version"), &context.interrupt)?;
        if version(&String::from_utf8_lossy(&output)).is_some_and(|version| version >= QEMU_VERSION) {
            return Ok(());
        }
        context
            .report
            .say(format_args!("the installed QEMU is older than {}.{}", QEMU_VERSION.0, QEMU_VERSION.1));
    }
    Apt::system(context)?.install(&[QEMU.package], QEMU.suite, QEMU.name)
}

/// Major and minor version in the output of `qemu-system-x86_64 --version`.
fn version(output: &str) -> Option<(u32, u32)> {
    let version = output.split("version ").nth(1)?;
    let mut numbers = version.split(|other: char| !other.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes the emulated host's initramfs. With the setup lock held.
fn host(context: &Context) -> Result<Kernel, LabError> {
    programs(context)?;
    let kernel = Kernel::prepare(context, Kind::Full)?;
    let trap_is_new = cr8trap(context, &kernel)?;
    if !trap_is_new && current_host(context).is_some() {
        return Ok(kernel);
    }
    context.report.say("making the emulated host's initramfs");
    let mut image = Initramfs::start(&Busybox::find()?, HOST_INIT, &[], &context.interrupt)?;
    image.file("job-init", JOB_INIT.as_bytes())?;
    let mut files = kernel.modules().resolve(HOST_CORE, &context.interrupt)?;
    files.extend(Some(context.cache.path(CR8TRAP)).filter(|path| path.exists()));
    for (index, file) in files.iter().enumerate() {
        // The shell inserts them in alphabetical order.
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        image.copy(file, &format!("lib/modules/{:03}-{name}", index + 1))?;
    }
    let making = context.cache.making()?;
    let file = making.path().join(HOST_IMAGE);
    image.write(&file)?;
    context.cache.install(&file, HOST_IMAGE, &host_fingerprint(&kernel))?;
    Ok(kernel)
}

/// Builds the kernel module cr8trap with the kernel's headers; returns whether there is a new one. Without it only guests
/// that write CR8 are in danger, so it may be missing.
fn cr8trap(context: &Context, kernel: &Kernel) -> Result<bool, LabError> {
    let wanted = fingerprint([CR8TRAP_SOURCE.as_bytes(), kernel.version.as_bytes()]);
    if context.cache.is_current(CR8TRAP, &wanted) {
        return Ok(false);
    }
    let headers = format!("linux-headers-{}", kernel.version);
    let apt = Apt::system(context)?;
    let missing = apt.missing(&[&headers, "make", "gcc"])?;
    let without = "guests with UEFI firmware or Windows may stop the emulated host";
    if !missing.is_empty() {
        if !is_root() {
            let names = missing.join(" ");
            context.report.say(format_args!("cr8trap is not built ({names} not installed): {without}"));
            return Ok(false);
        }
        apt.install(&missing, Suite::Newest, &headers)?;
    }
    context.report.say("building cr8trap.ko");
    let making = context.cache.making()?;
    let write = |name: &str, text: &str| {
        let path = making.path().join(name);
        std::fs::write(&path, text).map_err(LabError::file("writing", &path))
    };
    write("cr8trap.c", CR8TRAP_SOURCE)?;
    write("Makefile", "obj-m := cr8trap.o\n")?;
    let mut make = command::tool("make", "make")?;
    make.arg("-C").arg(Path::new("/usr/src").join(&headers));
    let mut folder = std::ffi::OsString::from("M=");
    folder.push(making.path());
    // The headers' package has no vmlinux to take type information from.
    make.arg(folder).args(["modules", "PAHOLE=true", "RESOLVE_BTFIDS=true"]).stdin(Stdio::null());
    let finished = command::run(&mut make, &context.interrupt)?;
    if !finished.status.success() {
        context.report.say(format_args!("cr8trap can't be built: {without}: {}", finished.failure()));
        return Ok(false);
    }
    context.cache.install(&making.path().join(CR8TRAP), CR8TRAP, &wanted)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_qemu_is_understood() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c)";
        assert_eq!(version(debian), Some((10, 0)));
        assert!(version("QEMU emulator version 7.2.17").is_some_and(|version| version < QEMU_VERSION));
        assert_eq!(version("qemu"), None);
    }
}
