//! What running machines have used, in libvirt's words.
//!
//! Numbers are libvirt's: times are nanoseconds, memory is KiB, of disks and interfaces bytes. What nobody knows (a process that
//! does not answer, a kernel without the file) is left out of lists, and refused where a procedure is about nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use host_tune::InterfaceStatistics;
use libvirt_rpc::types::{TypedParam, TypedValue};

use crate::machine_process::threads::ThreadUsage;
use crate::machine_process::usage::{BalloonUsage, DiskUsage, ProcessUsage};

/// VIR_VCPU_RUNNING: a vCPU that is there, whether or not it has something to do.
pub(super) const VCPU_RUNNING: i32 = 1;

/// A time, nanoseconds.
pub(super) fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn number(name: impl Into<String>, value: u64) -> TypedParam {
    TypedParam::new(name, TypedValue::ULLong(value))
}

/// The group `cpu` of domain statistics.
pub(super) fn processors(usage: &ThreadUsage, params: &mut Vec<TypedParam>) {
    params.push(number("cpu.time", nanoseconds(usage.time)));
    params.push(number("cpu.user", nanoseconds(usage.user)));
    params.push(number("cpu.system", nanoseconds(usage.system)));
    // Caches are not shared out.
    params.push(TypedParam::new("cpu.cache.monitor.count", TypedValue::UInt(0)));
}

/// What virDomainGetCPUStats tells of all processors together.
pub(super) fn total(usage: &ThreadUsage) -> Vec<TypedParam> {
    vec![
        number("cpu_time", nanoseconds(usage.time)),
        number("user_time", nanoseconds(usage.user)),
        number("system_time", nanoseconds(usage.system)),
    ]
}

/// vCPUs of the group `vcpu`.
pub(super) fn vcpus(usage: &ProcessUsage, params: &mut Vec<TypedParam>) {
    for (vcpu, usage) in &usage.vcpus {
        params.push(TypedParam::new(format!("vcpu.{vcpu}.state"), TypedValue::Int(VCPU_RUNNING)));
        params.push(number(format!("vcpu.{vcpu}.time"), nanoseconds(usage.time)));
        params.extend(usage.delay.map(|delay| number(format!("vcpu.{vcpu}.delay"), nanoseconds(delay))));
    }
}

/// A disk of the group `block`.
pub(super) fn disk(at: usize, usage: &DiskUsage, params: &mut Vec<TypedParam>) {
    let fields = [
        ("rd.reqs", usage.reads),
        ("rd.bytes", usage.read_bytes),
        ("rd.times", usage.read_time),
        ("wr.reqs", usage.writes),
        ("wr.bytes", usage.write_bytes),
        ("wr.times", usage.write_time),
        ("fl.reqs", usage.flushes),
        ("fl.times", usage.flush_time),
    ];
    params.extend(fields.map(|(name, value)| number(format!("block.{at}.{name}"), value)));
}

/// What virDomainBlockStatsFlags tells of a disk.
pub(super) fn disk_parameters(usage: &DiskUsage) -> Vec<TypedParam> {
    let signed = |name: &str, value: u64| TypedParam::new(name, TypedValue::LLong(signed(value)));
    vec![
        signed("wr_bytes", usage.write_bytes),
        signed("wr_operations", usage.writes),
        signed("rd_bytes", usage.read_bytes),
        signed("rd_operations", usage.reads),
        signed("flush_operations", usage.flushes),
        signed("wr_total_times", usage.write_time),
        signed("rd_total_times", usage.read_time),
        signed("flush_total_times", usage.flush_time),
        signed("errs", usage.errors),
    ]
}

/// What a guest tells of its memory: virDomainMemoryStatTags, the counter, the name in the group `balloon`, and how many of the
/// counter's units are one: libvirt's are KiB and events.
const GUEST_MEMORY: [(i32, &str, &str, u64); 10] = [
    (0, "swap_in", "swap_in", 1024),
    (1, "swap_out", "swap_out", 1024),
    (2, "major_faults", "major_fault", 1),
    (3, "minor_faults", "minor_fault", 1),
    (4, "free_memory", "unused", 1024),
    (5, "total_memory", "available", 1024),
    (8, "available_memory", "usable", 1024),
    (10, "disk_caches", "disk_caches", 1024),
    (11, "hugetlb_allocations", "hugetlb_pgalloc", 1),
    (12, "hugetlb_failures", "hugetlb_pgfail", 1),
];

/// VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE, seconds since 1970.
const LAST_UPDATE: (i32, &str) = (9, "last-update");

/// What a guest has told of its memory, as tag, name in the group `balloon`, and value.
pub(super) fn guest_memory(usage: &BalloonUsage<'_>, now: SystemTime) -> Vec<(i32, &'static str, u64)> {
    let told = GUEST_MEMORY.into_iter().filter_map(|(tag, counter, name, unit)| {
        Some((tag, name, usage.figure(counter)?.checked_div(unit)?))
    });
    let updated = usage.age().and_then(|age| now.checked_sub(age)?.duration_since(UNIX_EPOCH).ok());
    let updated = updated.map(|time| (LAST_UPDATE.0, LAST_UPDATE.1, time.as_secs()));
    told.chain(updated).collect()
}

/// An interface of the group `net`, as its guest sees it.
pub(super) fn interface(at: usize, usage: &InterfaceStatistics, params: &mut Vec<TypedParam>) {
    let fields = [
        ("rx.bytes", usage.rx_bytes),
        ("rx.pkts", usage.rx_packets),
        ("rx.errs", usage.rx_errors),
        ("rx.drop", usage.rx_dropped),
        ("tx.bytes", usage.tx_bytes),
        ("tx.pkts", usage.tx_packets),
        ("tx.errs", usage.tx_errors),
        ("tx.drop", usage.tx_dropped),
    ];
    params.extend(fields.map(|(name, value)| number(format!("net.{at}.{name}"), value)));
}

/// A number where the protocol has signed ones; a process may say what it likes.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine_process::usage::DeviceUsage;

    fn texts(params: &[TypedParam]) -> Vec<String> {
        let text = |param: &TypedParam| match &param.value {
            TypedValue::Int(value) => format!("{}={value}", param.field),
            TypedValue::UInt(value) => format!("{}={value}u", param.field),
            TypedValue::LLong(value) => format!("{}={value}l", param.field),
            TypedValue::ULLong(value) => format!("{}={value}", param.field),
            other => format!("{other:?}"),
        };
        params.iter().map(text).collect()
    }

    fn thread(milliseconds: u64, delay: Option<u64>) -> ThreadUsage {
        ThreadUsage {
            time: Duration::from_millis(milliseconds),
            user: Duration::from_millis(2),
            system: Duration::from_millis(1),
            delay: delay.map(Duration::from_nanos),
            processor: 3,
            runnable: true,
        }
    }

    #[test]
    fn processors_and_vcpus_have_libvirts_names() {
        let mut params = Vec::new();
        processors(&thread(5, None), &mut params);
        let usage = ProcessUsage {
            all: thread(5, None),
            vcpus: [(0, thread(4, Some(7))), (2, thread(1, None))].into(),
            resident: 4096,
        };
        vcpus(&usage, &mut params);
        let expected = [
            "cpu.time=5000000",
            "cpu.user=2000000",
            "cpu.system=1000000",
            "cpu.cache.monitor.count=0u",
            "vcpu.0.state=1",
            "vcpu.0.time=4000000",
            "vcpu.0.delay=7",
            "vcpu.2.state=1",
            "vcpu.2.time=1000000",
        ];
        assert_eq!(texts(&params), expected);
        assert_eq!(
            texts(&total(&usage.all)),
            ["cpu_time=5000000", "user_time=2000000", "system_time=1000000"]
        );
    }

    #[test]
    fn what_a_guest_tells_of_its_memory_is_in_libvirts_units() {
        let counters = serde_json::json!({ "_balloon": {
            "actual_bytes": 4096, "target_bytes": 8192, "free_memory": 10 << 20, "total_memory": u64::MAX,
            "swap_in": 2047, "major_faults": 7, "statistics_age_ms": 2500, "unknown": 1,
        } });
        let devices: DeviceUsage = serde_json::from_value(counters).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let told = guest_memory(&devices.balloon().unwrap(), now);
        let expected = [
            (0, "swap_in", 1),
            (2, "major_fault", 7),
            (4, "unused", 10 << 10),
            (5, "available", u64::MAX / 1024),
            (9, "last-update", 997),
        ];
        assert_eq!(told, expected);
        let silent = serde_json::json!({ "_balloon": { "actual_bytes": 0, "statistics_age_ms": u64::MAX } });
        let devices: DeviceUsage = serde_json::from_value(silent).unwrap();
        assert_eq!(guest_memory(&devices.balloon().unwrap(), now), []);
        assert!(DeviceUsage::default().balloon().is_none());
    }

    #[test]
    fn disks_and_interfaces_have_libvirts_names() {
        let usage = DiskUsage {
            reads: 1,
            read_bytes: 2,
            read_time: 3,
            writes: 4,
            write_bytes: 5,
            write_time: 6,
            flushes: 7,
            flush_time: 8,
            errors: u64::MAX,
        };
        let mut params = Vec::new();
        disk(2, &usage, &mut params);
        let expected = [
            "rd.reqs=1",
            "rd.bytes=2",
            "rd.times=3",
            "wr.reqs=4",
            "wr.bytes=5",
            "wr.times=6",
            "fl.reqs=7",
            "fl.times=8",
        ];
        assert_eq!(texts(&params), expected.map(|text| format!("block.2.{text}")));
        let params = disk_parameters(&usage);
        let expected = [
            "wr_bytes=5l",
            "wr_operations=4l",
            "rd_bytes=2l",
            "rd_operations=1l",
            "flush_operations=7l",
            "wr_total_times=6l",
            "rd_total_times=3l",
            "flush_total_times=8l",
            "errs=9223372036854775807l",
        ];
        assert_eq!(texts(&params), expected);
        let usage = InterfaceStatistics { rx_bytes: 1, tx_dropped: 2, ..InterfaceStatistics::default() };
        let mut params = Vec::new();
        interface(0, &usage, &mut params);
        assert_eq!(texts(&params)[0], "net.0.rx.bytes=1");
        assert_eq!(texts(&params)[7], "net.0.tx.drop=2");
    }
}
