//! What a machine has used: as the host counts it, and as the machine's process does.
//!
//! The host's numbers are there at once; those of the process have to be asked for, and a process that hangs, or that its guest
//! has taken over, may answer late or never, or lie about its own devices.

use std::collections::BTreeMap;
use std::time::Duration;

use machine_spec::wire::VmCounters;

use super::ControlClient;
use super::confinement::{Confinement, ConfinementError};
use super::threads::{ProcessThreads, ThreadUsage};

/// What the host has counted of a machine's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Of all threads together.
    pub all: ThreadUsage,
    /// Of the threads of vCPUs, by number.
    pub vcpus: BTreeMap<u32, ThreadUsage>,
    /// Memory of the host, bytes.
    pub resident: u64,
}

impl ProcessUsage {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The process is not there any more, or the kernel speaks in riddles.
    pub fn read(pid: i32, confinement: &Confinement) -> Result<Self, ConfinementError> {
        let threads = ProcessThreads::of(pid);
        let mut vcpus = BTreeMap::new();
        for (number, thread) in threads.vcpus()? {
            match threads.usage_of(thread) {
                Ok(usage) => vcpus.insert(number, usage),
                // It has ended since.
                Err(error) if error.is_end() => continue,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(Self { all: confinement.usage(pid)?, vcpus, resident: threads.resident_bytes()? })
    }
}

/// What a disk has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Reads.
    pub reads: u64,
    /// Bytes that they transferred.
    pub read_bytes: u64,
    /// Time that they took, nanoseconds.
    pub read_time: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes that they transferred.
    pub write_bytes: u64,
    /// Time that they took, nanoseconds.
    pub write_time: u64,
    /// Flushes.
    pub flushes: u64,
    /// Time that they took, nanoseconds.
    pub flush_time: u64,
    /// Requests that failed.
    pub errors: u64,
}

impl DiskUsage {
    /// Of two disks together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            reads: self.reads.saturating_add(other.reads),
            read_bytes: self.read_bytes.saturating_add(other.read_bytes),
            read_time: self.read_time.saturating_add(other.read_time),
            writes: self.writes.saturating_add(other.writes),
            write_bytes: self.write_bytes.saturating_add(other.write_bytes),
            write_time: self.write_time.saturating_add(other.write_time),
            flushes: self.flushes.saturating_add(other.flushes),
            flush_time: self.flush_time.saturating_add(other.flush_time),
            errors: self.errors.saturating_add(other.errors),
        }
    }
}

/// What a machine's devices have counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct DeviceUsage(VmCounters);

impl DeviceUsage {
    /// Asks the process; nothing if it does not answer in time, or not with counters.
    pub async fn ask(control: &ControlClient, patience: Duration) -> Option<Self> {
        let answer = tokio::time::timeout(patience, control.get("vm.counters")).await.ok()?.ok()?;
        serde_json::from_value(answer).ok()
    }

    /// What the balloon has done, if there is one.
    pub fn balloon(&self) -> Option<BalloonUsage<'_>> {
        self.0.get("_balloon").map(BalloonUsage)
    }

    /// What the disk with that identifier has done.
    pub fn disk(&self, id: &str) -> Option<DiskUsage> {
        let counters = self.0.get(id)?;
        let number = |name: &str| counters.get(name).copied().unwrap_or_default();
        Some(DiskUsage {
            reads: number("read_ops"),
            read_bytes: number("read_bytes"),
            read_time: number("read_nanoseconds"),
            writes: number("write_ops"),
            write_bytes: number("write_bytes"),
            write_time: number("write_nanoseconds"),
            flushes: number("flush_ops"),
            flush_time: number("flush_nanoseconds"),
            errors: number("errors"),
        })
    }
}

/// What a balloon has done, and what its guest says of its memory. Names of figures are those of `vm.counters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalloonUsage<'a>(&'a BTreeMap<String, u64>);

impl BalloonUsage<'_> {
    /// How much is in the balloon, bytes.
    pub fn actual_bytes(&self) -> Option<u64> {
        self.figure("actual_bytes")
    }

    /// How long ago the guest told its figures; nothing if it has not.
    pub fn age(&self) -> Option<Duration> {
        self.figure("statistics_age_ms").map(Duration::from_millis)
    }

    /// A figure of the guest's: bytes, or a count.
    pub fn figure(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::machine_process::confinement::Limits;
    use crate::machine_process::stand_in::{StandIn, Work};

    fn devices(counters: serde_json::Value) -> Option<DeviceUsage> {
        serde_json::from_value(counters).ok()
    }

    #[test]
    fn a_disk_has_its_own_counters_and_those_that_are_missing_are_nothing() {
        let devices = devices(json!({
            "vda": { "read_ops": 2, "read_bytes": 1024, "read_nanoseconds": 7, "write_ops": 1, "write_bytes": 512,
                     "write_nanoseconds": 5, "flush_ops": 3, "flush_nanoseconds": 9, "errors": 4, "more": 1 },
            "vdb": { "read_ops": u64::MAX },
        }))
        .unwrap();
        let first = DiskUsage {
            reads: 2,
            read_bytes: 1024,
            read_time: 7,
            writes: 1,
            write_bytes: 512,
            write_time: 5,
            flushes: 3,
            flush_time: 9,
            errors: 4,
        };
        assert_eq!(devices.disk("vda"), Some(first));
        let second = devices.disk("vdb").unwrap();
        assert_eq!(second, DiskUsage { reads: u64::MAX, ..DiskUsage::default() });
        assert_eq!(first.with(second), DiskUsage { reads: u64::MAX, ..first });
        assert_eq!(devices.disk("vdc"), None);
    }

    #[test]
    fn what_is_no_counter_is_no_answer() {
        for answer in [json!(null), json!([]), json!({ "vda": 1 }), json!({ "vda": { "reads": -1 } })] {
            assert_eq!(devices(answer), None);
        }
    }

    #[tokio::test]
    async fn a_process_that_hangs_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let _hangs = std::os::unix::net::UnixListener::bind(directory.path().join("api")).unwrap();
        let control = ControlClient::new(directory.path().join("api"));
        assert_eq!(DeviceUsage::ask(&control, Duration::from_millis(20)).await, None);
        let nobody = ControlClient::new(directory.path().join("nothing"));
        assert_eq!(DeviceUsage::ask(&nobody, Duration::from_secs(60)).await, None);
    }

    #[test]
    fn the_host_counts_vcpus_and_memory() {
        let machine = StandIn::start(Work::Busy);
        let confinement = Limits::none("a test").reopen("a", machine.pid());
        let usage = ProcessUsage::read(machine.pid(), &confinement).unwrap();
        assert_eq!(usage.vcpus.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert!(usage.resident > 0);
        drop(machine);
    }
}
