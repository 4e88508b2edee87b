//! Names that a network serves (formatnetwork, "dns").

use std::net::IpAddr;

use crate::model::model;
use crate::value::YesNo;

model! {
    /// A server that other names are asked of.
    pub struct Forwarder {
        /// Only names of this domain.
        domain: attribute("domain") => Option<String>,
        /// Its address; none means the host's own servers.
        address: attribute("addr") => Option<IpAddr>,
    }

    /// A TXT record.
    pub struct Text {
        /// Its name.
        name: attribute("name") => Option<String>,
        /// What it says. Needed, but not for what is to be removed.
        value: attribute("value") => Option<String>,
    }

    /// An SRV record (RFC 2782).
    pub struct Service {
        /// The service, without underscore.
        service: attribute("service") => Option<String>,
        /// Its protocol, without underscore.
        protocol: attribute("protocol") => Option<String>,
        /// The domain that has the service.
        domain: attribute("domain") => Option<String>,
        /// The host that offers it.
        target: attribute("target") => Option<String>,
        /// Its port.
        port: attribute("port") => Option<u16>,
        /// The lowest is tried first.
        priority: attribute("priority") => Option<u16>,
        /// Share among those of the same priority.
        weight: attribute("weight") => Option<u16>,
    }

    /// An address with names.
    pub struct HostNames {
        /// The address. Needed, but not for what is to be removed.
        ip: attribute("ip") => Option<IpAddr>,
        /// Its names.
        names: fields("hostname") => Vec<String>,
    }

    /// Name service.
    pub struct Dns {
        /// Whether there is one.
        enable: attribute("enable") => Option<YesNo>,
        /// Whether names without a dot are asked of others.
        forward_plain_names: attribute("forwardPlainNames") => Option<YesNo>,
        /// Who is asked for other names.
        forwarders: children("forwarder") => Vec<Forwarder>,
        /// TXT records.
        texts: children("txt") => Vec<Text>,
        /// SRV records.
        services: children("srv") => Vec<Service>,
        /// Addresses with names.
        hosts: children("host") => Vec<HostNames>,
    }
}

impl Dns {
    /// Whether there is name service.
    pub fn is_enabled(&self) -> bool {
        self.enable != Some(YesNo::No)
    }
}
