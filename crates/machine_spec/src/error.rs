//! Why a description is refused.

use std::path::PathBuf;

use crate::wire::MacAddress;

/// Why a description is refused: one line with the object, the option, the reason and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing to boot.
    #[error(
        "no kernel and no firmware: a machine needs one to boot, give its path with --kernel (payload.kernel) or --firmware (payload.firmware)"
    )]
    NothingToBoot,
    /// Firmware is not told of a kernel.
    #[error(
        "kernel and firmware: firmware boots from disks or the network and is not told of a kernel: leave --kernel or --firmware out"
    )]
    KernelAndFirmware,
    /// Something for a kernel or firmware that is not there.
    #[error("{option} without {needs}: give --{needs}, or leave --{option} out")]
    Without {
        /// What was given.
        option: &'static str,
        /// What it is for.
        needs: &'static str,
    },
    /// A kernel command line with a character that would end it or that cannot be in it.
    #[error("kernel command line: it has a control character at byte {position}: remove it")]
    CommandLine {
        /// Where, from 0.
        position: usize,
    },
    /// A number of vCPUs that cannot be.
    #[error("cpus: {count} vCPUs are not possible: ask for 1 to {}", crate::spec::MAX_CPUS)]
    CpuCount {
        /// What was asked.
        count: u32,
    },
    /// A machine that could get more vCPUs later.
    #[error(
        "cpus: max {max} is not boot {boot}, and vCPUs cannot be added later: make them equal or leave max out"
    )]
    CpuHotplug {
        /// vCPUs at start.
        boot: u32,
        /// vCPUs at most.
        max: u32,
    },
    /// An arrangement that does not match the number.
    #[error(
        "cpus: topology {topology} makes {product} vCPUs, not {count}: make threads x cores x dies x sockets equal to the number of vCPUs"
    )]
    Topology {
        /// As it is written in an option.
        topology: String,
        /// vCPUs in it.
        product: u64,
        /// vCPUs asked for.
        count: u32,
    },
    /// Too little memory.
    #[error("memory: {bytes} bytes are too few for a guest: ask for at least 64M")]
    MemoryTooSmall {
        /// What was asked.
        bytes: u64,
    },
    /// More memory than the guest's physical address space has room for.
    #[error("memory: {bytes} bytes are more than a guest can address: ask for at most 8T")]
    MemoryTooLarge {
        /// What was asked.
        bytes: u64,
    },
    /// A size that does not fill whole pages.
    #[error("memory: {bytes} bytes are not a multiple of {} MiB: round up to {}M", page_bytes >> 20,
        bytes.next_multiple_of(*page_bytes) >> 20)]
    MemoryUnaligned {
        /// What was asked.
        bytes: u64,
        /// What it must be a multiple of.
        page_bytes: u64,
    },
    /// A huge page size that the processor does not have.
    #[error("memory: hugepage_size {bytes} does not exist on x86-64: use 2M or 1G")]
    HugepageSize {
        /// What was asked.
        bytes: u64,
    },
    /// Options that exclude each other or need each other.
    #[error("{object}: {conflict}: {advice}")]
    Conflict {
        /// On what.
        object: String,
        /// What does not go together.
        conflict: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// An option that must be there is not.
    #[error("{object}: no {option}: {advice}")]
    Missing {
        /// On what.
        object: String,
        /// What is missing.
        option: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A value out of its bounds.
    #[error("{object}: {option} {value:?} {reason}: {advice}")]
    Value {
        /// On what.
        object: String,
        /// Which option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Two devices have the same identifier.
    #[error("id {id:?} is used by two devices: give each its own")]
    DuplicateId {
        /// The identifier.
        id: String,
    },
    /// Two disks use the same image and one of them writes.
    #[error("{object}: image {path:?} is already used by {other}: use another image, or make both readonly")]
    DuplicateDisk {
        /// The second one.
        object: String,
        /// The first one.
        other: String,
        /// What both use.
        path: PathBuf,
    },
    /// Two interfaces have the same address.
    #[error("{object}: mac {mac} is already used by {other}: give each interface its own, or leave it out")]
    DuplicateMac {
        /// The second one.
        object: String,
        /// The first one.
        other: String,
        /// What both have.
        mac: MacAddress,
    },
    /// Two devices use the same thing of the host.
    #[error("{object}: {resource} is already used by {other}: give each device its own")]
    DuplicateResource {
        /// The second one.
        object: String,
        /// The first one.
        other: String,
        /// What both use.
        resource: String,
    },
    /// The terminal is asked for twice.
    #[error(
        "{object}: {other} has the terminal already and input goes to one device only: use pty, socket=PATH or file=PATH"
    )]
    TwoTerminals {
        /// The second one.
        object: String,
        /// The first one.
        other: String,
    },
}
