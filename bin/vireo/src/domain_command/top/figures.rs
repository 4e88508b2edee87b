//! What domains use: from the daemon's counters to rates, and their history.
//!
//! Names of counters: libvirt's virConnectGetAllDomainStats. Counters are the daemon's word: those that go backwards, as after a
//! restart of the machine, make no rate.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use libvirt_rpc::types::{DomainStatsRecord, RemoteDomain, TypedValue};

use crate::domain_command::state::State;

/// Samples that are remembered.
pub(super) const HISTORY: usize = 20;

/// What a domain counts at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counters {
    cpu_ns: u64,
    disk_bytes: [u64; 2],
    net_bytes: [u64; 2],
}

/// Something that changes all the time, and how it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Figure {
    pub(super) now: f64,
    pub(super) history: VecDeque<f64>,
}

impl Figure {
    fn push(&mut self, value: f64) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(value);
        self.now = value;
    }
}

/// A domain.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    pub(super) domain: RemoteDomain,
    pub(super) state: State,
    pub(super) vcpus: u64,
    /// Percent of one processor.
    pub(super) cpu: Figure,
    /// KiB that the host gives.
    pub(super) memory: Figure,
    /// KiB that the machine has.
    pub(super) memory_max: u64,
    /// Bytes a second, read and written together.
    pub(super) disk: Figure,
    /// Bytes a second, received and sent.
    pub(super) net: Figure,
    /// The parts of the two: read and written, received and sent.
    pub(super) parts: [f64; 4],
    counters: Counters,
}

/// All of them, by UUID.
#[derive(Debug, Default)]
pub(super) struct Figures {
    domains: BTreeMap<[u8; 16], Usage>,
    taken: Option<Instant>,
}

impl Figures {
    /// Takes the next sample in; domains that are not in it any more are forgotten.
    pub(super) fn take(&mut self, records: &[DomainStatsRecord], now: Instant) {
        let elapsed = self.taken.replace(now).map(|before| now.duration_since(before).as_secs_f64());
        let mut before = std::mem::take(&mut self.domains);
        for record in records {
            let old = before.remove(&record.dom.uuid.0);
            self.domains.insert(record.dom.uuid.0, usage(record, old, elapsed));
        }
    }

    /// Every domain.
    pub(super) fn all(&self) -> impl Iterator<Item = &Usage> {
        self.domains.values()
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates for people have few digits")]
fn usage(record: &DomainStatsRecord, old: Option<Usage>, elapsed: Option<f64>) -> Usage {
    let number = |name: &str| value(record, name).unwrap_or(0);
    let sum = |group: &str, name: &str| {
        record
            .params
            .iter()
            .filter(|param| {
                let rest = param.field.strip_prefix(group).and_then(|rest| rest.split_once('.'));
                rest.is_some_and(|(index, field)| index.parse::<u32>().is_ok() && field == name)
            })
            .fold(0u64, |sum, param| sum.saturating_add(as_u64(&param.value).unwrap_or(0)))
    };
    let counters = Counters {
        cpu_ns: number("cpu.time"),
        disk_bytes: [sum("block.", "rd.bytes"), sum("block.", "wr.bytes")],
        net_bytes: [sum("net.", "rx.bytes"), sum("net.", "tx.bytes")],
    };
    let state = State::from_number(i32::try_from(number("state.state")).unwrap_or(-1));
    let (mut cpu, mut memory, mut disk, mut net, then) = match old {
        Some(old) => (old.cpu, old.memory, old.disk, old.net, Some(old.counters)),
        None => Default::default(),
    };
    let rate = |new: u64, of: fn(&Counters) -> u64| match (then, elapsed) {
        (Some(then), Some(elapsed)) if elapsed > 0.0 => {
            // A counter that goes backwards is another machine's.
            new.checked_sub(of(&then)).map_or(0.0, |more| more as f64 / elapsed)
        }
        _ => 0.0,
    };
    let parts = [
        rate(counters.disk_bytes[0], |then| then.disk_bytes[0]),
        rate(counters.disk_bytes[1], |then| then.disk_bytes[1]),
        rate(counters.net_bytes[0], |then| then.net_bytes[0]),
        rate(counters.net_bytes[1], |then| then.net_bytes[1]),
    ];
    cpu.push(rate(counters.cpu_ns, |then| then.cpu_ns) / 1e7);
    let resident = value(record, "balloon.rss").or_else(|| value(record, "balloon.current"));
    memory.push(if state.is_active() { resident.unwrap_or(0) as f64 } else { 0.0 });
    disk.push(parts[0] + parts[1]);
    net.push(parts[2] + parts[3]);
    Usage {
        domain: record.dom.clone(),
        state,
        vcpus: number("vcpu.current"),
        cpu,
        memory,
        memory_max: number("balloon.maximum"),
        disk,
        net,
        parts,
        counters,
    }
}

fn value(record: &DomainStatsRecord, name: &str) -> Option<u64> {
    record.params.iter().find(|param| param.field == name).and_then(|param| as_u64(&param.value))
}

/// Numbers that are not negative.
fn as_u64(value: &TypedValue) -> Option<u64> {
    match value {
        TypedValue::Int(value) => u64::try_from(*value).ok(),
        TypedValue::UInt(value) => Some((*value).into()),
        TypedValue::LLong(value) => u64::try_from(*value).ok(),
        TypedValue::ULLong(value) => Some(*value),
        TypedValue::Double(_) | TypedValue::Boolean(_) | TypedValue::String(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use libvirt_rpc::types::TypedParam;
    use libvirt_rpc::xdr::Uuid;

    use super::*;

    /// A sample of a domain.
    pub(in super::super) fn record(name: &str, values: &[(&str, u64)]) -> DomainStatsRecord {
        let mut uuid = [0; 16];
        for (byte, letter) in uuid.iter_mut().zip(name.bytes()) {
            *byte = letter;
        }
        let params =
            values.iter().map(|(name, value)| TypedParam::new(*name, TypedValue::ULLong(*value))).collect();
        DomainStatsRecord { dom: RemoteDomain { name: name.into(), uuid: Uuid(uuid), id: 1 }, params }
    }

    fn sample(cpu: u64, disk: u64) -> DomainStatsRecord {
        record(
            "demo",
            &[
                ("state.state", 1),
                ("cpu.time", cpu),
                ("balloon.current", 1024),
                ("balloon.rss", 512),
                ("block.count", 2),
                ("block.0.rd.bytes", disk),
                ("block.1.rd.bytes", disk),
                ("block.1.rd.reqs", 99),
                ("net.0.rx.bytes", u64::MAX),
                ("net.1.rx.bytes", u64::MAX),
            ],
        )
    }

    #[test]
    fn rates_are_what_was_counted_by_the_time_that_passed() {
        let begun = Instant::now();
        let mut figures = Figures::default();
        figures.take(&[sample(0, 0)], begun);
        figures.take(&[sample(1_000_000_000, 1000)], begun + Duration::from_secs(2));
        let usage = figures.all().next().unwrap();
        assert!((usage.cpu.now - 50.0).abs() < 1e-6, "{}", usage.cpu.now);
        assert!((usage.disk.now - 1000.0).abs() < 1e-6, "{}", usage.disk.now);
        assert!(usage.net.now.abs() < 1e-6);
        assert!((usage.memory.now - 512.0).abs() < 1e-6);
        assert_eq!(usage.cpu.history.len(), 2);
    }

    #[test]
    fn counters_that_go_backwards_make_no_rate() {
        let begun = Instant::now();
        let mut figures = Figures::default();
        figures.take(&[sample(1_000_000_000, 5000)], begun);
        figures.take(&[sample(5, 5)], begun + Duration::from_secs(1));
        let usage = figures.all().next().unwrap();
        assert!(usage.cpu.now.abs() < 1e-6 && usage.disk.now.abs() < 1e-6);
    }

    #[test]
    fn history_is_bounded_and_domains_that_are_gone_are_forgotten() {
        let begun = Instant::now();
        let mut figures = Figures::default();
        for second in 0..100 {
            figures.take(&[sample(second, 0)], begun + Duration::from_secs(second));
        }
        assert_eq!(figures.all().next().unwrap().cpu.history.len(), HISTORY);
        figures.take(&[], begun + Duration::from_secs(200));
        assert_eq!(figures.all().count(), 0);
    }
}
