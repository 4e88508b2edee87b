//! What the VMM tells about itself and its machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::VmConfig;
use super::unsupported::wire_object;

/// Answer to `vmm.ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmPingResponse {
    /// Version with whatever tells builds of it apart.
    pub build_version: String,
    /// Version.
    pub version: String,
    /// Process identifier of the VMM.
    pub pid: i64,
    /// Optional parts that this build has.
    pub features: Vec<String>,
}

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Described, not running yet.
    Created,
    /// vCPUs run.
    Running,
    /// Stopped; can be booted again.
    Shutdown,
    /// vCPUs are stopped, devices drained.
    Paused,
}

/// Answer to `vm.info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmInfo {
    /// The machine as it was built: every default filled in. The `file` of a character device in mode `Pty` is the path
    /// of its pseudo-terminal.
    pub config: VmConfig,
    /// Where the machine is in its life.
    pub state: VmState,
    /// Guest memory in bytes, without what its balloon holds.
    #[serde(default)]
    pub memory_actual_size: u64,
}

wire_object! {
    /// New sizes for a running machine.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct VmResize {
        /// How much of its memory the guest is to give back to the host, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub desired_balloon: Option<u64>,
        /// How often the guest's figures are renewed from now on, in seconds, as in [`super::BalloonConfig`] (an addition to
        /// Cloud Hypervisor's API).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub balloon_statistics_period: Option<u32>,
    }
    unsupported {
        desired_vcpus,
        desired_ram,
    }
}

/// The cable of a network interface of a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSetLink {
    /// The interface's identifier.
    pub id: String,
    /// Whether it is plugged in from now on.
    pub up: bool,
}

/// Answer to `vm.counters`: device identifier, counter, value since the device was built; of
/// disks, since the machine was first booted.
pub type VmCounters = BTreeMap<String, BTreeMap<String, u64>>;
