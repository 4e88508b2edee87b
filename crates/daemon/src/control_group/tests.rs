//! Groups of the kernel's own, where it has them, and the choice of their place.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use super::place::{self, Place, Surroundings};
use super::*;
use crate::domain::machine::{CpuDemands, MemoryDemands};
use crate::machine_process::stand_in::{StandIn, Work};
use crate::machine_process::threads::ProcessThreads;

const WHOLE: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

fn found(mounts: &str, membership: &str, delegated: &[&str], root: bool) -> Result<Place, String> {
    place::find(&Surroundings {
        mounts,
        membership,
        systemd: !root && !delegated.is_empty(),
        delegated: &|group| delegated.iter().any(|path| Path::new(path) == group),
        is_root: &|_| root,
    })
}

#[test]
fn a_unit_that_has_got_its_group_has_it_and_no_other() {
    let unit = "/sys/fs/cgroup/system.slice/vireod.service";
    let own = |membership| found(WHOLE, membership, &[unit], false);
    let expected = Ok(Place::Own(PathBuf::from(unit)));
    assert_eq!(own("1:name=x:/a\n0::/system.slice/vireod.service/daemon\n"), expected);
    // Where it is itself, no other could be started after it.
    for other in [
        "0::/system.slice/vireod.service\n",
        "0::/system.slice/other.service/daemon\n",
        "0::/system.slice/vireod.service/other\n",
        "0::/\n",
    ] {
        let reason = own(other).unwrap_err();
        assert!(reason.contains("Delegate=yes"), "{reason}");
    }
}

#[test]
fn without_systemd_the_place_is_in_the_root() {
    let root = Ok(Place::Root(PathBuf::from("/sys/fs/cgroup")));
    assert_eq!(found(WHOLE, "0::/\n", &[], true), root);
    assert_eq!(found(WHOLE, "0::/some/group\n", &[], true), root);
}

#[test]
fn daemons_with_other_directories_have_other_places() {
    assert_eq!(place::name_in_root(Path::new("/run/vireo")), "vireo-run-vireo");
    assert_eq!(place::name_in_root(Path::new("/tmp/a b.c/run/")), "vireo-tmp-a-b-c-run");
    let long = place::name_in_root(&Path::new("/").join("ä".repeat(300)).join("run"));
    assert!(long.len() < 255 && long.ends_with("-run"), "{long}");
}

#[test]
fn in_a_container_the_place_is_the_daemons_own_group() {
    let own = |membership| found(WHOLE, membership, &[], false);
    assert_eq!(own("0::/\n"), Ok(Place::Own(PathBuf::from("/sys/fs/cgroup/"))));
    assert_eq!(own("0::/app/daemon\n"), Ok(Place::Own(PathBuf::from("/sys/fs/cgroup/app"))));
    // Mounted from a group on, at a path with a blank.
    let mounts = "30 23 0:26 /docker/12 /sys/fs/c\\040g rw - cgroup2 cgroup2 rw\n";
    assert_eq!(
        found(mounts, "0::/docker/12/x\n", &[], false),
        Ok(Place::Own(PathBuf::from("/sys/fs/c g/x")))
    );
    assert!(found(mounts, "0::/elsewhere\n", &[], false).is_err());
    assert!(own("0::/../outside\n").is_err());
}

#[test]
fn a_host_without_the_tree_says_so() {
    let old = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
    assert!(found(old, "0::/\n", &[], true).unwrap_err().contains("cgroup2 is not mounted"));
    assert!(found(WHOLE, "4:cpu:/\n", &[], true).is_err());
    assert!(found("", "", &[], true).is_err());
}

/// A place in the kernel's tree, removed with what is in it.
struct Scratch(ControlGroups);

impl Scratch {
    /// None where this test may not make groups: on a host whose tree systemd keeps, or without rights.
    fn new(name: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = place::find(&Surroundings {
            mounts: &mounts,
            membership: "0::/\n",
            systemd: Path::new("/run/systemd/system").is_dir(),
            delegated: &|_| false,
            is_root: &|group| !group.join("cgroup.type").exists(),
        });
        let root = match found {
            Ok(Place::Root(root)) => root,
            other => {
                eprintln!("skipped: no control groups of one's own here: {other:?}");
                return None;
            }
        };
        let directory = root.join(format!("vireo-test-{}-{name}", std::process::id()));
        match ControlGroups::at(&directory) {
            Ok(groups) => Some(Self(groups)),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    /// The same, with a controller.
    fn with(name: &str, has: impl Fn(Controllers) -> bool) -> Option<Self> {
        let scratch = Self::new(name)?;
        if has(scratch.0.controllers()) {
            return Some(scratch);
        }
        eprintln!("skipped: the controller is not in this host's tree of version 2");
        None
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for group in std::fs::read_dir(&self.0.directory).unwrap().flatten() {
            if group.file_type().unwrap().is_dir() {
                let _ = self.0.group(group.file_name().to_str().unwrap()).unwrap().remove();
            }
        }
        std::fs::remove_dir(&self.0.directory).unwrap();
    }
}

#[test]
fn a_process_is_counted_in_its_group_and_ends_with_it() {
    let Some(scratch) = Scratch::new("life") else { return };
    let group = scratch.0.make("machine-1").unwrap();
    let mut machine = StandIn::start(Work::Busy);
    assert!(!group.has(machine.pid()).unwrap());
    group.add(machine.pid()).unwrap();
    assert!(group.has(machine.pid()).unwrap());
    let same = scratch.0.reopen("machine-1").unwrap();
    // It is busy, so this ends.
    while same.usage().unwrap().time < std::time::Duration::from_millis(20) {
        std::thread::yield_now();
    }
    // A new machine of the name ends what is left of the old.
    let group = scratch.0.make("machine-1").unwrap();
    assert_eq!(machine.end().signal(), Some(9));
    assert!(!group.has(machine.pid()).unwrap());
    group.remove().unwrap();
    group.remove().unwrap();
    assert!(!group.directory().exists());
    assert!(scratch.0.reopen("machine-1").is_err());
}

#[test]
fn a_daemon_moves_within_its_own_group_and_has_machines_beside_itself() {
    let Some(scratch) = Scratch::new("own") else { return };
    let group = scratch.0.make("unit").unwrap();
    let file = |name: &str| read(&group.directory().join(name)).unwrap();
    let [mut daemon, mut next] = [(); 2].map(|()| StandIn::start(Work::TakeGroup));
    group.add(daemon.pid()).unwrap();
    daemon.go();
    let taken = daemon.said("taken: ");
    assert!(taken.contains("machines") && taken.starts_with("Ok("), "{taken}");
    assert_eq!(file("cgroup.procs"), "");
    assert_eq!(file("daemon/cgroup.procs"), format!("{}\n", daemon.pid()));
    assert_eq!(file("cgroup.controllers"), file("machines/cgroup.subtree_control"));
    // Whoever starts in the leaf, as systemd can see to, finds the same place; not so a stranger in a group of others.
    write(&group.directory().join("daemon/cgroup.procs"), &next.pid().to_string()).unwrap();
    next.go();
    assert_eq!(next.said("taken: "), taken);
    drop((daemon, next));
    let stranger = scratch.0.make("shared").unwrap();
    let [mut one, other] = [(); 2].map(|()| StandIn::start(Work::TakeGroup));
    stranger.add(one.pid()).unwrap();
    stranger.add(other.pid()).unwrap();
    one.go();
    let refused = one.said("taken: ");
    assert!(refused.contains("1 other processes are in the daemon's control group"), "{refused}");
}

#[test]
fn names_that_are_no_groups_name_are_refused() {
    let groups = ControlGroups { directory: "/nowhere".into(), controllers: Controllers::default() };
    for name in ["", "a/b", "..", "cpu.max", "a b", &"x".repeat(129)] {
        assert!(matches!(groups.make(name), Err(GroupError::Limit(_))), "{name}");
    }
}

#[test]
fn without_controllers_nothing_is_limited_and_limits_are_refused() {
    let groups = ControlGroups { directory: "/nowhere".into(), controllers: Controllers::default() };
    let group = groups.group("a").unwrap();
    group.limit_cpu(&CpuDemands::default()).unwrap();
    group.limit_memory(&MemoryDemands::default()).unwrap();
    let shares = CpuDemands { shares: Some(100), ..CpuDemands::default() };
    assert!(group.limit_cpu(&shares).is_err());
    let quota = CpuDemands { quota: Some(1000), ..CpuDemands::default() };
    assert!(group.limit_threads(&quota, ProcessThreads::of(1)).is_err());
    let hard = MemoryDemands { hard_limit: Some(1 << 30), ..MemoryDemands::default() };
    assert!(group.limit_memory(&hard).is_err());
}

#[test]
fn weight_and_bandwidth_are_what_is_demanded_and_as_usual_again() {
    let Some(scratch) = Scratch::with("cpu", |has| has.cpu) else { return };
    let group = scratch.0.make("a").unwrap();
    let file = |name: &str| read(&group.directory().join(name)).unwrap().trim().to_owned();
    let demands = CpuDemands {
        shares: Some(2048),
        global_period: Some(50_000),
        global_quota: Some(20_000),
        ..CpuDemands::default()
    };
    group.limit_cpu(&demands).unwrap();
    assert_eq!((file("cpu.weight").as_str(), file("cpu.max").as_str()), ("2048", "20000 50000"));
    for shares in [0, 10_001, u64::MAX] {
        let error = group.limit_cpu(&CpuDemands { shares: Some(shares), ..demands }).unwrap_err();
        assert!(error.to_string().contains("must be in range [1, 10000]"), "{error}");
    }
    group.limit_cpu(&CpuDemands::default()).unwrap();
    assert_eq!((file("cpu.weight").as_str(), file("cpu.max").as_str()), ("100", "max 100000"));
}

#[test]
fn each_vcpu_and_all_other_threads_have_a_bandwidth_of_their_own() {
    let Some(scratch) = Scratch::with("threads", |has| has.cpu) else { return };
    let group = scratch.0.make("a").unwrap();
    let machine = StandIn::start(Work::Busy);
    group.add(machine.pid()).unwrap();
    let threads = ProcessThreads::of(machine.pid());
    // No limit makes no groups.
    group.limit_threads(&CpuDemands::default(), threads).unwrap();
    assert!(!group.directory().join("vcpu0").exists());
    let demands = CpuDemands { period: Some(100_000), quota: Some(1_000), ..CpuDemands::default() };
    group.limit_threads(&demands, threads).unwrap();
    let file = |name: &str| read(&group.directory().join(name)).unwrap();
    for (number, id) in threads.vcpus().unwrap() {
        assert_eq!(file(&format!("vcpu{number}/cpu.max")), "1000 100000\n");
        assert_eq!(file(&format!("vcpu{number}/cgroup.threads")), format!("{id}\n"));
    }
    assert_eq!(file("emulator/cpu.max"), "max 100000\n");
    let demands = CpuDemands { emulator_quota: Some(5_000), ..demands };
    group.limit_threads(&demands, threads).unwrap();
    assert_eq!(file("emulator/cpu.max"), "5000 100000\n");
    let others = threads.list().unwrap().len() - 2;
    assert_eq!(file("emulator/cgroup.threads").lines().count(), others);
    assert!(group.has(machine.pid()).unwrap());
    // A vCPU that is always busy runs out of one percent.
    let throttled = |name: &str| {
        file(name).lines().any(|line| {
            line.strip_prefix("nr_throttled ").is_some_and(|number| number.parse::<u64>().unwrap() > 0)
        })
    };
    while !throttled("vcpu0/cpu.stat") {
        std::thread::yield_now();
    }
    // What is not demanded any more has no limit.
    group.limit_threads(&CpuDemands::default(), threads).unwrap();
    assert_eq!(file("vcpu1/cpu.max"), "max 100000\n");
    assert_eq!(file("emulator/cpu.max"), "max 100000\n");
}

#[test]
fn a_machine_that_takes_more_memory_than_it_may_is_killed_and_it_shows() {
    let Some(scratch) = Scratch::with("memory", |has| has.memory) else { return };
    let group = scratch.0.make("a").unwrap();
    let file = |name: &str| read(&group.directory().join(name)).unwrap().trim().to_owned();
    let demands = MemoryDemands {
        hard_limit: Some(32 << 20),
        soft_limit: Some(31 << 20),
        swap_hard_limit: Some(32 << 20),
    };
    group.limit_memory(&demands).unwrap();
    assert_eq!(file("memory.max"), (32 << 20).to_string());
    assert_eq!(file("memory.high"), (31 << 20).to_string());
    assert_eq!(file("memory.swap.max"), "0");
    let mut machine = StandIn::start(Work::Memory);
    group.add(machine.pid()).unwrap();
    assert_eq!(group.usage().unwrap().out_of_memory_kills, 0);
    // Above the soft limit the kernel slows it down, for longer than a test has time.
    group.limit_memory(&MemoryDemands { soft_limit: None, ..demands }).unwrap();
    assert_eq!(file("memory.high"), "max");
    machine.go();
    assert_eq!(machine.end().signal(), Some(9));
    let usage = group.usage().unwrap();
    assert_eq!(usage.out_of_memory_kills, 1);
    assert!(usage.peak_memory.is_none_or(|peak| peak > 16 << 20), "{usage:?}");
    group.limit_memory(&MemoryDemands::default()).unwrap();
    assert_eq!(file("memory.max"), "max");
    assert_eq!(file("memory.swap.max"), "max");
}

#[test]
fn limits_of_memory_and_swap_have_to_fit_together() {
    let groups =
        ControlGroups { directory: "/nowhere".into(), controllers: Controllers { cpu: true, memory: true } };
    let group = groups.group("a").unwrap();
    let limit = |hard_limit, swap_hard_limit| {
        let error = group.limit_memory(&MemoryDemands { hard_limit, soft_limit: None, swap_hard_limit });
        assert!(matches!(error, Err(GroupError::Limit(_))), "{error:?}");
    };
    limit(Some(2), Some(1));
    limit(None, Some(1));
}
