//! The options there are, with their help.

/// An option that describes the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineOption {
    /// Name, without its dashes.
    pub name: &'static str,
    /// What its value looks like.
    pub value: &'static str,
    /// It may be given more than once.
    pub repeatable: bool,
    /// What it does, for people.
    pub help: &'static str,
}

impl MachineOption {
    /// The option with that name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|option| option.name == name)
    }
}

/// Every option that describes the machine, in the order of the help.
pub const OPTIONS: &[MachineOption] = &[
    MachineOption {
        name: "kernel",
        value: "FILE",
        repeatable: false,
        help: "Kernel to boot: a bzImage, or an ELF image with a PVH note",
    },
    MachineOption {
        name: "firmware",
        value: "FILE",
        repeatable: false,
        help: "Firmware that boots from disks or the network: a BIOS (SeaBIOS), or the code of UEFI (OVMF)",
    },
    MachineOption {
        name: "nvram",
        value: "FILE",
        repeatable: false,
        help: "What UEFI firmware remembers: a copy of the variables that belong to its code; it is written",
    },
    MachineOption { name: "initramfs", value: "FILE", repeatable: false, help: "Initial RAM file system" },
    MachineOption { name: "cmdline", value: "TEXT", repeatable: false, help: "Kernel command line" },
    MachineOption {
        name: "cpus",
        value: "boot=N[,topology=THREADS:CORES:DIES:SOCKETS]",
        repeatable: false,
        help: "vCPUs, 1 to 254, and how the guest sees them [default: 1]",
    },
    MachineOption {
        name: "memory",
        value: "size=SIZE[,shared=on][,hugepages=on[,hugepage_size=2M|1G]][,mergeable=on][,prefault=on][,thp=off]",
        repeatable: false,
        help: "Guest memory, at least 64M; a SIZE is in bytes or has K, M, G or T behind it [default: 512M]",
    },
    MachineOption {
        name: "disk",
        value: "path=FILE[,image_type=TYPE][,backing_files=on[,backing_directories=[DIR,...]]][,readonly=on][,direct=on|cache=MODE][,sparse=off][,num_queues=N][,queue_size=N][,serial=TEXT][,id=ID]",
        repeatable: true,
        help: "Disk from an image or a block device; TYPE is raw, qcow2, or with readonly=on vmdk, vhd, vhdx or vdi, and never guessed [default: raw]; MODE is writeback, none, writethrough, directsync or unsafe [default: writeback]; may be repeated",
    },
    MachineOption {
        name: "net",
        value: "tap=NAME|fd=[N,...]|socket_fd=N[,mac=MAC][,ip=ADDRESS][,mask=MASK][,mtu=N][,link_up=on|off][,num_queues=N][,queue_size=N][,id=ID]",
        repeatable: true,
        help: "Network interface on a TAP device, or on a connected stream socket as of passt; may be repeated",
    },
    MachineOption {
        name: "rng",
        value: "src=FILE",
        repeatable: false,
        help: "Entropy device that is fed from FILE, such as /dev/urandom [default: none]",
    },
    MachineOption {
        name: "balloon",
        value: "size=SIZE[,deflate_on_oom=on][,free_page_reporting=on][,statistics_period=SECONDS]",
        repeatable: false,
        help: "Memory balloon: how much of its memory the guest is to give back to the host, which vm.resize changes [default: none]",
    },
    MachineOption {
        name: "serial",
        value: "tty|pty|null|off|file=PATH|socket=PATH[,log=FILE]",
        repeatable: false,
        help: "What is on the serial port; everything printed is added to the log too, which becomes FILE.1 at 1 MiB [default: tty, or off when there is a console]",
    },
    MachineOption {
        name: "console",
        value: "tty|pty|null|off|file=PATH|socket=PATH[,log=FILE][,name=NAME]",
        repeatable: true,
        help: "What is on the virtio console; may be repeated for more ports, with a name or as hvc1 and so on [default: off]",
    },
    MachineOption {
        name: "on-reset",
        value: "reboot|exit",
        repeatable: false,
        help: "What a reset by the guest does [default: reboot]",
    },
];
