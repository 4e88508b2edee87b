//! The host's KVM: opening the device, what it must and can do, and what to tell an operator when it can't.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvm_bindings::{KVM_CAP_IOEVENTFD_ANY_LENGTH, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Cap;

use crate::cpuid::{CpuidTable, Vendor};

/// The only stable version of the KVM API (KVM API, section 4.1).
const API_VERSION: i32 = 12;

/// What the machine cannot do without, and the kernel that brought it.
const REQUIRED: [(u64, &str); 6] = [
    (Cap::Irqchip as u64, "interrupt controllers in the kernel"),
    (Cap::Irqfd as u64, "irqfd"),
    (Cap::SignalMsi as u64, "message signalled interrupts"),
    (Cap::ReadonlyMem as u64, "read-only memory slots"),
    (KVM_CAP_IOEVENTFD_ANY_LENGTH as u64, "ioeventfd of any length"),
    (Cap::ImmediateExit as u64, "immediate exit (Linux 4.12)"),
];

/// A failure of KVM, or of the way to it.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The device file does not exist.
    #[error("{} does not exist: load the module kvm_amd or kvm_intel, and enable AMD-V or VT-x in the firmware setup (or nested virtualization, if this host is itself a virtual machine)", .0.display())]
    Missing(PathBuf),
    /// The device file may not be opened.
    #[error("no permission to open {}: add the user to the group kvm (usermod -aG kvm USER) and log in again", .0.display())]
    NotPermitted(PathBuf),
    /// The file is something else, or KVM is of a version that nobody has seen.
    #[error("{} is not KVM version 12 but answers {version}: give the path of the KVM device", .path.display())]
    WrongVersion {
        /// The file that was opened.
        path: PathBuf,
        /// What it answered to KVM_GET_API_VERSION.
        version: i32,
    },
    /// The kernel lacks a capability.
    #[error("the host's KVM lacks {0}: run a newer kernel")]
    Lacks(&'static str),
    /// The machine was described in a way that KVM can't build.
    #[error("{0}")]
    Impossible(String),
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked, on what.
        what: String,
        /// Why it was refused.
        source: io::Error,
    },
}

/// Makes the error of a refused request: `fd.call().map_err(refused("doing this"))`.
pub(crate) fn refused<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> KvmError {
    move |error| KvmError::Refused { what: what.into(), source: error.into() }
}

/// How this host runs guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmFlavour {
    /// With the processor's virtualization (AMD-V or VT-x).
    Hardware,
    /// Without it: a paravirtual KVM (module kvm_pvm), which runs only guests that were made for it, and small ones.
    Paravirtual,
}

/// The open KVM device.
#[derive(Debug)]
pub struct Kvm {
    pub(crate) fd: kvm_ioctls::Kvm,
    supported_cpuid: OnceLock<Result<CpuidTable, i32>>,
}

impl Kvm {
    /// Opens the KVM device at `path` (usually /dev/kvm) and checks that it can do what the machine needs.
    pub fn open(path: &Path) -> Result<Self, KvmError> {
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| KvmError::Impossible(format!("{} contains a zero byte", path.display())))?;
        let fd = kvm_ioctls::Kvm::new_with_path(c_path).map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing(path.to_owned()),
            libc::EACCES | libc::EPERM => KvmError::NotPermitted(path.to_owned()),
            _ => refused(format!("opening {}", path.display()))(error),
        })?;
        let version = fd.get_api_version();
        if version != API_VERSION {
            return Err(KvmError::WrongVersion { path: path.to_owned(), version });
        }
        for (capability, name) in REQUIRED {
            if fd.check_extension_raw(capability) <= 0 {
                return Err(KvmError::Lacks(name));
            }
        }
        Ok(Self { fd, supported_cpuid: OnceLock::new() })
    }

    /// How this host runs guests. Not needed to run one; for advice to operators.
    pub fn flavour(&self) -> KvmFlavour {
        if Path::new("/sys/module/kvm_pvm").exists() && !hardware_virtualization() {
            KvmFlavour::Paravirtual
        } else {
            KvmFlavour::Hardware
        }
    }

    /// Most vCPUs that the kernel allows in one machine.
    pub fn max_vcpus(&self) -> usize {
        self.fd.get_max_vcpus()
    }

    /// Most memory slots in one machine.
    pub fn max_memory_slots(&self) -> usize {
        self.fd.get_nr_memslots()
    }

    /// Width in bits of a guest-physical address (CPUID leaf 8000_0008h, EAX bits 7 to 0).
    pub fn address_bits(&self) -> Result<u8, KvmError> {
        let table = self.supported_cpuid()?;
        Ok(table.get(0x8000_0008, 0).map_or(36, |entry| entry.eax.to_le_bytes()[0]))
    }

    /// Every CPUID leaf and feature that this host can give to a guest. The kernel is asked once.
    ///
    /// That takes the kernel some hundred CPUID instructions, which are slow where this host is itself a virtual machine
    /// (0.3 ms were seen, a third of all that KVM costs at start).
    pub fn supported_cpuid(&self) -> Result<&CpuidTable, KvmError> {
        let answer =
            self.supported_cpuid.get_or_init(|| match self.fd.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES) {
                Ok(entries) => Ok(CpuidTable::from_kvm(entries.as_slice())),
                Err(error) => Err(error.errno()),
            });
        answer.as_ref().map_err(|code| {
            refused("asking KVM for the CPUID features it supports")(io::Error::from_raw_os_error(*code))
        })
    }

    /// Whether the host's processor is Intel's, or of a company that follows it.
    pub(crate) fn on_intel(&self) -> Result<bool, KvmError> {
        Ok(self.supported_cpuid()?.vendor() == Vendor::Intel)
    }

    pub(crate) fn has(&self, capability: Cap) -> bool {
        self.fd.check_extension_int(capability) > 0
    }
}

/// Whether this processor offers AMD-V (CPUID 8000_0001h, ECX bit 2) or VT-x (CPUID 1, ECX bit 5).
fn hardware_virtualization() -> bool {
    use std::arch::x86_64::__cpuid;
    let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & 1 << 2 != 0;
    svm || __cpuid(1).ecx & 1 << 5 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_answered_with_what_to_load() {
        let error = Kvm::open(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(matches!(error, KvmError::Missing(_)), "{error}");
        assert!(error.to_string().contains("load the module kvm_amd or kvm_intel"));
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn a_file_that_is_not_kvm_is_refused() {
        let error = Kvm::open(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, KvmError::WrongVersion { version: -1, .. }), "{error:?}");
    }
}
