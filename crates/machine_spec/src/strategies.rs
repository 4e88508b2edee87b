//! Descriptions for property tests: everything that is accepted, said in as many ways as it can be.

use std::path::PathBuf;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::wire::{
    BalloonConfig, CacheMode, ConsoleConfig, ConsoleMode, ConsolePortConfig, CpuTopologyConfig, CpusConfig,
    DiskConfig, ImageType, MacAddress, MemoryConfig, NetConfig, OnResetConfig, PayloadConfig, RngConfig,
    SerialConfig, VmConfig,
};

/// A path with everything in it that a spelling could trip over.
fn path() -> impl Strategy<Value = PathBuf> {
    r#"[a-zA-Z0-9/,="\\\[\]é -]{1,12}"#.prop_map(PathBuf::from)
}

fn cpus() -> impl Strategy<Value = CpusConfig> {
    (1u16..=2, 1u16..=8, 1u16..=2, 1u16..=4, any::<bool>()).prop_map(
        |(threads_per_core, cores_per_die, dies_per_package, packages, told)| {
            let count = u32::from(threads_per_core * cores_per_die * dies_per_package * packages);
            let topology = CpuTopologyConfig { threads_per_core, cores_per_die, dies_per_package, packages };
            CpusConfig { boot_vcpus: count, max_vcpus: count, topology: told.then_some(topology) }
        },
    )
}

fn memory() -> impl Strategy<Value = MemoryConfig> {
    let backing = prop_oneof![
        Just((false, None, 2u64 << 20)),
        Just((true, None, 2 << 20)),
        Just((true, Some(2 << 20), 2 << 20)),
        Just((true, Some(1 << 30), 1 << 30)),
    ];
    (backing, 32u64..4096, any::<[bool; 4]>()).prop_map(
        |((hugepages, hugepage_size, step), pages, [shared, mergeable, prefault, thp])| MemoryConfig {
            size: pages * step,
            mergeable: mergeable && !shared && !hugepages,
            shared,
            hugepages,
            hugepage_size,
            prefault,
            thp,
        },
    )
}

fn payload() -> impl Strategy<Value = PayloadConfig> {
    let kernel = (path(), of("[ -~]{0,30}"), of(path()));
    let firmware = (path(), of(path()));
    let kernel = kernel.prop_map(|(kernel, cmdline, initramfs)| PayloadConfig {
        kernel: Some(kernel),
        cmdline,
        initramfs,
        ..PayloadConfig::default()
    });
    let firmware = firmware.prop_map(|(firmware, nvram)| PayloadConfig {
        firmware: Some(firmware),
        nvram,
        ..PayloadConfig::default()
    });
    prop_oneof![kernel, firmware]
}

/// A format with what goes with it: other files, their directories, and whether it can only be read.
fn format() -> impl Strategy<Value = (Option<ImageType>, bool, Option<Vec<PathBuf>>, bool)> {
    use ImageType::{FixedVhd, FlatVmdk, Qcow2, Raw, Vdi, Vhdx};
    let alone = |types| (of(proptest::sample::select(types)), Just(false), Just(None));
    prop_oneof![
        alone(vec![Raw]).prop_map(|(image, files, directories)| (image, files, directories, false)),
        alone(vec![FixedVhd, Vhdx, Vdi]).prop_map(|(image, files, directories)| (
            image,
            files,
            directories,
            image.is_some()
        )),
        (any::<bool>(), of(vec(path(), 0..3)), any::<bool>()).prop_map(|(vmdk, directories, files)| {
            let image = if vmdk { FlatVmdk } else { Qcow2 };
            (Some(image), files, directories.filter(|_| files && !vmdk), vmdk)
        }),
    ]
}

fn cache() -> impl Strategy<Value = (bool, Option<CacheMode>)> {
    use CacheMode::{Directsync, None as Uncached, Unsafe, Writeback, Writethrough};
    prop_oneof![
        (any::<bool>(), of(proptest::sample::select(vec![Uncached, Directsync]))),
        (Just(false), of(proptest::sample::select(vec![Writeback, Writethrough, Unsafe]))),
    ]
}

fn disk() -> impl Strategy<Value = DiskConfig> {
    let image = (path(), format(), any::<[bool; 3]>(), cache());
    (image, 1u32..=256, 1u32..=15, of("[ -~]{1,20}")).prop_map(
        |((path, format, [readonly, sparse, named], (direct, cache)), num_queues, order, serial)| {
            let (image_type, backing_files, backing_directories, only_read) = format;
            DiskConfig {
                path: Some(path),
                image_type,
                backing_files,
                backing_directories,
                readonly: readonly || only_read,
                direct: direct && !only_read,
                cache: cache.filter(|_| !only_read),
                sparse,
                num_queues,
                queue_size: 1 << order,
                id: named.then(String::new),
                serial,
            }
        },
    )
}

fn net() -> impl Strategy<Value = NetConfig> {
    let backend = (any::<bool>(), of((1u8..=223, any::<bool>())), 1usize..=4, any::<[bool; 5]>());
    (backend, any::<[u8; 6]>(), of(1280u16..), 1u32..=15).prop_map(
        |((by_name, address, pairs, [given, socket, count_told, mac_told, link_up]), mac, mtu, order)| {
            let (fds, socket) = (given && !socket, given && socket);
            let pairs = if socket { 1 } else { pairs };
            let address = address.filter(|_| !given).map(|(byte, masked)| ([10, 0, 1, byte].into(), masked));
            NetConfig {
                tap: (by_name && !given).then(|| "tap".to_owned()),
                ip: address.map(|(ip, _)| ip),
                mask: address.filter(|(_, masked)| *masked).map(|_| [255, 255, 0, 0].into()),
                mac: mac_told.then_some(MacAddress(mac)),
                mtu,
                link_up,
                num_queues: (count_told || !fds).then(|| 2 * u32::try_from(pairs).unwrap()),
                queue_size: 1 << order,
                id: None,
                fds: fds.then(|| vec![0; pairs]),
                socket_fd: socket.then_some(0),
            }
        },
    )
}

/// A balloon, its size as a part of memory in 256ths.
fn balloon() -> impl Strategy<Value = BalloonConfig> {
    (0u64..=256, any::<[bool; 2]>(), 0u32..100).prop_map(
        |(size, [deflate_on_oom, free_page_reporting], statistics_period)| BalloonConfig {
            size,
            deflate_on_oom,
            free_page_reporting,
            statistics_period,
        },
    )
}

fn port() -> impl Strategy<Value = ConsolePortConfig> {
    let mode = prop_oneof![
        Just(ConsoleMode::Pty),
        Just(ConsoleMode::Null),
        Just(ConsoleMode::File),
        Just(ConsoleMode::Socket)
    ];
    (mode, path(), any::<bool>(), of(path())).prop_map(|(mode, path, named, log)| ConsolePortConfig {
        name: named.then(String::new),
        mode,
        file: (mode == ConsoleMode::File).then(|| path.clone()),
        socket: (mode == ConsoleMode::Socket).then_some(path),
        log,
    })
}

/// Makes what must be unique so, by a number.
fn told_apart(mut config: VmConfig) -> VmConfig {
    let mut number = 2u8;
    let mut next = || {
        number += 1;
        number
    };
    let numbered = |path: &mut Option<PathBuf>, number: u8| {
        if let Some(path) = path {
            *path = format!("{number}{}", path.display()).into();
        }
    };
    for disk in config.disks.iter_mut().flatten() {
        numbered(&mut disk.path, next());
        // May be the identifier that another disk would be given.
        disk.id = disk.id.take().map(|_| format!("disk{}", next()));
    }
    for net in config.net.iter_mut().flatten() {
        net.tap = net.tap.take().map(|tap| format!("{tap}{}", next()));
        if let Some(MacAddress(bytes)) = &mut net.mac {
            bytes[0] &= 0xfe;
            bytes[5] = next();
        }
        for fd in net.fds.iter_mut().flatten().chain(&mut net.socket_fd) {
            *fd = next().into();
        }
    }
    if let Some(console) = &mut config.console {
        numbered(&mut console.file, next());
        numbered(&mut console.socket, next());
        numbered(&mut console.log, next());
    }
    for port in config.console_ports.iter_mut().flatten() {
        port.name = port.name.take().map(|_| format!("port.{}", next()));
        numbered(&mut port.file, next());
        numbered(&mut port.socket, next());
        numbered(&mut port.log, next());
    }
    config
}

/// Any description that is accepted.
pub(crate) fn config() -> impl Strategy<Value = VmConfig> {
    let board = (cpus(), memory(), payload(), of(path()), of(balloon()));
    let devices = (of(vec(disk(), 0..4)), of(vec(net(), 0..4)));
    let serial = prop_oneof![Just(ConsoleMode::Off), Just(ConsoleMode::Tty), Just(ConsoleMode::Null)];
    let characters = (of(serial), of(port()), of(vec(port(), 0..4)));
    let on_reset = of(prop_oneof![Just(OnResetConfig::Reboot), Just(OnResetConfig::Exit)]);
    (board, devices, characters, on_reset).prop_map(
        |(
            (cpus, memory, payload, rng, balloon),
            (disks, net),
            (serial, console, console_ports),
            on_reset,
        )| {
            let bytes = memory.size;
            told_apart(VmConfig {
                cpus,
                memory,
                payload,
                disks,
                net,
                rng: rng.map(|src| RngConfig { src }),
                balloon: balloon
                    .map(|balloon| BalloonConfig { size: balloon.size * (bytes / 256), ..balloon }),
                serial: serial.map(|mode| SerialConfig {
                    mode,
                    log: (mode == ConsoleMode::Null).then(|| "1.log".into()),
                    ..SerialConfig::default()
                }),
                console: console.map(|port| ConsoleConfig {
                    mode: port.mode,
                    file: port.file,
                    socket: port.socket,
                    log: port.log,
                }),
                platform: None,
                console_ports,
                on_reset,
            })
        },
    )
}
