//! firewalld, when it lets nobody else add rules to its table.
//!
//! Since 2.1, firewalld's table belongs to its process (`NFT_TABLE_F_OWNER`). What it refuses, only it can allow: it is asked to
//! count a network's bridge as part of one of its zones, for as long as it runs. The zone is `libvirt` where that exists
//! (it comes with libvirt and lets DHCP, names and forwarded packets pass), else `trusted`.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Stdio};

use crate::network::{Kind, Network};
use crate::nftables::{Family, owned_tables};

const PROGRAM: &str = "firewall-cmd";
const ZONES: [&str; 2] = ["libvirt", "trusted"];

/// Has firewalld let bridges' packets pass, where it lets nobody else. A bridge that is gone is forgotten when firewalld starts again.
pub(crate) fn firewalld(networks: &[&Network]) -> io::Result<()> {
    let owned = owned_tables()?;
    if !owned.contains(&(Family::Inet, "firewalld".to_owned())) {
        return Ok(());
    }
    let bridges: BTreeSet<&str> = networks
        .iter()
        .filter(|network| network.makes_bridge() && !matches!(network.kind, Kind::Open))
        .map(|network| network.bridge.as_str())
        .collect();
    if bridges.is_empty() {
        return Ok(());
    }
    let Some(zones) = run(&["--get-zones"])? else {
        tracing::warn!(
            "firewalld refuses what it does not know and {PROGRAM} is not there to tell it of {bridges:?}"
        );
        return Ok(());
    };
    let zone = ZONES.into_iter().find(|zone| zones.split_whitespace().any(|there| there == *zone));
    let Some(zone) = zone else {
        tracing::warn!(
            "firewalld has none of the zones {ZONES:?} for {bridges:?}: it may refuse their packets"
        );
        return Ok(());
    };
    for bridge in bridges {
        let zone = format!("--zone={zone}");
        if run(&[&zone, &format!("--query-interface={bridge}")])?.is_none() {
            run(&[&zone, &format!("--change-interface={bridge}")])?;
            tracing::info!("firewalld counts bridge {bridge} as part of a zone now ({zone})");
        }
    }
    Ok(())
}

/// Has a bridge that is gone forgotten.
pub(crate) fn forget(bridge: &str) -> io::Result<()> {
    if !owned_tables()?.contains(&(Family::Inet, "firewalld".to_owned())) {
        return Ok(());
    }
    for zone in ZONES {
        let zone = format!("--zone={zone}");
        if run(&[&zone, &format!("--query-interface={bridge}")])?.is_some() {
            run(&[&zone, &format!("--remove-interface={bridge}")])?;
        }
    }
    Ok(())
}

/// What it says; nothing without it, or when it says no.
fn run(arguments: &[&str]) -> io::Result<Option<String>> {
    match Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        output => {
            let output = output?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(output.status.success().then_some(text))
        }
    }
}
