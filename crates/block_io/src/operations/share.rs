//! Letting the file system give a target the source's storage instead of copying it: reflinks (ioctl_ficlonerange(2)) where
//! it has them, copy_file_range(2) where a server would copy by itself.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::OpenImage;

/// `FICLONERANGE`, `_IOW(0x94, 13, struct file_clone_range)`, of linux/fs.h.
const FICLONERANGE: u32 = 0x4020_940d;
/// File systems whose servers copy (linux/magic.h): NFS, SMB, Ceph.
const NETWORK: [u64; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];
/// What file systems share: whole blocks of this size (others refuse, and the copy goes its usual way).
const BLOCK_BYTES: u64 = 4096;
/// Most that is shared at a time: bounds how long a copy does not look whether it is to end.
const MOST_BYTES: u64 = 64 << 20;

/// Gives `target` from `offset` on what `source` has there, at most `bytes` bytes of data. Returns for how many bytes that
/// was done: 0 if these can't be shared although others may be. An error means that nothing can be shared.
pub(super) fn share(
    source: &OpenImage,
    target: &OpenImage,
    offset: u64,
    target_offset: u64,
    bytes: u64,
) -> Result<u64, Errno> {
    let unit = match target {
        OpenImage::Raw(_) => BLOCK_BYTES,
        OpenImage::Qcow2(disk) => disk.cluster_bytes(),
        OpenImage::Foreign(_) => return Err(Errno::OPNOTSUPP),
    };
    if unit < BLOCK_BYTES {
        return Err(Errno::OPNOTSUPP);
    }
    let extent = match source {
        OpenImage::Raw(disk) => Some((disk.file(), offset, bytes)),
        OpenImage::Qcow2(disk) => disk.extent(offset, bytes)?,
        OpenImage::Foreign(_) => return Err(Errno::OPNOTSUPP),
    };
    let Some((file, place, run)) = extent else { return Ok(0) };
    let bytes = run.min(bytes).min(MOST_BYTES);
    let bytes = bytes - bytes % unit;
    if bytes == 0 || !place.is_multiple_of(BLOCK_BYTES) || !target_offset.is_multiple_of(unit) {
        return Ok(0);
    }
    match target {
        OpenImage::Raw(disk) => share_range(file, place, disk.file(), target_offset, bytes)?,
        OpenImage::Qcow2(disk) => disk.fill_clusters(target_offset, bytes, &|into, host, done, bytes| {
            share_range(file, place + done, into, host, bytes)
        })?,
        OpenImage::Foreign(_) => return Err(Errno::OPNOTSUPP),
    }
    Ok(bytes)
}

fn share_range(from: &File, place: u64, into: &File, target: u64, bytes: u64) -> Result<(), Errno> {
    match clone_range(from, place, into, target, bytes) {
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) if is_remote(into)? => {
            copy_range(from, place, into, target, bytes)
        }
        result => result,
    }
}

#[expect(unsafe_code, reason = "an ioctl(2) of file systems")]
fn clone_range(from: &File, place: u64, into: &File, target: u64, bytes: u64) -> Result<(), Errno> {
    let descriptor = i64::from(from.as_fd().as_raw_fd()).cast_unsigned();
    // struct file_clone_range: source descriptor, its offset, length, destination's offset.
    let range = [descriptor, place, bytes, target];
    // SAFETY: the request reads four 64-bit numbers from the address given, which is that of a live array of them.
    let result = unsafe { libc::ioctl(into.as_raw_fd(), FICLONERANGE.into(), range.as_ptr()) };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn is_remote(file: &File) -> Result<bool, Errno> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    // Magic numbers have 32 bits.
    Ok(NETWORK.contains(&(kind.cast_unsigned() & 0xffff_ffff)))
}

fn copy_range(from: &File, mut place: u64, into: &File, mut target: u64, bytes: u64) -> Result<(), Errno> {
    let end = place + bytes;
    while place < end {
        let most = usize::try_from(end - place).map_err(|_| Errno::FBIG)?;
        // Moves both places.
        match rustix::fs::copy_file_range(from, Some(&mut place), into, Some(&mut target), most) {
            Ok(0) => return Err(Errno::IO),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_range_is_copied_by_the_kernel() {
        let directory =
            tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/var/tmp")).unwrap();
        let create = |name: &str| {
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(directory.path().join(name))
                .unwrap()
        };
        let (from, into) = (create("from"), create("into"));
        let content: Vec<u8> = (0..300_000u32).map(|number| number.to_le_bytes()[1]).collect();
        from.write_all_at(&content, 0).unwrap();
        copy_range(&from, 4096, &into, 8192, 200_000).unwrap();
        let mut found = vec![0xff; 208_192];
        into.read_exact_at(&mut found, 0).unwrap();
        assert!(found[..8192].iter().all(|byte| *byte == 0));
        assert!(found[8192..] == content[4096..204_096]);
        assert_eq!(copy_range(&from, 290_000, &into, 0, 20_000), Err(Errno::IO), "the source is shorter");
    }
}
