//! Memory and vCPUs, and how the host's resources are shared out (formatdomain, "CPU Tuning", "Memory Tuning", "NUMA Node Tuning", …).
//!
//! Refused: cache and memory bandwidth allocation (`cachetune`, `memorytune`), fibre channel identifiers.

use crate::model::model;
use crate::size::{Kib, PageSize};
use crate::value::{NumberSet, OnOff, YesNo, words};

words! {
    /// Whether memory is shared with other processes.
    pub enum MemoryAccess { Shared = "shared", Private = "private", }

    /// What memory is made of.
    pub enum MemorySourceType { Anonymous = "anonymous", File = "file", Memfd = "memfd", }

    /// When memory is allocated.
    pub enum AllocationMode { Immediate = "immediate", Ondemand = "ondemand", }

    /// Who places things.
    pub enum Placement { Static = "static", Auto = "auto", }

    /// Schedulers of the host (sched(7)).
    pub enum Scheduler { Fifo = "fifo", Rr = "rr", Batch = "batch", Idle = "idle", }

    /// How memory is bound to nodes.
    pub enum NumaMode {
        Strict = "strict",
        Interleave = "interleave",
        Preferred = "preferred",
        Restrictive = "restrictive",
    }
}

model! {
    /// The memory of a domain.
    pub struct Memory {
        /// Whether it is part of a core dump.
        dump_core: attribute("dumpCore") => Option<OnOff>,
        /// Size.
        size: part => Kib,
    }

    /// How far memory can grow.
    pub struct MaxMemory {
        /// Slots for modules.
        slots: attribute("slots") => Option<u32>,
        /// Size.
        size: part => Kib,
    }

    /// A size of huge pages.
    pub struct HugePage {
        /// Size.
        size: part => PageSize,
        /// Guest cells that use it.
        nodeset: attribute("nodeset") => Option<NumberSet>,
    }

    /// Huge pages; of the default size when none is named.
    pub struct HugePages {
        /// Sizes.
        pages: children("page") => Vec<HugePage>,
    }

    /// What memory is made of.
    pub struct MemoryBackingSource {
        /// Kind.
        kind: required("type") => MemorySourceType,
    }

    /// Whether memory is shared.
    pub struct MemoryBackingAccess {
        /// Whether.
        mode: required("mode") => MemoryAccess,
    }

    /// When memory is allocated.
    pub struct MemoryAllocation {
        /// When.
        mode: attribute("mode") => Option<AllocationMode>,
        /// Threads that do it.
        threads: attribute("threads") => Option<u32>,
    }

    /// What memory is made of.
    pub struct MemoryBacking {
        /// Huge pages.
        hugepages: child("hugepages") => Option<HugePages>,
        /// Pages are not merged with others.
        nosharepages: flag("nosharepages") => bool,
        /// Pages are not swapped out.
        locked: flag("locked") => bool,
        /// Kind.
        source: child("source") => Option<MemoryBackingSource>,
        /// Sharing.
        access: child("access") => Option<MemoryBackingAccess>,
        /// Allocation.
        allocation: child("allocation") => Option<MemoryAllocation>,
        /// Thrown away at the end.
        discard: flag("discard") => bool,
    }

    /// vCPUs.
    pub struct VcpuCount {
        /// Who places them.
        placement: attribute("placement") => Option<Placement>,
        /// CPUs of the host.
        cpuset: attribute("cpuset") => Option<NumberSet>,
        /// How many there are at start; all when absent.
        current: attribute("current") => Option<u32>,
        /// How many there can be.
        count: text => u32,
    }

    /// A vCPU.
    pub struct Vcpu {
        /// Number.
        id: required("id") => u32,
        /// Whether it is there at start.
        enabled: required("enabled") => YesNo,
        /// Whether it can come and go.
        hotpluggable: attribute("hotpluggable") => Option<YesNo>,
        /// Order of coming.
        order: attribute("order") => Option<u32>,
    }

    /// An I/O thread.
    pub struct IoThread {
        /// Number, 1 or above.
        id: required("id") => u32,
        /// Worker threads, at least.
        thread_pool_min: attribute("thread_pool_min") => Option<u32>,
        /// Worker threads, at most.
        thread_pool_max: attribute("thread_pool_max") => Option<u32>,
    }

    /// Worker threads of the main loop.
    pub struct DefaultIoThread {
        /// At least.
        thread_pool_min: attribute("thread_pool_min") => Option<u32>,
        /// At most.
        thread_pool_max: attribute("thread_pool_max") => Option<u32>,
    }

    /// CPUs of the host for a vCPU.
    pub struct VcpuPin {
        /// Its number.
        vcpu: required("vcpu") => u32,
        /// CPUs.
        cpuset: required("cpuset") => NumberSet,
    }

    /// CPUs of the host for everything else of the process.
    pub struct EmulatorPin {
        /// CPUs.
        cpuset: required("cpuset") => NumberSet,
    }

    /// CPUs of the host for an I/O thread.
    pub struct IoThreadPin {
        /// Its number.
        iothread: required("iothread") => u32,
        /// CPUs.
        cpuset: required("cpuset") => NumberSet,
    }

    /// The scheduler of everything else.
    pub struct EmulatorSched {
        /// Which.
        scheduler: required("scheduler") => Scheduler,
        /// Priority of real-time ones, 1 to 99.
        priority: attribute("priority") => Option<i32>,
    }

    /// The scheduler of vCPUs.
    pub struct VcpuSched {
        /// Their numbers.
        vcpus: required("vcpus") => NumberSet,
        /// Which.
        scheduler: required("scheduler") => Scheduler,
        /// Priority of real-time ones, 1 to 99.
        priority: attribute("priority") => Option<i32>,
    }

    /// The scheduler of I/O threads.
    pub struct IoThreadSched {
        /// Their numbers.
        iothreads: required("iothreads") => NumberSet,
        /// Which.
        scheduler: required("scheduler") => Scheduler,
        /// Priority of real-time ones, 1 to 99.
        priority: attribute("priority") => Option<i32>,
    }

    /// CPU time and places. Periods and quotas are microseconds; a negative quota is none.
    pub struct CpuTune {
        /// Weight, 2 to 262144.
        shares: field("shares") => Option<u64>,
        /// Of each vCPU.
        period: field("period") => Option<u64>,
        /// Of each vCPU.
        quota: field("quota") => Option<i64>,
        /// Of the domain.
        global_period: field("global_period") => Option<u64>,
        /// Of the domain.
        global_quota: field("global_quota") => Option<i64>,
        /// Of everything else of the process.
        emulator_period: field("emulator_period") => Option<u64>,
        /// Of everything else of the process.
        emulator_quota: field("emulator_quota") => Option<i64>,
        /// Of each I/O thread.
        iothread_period: field("iothread_period") => Option<u64>,
        /// Of each I/O thread.
        iothread_quota: field("iothread_quota") => Option<i64>,
        /// Places of vCPUs.
        vcpu_pins: children("vcpupin") => Vec<VcpuPin>,
        /// Place of everything else.
        emulator_pin: child("emulatorpin") => Option<EmulatorPin>,
        /// Places of I/O threads.
        iothread_pins: children("iothreadpin") => Vec<IoThreadPin>,
        /// Scheduler of everything else.
        emulator_sched: child("emulatorsched") => Option<EmulatorSched>,
        /// Schedulers of vCPUs.
        vcpu_scheds: children("vcpusched") => Vec<VcpuSched>,
        /// Schedulers of I/O threads.
        iothread_scheds: children("iothreadsched") => Vec<IoThreadSched>,
    }

    /// Limits of memory.
    pub struct MemTune {
        /// At most.
        hard_limit: child("hard_limit") => Option<Kib>,
        /// When the host is short of memory.
        soft_limit: child("soft_limit") => Option<Kib>,
        /// At least.
        min_guarantee: child("min_guarantee") => Option<Kib>,
        /// Memory and swap together.
        swap_hard_limit: child("swap_hard_limit") => Option<Kib>,
    }

    /// Limits of a device of the host.
    pub struct BlkioDevice {
        /// Its node.
        path: field("path") => Option<String>,
        /// Weight, 100 to 1000.
        weight: field("weight") => Option<u32>,
        /// Operations a second.
        read_iops_sec: field("read_iops_sec") => Option<u32>,
        /// Operations a second.
        write_iops_sec: field("write_iops_sec") => Option<u32>,
        /// Bytes a second.
        read_bytes_sec: field("read_bytes_sec") => Option<u64>,
        /// Bytes a second.
        write_bytes_sec: field("write_bytes_sec") => Option<u64>,
    }

    /// Limits of block I/O.
    pub struct BlkioTune {
        /// Weight, 100 to 1000.
        weight: field("weight") => Option<u32>,
        /// Of devices of the host.
        devices: children("device") => Vec<BlkioDevice>,
    }

    /// Where memory is on the host.
    pub struct NumaMemory {
        /// How it is bound.
        mode: attribute("mode") => Option<NumaMode>,
        /// Nodes.
        nodeset: attribute("nodeset") => Option<NumberSet>,
        /// Who places it.
        placement: attribute("placement") => Option<Placement>,
    }

    /// Where a cell's memory is on the host.
    pub struct NumaMemoryNode {
        /// The cell.
        cell_id: required("cellid") => u32,
        /// How it is bound.
        mode: required("mode") => NumaMode,
        /// Nodes.
        nodeset: required("nodeset") => NumberSet,
    }

    /// Places of memory.
    pub struct NumaTune {
        /// Of all cells.
        memory: child("memory") => Option<NumaMemory>,
        /// Of single cells.
        nodes: children("memnode") => Vec<NumaMemoryNode>,
    }

    /// The group of processes that a domain belongs to.
    pub struct Resource {
        /// Path of the partition.
        partition: field("partition") => Option<String>,
    }

    /// A counter of the host.
    pub struct PerfEvent {
        /// Name.
        name: required("name") => String,
        /// Whether it counts.
        enabled: required("enabled") => YesNo,
    }

    /// Counters of the host.
    pub struct Perf {
        /// Which.
        events: children("event") => Vec<PerfEvent>,
    }
}
