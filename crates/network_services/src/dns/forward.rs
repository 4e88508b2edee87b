//! Asking others: each question on a socket of its own, connected to one server, with a port that the kernel and a number that we choose at
//! random (RFC 5452), so that nobody else's answer is taken.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::LONGEST;
use super::answer::{Question, Transport, is_of_no_use};
use super::resolv_conf::ResolvConf;
use crate::plan::{Plan, domain_name};

/// How long a server has to answer. With three servers a guest has its answer, or is told that there is none, before it gives up.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Most servers that are asked one question.
const SERVERS: usize = 3;

/// Servers for a domain; no domain for all names.
#[derive(Debug)]
struct Servers {
    domain: Option<Name>,
    /// The host's resolvers if empty.
    addresses: Vec<SocketAddr>,
}

/// Who can be asked.
#[derive(Debug)]
struct Known {
    plan: Arc<Plan>,
    lists: Vec<Servers>,
    host: ResolvConf,
    /// Who answered last, of the servers for each domain: one that is gone is waited for once.
    answered: HashMap<Option<Name>, SocketAddr>,
}

/// Asks others.
#[derive(Debug)]
pub(super) struct Forwarding {
    known: Mutex<Known>,
}

impl Known {
    /// The servers of the longest domain that a name is in. Never ourselves; who answered last at the beginning.
    fn servers_of(&mut self, name: &Name) -> (Option<Name>, Vec<SocketAddr>) {
        let applies = |servers: &&Servers| servers.domain.as_ref().is_none_or(|domain| domain.zone_of(name));
        let labels = |servers: &&Servers| servers.domain.as_ref().map(Name::num_labels);
        let list = self.lists.iter().filter(applies).max_by_key(labels);
        let domain = list.and_then(|list| list.domain.clone());
        let mut addresses = match list.filter(|list| !list.addresses.is_empty()) {
            Some(list) => list.addresses.clone(),
            None => self.host.servers().to_vec(),
        };
        let own = &self.plan.description.addresses;
        addresses
            .retain(|address| address.port() != 53 || !own.iter().any(|own| own.address == address.ip()));
        let last = self.answered.get(&domain);
        if let Some(place) = addresses.iter().position(|address| Some(address) == last) {
            addresses.rotate_left(place);
        }
        (domain, addresses)
    }
}

impl Forwarding {
    pub(super) fn new(plan: &Arc<Plan>, host: ResolvConf) -> Self {
        let known = Known { plan: Arc::clone(plan), lists: lists(plan), host, answered: HashMap::new() };
        Self { known: Mutex::new(known) }
    }

    /// Asks whom this plan names from now on.
    pub(super) fn replan(&self, plan: &Arc<Plan>) {
        let mut known = self.known.lock();
        (known.plan, known.lists) = (Arc::clone(plan), lists(plan));
        known.answered.clear();
    }

    /// The answer that others give; that there is none if nobody does.
    pub(super) async fn ask(&self, question: &Question) -> Vec<u8> {
        let (domain, servers) = self.known.lock().servers_of(question.name());
        let mut useless = None;
        for server in servers.into_iter().take(SERVERS) {
            match timeout(PATIENCE, ask_one(question, server)).await {
                Ok(Ok(answer)) if is_of_no_use(&answer) => useless = Some(answer),
                Ok(Ok(answer)) => {
                    self.known.lock().answered.insert(domain, server);
                    return answer;
                }
                Ok(Err(error)) => tracing::debug!("{server} does not answer: {error}"),
                Err(_) => tracing::debug!("{server} does not answer"),
            }
        }
        useless.unwrap_or_else(|| question.refuse(ResponseCode::ServFail))
    }
}

/// The servers that a plan names, by domain.
fn lists(plan: &Plan) -> Vec<Servers> {
    let mut all: Vec<Servers> = Vec::new();
    for forwarder in plan.description.dns.iter().flat_map(|dns| &dns.forwarders) {
        let domain = forwarder.domain.as_ref().and_then(|domain| domain_name(domain).ok());
        match all.iter_mut().find(|servers| servers.domain == domain) {
            Some(servers) => servers.addresses.extend(forwarder.address),
            None => all.push(Servers { domain, addresses: forwarder.address.into_iter().collect() }),
        }
    }
    all
}

async fn ask_one(question: &Question, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let asked = question.to_ask(u16::from_be_bytes(id)).ok_or(io::ErrorKind::InvalidInput)?;
    if question.transport() == Transport::Tcp {
        return by_stream(question, &asked, server).await;
    }
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = question.relay(&asked, buffer[..length].to_vec()) {
            return Ok(answer);
        }
    }
}

async fn by_stream(question: &Question, asked: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(asked);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    question.relay(asked, answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{Description, Forwarder};

    #[test]
    fn who_answered_last_for_a_domain_is_asked_first_for_that_domain_alone() {
        let server = |last| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 53));
        let mut description: Description =
            serde_json::from_str(include_str!("../plan/everything.json")).unwrap();
        description.dns.as_mut().unwrap().forwarders =
            [(1, None), (2, None), (3, Some("corp.test")), (4, Some("corp.test"))]
                .map(|(last, domain)| Forwarder {
                    address: Some(server(last)),
                    domain: domain.map(str::to_owned),
                })
                .into();
        let plan = Arc::new(description.check().unwrap());
        let forwarding = Forwarding::new(&plan, ResolvConf::new("/nonexistent"));
        let (inside, outside) =
            (Name::from_ascii("a.corp.test.").unwrap(), Name::from_ascii("b.test.").unwrap());
        let mut known = forwarding.known.lock();
        let (domain, servers) = known.servers_of(&inside);
        assert_eq!(servers, [server(3), server(4)]);
        known.answered.insert(domain, server(4));
        assert_eq!(known.servers_of(&inside).1, [server(4), server(3)]);
        assert_eq!(known.servers_of(&outside).1, [server(1), server(2)]);
        drop(known);
        forwarding.replan(&plan);
        assert_eq!(forwarding.known.lock().servers_of(&inside).1, [server(3), server(4)]);
    }
}
