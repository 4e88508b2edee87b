//! Images that qemu-img makes, read by us: as they are, and damaged in every way that could be thought of.

mod archive;
mod damaged;
mod dirty_log;
mod disk;
mod extents;
mod whole;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::*;

const MIB: usize = 1 << 20;

/// Everything that qemu-img makes and that is read here: its name for the format, options, and ours.
const KINDS: [(&str, &str, Format); 14] = [
    ("vmdk", "subformat=monolithicSparse", Format::Vmdk),
    ("vmdk", "subformat=monolithicFlat", Format::Vmdk),
    ("vmdk", "subformat=twoGbMaxExtentSparse", Format::Vmdk),
    ("vmdk", "subformat=twoGbMaxExtentFlat", Format::Vmdk),
    ("vmdk", "subformat=streamOptimized", Format::Vmdk),
    ("vmdk", "subformat=monolithicSparse,zeroed_grain=on,compat6=on", Format::Vmdk),
    ("vhdx", "subformat=dynamic,block_size=1M", Format::Vhdx),
    ("vhdx", "subformat=dynamic,block_state_zero=off", Format::Vhdx),
    ("vhdx", "subformat=fixed", Format::Vhdx),
    ("vpc", "subformat=dynamic", Format::Vhd),
    ("vpc", "subformat=dynamic,force_size=on", Format::Vhd),
    ("vpc", "subformat=fixed,force_size=on", Format::Vhd),
    ("vdi", "static=off", Format::Vdi),
    ("vdi", "static=on", Format::Vdi),
];

/// Runs qemu-img or qemu-io. False, having said so, if that is not installed.
fn run(program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {text}");
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: {program} is not installed");
            false
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that follow from a seed, with stretches of zeroes of all lengths.
fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut content = vec![0; bytes];
    let mut at = 0;
    while at < bytes {
        at += (next() % 400) * 512;
        let end = (at + (next() % 300 + 1) * 512).min(bytes);
        let kind = next() % 3;
        for byte in content.get_mut(at.min(end)..end).unwrap_or_default() {
            // Some that compresses, some that does not.
            *byte = if kind == 0 { 0x5a } else { next().to_le_bytes()[0] };
        }
        at = end;
    }
    content
}

/// A directory with an image of `content` in it, made by qemu-img; `None` where that is not installed.
fn make(kind: &str, options: &str, content: &[u8]) -> Option<(tempfile::TempDir, PathBuf)> {
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("raw"), directory.path().join("image"));
    std::fs::write(&raw, content).unwrap();
    let made =
        run("qemu-img", &["convert", "-f", "raw", "-O", kind, "-o", options, text(&raw), text(&image)]);
    made.then_some((directory, image))
}

fn allowed() -> FormatOptions {
    FormatOptions { extents: ExtentAccess::SameDirectory, ..FormatOptions::default() }
}

fn no_extents(_name: &str) -> io::Result<SharedSource> {
    Err(io::ErrorKind::PermissionDenied.into())
}

/// Opens an image in memory that has no other files.
fn open_in_memory(format: Format, source: SharedSource) -> Result<Image, ImageError> {
    Image::open(format, source, &mut no_extents)
}

fn read_all(image: &Image) -> Result<Vec<u8>, ImageError> {
    let mut content = vec![0xee; usize::try_from(image.capacity()).unwrap()];
    image.read_at(&mut content, 0)?;
    Ok(content)
}

/// An image of one file.
struct Small {
    format: Format,
    name: String,
    bytes: Arc<Vec<u8>>,
    /// What it holds.
    content: Vec<u8>,
}

/// A streamOptimized image as VMware's products write it: the directory's place is in a footer, not in the header.
fn with_footer(image: &[u8]) -> Vec<u8> {
    let mut streamed = image.to_vec();
    streamed[56..64].fill(0xff);
    let mut marker = [0; 512];
    marker[..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    streamed.extend(marker);
    streamed.extend(&image[..512]);
    streamed.extend([0; 512]);
    streamed
}

/// Images of one file that are small.
fn small_images() -> Vec<Small> {
    let mut images = Vec::new();
    for (kind, options, format) in KINDS {
        if options.contains("Flat") || options.contains("twoGb") || options.contains("subformat=fixed") {
            continue;
        }
        let content = content(3 * MIB, 11);
        let Some((_directory, path)) = make(kind, options, &content) else { continue };
        let bytes = Arc::new(std::fs::read(&path).unwrap());
        // VHD rounds the size up to what its geometry can say.
        let held = read_all(&open_in_memory(format, Arc::clone(&bytes) as SharedSource).unwrap()).unwrap();
        assert!(held.starts_with(&content), "{kind} {options}");
        if options.contains("streamOptimized") {
            let (name, bytes) = (format!("{kind} {options}, footer"), Arc::new(with_footer(&bytes)));
            images.push(Small { format, name, bytes, content: held.clone() });
        }
        images.push(Small { format, name: format!("{kind} {options}"), bytes, content: held });
    }
    images
}
