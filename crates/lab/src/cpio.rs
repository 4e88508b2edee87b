//! A writer for the "newc" cpio archives that the kernel unpacks as an initramfs (Documentation/driver-api/early-userspace/
//! buffer-format.rst of Linux). Everything belongs to root and carries no time, so equal contents make equal archives.

use std::io::{self, Write};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes entries one after the other; a directory has to come before what is in it.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    out: W,
    inode: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Archive<W> {
        Archive { out, inode: 0, written: 0 }
    }

    /// Adds a directory of mode 0755.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, 2, 0, 0, &[])
    }

    /// Adds a file; `mode` holds its permission bits.
    pub(crate) fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | (mode & 0o7777), 1, 0, 0, contents)
    }

    /// Adds a symbolic link to `target`.
    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, 1, 0, 0, target.as_bytes())
    }

    /// Adds a character device node of mode 0600.
    pub(crate) fn character_device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, 1, major, minor, &[])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, 1, 0, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        major: u32,
        minor: u32,
        contents: &[u8],
    ) -> io::Result<()> {
        let too_big = |_| io::Error::new(io::ErrorKind::InvalidInput, "too big for a cpio archive");
        if name.is_empty() || name.starts_with('/') || name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name has to be relative"));
        }
        let size = u32::try_from(contents.len()).map_err(too_big)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_big)?;
        self.inode += 1;
        let (owner, time, device, checksum) = (0, 0, 0, 0);
        let fields = [
            self.inode, mode, owner, owner, links, time, size, device, device, major, minor, name_size,
            checksum,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(contents)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(4) {
            self.write(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Name, mode and contents of every entry, read as the kernel's unpacker does.
    fn parse(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let total = bytes.len();
        loop {
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&bytes[..6], b"070701");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let position = total - bytes.len();
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0, "the name ends with a zero byte");
            let contents_at = (position + 110 + name_size).next_multiple_of(4) - position;
            let contents = bytes[contents_at..contents_at + size].to_vec();
            let next = (position + contents_at + size).next_multiple_of(4) - position;
            bytes = &bytes[next..];
            if name == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return found;
            }
            found.push((name, mode, contents));
        }
    }

    proptest! {
        #[test]
        fn every_entry_is_found_again(
            entries in proptest::collection::vec(("[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..50)), 0..9),
        ) {
            let mut archive = Archive::new(Vec::new());
            archive.directory("bin").unwrap();
            for (name, contents) in &entries {
                archive.file(name, 0o644, contents).unwrap();
            }
            let found = parse(&archive.finish().unwrap());
            prop_assert_eq!(&found[0], &("bin".to_owned(), 0o040_755, vec![]));
            let files: Vec<_> = entries.into_iter().map(|(name, contents)| (name, 0o100_644, contents)).collect();
            prop_assert_eq!(&found[1..], &files[..]);
        }
    }

    #[test]
    fn devices_and_links_carry_their_type() {
        let mut archive = Archive::new(Vec::new());
        archive.symlink("sh", "busybox").unwrap();
        archive.character_device("console", 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        let found = parse(&bytes);
        assert_eq!(found[0], ("sh".to_owned(), 0o120_777, b"busybox".to_vec()));
        assert_eq!((found[1].1, found[1].2.len()), (0o020_600, 0));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("0000000500000001"), "major and minor stand in the header");
    }

    #[test]
    fn absolute_names_are_refused() {
        assert!(Archive::new(Vec::new()).directory("/bin").is_err());
        assert!(Archive::new(Vec::new()).directory("").is_err());
    }
}
