//! Running machines, as clients see them. The machine's process is `mock_machine`: everything but the guest is real.

mod balloon;
mod card_limits;
mod cards;
mod on_networks;
mod ports;
mod usage;
mod user_cards;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use libvirt_rpc::procedures::{DomainGetState, DomainLookupByName};

use super::*;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A document of a machine whose guest obeys these words.
fn document(name: &str, words: &str, more: &str) -> String {
    format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/none</kernel><cmdline>{words}</cmdline></os>
         {more}
         <devices><serial type='pty'/><console type='pty'/></devices></domain>"
    )
}

/// A domain that goes when it is dropped, also where a test has failed: a machine outlives the daemon.
struct Guest<'a> {
    place: &'a Place,
    name: &'static str,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.place.virsh(&["destroy", self.name]);
    }
}

impl Place {
    fn define_with<'a>(&'a self, name: &'static str, words: &str, more: &str) -> Guest<'a> {
        let path = self.write(&format!("{name}.xml"), document(name, words, more));
        self.ok(&["define", &path]);
        Guest { place: self, name }
    }

    fn define<'a>(&'a self, name: &'static str, words: &str) -> Guest<'a> {
        self.define_with(name, words, "")
    }

    /// State and reason, as virsh prints them.
    fn state(&self, name: &str) -> String {
        self.ok(&["domstate", name, "--reason"]).trim().to_owned()
    }

    /// Waits until a domain is in a state.
    fn wait(&self, name: &str, wanted: &str) {
        let mut connection = self.connect();
        let since = Instant::now();
        loop {
            let found = connection.call(&DomainLookupByName { name: name.to_owned() });
            let state = found.and_then(|found| connection.call(&DomainGetState { dom: found.dom, flags: 0 }));
            let number = match wanted {
                "running" => Some(1),
                "paused" => Some(3),
                "shut off" => Some(5),
                _ => None,
            };
            if state.as_ref().ok().map(|state| state.state) == number {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{name} is not {wanted}: {state:?}");
            std::thread::yield_now();
        }
    }

    fn terminal(&self, name: &str) -> File {
        let path = self.ok(&["ttyconsole", name]);
        File::options().read(true).write(true).open(path.trim()).unwrap()
    }

    /// Says something to the guest.
    fn tell(&self, name: &str, line: &str) {
        writeln!(self.terminal(name), "{line}").unwrap();
    }

    /// Number of the machine's process; none between two of them.
    fn process(&self, name: &str) -> Option<rustix::process::Pid> {
        let uuid = self.ok(&["domuuid", name]);
        let socket = self.path("run/machines").join(uuid.trim()).join("api");
        let socket = std::os::unix::net::UnixStream::connect(socket).ok()?;
        Some(rustix::net::sockopt::socket_peercred(&socket).unwrap().pid)
    }

    fn machine(&self, name: &str) -> rustix::process::Pid {
        self.process(name).unwrap()
    }

    /// Waits until another process than `before` runs the machine.
    fn wait_for_another(&self, name: &str, before: rustix::process::Pid) {
        let since = Instant::now();
        while self.process(name).is_none_or(|now| now == before) || self.state(name) != "running (booted)" {
            assert!(since.elapsed() < PATIENCE);
        }
    }
}

#[test]
fn a_domain_starts_and_its_guest_shuts_down() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = place.define("one", "");
    assert_eq!(place.state("one"), "shut off (unknown)");
    assert_eq!(place.ok(&["start", "one"]).trim(), "Domain 'one' started");
    assert_eq!(place.state("one"), "running (booted)");
    let list = place.ok(&["list"]);
    assert!(list.lines().any(|line| line.split_whitespace().eq(["1", "one", "running"])), "{list}");
    place.fails(&["start", "one"], &["Domain is already active"]);
    let document = place.ok(&["dumpxml", "one"]);
    for part in
        ["<domain type='kvm' id='1'>", "<alias name='serial0'/>", "<source path='/dev/pts/", "tty='/dev/pts/"]
    {
        assert!(document.contains(part), "no {part} in {document}");
    }
    let inactive = place.ok(&["dumpxml", "one", "--inactive"]);
    assert!(!inactive.contains("/dev/pts") && !inactive.contains("alias"), "{inactive}");
    assert_eq!(place.ok(&["shutdown", "one"]).trim(), "Domain 'one' is being shutdown");
    place.wait("one", "shut off");
    assert_eq!(place.state("one"), "shut off (shutdown)");
    for command in ["shutdown", "reboot", "reset", "suspend", "resume", "destroy", "inject-nmi"] {
        let said = place.virsh(&[command, "one"]);
        assert!(!said.status.success() && said.err.contains("domain is not running"), "{command}: {said:?}");
    }
    assert!(
        std::fs::read_dir(place.path("run/machines")).unwrap().flatten().all(|entry| !entry.path().is_dir())
    );
    assert_eq!(vireod.log(), "", "nothing to complain about");
}

#[test]
fn a_machine_stops_goes_on_and_is_ended() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define("one", "button=ignore");
    place.ok(&["start", "one"]);
    place.fails(&["resume", "one"], &["domain is already running"]);
    assert_eq!(place.ok(&["suspend", "one"]).trim(), "Domain 'one' suspended");
    assert_eq!(place.state("one"), "paused (user)");
    place.ok(&["suspend", "one"]);
    place.fails(&["shutdown", "one"], &["domain is not running: it is paused"]);
    place.ok(&["resume", "one"]);
    assert_eq!(place.state("one"), "running (unpaused)");
    place.ok(&["reset", "one"]);
    place.ok(&["inject-nmi", "one"]);
    place.ok(&["shutdown", "one"]);
    assert_eq!(place.state("one"), "running (unpaused)", "the guest ignores the button");
    assert_eq!(place.ok(&["destroy", "one"]).trim(), "Domain 'one' destroyed");
    assert_eq!(place.state("one"), "shut off (destroyed)");
    place.ok(&["start", "one", "--paused"]);
    assert_eq!(place.state("one"), "paused (user)");
    place.ok(&["resume", "one"]);
    assert_eq!(place.ok(&["domid", "one"]).trim(), "2");
    place.ok(&["destroy", "one", "--graceful"]);
}

#[test]
fn a_reboot_is_the_guest_s_end_and_another_beginning() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define("one", "");
    place.ok(&["start", "one"]);
    let before = place.machine("one");
    place.ok(&["reboot", "one"]);
    place.wait_for_another("one", before);
    assert_eq!(place.ok(&["domid", "one"]).trim(), "1", "it is the same machine to its clients");
    place.tell("one", "reset");
    place.ok(&["shutdown", "one"]);
    place.wait("one", "shut off");
}

#[test]
fn a_transient_domain_lives_as_long_as_its_machine() {
    let place = Place::new();
    let _vireod = place.start();
    let path = place.write("one.xml", document("one", "", ""));
    let _guest = Guest { place: &place, name: "one" };
    assert_eq!(place.ok(&["create", &path]).trim(), format!("Domain 'one' created from {path}"));
    place.fails(&["create", &path], &["operation failed: domain 'one' already exists with uuid"]);
    assert!(place.ok(&["dominfo", "one"]).contains("Persistent:     no"));
    place.fails(&["undefine", "one"], &["cannot undefine transient domain"]);
    place.fails(&["autostart", "one"], &["cannot set autostart for transient domain"]);
    place.fails(&["dumpxml", "--inactive", "two"], &["failed to get domain 'two'"]);
    place.ok(&["destroy", "one"]);
    place.fails(&["domstate", "one"], &["failed to get domain 'one'"]);
    place.ok(&["create", &path]);
    let uuid = place.ok(&["domuuid", "one"]);
    let same = document("one", "", &format!("<uuid>{}</uuid>", uuid.trim()));
    place.ok(&["define", &place.write("same.xml", same)]);
    assert!(place.ok(&["dominfo", "one"]).contains("Persistent:     yes"));
    place.ok(&["undefine", "one"]);
    assert!(place.ok(&["dominfo", "one"]).contains("Persistent:     no"));
    place.tell("one", "poweroff");
    let since = Instant::now();
    while place.virsh(&["domstate", "one"]).status.success() {
        assert!(since.elapsed() < PATIENCE);
    }
}

#[test]
fn what_ends_a_guest_decides_what_follows() {
    let place = Place::new();
    let _vireod = place.start();
    let _crashing = place.define("crashing", "");
    place.ok(&["start", "crashing"]);
    place.tell("crashing", "crash");
    place.wait("crashing", "shut off");
    assert_eq!(place.state("crashing"), "shut off (crashed)");
    place.ok(&["start", "crashing"]);
    rustix::process::kill_process(place.machine("crashing"), rustix::process::Signal::KILL).unwrap();
    place.wait("crashing", "shut off");
    assert_eq!(place.state("crashing"), "shut off (crashed)");
    let _again =
        place.define_with("again", "", "<on_poweroff>restart</on_poweroff><on_crash>restart</on_crash>");
    place.ok(&["start", "again"]);
    for end in ["poweroff", "crash"] {
        let before = place.machine("again");
        place.tell("again", end);
        place.wait_for_another("again", before);
    }
    place.ok(&["destroy", "again"]);
    assert_eq!(place.state("again"), "shut off (destroyed)");
    let _loop = place.define_with("loop", "loop", "<on_poweroff>restart</on_poweroff>");
    let _ = place.virsh(&["start", "loop"]);
    place.wait("loop", "shut off");
    assert_eq!(place.state("loop"), "shut off (failed)", "a guest that ends at once is not started for ever");
}

#[test]
fn a_machine_that_does_not_come_up_leaves_nothing_and_says_why() {
    let place = Place::new();
    let _vireod = place.start();
    for (name, words, message) in [
        ("create", "refuse=vm.create", "the mock machine was told to refuse vm.create"),
        ("boot", "refuse=vm.boot", "the mock machine was told to refuse vm.boot"),
        ("died", "die=vm.boot", "vm.boot"),
    ] {
        let _guest = place.define(name, words);
        place.fails(&["start", name], &["Failed to start domain", message]);
        assert_eq!(place.state(name), "shut off (failed)");
    }
    assert!(
        std::fs::read_dir(place.path("run/machines")).unwrap().flatten().all(|entry| !entry.path().is_dir())
    );
    let firmware = document("firmware", "", "").replace("<kernel>/boot/none</kernel>", "");
    let path = place.write("firmware.xml", firmware.replace("<cmdline></cmdline>", ""));
    place.ok(&["define", &path]);
    place.fails(&["start", "firmware"], &["unsupported configuration", "kernel"]);
}

#[test]
fn a_machine_that_hangs_keeps_nobody_else_waiting_and_can_be_ended() {
    let place = Place::new();
    let _vireod = place.start();
    let _hanging = place.define("hanging", "hang=vm.pause");
    let _other = place.define("other", "");
    place.ok(&["start", "hanging"]);
    place.ok(&["start", "other"]);
    let uri = place.uri(&place.socket());
    let mut waiting = Command::new("virsh")
        .args(["-c", &uri, "suspend", "hanging"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.ok(&["suspend", "other"]);
    assert_eq!(place.state("hanging"), "running (booted)");
    place.ok(&["list", "--all"]);
    place.ok(&["domstats"]);
    place.ok(&["resume", "other"]);
    place.ok(&["destroy", "hanging"]);
    let mut message = String::new();
    waiting.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert!(!waiting.wait().unwrap().success());
    assert!(message.contains("domain is not running"), "{message}");
}

#[test]
fn machines_outlive_the_daemon_and_are_found_again() {
    let place = Place::new();
    let mut vireod = place.start();
    let names = ["running", "paused", "ending", "killed", "asked"];
    let _guests: Vec<_> = names.into_iter().map(|name| place.define(name, "")).collect();
    for name in names {
        place.ok(&["start", name]);
    }
    let transient = place.write("transient.xml", document("transient", "", ""));
    let _transient = Guest { place: &place, name: "transient" };
    place.ok(&["create", &transient]);
    place.ok(&["suspend", "paused"]);
    let (ids, machines) =
        (names.map(|name| place.ok(&["domid", name])), names.map(|name| place.machine(name)));
    let mut terminal = place.terminal("ending");
    vireod.kill();
    writeln!(terminal, "poweroff").unwrap();
    rustix::process::kill_process(machines[3], rustix::process::Signal::KILL).unwrap();
    // Both are seen to be gone before there is a daemon again.
    for gone in [machines[2], machines[3]] {
        let since = Instant::now();
        while rustix::process::test_kill_process(gone).is_ok() && !is_zombie(gone) {
            assert!(since.elapsed() < PATIENCE);
        }
    }
    vireod = place.start();
    assert_eq!(place.state("running"), "running (booted)");
    assert_eq!(place.state("paused"), "paused (user)");
    place.wait("ending", "shut off");
    assert_eq!(place.state("ending"), "shut off (shutdown)");
    place.wait("killed", "shut off");
    assert_eq!(place.state("killed"), "shut off (crashed)");
    for at in [0, 1, 4] {
        assert_eq!(place.ok(&["domid", names[at]]), ids[at]);
        assert_eq!(place.machine(names[at]), machines[at]);
    }
    assert!(place.ok(&["dumpxml", "running"]).contains("tty='/dev/pts/"));
    // The new daemon hears of what its machines do.
    place.tell("running", "poweroff");
    place.wait("running", "shut off");
    place.ok(&["resume", "paused"]);
    place.ok(&["destroy", "asked"]);
    place.ok(&["destroy", "transient"]);
    place.ok(&["start", "running"]);
    assert_eq!(place.ok(&["domid", "running"]).trim(), "7", "numbers are not used again");
    assert!(vireod.end().success());
    let _vireod = place.start();
    assert_eq!(place.state("running"), "running (booted)");
}

#[test]
fn a_machine_that_runs_is_kept_whatever_is_not_as_it_should_be_around_it() {
    let place = Place::new();
    let mut vireod = place.start();
    let _guest = place.define("one", "");
    place.ok(&["start", "one"]);
    let machine = place.machine("one");
    let directory = place.path("run/machines").join(place.ok(&["domuuid", "one"]).trim());
    let (events, aside) = (directory.join("events"), directory.join("aside"));
    vireod.kill();
    std::fs::rename(&events, &aside).unwrap();
    vireod = place.start();
    assert!(vireod.log().contains("events can't be read yet"), "{}", vireod.log());
    assert_eq!(place.state("one"), "running (booted)");
    assert_eq!(place.machine("one"), machine);
    place.fails(&["start", "one"], &["Domain is already active"]);
    // As soon as they can be read, they are followed.
    std::fs::rename(&aside, &events).unwrap();
    place.tell("one", "poweroff");
    place.wait("one", "shut off");
    assert_eq!(place.state("one"), "shut off (shutdown)");
    // And a machine that nobody can see ends when it is told to.
    place.ok(&["start", "one"]);
    vireod.kill();
    std::fs::remove_file(&events).unwrap();
    let _vireod = place.start();
    assert_eq!(place.state("one"), "running (booted)");
    place.ok(&["destroy", "one"]);
    assert_eq!(place.state("one"), "shut off (destroyed)");
    assert!(!directory.exists());
}

fn is_zombie(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

#[test]
fn what_is_marked_starts_with_the_host_and_not_with_each_daemon() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = place.define("marked", "");
    place.ok(&["autostart", "marked"]);
    assert!(vireod.end().success());
    let vireod = place.start();
    assert_eq!(place.state("marked"), "shut off (unknown)", "this host has been up all the time");
    assert!(vireod.end().success());
    // The runtime directory is lost with the host's memory.
    std::fs::remove_dir_all(place.path("run")).unwrap();
    let _vireod = place.start();
    place.wait("marked", "running");
}

#[test]
fn events_tell_what_happens_in_the_order_in_which_it_does() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define("one", "");
    let program = "
import threading
libvirt.virEventRegisterDefaultImpl()
heard = []
connection.close()
connection = libvirt.open(URI)
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    lambda connection, domain, event, detail, opaque: heard.append((event, detail)), None)
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT,
    lambda connection, domain, opaque: heard.append('reboot'), None)
def until(wanted):
    while wanted not in heard:
        libvirt.virEventRunDefaultImpl()
    print(heard)
    heard.clear()
threading.Thread(target=lambda: None).start()
timer = libvirt.virEventAddTimeout(50, lambda *_: None, None)
domain = connection.lookupByName('one')
domain.create()
until((2, 0))
domain.suspend()
until((3, 0))
domain.resume()
until((4, 0))
domain.reset()
until('reboot')
domain.destroy()
until((5, 1))
domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
until((3, 0))
domain.resume()
until((4, 0))
domain.shutdown()
until((5, 0))
domain.undefine()
until((1, 0))
";
    let uri = place.uri(&place.socket());
    let said = python(&uri, &program.replace("URI", &format!("'{uri}'")));
    assert!(said.status.success(), "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(
        lines,
        [
            "[(4, 0), (2, 0)]",
            "[(3, 0)]",
            "[(4, 0)]",
            "['reboot']",
            "[(6, 2), (5, 1)]",
            "[(2, 0), (3, 0)]",
            "[(4, 0)]",
            "[(6, 1), (5, 0)]",
            "[(1, 0)]",
        ]
    );
}

#[test]
fn jobs_and_disks_of_a_running_machine_are_asked_for() {
    let place = Place::new();
    let _vireod = place.start();
    let disk = "<disk type='file'><driver name='qemu' type='raw'/><source file='/nowhere/disk'/><target dev='vda' bus='virtio'/></disk>";
    let path =
        place.write("one.xml", document("one", "", "").replace("<devices>", &format!("<devices>{disk}")));
    let _guest = Guest { place: &place, name: "one" };
    place.ok(&["define", &path]);
    let questions: [(&[&str], &str); 4] = [
        (&["domjobinfo", "one"], "Job type:         None"),
        (&["domcontrol", "one"], "ok"),
        (&["domblkerror", "one"], "No errors found"),
        (&["blockjob", "one", "vda"], "No current block job for vda"),
    ];
    for (question, _) in &questions {
        place.fails(question, &["domain is not running"]);
    }
    place.ok(&["start", "one"]);
    for (question, answer) in questions {
        assert_eq!(place.ok(question).trim(), answer);
    }
    place.fails(&["domjobabort", "one"], &["no job is active on the domain"]);
    place.fails(&["blockjob", "one", "vda", "--abort"], &["disk vda does not have an active block job"]);
    place.fails(&["blockjob", "one", "vdb"], &["vdb"]);
    let mut terminal = place.terminal("one");
    place.ok(&["blockresize", "one", "/nowhere/disk", "2M"]);
    place.ok(&["blockresize", "one", "vda", "3145728B"]);
    let mut heard = String::new();
    let mut buffer = [0; 256];
    while !heard.contains("disk vda has 3145728 bytes") {
        let count = terminal.read(&mut buffer).unwrap();
        heard.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(heard.contains("disk vda has 2097152 bytes"), "{heard}");
    place.fails(&["blockresize", "one", "vdb", "1G"], &["disk 'vdb' was not found in the domain config"]);
}

#[test]
fn a_definition_that_is_not_what_runs_is_told() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define("one", "");
    let uri = place.uri(&place.socket());
    let updated = || python(&uri, "print(connection.lookupByName('one').isUpdated())").out.trim().to_owned();
    assert_eq!(updated(), "0");
    place.ok(&["start", "one"]);
    assert_eq!(updated(), "0", "what a start adds by itself is no difference");
    place.ok(&["setmaxmem", "one", "128M", "--config"]);
    assert_eq!(updated(), "1");
    place.ok(&["destroy", "one"]);
    assert_eq!(updated(), "0");
}

#[test]
fn a_domain_can_end_with_the_client_that_started_it() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define("one", "");
    let uri = place.uri(&place.socket());
    let said = python(
        &uri,
        "connection.lookupByName('one').createWithFlags(libvirt.VIR_DOMAIN_START_AUTODESTROY)\nconnection.close()",
    );
    assert!(said.status.success(), "{said:?}");
    place.wait("one", "shut off");
    assert_eq!(place.state("one"), "shut off (destroyed)");
}
