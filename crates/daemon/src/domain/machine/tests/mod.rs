//! Documents of real clients, single elements, and documents that nobody would write.

mod arbitrary;

use libvirt_xml::Element;
use libvirt_xml::domain::assign::{HostDefaults, define};
use libvirt_xml::domain::cpu::{Cpu, CpuMode};
use machine_spec::wire::{BalloonConfig, CacheMode, ConsoleMode, ImageType, OnResetConfig};
use net_io::passt::Transport;

use super::*;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../libvirt_xml/tests/samples");

/// A host with everything, and what its daemon is able to do.
fn places() -> Places {
    let all = HostAbilities { cpu_limits: true, memory_limits: true, pinning: true, cpu_features: true };
    let volume = Volume { path: "/pool/v.img".into(), format: ImageFormat::Qcow2 };
    Places {
        channels: "/run/vireo/channels/1".into(),
        consoles: Some("/var/lib/vireo/consoles/1".into()),
        backing_directories: vec!["/images".into()],
        volumes: [(("p".to_owned(), "v".to_owned()), volume)].into(),
        abilities: all,
    }
}

fn complete(document: &str) -> Domain {
    let mut domain = Domain::parse(document).unwrap_or_else(|error| panic!("{error}\n{document}"));
    let cpu = Cpu { mode: Some(CpuMode::HostPassthrough), ..Cpu::default() };
    let host = HostDefaults { cpu: Some(cpu), ..HostDefaults::default() };
    define(&mut domain, &host, &mut |bytes: &mut [u8]| bytes.fill(2)).unwrap();
    domain
}

/// A client's document, for a host that has KVM.
fn sample(name: &str) -> Domain {
    let document = std::fs::read_to_string(format!("{SAMPLES}/{name}")).unwrap();
    let document = document.replace("type=\"qemu\"", "type=\"kvm\"").replace("type='qemu'", "type='kvm'");
    complete(&document)
}

/// A domain that boots a kernel, with more in it and in its devices.
fn with(more: &str, devices: &str) -> Domain {
    complete(&format!(
        "<domain type='kvm'><name>a</name><memory unit='MiB'>512</memory>{more}<features><acpi/></features>
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/k</kernel></os>
         <devices>{devices}</devices></domain>"
    ))
}

fn refused_paths(domain: &Domain) -> Vec<String> {
    let refusals = refusals(domain, &places());
    let root = domain.to_element();
    for Refusal { path, reason, advice } in &refusals {
        assert!(exists(&root, path), "{path} is not in\n{root}");
        assert!(!reason.is_empty() && !advice.is_empty(), "{path}");
    }
    refusals.into_iter().map(|refusal| refusal.path).collect()
}

/// Whether a path leads somewhere in a document.
fn exists(root: &Element, path: &str) -> bool {
    let mut parts = path.split('/');
    if parts.next() != Some(root.name.as_str()) {
        return false;
    }
    let mut element = root;
    for part in parts {
        if let Some(attribute) = part.strip_prefix('@') {
            return element.attribute(attribute).is_some();
        }
        let (name, number) = match part.split_once('[') {
            Some((name, number)) => (name, number.trim_end_matches(']').parse::<usize>().unwrap() - 1),
            None => (part, 0),
        };
        match element.children().filter(|child| child.name == name).nth(number) {
            Some(child) => element = child,
            None => return false,
        }
    }
    true
}

fn translated(domain: &Domain) -> MachinePlan {
    machine(domain, &places()).unwrap_or_else(|refusal| panic!("{refusal}\n{}", domain.to_xml()))
}

#[test]
fn the_tuned_domain_is_refused_for_exactly_what_is_still_to_come() {
    let domain = sample("optimized-domain.xml");
    assert_eq!(
        refused_paths(&domain),
        [
            "domain/cputune/iothreadpin",
            "domain/cputune/vcpusched",
            "domain/features/pmu",
            "domain/cpu/feature",
            "domain/os"
        ]
    );
}

#[test]
fn the_tuned_domain_without_what_is_still_to_come_becomes_a_machine() {
    let mut domain = sample("optimized-domain.xml");
    let tune = domain.cputune.as_mut().unwrap();
    tune.iothread_pins.clear();
    tune.vcpu_scheds.clear();
    domain.features.as_mut().unwrap().pmu = None;
    domain.cpu.as_mut().unwrap().features[0].name = "avx2".to_owned();
    domain.os.kernel = Some("/boot/vmlinuz".to_owned());
    let plan = translated(&domain);
    let cpus = &plan.config.cpus;
    assert_eq!((cpus.boot_vcpus, cpus.topology.unwrap().cores_per_die), (4, 4));
    let memory = &plan.config.memory;
    assert_eq!((memory.size, memory.hugepages, memory.mergeable), (8 << 30, true, false));
    let disk = &plan.config.disks.as_ref().unwrap()[0];
    assert_eq!(
        (disk.image_type, disk.direct, disk.id.as_deref()),
        (Some(ImageType::Qcow2), true, Some("vda"))
    );
    assert_eq!(plan.config.net.as_ref().unwrap()[0].num_queues, Some(8));
    assert_eq!(plan.taps[0].queue_pairs, 4);
    assert_eq!(plan.taps[0].source, TapSource::Network { name: "default".to_owned(), portgroup: None });
    assert_eq!(plan.config.rng.as_ref().unwrap().src, PathBuf::from("/dev/urandom"));
    assert_eq!(plan.host.vcpu_pins.len(), 4);
    assert_eq!(plan.host.cpu_features, [RequiredFeature { name: "avx2".to_owned(), present: true }]);
    // Nothing but the terminal of the process would be there otherwise.
    assert_eq!(plan.config.serial.unwrap().mode, ConsoleMode::Off);
}

#[test]
fn consoles_of_a_machine_have_logs_and_channels_have_none() {
    let mut domain = complete(
        "<domain type='kvm'><name>a</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os><devices>
        <serial type='pty'/><console type='pty'><target type='serial'/></console>
        <console type='null'><target type='virtio'/></console>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>",
    );
    let logs = |domain: &Domain| {
        let plan = translated(domain);
        let log = |place: ConsolePlace| place.log(&plan.config).map(|path| path.to_str().unwrap().to_owned());
        plan.consoles.iter().map(|console| log(console.place)).collect::<Vec<_>>()
    };
    assert_eq!(logs(&domain), [None, None, None, None], "a definition's devices have no names yet");
    libvirt_xml::domain::assign::start(&mut domain, 1);
    let path = |name: &str| Some(format!("/var/lib/vireo/consoles/1/{name}.log"));
    assert_eq!(logs(&domain), [path("serial0"), path("serial0"), path("console1"), None]);
}

#[test]
fn documents_of_clients_are_translated_or_refused_where_it_is_expected() {
    let model = [
        "domain/cpu/@mode",
        "domain/devices/disk/target/@bus",
        "domain/devices/interface/model/@type",
        "domain/os",
    ];
    let legacy = ["domain/devices/disk/target/@bus", "domain/devices/interface/model/@type", "domain/os"];
    let drive = ["domain/devices/disk[1]/target/@bus", "domain/devices/interface/model/@type", "domain/os"];
    let media = [
        "domain/devices/disk[1]/target/@bus",
        "domain/devices/disk[2]",
        "domain/devices/interface/model/@type",
        "domain/os",
    ];
    let screen = [
        "domain/devices/disk/target/@bus",
        "domain/devices/interface/model/@type",
        "domain/devices/graphics",
        "domain/os",
    ];
    for (name, expected) in [
        ("client-virt-clone-auto-domain_define_xml.xml", &model[..]),
        ("client-virt-install-autoconsole-domain_create_xml.xml", &[]),
        ("client-virt-install-autoconsole-wait-domain_create_xml.xml", &["domain/devices/disk", "domain/os"]),
        ("client-virt-install-autoconsole-wait-domain_define_xml.xml", &["domain/os"]),
        ("client-virt-install-cdrom-domain_create_xml.xml", &media),
        ("client-virt-install-cdrom-domain_define_xml.xml", &drive),
        ("client-virt-install-import-domain_create_xml.xml", &legacy),
        ("client-virt-install-import-domain_define_xml.xml", &legacy),
        ("client-virt-install-import-vnc-domain_create_xml.xml", &screen),
        ("client-virt-install-import-vnc-domain_define_xml.xml", &screen),
        ("client-virt-install-location-domain_create_xml.xml", &legacy[..2]),
        ("client-virt-install-location-domain_define_xml.xml", &legacy),
        ("client-virt-install-uefi-domain_create_xml.xml", &["domain/os/@firmware"]),
        ("client-virt-install-uefi-domain_define_xml.xml", &["domain/os/@firmware"]),
        ("domain-inactive-t1.xml", &["domain/devices/graphics", "domain/vcpu/@current"]),
        ("domain-running-t1.xml", &["domain/devices/graphics", "domain/vcpu/@current"]),
    ] {
        let domain = sample(name);
        assert_eq!(refused_paths(&domain), *expected, "{name}");
        assert_eq!(machine(&domain, &places()).is_ok(), expected.is_empty(), "{name}");
    }
}

#[test]
fn a_machine_without_screen_as_clients_install_it_has_a_console_an_agent_and_entropy() {
    let domain = with(
        "<vcpu>2</vcpu><on_reboot>destroy</on_reboot>",
        "<disk type='file'><driver name='qemu' type='qcow2' discard='unmap' cache='writethrough'/>
           <source file='/images/a.qcow2'/><target dev='vda' bus='virtio'/><serial>S1</serial></disk>
         <disk type='block'><source dev='/dev/vg/a'/><target dev='vdb'/><readonly/></disk>
         <disk type='volume'><source pool='p' volume='v'/><target dev='vdc'/></disk>
         <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>
         <controller type='usb' model='qemu-xhci' ports='15'/>
         <interface type='bridge'><source bridge='br0'/><mac address='52:54:00:00:00:01'/><mtu size='9000'/>
           <target dev='vnet7'/></interface>
         <interface type='user'/>
         <interface type='bridge'><source bridge='br0'/><mac address='52:54:00:00:00:03'/><link state='down'/></interface>
         <console type='pty'/>
         <console type='file'><source path='/log'/><target type='virtio'/></console>
         <console type='pty'><target type='virtio'/></console>
         <channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
         <input type='tablet' bus='usb'/><memballoon model='virtio'/>
         <rng model='virtio'><backend model='random'>/dev/random</backend></rng>",
    );
    let plan = translated(&domain);
    let config = &plan.config;
    assert_eq!((config.cpus.boot_vcpus, config.memory.size), (2, 512 << 20));
    assert_eq!(
        (config.on_reset, plan.lifecycle.reboot),
        (Some(OnResetConfig::Exit), LifecycleAction::Destroy)
    );
    let disks = config.disks.as_ref().unwrap();
    assert_eq!(disks.len(), 3);
    assert_eq!(
        (disks[0].cache, disks[0].sparse, disks[1].sparse),
        (Some(CacheMode::Writethrough), true, false)
    );
    assert_eq!(
        (disks[0].backing_files, disks[0].backing_directories.as_deref()),
        (true, Some(&["/images".into()][..]))
    );
    assert_eq!(
        (disks[1].image_type, disks[1].readonly, disks[1].backing_files),
        (Some(ImageType::Raw), true, false)
    );
    assert_eq!(disks[2].image_type, Some(ImageType::Qcow2));
    assert_eq!(disks[2].path, Some("/pool/v.img".into()));
    assert_eq!(plan.taps[0].source, TapSource::Bridge { name: "br0".to_owned() });
    assert_eq!((plan.taps[0].mtu, plan.taps[0].target.as_deref()), (Some(9000), Some("vnet7")));
    assert_eq!(plan.taps[1].source, TapSource::User(Box::default()));
    let cables: Vec<_> = config.net.iter().flatten().map(|card| card.link_up).collect();
    assert_eq!(cables, [true, true, false]);
    let places: Vec<_> =
        plan.consoles.iter().map(|console| (console.place, console.mode, console.terminal)).collect();
    assert_eq!(
        places,
        [
            (ConsolePlace::Serial, ConsoleMode::Pty, true),
            (ConsolePlace::Serial, ConsoleMode::Pty, true),
            (ConsolePlace::Console, ConsoleMode::File, true),
            (ConsolePlace::Port(0), ConsoleMode::Pty, true),
            (ConsolePlace::Port(1), ConsoleMode::Socket, false),
        ]
    );
    let agent = ConsolePlace::Port(1).end(config).unwrap();
    assert_eq!(agent, std::path::Path::new("/run/vireo/channels/1/org.qemu.guest_agent.0.sock"));
    let root = domain.to_element();
    for ignored in &plan.ignored {
        assert!(exists(&root, &ignored.path), "{}", ignored.path);
    }
    for path in ["domain/devices/disk[4]", "domain/devices/input[1]"] {
        assert!(plan.ignored.iter().any(|ignored| ignored.path == path), "{path} in {:?}", plan.ignored);
    }
}

#[test]
fn what_changes_the_guest_or_the_hosts_safety_is_refused_at_its_place() {
    let disk = |inside: &str| format!("<disk><source file='/i'/><target dev='vda'/>{inside}</disk>");
    let net = |inside: &str| format!("<interface type='bridge'><source bridge='b'/>{inside}</interface>");
    let user = |inside: &str| format!("<interface type='user'>{inside}</interface>");
    for (device, path) in [
        (disk("<driver type='qcow2' copy_on_read='on'/>"), "disk/driver/@copy_on_read"),
        (disk("<driver type='qcow2' error_policy='stop'/>"), "disk/driver/@error_policy"),
        (disk("<driver type='luks'/>"), "disk/driver/@type"),
        (disk("<driver type='vdi'/>"), "disk"),
        (disk("<driver queues='1000'/>"), "disk"),
        (disk("<driver iommu='on'/>"), "disk/driver/@iommu"),
        (disk("<serial>a serial number that is too long</serial>"), "disk"),
        (disk("<shareable/>"), "disk/shareable"),
        (disk("<transient/>"), "disk/transient"),
        (disk("<wwn>0123456789abcdef</wwn>"), "disk/wwn"),
        (disk("<iotune><read_iops_sec>1</read_iops_sec></iotune>"), "disk/iotune"),
        (disk("<blockio logical_block_size='4096'/>"), "disk/blockio"),
        (
            disk("<backingStore type='file'><format type='raw'/><source file='/b'/></backingStore>"),
            "disk/backingStore",
        ),
        ("<disk type='volume'><source pool='p' volume='none'/><target dev='vda'/></disk>".into(), "disk"),
        ("<disk device='cdrom'><source file='/i'/><target dev='vda'/></disk>".into(), "disk"),
        ("<disk device='lun' type='block'><source dev='/d'/><target dev='vda'/></disk>".into(), "disk"),
        (net("<model type='e1000'/>"), "interface/model/@type"),
        (net("<mac address='00:00:00:00:00:00'/>"), "interface"),
        (net("<vlan><tag id='0'/></vlan>"), "interface/vlan"),
        (net("<vlan><tag id='1'/></vlan>").replace("'bridge'", "'ethernet'"), "interface/vlan"),
        (net("<filterref filter='clean-traffic'/>"), "interface/filterref"),
        (
            net("<bandwidth><inbound average='1' floor='1'/></bandwidth>"),
            "interface/bandwidth/inbound/@floor",
        ),
        (
            net("<bandwidth><inbound average='1'/></bandwidth>").replace("'bridge'", "'user'"),
            "interface/bandwidth",
        ),
        (
            net("<target dev='t0' managed='no'/><bandwidth><inbound average='1'/></bandwidth>")
                .replace("'bridge'", "'ethernet'"),
            "interface/bandwidth",
        ),
        (net("<mtu size='70000'/>"), "interface/mtu/@size"),
        (net("<mtu size='100'/>"), "interface"),
        (net("<driver queues='4000000000'/>"), "interface"),
        (net("<driver rx_queue_size='256' tx_queue_size='512'/>"), "interface/driver/@tx_queue_size"),
        (net("<driver><guest csum='off'/></driver>"), "interface/driver/guest"),
        (net("<script path='/s'/>"), "interface/script"),
        (net("<portForward proto='tcp'/>"), "interface/portForward"),
        (net("<ip address='192.0.2.1'/>"), "interface/ip"),
        (net("<backend type='passt' logFile='/l'/>"), "interface/backend/@logFile"),
        (user("<source dev='a/b'/>"), "interface/source/@dev"),
        (user("<driver queues='2'/>"), "interface/driver/@queues"),
        (user("<backend logFile='l'/>"), "interface/backend/@logFile"),
        (user("<ip address='192.0.2.1' prefix='33'/>"), "interface/ip/@prefix"),
        (user("<ip address='2001:db8::1' prefix='56'/>"), "interface/ip/@prefix"),
        (user("<ip address='192.0.2.1'/><ip address='192.0.2.2'/>"), "interface/ip[2]"),
        (user("<ip address='127.0.0.1'/>"), "interface/ip/@address"),
        (user("<ip address='192.0.2.1' peer='192.0.2.2'/>"), "interface/ip/@peer"),
        (user("<route address='0.0.0.0' gateway='192.0.2.1'/>"), "interface/route"),
        (user("<portForward proto='tcp' address='web'/>"), "interface/portForward/@address"),
        (user("<portForward proto='tcp' dev='lo'/>"), "interface/portForward/@dev"),
        (user("<portForward proto='tcp'><range start='0'/></portForward>"), "interface/portForward/range"),
        (
            user("<portForward proto='tcp'><range start='9' end='8'/></portForward>"),
            "interface/portForward/range",
        ),
        (
            user("<portForward proto='udp'><range start='1' end='9' to='65530'/></portForward>"),
            "interface/portForward/range",
        ),
        (
            user("<portForward proto='udp'><range start='1' to='2' exclude='yes'/></portForward>"),
            "interface/portForward/range",
        ),
        (
            "<interface type='vhostuser'><source type='unix' path='/s' mode='client'/></interface>".into(),
            "interface",
        ),
        ("<serial type='tcp'><source mode='bind' host='h' service='1'/></serial>".into(), "serial/@type"),
        ("<serial type='pty'><log file='l'/></serial>".into(), "serial/log/@file"),
        ("<serial type='pty'><log file=''/></serial>".into(), "serial/log/@file"),
        ("<serial type='unix'><source path='/s'/></serial>".into(), "serial"),
        ("<serial type='pty'/><serial type='pty'/>".into(), "serial[2]/target/@port"),
        ("<channel type='pty'><target type='virtio'/></channel>".into(), "channel"),
        ("<channel type='pty'><target type='virtio' name='a b'/></channel>".into(), "channel"),
        ("<rng model='virtio'><rate bytes='1'/><backend model='random'/></rng>".into(), "rng/rate"),
        ("<tpm><backend type='emulator'/></tpm>".into(), "tpm"),
        ("<hostdev type='pci'><source><address bus='1'/></source></hostdev>".into(), "hostdev"),
        ("<watchdog model='itco' action='reset'/>".into(), "watchdog"),
        ("<panic model='isa'/>".into(), "panic"),
        ("<graphics type='vnc'/>".into(), "graphics"),
        ("<input type='evdev'><source dev='/dev/input/event0'/></input>".into(), "input[1]"),
        ("<vsock model='virtio'><cid auto='yes'/></vsock>".into(), "vsock"),
        ("<filesystem><source dir='/d'/><target dir='t'/></filesystem>".into(), "filesystem"),
    ] {
        let paths = refused_paths(&with("", &device));
        let expected = format!("domain/devices/{path}");
        assert!(paths.contains(&expected), "{expected} not in {paths:?} for {device}");
    }
}

#[test]
fn what_is_kept_from_the_guest_is_in_the_balloon() {
    let balloon = |more: &str, device: &str| {
        let plan = translated(&with(more, device));
        assert!(
            plan.config.balloon.is_none() || plan.devices.iter().any(|d| d.device == MachineDevice::Balloon)
        );
        plan.config.balloon
    };
    let empty = BalloonConfig::default();
    assert_eq!(balloon("", ""), Some(empty.clone()), "libvirt's domains have a balloon unless they say");
    assert_eq!(balloon("", "<memballoon model='none'/>"), None);
    let less = "<currentMemory unit='KiB'>262145</currentMemory>";
    let size = (512 << 20) - (262_148 << 10);
    let expected = BalloonConfig { size, ..empty.clone() };
    assert_eq!(balloon(less, ""), Some(expected), "whole pages, and no less is left than is to be");
    let device = "<memballoon model='virtio-non-transitional' autodeflate='on' freePageReporting='on'>
        <stats period='7'/><driver iommu='off'/></memballoon>";
    let expected = BalloonConfig {
        size: 256 << 20,
        deflate_on_oom: true,
        free_page_reporting: true,
        statistics_period: 7,
    };
    assert_eq!(balloon("<currentMemory unit='MiB'>256</currentMemory>", device), Some(expected));
    let off = "<memballoon model='virtio' autodeflate='off' freePageReporting='off'/>";
    assert_eq!(balloon("<currentMemory unit='GiB'>4</currentMemory>", off), Some(empty));
    for (device, path) in [
        ("<memballoon model='none'/>", "domain/currentMemory"),
        ("<memballoon model='virtio-transitional'/>", "domain/devices/memballoon/@model"),
        (
            "<memballoon model='virtio'><driver iommu='on'/></memballoon>",
            "domain/devices/memballoon/driver/@iommu",
        ),
    ] {
        assert_eq!(refused_paths(&with(less, device)), [path], "{device}");
    }
}

#[test]
fn settings_that_no_machine_here_can_have_are_refused_at_their_place() {
    for (more, path) in [
        ("<genid/>", "genid"),
        ("<maxMemory slots='2' unit='GiB'>4</maxMemory>", "maxMemory"),
        ("<memoryBacking><locked/></memoryBacking>", "memoryBacking/locked"),
        ("<memoryBacking><source type='file'/></memoryBacking>", "memoryBacking/source/@type"),
        ("<memoryBacking><hugepages><page size='4'/></hugepages></memoryBacking>", "memory"),
        ("<numatune><memory mode='strict' nodeset='0'/></numatune>", "numatune"),
        ("<vcpu current='1'>2</vcpu>", "vcpu/@current"),
        ("<vcpu placement='auto'>2</vcpu>", "vcpu/@placement"),
        ("<vcpu>4000</vcpu>", "vcpu"),
        ("<cpu mode='custom'><model>Haswell</model></cpu>", "cpu/@mode"),
        ("<cpu mode='maximum'><feature policy='disable' name='avx'/></cpu>", "cpu/feature"),
        ("<cpu mode='maximum'><feature policy='force' name='svm'/></cpu>", "cpu/feature"),
        ("<cpu mode='maximum'><cache mode='emulate'/></cpu>", "cpu/cache/@mode"),
        (
            "<vcpu>2</vcpu><cpu mode='maximum'><numa><cell cpus='0' memory='262144'/><cell cpus='1' memory='262144'/></numa></cpu>",
            "cpu/numa",
        ),
        ("<clock offset='localtime'/>", "clock/@offset"),
        ("<clock><timer name='hpet' present='yes'/></clock>", "clock/timer/@present"),
        ("<clock><timer name='pit' present='yes'/></clock>", "clock/timer/@present"),
        ("<clock><timer name='kvmclock' present='no'/></clock>", "clock/timer/@present"),
        ("<clock><timer name='tsc' frequency='1000000'/></clock>", "clock/timer/@frequency"),
        ("<on_reboot>preserve</on_reboot>", "on_reboot"),
        ("<on_crash>coredump-destroy</on_crash>", "on_crash"),
        ("<pm><suspend-to-mem enabled='yes'/></pm>", "pm/suspend-to-mem/@enabled"),
        ("<blkiotune><weight>500</weight></blkiotune>", "blkiotune"),
        ("<seclabel type='static' model='dac'><label>0:0</label></seclabel>", "seclabel"),
        ("<launchSecurity type='sev'><policy>0</policy></launchSecurity>", "launchSecurity"),
        ("<sysinfo type='smbios'/>", "sysinfo"),
        ("<perf><event name='cmt' enabled='yes'/></perf>", "perf"),
    ] {
        let paths = refused_paths(&with(more, ""));
        assert_eq!(paths, [format!("domain/{path}")], "{more}");
    }
    assert_eq!(
        refused_paths(&complete(
            "<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>"
        )),
        ["domain/@type"]
    );
}

#[test]
fn what_a_daemon_is_not_able_to_do_is_refused_where_it_is_asked_for() {
    let domain = with(
        "<vcpu cpuset='0-1'>1</vcpu><memtune><hard_limit unit='MiB'>600</hard_limit></memtune>
         <cputune><shares>2048</shares><quota>-1</quota><emulatorpin cpuset='1'/></cputune>
         <cpu mode='maximum'><feature policy='forbid' name='svm'/></cpu>",
        "",
    );
    let plan = translated(&domain);
    assert_eq!((plan.host.cpu.shares, plan.host.cpu.quota), (Some(2048), Some(-1)));
    assert_eq!(plan.host.memory.hard_limit, Some(600 << 20));
    assert_eq!(plan.host.emulator_pin.unwrap().to_string(), "1");
    assert_eq!(plan.host.cpu_set.unwrap().to_string(), "0-1");
    assert_eq!(plan.host.cpu_features, [RequiredFeature { name: "svm".to_owned(), present: false }]);
    let unable = Places { abilities: HostAbilities::default(), ..places() };
    let paths: Vec<_> = refusals(&domain, &unable).into_iter().map(|refusal| refusal.path).collect();
    assert_eq!(
        paths,
        [
            "domain/memtune",
            "domain/vcpu/@cpuset",
            "domain/cputune/shares",
            "domain/cputune/quota",
            "domain/cputune/emulatorpin",
            "domain/cpu/feature",
        ]
    );
}

#[test]
fn an_image_may_name_files_where_the_document_or_the_daemon_say() {
    let disk = |store: &str| {
        let device =
            format!("<disk><driver type='qcow2'/><source file='/i/a'/><target dev='vda'/>{store}</disk>");
        let plan = translated(&with("", &device));
        let chain = match plan.devices[0].device.clone() {
            MachineDevice::Disk { chain, .. } => chain,
            other => panic!("{other:?}"),
        };
        let disk = plan.config.disks.unwrap().remove(0);
        (disk.backing_files, disk.backing_directories, chain.map(|chain| chain.len()))
    };
    assert_eq!(disk(""), (true, Some(vec!["/images".into()]), None));
    assert_eq!(disk("<backingStore/>"), (false, None, Some(0)));
    let deep = "<backingStore type='file'><format type='qcow2'/><source file='/x/b'/>
        <backingStore type='block'><format type='raw'/><source dev='/dev/c'/><backingStore/></backingStore></backingStore>";
    assert_eq!(disk(deep), (true, Some(vec!["/dev".into(), "/x".into()]), Some(2)));
}

#[test]
fn memory_is_rounded_up_to_the_machines_step_and_that_is_told() {
    let mut domain = with("", "");
    domain.memory.as_mut().unwrap().size.0 += 1;
    domain.current_memory = Some(domain.memory.clone().unwrap().size);
    let plan = translated(&domain);
    assert_eq!(plan.config.memory.size, 514 << 20);
    assert!(plan.ignored.iter().any(|ignored| ignored.path == "domain/memory"));
}

#[test]
fn a_channels_socket_stays_in_its_directory() {
    let device = "<channel type='unix'><target type='virtio' name='../../etc/x'/></channel>";
    // The machine itself refuses such names of ports.
    assert_eq!(refused_paths(&with("", device)), ["domain/devices/channel"]);
}

#[test]
fn a_document_with_thousands_of_faults_is_refused_with_a_bounded_answer() {
    let mut domain = with("", "");
    domain.devices.tpms = vec![libvirt_xml::domain::device::Tpm::default(); 20_000];
    let refusals = refusals(&domain, &places());
    assert_eq!(refusals.len(), MAX_REFUSALS);
    assert_eq!(refusals[1].path, "domain/devices/tpm[2]");
}

#[test]
fn every_rule_can_apply() {
    let mut always = std::collections::BTreeSet::new();
    for rule in rules::all() {
        assert!(!always.contains(rule.path), "{} comes after a rule that always applies", rule.path);
        if rule.when == rules::When::Always {
            always.insert(rule.path);
        }
    }
}

#[test]
fn a_user_mode_interface_is_what_passt_is_told() {
    // The example of formatdomain, with an address of the host's.
    let domain = with(
        "",
        "<interface type='user'><mac address='52:54:00:00:00:01'/><backend type='passt' logFile='/tmp/p.log'/>
           <source dev='eth0'/><mtu size='1400'/>
           <ip family='ipv4' address='172.17.2.4' prefix='24'/><ip family='ipv6' address='2001:db8:ac10:fd01::20'/>
           <portForward proto='tcp'><range start='2022' to='22'/></portForward>
           <portForward proto='udp' address='1.2.3.4'><range start='5000' end='5020' to='6000'/>
             <range start='5010' end='5015' exclude='yes'/></portForward>
           <portForward proto='tcp' address='2001:db8:ac10:fd01::1:10' dev='eth0'><range start='8080'/></portForward>
         </interface>",
    );
    let plan = translated(&domain);
    let TapSource::User(passt) = &plan.taps[0].source else { panic!("{:?}", plan.taps) };
    assert_eq!(passt.interface.as_deref(), Some("eth0"));
    assert_eq!(passt.ipv4, Some(([172, 17, 2, 4].into(), Some(24))));
    assert_eq!(passt.ipv6, Some("2001:db8:ac10:fd01::20".parse().unwrap()));
    assert_eq!((passt.mtu, plan.config.net.as_ref().unwrap()[0].mtu), (Some(1400), Some(1400)));
    assert_eq!(passt.log_file, Some("/tmp/p.log".into()));
    let forwards: Vec<_> = passt.forwards.iter().map(|f| (f.transport, f.to_string())).collect();
    assert_eq!(
        forwards,
        [
            (Transport::Tcp, "2022:22".to_owned()),
            (Transport::Udp, "1.2.3.4/5000-5020:6000-6020,~5010-5015".to_owned()),
            (Transport::Tcp, "2001:db8:ac10:fd01::1:10%eth0/8080".to_owned()),
        ]
    );
}
