use proptest::prelude::*;

use super::*;
use crate::{MachineSpec, strategies};

fn take_all(words: &[&str]) -> Result<VmConfig, FlagError> {
    let mut flags = MachineFlags::default();
    for pair in words.chunks(2) {
        flags.take(pair[0].strip_prefix("--").unwrap(), pair[1])?;
    }
    Ok(flags.into_config())
}

fn refusal(option: &str, value: &str) -> String {
    let text = MachineFlags::default().take(option, value).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    assert!(text.starts_with(&format!("--{option}: ")), "{text}");
    text
}

#[test]
fn a_whole_machine_is_read() {
    let config = take_all(&[
        "--cpus",
        "boot=2,topology=1:2:1:1",
        "--memory",
        "size=1G,shared=on,hugepages=on,hugepage_size=2M,prefault=on,thp=off",
        "--kernel",
        "vmlinux,6=1",
        "--initramfs",
        "i.cpio",
        "--cmdline",
        "console=ttyS0 root=/dev/vda",
        "--disk",
        "path=a.raw,readonly=on,direct=on,num_queues=2,queue_size=256,serial=S1,id=root",
        "--disk",
        r#""b, c=[1].raw",readonly=off"#,
        "--net",
        "tap=tap0,mac=52:54:00:12:34:56,ip=10.0.0.1,mask=255.255.255.0,mtu=9000,link_up=off",
        "--net",
        "fd=[3,4],num_queues=4",
        "--net",
        "socket_fd=5,mtu=1500",
        "--rng",
        "src=/dev/urandom",
        "--balloon",
        "64M,deflate_on_oom=on,free_page_reporting=on,statistics_period=5",
        "--serial",
        "file=/tmp/out,log=/tmp/log",
        "--console",
        "socket=/tmp/agent,name=org.qemu.guest_agent.0",
        "--console",
        "tty",
        "--on-reset",
        "exit",
    ])
    .unwrap();
    assert_eq!(config.cpus.boot_vcpus, 2);
    assert_eq!(config.cpus.max_vcpus, 2);
    assert_eq!(config.cpus.topology.unwrap().cores_per_die, 2);
    let memory = MemoryConfig {
        size: 1 << 30,
        mergeable: false,
        shared: true,
        hugepages: true,
        hugepage_size: Some(2 << 20),
        prefault: true,
        thp: false,
    };
    assert_eq!(config.memory, memory);
    assert_eq!(config.payload.kernel.as_deref(), Some("vmlinux,6=1".as_ref()));
    assert_eq!(config.payload.cmdline.as_deref(), Some("console=ttyS0 root=/dev/vda"));
    let disks = config.disks.unwrap();
    assert_eq!(disks[0].id.as_deref(), Some("root"));
    assert_eq!((disks[0].num_queues, disks[0].queue_size), (2, 256));
    assert_eq!(disks[1].path.as_deref(), Some("b, c=[1].raw".as_ref()));
    let nets = config.net.unwrap();
    assert_eq!(nets[0].ip.unwrap().to_string(), "10.0.0.1");
    assert_eq!(nets[1].fds.as_deref(), Some([3, 4].as_slice()));
    let serial = config.serial.unwrap();
    assert_eq!((serial.mode, serial.log.as_deref()), (ConsoleMode::File, Some("/tmp/log".as_ref())));
    let balloon = BalloonConfig {
        size: 64 << 20,
        deflate_on_oom: true,
        free_page_reporting: true,
        statistics_period: 5,
    };
    assert_eq!(config.balloon, Some(balloon));
    assert!(refusal("balloon", "deflate_on_oom=on").contains("no size"));
    assert_eq!(config.console.unwrap().mode, ConsoleMode::Tty);
    assert_eq!(config.console_ports.unwrap()[0].name.as_deref(), Some("org.qemu.guest_agent.0"));
    assert_eq!(config.on_reset, Some(OnResetConfig::Exit));
}

#[test]
fn the_first_part_of_a_value_needs_no_key() {
    let short = take_all(&["--cpus", "4", "--memory", "1G", "--disk", "d.raw,readonly=on", "--net", "tap0"]);
    let long = take_all(&[
        "--cpus",
        "boot=4",
        "--memory",
        "size=1G",
        "--disk",
        "path=d.raw,readonly=on",
        "--net",
        "tap=tap0",
    ]);
    assert_eq!(short, long);
    assert!(refusal("disk", "d.raw,e.raw").contains("has no key"));
}

#[test]
fn a_disk_has_a_format_and_directories_for_the_files_that_it_names() {
    let value =
        r#"a.qcow2,image_type=qcow2,backing_files=on,backing_directories=[/b,"/c,[d]\"",/e],cache=none"#;
    let disk = take_all(&["--disk", value]).unwrap().disks.unwrap().remove(0);
    assert_eq!((disk.image_type, disk.backing_files), (Some(ImageType::Qcow2), true));
    assert_eq!(disk.backing_directories, Some(vec!["/b".into(), "/c,[d]\"".into(), "/e".into()]));
    assert_eq!((disk.cache, disk.sparse), (Some(CacheMode::None), true));
    let one = take_all(&["--disk", "a,image_type=vmdk,backing_directories=/b,sparse=off"]).unwrap();
    let one = one.disks.unwrap().remove(0);
    assert_eq!(one.backing_directories, Some(vec!["/b".into()]));
    assert_eq!((one.image_type, one.sparse), (Some(ImageType::FlatVmdk), false));
}

#[test]
fn sizes_have_binary_suffixes_and_do_not_overflow() {
    let size = |text: &str| take_all(&["--memory", text]).map(|config| config.memory.size);
    for (text, bytes) in [("64", 64), ("2K", 2 << 10), ("3m", 3 << 20), ("1G", 1 << 30), ("2T", 2 << 40)] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["G", "1GB", "-1", "+1", "1.5G", "99999999T", "18446744073709551616", "0x10", "é"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn a_single_option_given_twice_is_refused_and_a_repeatable_one_is_not() {
    for option in OPTIONS {
        let value = match option.name {
            "cpus" => "1",
            "memory" | "balloon" => "64M",
            "serial" | "console" => "null",
            "on-reset" => "exit",
            _ => "x",
        };
        let mut flags = MachineFlags::default();
        flags.take(option.name, value).unwrap_or_else(|error| panic!("{}: {error}", option.name));
        let again = flags.take(option.name, value);
        match option.repeatable {
            true => assert_eq!(again, Ok(()), "{}", option.name),
            false => assert_eq!(again, Err(FlagError::DuplicateOption { option: option.name })),
        }
    }
}

#[test]
fn refusals_name_the_option_the_key_and_the_remedy() {
    for (option, value, expected) in [
        ("disk", "path=a,colour=red", "unknown key \"colour\": the keys are path, image_type"),
        ("disk", "path=a,path=b", "key path is there twice"),
        ("disk", "path=", "key path has no value"),
        ("disk", "path=a,readonly", "key readonly has no value"),
        ("disk", "path=a,readonly=maybe", "readonly \"maybe\" is not understood: write on or off"),
        ("disk", "path=a,queue_size=many", "queue_size \"many\" is not understood"),
        ("disk", "path=\"a", "unbalanced \""),
        ("disk", "path=\"a\\", "unbalanced \""),
        ("disk", "", "no value"),
        ("disk", "a,image_type=qcow", "image_type \"qcow\" is not understood: write raw, qcow2, vmdk"),
        ("disk", "a,cache=on", "cache \"on\" is not understood: write writeback, none"),
        ("disk", "a,backing_directories=[b", "unbalanced ["),
        ("disk", "a,,b", "\"\" has no key"),
        ("net", "tap=t,mac=52:54:00", "mac \"52:54:00\" is not understood"),
        ("net", "fd=[3,4", "unbalanced ["),
        ("net", "fd=3]", "unbalanced ]"),
        ("net", "fd=[3,x]", "fd \"[3,x]\" is not understood"),
        ("net", "ip=10.0.0.256", "ip \"10.0.0.256\" is not understood"),
        ("cpus", "boot=-1", "boot \"-1\" is not understood"),
        ("cpus", "boot=2,topology=1:2", "THREADS:CORES:DIES:SOCKETS"),
        ("serial", "loud", "mode \"loud\" is not understood"),
        ("serial", "file", "key file has no value"),
        ("serial", "tty,name=x", "unknown key \"name\""),
        ("console", "name=x", "is not understood: write tty, pty"),
        ("kernel", "", "no value"),
        ("on-reset", "perhaps", "write reboot or exit"),
    ] {
        let text = refusal(option, value);
        assert!(text.contains(expected), "{option} {value}: {text}");
    }
    assert!(refusal("floppy", "a").contains("unknown option"));
}

proptest! {
    #[test]
    fn both_spellings_of_a_description_give_the_same_machine(config in strategies::config()) {
        let words = spell(&config);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let from_flags = take_all(&words).unwrap();
        let fixed = &mut || [2, 0, 0, 0, 0, 0];
        let expected = MachineSpec::from_config(config, fixed).unwrap();
        prop_assert_eq!(MachineSpec::from_config(from_flags, fixed).unwrap(), expected);
    }

    #[test]
    fn any_value_of_any_option_is_taken_or_refused_in_one_line(
        option in 0..OPTIONS.len(),
        value in r#"[a-z0-9,="\\\[\]:é.]{0,30}|.{0,20}"#,
    ) {
        if let Err(error) = MachineFlags::default().take(OPTIONS[option].name, &value) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
