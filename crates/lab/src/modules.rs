//! Kernel modules: which ones, in which order, and made quick to load.
//!
//! Under an emulated CPU decompressing a module and checking its signature cost far more than loading it, so the modules that
//! are used are stored uncompressed and without their signature, a trailer that the kernel takes off itself (Linux
//! include/linux/module_signature.h).

use std::path::{Path, PathBuf};

use crate::command;
use crate::error::LabError;
use crate::interrupt::Interrupt;

const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`: eight bytes of fields, then the signature's length, big endian.
const SIGNATURE_FIELDS: usize = 12;

/// The modules of one kernel: `folder` holds `lib/modules/VERSION`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Modules<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) version: &'a str,
}

impl Modules<'_> {
    /// The files to insert for `names`, dependencies first. What is built into the kernel needs none, and what this kernel
    /// does not have is left out.
    pub(crate) fn resolve(&self, names: &[&str], interrupt: &Interrupt) -> Result<Vec<PathBuf>, LabError> {
        let mut command = command::tool("modprobe", "kmod")?;
        // Without this machine's configuration: blacklists and options are of no concern to the kernel in question.
        command.args(["--config", "/dev/null", "--set-version", self.version, "--dirname"]).arg(self.folder);
        command.args(["--all", "--show-depends"]).args(names);
        let finished = command::run(&mut command, interrupt)?;
        let files = insmod_lines(&String::from_utf8_lossy(&finished.output));
        // It ends with an error when one module is unknown; only when all are something is wrong.
        if files.is_empty() && !finished.status.success() { Err(finished.failure()) } else { Ok(files) }
    }

    /// Stores `names` and what they depend on uncompressed and unsigned, and renews the index.
    pub(crate) fn unpack(&self, names: &[&str], interrupt: &Interrupt) -> Result<(), LabError> {
        self.index(interrupt)?;
        let mut plain = Vec::new();
        let (mut xz, mut zstd, mut gzip) = (Vec::new(), Vec::new(), Vec::new());
        for file in self.resolve(names, interrupt)? {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("xz") => xz.push(file.clone()),
                Some("zst") => zstd.push(file.clone()),
                Some("gz") => gzip.push(file.clone()),
                _ => {
                    plain.push(file);
                    continue;
                }
            }
            plain.push(file.with_extension(""));
        }
        for (program, package, files) in
            [("xz", "xz-utils", &xz), ("zstd", "zstd", &zstd), ("gzip", "gzip", &gzip)]
        {
            if !files.is_empty() {
                let mut command = command::tool(program, package)?;
                if program == "zstd" {
                    command.arg("--rm");
                }
                command::check(command.args(["-d", "-q", "-f"]).args(files), interrupt)?;
            }
        }
        for file in plain {
            let bytes = std::fs::read(&file).map_err(LabError::file("reading", &file))?;
            let unsigned = without_signature(&bytes).map_err(|why| LabError::Image(file.clone(), why))?;
            if unsigned.len() < bytes.len() {
                std::fs::write(&file, unsigned).map_err(LabError::file("writing", &file))?;
            }
        }
        self.index(interrupt)
    }

    /// Writes the index that modprobe reads.
    pub(crate) fn index(&self, interrupt: &Interrupt) -> Result<(), LabError> {
        let mut command = command::tool("depmod", "kmod")?;
        command.arg("--basedir").arg(self.folder).arg(self.version);
        command::check(&mut command, interrupt).map(drop)
    }
}

/// The files named in the output of `modprobe --show-depends`, each once.
fn insmod_lines(output: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for line in output.lines() {
        // Options may follow the file, but not without a modprobe configuration.
        if let Some(file) = line.strip_prefix("insmod ") {
            let file = PathBuf::from(file.trim_end());
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// `module` up to its signature, if it has one.
fn without_signature(module: &[u8]) -> Result<&[u8], &'static str> {
    const SHORT: &str = "its signature is longer than the module";
    let Some(signed) = module.strip_suffix(SIGNATURE_MAGIC) else { return Ok(module) };
    let fields = signed.len().checked_sub(SIGNATURE_FIELDS).ok_or(SHORT)?;
    let mut length = [0; 4];
    length.copy_from_slice(&signed[signed.len() - 4..]);
    let end = fields.checked_sub(u32::from_be_bytes(length) as usize).ok_or(SHORT)?;
    Ok(&signed[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_signature_is_cut_off_exactly(body: Vec<u8>, signature in proptest::collection::vec(any::<u8>(), 0..600)) {
            let length = u32::try_from(signature.len()).unwrap().to_be_bytes();
            let signed = [&body, &signature, [0; 8].as_slice(), &length, SIGNATURE_MAGIC].concat();
            prop_assert_eq!(without_signature(&signed), Ok(body.as_slice()));
        }

        #[test]
        fn a_module_without_signature_stays_as_it_is(body: Vec<u8>) {
            prop_assert_eq!(without_signature(&body), Ok(body.as_slice()));
        }
    }

    #[test]
    fn a_signature_longer_than_the_module_is_refused() {
        let length = 100_u32.to_be_bytes();
        let signed = [[0; 8].as_slice(), &length, SIGNATURE_MAGIC].concat();
        assert!(without_signature(&signed).is_err());
        assert!(without_signature(SIGNATURE_MAGIC).is_err());
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let output = "insmod /m/failover.ko \ninsmod /m/net.ko \nbuiltin ext4\ninsmod /m/failover.ko \n";
        assert_eq!(insmod_lines(output), [PathBuf::from("/m/failover.ko"), PathBuf::from("/m/net.ko")]);
    }
}
