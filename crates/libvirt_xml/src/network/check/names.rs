//! Names: of domains, hosts and records.

use super::{Checked, contradiction, unsupported};
use crate::network::Network;
use crate::network::dns::{Dns, Service};
use crate::value::YesNo;

/// Longest text of a TXT record, bytes: with its name it fits a message.
const MOST_TEXT_BYTES: usize = 1024;

pub(super) fn check(network: &Network) -> Checked {
    let called = network.called();
    if let Some(domain) = &network.domain
        && !is_domain(&domain.name)
    {
        return Err(contradiction(format!(
            "'{:.64}' can't be the domain of network '{called}'",
            domain.name
        )));
    }
    let Some(dns) = &network.dns else { return Ok(()) };
    if !dns.is_enabled() {
        let bare =
            Dns { enable: Some(YesNo::No), forward_plain_names: dns.forward_plain_names, ..Dns::default() };
        return if *dns == bare {
            Ok(())
        } else {
            Err(contradiction(format!("Extra data in disabled network '{called}'")))
        };
    }
    for forwarder in &dns.forwarders {
        if forwarder.address.is_none() && forwarder.domain.is_none() {
            return Err(contradiction(
                "Invalid forwarder element, must contain at least one of addr or domain",
            ));
        }
        if let Some(domain) = forwarder.domain.as_ref().filter(|domain| !is_domain(domain)) {
            return Err(contradiction(format!(
                "'{domain:.64}' can't be a forwarder's domain in network '{called}'"
            )));
        }
    }
    texts(called, dns)?;
    dns.services.iter().try_for_each(|service| self::service(called, service))?;
    hosts(called, dns)
}

fn texts(called: &str, dns: &Dns) -> Checked {
    for text in &dns.texts {
        let Some(name) = text.name.as_deref().filter(|name| !name.is_empty()) else {
            return Err(contradiction(format!(
                "missing required name attribute in DNS TXT record of network {called}"
            )));
        };
        if name.contains(' ') || !is_domain(name) {
            return Err(contradiction(format!(
                "prohibited character in DNS TXT record name '{name:.64}' of network {called}"
            )));
        }
        let Some(value) = &text.value else {
            return Err(contradiction(format!(
                "missing required value attribute in DNS TXT record named '{name}' of network {called}"
            )));
        };
        if value.len() > MOST_TEXT_BYTES {
            return Err(unsupported(format!(
                "DNS TXT record named '{name}' of network {called} has more than {MOST_TEXT_BYTES} bytes"
            )));
        }
    }
    Ok(())
}

fn service(called: &str, record: &Service) -> Checked {
    let label = |name: &String| name.len() < 63 && is_label(name);
    let Some(service) = record.service.as_ref().filter(|name| !name.is_empty()) else {
        return Err(contradiction(format!(
            "missing required service attribute in DNS SRV record of network '{called}'"
        )));
    };
    if !label(service) {
        return Err(contradiction(format!(
            "Service name '{service:.64}' in DNS SRV record of network '{called}' is too long or no label"
        )));
    }
    let Some(protocol) = record.protocol.as_ref().filter(|name| !name.is_empty()) else {
        return Err(contradiction(format!(
            "missing required protocol attribute in DNS SRV record '{service}' of network '{called}'"
        )));
    };
    if !label(protocol) {
        return Err(contradiction(format!(
            "invalid protocol attribute value '{protocol:.64}' in DNS SRV record of network '{called}'"
        )));
    }
    if let Some(domain) = record.domain.as_ref().filter(|domain| !is_domain(domain)) {
        return Err(contradiction(format!(
            "invalid domain attribute '{domain:.64}' in DNS SRV record '{service}' of network '{called}'"
        )));
    }
    // A dot says that nobody offers it (RFC 2782).
    if let Some(target) = record.target.as_ref().filter(|target| *target != "." && !is_domain(target)) {
        return Err(contradiction(format!(
            "invalid target attribute '{target:.64}' in DNS SRV record '{service}' of network '{called}'"
        )));
    }
    if record.port == Some(0) {
        return Err(contradiction(format!(
            "invalid DNS SRV port attribute for service '{service}' in network '{called}'"
        )));
    }
    let further = [(record.port, "port"), (record.priority, "priority"), (record.weight, "weight")];
    match further.into_iter().find(|(value, _)| value.is_some()) {
        Some((_, name)) if record.target.is_none() => Err(contradiction(format!(
            "DNS SRV {name} attribute not permitted without target for service '{service}' in network '{called}'"
        ))),
        _ => Ok(()),
    }
}

fn hosts(called: &str, dns: &Dns) -> Checked {
    for host in &dns.hosts {
        if host.ip.is_none() {
            return Err(contradiction(format!("Missing IP address in network '{called}' DNS HOST record")));
        }
        if host.names.is_empty() {
            return Err(contradiction(format!("Missing hostname in network '{called}' DNS HOST record")));
        }
        if let Some(name) = host.names.iter().find(|name| !is_domain(name)) {
            return Err(contradiction(format!(
                "'{name:.64}' can't be a hostname in network '{called}' DNS HOST record"
            )));
        }
    }
    Ok(())
}

fn is_label(label: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !label.is_empty() && label.len() <= 63 && label.bytes().all(fine)
}

/// Whether it is a domain's name (RFC 1035, 2.3), with underscores, which services' names have.
fn is_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether a guest can be called so.
pub(super) fn is_host_name(name: &str) -> bool {
    is_domain(name) && !name.starts_with('-') && !name.contains('_')
}
