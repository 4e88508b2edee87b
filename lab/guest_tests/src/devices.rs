//! Every device of the machine used from inside the guest, and what came out checked on the host.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};

use crate::guest::{Format, GuestBuilder, Kernel};
use crate::network::Tap;
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("devices::all_of_them_with_6_1", || all_devices(Kernel::V6_1, Format::BzImage, "boot=1")),
        test("devices::all_of_them_with_6_12_and_4_vcpus", || {
            all_devices(Kernel::V6_12, Format::Vmlinux, "boot=4")
        }),
        test("devices::a_read_only_disk_cannot_be_written", read_only_disk),
        test("devices::disks_with_several_queues_and_direct_io", several_queues),
    ]
}

const DISK_BYTES: usize = 8 << 20;

/// Bytes that look like noise and are the same every time.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

fn all_devices(kernel: Kernel, format: Format, cpus: &str) -> Result<()> {
    let builder = GuestBuilder::new(kernel, format, cpus)?;
    let disk = builder.directory().join("disk.raw");
    let pattern = noise(DISK_BYTES, 77);
    fs::write(&disk, &pattern)?;
    let console = builder.directory().join("console.log");
    let port = builder.directory().join("port.sock");
    let tap = Tap::make("vtest0")?;
    let mut guest = builder
        .argument("--disk", &format!("path={},serial=UNDER-TEST", disk.display()))
        .argument("--net", &format!("{},mac=52:54:00:12:34:56", tap.option()))
        .argument("--rng", "src=/dev/urandom")
        .argument("--console", &format!("file={}", console.display()))
        .argument("--console", &format!("socket={},name=org.vireo.test", port.display()))
        .start()?;
    guest.expect_shell()?;

    // Disk: what the host wrote is read, what the guest writes arrives.
    let serial = guest.run("cat /sys/block/vda/serial")?;
    ensure!(serial == "UNDER-TEST", "the disk's serial number is {serial:?}");
    let size = guest.run("cat /sys/block/vda/size")?;
    ensure!(size == (DISK_BYTES / 512).to_string(), "the disk has {size} sectors");
    guest.run("dd if=/dev/vda of=/tmp/first bs=64k count=16")?;
    guest.run("dd if=/tmp/first of=/dev/vda bs=64k seek=64 conv=fsync")?;
    guest.run("cmp /tmp/first /dev/vda -n 1048576")?;

    // Network: the address is the one that was given, and packets go both ways.
    let mac = guest.run("cat /sys/class/net/eth0/address")?;
    ensure!(mac == "52:54:00:12:34:56", "the MAC address is {mac}");
    guest.run("ip addr add 192.168.77.2/24 dev eth0 && ip link set eth0 up")?;
    let ping = guest.run("ping -c 3 -s 1400 192.168.77.1")?;
    ensure!(ping.contains("3 packets received"), "{ping}");

    // Random bytes: of the device, and different each time.
    let source = guest.run("cat /sys/class/misc/hw_random/rng_current")?;
    ensure!(source.starts_with("virtio_rng"), "random numbers come from {source:?}");
    let read = "dd if=/dev/hwrng bs=64 count=1 2>/dev/null | md5sum";
    ensure!(guest.run(read)? != guest.run(read)?, "the same random bytes twice");

    // Console: hvc0 arrives in the file, the named port talks both ways.
    guest.run("echo from-the-guest > /dev/hvc0")?;
    guest.run("grep -x org.vireo.test /sys/class/virtio-ports/*/name")?;
    let mut peer = UnixStream::connect(&port).context("connecting to the port's socket")?;
    peer.set_read_timeout(Some(crate::guest::PATIENCE))?;
    peer.write_all(b"from-the-host\n")?;
    let find = "p=$(basename $(dirname $(grep -lx org.vireo.test /sys/class/virtio-ports/*/name)))";
    let line = guest.run(&format!("{find}; read line < /dev/$p; echo $line"))?;
    ensure!(line == "from-the-host", "the guest read {line:?}");
    guest.run(&format!("{find}; echo hello-host > /dev/$p"))?;
    let mut answer = [0; 11];
    peer.read_exact(&mut answer).context("reading from the port's socket")?;
    ensure!(&answer == b"hello-host\n", "the host read {answer:?}");

    guest.run("sync")?;
    guest.power_off_keeping(|| {
        let said = fs::read_to_string(&console)?;
        ensure!(said.contains("from-the-guest"), "the console's file holds {said:?}");
        let image = fs::read(&disk)?;
        ensure!(image.len() == DISK_BYTES, "the disk's file has {} bytes now", image.len());
        ensure!(image[..4 << 20] == pattern[..4 << 20], "the guest changed what it did not write");
        ensure!(image[4 << 20..5 << 20] == pattern[..1 << 20], "what the guest wrote did not arrive");
        ensure!(image[5 << 20..] == pattern[5 << 20..], "the guest changed what it did not write");
        Ok(())
    })
}

fn read_only_disk() -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?;
    let disk = builder.directory().join("disk.raw");
    let pattern = noise(1 << 20, 5);
    fs::write(&disk, &pattern)?;
    let mut guest = builder.argument("--disk", &format!("path={},readonly=on", disk.display())).start()?;
    guest.expect_shell()?;
    ensure!(guest.run("cat /sys/block/vda/ro")? == "1", "the disk is writable");
    ensure!(guest.run("dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync").is_err(), "a write succeeded");
    guest.power_off_keeping(|| {
        ensure!(fs::read(&disk)? == pattern, "the guest changed a read-only disk");
        Ok(())
    })
}

fn several_queues() -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=2")?;
    let disk = builder.directory().join("disk.raw");
    fs::write(&disk, noise(DISK_BYTES, 9))?;
    let mut guest = builder
        .argument("--disk", &format!("path={},direct=on,num_queues=2,queue_size=64", disk.display()))
        .start()?;
    guest.expect_shell()?;
    let queues = guest.run("ls /sys/block/vda/mq | wc -l")?;
    ensure!(queues == "2", "the disk has {queues} queues");
    guest.run("for i in 0 1 2 3; do dd if=/dev/vda of=/dev/null bs=32k skip=$((i*8)) count=8 iflag=direct & done; wait")?;
    guest.run("dd if=/dev/zero of=/dev/vda bs=4k count=16 oflag=direct conv=fsync")?;
    guest.power_off_keeping(|| {
        ensure!(
            fs::read(&disk)?[..65536].iter().all(|byte| *byte == 0),
            "what the guest wrote did not arrive"
        );
        Ok(())
    })
}
