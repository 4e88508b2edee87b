//! The programs that are compared: which are there, and how each is told to run a [`Job`].

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command_line;
use crate::job::Job;

/// A kind of program, as far as its command line is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The yardstick of start-up: a program of bare KVM calls.
    Floor,
    /// Ours.
    Vireo,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
    /// QEMU's machine without PCI.
    QemuMicrovm,
    /// QEMU's machine with PCI Express and a firmware.
    QemuQ35,
    /// Any other: arguments in which `{kernel}`, `{initramfs}`, `{cmdline}`, `{memory}` (MiB), `{disk}` and `{tap}` are replaced.
    Other(Vec<String>),
}

/// A program to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// What the report calls it.
    pub name: String,
    /// The program's file.
    pub program: PathBuf,
    /// How it is told what to do.
    pub kind: Kind,
}

/// Names, programs, kinds.
const KNOWN: [(&str, &str, Kind); 6] = [
    ("floor", "start-floor", Kind::Floor),
    (Contender::OURS, "vireo-vmm", Kind::Vireo),
    ("cloud-hypervisor", "cloud-hypervisor", Kind::CloudHypervisor),
    ("firecracker", "firecracker", Kind::Firecracker),
    ("qemu-microvm", "qemu-system-x86_64", Kind::QemuMicrovm),
    ("qemu-q35", "qemu-system-x86_64", Kind::QemuQ35),
];

impl Contender {
    /// The name of what everything is compared with.
    pub const OURS: &str = "vireo";

    /// A contender from `NAME=COMMAND`; the command is split at spaces.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("{text:?} is not NAME=COMMAND");
        let (name, command) = text.split_once('=').with_context(wrong)?;
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words.next().with_context(wrong)?;
        if name.is_empty() {
            bail!(wrong());
        }
        Ok(Self { name: name.to_owned(), program: program.into(), kind: Kind::Other(words.collect()) })
    }

    /// Programs that are known here and found in `folder` or in one of the folders of `path`.
    pub fn installed(folder: &Path, path: &str) -> Vec<Self> {
        let folders: Vec<PathBuf> =
            [folder.to_owned()].into_iter().chain(std::env::split_paths(path)).collect();
        let find = |program: &str| {
            folders.iter().map(|folder| folder.join(program)).find(|program| program.is_file())
        };
        let known = KNOWN.into_iter().filter_map(|(name, program, kind)| {
            Some(Self { name: name.to_owned(), program: find(program)?, kind })
        });
        known.collect()
    }

    /// Puts what was built here into `folder`, as an installation does with the others: a linker leaves a file in the page cache in
    /// single pages, which take a start measurably longer to map than the larger pieces of a file that was copied or read.
    pub fn install(mut self, folder: &Path) -> Result<Self> {
        if matches!(self.kind, Kind::Floor | Kind::Vireo) {
            let installed = folder.join(&self.name);
            std::fs::copy(&self.program, &installed)
                .with_context(|| format!("copying {:?} to {installed:?}", self.program))?;
            self.program = installed;
        }
        Ok(self)
    }

    /// It starts the guest again after a reset instead of ending, and can't be told otherwise.
    pub fn reboots(&self) -> bool {
        self.kind == Kind::CloudHypervisor
    }

    /// Program and arguments for `job`; writes a configuration file if the program wants one.
    pub fn command_for(&self, job: &Job) -> Result<Vec<String>> {
        let arguments = match &self.kind {
            Kind::Floor => vec![job.memory.to_string()],
            Kind::Vireo => command_line::vireo(job),
            Kind::CloudHypervisor => command_line::cloud_hypervisor(job),
            Kind::Firecracker => command_line::firecracker(job)?,
            Kind::QemuMicrovm => command_line::qemu_microvm(job),
            Kind::QemuQ35 => command_line::qemu_q35(job),
            Kind::Other(template) => template.iter().map(|word| job.replace(word)).collect(),
        };
        Ok([self.program.display().to_string()].into_iter().chain(arguments).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_of_other_programs_are_replaced() {
        let contender = Contender::parse("mine=run --k={kernel} -m {memory}").unwrap();
        assert_eq!(contender.name, "mine");
        let job = Job::new("/k".into(), 64, Path::new("/"));
        assert_eq!(contender.command_for(&job).unwrap(), ["run", "--k=/k", "-m", "64"]);
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
        assert_eq!((found[0].name.as_str(), &found[0].kind), ("firecracker", &Kind::Firecracker));
    }
}
