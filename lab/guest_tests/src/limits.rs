//! What a machine with a guest may use of its host, and what it has used: control groups of the host's own kernel.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, in_emulated_host};
use crate::domains::{document, processes};
use crate::guest::PATIENCE;
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![test("limits::limits_hold_for_a_guest_also_after_its_reboot", limits_hold)]
}

/// Size of the guest's disk, all of which it reads when it starts.
const DISK_BYTES: u64 = 1 << 20;

/// The control group of a process, as a directory.
fn group(process: i32) -> Result<PathBuf> {
    let membership = std::fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let own = membership.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.context("the host has no control groups of version 2")?;
    Ok(PathBuf::from("/sys/fs/cgroup").join(own.trim_end_matches("/emulator")))
}

/// The thread that runs the guest's only vCPU.
fn vcpu(process: i32) -> Result<String> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "vcpu0") {
            return Ok(path.file_name().context("a task")?.to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("process {process} has no vCPU")
}

/// A number of `virsh domstats`.
fn statistic(daemon: &Daemon, name: &str) -> Result<u64> {
    let all = daemon.virsh("domstats guest")?;
    let found = all.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    found.with_context(|| format!("no {name} in {all}"))
}

/// Waits until the guest has read its disk so often.
fn wait_for_reads(daemon: &Daemon, times: u64) -> Result<()> {
    let since = Instant::now();
    while statistic(daemon, "block.0.rd.bytes")? < times * DISK_BYTES {
        ensure!(since.elapsed() < PATIENCE, "the guest does not read its disk");
    }
    Ok(())
}

fn limits_hold() -> Result<()> {
    if !in_emulated_host() {
        eprintln!(
            "skipped: systemd keeps this host's control groups, and the daemon of a test is no unit of it"
        );
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let daemon = Daemon::start(directory.path())?;
    let disk = directory.path().join("disk");
    std::fs::write(&disk, vec![7; usize::try_from(DISK_BYTES)?])?;
    let tune = "<cputune><shares>300</shares><period>10000</period><quota>8000</quota>
        <emulatorpin cpuset='0'/></cputune><memtune><hard_limit unit='MiB'>400</hard_limit></memtune><os>";
    let device = format!(
        "<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>
         <target dev='vda' bus='virtio'/></disk>",
        disk.display()
    );
    let document = document("guest")?.replacen("<os>", tune, 1).replacen("<devices>", &device, 1);
    let document = document.replacen("vireo.shell", "vireo.run=cat+/dev/vda&gt;/dev/null vireo.shell", 1);
    let path = directory.path().join("guest.xml");
    std::fs::write(&path, document)?;
    daemon.virsh(&format!("define {}", path.display()))?;
    daemon.virsh("start guest")?;
    let process = processes(&daemon, directory.path(), &["guest"])?[0];
    let group = group(process)?;
    let file = |name: &str| std::fs::read_to_string(group.join(name)).with_context(|| name.to_owned());
    ensure!(file("cpu.weight")? == "300\n" && file("memory.max")? == format!("{}\n", 400 << 20));
    ensure!(file("vcpu0/cpu.max")? == "8000 10000\n");
    let first = vcpu(process)?;
    ensure!(file("vcpu0/cgroup.threads")?.trim() == first, "the vCPU is in another group");
    wait_for_reads(&daemon, 1)?;
    ensure!(
        file("memory.current")?.trim().parse::<u64>()? > 16 << 20,
        "the guest's memory is counted elsewhere"
    );
    ensure!(statistic(&daemon, "balloon.rss")? > 16 << 10, "the guest's memory is not seen");
    ensure!(statistic(&daemon, "block.0.rd.reqs")? > 0 && statistic(&daemon, "block.0.rd.times")? > 0);
    ensure!(statistic(&daemon, "vcpu.0.time")? > 0 && statistic(&daemon, "cpu.time")? > 0);
    // A machine that starts anew has new threads.
    daemon.virsh("reset guest")?;
    let since = Instant::now();
    while vcpu(process)? == first || file("vcpu0/cgroup.threads")?.trim() != vcpu(process)? {
        ensure!(since.elapsed() < PATIENCE, "the new vCPU is in another group");
    }
    // What its disk has done before counts on.
    wait_for_reads(&daemon, 2)?;
    daemon.virsh("schedinfo guest --live vcpu_quota=-1 cpu_shares=100")?;
    ensure!(file("vcpu0/cpu.max")? == "max 10000\n" && file("cpu.weight")? == "100\n");
    daemon.virsh("destroy guest")?;
    ensure!(!group.exists(), "the group is left behind");
    Ok(())
}
