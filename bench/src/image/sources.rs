//! The images that are read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::command::{Clock, measure};

/// What is written at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// Of so many pieces of the sparse image one has data, and half of that is zeroes that are stored.
const SPARSE: u64 = 8;

/// Images with the same disks in both formats, made by `qemu-img`; removed when dropped.
#[derive(Debug)]
pub(super) struct Sources {
    folder: tempfile::TempDir,
}

impl Sources {
    pub(super) fn make(directory: &Path, bytes: u64) -> Result<Self> {
        let folder = tempfile::tempdir_in(directory).context("a temporary folder")?;
        let sources = Self { folder };
        for (name, every) in [("full", 1), ("sparse", SPARSE)] {
            let raw = sources.path(&format!("{name}.raw"));
            fill(&raw, bytes, every).with_context(|| format!("writing {}", raw.display()))?;
            let qcow2 = sources.path(&format!("{name}.qcow2"));
            let words = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"].map(str::to_owned);
            let files = [&raw, &qcow2].map(|path| path.display().to_string());
            measure(&[words.as_slice(), &files].concat(), Clock::Process)?;
        }
        Ok(sources)
    }

    /// A file in the folder of the images.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Writes numbers that do not repeat into every so-manieth piece.
fn fill(path: &Path, bytes: u64, every: u64) -> Result<()> {
    let file = File::create_new(path)?;
    file.set_len(bytes)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0; usize::try_from(PIECE_BYTES)?];
    for number in (0..bytes / PIECE_BYTES).step_by(usize::try_from(every)?) {
        let used = if every == 1 { piece.len() } else { piece.len() / 2 };
        for word in piece[..used].as_chunks_mut::<8>().0 {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_ne_bytes();
        }
        file.write_all_at(&piece, number * PIECE_BYTES)?;
    }
    file.sync_all()?;
    Ok(())
}
