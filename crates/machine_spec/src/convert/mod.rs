//! From the wire type to the internal specification, where everything is checked, and back.
//!
//! Only what can be known from the description itself is checked here: whether a file exists or the host has that many
//! processors is the VMM's business.

mod characters;
mod devices;
mod disks;
mod processors_and_memory;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub(crate) use devices::check_balloon;

use crate::error::SpecError;
use crate::spec::{BootSpec, FirmwareSpec, KernelSpec, MachineSpec, OnReset};
use crate::wire::{OnResetConfig, PayloadConfig, VmConfig};

impl MachineSpec {
    /// The machine that `config` describes, every default filled in.
    ///
    /// A network interface without an address gets one made from six bytes of `random`, which is called at least once
    /// for each such interface and should be the host's random source.
    ///
    /// # Errors
    /// The first thing that is wrong, see [`SpecError`].
    pub fn from_config(config: VmConfig, random: &mut dyn FnMut() -> [u8; 6]) -> Result<Self, SpecError> {
        // `platform` has no field with an effect.
        let VmConfig {
            cpus,
            memory,
            payload,
            disks,
            net,
            rng,
            balloon,
            serial,
            console,
            platform: _,
            console_ports,
            on_reset,
        } = config;
        let boot = boot(payload)?;
        let cpus = processors_and_memory::cpus(&cpus)?;
        let memory = processors_and_memory::memory(&memory)?;
        let (disks, nets) =
            devices::disks_and_nets(disks.unwrap_or_default(), net.unwrap_or_default(), random)?;
        let rng = rng.map(devices::rng).transpose()?;
        let balloon = balloon.map(|balloon| devices::balloon(&balloon, memory.bytes)).transpose()?;
        let characters::Characters { serial, serial_log, console_ports } =
            characters::serial_and_console(serial, console, console_ports.unwrap_or_default())?;
        let on_reset = match on_reset {
            None | Some(OnResetConfig::Reboot) => OnReset::Reboot,
            Some(OnResetConfig::Exit) => OnReset::Exit,
        };
        Ok(Self {
            cpus,
            memory,
            boot,
            disks,
            nets,
            rng,
            balloon,
            serial,
            serial_log,
            console_ports,
            on_reset,
        })
    }
}

impl From<&MachineSpec> for VmConfig {
    /// The description that gives exactly this machine again, with nothing left to defaults.
    fn from(spec: &MachineSpec) -> Self {
        let MachineSpec {
            cpus,
            memory,
            boot,
            disks,
            nets,
            rng,
            balloon,
            serial,
            serial_log,
            console_ports,
            on_reset,
        } = spec;
        let (serial, console, console_ports) =
            characters::describe(serial, serial_log.as_deref(), console_ports);
        Self {
            cpus: processors_and_memory::describe_cpus(*cpus),
            memory: processors_and_memory::describe_memory(memory),
            payload: describe_boot(boot),
            disks: Some(disks.iter().map(disks::describe_disk).collect()),
            net: Some(nets.iter().map(devices::describe_net).collect()),
            rng: rng.as_ref().map(devices::describe_rng),
            balloon: balloon.as_ref().map(devices::describe_balloon),
            serial: Some(serial),
            console: Some(console),
            platform: None,
            console_ports: Some(console_ports),
            on_reset: Some(match on_reset {
                OnReset::Reboot => OnResetConfig::Reboot,
                OnReset::Exit => OnResetConfig::Exit,
            }),
        }
    }
}

fn boot(payload: PayloadConfig) -> Result<BootSpec, SpecError> {
    let PayloadConfig { kernel, cmdline, initramfs, firmware, nvram } = payload;
    let path =
        |option, path: Option<PathBuf>| path.map(|path| checked_path("payload", option, path)).transpose();
    let without = |option, needs| Err(SpecError::Without { option, needs });
    match (path("kernel", kernel)?, path("firmware", firmware)?) {
        (Some(_), Some(_)) => Err(SpecError::KernelAndFirmware),
        (None, None) => Err(SpecError::NothingToBoot),
        (Some(_), None) if nvram.is_some() => without("nvram", "firmware"),
        (Some(image), None) => {
            let command_line = cmdline.unwrap_or_default();
            if let Some(position) = command_line.bytes().position(|byte| byte.is_ascii_control()) {
                return Err(SpecError::CommandLine { position });
            }
            Ok(BootSpec::Kernel(KernelSpec { image, initramfs: path("initramfs", initramfs)?, command_line }))
        }
        (None, Some(_)) if initramfs.is_some() => without("initramfs", "kernel"),
        (None, Some(_)) if cmdline.is_some() => without("cmdline", "kernel"),
        (None, Some(image)) => {
            Ok(BootSpec::Firmware(FirmwareSpec { image, variables: path("nvram", nvram)? }))
        }
    }
}

fn describe_boot(boot: &BootSpec) -> PayloadConfig {
    match boot {
        BootSpec::Kernel(KernelSpec { image, initramfs, command_line }) => PayloadConfig {
            kernel: Some(image.clone()),
            cmdline: Some(command_line.clone()),
            initramfs: initramfs.clone(),
            ..PayloadConfig::default()
        },
        BootSpec::Firmware(FirmwareSpec { image, variables }) => PayloadConfig {
            firmware: Some(image.clone()),
            nvram: variables.clone(),
            ..PayloadConfig::default()
        },
    }
}

/// A path that names something: not empty, and without the zero byte that would end it early for the kernel.
fn checked_path(object: &str, option: &'static str, path: PathBuf) -> Result<PathBuf, SpecError> {
    use std::os::unix::ffi::OsStrExt;
    let reason = match path.as_os_str().as_bytes() {
        [] => "is empty",
        bytes if bytes.contains(&0) => "has a zero byte",
        _ => return Ok(path),
    };
    Err(SpecError::Value {
        object: object.to_owned(),
        option,
        value: path.to_string_lossy().into_owned(),
        reason,
        advice: "give the path of a file",
    })
}
