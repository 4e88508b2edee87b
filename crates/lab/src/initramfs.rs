//! Initramfs images around a static busybox: the emulated host's and the guests'.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command;
use crate::cpio::Archive;
use crate::error::LabError;
use crate::interrupt::Interrupt;

/// A busybox that runs without a C library beside it.
#[derive(Debug)]
pub(crate) struct Busybox {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Busybox {
    /// The installed one.
    ///
    /// # Errors
    /// [`LabError::MissingProgram`] when there is none or only one that needs shared libraries.
    pub(crate) fn find() -> Result<Busybox, LabError> {
        let missing = || LabError::MissingProgram {
            program: "busybox".to_owned(),
            packages: "busybox-static".to_owned(),
        };
        let path = command::find("busybox".as_ref()).ok_or_else(missing)?;
        let bytes = std::fs::read(&path).map_err(LabError::file("reading", &path))?;
        if is_static(&bytes) { Ok(Busybox { path, bytes }) } else { Err(missing()) }
    }
}

/// Whether an ELF64 file names no program interpreter (ELF-64 object file format 1.5: program headers).
fn is_static(elf: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let interpreted = || {
        let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
        let (size, count) = (half(54)?, half(56)?);
        let mut found = false;
        for index in 0..count {
            let at = table.checked_add(size.checked_mul(index)?)?;
            let kind = elf.get(at..at.checked_add(4)?)?;
            found |= u32::from_le_bytes(kind.try_into().ok()?) == INTERPRETER;
        }
        Some(found)
    };
    elf.starts_with(b"\x7fELF\x02") && interpreted() == Some(false)
}

/// An image in the making.
#[derive(Debug)]
pub(crate) struct Initramfs(Archive<Vec<u8>>);

impl Initramfs {
    /// The folders, busybox under the names of all its commands, and `/init`.
    pub(crate) fn start(
        busybox: &Busybox,
        init: &str,
        folders: &[&str],
        interrupt: &Interrupt,
    ) -> Result<Initramfs, LabError> {
        let list = command::check(Command::new(&busybox.path).arg("--list").stdin(Stdio::null()), interrupt)?;
        let list = String::from_utf8_lossy(&list);
        let base = ["bin", "dev", "proc", "sys", "mnt", "tmp", "run", "lib", "lib/modules"];
        let mut image = Initramfs(Archive::new(Vec::new()));
        image.put("bin", |archive| {
            for folder in base.iter().chain(folders) {
                archive.directory(folder)?;
            }
            archive.character_device("dev/console", 5, 1)?;
            archive.file("bin/busybox", 0o755, &busybox.bytes)?;
            for applet in list.split_whitespace().filter(|applet| *applet != "busybox") {
                archive.symlink(&format!("bin/{applet}"), "busybox")?;
            }
            archive.file("init", 0o755, init.as_bytes())
        })?;
        Ok(image)
    }

    pub(crate) fn file(&mut self, name: &str, contents: &[u8]) -> Result<(), LabError> {
        self.put(name, |archive| archive.file(name, 0o644, contents))
    }

    pub(crate) fn executable(&mut self, name: &str, contents: &[u8]) -> Result<(), LabError> {
        self.put(name, |archive| archive.file(name, 0o755, contents))
    }

    pub(crate) fn directory(&mut self, name: &str) -> Result<(), LabError> {
        self.put(name, |archive| archive.directory(name))
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> Result<(), LabError> {
        self.put(name, |archive| archive.symlink(name, target))
    }

    /// Adds the file `from` under `name`.
    pub(crate) fn copy(&mut self, from: &Path, name: &str) -> Result<(), LabError> {
        let bytes = std::fs::read(from).map_err(LabError::file("reading", from))?;
        self.file(name, &bytes)
    }

    /// Writes the image to `path`.
    pub(crate) fn write(self, path: &Path) -> Result<(), LabError> {
        let bytes = self.0.finish().map_err(LabError::file("packing", path))?;
        std::fs::write(path, bytes).map_err(LabError::file("writing", path))
    }

    fn put(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut Archive<Vec<u8>>) -> io::Result<()>,
    ) -> Result<(), LabError> {
        write(&mut self.0).map_err(LabError::file("packing", name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn only_files_without_an_interpreter_are_static() {
        assert!(is_static(&elf(1)));
        assert!(!is_static(&elf(3)), "a program interpreter makes it dynamic");
        assert!(!is_static(&elf(1)[..66]), "a header that is cut off");
        assert!(!is_static(b"#!/bin/sh\n"));
    }
}
