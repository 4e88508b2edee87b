//! Rules of the kernel's old packet filter (`iptables-legacy`), which Docker of some hosts still has.
//!
//! It has no messages of its own for single rules, so Debian's program changes them, where it is installed and the old filter
//! is in use; a filter that is not in use is never brought up by looking at it. What is added and why is as in [`crate::foreign`].

use std::collections::HashSet;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use crate::foreign::{names, served};
use crate::network::{Kind, Network};
use crate::nftables::Family;

/// A family's program, and where the kernel tells which of its tables are in use.
const FAMILIES: [(Family, &str, &str); 2] = [
    (Family::Ipv4, "iptables-legacy", "/proc/thread-self/net/ip_tables_names"),
    (Family::Ipv6, "ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names"),
];
/// Chains of the kernel's own.
const CHAINS: [&str; 3] = ["FORWARD", "INPUT", "OUTPUT"];

/// Whether a table of the old filter is in use, for the thread's network namespace.
pub(crate) fn in_use(table: &str) -> bool {
    FAMILIES.iter().any(|(_, _, names)| uses(names, table))
}

fn uses(names: &str, table: &str) -> bool {
    fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == table))
}

/// A rule, as arguments of the program.
type Arguments = Vec<String>;

/// Adds the rules that networks need and removes those that they don't any more. Returns what was added.
///
/// # Errors
/// What the program says.
pub(crate) fn apply(own: &str, networks: &[&Network]) -> io::Result<Vec<Arguments>> {
    let mut added = Vec::new();
    for (family, program, names) in FAMILIES {
        if !uses(names, "filter") {
            continue;
        }
        let Some(listing) = list(program)? else {
            let bridges: Vec<&str> = networks.iter().map(|network| network.bridge.as_str()).collect();
            tracing::warn!(
                "the old packet filter is in use and {program} is not installed: it may refuse packets of {bridges:?} (install iptables)"
            );
            continue;
        };
        let wanted = wanted(own, &listing, family, networks);
        let present: Vec<Arguments> = listing.iter().filter(|rule| is_ours(own, rule)).cloned().collect();
        for rule in present.iter().filter(|rule| !wanted.contains(rule)) {
            run(program, "-D", &rule[1..])?;
        }
        for rule in wanted.into_iter().filter(|rule| !present.contains(rule)) {
            run(program, "-I", &rule[1..])?;
            added.push(rule);
        }
    }
    Ok(added)
}

/// All rules, as the program prints them; none without the program.
fn list(program: &str) -> io::Result<Option<Vec<Arguments>>> {
    let output = match Command::new(program).args(["-w", "5", "-S"]).stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    if !output.status.success() {
        return Err(said(program, &output.stderr));
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).lines().map(words).collect()))
}

fn run(program: &str, operation: &str, rule: &[String]) -> io::Result<()> {
    let output =
        Command::new(program).args(["-w", "5", operation]).args(rule).stdin(Stdio::null()).output()?;
    if output.status.success() { Ok(()) } else { Err(said(program, &output.stderr)) }
}

fn said(program: &str, stderr: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(stderr);
    io::Error::other(format!("{program}: {}", text.lines().next().unwrap_or("failed")))
}

/// The words of a line; those with blanks are in quotes.
fn words(line: &str) -> Arguments {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn argument<'r>(rule: &'r [String], option: &str) -> Option<&'r str> {
    let index = rule.iter().position(|word| word == option)?;
    rule.get(index + 1).map(String::as_str)
}

fn is_ours(own: &str, rule: &[String]) -> bool {
    argument(rule, "--comment").is_some_and(|comment| comment.starts_with(&format!("{own}: ")))
}

fn wanted(own: &str, listing: &[Arguments], family: Family, networks: &[&Network]) -> Vec<Arguments> {
    let mut wanted = Vec::new();
    for network in networks {
        if !network.makes_bridge() || matches!(network.kind, Kind::Open) {
            continue;
        }
        for chain in CHAINS.into_iter().filter(|chain| refuses(own, listing, chain, &network.bridge)) {
            wanted.extend(accepting(own, chain, family, network));
        }
    }
    wanted
}

/// In the order of words in which the program prints them.
fn accepting(own: &str, chain: &str, family: Family, network: &Network) -> Vec<Arguments> {
    let bridge = network.bridge.as_str();
    let rule = |interface: &str, conditions: &[&str], what: &str| {
        let comment = format!("{own}: {bridge} {what}");
        let mut rule: Vec<&str> = vec!["-A", chain, interface, bridge];
        rule.extend(conditions);
        rule.extend(["-m", "comment", "--comment", &comment, "-j", "ACCEPT"]);
        rule.into_iter().map(str::to_owned).collect()
    };
    if chain == "FORWARD" {
        return vec![rule("-i", &[], "from guests"), rule("-o", &[], "to guests")];
    }
    let (interface, option, way) =
        if chain == "INPUT" { ("-i", "--dport", "in") } else { ("-o", "--sport", "out") };
    served(network, family)
        .map(|(protocol, port, what)| {
            let protocol = match protocol {
                1 => "icmp",
                6 => "tcp",
                17 => "udp",
                _ => "ipv6-icmp",
            };
            let what = format!("{what} {way}");
            match port {
                Some(port) => {
                    let port = port.to_string();
                    rule(interface, &["-p", protocol, "-m", protocol, option, &port], &what)
                }
                None => rule(interface, &["-p", protocol], &what),
            }
        })
        .collect()
}

/// Whether a chain refuses a bridge's packets when rules of ours are not there.
fn refuses(own: &str, listing: &[Arguments], chain: &str, bridge: &str) -> bool {
    let policy = listing
        .iter()
        .any(|rule| matches!(rule.as_slice(), [p, c, policy] if p == "-P" && c == chain && policy == "DROP"));
    walk(own, listing, chain, bridge, &mut HashSet::new()).unwrap_or(policy)
}

fn walk<'r>(
    own: &str,
    listing: &'r [Arguments],
    chain: &'r str,
    bridge: &str,
    seen: &mut HashSet<&'r str>,
) -> Option<bool> {
    // A chain that was seen has refused nothing.
    if !seen.insert(chain) {
        return None;
    }
    let of_chain = listing.iter().filter(|rule| argument(rule, "-A") == Some(chain) && !is_ours(own, rule));
    for rule in of_chain {
        let other = |option: &str| {
            rule.iter().position(|word| word == option).is_some_and(|index| {
                let inverted = index > 0 && rule[index - 1] == "!";
                let asked = rule.get(index + 1).map_or("", |name| name.as_str());
                let asked = asked.strip_suffix('+').map_or(asked.to_owned(), |start| format!("{start}*"));
                !inverted && !names(&asked, bridge)
            })
        };
        if other("-i") || other("-o") {
            continue;
        }
        let conditional = rule.len() > 4;
        match argument(rule, "-j").or_else(|| argument(rule, "-g")) {
            Some("DROP" | "REJECT") => return Some(true),
            Some("ACCEPT") if !conditional => return Some(false),
            Some("RETURN") if !conditional => return None,
            Some("ACCEPT" | "RETURN") | None => {}
            Some(next) => match walk(own, listing, next, bridge, seen) {
                Some(true) => return Some(true),
                Some(false) if !conditional => return Some(false),
                _ => {}
            },
        }
    }
    None
}
