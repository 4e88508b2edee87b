//! QEMU's tools, to compare with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A directory for images: in RAM where there is one, since nothing here asks what a real disk does.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in("/var/tmp")).unwrap()
}

/// Whether the tools are there; says so once if not.
pub(crate) fn has_qemu() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found =
            ["qemu-img", "qemu-io"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
        if !found {
            eprintln!("skipped: comparisons with qemu-img and qemu-io, which are not installed");
        }
        found
    })
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a program; its exit code and what it printed.
pub(crate) fn outcome(program: &str, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}

#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let (code, text) = outcome(program, arguments);
    assert_eq!(code, 0, "{program} {arguments:?}: {text}");
}

/// What qemu-img finds wrong with an image: 0 nothing, 3 leaked clusters, anything else is worse.
pub(crate) fn check_code(path: &Path) -> (i32, String) {
    outcome("qemu-img", &["check", "-f", "qcow2", text(path)])
}

/// What qemu-img reads in an image, with options of its own.
pub(crate) fn content(path: &Path, format: &str, options: &[&str]) -> Vec<u8> {
    let raw: PathBuf = path.with_extension("as-raw");
    let mut arguments = vec!["convert", "-f", format, "-O", "raw"];
    arguments.extend(options);
    arguments.extend([text(path), text(&raw)]);
    run("qemu-img", &arguments);
    let content = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    content
}
