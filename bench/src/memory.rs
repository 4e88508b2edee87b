//! What a program with a running guest has resident, apart from the guest's memory (proc_pid_smaps(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::contender::Contender;
use crate::job::Job;
use crate::process::Running;
use crate::report::Excluded;

/// One program's memory, in KiB, without its guest's.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// The contender's name.
    pub name: String,
    /// What was executed.
    pub command: Vec<String>,
    /// Resident.
    pub rss_kib: u64,
    /// Resident, where pages that several processes share count in parts.
    pub pss_kib: u64,
    /// Resident and written by this process, or of its own.
    pub private_kib: u64,
    /// Resident of the guest's memory, which is not in the numbers above.
    pub guest_kib: u64,
}

/// Runs one contender after the other until its guest says `words`.
pub fn compare(
    contenders: &[Contender],
    job: &Job,
    words: &[u8],
    patience: Duration,
) -> Result<(Vec<Footprint>, Vec<Excluded>)> {
    let mut footprints = Vec::new();
    let mut excluded = Vec::new();
    for contender in contenders {
        let command = contender.command_for(job)?;
        match measure(&command, u64::from(job.memory) << 10, words, patience) {
            Ok(footprint) => {
                footprints.push(Footprint { name: contender.name.clone(), command, ..footprint });
            }
            Err(error) => excluded.push(Excluded::new(contender, error)?),
        }
    }
    Ok((footprints, excluded))
}

fn measure(command: &[String], guest_kib: u64, words: &[u8], patience: Duration) -> Result<Footprint> {
    let running = Running::until(command, words, patience)?;
    let path = format!("/proc/{}/smaps", running.id());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    footprint(&text, guest_kib)
}

/// One mapping of a process.
#[derive(Debug, Default, Clone, Copy)]
struct Mapping {
    start: u64,
    end: u64,
    rss: u64,
    pss: u64,
    private: u64,
}

impl Mapping {
    fn kib(&self) -> u64 {
        (self.end - self.start) >> 10
    }
}

fn mappings(smaps: &str) -> Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if let Some(field) = first.strip_suffix(':') {
            let mapping = mappings.last_mut().context("a field before the first mapping")?;
            let sum = match field {
                "Rss" => &mut mapping.rss,
                "Pss" => &mut mapping.pss,
                "Private_Clean" | "Private_Dirty" => &mut mapping.private,
                _ => continue,
            };
            *sum += second.parse::<u64>().with_context(|| format!("not a number: {line:?}"))?;
        } else {
            let (start, end) = first.split_once('-').with_context(|| format!("not a mapping: {line:?}"))?;
            let address = |text| u64::from_str_radix(text, 16);
            mappings.push(Mapping { start: address(start)?, end: address(end)?, ..Mapping::default() });
        }
    }
    Ok(mappings)
}

/// Sums up everything but the guest's memory: the largest mapping and its neighbours (the kernel splits a mapping whose parts were
/// given different advice) up to the size of the guest's memory.
fn footprint(smaps: &str, guest_kib: u64) -> Result<Footprint> {
    let mut mappings = mappings(smaps)?;
    let largest = (0..mappings.len())
        .filter(|index| mappings[*index].kib() <= guest_kib)
        .max_by_key(|index| mappings[*index].kib())
        .context("no mappings")?;
    let (mut first, mut last) = (largest, largest);
    let size = |first: usize, last: usize| (mappings[last].end - mappings[first].start) >> 10;
    while first > 0 && mappings[first - 1].end == mappings[first].start && size(first - 1, last) <= guest_kib
    {
        first -= 1;
    }
    while mappings.get(last + 1).is_some_and(|next| next.start == mappings[last].end)
        && size(first, last + 1) <= guest_kib
    {
        last += 1;
    }
    let found = size(first, last);
    ensure!(found == guest_kib, "no {guest_kib} KiB of guest memory found, at most {found} KiB");
    let guest: Vec<Mapping> = mappings.drain(first..=last).collect();
    let sum = |mappings: &[Mapping], field: fn(&Mapping) -> u64| mappings.iter().map(field).sum();
    Ok(Footprint {
        rss_kib: sum(&mappings, |mapping| mapping.rss),
        pss_kib: sum(&mappings, |mapping| mapping.pss),
        private_kib: sum(&mappings, |mapping| mapping.private),
        guest_kib: sum(&guest, |mapping| mapping.rss),
        ..Footprint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, rss: u64) -> String {
        format!(
            "{start:08x}-{end:08x} rw-p 00000000 00:00 0 [heap]\nSize: 4 kB\nRss: {rss} kB\nPss: {} kB\n\
             Private_Clean: 1 kB\nPrivate_Dirty: 2 kB\nVmFlags: rd wr\n",
            rss / 2
        )
    }

    #[test]
    fn guest_memory_is_found_in_one_piece_or_several() {
        const MIB: u64 = 1 << 20;
        let around = (mapping(MIB, 2 * MIB, 100), mapping(100 * MIB, 101 * MIB, 10));
        let whole = mapping(16 * MIB, 80 * MIB, 5000);
        let split = mapping(16 * MIB, 18 * MIB, 1000) + &mapping(18 * MIB, 80 * MIB, 4000);
        for guest in [whole, split] {
            let smaps = [around.0.as_str(), &guest, &around.1].concat();
            let footprint = footprint(&smaps, 64 << 10).unwrap();
            assert_eq!((footprint.rss_kib, footprint.pss_kib, footprint.private_kib), (110, 55, 6));
            assert_eq!(footprint.guest_kib, 5000);
        }
    }

    #[test]
    fn neighbours_that_are_not_the_guests_count() {
        const MIB: u64 = 1 << 20;
        let smaps = mapping(15 * MIB, 16 * MIB, 7) + &mapping(16 * MIB, 80 * MIB, 5000);
        assert_eq!(footprint(&smaps, 64 << 10).unwrap().rss_kib, 7);
    }

    #[test]
    fn a_process_without_guest_memory_is_refused() {
        assert!(footprint(&mapping(4096, 8192, 4), 1024).is_err());
        assert!(footprint("", 1024).is_err());
        assert!(footprint("Rss: 4 kB", 1024).is_err());
    }

    #[test]
    fn this_process_can_be_read() {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mappings = mappings(&smaps).unwrap();
        assert!(mappings.len() > 3 && mappings.iter().any(|mapping| mapping.rss > 0));
    }
}
