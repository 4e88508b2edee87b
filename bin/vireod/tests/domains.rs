//! Definitions of domains, with libvirt's own clients: `virsh` and the Python binding against a daemon of the test's own.
//!
//! Needs no root and no KVM. Without the clients the tests say that they are skipped.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A daemon and its directories.
struct Daemon {
    directory: TempDir,
    process: Child,
}

/// What a client printed, without blank lines and blanks at the ends of lines, and whether it succeeded.
#[derive(Debug)]
struct Printed {
    good: bool,
    text: String,
}

impl Daemon {
    /// A fresh one; none when the clients are missing.
    fn start() -> Option<Self> {
        if Command::new("virsh").arg("--version").output().is_err() {
            eprintln!("skipped: virsh (libvirt-clients) is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(directory.path());
        Some(Self { directory, process })
    }

    /// Kills it as a power failure would, and starts the next one.
    fn kill_and_start(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.directory.path());
    }

    fn uri(&self) -> String {
        let user = rustix::process::geteuid().as_raw();
        let instance = if user == 0 { "system" } else { "session" };
        format!("qemu:///{instance}?socket={}", self.directory.path().join("run/libvirt-sock").display())
    }

    /// A file with this content.
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn virsh(&self, arguments: &[&str]) -> Printed {
        let mut command = Command::new("virsh");
        command.arg("-c").arg(self.uri()).args(arguments);
        print(&mut command)
    }

    /// What a command prints that has to succeed.
    fn good(&self, arguments: &[&str]) -> String {
        let printed = self.virsh(arguments);
        assert!(printed.good, "{arguments:?}: {}", printed.text);
        printed.text
    }

    /// What a command prints that has to fail.
    fn bad(&self, arguments: &[&str]) -> String {
        let printed = self.virsh(arguments);
        assert!(!printed.good, "{arguments:?} succeeded: {}", printed.text);
        printed.text
    }

    fn define(&self, document: &str) -> Printed {
        let path = self.file("domain.xml", document);
        self.virsh(&["define", path.to_str().unwrap()])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(directory: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vireod"))
        .arg("--state-dir")
        .arg(directory.join("state"))
        .arg("--runtime-dir")
        .arg(directory.join("run"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready"), "the daemon says {line:?}");
    child
}

fn print(command: &mut Command) -> Printed {
    let output = command.env("LC_ALL", "C").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    Printed { good: output.status.success(), text: lines.collect::<Vec<_>>().join("\n") }
}

const UUID: &str = "0c4b8f6e-12d3-4c5b-9e7a-000000000001";

fn document(name: &str, uuid: &str) -> String {
    let uuid = if uuid.is_empty() { String::new() } else { format!("<uuid>{uuid}</uuid>") };
    format!(
        "<domain type='kvm'><name>{name}</name>{uuid}<memory unit='MiB'>256</memory><vcpu>2</vcpu>
         <os><type machine='q35'>hvm</type></os>
         <devices>
           <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/nowhere/{name}.img'/>
             <target dev='vda' bus='virtio'/></disk>
           <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/>
             <model type='virtio'/></interface>
           <graphics type='vnc' passwd='secret'/>
           <console type='pty'/>
         </devices></domain>"
    )
}

#[test]
fn what_was_defined_survives_a_kill_of_the_daemon() {
    let Some(mut daemon) = Daemon::start() else { return };
    assert!(daemon.define(&document("one", UUID)).good);
    daemon.good(&["autostart", "one"]);
    let before = daemon.good(&["dumpxml", "one", "--security-info"]);
    daemon.kill_and_start();
    assert_eq!(daemon.good(&["dumpxml", "one", "--security-info"]), before);
    assert!(daemon.good(&["dominfo", "one"]).contains("Autostart:      enable"));
    daemon.good(&["undefine", "one"]);
    daemon.kill_and_start();
    assert_eq!(daemon.good(&["list", "--all", "--name"]), "");
    assert!(daemon.bad(&["dominfo", "one"]).contains("failed to get domain 'one'"));
}

#[test]
fn a_document_comes_back_completed_and_defines_the_same_domain_again() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    let first = daemon.good(&["dumpxml", "one", "--security-info"]);
    for part in
        ["machine='pc-q35-10.0'", "passwd='secret'", "<mac address='52:54:00:00:00:01'/>", "bus='0x01'"]
    {
        assert!(first.contains(part), "{part} in {first}");
    }
    assert!(!daemon.good(&["dumpxml", "one"]).contains("secret"));
    assert!(daemon.define(&first).good);
    assert_eq!(daemon.good(&["dumpxml", "one", "--security-info"]), first);
}

#[test]
fn names_and_uuids_belong_to_one_domain() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", UUID));
    let taken = daemon.define(&document("one", "")).text;
    assert!(
        taken.contains(&format!("operation failed: domain 'one' already exists with uuid {UUID}")),
        "{taken}"
    );
    let other = daemon.define(&document("two", UUID)).text;
    assert!(other.contains(&format!("domain 'one' is already defined with uuid {UUID}")), "{other}");
    assert!(daemon.define("<domain><name>").text.contains("XML error"));
    let unsupported = daemon.define(&document("two", "").replace("<console type='pty'/>", "<lease/>")).text;
    assert!(
        unsupported.contains("unsupported configuration") && unsupported.contains("lease"),
        "{unsupported}"
    );
    assert_eq!(daemon.good(&["list", "--all", "--name"]), "one");
}

#[test]
fn lists_show_what_each_filter_asks_for() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    daemon.define(&document("two", ""));
    daemon.good(&["autostart", "two"]);
    let names = |filter: &str| daemon.good(&["list", "--name", "--all", filter]);
    for (filter, expected) in [
        ("--inactive", "one\ntwo"),
        ("--persistent", "one\ntwo"),
        ("--transient", ""),
        ("--autostart", "two"),
        ("--no-autostart", "one"),
        ("--state-running", ""),
        ("--state-paused", ""),
        ("--state-other", ""),
        ("--state-shutoff", "one\ntwo"),
        ("--with-managed-save", ""),
        ("--without-managed-save", "one\ntwo"),
        ("--with-snapshot", ""),
        ("--without-snapshot", "one\ntwo"),
        ("--with-checkpoint", ""),
        ("--without-checkpoint", "one\ntwo"),
    ] {
        assert_eq!(names(filter), expected, "{filter}");
    }
    assert_eq!(daemon.good(&["list", "--name"]), "");
    let table = daemon.good(&["list", "--all"]);
    assert!(table.contains(" -    one    shut off"), "{table}");
}

#[test]
fn a_domain_tells_what_it_is() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", UUID));
    let info = daemon.good(&["dominfo", "one"]);
    for line in [
        "Id:             -",
        "OS Type:        hvm",
        "State:          shut off",
        "CPU(s):         2",
        "Max memory:     262144 KiB",
        "Used memory:    262144 KiB",
        "Persistent:     yes",
        "Autostart:      disable",
        "Managed save:   no",
    ] {
        assert!(info.contains(line), "{line} in {info}");
    }
    assert_eq!(daemon.good(&["domstate", "one", "--reason"]), "shut off (unknown)");
    assert_eq!(daemon.good(&["domid", "one"]), "-");
    assert_eq!(daemon.good(&["domuuid", "one"]), UUID);
    assert_eq!(daemon.good(&["domname", UUID]), "one");
    assert!(daemon.good(&["domblklist", "one"]).contains(" vda      /nowhere/one.img"));
    assert!(daemon.good(&["domiflist", "one"]).contains("network   default   virtio   52:54:00:00:00:01"));
    let stats = daemon.good(&["domstats", "one"]);
    let expected = "Domain: 'one'\n  state.state=5\n  state.reason=0\n  balloon.current=262144\n  \
                    balloon.maximum=262144\n  vcpu.current=2\n  vcpu.maximum=2\n  block.count=1\n  \
                    block.0.name=vda\n  block.0.path=/nowhere/one.img";
    assert_eq!(stats, expected);
    assert_eq!(daemon.good(&["domstats", "--vcpu", "--list-active"]), "");
    assert!(daemon.bad(&["domstats", "two"]).contains("failed to get domain 'two'"));
    assert!(daemon.bad(&["domblkinfo", "one", "vda"]).contains("Failed to open file '/nowhere/one.img'"));
    assert!(daemon.bad(&["domblkinfo", "one", "vdb"]).contains("invalid path vdb not assigned to domain"));
}

#[test]
fn sizes_of_images_are_those_of_the_host() {
    let Some(daemon) = Daemon::start() else { return };
    let image = daemon.file("disk.img", "");
    std::fs::File::options().write(true).open(&image).unwrap().set_len(1 << 20).unwrap();
    daemon.define(&document("one", "").replace("/nowhere/one.img", image.to_str().unwrap()));
    let info = daemon.good(&["domblkinfo", "one", "vda"]);
    assert!(info.contains("Capacity:       1048576") && info.contains("Allocation:     0"), "{info}");
    assert!(daemon.good(&["domstats", "one", "--block"]).contains("block.0.capacity=1048576"));
}

#[test]
fn text_and_elements_of_programs_are_kept() {
    let Some(mut daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    assert!(daemon.good(&["desc", "one"]).contains("No description for domain: one"));
    daemon.good(&["desc", "one", "--title", "a title"]);
    daemon.good(&["desc", "one", "some text"]);
    let uri = "http://example.org/1";
    daemon.good(&["metadata", "one", uri, "--key", "k", "--set", "<a b='1'><c/></a>"]);
    daemon.kill_and_start();
    assert_eq!(daemon.good(&["desc", "one"]), "some text");
    assert_eq!(daemon.good(&["desc", "one", "--title"]), "a title");
    assert_eq!(daemon.good(&["metadata", "one", uri]), "<a b='1'>\n  <c/>\n</a>");
    let missing = "metadata not found: Requested metadata element is not present";
    assert!(daemon.bad(&["metadata", "one", "http://example.org/2"]).contains(missing));
    daemon.good(&["metadata", "one", uri, "--remove"]);
    assert!(daemon.bad(&["metadata", "one", uri]).contains(missing));
    assert!(daemon.bad(&["metadata", "one", uri, "--key", "k", "--set", "<a>"]).contains("XML"));
    assert!(daemon.bad(&["desc", "one", "x", "--live"]).contains("domain is not running"));
}

#[test]
fn a_domain_gets_another_name() {
    let Some(mut daemon) = Daemon::start() else { return };
    daemon.define(&document("one", UUID));
    daemon.define(&document("two", ""));
    daemon.good(&["domrename", "one", "three"]);
    assert!(daemon.bad(&["domrename", "three", "three"]).contains("Can't rename domain to itself"));
    assert!(daemon.bad(&["domrename", "three", "two"]).contains("domain with name 'two' already exists"));
    assert!(!daemon.virsh(&["domrename", "three", "a/b"]).good);
    daemon.kill_and_start();
    assert_eq!(daemon.good(&["domuuid", "three"]), UUID);
    assert!(daemon.good(&["dumpxml", "three"]).contains("<name>three</name>"));
    daemon.bad(&["domuuid", "one"]);
}

#[test]
fn an_editor_changes_the_definition() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    let edit = |script: &str| {
        let mut command = Command::new("virsh");
        print(command.env("EDITOR", script).args(["-c", &daemon.uri(), "edit", "one"]).stdin(Stdio::null()))
    };
    assert!(edit("sed -i s/262144/524288/g").good);
    assert!(daemon.good(&["dominfo", "one"]).contains("Max memory:     524288 KiB"));
    // virsh asks whether to try again, gets no answer, and says no more than this.
    let refused = edit("sed -i s/524288/lots/g").text;
    assert!(refused.contains("error: Failed."), "{refused}");
    assert!(daemon.good(&["dominfo", "one"]).contains("Max memory:     524288 KiB"));
}

#[test]
fn memory_and_vcpus_change_within_their_bounds() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    daemon.good(&["setmem", "one", "100M", "--config"]);
    assert!(
        daemon
            .bad(&["setmem", "one", "900M", "--config"])
            .contains("cannot set memory higher than max memory")
    );
    assert!(daemon.bad(&["setmem", "one", "100M", "--live"]).contains("domain is not running"));
    daemon.good(&["setmaxmem", "one", "64M", "--config"]);
    assert!(daemon.good(&["dominfo", "one"]).contains("Used memory:    65536 KiB"));
    daemon.good(&["setvcpus", "one", "8", "--config", "--maximum"]);
    daemon.good(&["setvcpus", "one", "3", "--config"]);
    let counts = daemon.good(&["vcpucount", "one"]);
    assert!(
        counts.contains("maximum      config         8") && counts.contains("current      config         3")
    );
    assert!(daemon.bad(&["setvcpus", "one", "9", "--config"]).contains("greater than max allowable vcpus"));
    assert!(daemon.bad(&["setvcpus", "one", "2", "--live"]).contains("domain is not running"));
    daemon.good(&["vcpupin", "one", "1", "0", "--config"]);
    assert!(daemon.good(&["dumpxml", "one"]).contains("<vcpupin vcpu='1' cpuset='0'/>"));
    assert!(daemon.bad(&["vcpupin", "one", "8", "0", "--config"]).contains("out of range"));
    assert!(daemon.good(&["emulatorpin", "one"]).contains("*: 0"));
}

#[test]
fn devices_come_and_go_in_the_definition() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    let before = daemon.good(&["dumpxml", "one", "--security-info"]);
    daemon.good(&["attach-disk", "one", "/nowhere/b.img", "vdb", "--config"]);
    assert!(daemon.good(&["domblklist", "one"]).contains(" vdb      /nowhere/b.img"));
    let again = daemon.bad(&["attach-disk", "one", "/nowhere/b.img", "vdb", "--config"]);
    assert!(again.contains("target vdb already exists"), "{again}");
    daemon.bad(&["attach-disk", "one", "/nowhere/c.img", "vdc", "--live"]);
    daemon.good(&["detach-disk", "one", "vdb", "--config"]);
    assert_eq!(daemon.good(&["dumpxml", "one", "--security-info"]), before);
    let mac = "52:54:00:00:00:02";
    daemon.good(&[
        "attach-interface",
        "one",
        "network",
        "default",
        "--mac",
        mac,
        "--model",
        "virtio",
        "--config",
    ]);
    assert!(daemon.good(&["domiflist", "one"]).contains(mac));
    daemon.good(&["detach-interface", "one", "network", "--mac", mac, "--config"]);
    assert!(!daemon.good(&["domiflist", "one"]).contains(mac));
    let disk = |target: &str| {
        let xml = format!(
            "<disk type='file' device='disk'><source file='/nowhere/new.img'/><target dev='{target}'/></disk>"
        );
        daemon.file("device.xml", &xml).to_str().unwrap().to_owned()
    };
    daemon.good(&["update-device", "one", &disk("vda"), "--config"]);
    assert!(daemon.good(&["domblklist", "one"]).contains(" vda      /nowhere/new.img"));
    let missing = daemon.bad(&["detach-device", "one", &disk("vdz"), "--config"]);
    assert!(missing.contains("device not found: no target device vdz"), "{missing}");
    let faulty = daemon.file("device.xml", "<disk><source></disk>");
    daemon.bad(&["attach-device", "one", faulty.to_str().unwrap(), "--config"]);
}

#[test]
fn what_only_a_machine_can_do_says_that_it_does_not_run() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    for verb in [
        "suspend",
        "resume",
        "shutdown",
        "reboot",
        "reset",
        "destroy",
        "domjobinfo",
        "domblkerror",
        "console",
    ] {
        let said = daemon.bad(&[verb, "one"]);
        assert!(said.contains("domain is not running"), "{verb}: {said}");
        assert!(daemon.bad(&[verb, "two"]).contains("failed to get domain 'two'"));
    }
}

#[test]
fn a_read_only_client_changes_nothing_and_sees_no_passwords() {
    let Some(daemon) = Daemon::start() else { return };
    daemon.define(&document("one", ""));
    let uri = daemon.uri().replace("libvirt-sock", "libvirt-sock-ro");
    let virsh = |arguments: &[&str]| print(Command::new("virsh").args(["-c", &uri, "-r"]).args(arguments));
    let shown = virsh(&["dumpxml", "one"]);
    assert!(shown.good && shown.text.contains("vnc") && !shown.text.contains("secret"), "{}", shown.text);
    for arguments in [&["dumpxml", "one", "--security-info"][..], &["undefine", "one"], &["autostart", "one"]]
    {
        assert!(!virsh(arguments).good, "{arguments:?}");
    }
}

#[test]
fn variables_of_firmware_go_only_when_asked() {
    let Some(daemon) = Daemon::start() else { return };
    let nvram = daemon.file("one.nvram", "x");
    let os = format!("<os><type machine='q35'>hvm</type><nvram>{}</nvram></os>", nvram.display());
    let with = document("one", UUID).replace("<os><type machine='q35'>hvm</type></os>", &os);
    assert!(daemon.define(&with).good);
    assert!(daemon.bad(&["undefine", "one"]).contains("cannot undefine domain with nvram"));
    daemon.good(&["undefine", "one", "--keep-nvram"]);
    assert!(nvram.exists());
    daemon.define(&with);
    daemon.good(&["undefine", "one", "--nvram"]);
    assert!(!nvram.exists());
}

#[test]
fn the_host_is_described_as_clients_need_it() {
    let Some(daemon) = Daemon::start() else { return };
    let capabilities = daemon.good(&["capabilities"]);
    for part in
        ["<arch>x86_64</arch>", "<os_type>hvm</os_type>", "canonical='pc-q35-10.0'", "<acpi default='on'"]
    {
        assert!(capabilities.contains(part), "{part} in {capabilities}");
    }
    assert_eq!(capabilities.contains("<domain type='kvm'/>"), Path::new("/dev/kvm").exists());
    assert_eq!(daemon.good(&["maxvcpus"]), "254");
    assert!(daemon.good(&["cpu-models", "x86_64"]).contains("EPYC"));
    assert!(daemon.bad(&["cpu-models", "riscv64"]).contains("riscv64"));
    if Path::new("/dev/kvm").exists() {
        let domain = daemon.good(&["domcapabilities", "--machine", "q35"]);
        assert!(domain.contains("<mode name='host-passthrough' supported='yes'>"), "{domain}");
    } else {
        eprintln!("skipped: no /dev/kvm, so domcapabilities has nothing to tell");
    }
    assert!(daemon.bad(&["domcapabilities", "--machine", "pdp11"]).contains("invalid argument"));
}

#[test]
fn virt_install_writes_a_document_that_can_be_defined() {
    let Some(daemon) = Daemon::start() else { return };
    if Command::new("virt-install").arg("--version").output().is_err() || !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: virt-install (virtinst) is not installed, or there is no /dev/kvm");
        return;
    }
    let disk = daemon.file("disk.img", "");
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(1 << 20).unwrap();
    let mut command = Command::new("virt-install");
    command.args(["--connect", &daemon.uri(), "--print-xml", "--import", "--name", "one", "--memory", "512"]);
    command.args(["--osinfo", "linux2022", "--graphics", "none", "--network", "none", "--disk"]);
    let printed = print(command.arg(format!("{},format=raw", disk.display())));
    let start = printed.text.find("<domain").unwrap();
    assert!(printed.text.contains("<cpu mode=\"host-passthrough\"/>"), "{}", printed.text);
    assert!(daemon.define(&printed.text[start..]).good);
    assert!(daemon.good(&["dumpxml", "one"]).contains("machine='pc-q35-10.0'"));
}

/// Registers for events, changes a domain, and prints what it hears.
const EVENTS: &str = r"
import libvirt, sys, threading
libvirt.virEventRegisterDefaultImpl()
conn = libvirt.open(sys.argv[1])
heard = []
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    lambda c, d, event, detail, o: heard.append('%s %d %d' % (d.name(), event, detail)), None)
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
    lambda c, d, kind, uri, o: heard.append('%s metadata %d %s' % (d.name(), kind, uri)), None)
document = open(sys.argv[2]).read()
dom = conn.defineXML(document)
conn.defineXML(dom.XMLDesc(0))
dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, 't', None, None, 0)
dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, '<a/>', 'k', 'http://e.org', 0)
dom.rename('two')
conn.lookupByName('two').undefine()
while len(heard) < 7:
    libvirt.virEventRunDefaultImpl()
print('\n'.join(heard))
try:
    conn.lookupByName('two')
except libvirt.libvirtError as error:
    print(error.get_error_code(), error.get_error_domain(), error)
try:
    conn.lookupByID(7)
except libvirt.libvirtError as error:
    print(error.get_error_code())
print(conn.listDefinedDomains(), conn.listDomainsID(), conn.numOfDomains(), conn.numOfDefinedDomains())
";

#[test]
fn whoever_registered_hears_of_changes() {
    let Some(daemon) = Daemon::start() else { return };
    if !Command::new("/usr/bin/python3")
        .args(["-c", "import libvirt"])
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("skipped: python3-libvirt is not installed");
        return;
    }
    let (script, domain) = (daemon.file("events.py", EVENTS), daemon.file("one.xml", &document("one", "")));
    let mut command = Command::new("timeout");
    let printed = print(command.args(["20", "/usr/bin/python3"]).arg(script).arg(daemon.uri()).arg(domain));
    assert!(printed.good, "{}", printed.text);
    let heard: Vec<&str> = printed.text.lines().filter(|line| !line.starts_with("libvirt:")).collect();
    assert_eq!(
        heard,
        [
            "one 0 0",
            "one 0 1",
            "one metadata 1 None",
            "one metadata 2 http://e.org",
            "one 1 1",
            "two 0 2",
            "two 1 0",
            "42 10 Domain not found: no domain with matching name 'two'",
            "42",
            "[] [] 0 0",
        ]
    );
}
