//! The daemon: `vireod` beside Debian's `libvirtd`, which are asked the same by the same client.
//!
//! Both run for themselves, with definitions, sockets and everything else that they write in a temporary directory, on one file
//! system. They are asked alternately and never at the same time. What is asked goes through a unix socket, as every client of
//! libvirt's does; the client takes its part of the time, the same for both.
//!
//! What a define has done when it is answered: `vireod` has written the definition and waited for stable storage (SQLite's log,
//! `synchronous=FULL`). `libvirtd` has written it to a new file, has called fsync(2) for it and has moved it into place; it does not
//! wait for the directory.

mod cases;
mod clients;
mod document;
pub(crate) mod peer;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use self::cases::Contest;
use self::document::Documents;
use self::peer::Peer;
use crate::report::Excluded;
use crate::sample::Summary;
use crate::surroundings::Network;

/// What is measured, and how often.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonOptions {
    /// Vireo's program.
    pub vireod: PathBuf,
    /// Where the daemons keep what they write: on the file system that is measured.
    pub directory: PathBuf,
    /// Domains that are defined.
    pub domains: usize,
    /// Rounds; every program takes part in each.
    pub rounds: usize,
}

/// How long a daemon took for something.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonOutcome {
    /// What it was asked.
    pub case: String,
    /// The program.
    pub program: String,
    /// Time for one, microseconds; for one of all when several clients ask at once.
    pub time_us: Summary,
    /// Median over rounds of Vireo's time, divided by this program's.
    pub ours_ratio: Option<f64>,
    /// Processors that the daemon kept busy meanwhile, the median.
    pub processors: Option<f64>,
}

/// What a daemon has resident.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonMemory {
    /// The program.
    pub program: String,
    /// When.
    pub moment: String,
    /// Resident, KiB.
    pub rss_kib: u64,
    /// Resident, where pages that several processes share count in parts, KiB.
    pub pss_kib: u64,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct DaemonResults {
    /// Times.
    pub outcomes: Vec<DaemonOutcome>,
    /// Memory.
    pub memory: Vec<DaemonMemory>,
    /// Programs that did not take part.
    pub excluded: Vec<Excluded>,
}

/// Runs everything. Outcomes of a case follow each other, Vireo's first; each is given to `show` when it is there.
pub fn compare(options: &DaemonOptions, show: impl FnMut(&[DaemonOutcome])) -> Result<DaemonResults> {
    ensure!(options.rounds > 0 && options.domains >= options.rounds, "at least one domain for each round");
    let folder = tempfile::tempdir_in(&options.directory).context("a temporary folder")?;
    let documents = Documents::make(folder.path(), options.domains)?;
    let mut peers = vec![Peer::vireod(&options.vireod, folder.path(), Network::OfTheHost)?];
    let mut excluded = Vec::new();
    match Peer::libvirtd(folder.path(), Network::OfTheHost) {
        Ok(peer) => peers.push(peer),
        Err(error) => {
            let reason = format!("{error:#}");
            eprintln!("libvirtd is left out: {reason}");
            excluded.push(Excluded { name: "libvirtd".to_owned(), reason });
        }
    }
    let contest = Contest::new(&documents, options.rounds, show);
    let (outcomes, memory) = contest.run(&peers)?;
    Ok(DaemonResults { outcomes, memory, excluded })
}
