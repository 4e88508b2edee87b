//! `vireo image snapshot`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use block_io::operations::{SnapshotInfo, apply_snapshot, create_snapshot, delete_snapshot, list_snapshots};
use clap::Args;

use super::arguments::{Format, image_path};
use crate::output::{harmless, local_time, print, readable};

/// List, take, apply or delete the snapshots inside a qcow2 image.
///
/// Nobody else may have the image open, except for listing. Without an option, snapshots are listed.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArguments {
    /// Format of the image; qcow2 is the only one with snapshots
    #[arg(short, long, value_name = "FORMAT", default_value = "qcow2")]
    format: Format,
    /// List the snapshots
    #[arg(short, long, group = "action")]
    list: bool,
    /// Take a snapshot of the disk as it is
    #[arg(short, long, value_name = "NAME", group = "action")]
    create: Option<String>,
    /// Make the disk what it was when the snapshot with this id or name was taken; what it is now is lost
    #[arg(short, long, value_name = "SNAPSHOT", group = "action")]
    apply: Option<String>,
    /// Delete the snapshot with this name
    #[arg(short, long, value_name = "NAME", group = "action")]
    delete: Option<String>,
    /// Look at images in use (always so for listing; accepted for scripts)
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
}

/// Does what is asked for.
pub(crate) fn run(arguments: &SnapshotArguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.file;
    if arguments.format == Format::Raw {
        bail!("{}: raw images have no snapshots: qcow2 images have", path.display());
    }
    if let Some(name) = &arguments.create {
        create_snapshot(path, name)?;
    } else if let Some(name) = &arguments.apply {
        apply_snapshot(path, name)?;
    } else if let Some(name) = &arguments.delete {
        delete_snapshot(path, name)?;
    } else {
        let snapshots = list_snapshots(path)?;
        if !snapshots.is_empty() && !arguments.quiet {
            print(&table(&snapshots))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The table as qemu-img prints it.
fn table(snapshots: &[SnapshotInfo]) -> String {
    let line = |id: &str, tag: &str, size: &str, date: &str, clock: &str, count: &str| {
        format!("{id:<7} {tag:<16} {size:>8} {date:>19} {clock:>15} {count:>10}\n")
    };
    let mut text = "Snapshot list:\n".to_owned();
    text.push_str(&line("ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"));
    for snapshot in snapshots {
        let seconds = snapshot.guest_nanoseconds / 1_000_000_000;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            snapshot.guest_nanoseconds / 1_000_000 % 1000
        );
        let count = snapshot.guest_instructions.map_or_else(String::new, |count| count.to_string());
        text.push_str(&line(
            &harmless(&snapshot.id),
            &harmless(&snapshot.name),
            &readable(snapshot.vm_state_bytes),
            &local_time(snapshot.taken_seconds.into()),
            &clock,
            &count,
        ));
    }
    text
}
