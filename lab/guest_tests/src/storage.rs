//! Storage pools that need a kernel of their own: LVM and NFS, with the host's own programs, through `vireod` and virsh.
//!
//! They load modules and start services, so they run in the emulated host only.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::{Daemon, in_emulated_host, run};
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("storage::volumes_are_logical_volumes_of_a_volume_group", logical_volumes),
        test("storage::volumes_are_files_that_another_host_exports", exported_files),
    ]
}

/// Why the test can't run here; it is said, and the test passes.
fn skipped(test: &str, reason: &str) -> Result<()> {
    writeln!(std::io::stderr(), "skipped: {test}: {reason}").context("saying so")
}

fn logical_volumes() -> Result<()> {
    if !in_emulated_host() {
        return skipped("LVM", "it is tried in the emulated host only");
    }
    run("modprobe", &["-a", "dm_mod", "loop"])?;
    // LVM waits for it to make the devices' names.
    std::fs::create_dir_all("/run/udev")?;
    run("/lib/systemd/systemd-udevd", &["--daemon"])?;
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    std::fs::File::create(&disk)?.set_len(256 << 20)?;
    let device = run("losetup", &["--find", "--show", &disk.display().to_string()])?;
    let (device, content) = (device.trim(), directory.path().join("content"));
    std::fs::write(&content, (0..1_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())?;
    let back = directory.path().join("back");

    let daemon = Daemon::start(directory.path())?;
    daemon.virsh(&format!(
        "pool-define-as lv logical --source-dev {device} --source-name vireo --target /dev/vireo"
    ))?;
    for line in ["pool-build lv", "pool-start lv", "vol-create-as lv one 32M"] {
        daemon.virsh(line)?;
    }
    daemon.virsh(&format!("vol-upload one {} --pool lv", content.display()))?;
    daemon.virsh("vol-clone one two --pool lv")?;
    daemon.virsh(&format!("vol-download two {} --pool lv --length 4000000", back.display()))?;
    ensure!(std::fs::read(&content)? == std::fs::read(&back)?, "the copy has another content");
    daemon.virsh("vol-resize two 64M --pool lv")?;
    let information = daemon.virsh("vol-info two --pool lv")?;
    ensure!(information.contains("64.00 MiB"), "the size is {information}");
    let twice = daemon.virsh("vol-create-as lv one 32M");
    ensure!(twice.is_err_and(|error| format!("{error}").contains("exists")), "a second volume of the name");
    daemon.virsh("vol-wipe one --pool lv")?;
    daemon.virsh(&format!("vol-download one {} --pool lv", back.display()))?;
    ensure!(std::fs::read(&back)?.iter().all(|byte| *byte == 0), "a wiped volume has content");
    let group = run("vgs", &["--noheadings", "-o", "lv_count", "vireo"])?;
    ensure!(group.trim() == "2", "LVM counts {group} volumes");
    for line in ["vol-delete one --pool lv", "vol-delete two --pool lv", "pool-destroy lv", "pool-delete lv"]
    {
        daemon.virsh(line)?;
    }
    daemon.virsh("pool-undefine lv")?;
    ensure!(run("vgs", &["--noheadings"])?.trim().is_empty(), "the volume group is still there");
    Ok(())
}

fn exported_files() -> Result<()> {
    let missing =
        ["rpc.nfsd", "rpc.mountd", "exportfs", "rpcbind", "mount.nfs"].into_iter().find(|program| {
            !Path::new("/usr/sbin").join(program).exists() && !Path::new("/sbin").join(program).exists()
        });
    if let Some(program) = missing {
        return skipped(
            "NFS",
            &format!("{program} is not installed (packages nfs-kernel-server, nfs-common, rpcbind)"),
        );
    }
    if !in_emulated_host() {
        return skipped("NFS", "it is tried in the emulated host only");
    }
    run("modprobe", &["-a", "nfsd", "nfs"])?;
    for directory in ["/run/rpcbind", "/var/lib/nfs/sm", "/var/lib/nfs/v4recovery"] {
        std::fs::create_dir_all(directory)?;
    }
    run("ip", &["link", "set", "lo", "up"])?;
    let directory = tempfile::tempdir()?;
    let [exported, mounted] = ["exported", "mounted"].map(|name| directory.path().join(name));
    std::fs::create_dir(&exported)?;
    // What is below an overlay can't be exported.
    run("mount", &["-t", "tmpfs", "exported", &exported.display().to_string()])?;
    run("mount", &["-t", "nfsd", "nfsd", "/proc/fs/nfsd"])?;
    run("rpcbind", &[])?;
    run(
        "exportfs",
        &["-o", "rw,no_root_squash,fsid=1,insecure", &format!("127.0.0.1:{}", exported.display())],
    )?;
    run("rpc.nfsd", &["2"])?;
    run("rpc.mountd", &[])?;

    let daemon = Daemon::start(directory.path())?;
    let (source, target) = (exported.display(), mounted.display());
    daemon.virsh(&format!(
        "pool-define-as far netfs --source-host 127.0.0.1 --source-path {source} --target {target}"
    ))?;
    for line in ["pool-build far", "pool-start far", "vol-create-as far one.qcow2 1G --format qcow2"] {
        daemon.virsh(line)?;
    }
    ensure!(exported.join("one.qcow2").is_file(), "the volume is not on the other host");
    let found = daemon.virsh("find-storage-pool-sources-as netfs 127.0.0.1")?;
    ensure!(found.contains(&exported.display().to_string()), "the export was not found: {found}");
    daemon.virsh("vol-delete one.qcow2 --pool far")?;
    daemon.virsh("pool-destroy far")?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    if mounts.contains(&mounted.display().to_string()) {
        bail!("the directory is still mounted");
    }
    Ok(())
}
