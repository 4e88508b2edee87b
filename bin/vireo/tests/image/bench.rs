//! `vireo image bench` beside `qemu-img bench`.

use super::{Folder, has_qemu};

/// What was announced, without the time.
fn announced(text: &str) -> &str {
    let (announced, time) = text.split_once("Run completed in ").unwrap();
    assert!(time.trim_end().trim_end_matches(" seconds.").parse::<f64>().is_ok(), "{text}");
    announced
}

#[test]
fn bench_announces_what_qemu_img_bench_does() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    folder.qemu_img("create -f raw disk 4M");
    for arguments in [
        "",
        "-c 100 -d 8 -s 512",
        "-c 50 -o 1M -S 65536 -t none",
        "-c 64 -w --pattern 7 -d 4",
        "-c 64 -w --flush-interval 16 -d 4",
        "-c 64 -w --flush-interval 16 -d 4 --no-drain",
        "-c 10 -q",
        "-c 10 -i threads",
        "-c 10 -i io_uring -S 12345k",
        "-c 10 -t none -n -U",
    ] {
        let ours = folder.vireo(&format!("bench -f raw {arguments} disk"));
        let theirs = folder.qemu_img(&format!("bench -f raw {arguments} disk"));
        // qemu-img announces even when it is told to be quiet.
        let expected = if arguments.contains("-q") { "" } else { announced(&theirs) };
        assert_eq!(announced(&ours), expected, "{arguments}");
    }
}

#[test]
fn bench_writes_its_pattern_at_its_steps_and_goes_on_at_the_start() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    for format in ["raw", "qcow2"] {
        for cache in ["writeback", "none", "writethrough", "directsync", "unsafe"] {
            for theirs in [true, false] {
                folder.qemu_img(&format!("create -q -f {format} disk{theirs} 1M"));
                let arguments = format!(
                    "bench -f {format} -t {cache} -c 40 -d 8 -o 64k -S 36k -w --pattern 165 disk{theirs}"
                );
                if theirs {
                    folder.qemu_img(&arguments)
                } else {
                    folder.vireo(&arguments)
                };
            }
            folder.qemu_img(&format!("compare -f {format} -F {format} disktrue diskfalse"));
        }
    }
}

#[test]
fn bench_refuses_what_makes_no_sense() {
    let folder = Folder::new();
    folder.vireo("create -q -f raw disk 1M");
    assert!(folder.refused("bench -f raw -w --flush-interval 8 -d 16 disk").contains("--flush-interval"));
    assert!(folder.refused("bench -f raw -s 1G -d 2 disk").contains("1 GiB"));
    assert!(folder.refused("bench -f raw -o 2M -c 1 disk").contains("byte 2097152"));
    assert!(folder.refused("bench -f raw -s 4G disk").contains("2147483647"));
    assert!(folder.refused("bench disk").contains("not guessed"));
    assert!(folder.refused("bench -f qcow2 disk").contains("disk"));
    for arguments in ["-c 0", "-d 0", "--flush-interval 4", "--no-drain -w", "-w --pattern 256", "-i aio"] {
        let output =
            folder.output(env!("CARGO_BIN_EXE_vireo"), &format!("image bench -f raw {arguments} disk"));
        assert_eq!(output.status.code(), Some(2), "{arguments}: {output:?}");
    }
}
