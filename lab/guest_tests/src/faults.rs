//! Guests that crash or write nonsense: the process says what happened, or goes on as if nothing had.

use std::fs;

use anyhow::{Result, ensure};

use crate::guest::{Format, GuestBuilder, Kernel};
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("faults::a_triple_fault_is_reported_with_registers", triple_fault),
        test("faults::nonsense_in_device_registers_harms_nobody", nonsense_in_registers),
        test("faults::a_locked_disk_is_refused_and_named", locked_disk),
    ]
}

fn triple_fault() -> Result<()> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?
        .words("reboot=t,force vireo.run=echo+b+>/proc/sysrq-trigger")
        .start()?;
    // reboot=triple makes the kernel reset by a triple fault, which a machine that cannot reset that way must report.
    guest.expect_exit(1)?;
    let said = guest.transcript();
    ensure!(said.contains("triple fault"), "no cause in: {said}");
    ensure!(said.contains("rip") || said.contains("RIP"), "no registers in: {said}");
    Ok(())
}

fn nonsense_in_registers() -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?;
    let disk = builder.directory().join("disk.raw");
    fs::write(&disk, vec![7; 1 << 20])?;
    let mut guest = builder.argument("--disk", &format!("path={}", disk.display())).start()?;
    guest.expect_shell()?;
    let device = guest.run("basename $(readlink -f /sys/block/vda/device/..)")?;
    let base = guest.run(&format!("awk 'NR==5 || NR==1 {{ if ($1 != \"0x0000000000000000\") print $1 }}' /sys/bus/pci/devices/{device}/resource | tail -n 1"))?;
    guest.run(&format!("echo {device} > /sys/bus/pci/drivers/virtio-pci/unbind"))?;
    guest.run(&format!(
        "i=0; while test $i -lt 200; do a=$(( {base} + (i * 52) % 16384 )); for w in 8 16 32; do \
         busybox devmem $a $w $(( (i * 2654435761) & 0xff )) 2>/dev/null; busybox devmem $a $w >/dev/null 2>&1; done; i=$((i+1)); done"
    ))?;
    guest.run(&format!("echo 1 > /sys/bus/pci/devices/{device}/reset 2>/dev/null; echo {device} > /sys/bus/pci/drivers/virtio-pci/bind"))?;
    guest.run("i=0; until test -b /dev/vda; do i=$((i+1)); test $i -lt 1000; done; dd if=/dev/vda of=/dev/null bs=64k count=4")?;
    guest.power_off()
}

fn locked_disk() -> Result<()> {
    let first = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?;
    let disk = first.directory().join("disk.raw");
    fs::write(&disk, vec![0; 1 << 20])?;
    let option = format!("path={}", disk.display());
    let mut first = first.argument("--disk", &option).start()?;
    first.expect_shell()?;
    let mut second =
        GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?.argument("--disk", &option).start()?;
    second.expect_exit(2)?;
    let said = second.transcript();
    ensure!(said.contains(&disk.display().to_string()) && said.contains(&first.pid().to_string()), "{said}");
    first.power_off()
}
