//! The programs that are compared: how each is told to boot a kernel with its first serial port on standard output.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A program and its arguments, with the kernel, the memory size and a configuration file as placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// What the report calls it.
    pub name: String,
    /// Program and arguments, in which `{kernel}`, `{memory}` (MiB) and `{config}` are replaced.
    pub command: Vec<String>,
    /// It starts the guest again after a reset instead of ending, and can't be told otherwise.
    pub reboots: bool,
}

/// What a run is about: values for the placeholders.
#[derive(Debug)]
pub struct Job {
    /// The kernel image.
    pub kernel: PathBuf,
    /// Guest memory in MiB.
    pub memory: u32,
    /// A folder for configuration files.
    pub folder: PathBuf,
}

/// Programs that are known here.
const KNOWN: [(&str, &str); 5] = [
    ("vireo", "vireo-vmm --kernel {kernel} --cpus boot=1 --memory size={memory}M --serial tty --console off"),
    (
        "cloud-hypervisor",
        "cloud-hypervisor --kernel {kernel} --cpus boot=1 --memory size={memory}M --serial tty --console off",
    ),
    ("firecracker", "firecracker --no-api --no-seccomp --config-file {config}"),
    (
        "qemu-microvm",
        "qemu-system-x86_64 -M microvm,accel=kvm,rtc=on -cpu host -m {memory} -nodefaults -no-user-config \
         -display none -no-reboot -serial stdio -kernel {kernel}",
    ),
    (
        "qemu-q35",
        "qemu-system-x86_64 -M q35,accel=kvm -cpu host -m {memory} -nodefaults -no-user-config -display none \
         -no-reboot -serial stdio -kernel {kernel}",
    ),
];

impl Contender {
    /// A contender from `NAME=COMMAND`; the command is split at spaces.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((name, command)) = text.split_once('=') else { bail!("{text:?} is not NAME=COMMAND") };
        let command: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        if name.is_empty() || command.is_empty() {
            bail!("{text:?} is not NAME=COMMAND");
        }
        Ok(Self { name: name.to_owned(), command, reboots: false })
    }

    /// The yardstick: the program of bare KVM calls, in `folder`.
    pub fn floor(folder: &Path) -> Self {
        let program = folder.join("start-floor").display().to_string();
        Self { name: "floor".to_owned(), command: vec![program, "{memory}".to_owned()], reboots: false }
    }

    /// Programs that are known here and found in `folder` or in one of the folders of `path`.
    pub fn installed(folder: &Path, path: &str) -> Vec<Self> {
        let folders: Vec<PathBuf> =
            [folder.to_owned()].into_iter().chain(std::env::split_paths(path)).collect();
        let find = |program: &str| {
            folders.iter().map(|folder| folder.join(program)).find(|program| program.is_file())
        };
        let known = KNOWN.iter().filter_map(|(name, command)| {
            let mut command: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
            command[0] = find(&command[0])?.display().to_string();
            Some(Self { name: (*name).to_owned(), command, reboots: *name == "cloud-hypervisor" })
        });
        known.collect()
    }

    /// The command for `job`; writes the configuration file if the command asks for one.
    pub fn command_for(&self, job: &Job) -> Result<Vec<String>> {
        let config = job.folder.join("firecracker.json");
        if self.command.iter().any(|word| word.contains("{config}")) {
            let text = serde_json::json!({
                "boot-source": { "kernel_image_path": job.kernel, "boot_args": "" },
                "drives": [],
                "machine-config": { "vcpu_count": 1, "mem_size_mib": job.memory },
            });
            std::fs::write(&config, text.to_string())
                .with_context(|| format!("writing {}", config.display()))?;
        }
        let replace = |word: &String| {
            word.replace("{kernel}", &job.kernel.display().to_string())
                .replace("{memory}", &job.memory.to_string())
                .replace("{config}", &config.display().to_string())
        };
        Ok(self.command.iter().map(replace).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let job = Job { kernel: "/k".into(), memory: 64, folder: folder.path().to_owned() };
        let contender = Contender::parse("mine=run --k={kernel} -m {memory} {config}").unwrap();
        assert_eq!(contender.name, "mine");
        let command = contender.command_for(&job).unwrap();
        assert_eq!(command[..4], ["run", "--k=/k", "-m", "64"]);
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&command[4]).unwrap()).unwrap();
        assert_eq!(config["machine-config"]["mem_size_mib"], 64);
    }

    #[test]
    fn a_contender_needs_a_name_and_a_command() {
        for text in ["", "name", "name=", "=command"] {
            assert!(Contender::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_programs_that_exist_are_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Contender::installed(folder.path(), ""), []);
        std::fs::write(folder.path().join("firecracker"), "").unwrap();
        let found = Contender::installed(Path::new("/nonexistent"), folder.path().to_str().unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "firecracker");
    }
}
