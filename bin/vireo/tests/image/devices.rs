//! Block devices as images: loop devices over files.

use std::path::PathBuf;
use std::process::Command;

use super::{Folder, has_qemu, json};

/// A loop device, detached when dropped.
pub(super) struct LoopDevice(pub(super) PathBuf);

impl LoopDevice {
    /// `None`, having said so, where loop devices can't be made.
    pub(super) fn over(folder: &Folder, file: &str) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(folder.path(file)).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())))
            }
            other => {
                eprintln!("skipped: no loop device can be made: {other:?}");
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn block_devices_are_read_and_described_and_never_replaced() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    folder.qemu_img("create -f raw disk.raw 8M");
    folder.qemu_io("disk.raw", &["write -P 1 1M 1M"]);
    let Some(device) = LoopDevice::over(&folder, "disk.raw") else { return };
    let device = device.0.display();
    folder.vireo(&format!("compare -f raw -F raw disk.raw {device}"));
    folder.vireo(&format!("convert -f raw -O qcow2 {device} copy.qcow2"));
    folder.qemu_img("compare -f raw -F qcow2 disk.raw copy.qcow2");
    folder.assert_same_json("info -f raw", &device.to_string());
    assert_eq!(json(&folder.vireo(&format!("map -f raw --output json {device}")))[0]["length"], 8 << 20);
    assert!(folder.refused(&format!("resize -f raw {device} +1M")).contains("block device"));
    // A qcow2 image on a device: checked, and a base that is committed to.
    folder.qemu_img(&format!("create -q -f qcow2 {device} 2M"));
    folder.vireo(&format!("check -f qcow2 {device}"));
    folder.qemu_img(&format!("create -q -f qcow2 -b {device} -F qcow2 top.qcow2"));
    folder.qemu_io("top.qcow2", &["write -P 4 64k 128k"]);
    assert!(folder.refused("commit -f qcow2 top.qcow2").contains("no directory that is allowed"));
    folder.vireo("commit -f qcow2 --backing-directory /dev top.qcow2");
    folder.vireo(&format!("check -f qcow2 {device}"));
    folder.qemu_io(&device.to_string(), &["read -P 4 64k 128k", "read -P 0 192k 1M"]);
}
