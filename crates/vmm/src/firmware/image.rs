//! The files of firmware: the program, read once; the variables, kept open and locked as long as the machine lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use machine_spec::spec::FirmwareSpec;
use platform::flash::BLOCK_BYTES;
use rustix::fs::{FlockOperation, flock};

use crate::layout::FIRMWARE;

/// Most that has a place, and least that holds a program: a processor starts 16 bytes before its end.
const MOST_BYTES: u64 = FIRMWARE.end - FIRMWARE.start;
const LEAST_BYTES: u64 = 64 << 10;

/// Signature of a volume of UEFI firmware, and where it is (UEFI Platform Initialization 1.7, volume 3, section 3.2.1.1).
const VOLUME_SIGNATURE: [u8; 4] = *b"_FVH";
const VOLUME_SIGNATURE_AT: usize = 0x28;

/// Why firmware can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirmwareError {
    /// A file does not open, or can't be read.
    #[error("{option} {}: {what}: {source}", .path.display())]
    File {
        /// The option.
        option: &'static str,
        /// Its value.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is not what it has to be.
    #[error("{option} {}: {reason}", .path.display())]
    Unusable {
        /// The option.
        option: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// It has no place in the machine.
    #[error("--firmware {}: cannot be put into the machine: {reason}", .path.display())]
    Memory {
        /// The program.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What it is to be told can't be.
    #[error("--firmware: {0}")]
    Item(#[from] platform::firmware_configuration::ItemError),
}

/// Firmware that a machine starts with, and starts again.
#[derive(Debug)]
pub(crate) struct FirmwareImage {
    path: PathBuf,
    code: Arc<[u8]>,
    variables: Option<(PathBuf, File, usize)>,
}

/// A regular file of a size that has a place.
fn open(option: &'static str, path: &Path, write: bool) -> Result<(File, u64), FirmwareError> {
    let fault = |what| move |source| FirmwareError::File { option, path: path.to_owned(), what, source };
    let unusable = |reason: String| FirmwareError::Unusable { option, path: path.to_owned(), reason };
    // Without O_NONBLOCK a named pipe would hold the machine up until somebody writes to it.
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(fault("cannot open"))?;
    let metadata = file.metadata().map_err(fault("cannot look at it"))?;
    if !metadata.is_file() {
        return Err(unusable("not a regular file: give the path of an image".to_owned()));
    }
    let bytes = metadata.len();
    if !bytes.is_multiple_of(BLOCK_BYTES as u64) || bytes > MOST_BYTES || bytes == 0 {
        return Err(unusable(format!(
            "{bytes} bytes are no firmware: it has whole pages of 4 KiB, at most {} MiB",
            MOST_BYTES >> 20
        )));
    }
    Ok((file, bytes))
}

impl FirmwareImage {
    /// Opens what `spec` names.
    ///
    /// # Errors
    /// A file is missing, of a wrong size, used by another machine, or does not belong to the other.
    pub(crate) fn open(spec: &FirmwareSpec) -> Result<Self, FirmwareError> {
        let path = spec.image.clone();
        let (mut file, bytes) = open("--firmware", &path, false)?;
        let unusable = |reason: &str| FirmwareError::Unusable {
            option: "--firmware",
            path: path.clone(),
            reason: reason.to_owned(),
        };
        if bytes < LEAST_BYTES {
            return Err(unusable("too small for a program: give a BIOS, or the code of UEFI"));
        }
        let mut code = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        let read = (&mut file).take(bytes).read_to_end(&mut code);
        read.map_err(|source| FirmwareError::File {
            option: "--firmware",
            path: path.clone(),
            what: "cannot read",
            source,
        })?;
        if code.len() as u64 != bytes {
            return Err(unusable("it became shorter while it was read: copy it again"));
        }
        let variables = match &spec.variables {
            Some(variables) => Some(open_variables(variables, &path, bytes)?),
            None => None,
        };
        Ok(Self { path, code: code.into(), variables })
    }

    pub(super) fn code(&self) -> &[u8] {
        &self.code
    }

    /// What it remembers now.
    pub(super) fn read_variables(&self) -> Result<Option<Vec<u8>>, FirmwareError> {
        let Some((path, file, bytes)) = &self.variables else { return Ok(None) };
        let mut content = vec![0; *bytes];
        let read = file.read_exact_at(&mut content, 0);
        read.map_err(|source| FirmwareError::File {
            option: "--nvram",
            path: path.clone(),
            what: "cannot read",
            source,
        })?;
        Ok(Some(content))
    }

    /// Another descriptor of the file with the variables.
    pub(super) fn share_variables(&self) -> Result<File, FirmwareError> {
        match &self.variables {
            Some((_, file, _)) => file.try_clone().map_err(|error| self.memory(error.to_string())),
            None => Err(self.memory("it has no variables".to_owned())),
        }
    }

    pub(super) fn memory(&self, reason: String) -> FirmwareError {
        FirmwareError::Memory { path: self.path.clone(), reason }
    }
}

/// Opens variables for code of so many bytes, for this machine alone.
fn open_variables(path: &Path, code_path: &Path, code: u64) -> Result<(PathBuf, File, usize), FirmwareError> {
    let option = "--nvram";
    let (file, bytes) = open(option, path, true)?;
    let unusable = |reason: String| FirmwareError::Unusable { option, path: path.to_owned(), reason };
    let mut header = [0; VOLUME_SIGNATURE_AT + VOLUME_SIGNATURE.len()];
    let read = file.read_exact_at(&mut header, 0);
    read.map_err(|source| FirmwareError::File {
        option,
        path: path.to_owned(),
        what: "cannot read",
        source,
    })?;
    if !header.ends_with(&VOLUME_SIGNATURE) {
        return Err(unusable(
            "it holds no variables of UEFI: copy the file that came with the firmware (such as OVMF_VARS_4M.fd)".to_owned(),
        ));
    }
    // Builds divide a flash memory whose size is a power of two.
    if !code.saturating_add(bytes).is_power_of_two() {
        return Err(unusable(format!(
            "these variables of {} KiB are not those of {} with {} KiB: copy the file that came with it",
            bytes >> 10,
            code_path.display(),
            code >> 10
        )));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(unusable(
                "another machine uses it: each machine needs variables of its own".to_owned(),
            ));
        }
        Err(error) => {
            return Err(FirmwareError::File {
                option,
                path: path.to_owned(),
                what: "cannot lock it",
                source: error.into(),
            });
        }
    }
    Ok((path.to_owned(), file, usize::try_from(bytes).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, bytes: usize, variables: bool) -> PathBuf {
        let mut content = vec![0; bytes];
        if variables {
            content[VOLUME_SIGNATURE_AT..][..4].copy_from_slice(&VOLUME_SIGNATURE);
        }
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn refusal(image: &Path, variables: Option<&Path>) -> String {
        let spec = FirmwareSpec { image: image.to_owned(), variables: variables.map(Path::to_owned) };
        FirmwareImage::open(&spec).unwrap_err().to_string()
    }

    #[test]
    fn files_that_are_no_firmware_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let code = file(folder, "code", 0x7_c000, false);
        let cases = [
            (refusal(&folder.join("absent"), None), "cannot open"),
            (refusal(folder, None), "not a regular file"),
            (refusal(&file(folder, "odd", 0x1_0001, false), None), "65537 bytes are no firmware"),
            (refusal(&file(folder, "empty", 0, false), None), "0 bytes are no firmware"),
            (refusal(&file(folder, "huge", 17 << 20, false), None), "at most 16 MiB"),
            (refusal(&file(folder, "tiny", 4096, false), None), "too small for a program"),
            (refusal(&code, Some(&file(folder, "plain", 0x4000, false))), "holds no variables of UEFI"),
            (refusal(&code, Some(&file(folder, "other", 0x8000, true))), "are not those of"),
        ];
        for (text, expected) in cases {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn variables_belong_to_one_machine_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let code = file(folder.path(), "code", 0x7_c000, false);
        let variables = file(folder.path(), "variables", 0x4000, true);
        let spec = FirmwareSpec { image: code.clone(), variables: Some(variables.clone()) };
        let first = FirmwareImage::open(&spec).unwrap();
        assert!(refusal(&code, Some(&variables)).contains("another machine uses it"));
        assert_eq!(first.read_variables().unwrap().unwrap().len(), 0x4000);
        drop(first);
        FirmwareImage::open(&spec).unwrap();
    }
}
