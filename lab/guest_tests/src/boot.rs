//! Both kernels, in both formats, with one and several vCPUs: each boots and sees the machine that was described.

use anyhow::{Result, ensure};

use crate::guest::{Format, GuestBuilder, Kernel};
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for (kernel, kernel_name) in [(Kernel::V6_1, "6_1"), (Kernel::V6_12, "6_12")] {
        for (format, format_name) in [(Format::BzImage, "bzimage"), (Format::Vmlinux, "vmlinux")] {
            for cpus in [1, 4] {
                let name = format!("boot::linux_{kernel_name}_{format_name}_with_{cpus}_vcpus");
                tests.push(test(&name, move || boots(kernel, format, cpus)));
            }
        }
    }
    tests.push(test("boot::topology_is_as_described", topology));
    tests.push(test("boot::memory_above_four_gibibytes", memory_above_the_hole));
    tests.push(test("boot::little_memory", little_memory));
    tests
}

fn boots(kernel: Kernel, format: Format, cpus: u32) -> Result<()> {
    let mut guest = GuestBuilder::new(kernel, format, &format!("boot={cpus}"))?.start()?;
    guest.expect_shell()?;
    let release = guest.run("uname -r")?;
    let wanted = if kernel == Kernel::V6_1 { "6.1." } else { "6.12." };
    ensure!(release.starts_with(wanted), "the guest runs {release}");
    let online = guest.run("nproc")?;
    ensure!(online == cpus.to_string(), "the guest has {online} vCPUs, not {cpus}");
    let clock = guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    ensure!(clock == "kvm-clock" || clock == "tsc", "the guest's clock is {clock}");
    guest.power_off()
}

fn topology() -> Result<()> {
    // Threads, cores, dies and sockets all differ from one but the dies.
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=8,topology=2:2:1:2")?.start()?;
    guest.expect_shell()?;
    let base = "/sys/devices/system/cpu/cpu";
    let core_mates = guest.run(&format!("cat {base}0/topology/thread_siblings_list"))?;
    ensure!(core_mates == "0-1", "threads of the first core: {core_mates}");
    let socket_mates = guest.run(&format!("cat {base}0/topology/package_cpus_list"))?;
    ensure!(socket_mates == "0-3", "vCPUs of the first socket: {socket_mates}");
    let second = guest.run(&format!("cat {base}4/topology/physical_package_id"))?;
    ensure!(second == "1", "the fifth vCPU is in socket {second}");
    guest.power_off()
}

fn memory_above_the_hole() -> Result<()> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?
        .argument("--memory", "size=3G")
        .start()?;
    guest.expect_shell()?;
    let kibibytes: u64 = guest.run("awk '/^MemTotal/ {print $2}' /proc/meminfo")?.parse()?;
    ensure!((2_850_000..3_145_728).contains(&kibibytes), "the guest has {kibibytes} KiB");
    let above = guest.run("grep -c '^1[0-9a-f]\\{8\\}-.* : System RAM' /proc/iomem")?;
    ensure!(above == "1", "{above} ranges of RAM above 4 GiB");
    guest.power_off()
}

/// Debian's kernel alone takes 50 MiB while it starts.
fn little_memory() -> Result<()> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?
        .argument("--memory", "size=128M")
        .start()?;
    guest.expect_shell()?;
    guest.power_off()
}
