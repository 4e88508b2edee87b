//! Everything that is measured, in its order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::clients::{self, Question};
use super::document::Documents;
use super::peer::{Daemon, Peer};
use super::{DaemonMemory, DaemonOutcome};
use crate::sample::{median, paired_ratio, summarise};

/// Clients that ask at the same time.
const CLIENTS: usize = 8;

/// Calls of one client in a round.
const NULL_CALLS: usize = 4000;
const LISTS: usize = 20;
const STATISTICS: usize = 4;

/// What takes part in a race.
trait Racer {
    fn name(&self) -> &'static str;

    /// Processor time used so far, where it makes sense.
    fn processor_time(&self) -> Option<Duration>;
}

impl Racer for Peer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn processor_time(&self) -> Option<Duration> {
        None
    }
}

impl Racer for Daemon<'_> {
    fn name(&self) -> &'static str {
        self.peer.name
    }

    fn processor_time(&self) -> Option<Duration> {
        Daemon::processor_time(self)
    }
}

/// What one did in all rounds.
struct Samples<const N: usize> {
    times: [Vec<Duration>; N],
    processors: Vec<f64>,
}

impl<const N: usize> Default for Samples<N> {
    fn default() -> Self {
        Self { times: std::array::from_fn(|_| Vec::new()), processors: Vec::new() }
    }
}

/// What is measured with, and what came out so far.
pub(super) struct Contest<'a, F> {
    documents: &'a Documents,
    rounds: usize,
    show: F,
    outcomes: Vec<DaemonOutcome>,
    memory: Vec<DaemonMemory>,
}

impl<'a, F: FnMut(&[DaemonOutcome])> Contest<'a, F> {
    pub(super) fn new(documents: &'a Documents, rounds: usize, show: F) -> Self {
        Self { documents, rounds, show, outcomes: Vec::new(), memory: Vec::new() }
    }

    /// Measures everything; Vireo's daemon is the first of the peers.
    pub(super) fn run(mut self, peers: &[Peer]) -> Result<(Vec<DaemonOutcome>, Vec<DaemonMemory>)> {
        for peer in peers {
            // Not counted: programs are read from the disk, and libvirtd finds out about every QEMU.
            peer.start(0)?.0.end()?;
        }
        let daemons = peers.iter().map(|peer| Ok(peer.start(0)?.0)).collect::<Result<Vec<_>>>()?;
        self.calls(&daemons)?;
        for daemon in daemons {
            self.remember(&daemon, "after all calls")?;
            daemon.end()?;
        }
        self.starts(peers)?;
        Ok((self.outcomes, self.memory))
    }

    fn calls(&mut self, daemons: &[Daemon<'_>]) -> Result<()> {
        let (documents, rounds) = (self.documents, self.rounds);
        let all = documents.all().len();
        let part = |round| round * all / rounds..(round + 1) * all / rounds;
        self.race(["define"], daemons, |daemon, round| {
            Ok([clients::ask(daemon, Question::Define, part(round), documents, 1)?])
        })?;
        for (case, question, calls, clients) in [
            ("null call", Question::Null, NULL_CALLS, 1),
            ("dumpxml", Question::Document, all, 1),
            ("list all", Question::List, LISTS, 1),
            ("statistics of all", Question::Statistics, STATISTICS, 1),
            ("null call, 8 clients", Question::Null, NULL_CALLS, CLIENTS),
            ("dumpxml, 8 clients", Question::Document, NULL_CALLS, CLIENTS),
            ("define again, 8 clients", Question::Define, all.div_ceil(rounds).max(CLIENTS), CLIENTS),
        ] {
            self.race([case], daemons, |daemon, _| {
                Ok([clients::ask(daemon, question, 0..calls, documents, clients)?])
            })?;
        }
        Ok(())
    }

    /// Starts with all definitions.
    fn starts(&mut self, peers: &[Peer]) -> Result<()> {
        let documents = self.documents;
        let all = documents.all().len();
        self.race(["start", "start and statistics of all"], peers, |peer, _| {
            let (daemon, start) = peer.start(all)?;
            let statistics = clients::ask(&daemon, Question::Statistics, 0..1, documents, 1)?;
            daemon.end()?;
            Ok([start, start + statistics])
        })?;
        for peer in peers {
            let (daemon, _) = peer.start(all)?;
            self.remember(&daemon, "after a start")?;
            clients::ask(&daemon, Question::Statistics, 0..1, documents, 1)?;
            clients::ask(&daemon, Question::Document, 0..all, documents, 1)?;
            self.remember(&daemon, "after a start, statistics of all and dumpxml of each")?;
            daemon.end()?;
        }
        Ok(())
    }

    /// Lets all do the same in each round, which gives a time for each case.
    fn race<T: Racer, const N: usize>(
        &mut self,
        cases: [&str; N],
        racers: &[T],
        mut measure: impl FnMut(&T, usize) -> Result<[Duration; N]>,
    ) -> Result<()> {
        let mut samples: Vec<Samples<N>> = racers.iter().map(|_| Samples::default()).collect();
        for round in 0..self.rounds {
            for turn in 0..racers.len() {
                // Nobody is always the first.
                let number = (round + turn) % racers.len();
                let (racer, samples) = (&racers[number], &mut samples[number]);
                let (before, start) = (racer.processor_time(), Instant::now());
                let times = measure(racer, round)
                    .with_context(|| format!("{}, {}", cases.join(", "), racer.name()))?;
                let used = before.and_then(|before| racer.processor_time()?.checked_sub(before));
                let passed = start.elapsed().as_secs_f64();
                samples.processors.extend(used.map(|used| used.as_secs_f64() / passed));
                for (all, time) in samples.times.iter_mut().zip(times) {
                    all.push(time);
                }
            }
        }
        for (at, case) in cases.into_iter().enumerate() {
            let outcome = |(racer, own): (&T, &Samples<N>)| {
                Some(DaemonOutcome {
                    case: case.to_owned(),
                    program: racer.name().to_owned(),
                    time_us: summarise(&own.times[at])?,
                    ours_ratio: paired_ratio(&samples[0].times[at], &own.times[at]),
                    processors: median(&own.processors),
                })
            };
            let outcomes: Vec<_> = racers.iter().zip(&samples).filter_map(outcome).collect();
            (self.show)(&outcomes);
            self.outcomes.extend(outcomes);
        }
        Ok(())
    }

    fn remember(&mut self, daemon: &Daemon<'_>, moment: &str) -> Result<()> {
        let (rss_kib, pss_kib) = daemon.memory()?;
        let program = daemon.peer.name.to_owned();
        self.memory.push(DaemonMemory { program, moment: moment.to_owned(), rss_kib, pss_kib });
        Ok(())
    }
}
