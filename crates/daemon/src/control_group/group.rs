//! A machine's group.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Controllers, GroupError, host, read, write};
use crate::domain::machine::{CpuDemands, MemoryDemands};
use crate::machine_process::threads::{ProcessThreads, ThreadKind};

/// Period of bandwidth when only its quota is said, microseconds; the kernel's own.
const USUAL_PERIOD: u64 = 100_000;

/// What the kernel takes as cpu.weight.
const WEIGHTS: std::ops::RangeInclusive<u64> = 1..=10_000;
/// cpu.weight of a group of which nobody says more.
const USUAL_WEIGHT: u64 = 100;

/// How long processes may take to end once they are killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often threads are looked for that were started while others were moved.
const MOST_ROUNDS: usize = 8;

/// What a group has used, and what that cost it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Processor time.
    pub time: Duration,
    /// Of it in the program, and in the guest.
    pub user: Duration,
    /// Of it in the kernel.
    pub system: Duration,
    /// Periods in which bandwidth ran out.
    pub throttled_periods: u64,
    /// Memory now, bytes; none without the controller.
    pub memory: Option<u64>,
    /// Most memory that there was, bytes.
    pub peak_memory: Option<u64>,
    /// Processes that were killed because there was no memory below the limit.
    pub out_of_memory_kills: u64,
}

/// A group of one machine. Dropping it leaves it as it is.
#[derive(Debug, Clone)]
pub struct Group {
    directory: PathBuf,
    controllers: Controllers,
}

impl Group {
    pub(super) fn new(directory: PathBuf, controllers: Controllers) -> Self {
        Self { directory, controllers }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Moves a process into the group. Memory that it has already stays where it was counted, so this has to be soon.
    pub fn add(&self, pid: i32) -> Result<(), GroupError> {
        write(&self.directory.join("cgroup.procs"), &pid.to_string())
    }

    /// Whether it has that process.
    pub fn has(&self, pid: i32) -> Result<bool, GroupError> {
        Ok(read(&self.directory.join("cgroup.procs"))?.lines().any(|line| line == pid.to_string()))
    }

    /// Sets weight and bandwidth of the machine as a whole; what is not demanded is as usual.
    pub fn limit_cpu(&self, demands: &CpuDemands) -> Result<(), GroupError> {
        let bandwidth = bandwidth(demands.global_period, demands.global_quota);
        if !self.controllers.cpu {
            let demanded = *demands != CpuDemands::default();
            return unlimited_unless(demanded, "processors");
        }
        let weight = demands.shares.unwrap_or(USUAL_WEIGHT);
        if !WEIGHTS.contains(&weight) {
            let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
            return Err(GroupError::Limit(format!("shares '{weight}' must be in range [{least}, {most}]")));
        }
        write(&self.directory.join("cpu.weight"), &weight.to_string())?;
        write(&self.directory.join("cpu.max"), &bandwidth)
    }

    /// Sets the limits of memory; what is not demanded has none.
    pub fn limit_memory(&self, demands: &MemoryDemands) -> Result<(), GroupError> {
        let MemoryDemands { hard_limit, soft_limit, swap_hard_limit } = *demands;
        let swap = match (hard_limit, swap_hard_limit) {
            (_, None) => None,
            (Some(hard), Some(both)) => Some(both.checked_sub(hard).ok_or_else(|| {
                GroupError::Limit("memory hard_limit must not be above swap_hard_limit".to_owned())
            })?),
            (None, Some(_)) => {
                let message = "swap_hard_limit needs a hard_limit: memory and swap are limited apart";
                return Err(GroupError::Limit(message.to_owned()));
            }
        };
        if !self.controllers.memory {
            return unlimited_unless(*demands != MemoryDemands::default(), "memory");
        }
        let value = |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        write(&self.directory.join("memory.high"), &value(soft_limit))?;
        write(&self.directory.join("memory.max"), &value(hard_limit))?;
        let file = self.directory.join("memory.swap.max");
        // Not there on a host that does not count swap, which is no fault as long as nobody limits it.
        if swap.is_some() || file.exists() { write(&file, &value(swap)) } else { Ok(()) }
    }

    /// Sets the bandwidth of each vCPU and of all other threads of the process: all have groups of their own, or none. Threads
    /// that are started later are in the group of the thread that starts them, so vCPUs that are started again (a machine that
    /// reboots has new threads) have to be moved again.
    pub fn limit_threads(&self, demands: &CpuDemands, process: ProcessThreads) -> Result<(), GroupError> {
        if !self.controllers.cpu {
            let CpuDemands { period, quota, emulator_period, emulator_quota, .. } = *demands;
            let demanded = [period, emulator_period].iter().any(Option::is_some)
                || [quota, emulator_quota].iter().any(Option::is_some);
            return unlimited_unless(demanded, "processors");
        }
        let vcpu = bandwidth(demands.period, demands.quota);
        let emulator = bandwidth(demands.emulator_period, demands.emulator_quota);
        let limited = [&vcpu, &emulator].into_iter().any(|bandwidth| !bandwidth.starts_with("max"));
        // Groups that a limit has made stay, with the limit that there is now.
        if !limited && !self.directory.join("emulator").exists() {
            return Ok(());
        }
        // Before any thread: what they start is in their group.
        self.threaded("emulator", &emulator)?;
        let mut moved = BTreeSet::new();
        for _ in 0..MOST_ROUNDS {
            let threads = process.list()?;
            let before = moved.len();
            for thread in threads {
                let (name, value) = match thread.kind {
                    ThreadKind::Vcpu(number) => (format!("vcpu{number}"), &vcpu),
                    ThreadKind::Other => ("emulator".to_owned(), &emulator),
                };
                if moved.insert(thread.id) {
                    self.threaded(&name, value)?.take(thread.id)?;
                }
            }
            if moved.len() == before {
                return Ok(());
            }
        }
        Err(GroupError::Limit("the machine's process starts threads without end".to_owned()))
    }

    /// A group of threads within this one, with a bandwidth.
    fn threaded(&self, name: &str, bandwidth: &str) -> Result<Threaded, GroupError> {
        let directory = self.directory.join(name);
        if !directory.exists() {
            super::make_directory(&directory)?;
            // First this: among groups that are not threaded, one with processes can't hand down controllers.
            write(&directory.join("cgroup.type"), "threaded")?;
            write(&self.directory.join("cgroup.subtree_control"), "+cpu")?;
        }
        write(&directory.join("cpu.max"), bandwidth)?;
        Ok(Threaded(directory))
    }

    /// What the group has used.
    pub fn usage(&self) -> Result<GroupUsage, GroupError> {
        let cpu = read(&self.directory.join("cpu.stat"))?;
        let time = |name| Duration::from_micros(field(&cpu, name).unwrap_or_default());
        let mut usage = GroupUsage {
            time: time("usage_usec"),
            user: time("user_usec"),
            system: time("system_usec"),
            throttled_periods: field(&cpu, "nr_throttled").unwrap_or_default(),
            ..GroupUsage::default()
        };
        if self.controllers.memory {
            // The peak is there from Linux 5.19 on.
            let number = |name: &str| read(&self.directory.join(name)).ok()?.trim().parse().ok();
            (usage.memory, usage.peak_memory) = (number("memory.current"), number("memory.peak"));
            let events = read(&self.directory.join("memory.events"))?;
            usage.out_of_memory_kills = field(&events, "oom_kill").unwrap_or_default();
        }
        Ok(usage)
    }

    /// Ends what is still in the group, and removes it.
    pub fn remove(&self) -> Result<(), GroupError> {
        let events = self.directory.join("cgroup.events");
        let file = match File::open(&events) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(host(&events, "open it")(error)),
        };
        let occupied = || -> Result<bool, GroupError> {
            let mut text = [0; 256];
            // From the file that is watched: what changes after it has been read wakes the watcher.
            let length = file.read_at(&mut text, 0).map_err(host(&events, "read it"))?;
            let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
            Ok(field(&text, "populated") != Some(0))
        };
        let until = Instant::now() + PATIENCE;
        if occupied()? {
            // From Linux 5.14 on; before, whoever left something there has to end it.
            let _ = write(&self.directory.join("cgroup.kill"), "1");
        }
        while occupied()? {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GroupError::Occupied(self.directory.clone()));
            }
            let mut watched = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
            let timeout = Timespec::try_from(left).ok();
            poll(&mut watched, timeout.as_ref()).map_err(|error| host(&events, "watch it")(error.into()))?;
        }
        let within = std::fs::read_dir(&self.directory).map_err(host(&self.directory, "list it"))?;
        for entry in within.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = entry.path();
            std::fs::remove_dir(&path).map_err(host(&path, "remove the group"))?;
        }
        std::fs::remove_dir(&self.directory).map_err(host(&self.directory, "remove the group"))
    }
}

/// A group of threads.
struct Threaded(PathBuf);

impl Threaded {
    fn take(&self, thread: i32) -> Result<(), GroupError> {
        const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();
        match write(&self.0.join("cgroup.threads"), &thread.to_string()) {
            // It has ended.
            Err(GroupError::Host { source, .. }) if source.raw_os_error() == Some(ESRCH) => Ok(()),
            other => other,
        }
    }
}

/// Nothing is limited without a controller, which is as it should be when no limit is wanted.
fn unlimited_unless(demanded: bool, what: &str) -> Result<(), GroupError> {
    if demanded {
        return Err(GroupError::Limit(format!(
            "limits of {what} are not available in the daemon's control group"
        )));
    }
    Ok(())
}

/// What cpu.max says. A negative quota, as none, is no limit.
fn bandwidth(period: Option<u64>, quota: Option<i64>) -> String {
    let period = period.unwrap_or(USUAL_PERIOD);
    match quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0) {
        Some(quota) => format!("{quota} {period}"),
        None => format!("max {period}"),
    }
}

/// A number of a file whose lines are `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod texts {
    use super::*;

    #[test]
    fn bandwidth_is_the_quota_in_a_period_and_none_is_no_limit() {
        assert_eq!(bandwidth(Some(50_000), Some(25_000)), "25000 50000");
        assert_eq!(bandwidth(None, Some(25_000)), "25000 100000");
        for none in [None, Some(-1), Some(0)] {
            assert_eq!(bandwidth(Some(50_000), none), "max 50000");
        }
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "usage_usec 12\nuser_usec 7\nnr_throttled x\n";
        assert_eq!(field(text, "user_usec"), Some(7));
        assert_eq!(field(text, "usec"), None);
        assert_eq!(field(text, "usage"), None);
        assert_eq!(field(text, "nr_throttled"), None);
    }
}
