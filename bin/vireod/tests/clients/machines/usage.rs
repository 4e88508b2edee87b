//! What running machines use and may use: statistics, processors, limits.

use super::*;

/// A document with a disk.
fn with_disk(place: &Place, name: &str, words: &str, more: &str) -> String {
    let disk = place.write(&format!("{name}.img"), vec![0; 1 << 20]);
    let device = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
         <target dev='vda' bus='virtio'/></disk><serial type='pty'/>"
    );
    document(name, words, more).replace("<serial type='pty'/>", &device)
}

impl Place {
    fn define_disk<'a>(&'a self, name: &'static str, words: &str, more: &str) -> Guest<'a> {
        let path = self.write(&format!("{name}.xml"), with_disk(self, name, words, more));
        self.ok(&["define", &path]);
        Guest { place: self, name }
    }

    /// Processors on which the threads of that name may run, as the kernel lists them.
    fn allowed(&self, domain: &str, thread: impl Fn(&str) -> bool) -> Vec<String> {
        let directory = format!("/proc/{}/task", self.machine(domain).as_raw_nonzero());
        let mut found = Vec::new();
        for task in std::fs::read_dir(directory).unwrap().flatten() {
            // Threads that answer one request of the daemon come and go.
            let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
            let field = |name: &str| {
                let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
                lines.next().unwrap().trim().to_owned()
            };
            if thread(&field("Name:")) {
                found.push(field("Cpus_allowed_list:"));
            }
        }
        found
    }

    fn allowed_vcpu(&self, domain: &str, vcpu: u32) -> String {
        let found = self.allowed(domain, |name| name == format!("vcpu{vcpu}"));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }
}

/// The value of a line `name=value` or `name value`.
pub(super) fn value(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(['=', ' ', ':']));
    line.map(|value| value.trim().split(' ').next().unwrap().split('.').next().unwrap().parse().unwrap())
}

#[test]
fn what_a_machine_has_used_is_told_by_every_command_that_asks() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define_disk("one", "", "");
    for command in [
        &["cpu-stats", "one"][..],
        &["dommemstat", "one"],
        &["domblkstat", "one", "vda"],
        &["domifstat", "one", "vnet0"],
    ] {
        place.fails(command, &["not running"]);
    }
    place.ok(&["start", "one"]);
    let all = place.ok(&["domstats", "one"]);
    for name in ["cpu.time", "balloon.rss", "vcpu.0.time", "vcpu.1.time"] {
        assert!(value(&all, name).unwrap() > 0, "{name}: {all}");
    }
    for (name, wanted) in [
        ("state.state", 1),
        ("balloon.current", 65536),
        ("vcpu.current", 2),
        ("vcpu.0.state", 1),
        ("net.count", 0),
        ("block.count", 1),
        ("block.0.rd.reqs", 1),
        ("block.0.rd.bytes", 4096),
        ("block.0.rd.times", 10),
        ("block.0.wr.reqs", 2),
        ("block.0.wr.bytes", 8192),
        ("block.0.wr.times", 20),
        ("block.0.fl.reqs", 3),
        ("block.0.fl.times", 30),
        ("block.0.capacity", 1 << 20),
    ] {
        assert_eq!(value(&all, name), Some(wanted), "{name}: {all}");
    }
    let only = place.ok(&["domstats", "--cpu-total", "one"]);
    assert!(only.contains("cpu.user=") && !only.contains("vcpu.") && !only.contains("block."), "{only}");
    for disk in ["vda", &place.text("one.img"), ""] {
        let arguments = ["domblkstat", "one", disk];
        let said = place.ok(if disk.is_empty() { &arguments[..2] } else { &arguments });
        assert!(said.contains("rd_bytes 4096") && said.contains("flush_operations 3"), "{disk}: {said}");
        assert!(said.contains("wr_total_times 20") && said.contains("errs 4"), "{disk}: {said}");
    }
    place.fails(&["domblkstat", "one", "vdb"], &["invalid path: vdb"]);
    place.fails(&["domifstat", "one", "vnet0"], &["'vnet0' is not a known interface"]);
    let memory = place.ok(&["dommemstat", "one"]);
    assert_eq!(value(&memory, "actual"), Some(65536));
    assert!(value(&memory, "rss").unwrap() > 100, "{memory}");
    let total = place.ok(&["cpu-stats", "one", "--total"]);
    assert!(["cpu_time", "user_time", "system_time"].iter().all(|name| total.contains(name)), "{total}");
    let both = place.ok(&["cpu-stats", "one"]);
    assert!(both.contains("No per-CPU stats available") && both.contains("Total:"), "{both}");
    let vcpus = place.ok(&["vcpuinfo", "one"]);
    assert_eq!(vcpus.matches("State:          running").count(), 2, "{vcpus}");
    assert_eq!(vcpus.matches("CPU Affinity:   y").count(), 2, "{vcpus}");
    assert!(place.ok(&["dominfo", "one"]).contains("CPU time:"));
}

#[test]
fn a_machine_that_hangs_is_shown_without_its_disks_and_delays_no_other() {
    let place = Place::new();
    let _vireod = place.start();
    let _hangs = place.define_disk("hangs", "hang=vm.counters", "");
    let _works = place.define_disk("works", "", "");
    place.ok(&["start", "hangs"]);
    place.ok(&["start", "works"]);
    for arguments in [&["domstats"][..], &["domstats", "--nowait"]] {
        let since = Instant::now();
        let all = place.ok(arguments);
        assert!(since.elapsed() < PATIENCE / 2);
        let hangs = all.split("Domain: ").find(|part| part.starts_with("'hangs'")).unwrap();
        assert!(value(hangs, "cpu.time").is_some() && value(hangs, "block.0.capacity").is_some(), "{all}");
        assert_eq!(value(hangs, "block.0.rd.reqs"), None, "{all}");
        let works = all.split("Domain: ").find(|part| part.starts_with("'works'")).unwrap();
        // Who does not want to wait does not wait for a busy host either.
        if arguments.len() == 1 {
            assert_eq!(value(works, "block.0.rd.reqs"), Some(1), "{all}");
        }
    }
    place.fails(&["domblkstat", "hangs", "vda"], &["does not say what its disks have done"]);
}

#[test]
fn threads_run_where_the_document_and_clients_want_them() {
    let processors = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    if processors.trim() == "0" {
        eprintln!("skipped: this host has one processor");
        return;
    }
    let place = Place::new();
    let vireod = place.start();
    let pins = "<cputune><vcpupin vcpu='0' cpuset='1'/><emulatorpin cpuset='0'/></cputune>";
    let _guest = place.define_disk("one", "", pins);
    place.ok(&["start", "one"]);
    let all = place.allowed_vcpu("one", 1);
    assert_eq!(place.allowed_vcpu("one", 0), "1");
    assert_ne!(all, "0", "a vCPU without a pin is not where its process started");
    let others = |place: &Place| place.allowed("one", |name| !name.starts_with("vcpu"));
    assert!(others(&place).iter().all(|allowed| allowed == "0"));
    // At once, and only what runs.
    place.ok(&["vcpupin", "one", "1", "0", "--live"]);
    assert_eq!(place.allowed_vcpu("one", 1), "0");
    assert!(
        place.ok(&["vcpupin", "one", "--live"]).lines().any(|line| line.split_whitespace().eq(["1", "0"]))
    );
    assert!(!place.ok(&["dumpxml", "one", "--inactive"]).contains("vcpu='1'"));
    place.ok(&["emulatorpin", "one", "0-1", "--live", "--config"]);
    assert!(others(&place).iter().all(|allowed| allowed != "0"));
    let map = place.ok(&["vcpuinfo", "one"]);
    assert!(map.contains("CPU Affinity:   -y"), "{map}");
    place.fails(&["vcpupin", "one", "2", "0", "--live"], &["out of range"]);
    // The next daemon knows, and can change it.
    vireod.kill();
    let _vireod = place.start();
    assert!(place.ok(&["dumpxml", "one"]).contains("<vcpupin vcpu='1' cpuset='0'/>"));
    place.ok(&["vcpupin", "one", "0", "0", "--live"]);
    assert_eq!(place.allowed_vcpu("one", 0), "0");
    place.ok(&["destroy", "one"]);
    place.ok(&["start", "one"]);
    assert_eq!(place.allowed_vcpu("one", 0), "1", "what was only for the running machine is gone with it");
}

/// The group of a daemon's machine, where this test's daemons have one: as root, without systemd, with version 2 only.
fn control_group(place: &Place, domain: &str) -> Option<PathBuf> {
    let membership =
        std::fs::read_to_string(format!("/proc/{}/cgroup", place.machine(domain).as_raw_nonzero())).unwrap();
    let own = membership.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let uuid = place.ok(&["domuuid", domain]);
    // Its first thread may be in a group within.
    let found = Path::new("/sys/fs/cgroup").join(own.trim_end_matches("/emulator"));
    found.ends_with(uuid.trim()).then_some(found)
}

#[test]
fn limits_are_kept_in_the_definition_and_hold_for_what_runs() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = place.define_disk("one", "", "");
    place.ok(&["schedinfo", "one", "--config", "cpu_shares=300", "vcpu_period=50000", "vcpu_quota=20000"]);
    let said = place.ok(&["schedinfo", "one", "--config"]);
    assert!(said.contains("cpu_shares     : 300") && said.contains("vcpu_quota     : 20000"), "{said}");
    place.fails(&["schedinfo", "one", "--config", "cpu_shares=10001"], &["must be in range [1, 10000]"]);
    place.fails(&["schedinfo", "one", "--live", "cpu_shares=300"], &["domain is not running"]);
    place.ok(&["memtune", "one", "--config", "--hard-limit", "204800", "--swap-hard-limit", "204800"]);
    assert_eq!(value(&place.ok(&["memtune", "one"]), "hard_limit     "), Some(204_800));
    place.fails(&["memtune", "one", "--config", "--hard-limit", "204801"], &["swap_hard_limit"]);
    let plain = place.define_disk("plain", "", "");
    place.ok(&["start", "plain"]);
    let Some(group) = control_group(&place, "plain") else {
        eprintln!("skipped: no control groups of version 2 of one's own here, so limits must be refused");
        place.fails(&["start", "one"], &["domain/memtune", "limits of memory"]);
        place.fails(
            &["schedinfo", "plain", "--live", "cpu_shares=300"],
            &["domain/cputune/shares", "limits of processors"],
        );
        let said = place.ok(&["schedinfo", "plain"]);
        assert!(said.contains("cpu_shares     : 100") && said.contains("vcpu_quota     : -1"), "{said}");
        return;
    };
    let file =
        |group: &Path, name: &str| std::fs::read_to_string(group.join(name)).unwrap().trim().to_owned();
    place.ok(&["schedinfo", "plain", "--live", "cpu_shares=300", "global_quota=20000"]);
    assert_eq!(
        (file(&group, "cpu.weight").as_str(), file(&group, "cpu.max").as_str()),
        ("300", "20000 100000")
    );
    place.ok(&["memtune", "plain", "--live", "--soft-limit", "204800"]);
    assert_eq!(file(&group, "memory.high"), (204_800 << 10).to_string());
    assert!(!place.ok(&["dumpxml", "plain", "--inactive"]).contains("tune"));
    place.ok(&["start", "one"]);
    let one = control_group(&place, "one").unwrap();
    assert_eq!(file(&one, "cpu.weight"), "300");
    assert_eq!(file(&one, "vcpu1/cpu.max"), "20000 50000");
    assert_eq!(file(&one, "memory.max"), (204_800 << 10).to_string());
    assert_eq!(file(&one, "memory.swap.max"), "0");
    // Another daemon finds the group again, and takes it away in the end.
    vireod.kill();
    let _vireod = place.start();
    place.ok(&["schedinfo", "one", "--live", "vcpu_quota=-1"]);
    assert_eq!(file(&one, "vcpu0/cpu.max"), "max 50000");
    place.ok(&["destroy", "one"]);
    assert!(!one.exists());
    drop(plain);
    assert!(!group.exists());
}
