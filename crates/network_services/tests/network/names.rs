//! Names for real resolvers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::{RData, Record};
use network_services::description::Forwarder;

use super::laboratory::{Laboratory, Skipped, description};

/// Asks as the guest does, once.
fn dig(laboratory: &Laboratory, arguments: &str) -> Result<String, Skipped> {
    if !std::path::Path::new("/usr/bin/dig").exists() {
        return Err(Skipped("dig is not installed (tools/install-dependencies)".into()));
    }
    let arguments: Vec<&str> = ["+tries=1", "+time=5"].into_iter().chain(arguments.split(' ')).collect();
    let output = laboratory.guest.output("dig", &arguments);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn names_lead_to_guests_and_back() -> Result<(), Skipped> {
    let laboratory = Laboratory::new(&description())?;
    let bound = laboratory.obtain(&["-x", "hostname:mine"])?;
    let address = bound.split(' ').nth(1).unwrap();
    laboratory.guest.run("ip", &["address", "add", "fd00:7::99/64", "dev", "eth0", "nodad"]);
    for (question, expected) in [
        ("@10.7.0.1 +short alpha", address),
        ("@10.7.0.1 +short Alpha.seven.test", address),
        ("@fd00:7::1 +short alpha", address),
        ("@10.7.0.1 +tcp +short alpha", address),
        ("@fd00:7::1 +tcp +short mine.seven.test", address),
        ("@10.7.0.1 +short static.seven.test", "10.7.0.20"),
        ("@10.7.0.1 +short aaaa printer", ""),
        ("@10.7.0.1 +short txt motto", "\"it just works\""),
        (&format!("@10.7.0.1 +short -x {address}"), "alpha.seven.test."),
        ("@10.7.0.1 +short -x fd00:7::20", "static.seven.test."),
    ] {
        assert_eq!(dig(&laboratory, question)?, expected, "{question}");
    }
    assert!(dig(&laboratory, "@10.7.0.1 nobody.seven.test")?.contains("status: NXDOMAIN"));
    assert!(dig(&laboratory, "@10.7.0.1 example.org")?.contains("status: REFUSED"));
    // The host asks its own address.
    let host = laboratory.host.run("dig", &["+tries=1", "+time=5", "+short", "@10.7.0.1", "alpha"]);
    assert_eq!(host.trim(), address);
    // Who is on the wire but not of the network is not answered.
    laboratory.guest.run("ip", &["address", "flush", "dev", "eth0"]);
    laboratory.guest.run("ip", &["address", "add", "192.0.2.9/24", "dev", "eth0"]);
    laboratory.guest.run("ip", &["route", "add", "10.7.0.1", "dev", "eth0"]);
    laboratory.host.run("ip", &["route", "add", "192.0.2.9", "dev", "br0"]);
    let silence = laboratory.guest.output("dig", &["+tries=1", "+time=1", "+short", "@10.7.0.1", "alpha"]);
    assert!(!silence.status.success());
    Ok(())
}

/// What the server of the test says to any question for an address: this one.
const FOREIGN: &str = "203.0.113.7";

fn reply(question: &[u8]) -> Vec<u8> {
    let mut message = Message::from_vec(question).unwrap();
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name.clone();
    let address: std::net::Ipv4Addr = FOREIGN.parse().unwrap();
    message.add_answer(Record::from_rdata(name, 60, RData::A(address.into())));
    message.to_vec().unwrap()
}

/// A server of names on the host, for one question over UDP and one over TCP.
fn foreign_server(laboratory: &Laboratory) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let (datagrams, listener) = laboratory.host.inside(|| {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind(datagrams.local_addr().unwrap()).unwrap();
        (datagrams, listener)
    });
    let address = datagrams.local_addr().unwrap();
    let served = std::thread::Builder::new().spawn(move || {
        let mut buffer = [0; 4096];
        let (length, from) = datagrams.recv_from(&mut buffer).unwrap();
        datagrams.send_to(&reply(&buffer[..length]), from).unwrap();
        let mut stream = listener.accept().unwrap().0;
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question).unwrap();
        let reply = reply(&question);
        stream.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&reply).unwrap();
    });
    (address, served.unwrap())
}

pub(crate) fn other_names_are_asked_of_others() -> Result<(), Skipped> {
    let laboratory = Laboratory::new(&description())?;
    laboratory.obtain(&[])?;
    dig(&laboratory, "@10.7.0.1 alpha")?;
    let (address, served) = foreign_server(&laboratory);
    let mut forwarding = description();
    let dns = forwarding.dns.as_mut().unwrap();
    dns.forward = true;
    dns.forwarders = vec![Forwarder { address: Some(address), domain: None }];
    laboratory.control(async |mut control| control.reload(forwarding).await).unwrap();
    assert_eq!(dig(&laboratory, "@10.7.0.1 +short www.example.org")?, FOREIGN);
    assert_eq!(dig(&laboratory, "@10.7.0.1 +short +tcp www.example.org")?, FOREIGN);
    served.join().unwrap();
    // That server is gone: said at once, or after some time if nobody says that it is.
    assert!(dig(&laboratory, "@10.7.0.1 www.example.org")?.contains("status: SERVFAIL"));
    assert!(
        dig(&laboratory, "@10.7.0.1 nobody.seven.test")?.contains("status: NXDOMAIN"),
        "the domain is ours alone"
    );
    Ok(())
}

pub(crate) fn port_53_taken_by_another_program_is_no_hindrance() -> Result<(), Skipped> {
    let mut laboratory = Laboratory::without_service(&description())?;
    let taken = laboratory
        .host
        .inside(|| (UdpSocket::bind("0.0.0.0:53").unwrap(), TcpListener::bind("0.0.0.0:53").unwrap()));
    laboratory.start();
    let status = laboratory.control(async |mut control| control.status().await).unwrap();
    let port = status.dns_port.unwrap();
    assert_ne!(port, 53);
    // DHCP does not mind.
    let bound = laboratory.obtain(&[])?;
    let address = bound.split(' ').nth(1).unwrap();
    assert_eq!(dig(&laboratory, &format!("-p {port} @10.7.0.1 +short alpha"))?, address);
    // What the rules of the network do.
    if !laboratory.host.output("nft", &["list", "tables"]).status.success() {
        return Err(Skipped("there is no nftables here".into()));
    }
    let rules = format!(
        "table inet test {{\nchain lead {{\ntype nat hook prerouting priority dstnat\n\
         iifname br0 ip daddr 10.7.0.1 meta l4proto {{ tcp, udp }} th dport 53 redirect to :{port}\n}}\n}}\n"
    );
    std::fs::write(laboratory.path("rules"), rules).unwrap();
    let file = laboratory.path("rules");
    laboratory.host.run("nft", &["-f", file.to_str().unwrap()]);
    assert_eq!(dig(&laboratory, "@10.7.0.1 +short alpha")?, address);
    assert_eq!(dig(&laboratory, "@10.7.0.1 +tcp +short alpha")?, address);
    drop(taken);
    Ok(())
}
