//! Requests of 512 bytes on images whose file has larger blocks.

use super::*;

/// A loop device with blocks of 4 KiB, detached on drop.
struct LoopDevice(String);

impl LoopDevice {
    fn over(path: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["-b", "4096", "-f", "--show"]).arg(path).output().ok()?;
        let name = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        (output.status.success() && !name.is_empty()).then_some(Self(name))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

#[test]
fn guests_with_small_blocks_use_direct_io_on_devices_with_large_ones() {
    let directory = directory_on_disk();
    let (path, image) = (directory.path().join("device"), directory.path().join("image"));
    File::create(&path).unwrap().set_len(24 * MIB).unwrap();
    let Some(device) = LoopDevice::over(&path) else {
        eprintln!("skipped: no loop device with blocks of 4 KiB (needs root)");
        return;
    };
    let parameters = Qcow2Parameters { cluster_bytes: 8192, ..Qcow2Parameters::new(3 * MIB + 512) };
    Qcow2Disk::create(&image, &parameters).unwrap();
    File::options()
        .write(true)
        .open(&device.0)
        .unwrap()
        .write_all_at(&std::fs::read(&image).unwrap(), 0)
        .unwrap();
    let mut options = Qcow2Options::default();
    options.file.cache = CacheMode::None;
    let disk = Qcow2Disk::open(Path::new(&device.0), &options).unwrap();
    assert_eq!(disk.geometry().logical_block_bytes, 512);
    assert_eq!(disk.image.file.access.layout.geometry.logical_block_bytes, 4096);
    let mut model = vec![0; 3 * MIB as usize + 512];
    let mut driver = Driver::open(&disk, 4);
    for number in 0..400u64 {
        let at = number.wrapping_mul(0x9e37_79b9) % 6000;
        // Whole blocks too, and long ones.
        let (at, sectors) = if number % 5 == 0 { (at & !7, 8) } else { (at, 1 + number % 21) };
        apply(&mut driver, &mut model, Step::Write { at, sectors, seed: number });
        if number % 50 == 0 {
            apply(&mut driver, &mut model, Step::Zero { at: at / 2, sectors: 33, may_unmap: true });
            apply(&mut driver, &mut model, Step::Discard { at: at / 3, sectors: 40 });
        }
    }
    apply(&mut driver, &mut model, Step::Write { at: 6144, sectors: 1, seed: 7 });
    assert!(content_of(&disk) == model);
    drop(driver);
    // Sectors of the same blocks, written by several queues at once.
    std::thread::scope(|scope| {
        for queue in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                let mut driver = Driver::open(disk, 16);
                let mut buffers: Vec<Buffer> =
                    (0..16).map(|_| Buffer::filled(512, queue as u8 + 1)).collect();
                for round in 0..8u64 {
                    for (number, buffer) in (0..16u64).zip(&mut buffers) {
                        let offset = (round * 16 + number) * 2048 + queue * 512;
                        let segments = buffer.pieces(&[512]);
                        driver
                            .submit(number, BlockOperation::Write { offset, segments, durable: false })
                            .unwrap();
                    }
                    assert!(driver.drain().iter().all(|completion| completion.result.is_ok()));
                }
            });
        }
    });
    for (number, sector) in model[..128 * 2048].chunks_mut(512).enumerate() {
        sector.fill(number as u8 % 4 + 1);
    }
    assert!(content_of(&disk) == model, "after writes by several queues");
    drop(disk);
    assert_sound(Path::new(&device.0));
    options.file.read_only = true;
    let disk = Qcow2Disk::open(Path::new(&device.0), &options).unwrap();
    assert!(content_of(&disk) == model, "after it was opened again");
}
