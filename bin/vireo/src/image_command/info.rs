//! `vireo image info`.

mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use block_io::formats::{VmdkExtent, VmdkInfo};
use block_io::operations::{ImageFormat, ImageInfo, SnapshotInfo};
use block_io::qcow2::{Compression, Qcow2Info};
use clap::Args;
use serde_json::{Map, Value, json};

use self::text::as_text;
use super::arguments::{Cache, Output, SourceFormat, access_to_read, image_path};
use crate::output::{print, print_json};

/// Tell what an image is and says about itself.
///
/// Opens no file but this one, unless the chain is asked for. Takes no lock: what is said about an image in use may be out
/// of date.
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    /// Format of the image; without it, its first bytes are believed
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<SourceFormat>,
    /// How to print
    #[arg(long, value_name = "KIND", default_value = "human")]
    output: Output,
    /// Tell the same of every backing file below it, where their directories are allowed
    #[arg(short, long)]
    backing_chain: bool,
    /// A further directory in which backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR", requires = "backing_chain")]
    backing_directory: Vec<PathBuf>,
    /// Look at images in use (always so; accepted for scripts)
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
}

/// Prints what the image says.
pub(crate) fn run(arguments: &InfoArguments) -> anyhow::Result<ExitCode> {
    let format = arguments.format.map(Into::into);
    let infos = if arguments.backing_chain {
        let access = access_to_read(true, Cache::Writeback, &arguments.backing_directory);
        ImageInfo::read_chain(&arguments.file, format, &access)?
    } else {
        vec![ImageInfo::read(&arguments.file, format)?]
    };
    match arguments.output {
        Output::Json if arguments.backing_chain => print_json(&infos.iter().map(as_json).collect())?,
        Output::Json => infos.first().map_or(Ok(()), |info| print_json(&as_json(info)))?,
        Output::Human => print(&infos.iter().map(as_text).collect::<Vec<_>>().join("\n"))?,
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
        "children": [], "virtual-size": info.file_bytes.next_multiple_of(512), "filename": filename,
        "format": protocol(info), "actual-size": info.allocated_bytes, "dirty-flag": false,
        "format-specific": { "type": "file", "data": {} },
    });
    set("children", json!([{ "name": "file", "info": file }]));
    if let Some(bytes) = info.cluster_bytes {
        set("cluster-size", json!(bytes));
    }
    if let Some(vmdk) = &info.vmdk {
        set("format-specific", json!({ "type": "vmdk", "data": vmdk_as_json(info, vmdk) }));
    }
    if info.format == ImageFormat::Ova {
        let disks = info.disks.iter().map(|disk| {
            json!({ "id": disk.id, "filename": disk.file, "format": disk.format, "offset": disk.offset,
                    "length": disk.bytes })
        });
        set("format-specific", json!({ "type": "ova", "data": { "disks": disks.collect::<Value>() } }));
    }
    if let Some(qcow2) = &info.qcow2 {
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

/// What QEMU calls the way to the file.
fn protocol(info: &ImageInfo) -> &'static str {
    if info.is_device { "host_device" } else { "file" }
}

/// The file of an extent: named beside the image, or the image itself.
fn extent_path(info: &ImageInfo, extent: &VmdkExtent) -> String {
    let path = extent.name.as_ref().map_or(info.path.clone(), |name| info.path.with_file_name(name));
    path.to_string_lossy().into_owned()
}

fn vmdk_as_json(info: &ImageInfo, vmdk: &VmdkInfo) -> Value {
    let extents = vmdk.extents.iter().map(|extent| {
        let mut value = json!({
            "virtual-size": extent.bytes, "filename": extent_path(info, extent), "format": extent.kind,
        });
        if let Some(bytes) = extent.grain_bytes {
            value["cluster-size"] = json!(bytes);
        }
        if extent.compressed {
            value["compressed"] = json!(true);
        }
        value
    });
    json!({ "cid": vmdk.content_id, "parent-cid": vmdk.parent_id, "create-type": vmdk.create_type,
            "extents": extents.collect::<Value>() })
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
