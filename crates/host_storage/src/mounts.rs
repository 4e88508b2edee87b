//! What is mounted where: /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::path::{Path, PathBuf};

use crate::error::StorageError;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where.
    pub(crate) target: PathBuf,
    /// What: a device, or whatever the file system calls its source.
    pub(crate) source: String,
}

/// What is mounted at a directory; the last one is what is seen.
pub(crate) fn at(target: &Path) -> Result<Option<Mount>, StorageError> {
    const TABLE: &str = "/proc/self/mountinfo";
    let text = std::fs::read(TABLE).map_err(|source| StorageError::system("read", TABLE, source))?;
    let target = std::fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    let table = String::from_utf8_lossy(&text);
    Ok(table.lines().rev().filter_map(parse).find(|mount| mount.target == target))
}

/// A line: ID, parent, device, root, mount point, options, optional fields, "-", type, source, more options.
fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let target = PathBuf::from(unescape(before.split(' ').nth(4)?));
    let source = unescape(after.split(' ').nth(1)?);
    Some(Mount { target, source })
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) if code.is_ascii() => {
                text.push(char::from(code));
                text.push_str(rest);
            }
            _ => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_blanks_in_their_names() {
        let line = r"36 35 98:0 /mnt1 /mnt\040a rw,noatime master:1 - ext3 /dev/ro\134ot rw,errors=continue";
        let expected = Mount { target: "/mnt a".into(), source: r"/dev/ro\ot".into() };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("rubbish"), None);
        assert_eq!(unescape(r"a\04"), r"a\04");
        assert!(at(Path::new("/proc")).unwrap().is_some());
        assert!(at(Path::new("/proc/self")).unwrap().is_none());
    }
}
