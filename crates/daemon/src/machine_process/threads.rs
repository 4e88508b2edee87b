//! The threads of a machine's process: which they are, what they have used, and on which processors they may run.
//!
//! vCPU threads are called `vcpuN`; everything else is an other. A process that its guest has taken over may call its threads
//! whatever it likes and start as many as it may: the first of a name counts, and no more than [`MOST_THREADS`] are looked at. It
//! only misleads about itself: a thread is known by its number within /proc/PID/task.
//!
//! Source: proc(5): /proc/PID/stat, /proc/PID/statm; Documentation/scheduler/sched-stats.rst of Linux: /proc/PID/schedstat.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use libvirt_xml::NumberSet;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Most threads of a process that are looked at: as many as the largest machine has vCPUs, and some.
pub const MOST_THREADS: usize = 4096;

/// Clock ticks a second in /proc/PID/stat: USER_HZ, which never differs on x86.
const TICKS_A_SECOND: u64 = 100;

/// Why something about threads is not known or not done.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// A file of the process.
    #[error("{path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file says what it should not.
    #[error("{path}: {what}", path = path.display())]
    Senseless {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// More than are looked at.
    #[error("process {0} has more than {MOST_THREADS} threads")]
    TooMany(i32),
    /// Processors can't be chosen.
    #[error("cannot set the processors of thread {thread} to {places}: {source}")]
    Places {
        /// The thread.
        thread: i32,
        /// Which were wanted.
        places: String,
        /// Why.
        source: io::Error,
    },
}

impl ThreadError {
    /// It is not there any more.
    pub fn is_end(&self) -> bool {
        let source = match self {
            Self::Unreadable { source, .. } | Self::Places { source, .. } => source,
            Self::Senseless { .. } | Self::TooMany(_) => return false,
        };
        source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(ENDED)
    }
}

/// ESRCH, which is also how the kernel answers for a thread that ends while it is looked at.
const ENDED: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThreadKind {
    /// It runs that vCPU.
    Vcpu(u32),
    /// Anything else.
    Other,
}

/// A thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub id: i32,
    /// What it does.
    pub kind: ThreadKind,
}

/// What a thread or a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Time on processors.
    pub time: Duration,
    /// Of it in the program and the guest, in steps of 10 ms.
    pub user: Duration,
    /// Of it in the kernel, in steps of 10 ms.
    pub system: Duration,
    /// Time in which it could have run and had no processor; none of a process as a whole.
    pub delay: Option<Duration>,
    /// The processor that it was on last.
    pub processor: u32,
    /// It is on a processor, or waits for one.
    pub runnable: bool,
}

/// The threads of a process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessThreads {
    pid: i32,
}

impl ProcessThreads {
    /// Of the process with that number.
    pub fn of(pid: i32) -> Self {
        Self { pid }
    }

    /// All threads, the oldest first. One that ends meanwhile may be among them.
    pub fn list(self) -> Result<Vec<Thread>, ThreadError> {
        let directory = PathBuf::from(format!("/proc/{}/task", self.pid));
        let unreadable = |source| ThreadError::Unreadable { path: directory.clone(), source };
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(unreadable)? {
            // A process that ends while it is listed has no more threads.
            let Ok(entry) = entry else { break };
            ids.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
            if ids.len() > MOST_THREADS {
                return Err(ThreadError::TooMany(self.pid));
            }
        }
        ids.sort_unstable();
        let mut seen = BTreeSet::new();
        let thread = |id| {
            let name = std::fs::read_to_string(directory.join(format!("{id}/comm"))).ok()?;
            let vcpu = vcpu_number(name.trim_end()).filter(|number| seen.insert(*number));
            Some(Thread { id, kind: vcpu.map_or(ThreadKind::Other, ThreadKind::Vcpu) })
        };
        Ok(ids.into_iter().filter_map(thread).collect())
    }

    /// The threads of vCPUs, by number.
    pub fn vcpus(self) -> Result<Vec<(u32, i32)>, ThreadError> {
        let vcpu = |thread: Thread| match thread.kind {
            ThreadKind::Vcpu(number) => Some((number, thread.id)),
            ThreadKind::Other => None,
        };
        let mut vcpus: Vec<_> = self.list()?.into_iter().filter_map(vcpu).collect();
        vcpus.sort_unstable();
        Ok(vcpus)
    }

    /// What all threads have used, those that have ended included.
    pub fn usage(self) -> Result<ThreadUsage, ThreadError> {
        usage(&PathBuf::from(format!("/proc/{}", self.pid)))
    }

    /// What one thread has used.
    pub fn usage_of(self, thread: i32) -> Result<ThreadUsage, ThreadError> {
        let directory = PathBuf::from(format!("/proc/{}/task/{thread}", self.pid));
        let mut usage = usage(&directory)?;
        let path = directory.join("schedstat");
        // Not there in kernels without CONFIG_SCHED_INFO.
        if let Ok(text) = std::fs::read_to_string(&path) {
            let (time, delay) =
                schedstat(&text).ok_or(ThreadError::Senseless { path, what: "it is not three numbers" })?;
            (usage.time, usage.delay) = (time, Some(delay));
        }
        Ok(usage)
    }

    /// Memory of the process that is in the host's memory, bytes; the guest's included, but for huge pages.
    pub fn resident_bytes(self) -> Result<u64, ThreadError> {
        let path = PathBuf::from(format!("/proc/{}/statm", self.pid));
        let text = read(&path)?;
        let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let pages = pages.ok_or(ThreadError::Senseless { path, what: "it has no resident size" })?;
        Ok(pages.saturating_mul(rustix::param::page_size() as u64))
    }

    /// Lets a thread run on these processors only. Those that the host does not have are left out by the kernel.
    pub fn place(self, thread: i32, places: &NumberSet) -> Result<(), ThreadError> {
        let failed = |source: io::Error| ThreadError::Places { thread, places: places.to_string(), source };
        let mut set = CpuSet::new();
        for processor in places.iter() {
            let processor = usize::try_from(processor).unwrap_or(usize::MAX);
            if processor >= CpuSet::MAX_CPU {
                return Err(failed(io::Error::other(format!(
                    "processors above {} are not supported",
                    CpuSet::MAX_CPU - 1
                ))));
            }
            set.set(processor);
        }
        match sched_setaffinity(Some(self.number(thread).map_err(failed)?), &set) {
            Err(rustix::io::Errno::INVAL) => {
                Err(failed(io::Error::other("the host has none of them, or keeps them from its group")))
            }
            other => other.map_err(|error| failed(error.into())),
        }
    }

    /// The processors that a thread may run on.
    pub fn places(self, thread: i32) -> Result<NumberSet, ThreadError> {
        let path = PathBuf::from(format!("/proc/{}/task/{thread}", self.pid));
        let unreadable = |source| ThreadError::Unreadable { path: path.clone(), source };
        let set = sched_getaffinity(Some(self.number(thread).map_err(unreadable)?))
            .map_err(|error| ThreadError::Unreadable { path: path.clone(), source: error.into() })?;
        Ok((0..CpuSet::MAX_CPU)
            .filter(|processor| set.is_set(*processor))
            .filter_map(|processor| u32::try_from(processor).ok())
            .collect())
    }

    /// The thread as the kernel's calls take it, if it is one of the process.
    fn number(self, thread: i32) -> io::Result<Pid> {
        let ended = || io::Error::from_raw_os_error(ENDED);
        let there = std::path::Path::new(&format!("/proc/{}/task/{thread}", self.pid)).exists();
        let number = if there && thread > 0 { Pid::from_raw(thread) } else { None };
        number.ok_or_else(ended)
    }
}

/// N of `vcpuN`.
fn vcpu_number(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix("vcpu")?.parse().ok()?;
    // As it is written, so that +1 and 01 are no second 1.
    (number.to_string() == name["vcpu".len()..]).then_some(number)
}

fn read(path: &std::path::Path) -> Result<String, ThreadError> {
    std::fs::read_to_string(path).map_err(|source| ThreadError::Unreadable { path: path.to_owned(), source })
}

fn usage(directory: &std::path::Path) -> Result<ThreadUsage, ThreadError> {
    let path = directory.join("stat");
    stat(&read(&path)?).ok_or(ThreadError::Senseless { path, what: "it has too few fields" })
}

/// Fields 3 (state), 14 and 15 (time) and 39 (processor).
fn stat(text: &str) -> Option<ThreadUsage> {
    // The second field, the name, may hold anything; the third follows its last parenthesis.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |number: usize| -> Option<Duration> {
        let ticks: u64 = fields.get(number - 3)?.parse().ok()?;
        Some(Duration::from_millis(ticks.checked_mul(1000 / TICKS_A_SECOND)?))
    };
    let (user, system) = (ticks(14)?, ticks(15)?);
    Some(ThreadUsage {
        time: user.checked_add(system)?,
        user,
        system,
        delay: None,
        processor: fields.get(39 - 3)?.parse().ok()?,
        runnable: *fields.first()? == "R",
    })
}

/// Time on processors and time of waiting for one, both nanoseconds.
fn schedstat(text: &str) -> Option<(Duration, Duration)> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().map(Duration::from_nanos));
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests;
