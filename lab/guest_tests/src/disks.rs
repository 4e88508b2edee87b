//! Guests on qcow2 images: what they write, discard and flush reaches the image, through reboots, kills and full file systems.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::devices::noise;
use crate::guest::{Format, Guest, GuestBuilder, Kernel};
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("disks::data_on_qcow2_overlays_survives_a_reboot_with_one_queue", || overlays(1)),
        test("disks::data_on_qcow2_overlays_survives_a_reboot_with_four_queues", || overlays(4)),
        test("disks::a_raw_disk_into_which_a_guest_wrote_a_header_stays_raw", raw_stays_raw),
        test("disks::what_was_flushed_survives_a_kill_of_the_vmm", killed),
        test("disks::a_full_file_system_is_an_error_for_the_guest_and_nothing_else", no_space),
    ]
}

const MIB: u64 = 1 << 20;
/// Size of the disks with a file system.
const DISK_BYTES: u64 = 32 * MIB;
/// Mounts the disks. Without its lock for reading, ext4 would not zero what it allocates and does not write.
const MOUNT: &str = "mkdir /tmp/a /tmp/b; mount -t ext4 -o dioread_lock /dev/vda /tmp/a && \
                     mount -t ext4 -o dioread_lock /dev/vdb /tmp/b";
/// What the guest writes and deletes again.
const JUNK_BYTES: u64 = 12 * MIB;

/// Runs a program of the host; what it printed, and its exit code.
fn host(program: &str, arguments: &[&str]) -> Result<(String, i32)> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((said, output.status.code().unwrap_or(-1)))
}

fn qemu_img(arguments: &[&str]) -> Result<String> {
    let (said, code) = host("qemu-img", arguments)?;
    ensure!(code == 0, "qemu-img {arguments:?} ended with {code}: {said}");
    Ok(said)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}

/// Bytes that a file takes on the host.
fn allocated(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// A backing file with a file system in which there is one file, and the overlay that a guest gets.
struct Chain {
    base: PathBuf,
    /// The base as it was made.
    untouched: Vec<u8>,
    overlay: PathBuf,
}

/// Makes the content of the bases: an ext4 file system with `from-base` in it.
fn file_system(directory: &Path, from_base: &[u8]) -> Result<PathBuf> {
    let (folder, image) = (directory.join("content"), directory.join("base.raw"));
    fs::create_dir(&folder)?;
    fs::write(folder.join("from-base"), from_base)?;
    fs::File::create(&image)?.set_len(DISK_BYTES)?;
    let options = ["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^metadata_csum", "-d", text(&folder)?];
    let (said, code) = host("mke2fs", &[&options, [text(&image)?].as_slice()].concat())?;
    ensure!(code == 0, "mke2fs ended with {code}: {said}");
    Ok(image)
}

impl Chain {
    fn make(base: PathBuf, format: &str, overlay: PathBuf) -> Result<Self> {
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", text(&base)?, "-F", format, text(&overlay)?])?;
        let untouched = fs::read(&base)?;
        Ok(Self { base, untouched, overlay })
    }

    fn option(&self, queues: u32) -> String {
        format!("path={},image_type=qcow2,backing_files=on,num_queues={queues}", self.overlay.display())
    }

    fn check(&self) -> Result<()> {
        qemu_img(&["check", "-q", "-f", "qcow2", text(&self.overlay)?])?;
        ensure!(fs::read(&self.base)? == self.untouched, "{} was changed", self.base.display());
        Ok(())
    }
}

fn counter(guest: &Guest, disk: &str, name: &str) -> Result<u64> {
    let (status, counters) = guest.request("GET", "vm.counters", None)?;
    counters[disk][name].as_u64().with_context(|| format!("no {disk}.{name}: {status} {counters}"))
}

/// A file system on an overlay over a qcow2 base (vda) and one over a raw base (vdb).
fn overlays(queues: u32) -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, &format!("boot={queues}"))?;
    let directory = builder.directory().to_owned();
    let raw = file_system(&directory, &noise(1 << 18, 21))?;
    let qcow2 = directory.join("base.qcow2");
    qemu_img(&["convert", "-q", "-O", "qcow2", text(&raw)?, text(&qcow2)?])?;
    let first = Chain::make(qcow2, "qcow2", directory.join("first.qcow2"))?;
    let second = Chain::make(raw, "raw", directory.join("second.qcow2"))?;
    let mut guest = builder
        .argument("--disk", &first.option(queues))
        .argument("--disk", &format!("{},serial=SECOND", second.option(queues)))
        .start()?;
    guest.expect_shell()?;
    guest.run(&format!("test $(ls /sys/block/vda/mq | wc -l) = {queues}"))?;
    let limits = guest.run("cd /sys/block/vda/queue; cat discard_granularity physical_block_size; cd")?;
    ensure!(limits == "65536\n4096", "unit of discards and physical block: {limits}");

    guest.run(MOUNT)?;
    let mut full = Vec::new();
    for (mount, device, chain) in [("/tmp/a", "disk0", &first), ("/tmp/b", "disk1", &second)] {
        full.push(write_and_trim(&mut guest, mount, device, &chain.overlay)?);
    }
    let read = "md5sum /tmp/a/data* /tmp/b/data* /tmp/a/from-base /tmp/b/from-base /tmp/a/small /tmp/b/small";
    let before = guest.run(read)?;
    guest.run(
        "echo 'write through' > /sys/block/vda/cache_type; grep -q 'write through' /sys/block/vda/cache_type",
    )?;
    guest.run("cp /tmp/a/data1 /tmp/a/through; sync; cmp /tmp/a/data1 /tmp/a/through")?;

    let resize = json!({"id": "disk1", "desired_size": 2 * DISK_BYTES});
    let (status, body) = guest.request("PUT", "vm.resize-disk", Some(&resize))?;
    ensure!(status == 204, "vm.resize-disk was answered {status}: {body}");
    let sectors = 2 * DISK_BYTES / 512;
    guest.run(&format!("until test $(cat /sys/block/vdb/size) = {sectors}; do :; done"))?;
    guest.run(&format!(
        "dd if=/tmp/a/data1 of=/dev/vdb bs=64k seek={} count=8 conv=fsync",
        DISK_BYTES >> 16
    ))?;

    guest.type_line("reboot -f")?;
    guest.expect_shell()?;
    guest.run(MOUNT)?;
    let after = guest.run(read)?;
    ensure!(before == after, "before the reboot:\n{before}\nafter it:\n{after}");
    guest.run("cmp /tmp/a/data1 /tmp/a/through")?;
    let tail = format!("dd if=/dev/vdb bs=64k skip={} count=8 2>/dev/null", DISK_BYTES >> 16);
    guest.run(&format!("{tail} | cmp - /tmp/a/data1"))?;
    guest.run("cd; umount /tmp/a /tmp/b")?;
    guest.power_off_keeping(|| {
        for (chain, full) in [&first, &second].into_iter().zip(full) {
            chain.check()?;
            let trimmed = allocated(&chain.overlay)?;
            ensure!(trimmed < full - JUNK_BYTES / 4 * 3, "of {full} bytes {trimmed} are left after fstrim");
        }
        let info: Value =
            serde_json::from_str(&qemu_img(&["info", "--output", "json", text(&second.overlay)?])?)?;
        ensure!(info["virtual-size"] == 2 * DISK_BYTES, "{info}");
        Ok(())
    })
}

/// Writes files that stay and one that goes, and trims; how much the overlay took before that.
fn write_and_trim(guest: &mut Guest, mount: &str, device: &str, overlay: &Path) -> Result<u64> {
    let flushes = counter(guest, device, "flush_ops")?;
    guest.run(&format!(
        "cd {mount}; for n in 1 2 3 4; do dd if=/dev/urandom of=data$n bs=64k count=8 conv=fsync & done; wait; \
         cat data1 data2 data3 data4 > /tmp/four"
    ))?;
    ensure!(counter(guest, device, "flush_ops")? > flushes, "fsync made no flush of {device}");
    // Part of an extent that is allocated and not written: ext4 has its rest zeroed.
    guest.run("fallocate -l 32768 small && sync && dd if=/tmp/four of=small bs=4k count=1 seek=2 conv=notrunc,fsync")?;
    let zeroed = counter(guest, device, "write_zeroes_ops")?;
    ensure!(zeroed > 0, "no zeroes were written to {device}");

    let copies = JUNK_BYTES / (2 * MIB);
    guest
        .run(&format!("n=0; while test $n -lt {copies}; do cat /tmp/four; n=$((n+1)); done > junk; sync"))?;
    let full = allocated(overlay)?;
    ensure!(full > JUNK_BYTES, "{} takes {full} bytes", overlay.display());
    guest.run(&format!("rm junk; sync; cd; fstrim {mount}; sync"))?;
    ensure!(counter(guest, device, "discard_ops")? > 0, "no discards reached {device}");
    Ok(full)
}

/// A guest copies a qcow2 image with a backing file over its raw disk; the disk is opened anew afterwards.
fn raw_stays_raw() -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?;
    let (disk, bait) = (builder.directory().join("disk.raw"), builder.directory().join("bait.qcow2"));
    fs::write(&disk, noise(2 << 20, 3))?;
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", text(&bait)?, "1G"])?;
    let bait_bytes = fs::metadata(&bait)?.len().next_multiple_of(BLOCK_BYTES as u64);
    fs::File::options().write(true).open(&bait)?.set_len(bait_bytes)?;
    let mut guest = builder
        .argument("--disk", &format!("path={}", disk.display()))
        .argument("--disk", &format!("path={},readonly=on", bait.display()))
        .start()?;
    guest.expect_shell()?;
    guest.run("dd if=/dev/vdb of=/dev/vda bs=64k conv=fsync")?;
    guest.action("vm.shutdown")?;
    guest.action("vm.boot")?;
    guest.expect_shell()?;
    let sectors = guest.run("cat /sys/block/vda/size")?;
    ensure!(sectors == "4096", "the disk has {sectors} sectors now");
    guest.run(&format!("cmp -n {bait_bytes} /dev/vda /dev/vdb"))?;
    let said = guest.transcript().to_owned();
    ensure!(said.contains("looks like qcow2 and is used as raw"), "no hint to the operator in {said}");
    guest.power_off()
}

/// Blocks of what the guest flushes one by one.
const BLOCK_BYTES: usize = 65536;
/// Blocks that a round may flush, on the disk side by side.
const ROUND_BLOCKS: usize = 64;
const ROUNDS: usize = 3;

/// Kills the VMM while the guest allocates, discards and flushes; each round goes on with the image of the one before.
fn killed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let (overlay, source) = (at("overlay.qcow2"), at("source.raw"));
    let pattern = noise(ROUNDS * ROUND_BLOCKS * BLOCK_BYTES, 99);
    fs::write(&source, &pattern)?;
    let base = at("base.raw");
    fs::File::create(&base)?.set_len(DISK_BYTES)?;
    let chain = Chain::make(base, "raw", overlay)?;
    let mut flushed = Vec::new();
    for round in 0..ROUNDS {
        let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=2")?
            .argument("--disk", &chain.option(2))
            .argument("--disk", &format!("path={},readonly=on", source.display()))
            .start()?;
        guest.expect_shell()?;
        // The second half of the disk is written and discarded all the while.
        let half = DISK_BYTES / 2;
        guest.run(&format!(
            "(n=0; while n=$((n+1)); do dd if=/dev/vdb of=/dev/vda bs=20k count=8 seek=$(({half} / 20480 + n * 7 % 700)) \
             skip=$((n % 100)) conv=notrunc; test $((n % 4)) != 0 || blkdiscard -o {half} -l 8388608 /dev/vda; done) \
             >/dev/null 2>&1 & true"
        ))?;
        let start = round * ROUND_BLOCKS;
        guest.type_line(&format!(
            "n={start}; while test $n -lt {}; do dd if=/dev/vdb of=/dev/vda bs=64k count=1 skip=$n seek=$n conv=notrunc,fsync \
             2>/dev/null && echo \"FLU\"SHED=$n.; n=$((n+1)); done",
            start + ROUND_BLOCKS
        ))?;
        let last = start + 7 + 5 * round;
        guest.expect(&format!("FLUSHED={last}."))?;
        guest.kill()?;
        flushed.extend(start..=last);

        // Leaks (3) are allowed, errors are not.
        let (said, code) = host("qemu-img", &["check", "-f", "qcow2", text(&chain.overlay)?])?;
        ensure!(code == 0 || code == 3, "round {round}: qemu-img check ended with {code}: {said}");
        let content = at("content.raw");
        qemu_img(&["convert", "-q", "-O", "raw", text(&chain.overlay)?, text(&content)?])?;
        let content = fs::read(content)?;
        for block in &flushed {
            let range = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
            ensure!(
                content[range.clone()] == pattern[range],
                "round {round}: block {block} was flushed and is not there"
            );
        }
    }
    ensure!(fs::read(&chain.base)? == chain.untouched, "the base was changed");
    Ok(())
}

/// A file system of a size of its own; unmounted when dropped.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn mount(at: PathBuf, bytes: u64) -> Result<Self> {
        fs::create_dir(&at)?;
        let (said, code) =
            host("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", text(&at)?])?;
        ensure!(code == 0, "mount ended with {code}: {said}");
        Ok(Self(at))
    }

    fn grow(&self, bytes: u64) -> Result<()> {
        let (said, code) = host("mount", &["-o", &format!("remount,size={bytes}"), text(&self.0)?])?;
        ensure!(code == 0, "mount ended with {code}: {said}");
        Ok(())
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = host("umount", &["-l", &self.0.display().to_string()]);
    }
}

fn no_space() -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?;
    let small = SmallFileSystem::mount(builder.directory().join("small"), 8 * MIB)?;
    let image = small.0.join("disk.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image)?, "64M"])?;
    let mut guest =
        builder.argument("--disk", &format!("path={},image_type=qcow2", image.display())).start()?;
    guest.expect_shell()?;
    guest.run("dd if=/dev/urandom of=/tmp/data bs=64k count=32; cd /tmp; cat data data data data data data data data > more; mv more data; cd")?;
    guest.run("dd if=/tmp/data of=/dev/vda bs=64k count=16 conv=fsync")?;
    match guest.run("dd if=/tmp/data of=/dev/vda bs=64k oflag=direct conv=fsync") {
        Ok(said) => bail!("16 MiB were written where there are 8: {said}"),
        Err(error) => ensure!(error.to_string().contains("error"), "{error}"),
    }
    ensure!(counter(&guest, "disk0", "errors")? > 0, "no error was counted");
    ensure!(guest.state()? == "Running", "the state is {}", guest.state()?);
    guest.run("echo 3 > /proc/sys/vm/drop_caches; cmp -n 1048576 /tmp/data /dev/vda")?;

    small.grow(64 * MIB)?;
    guest.run(
        "dd if=/tmp/data of=/dev/vda bs=64k oflag=direct conv=fsync && cmp -n 16777216 /tmp/data /dev/vda",
    )?;
    guest.power_off_keeping(|| {
        let (said, code) = host("qemu-img", &["check", "-f", "qcow2", text(&image)?])?;
        ensure!(code == 0 || code == 3, "qemu-img check ended with {code}: {said}");
        Ok(())
    })
}
