//! Whether this host can run ordinary guests.

use std::fmt;
use std::path::Path;

/// What this host is to a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// It has KVM on a processor's own virtualization.
    Kvm,
    /// It has a KVM that emulates the processor's privileged part (PVM): stock kernels do not boot on it.
    Paravirtual,
    /// It has no KVM.
    None,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "this host has KVM",
            Self::Paravirtual => "this host's KVM is paravirtual and cannot run ordinary guests",
            Self::None => "this host has no /dev/kvm",
        })
    }
}

impl Host {
    pub(super) fn detect() -> Self {
        Self::detect_in(Path::new("/"))
    }

    /// `root`: where `dev`, `sys` and `proc` are.
    fn detect_in(root: &Path) -> Self {
        if !root.join("dev/kvm").exists() {
            return Self::None;
        }
        let processors = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        // Without a list of flags nothing is known: vireo-vmm will tell.
        let mut flags = processors.lines().filter(|line| line.starts_with("flags")).peekable();
        let known = flags.peek().is_some();
        let has_own =
            flags.any(|line| line.split_ascii_whitespace().any(|flag| ["vmx", "svm"].contains(&flag)));
        if root.join("sys/module/kvm_pvm").exists() || known && !has_own {
            Self::Paravirtual
        } else {
            Self::Kvm
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> Host {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        Host::detect_in(root.path())
    }

    #[test]
    fn a_host_is_told_by_its_device_its_module_and_its_processor() {
        let kvm = ("dev/kvm", "");
        let pvm = ("sys/module/kvm_pvm/refcnt", "0");
        let amd = ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu svm lm\n");
        let neither = ("proc/cpuinfo", "flags\t\t: fpu lm\nvmx flags\t: vnmi\nbugs: svm\n");
        assert_eq!(host(&[amd]), Host::None);
        assert_eq!(host(&[kvm, amd]), Host::Kvm);
        assert_eq!(host(&[kvm, amd, pvm]), Host::Paravirtual);
        assert_eq!(host(&[kvm, neither]), Host::Paravirtual);
        assert_eq!(host(&[kvm]), Host::Kvm);
    }
}
