//! How each program is told to run a [`Job`]: the same machine as far as the program can build it, nothing that it would do
//! without being asked for more.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::job::{Devices, Job};

/// Words, the last of which may contain spaces.
fn words(options: &str) -> Vec<String> {
    options.split_whitespace().map(str::to_owned).collect()
}

/// What vireo-vmm and Cloud Hypervisor have in common: the same options.
fn common(job: &Job) -> Vec<String> {
    let mut arguments = words(&format!(
        "--kernel {} --memory size={}M --cpus boot=1 --serial tty",
        job.kernel.display(),
        job.memory
    ));
    if let Some(initramfs) = &job.initramfs {
        arguments.extend(["--initramfs".to_owned(), initramfs.display().to_string()]);
    }
    if !job.command_line.is_empty() {
        arguments.extend(["--cmdline".to_owned(), job.command_line.clone()]);
    }
    let Some(Devices { disk, .. }) = &job.devices else {
        arguments.extend(words("--console off"));
        return arguments;
    };
    arguments.extend(words(&format!("--disk path={} --rng src=/dev/urandom --console null", disk.display())));
    if let Some(tap) = job.tap() {
        arguments.extend(words(&format!("--net tap={tap}")));
    }
    arguments
}

pub(crate) fn vireo(job: &Job) -> Vec<String> {
    let mut arguments = common(job);
    arguments.extend(words("--on-reset exit"));
    arguments
}

/// Has an entropy device always.
pub(crate) fn cloud_hypervisor(job: &Job) -> Vec<String> {
    common(job)
}

/// Has a serial port always, and no console.
pub(crate) fn firecracker(job: &Job) -> Result<Vec<String>> {
    let mut config = json!({
        "boot-source": { "kernel_image_path": job.kernel, "boot_args": job.command_line },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": job.memory },
    });
    if let Some(initramfs) = &job.initramfs {
        config["boot-source"]["initrd_path"] = json!(initramfs);
    }
    if let Some(Devices { disk, .. }) = &job.devices {
        config["drives"] = json!([{
            "drive_id": "disk", "path_on_host": disk, "is_root_device": false, "is_read_only": false,
        }]);
        config["entropy"] = json!({});
    }
    if let Some(tap) = job.tap() {
        config["network-interfaces"] = json!([{ "iface_id": "net", "host_dev_name": tap }]);
    }
    let path = job.folder.join("firecracker.json");
    std::fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))?;
    // Without the filters of system calls, which nobody else here has.
    Ok(words(&format!("--no-api --no-seccomp --config-file {}", path.display())))
}

pub(crate) fn qemu_microvm(job: &Job) -> Vec<String> {
    // Without the clock a stock kernel polls for it for seconds.
    qemu(job, "microvm,accel=kvm,rtc=on", "device")
}

pub(crate) fn qemu_q35(job: &Job) -> Vec<String> {
    qemu(job, "q35,accel=kvm", "pci")
}

/// `transport`: how the names of virtio devices end.
fn qemu(job: &Job, machine: &str, transport: &str) -> Vec<String> {
    let mut arguments = words(&format!(
        "-M {machine} -cpu {} -m {} -nodefaults -no-user-config -display none -no-reboot -serial stdio -kernel {}",
        qemu_cpu_model(),
        job.memory,
        job.kernel.display()
    ));
    if let Some(initramfs) = &job.initramfs {
        arguments.extend(["-initrd".to_owned(), initramfs.display().to_string()]);
    }
    if !job.command_line.is_empty() {
        arguments.extend(["-append".to_owned(), job.command_line.clone()]);
    }
    if let Some(Devices { disk, .. }) = &job.devices {
        arguments.extend(words(&format!(
            "-drive if=none,id=disk,format=raw,file={} -device virtio-blk-{transport},drive=disk \
             -device virtio-rng-{transport} \
             -device virtio-serial-{transport} -chardev null,id=console -device virtconsole,chardev=console",
            disk.display()
        )));
    }
    if let Some(tap) = job.tap() {
        let rom = if transport == "pci" { ",romfile=" } else { "" };
        arguments.extend(words(&format!(
            "-netdev tap,id=net,ifname={tap},script=no,downscript=no -device virtio-net-{transport},netdev=net{rom}"
        )));
    }
    arguments
}

/// QEMU sets a register that a paravirtual KVM does not have, unless told not to.
fn qemu_cpu_model() -> &'static str {
    if Path::new("/sys/module/kvm_pvm").exists() { "host,-arch-capabilities" } else { "host" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(folder: &Path) -> Job {
        let mut job = Job::new(folder.join("kernel"), 256, folder);
        job.initramfs = Some("/i".into());
        job.command_line = "console=ttyS0 quiet".to_owned();
        job
    }

    #[test]
    fn every_program_gets_kernel_initramfs_command_line_and_memory() {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path());
        let config = firecracker(&job).unwrap().pop().unwrap();
        let config = words(&std::fs::read_to_string(config).unwrap());
        for command in [vireo(&job), cloud_hypervisor(&job), qemu_microvm(&job), qemu_q35(&job), config] {
            let text = command.join(" ");
            for part in [folder.path().to_str().unwrap(), "/i", "console=ttyS0 quiet", "256"] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }

    #[test]
    fn a_command_line_is_one_argument() {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path());
        for command in [vireo(&job), cloud_hypervisor(&job), qemu_microvm(&job), qemu_q35(&job)] {
            assert!(command.contains(&job.command_line), "{command:?}");
        }
    }

    #[test]
    fn every_program_gets_the_devices() {
        let folder = tempfile::tempdir().unwrap();
        let mut job = job(folder.path());
        assert!(!vireo(&job).join(" ").contains("--disk"));
        let devices = Devices::make(folder.path()).unwrap();
        let disk = devices.disk.display().to_string();
        job.devices = Some(devices);
        let config = firecracker(&job).unwrap().pop().unwrap();
        let config = vec![std::fs::read_to_string(config).unwrap()];
        for command in [vireo(&job), cloud_hypervisor(&job), qemu_microvm(&job), qemu_q35(&job), config] {
            let text = command.join(" ");
            assert!(text.contains(&disk), "{text}");
            assert_eq!(job.tap().is_some(), job.tap().is_some_and(|tap| text.contains(tap)), "{text}");
        }
    }
}
