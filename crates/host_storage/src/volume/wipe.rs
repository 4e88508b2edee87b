//! Overwriting the content of volumes. Source: libvirt's documentation of virStorageVolWipeAlgorithm; scrub(1) for the patterns.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libvirt_xml::storage::VolumeFormat;
use rustix::fs::FallocateFlags;

use super::Dependents;
use crate::error::StorageError;
use crate::formats::{FormatOrigin, Identity};
use crate::image;
use crate::pool::Pool;
use crate::storage::Storage;

/// How content is overwritten, with libvirt's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WipeAlgorithm {
    /// Zeroes, once.
    #[default]
    Zero = 0,
    /// Roy Pfitzner's: random bytes, seven times.
    Pfitzner7 = 6,
    /// Roy Pfitzner's: random bytes, 33 times.
    Pfitzner33 = 7,
    /// Random bytes, once.
    Random = 8,
    /// The storage is given back and reads as zeroes.
    Trim = 9,
}

impl WipeAlgorithm {
    /// The algorithm of a number of libvirt's. Those that are known and not done here are refused by their names.
    pub fn from_number(number: u32) -> Result<Self, StorageError> {
        let refuse = |name: &str| {
            Err(StorageError::Unsupported(format!(
                "the wiping algorithm {name} is not supported: use zero, random, pfitzner7, pfitzner33 or trim"
            )))
        };
        match number {
            0 => Ok(Self::Zero),
            1 => refuse("nnsa"),
            2 => refuse("dod"),
            3 => refuse("bsi"),
            4 => refuse("gutmann"),
            5 => refuse("schneier"),
            6 => Ok(Self::Pfitzner7),
            7 => Ok(Self::Pfitzner33),
            8 => Ok(Self::Random),
            9 => Ok(Self::Trim),
            other => Err(StorageError::InvalidArgument(format!("{other} is no wiping algorithm"))),
        }
    }

    fn passes(self) -> (Pattern, u64) {
        match self {
            Self::Zero | Self::Trim => (Pattern::Zero, 1),
            Self::Random => (Pattern::Random, 1),
            Self::Pfitzner7 => (Pattern::Random, 7),
            Self::Pfitzner33 => (Pattern::Random, 33),
        }
    }
}

impl Storage {
    /// Overwrites a volume that nobody uses. Holes of a file have no content, and stay. What was a qcow2 image is none any more:
    /// the volume is raw then.
    pub fn wipe_volume(
        &self,
        pool: &Pool,
        name: &str,
        algorithm: WipeAlgorithm,
        progress: crate::Progress<'_>,
    ) -> Result<(), StorageError> {
        let claimed = self.claim_to_change(pool, name, "wipe", Dependents::Refused)?;
        let (file, path) = (claimed.file(), &claimed.known.path);
        if claimed.directory.is_some() && !image::is_raw(claimed.known.format) {
            let identity = Identity::of(file).map_err(StorageError::on("look at", path))?;
            pool.record.remember(identity, name, VolumeFormat::Raw, FormatOrigin::Told)?;
            let mut known = claimed.known.clone();
            (known.format, known.origin) = (VolumeFormat::Raw, FormatOrigin::Told);
            pool.add(known);
        }
        if algorithm == WipeAlgorithm::Trim {
            let bytes = image::length(file, path)?;
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if bytes > 0 {
                rustix::fs::fallocate(file, mode, 0, bytes).map_err(StorageError::on("trim", path))?;
            }
            return file.sync_all().map_err(|error| StorageError::system("sync", path, error));
        }
        let (pattern, passes) = algorithm.passes();
        for pass in 0..passes {
            let mut within = |done: u64, total: u64| {
                progress(total.saturating_mul(pass).saturating_add(done), total.saturating_mul(passes))
            };
            overwrite(file, path, pattern, &mut within)?;
        }
        self.update_sizes(pool);
        Ok(())
    }
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    Zero,
    Random,
}

const CHUNK_BYTES: usize = 1 << 20;

/// Overwrites what a file or device holds, and makes that durable.
pub(super) fn overwrite(
    file: &File,
    path: &Path,
    pattern: Pattern,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    const RANDOM: &str = "/dev/urandom";
    let total = image::length(file, path)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut random = match pattern {
        Pattern::Zero => None,
        Pattern::Random => {
            Some(File::open(RANDOM).map_err(|error| StorageError::system("open", RANDOM, error))?)
        }
    };
    let mut at = 0;
    while let Some((data, end)) =
        image::next_piece(file, at, total).map_err(StorageError::on("look at", path))?
    {
        while data && at < end {
            let length = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let part = &mut buffer[..length];
            if let Some(random) = &mut random {
                random.read_exact(part).map_err(|error| StorageError::system("read", RANDOM, error))?;
            }
            file.write_all_at(part, at).map_err(|error| StorageError::system("overwrite", path, error))?;
            at += length as u64;
            image::advance(progress, at, total)?;
        }
        at = end;
    }
    file.sync_all().map_err(|error| StorageError::system("sync", path, error))?;
    image::advance(progress, total, total)
}
