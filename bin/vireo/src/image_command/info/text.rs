//! What an image says, for people. All that comes out of the image is made harmless for a terminal.

use std::fmt::{Result, Write};

use block_io::formats::VmdkInfo;
use block_io::operations::ImageInfo;
use block_io::qcow2::Qcow2Info;

use super::super::qemu_img::called_as_qemu_img;
use super::{compatibility, compression, extent_path, protocol};
use crate::output::{harmless, readable};

/// The words of qemu-img, and whether the format was probed; called as qemu-img, not that, because its callers read the line.
pub(super) fn as_text(info: &ImageInfo) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = write_image(&mut text, info);
    text
}

fn write_image(text: &mut String, info: &ImageInfo) -> Result {
    let filename = harmless(&info.path.to_string_lossy());
    let probed =
        if info.probed && !called_as_qemu_img() { " (by its first bytes; -f says otherwise)" } else { "" };
    writeln!(text, "image: {filename}")?;
    writeln!(text, "file format: {}{probed}", info.format)?;
    writeln!(text, "virtual size: {} ({} bytes)", readable(info.virtual_bytes), info.virtual_bytes)?;
    writeln!(text, "disk size: {}", readable(info.allocated_bytes))?;
    if info.qcow2.as_ref().is_some_and(|qcow2| qcow2.dirty) {
        writeln!(text, "cleanly shut down: no")?;
    }
    if let Some(bytes) = info.cluster_bytes {
        writeln!(text, "cluster_size: {bytes}")?;
    }
    if let Some(qcow2) = &info.qcow2 {
        write_qcow2(text, qcow2)?;
    }
    if let Some(vmdk) = &info.vmdk {
        write_vmdk(text, info, vmdk)?;
    }
    for disk in &info.disks {
        let (id, file, bytes) = (harmless(&disk.id), harmless(&disk.file), readable(disk.bytes));
        writeln!(text, "disk {id}: {bytes} in the archive, named {filename}:{file}")?;
    }
    writeln!(text, "Child node '/file':")?;
    writeln!(text, "    filename: {filename}")?;
    writeln!(text, "    protocol type: {}", protocol(info))?;
    // Whole sectors, as in QEMU.
    let length = info.file_bytes.next_multiple_of(512);
    writeln!(text, "    file length: {} ({length} bytes)", readable(length))?;
    writeln!(text, "    disk size: {}", readable(info.allocated_bytes))
}

fn write_vmdk(text: &mut String, info: &ImageInfo, vmdk: &VmdkInfo) -> Result {
    writeln!(text, "Format specific information:")?;
    writeln!(text, "    cid: {}", vmdk.content_id)?;
    writeln!(text, "    parent cid: {}", vmdk.parent_id)?;
    writeln!(text, "    create type: {}", harmless(&vmdk.create_type))?;
    writeln!(text, "    extents:")?;
    for (number, extent) in vmdk.extents.iter().enumerate() {
        writeln!(text, "        [{number}]:")?;
        if extent.compressed {
            writeln!(text, "            compressed: true")?;
        }
        writeln!(text, "            virtual size: {}", extent.bytes)?;
        writeln!(text, "            filename: {}", harmless(&extent_path(info, extent)))?;
        if let Some(bytes) = extent.grain_bytes {
            writeln!(text, "            cluster size: {bytes}")?;
        }
        writeln!(text, "            format: {}", extent.kind)?;
    }
    Ok(())
}

fn write_qcow2(text: &mut String, qcow2: &Qcow2Info) -> Result {
    if let Some(backing) = &qcow2.backing {
        writeln!(text, "backing file: {}", harmless(backing))?;
    }
    if let Some(format) = &qcow2.backing_format {
        writeln!(text, "backing file format: {}", harmless(format))?;
    }
    if !qcow2.snapshots.is_empty() {
        writeln!(text, "Snapshot list:")?;
        writeln!(text, "{:<8}{:<20}{:>10}{:>15}", "ID", "TAG", "VM_SIZE", "DATE (s)")?;
    }
    for snapshot in &qcow2.snapshots {
        let (id, name) = (harmless(&snapshot.id), harmless(&snapshot.name));
        let state = readable(snapshot.vm_state_bytes);
        writeln!(text, "{id:<8}{name:<20}{state:>10}{:>15}", snapshot.taken_seconds)?;
    }
    writeln!(text, "Format specific information:")?;
    writeln!(text, "    compat: {}", compatibility(qcow2))?;
    writeln!(text, "    compression type: {}", compression(qcow2))?;
    if qcow2.version >= 3 {
        writeln!(text, "    lazy refcounts: {}", qcow2.lazy_refcounts)?;
    }
    writeln!(text, "    refcount bits: {}", qcow2.refcount_bits)?;
    if let Some(name) = &qcow2.data_file {
        writeln!(text, "    data file: {}", harmless(name))?;
        writeln!(text, "    data file raw: {}", qcow2.data_file_raw)?;
    }
    if qcow2.version >= 3 {
        writeln!(text, "    corrupt: {}", qcow2.corrupt)?;
        writeln!(text, "    extended l2: {}", qcow2.extended_l2)?;
    }
    Ok(())
}
