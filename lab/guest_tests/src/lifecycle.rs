//! Pause, resume, reboot, power off, stop: what happens to a guest from outside and what it does to itself.

use anyhow::{Result, ensure};

use crate::guest::{Format, Guest, GuestBuilder, Kernel};
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("lifecycle::a_thousand_pauses_with_1_vcpu", || thousand_pauses("boot=1")),
        test("lifecycle::a_thousand_pauses_with_4_vcpus", || thousand_pauses("boot=4")),
        test("lifecycle::a_paused_guest_stands_still", paused_guest_stands_still),
        test("lifecycle::the_guest_reboots_in_the_same_process", guest_reboots),
        test("lifecycle::a_reset_ends_the_process_when_asked", reset_exits),
        test("lifecycle::the_power_button_is_pressed", power_button),
        test("lifecycle::sigterm_ends_the_machine", sigterm),
    ]
}

fn started(cpus: &str) -> Result<Guest> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, cpus)?.start()?;
    guest.expect_shell()?;
    Ok(guest)
}

/// The guest writes to its disk all the while, and afterwards what it wrote is there.
fn thousand_pauses(cpus: &str) -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, cpus)?;
    let disk = builder.directory().join("disk.raw");
    std::fs::write(&disk, vec![0; 4 << 20])?;
    let mut guest = builder.argument("--disk", &format!("path={}", disk.display())).start()?;
    guest.expect_shell()?;
    guest.run("dd if=/dev/urandom of=/tmp/data bs=64k count=16")?;
    guest.run("(while dd if=/tmp/data of=/dev/vda bs=64k conv=fsync 2>/dev/null; do :; done; echo broken > /tmp/fate) & true")?;
    for cycle in 0..1000 {
        guest
            .action("vm.pause")
            .and_then(|()| guest.action("vm.resume"))
            .map_err(|error| error.context(format!("cycle {cycle}")))?;
    }
    guest.run("kill %1; sync; echo 3 > /proc/sys/vm/drop_caches; ! test -e /tmp/fate")?;
    guest.run("dd if=/tmp/data of=/dev/vda bs=64k conv=fsync; cmp -n 1048576 /tmp/data /dev/vda")?;
    let stalls = guest.run("dmesg | grep -ciE 'soft lockup|rcu.*stall|hung task' || true")?;
    ensure!(stalls == "0", "the guest complained {stalls} times");
    guest.power_off()
}

fn paused_guest_stands_still() -> Result<()> {
    let mut guest = started("boot=2")?;
    guest.action("vm.pause")?;
    ensure!(guest.state()? == "Paused", "the state is {}", guest.state()?);
    guest.type_line("echo \"TY\"PED")?;
    let before = vcpu_ticks(&guest, 2)?;
    for _ in 0..200 {
        ensure!(guest.state()? == "Paused", "the state changed by itself");
    }
    ensure!(vcpu_ticks(&guest, 2)? == before, "a paused vCPU used the processor");
    guest.action("vm.resume")?;
    guest.expect("TYPED\n")?;
    ensure!(guest.state()? == "Running", "the state is {}", guest.state()?);
    guest.expect("vireo# ")?;
    guest.power_off()
}

/// CPU time that the guest's `vcpus` vCPU threads have used, in clock ticks (proc(5), fields 14 and 15 of
/// /proc/PID/task/TID/stat).
fn vcpu_ticks(guest: &Guest, vcpus: usize) -> Result<u64> {
    let (mut sum, mut found) = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{}/task", guest.pid()))? {
        let task = task?.path();
        // A thread that served a request may end between the listing and the look: its files are gone then.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        if name.starts_with("vcpu") {
            let stat = std::fs::read_to_string(task.join("stat"))?;
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            sum += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
            found += 1;
        }
    }
    ensure!(found == vcpus, "{found} vCPU threads instead of {vcpus}");
    Ok(sum)
}

fn guest_reboots() -> Result<()> {
    let mut guest = started("boot=2")?;
    let pid = guest.pid();
    for _ in 0..2 {
        guest.run("echo mark > /tmp/mark")?;
        guest.type_line("reboot -f")?;
        guest.expect_shell()?;
        guest.run("! test -e /tmp/mark && test $(nproc) = 2")?;
        ensure!(guest.pid() == pid, "another process");
    }
    guest.action("vm.reboot")?;
    guest.expect_shell()?;
    guest.power_off()
}

fn reset_exits() -> Result<()> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?
        .argument("--on-reset", "exit")
        .start()?;
    guest.expect_shell()?;
    guest.type_line("reboot -f")?;
    guest.expect_exit(0)
}

fn power_button() -> Result<()> {
    let mut guest = started("boot=1")?;
    let count = "awk '{print $1}' /sys/firmware/acpi/interrupts/ff_pwr_btn";
    ensure!(guest.run(count)? == "0", "the button was pressed before");
    guest.type_line(&format!("until test $({count}) = 1; do :; done; poweroff -f"))?;
    guest.action("vm.power-button")?;
    guest.expect_exit(0)
}

fn sigterm() -> Result<()> {
    let mut guest = started("boot=2")?;
    let pid = i32::try_from(guest.pid()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(
        pid.ok_or_else(|| anyhow::anyhow!("a bad pid"))?,
        rustix::process::Signal::TERM,
    )?;
    guest.expect_exit(0)
}
