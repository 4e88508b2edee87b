//! No byte is lost: random work beside QEMU's tools, writers that are killed, disks that are full.
//!
//! Everything random follows from a seed that a failure prints: `VIREO_SEED=N` repeats the case, `VIREO_CASES=N` runs N times
//! as many.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![expect(clippy::cast_possible_truncation, reason = "offsets in disks of a few MiB index their models")]

mod alternating;
mod full_disk;
mod killed_writer;
mod model;
mod qemu;
mod random;
