//! `vireo image info`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use block_io::operations::{ImageInfo, SnapshotInfo};
use block_io::qcow2::{Compression, Qcow2Info};
use clap::Args;
use serde_json::{Map, Value, json};

use super::arguments::{Format, Output, image_path};
use super::output::{harmless, print, print_json, readable};

/// Tell what an image is and says about itself.
///
/// Opens no file but this one. Takes no lock: what is said about an image in use may be out of date.
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    /// Format of the image; without it, its first bytes are believed
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// How to print
    #[arg(long, value_name = "KIND", default_value = "human")]
    output: Output,
    /// Look at images in use (always so; accepted for scripts)
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
}

/// Prints what the image says.
pub(crate) fn run(arguments: &InfoArguments) -> anyhow::Result<ExitCode> {
    let info = ImageInfo::read(&arguments.file, arguments.format.map(Into::into))?;
    match arguments.output {
        Output::Json => print_json(&as_json(&info))?,
        Output::Human => print(&as_text(&info))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn compression(info: &Qcow2Info) -> &'static str {
    match info.compression {
        Compression::Zlib => "zlib",
        Compression::Zstd => "zstd",
    }
}

fn compatibility(info: &Qcow2Info) -> &'static str {
    if info.version == 2 { "0.10" } else { "1.1" }
}

/// Keys of QEMU's `ImageInfo` (qapi/block-core.json).
fn as_json(info: &ImageInfo) -> Value {
    let filename = info.path.to_string_lossy();
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("filename", json!(filename));
    set("format", json!(info.format.name()));
    set("virtual-size", json!(info.virtual_bytes));
    set("actual-size", json!(info.allocated_bytes));
    set("dirty-flag", json!(info.qcow2.as_ref().is_some_and(|info| info.dirty)));
    let file = json!({
        "children": [], "virtual-size": info.file_bytes.next_multiple_of(512), "filename": filename, "format": "file",
        "actual-size": info.allocated_bytes, "format-specific": { "type": "file", "data": {} }, "dirty-flag": false,
    });
    set("children", json!([{ "name": "file", "info": file }]));
    if let Some(qcow2) = &info.qcow2 {
        set("cluster-size", json!(qcow2.cluster_bytes));
        if let Some(backing) = &qcow2.backing {
            set("backing-filename", json!(backing));
        }
        if let Some(path) = info.full_backing_path() {
            set("full-backing-filename", json!(path.to_string_lossy()));
        }
        if let Some(format) = &qcow2.backing_format {
            set("backing-filename-format", json!(format));
        }
        if !qcow2.snapshots.is_empty() {
            set("snapshots", qcow2.snapshots.iter().map(snapshot_as_json).collect());
        }
        set("format-specific", json!({ "type": "qcow2", "data": qcow2_as_json(qcow2) }));
    }
    Value::Object(map)
}

fn qcow2_as_json(info: &Qcow2Info) -> Value {
    let mut data = json!({ "compat": compatibility(info), "compression-type": compression(info),
        "refcount-bits": info.refcount_bits });
    // Version 2 has no place for these.
    if info.version >= 3 {
        data["lazy-refcounts"] = json!(info.lazy_refcounts);
        data["corrupt"] = json!(info.corrupt);
        data["extended-l2"] = json!(info.extended_l2);
    }
    if let Some(name) = &info.data_file {
        data["data-file"] = json!(name);
        data["data-file-raw"] = json!(info.data_file_raw);
    }
    data
}

fn snapshot_as_json(snapshot: &SnapshotInfo) -> Value {
    let mut value = json!({
        "id": snapshot.id, "name": snapshot.name, "vm-state-size": snapshot.vm_state_bytes,
        "date-sec": snapshot.taken_seconds, "date-nsec": snapshot.taken_nanoseconds,
        "vm-clock-sec": snapshot.guest_nanoseconds / 1_000_000_000,
        "vm-clock-nsec": snapshot.guest_nanoseconds % 1_000_000_000,
    });
    if let Some(instructions) = snapshot.guest_instructions {
        value["icount"] = json!(instructions);
    }
    value
}

fn as_text(info: &ImageInfo) -> String {
    let mut text = String::new();
    let filename = harmless(&info.path.to_string_lossy());
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{words}");
    };
    line(format_args!("image: {filename}"));
    let probed = if info.probed { " (by its first bytes; -f says otherwise)" } else { "" };
    line(format_args!("file format: {}{probed}", info.format));
    line(format_args!("virtual size: {} ({} bytes)", readable(info.virtual_bytes), info.virtual_bytes));
    line(format_args!("disk size: {}", readable(info.allocated_bytes)));
    if let Some(qcow2) = &info.qcow2 {
        if qcow2.dirty {
            line(format_args!("cleanly shut down: no"));
        }
        line(format_args!("cluster_size: {}", qcow2.cluster_bytes));
        if let Some(backing) = &qcow2.backing {
            line(format_args!("backing file: {}", harmless(backing)));
        }
        if let Some(format) = &qcow2.backing_format {
            line(format_args!("backing file format: {}", harmless(format)));
        }
        if !qcow2.snapshots.is_empty() {
            line(format_args!("Snapshot list:"));
            line(format_args!("{:<8}{:<20}{:>10}{:>15}", "ID", "TAG", "VM_SIZE", "DATE (s)"));
        }
        for snapshot in &qcow2.snapshots {
            let (id, name) = (harmless(&snapshot.id), harmless(&snapshot.name));
            let state = readable(snapshot.vm_state_bytes);
            line(format_args!("{id:<8}{name:<20}{state:>10}{:>15}", snapshot.taken_seconds));
        }
        line(format_args!("Format specific information:"));
        line(format_args!("    compat: {}", compatibility(qcow2)));
        line(format_args!("    compression type: {}", compression(qcow2)));
        if qcow2.version >= 3 {
            line(format_args!("    lazy refcounts: {}", qcow2.lazy_refcounts));
        }
        line(format_args!("    refcount bits: {}", qcow2.refcount_bits));
        if let Some(name) = &qcow2.data_file {
            line(format_args!("    data file: {}", harmless(name)));
            line(format_args!("    data file raw: {}", qcow2.data_file_raw));
        }
        if qcow2.version >= 3 {
            line(format_args!("    corrupt: {}", qcow2.corrupt));
            line(format_args!("    extended l2: {}", qcow2.extended_l2));
        }
    }
    line(format_args!("Child node '/file':"));
    line(format_args!("    filename: {filename}"));
    line(format_args!("    protocol type: file"));
    // Whole sectors, as in QEMU.
    let length = info.file_bytes.next_multiple_of(512);
    line(format_args!("    file length: {} ({length} bytes)", readable(length)));
    line(format_args!("    disk size: {}", readable(info.allocated_bytes)));
    text
}
