//! The guests that tests, benchmarks and the demo boot: a stock Debian kernel and an initramfs with busybox and that kernel's
//! virtio drivers. What the initramfs does is written at the top of `lab/guest-init`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::fingerprint;
use crate::error::LabError;
use crate::initramfs::{Busybox, Initramfs};
use crate::kernel::{GUEST_LOADED, GUEST_MORE, Kernel, Kind};
use crate::modules::Modules;
use crate::report::Verbosity;
use crate::{Context, setup};

const INIT: &str = include_str!("../../../lab/guest-init");
const PROFILE: &str = "export PS1='vireo# ' HOME=/root\ncd\n\
    [ -e /run/greeted ] || { : > /run/greeted; cat /etc/motd; }\n";
const PASSWD: &str = "root::0:0:root:/root:/bin/sh\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\n";
/// What mount tries when it is told no type; the kernel then asks for the module.
const FILESYSTEMS: &str = "ext4\nvfat\niso9660\nsquashfs\n";
const POWER_BUTTON: &str = "#!/bin/sh\nexec poweroff\n";
const UDHCPC: &str = include_str!("../../../lab/guest-udhcpc");
/// Where Debian's busybox looks for it.
const UDHCPC_PLACE: &str = "etc/udhcpc/default.script";
/// What modprobe and depmod read of a module folder.
const INDEX: [&str; 4] = ["modules.builtin", "modules.builtin.modinfo", "modules.order", "modules.softdep"];

/// A guest in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct Guest {
    /// The kernel's release, as `uname -r` tells it.
    pub version: String,
    /// The kernel as a bzImage.
    pub vmlinuz: PathBuf,
    /// The same kernel as an ELF file with a PVH entry point.
    pub vmlinux: PathBuf,
    /// An uncompressed cpio archive.
    pub initramfs: PathBuf,
}

impl Guest {
    /// The guest with the kernel `kind`, made if need be, in the cache that the environment names. Progress goes to standard
    /// error.
    ///
    /// # Errors
    /// When it can't be made: see [`setup::prepare_all`].
    pub fn prepare(kind: Kind) -> Result<Guest, LabError> {
        Guest::prepare_in(&Context::new(Verbosity::Normal)?, kind)
    }

    /// The same with a given context.
    ///
    /// # Errors
    /// When it can't be made: see [`setup::prepare_all`].
    pub fn prepare_in(context: &Context, kind: Kind) -> Result<Guest, LabError> {
        let name = format!("guests/{kind}.cpio");
        if let Some(kernel) = Kernel::cached(context, kind)
            && context.cache.is_current(&name, &guest_fingerprint(&kernel))
        {
            return Ok(Guest::new(&kernel, context.cache.path(&name)));
        }
        let _lock = setup::lock(context)?;
        setup::programs(context)?;
        let kernel = Kernel::prepare(context, kind)?;
        context
            .report
            .say(format_args!("making the initramfs of the guest {kind} (Linux {})", kernel.version));
        let making = context.cache.making()?;
        let file = making.path().join("guest.cpio");
        pack(context, &kernel, making.path())?.write(&file)?;
        context.cache.install(&file, &name, &guest_fingerprint(&kernel))?;
        Ok(Guest::new(&kernel, context.cache.path(&name)))
    }

    fn new(kernel: &Kernel, initramfs: PathBuf) -> Guest {
        Guest {
            version: kernel.version.clone(),
            vmlinuz: kernel.vmlinuz(),
            vmlinux: kernel.vmlinux(),
            initramfs,
        }
    }
}

fn guest_fingerprint(kernel: &Kernel) -> String {
    let texts =
        [INIT, PROFILE, PASSWD, GROUP, FILESYSTEMS, POWER_BUTTON, UDHCPC, UDHCPC_PLACE, &kernel.version];
    let texts = texts.iter().chain(GUEST_LOADED).chain(GUEST_MORE);
    fingerprint(texts.map(|text| text.as_bytes()))
}

fn pack(context: &Context, kernel: &Kernel, making: &Path) -> Result<Initramfs, LabError> {
    let folders = ["root", "etc", "etc/acpi", "etc/acpi/PWRF", "etc/udhcpc", "usr"];
    let mut image = Initramfs::start(&Busybox::find()?, INIT, &folders, &context.interrupt)?;
    for (link, target) in [("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")] {
        image.symlink(link, target)?;
    }
    let files = [
        ("etc/profile", PROFILE),
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/filesystems", FILESYSTEMS),
    ];
    for (name, text) in files {
        image.file(name, text.as_bytes())?;
    }
    image.executable("etc/acpi/PWRF/00000080", POWER_BUTTON.as_bytes())?;
    image.executable(UDHCPC_PLACE, UDHCPC.as_bytes())?;

    // A module folder with nothing but this guest's modules, so that its index is short.
    let folder = format!("lib/modules/{}", kernel.version);
    let (from, to) = (kernel.folder.join(&folder), making.join(&folder));
    std::fs::create_dir_all(&to).map_err(LabError::file("creating", &to))?;
    let copy =
        |from: &Path, to: &Path| std::fs::copy(from, to).map(drop).map_err(LabError::file("copying", from));
    image.directory(&folder)?;
    for name in INDEX.iter().filter(|name| from.join(name).exists()) {
        copy(&from.join(name), &to.join(name))?;
    }
    let all = kernel.modules().resolve(&[GUEST_LOADED, GUEST_MORE].concat(), &context.interrupt)?;
    for file in &all {
        let name = file_name(file);
        copy(file, &to.join(&name))?;
        image.copy(file, &format!("{folder}/{name}"))?;
    }
    Modules { folder: making, version: &kernel.version }.index(&context.interrupt)?;
    for name in ["modules.dep", "modules.alias", "modules.symbols", "modules.softdep", "modules.builtin"] {
        if to.join(name).exists() {
            image.copy(&to.join(name), &format!("{folder}/{name}"))?;
        }
    }
    let loaded = kernel.modules().resolve(GUEST_LOADED, &context.interrupt)?;
    let list: String =
        loaded.iter().map(|file| format!("{}/{}\n", kernel.version, file_name(file))).collect();
    image.file("lib/modules/load", list.as_bytes())?;
    Ok(image)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
