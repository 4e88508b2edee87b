//! Debian's SeaBIOS, as it is, boots a disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const BIOS: &str = "/usr/share/seabios/bios-256k.bin";

/// A paravirtual KVM emulates a BIOS instruction by instruction.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads the second sector of the disk that it was booted from to 7E00h and prints it as text: by the BIOS, which knows both.
const BOOT_SECTOR: [u8; 38] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // ax, ds, es = 0
    0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00, 0xb6, 0x00, // read one sector: cylinder 0, head 0, sector 2
    0xbb, 0x00, 0x7e, 0xcd, 0x13, 0x72, 0x0e, // to es:7e00h; on an error halt
    0xbe, 0x00, 0x7e, // from there
    0xac, 0x08, 0xc0, 0x74, 0x06, // the next character; at its end halt
    0xb4, 0x0e, 0xcd, 0x10, 0xeb, 0xf5, // print it
    0xf4, 0xeb, 0xfd, // halt
];
const TEXT: &str = "the second sector speaks";

struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn can_run() -> bool {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("skipped: there is no KVM");
        return false;
    }
    assert!(Path::new(BIOS).exists(), "no {BIOS}: install what tools/install-dependencies lists");
    true
}

/// Waits until something was printed.
fn wait_for(path: &Path, text: &str) -> String {
    let start = Instant::now();
    loop {
        let printed = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        if printed.contains(text) {
            return printed;
        }
        assert!(start.elapsed() < PATIENCE, "{printed:?}");
        std::thread::yield_now();
    }
}

fn start(directory: &Path, more: &[&str]) -> Machine {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vireo-vmm"));
    command.args(["--firmware", BIOS, "--memory", "256M", "--serial"]);
    command.arg(format!("file={}", directory.join("screen").display())).args(more);
    Machine(command.spawn().unwrap())
}

#[test]
fn a_bios_boots_a_disk_and_reads_it() {
    if !can_run() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let mut content = BOOT_SECTOR.to_vec();
    content.resize(510, 0);
    content.extend([0x55, 0xaa]);
    content.extend(TEXT.as_bytes());
    content.resize(1 << 20, 0);
    std::fs::write(&disk, content).unwrap();
    let _machine =
        start(directory.path(), &["--cpus", "boot=2", "--disk", &format!("path={}", disk.display())]);
    let screen = wait_for(&directory.path().join("screen"), TEXT);
    assert!(screen.contains("SeaBIOS") && screen.contains("Booting from Hard Disk"), "{screen}");
}

#[test]
fn without_anything_to_boot_the_bios_says_so() {
    if !can_run() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _machine = start(directory.path(), &[]);
    wait_for(&directory.path().join("screen"), "No bootable device");
}
