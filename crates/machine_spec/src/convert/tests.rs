use proptest::prelude::*;

use super::*;
use crate::spec::{
    BackingFiles, BalloonSpec, CharacterSpec, DiskCache, DiskFormat, MemoryBacking, NetBackendSpec,
};
use crate::strategies;
use crate::wire::{
    BalloonConfig, CacheMode, ConsoleConfig, ConsoleMode, ConsolePortConfig, CpuTopologyConfig, DiskConfig,
    ImageType, MacAddress, NetConfig, SerialConfig,
};

fn build(config: VmConfig) -> Result<MachineSpec, SpecError> {
    MachineSpec::from_config(config, &mut || [0xff; 6])
}

fn least() -> VmConfig {
    let payload = PayloadConfig { kernel: Some("vmlinux".into()), ..PayloadConfig::default() };
    VmConfig { payload, ..VmConfig::default() }
}

/// What is said when `change` is made to a good description.
fn refusal(change: impl FnOnce(&mut VmConfig)) -> String {
    let mut config = least();
    change(&mut config);
    let text = build(config).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn disk(path: &str) -> DiskConfig {
    DiskConfig { path: Some(path.into()), ..DiskConfig::default() }
}

fn tap(name: &str) -> NetConfig {
    NetConfig { tap: Some(name.into()), ..NetConfig::default() }
}

#[test]
fn the_least_description_gets_every_default() {
    let spec = build(least()).unwrap();
    assert_eq!((spec.cpus.count, spec.memory.bytes), (1, 512 << 20));
    assert_eq!(spec.memory.backing, MemoryBacking::Anonymous);
    assert!(spec.memory.transparent_hugepages);
    assert_eq!(spec.serial, CharacterSpec::Tty);
    assert!(spec.disks.is_empty() && spec.nets.is_empty() && spec.console_ports.is_empty());
    assert_eq!((spec.rng, spec.balloon, spec.on_reset), (None, None, OnReset::Reboot));
}

#[test]
fn the_terminal_goes_to_the_serial_port_only_when_no_character_device_is_described() {
    let console = ConsoleConfig { mode: ConsoleMode::Tty, ..ConsoleConfig::default() };
    let spec = build(VmConfig { console: Some(console), ..least() }).unwrap();
    assert_eq!(spec.serial, CharacterSpec::Off);
    assert_eq!(spec.console_ports[0].backend, CharacterSpec::Tty);
    let serial = SerialConfig { mode: ConsoleMode::Null, ..SerialConfig::default() };
    let spec = build(VmConfig { serial: Some(serial), ..least() }).unwrap();
    assert_eq!(spec.serial, CharacterSpec::Null);
}

#[test]
fn processors_and_memory_out_of_bounds_are_refused() {
    for (text, expected) in [
        (refusal(|c| c.payload.kernel = None), "no kernel and no firmware"),
        (refusal(|c| c.payload.firmware = Some("f".into())), "kernel and firmware"),
        (refusal(|c| c.payload.nvram = Some("v".into())), "nvram without firmware"),
        (
            refusal(|c| {
                (c.payload.kernel, c.payload.firmware) = (None, Some("f".into()));
                c.payload.initramfs = Some("i".into());
            }),
            "initramfs without kernel",
        ),
        (refusal(|c| c.payload.firmware = Some("".into())), "payload: firmware \"\" is empty"),
        (refusal(|c| c.payload.kernel = Some("".into())), "payload: kernel \"\" is empty"),
        (refusal(|c| c.payload.initramfs = Some("a\0b".into())), "has a zero byte"),
        (refusal(|c| c.payload.cmdline = Some("a\nb".into())), "control character at byte 1"),
        (refusal(|c| (c.cpus.boot_vcpus, c.cpus.max_vcpus) = (0, 0)), "0 vCPUs are not possible"),
        (refusal(|c| (c.cpus.boot_vcpus, c.cpus.max_vcpus) = (255, 255)), "ask for 1 to 254"),
        (refusal(|c| (c.cpus.boot_vcpus, c.cpus.max_vcpus) = (257, 257)), "257 vCPUs"),
        (refusal(|c| c.cpus.max_vcpus = 2), "max 2 is not boot 1"),
        (refusal(|c| c.memory.size = 0), "at least 64M"),
        (refusal(|c| c.memory.size = (64 << 20) - 1), "at least 64M"),
        (refusal(|c| c.memory.size = (64 << 20) + 1), "not a multiple of 2 MiB: round up to 66M"),
        (refusal(|c| c.memory.size = u64::MAX), "at most 8T"),
        (refusal(|c| c.memory.hugepage_size = Some(2 << 20)), "hugepage_size without hugepages"),
        (refusal(|c| (c.memory.shared, c.memory.mergeable) = (true, true)), "mergeable with shared"),
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let huge = |size, page| {
        refusal(|c| {
            (c.memory.size, c.memory.hugepages, c.memory.hugepage_size) = (size, true, Some(page));
        })
    };
    assert!(huge(1 << 30, 4096).contains("hugepage_size 4096"));
    assert!(huge(512 << 20, 1 << 30).contains("not a multiple of 1024 MiB: round up to 1024M"));
}

#[test]
fn a_balloon_is_made_of_pages_and_fits_into_memory() {
    let with = |size| {
        let balloon = Some(BalloonConfig { size, deflate_on_oom: true, ..BalloonConfig::default() });
        build(VmConfig { balloon, ..least() })
    };
    for size in [0, 4096, 512 << 20] {
        let spec = with(size).unwrap();
        let balloon = spec.balloon.unwrap();
        assert!(balloon.bytes == size && balloon.deflate_on_oom && !balloon.free_page_reporting);
        assert_eq!(balloon.resized(8192, &spec.memory).unwrap(), BalloonSpec { bytes: 8192, ..balloon });
        assert!(balloon.resized(8191, &spec.memory).is_err());
    }
    for (size, expected) in [
        (1, "balloon: size \"1\" is not a multiple of 4096"),
        ((512 << 20) + 4096, "is more than the guest has"),
        (u64::MAX - 4095, "is more than the guest has"),
    ] {
        let text = with(size).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_topology_must_make_the_number_of_processors() {
    let with = |count, topology: [u16; 4]| {
        let mut config = least();
        let [threads_per_core, cores_per_die, dies_per_package, packages] = topology;
        (config.cpus.boot_vcpus, config.cpus.max_vcpus) = (count, count);
        config.cpus.topology =
            Some(CpuTopologyConfig { threads_per_core, cores_per_die, dies_per_package, packages });
        build(config)
    };
    assert_eq!(with(8, [2, 2, 1, 2]).unwrap().cpus.topology.sockets, 2);
    assert!(with(4, [1, 2, 1, 1]).unwrap_err().to_string().contains("topology 1:2:1:1 makes 2 vCPUs, not 4"));
    assert!(with(4, [0, 4, 1, 1]).is_err());
    // The product in 8, 16 or 32 bits would be 4.
    assert!(with(4, [65535, 65535, 65535, 65535]).is_err());
    assert!(with(4, [1028, 1, 1, 1]).is_err());
}

#[test]
fn devices_out_of_bounds_are_refused() {
    fn with_disk(change: impl FnOnce(&mut DiskConfig)) -> String {
        let mut bad = disk("a");
        change(&mut bad);
        refusal(|c| c.disks = Some(vec![disk("b"), bad]))
    }
    fn with_net(change: impl FnOnce(&mut NetConfig)) -> String {
        let mut bad = tap("tap1");
        change(&mut bad);
        refusal(|c| c.net = Some(vec![tap("tap0"), bad]))
    }
    for (text, expected) in [
        (with_disk(|d| d.path = None), "disks[1]: no path"),
        (with_disk(|d| d.path = Some("b".into())), "disks[1]: image \"b\" is already used by disks[0]"),
        (with_disk(|d| d.queue_size = 100), "disks[1]: queue_size \"100\""),
        (with_disk(|d| d.queue_size = 65536), "power of two from 2 to 32768"),
        (with_disk(|d| d.num_queues = 0), "num_queues \"0\" is out of bounds"),
        (with_disk(|d| d.serial = Some("x".repeat(21))), "1 to 20 printable"),
        (with_disk(|d| d.serial = Some("é".into())), "1 to 20 printable"),
        (with_disk(|d| d.id = Some("a b".into())), "id \"a b\" is not an identifier"),
        (with_disk(|d| d.image_type = Some(ImageType::FlatVmdk)), "disks[1]: an image of another hypervisor"),
        (with_disk(|d| d.image_type = Some(ImageType::Vdi)), "add readonly=on"),
        (with_disk(|d| d.backing_files = true), "backing_files with a raw image: name the image's format"),
        (with_disk(|d| d.backing_directories = Some(vec!["/a".into()])), "without backing_files"),
        (
            with_disk(|d| {
                d.backing_files = true;
                (d.image_type, d.readonly) = (Some(ImageType::Vhdx), true);
            }),
            "names no other files",
        ),
        (
            with_disk(|d| {
                d.backing_files = true;
                (d.image_type, d.backing_directories) = (Some(ImageType::Qcow2), Some(vec!["".into()]));
            }),
            "backing_directories \"\" is empty",
        ),
        (
            with_disk(|d| {
                (d.image_type, d.readonly) = (Some(ImageType::FlatVmdk), true);
                (d.backing_files, d.backing_directories) = (true, Some(vec!["/a".into()]));
            }),
            "extents must lie beside it",
        ),
        (
            with_disk(|d| (d.image_type, d.readonly, d.direct) = (Some(ImageType::Vdi), true, true)),
            "a cache mode with an image of another",
        ),
        (with_disk(|d| (d.direct, d.cache) = (true, Some(CacheMode::Unsafe))), "direct with a cache mode"),
        (with_net(|n| n.tap = Some("a/b".into())), "net[1]: tap \"a/b\""),
        (with_net(|n| n.tap = Some("sixteen-letters!".into())), "1 to 15"),
        (with_net(|n| n.tap = Some("tap0".into())), "net[1]: tap tap0 is already used by net[0]"),
        (with_net(|n| n.mac = Some(MacAddress([1, 0, 0, 0, 0, 1]))), "not the address of one station"),
        (with_net(|n| n.mac = Some(MacAddress([0; 6]))), "not the address of one station"),
        (with_net(|n| n.num_queues = Some(3)), "num_queues \"3\" is odd"),
        (with_net(|n| n.mtu = Some(500)), "use 1280 to 65535"),
        (with_net(|n| n.ip = Some("::1".parse().unwrap())), "IPv6"),
        (with_net(|n| n.ip = Some("224.0.0.1".parse().unwrap())), "not the address of one interface"),
        (with_net(|n| n.mask = Some("255.255.255.0".parse().unwrap())), "mask \"255.255.255.0\" has no ip"),
        (with_net(|n| n.fds = Some(vec![3])), "fd with tap, ip or mask"),
        (with_net(|n| (n.tap, n.fds) = (None, Some(vec![1]))), "3 or above"),
        (with_net(|n| (n.tap, n.fds) = (None, Some(vec![3, 3]))), "fd 3 is already used"),
        (with_net(|n| (n.tap, n.fds, n.num_queues) = (None, Some(vec![3]), Some(4))), "does not match"),
        (with_net(|n| (n.tap, n.fds) = (None, Some(vec![]))), "num_queues \"0\""),
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    let mask = |mask: &str| {
        with_net(|n| {
            (n.ip, n.mask) = (Some("10.0.0.1".parse().unwrap()), Some(mask.parse().unwrap()));
        })
    };
    assert!(mask("255.0.255.0").contains("is not a netmask"));
    assert!(mask("0.0.0.0").contains("is not a netmask"));
}

#[test]
fn an_identifier_belongs_to_one_device_of_any_kind() {
    let text = refusal(|c| {
        c.disks = Some(vec![DiskConfig { id: Some("root".into()), ..disk("a") }]);
        c.net = Some(vec![NetConfig { id: Some("root".into()), ..tap("t") }]);
    });
    assert!(text.contains("id \"root\" is used by two devices"), "{text}");
}

#[test]
fn a_made_identifier_gives_way_to_a_given_one() {
    let named = DiskConfig { id: Some("disk0".into()), ..disk("b") };
    let spec = build(VmConfig { disks: Some(vec![disk("a"), named]), ..least() }).unwrap();
    assert_eq!([spec.disks[0].id.as_str(), spec.disks[1].id.as_str()], ["disk1", "disk0"]);
}

#[test]
fn an_image_may_be_shared_by_readers_only() {
    let reader = DiskConfig { readonly: true, ..disk("a") };
    let with = |disks: [&DiskConfig; 3]| {
        build(VmConfig { disks: Some(disks.map(DiskConfig::clone).to_vec()), ..least() })
    };
    let writer = disk("a");
    assert!(with([&reader, &reader, &reader]).is_ok());
    for disks in [[&reader, &reader, &writer], [&writer, &reader, &reader]] {
        assert!(with(disks).unwrap_err().to_string().contains("make both readonly"));
    }
}

#[test]
fn a_disk_is_raw_and_names_no_other_file_unless_its_description_says_so() {
    let build = |disk| build(VmConfig { disks: Some(vec![disk]), ..least() }).unwrap().disks.remove(0);
    // Whatever the name suggests.
    assert_eq!(build(disk("a.qcow2")).format, DiskFormat::Raw);
    let qcow2 = DiskConfig { image_type: Some(ImageType::Qcow2), ..disk("a") };
    assert_eq!(build(qcow2.clone()).format, DiskFormat::Qcow2(BackingFiles::Refused));
    let backed = DiskConfig { backing_files: true, ..qcow2 };
    assert_eq!(build(backed.clone()).format, DiskFormat::Qcow2(BackingFiles::Within(vec![])));
    let more = DiskConfig { backing_directories: Some(vec!["/base".into()]), ..backed };
    let within = BackingFiles::Within(vec!["/base".into()]);
    assert_eq!(build(more).format, DiskFormat::Qcow2(within));
}

#[test]
fn direct_is_the_cache_mode_none() {
    let cache = |direct, cache| {
        let disk = DiskConfig { direct, cache, ..disk("a") };
        build(VmConfig { disks: Some(vec![disk]), ..least() }).unwrap().disks[0].cache
    };
    assert_eq!(cache(false, None), DiskCache::Writeback);
    assert_eq!(cache(true, None), DiskCache::None);
    assert_eq!(cache(false, Some(CacheMode::None)), DiskCache::None);
    assert_eq!(cache(true, Some(CacheMode::Directsync)), DiskCache::Directsync);
    assert_eq!(cache(false, Some(CacheMode::Writethrough)), DiskCache::Writethrough);
}

#[test]
fn made_addresses_are_local_to_one_station_and_differ() {
    let nets = vec![
        NetConfig::default(),
        NetConfig::default(),
        NetConfig { mac: Some(MacAddress([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff])), ..NetConfig::default() },
    ];
    // The source always says ff:ff:ff:ff:ff:ff.
    let spec = build(VmConfig { net: Some(nets), ..least() }).unwrap();
    let macs: Vec<_> = spec.nets.iter().map(|net| net.mac).collect();
    assert_eq!(macs[0], [0xfe, 0xff, 0xff, 0xff, 0, 0]);
    assert_eq!(macs[1], [0xfe, 0xff, 0xff, 0xff, 0, 1]);
}

#[test]
fn an_address_given_twice_is_refused() {
    let mac = Some(MacAddress([2, 0, 0, 0, 0, 1]));
    let text = refusal(|c| {
        c.net = Some(vec![NetConfig { mac, ..tap("a") }, NetConfig { mac, ..tap("b") }]);
    });
    assert!(text.contains("net[1]: mac 02:00:00:00:00:01 is already used by net[0]"), "{text}");
}

#[test]
fn queues_of_a_device_from_descriptors_follow_their_number() {
    let net = NetConfig { fds: Some(vec![3, 4]), ..NetConfig::default() };
    let spec = build(VmConfig { net: Some(vec![net]), ..least() }).unwrap();
    assert_eq!(spec.nets[0].queue_pairs, 2);
    assert_eq!(spec.nets[0].backend, NetBackendSpec::TapDescriptors(vec![3, 4]));
}

#[test]
fn a_stream_is_one_descriptor_with_one_pair_of_queues() {
    let stream = NetConfig { socket_fd: Some(5), ..NetConfig::default() };
    let spec = build(VmConfig { net: Some(vec![stream.clone()]), ..least() }).unwrap();
    assert_eq!((spec.nets[0].queue_pairs, &spec.nets[0].backend), (1, &NetBackendSpec::StreamDescriptor(5)));
    let net = |change: fn(&mut NetConfig)| {
        let mut net = stream.clone();
        change(&mut net);
        refusal(|c| c.net = Some(vec![net]))
    };
    for (text, expected) in [
        (net(|net| net.socket_fd = Some(2)), "net[0]: socket_fd \"2\" is not a descriptor for a device"),
        (net(|net| net.num_queues = Some(4)), "net[0]: num_queues \"4\" is too many for socket_fd"),
        (net(|net| net.tap = Some("t".into())), "socket_fd with tap, ip or mask"),
        (net(|net| net.fds = Some(vec![4])), "fd with socket_fd"),
        (
            refusal(|c| {
                let tap = NetConfig { fds: Some(vec![5]), ..NetConfig::default() };
                c.net = Some(vec![tap, stream.clone()]);
            }),
            "net[1]: fd 5 is already used by net[0]",
        ),
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
}

#[test]
fn character_devices_that_cannot_be_are_refused() {
    let serial = |mode, file: Option<&str>, socket: Option<&str>| {
        refusal(|c| {
            let (file, socket) = (file.map(Into::into), socket.map(Into::into));
            c.serial = Some(SerialConfig { mode, file, socket, log: None });
        })
    };
    let logged =
        |mode, log: &str| Some(SerialConfig { mode, log: Some(log.into()), ..SerialConfig::default() });
    let tty = |name: Option<&str>| ConsolePortConfig {
        name: name.map(Into::into),
        mode: ConsoleMode::Tty,
        ..ConsolePortConfig::default()
    };
    let ports = |ports: Vec<ConsolePortConfig>| refusal(|c| c.console_ports = Some(ports));
    let null = |name: &str| ConsolePortConfig { mode: ConsoleMode::Null, ..tty(Some(name)) };
    let file = ConsolePortConfig { mode: ConsoleMode::File, file: Some("f".into()), ..tty(None) };
    for (text, expected) in [
        (serial(ConsoleMode::File, None, None), "serial: no file"),
        (serial(ConsoleMode::Socket, None, None), "serial: no socket"),
        (serial(ConsoleMode::Tty, Some("f"), None), "file with a mode that has none"),
        (serial(ConsoleMode::File, Some("f"), Some("s")), "serial: "),
        (serial(ConsoleMode::File, Some(""), None), "is empty"),
        (ports(vec![tty(None), tty(Some("a"))]), "console_ports[1]: console_ports[0] has the terminal"),
        (ports(vec![null("a"), null("a")]), "name a is already used by console_ports[0]"),
        (ports(vec![null("a/b")]), "is not the name of a port"),
        (ports(vec![file.clone(), file]), "file \"f\" is already used"),
        (refusal(|c| c.serial = logged(ConsoleMode::Off, "l")), "serial: log with mode Off"),
        (refusal(|c| c.serial = logged(ConsoleMode::Pty, "")), "is empty"),
        (
            refusal(|c| {
                c.serial = logged(ConsoleMode::Pty, "l");
                c.console_ports = Some(vec![ConsolePortConfig { log: Some("l.1".into()), ..null("a") }]);
            }),
            "console_ports[0]: file \"l.1\" is already used by serial",
        ),
        (ports(vec![ConsolePortConfig::default()]), "console_ports[0]: mode Off"),
        (ports((0..33).map(|n| null(&n.to_string())).collect()), "at most 32"),
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
}

proptest! {
    #[test]
    fn a_machine_is_described_so_that_it_is_built_again(config in strategies::config()) {
        let spec = build(config).unwrap();
        let described = VmConfig::from(&spec);
        let json = serde_json::to_string(&described).unwrap();
        let read: VmConfig = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read, &described);
        prop_assert_eq!(build(read).unwrap(), spec);
    }
}
