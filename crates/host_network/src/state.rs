//! What should be there, and how rules and settings of the host follow from it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use parking_lot::Mutex;
use rustix::io::Errno;
use uuid::Uuid;

use crate::guard::{self, Guards};
use crate::host::Options;
use crate::network::Network;
use crate::nftables::{self, Chain, Family, Hook, Transaction};
use crate::rules::Table;
use crate::sysctl::{self, Record};
use crate::{foreign, legacy, programs};

/// How often rules are made anew because others changed theirs meanwhile.
const MOST_TRIES: usize = 50;

/// What all handles of one maker of networks have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) state: Mutex<State>,
}

/// What should be there. It is locked while the kernel is told of a change, on a thread that may wait.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) networks: BTreeMap<Uuid, Network>,
    pub(crate) guards: Guards,
    pub(crate) record: Record,
}

impl Shared {
    /// Makes rules and settings of the host what the state says.
    pub(crate) fn apply(&self, state: &mut State) -> io::Result<()> {
        let networks: Vec<Network> = state.networks.values().cloned().collect();
        let networks: Vec<&Network> = networks.iter().collect();
        let forwarding = networks.iter().any(|network| network.forwards_packets());
        if forwarding {
            forward_packets(&mut state.record, &networks)?;
        }
        let chains = self.commit(&networks)?;
        let own = &self.options.table;
        let legacy = legacy::apply(own, &networks)?;
        if !legacy.is_empty() {
            tracing::info!(
                "{} rules were added to the old packet filter, which refuses packets",
                legacy.len()
            );
        }
        programs::firewalld(&networks)?;
        if !forwarding && !state.record.is_empty() {
            if others_forward(own, &chains) {
                tracing::info!("forwarding of packets stays on: others have rules for it");
                state.record.forget()?;
            } else {
                state.record.restore()?;
            }
        }
        Ok(())
    }

    /// Replaces all rules of networks in one transaction.
    fn commit(&self, networks: &[&Network]) -> io::Result<Vec<Chain>> {
        let own = &self.options.table;
        let table = Table::of(networks);
        for _ in 0..MOST_TRIES {
            let generation = nftables::generation()?;
            let chains = nftables::list_chains()?;
            let changes = foreign::Changes::of(own, &chains, &nftables::owned_tables()?, networks);
            let there = chains.iter().any(|chain| chain.family == Family::Inet && chain.table == *own);
            let mut transaction = Transaction::new(Some(generation));
            if there || !table.is_empty() {
                table.write(Family::Inet, own, &mut transaction);
            }
            changes.write(&mut transaction);
            match transaction.commit() {
                Ok(()) => {
                    for table in changes.tables() {
                        tracing::info!("rules were added where packets are refused: {table}");
                    }
                    return Ok(chains);
                }
                // Others have changed theirs meanwhile.
                Err(error) if matches!(Errno::from_io_error(&error), Some(RESTART | Errno::NOENT)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("others change their rules all the time"))
    }

    /// Puts back what somebody has removed; all of it when `whole`. Returns whether there was something to do.
    pub(crate) fn put_back(&self, whole: bool) -> io::Result<bool> {
        let mut state = self.state.lock();
        if !whole && self.is_complete(&state)? {
            return Ok(false);
        }
        self.apply(&mut state)?;
        let chains = nftables::list_chains()?;
        let there =
            chains.iter().any(|chain| chain.family == Family::Bridge && chain.table == self.options.table);
        if there || !state.guards.is_empty() {
            let mut transaction = Transaction::new(None);
            guard::write(&state.guards, &self.options.table, &mut transaction);
            transaction.commit()?;
        }
        Ok(true)
    }

    /// Whether the kernel has all rules.
    fn is_complete(&self, state: &State) -> io::Result<bool> {
        let own = &self.options.table;
        let networks: Vec<&Network> = state.networks.values().collect();
        let chains = nftables::list_chains()?;
        let count = |family| -> usize {
            let ours = chains.iter().filter(|chain| chain.family == family && chain.table == *own);
            ours.map(|chain| chain.rules.len()).sum()
        };
        let complete = count(Family::Inet) == Table::of(&networks).count()
            && count(Family::Bridge) == guard::count(&state.guards)
            && foreign::Changes::of(own, &chains, &nftables::owned_tables()?, &networks).is_empty();
        Ok(complete)
    }
}

/// `ERESTART`: the tables changed since they were read. Programs see it from netlink only.
const RESTART: Errno = Errno::from_raw_os_error(85);

/// Has the host forward packets.
fn forward_packets(record: &mut Record, networks: &[&Network]) -> io::Result<()> {
    let forwarding: Vec<&&Network> = networks.iter().filter(|network| network.forwards_packets()).collect();
    if forwarding.iter().any(|network| network.has(true)) {
        record.forward(true)?;
    }
    if forwarding.iter().any(|network| network.has(false)) && sysctl::read(sysctl::IPV6_FORWARDING)? != "1" {
        // A router ignores the advertisements that a host has its own addresses from, unless told (accept_ra 2).
        for interface in fs::read_dir("/proc/sys/net/ipv6/conf")? {
            let name = interface?.file_name().to_string_lossy().into_owned();
            let ours = networks.iter().any(|network| network.bridge == name);
            let key = format!("ipv6/conf/{name}/accept_ra");
            if !ours && !["all", "default", "lo"].contains(&name.as_str()) && sysctl::read(&key)? == "1" {
                record.change(&key, "2")?;
            }
        }
        record.forward(false)?;
    }
    Ok(())
}

/// Whether somebody else has rules for packets that are forwarded.
fn others_forward(own: &str, chains: &[Chain]) -> bool {
    let forwards = |chain: &Chain| {
        matches!(
            (chain.kind.as_deref(), chain.hook),
            (Some("filter"), Some(Hook::Forward)) | (Some("nat"), Some(Hook::Postrouting))
        )
    };
    let mark = format!("{own}: ");
    let theirs = |chain: &Chain| {
        let ours = |comment: &Option<String>| comment.as_deref().is_some_and(|text| text.starts_with(&mark));
        chain.drops || chain.rules.iter().any(|rule| !ours(&rule.comment))
    };
    chains.iter().any(|chain| chain.table != own && forwards(chain) && theirs(chain)) || legacy::in_use("nat")
}
