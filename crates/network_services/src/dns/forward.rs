//! Asking others: each question on a socket of its own, connected to one server, with a port that the kernel and a number that we choose at
//! random (RFC 5452), so that nobody else's answer is taken.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::{Question, Transport, is_of_no_use};
use super::resolv_conf::ResolvConf;
use crate::plan::{Plan, domain_name};

/// How long a server has to answer. With three servers a guest has its answer, or is told that there is none, before it gives up.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Most servers that are asked one question.
const SERVERS: usize = 3;

/// Most questions on their way, of all guests and of one.
const UNDERWAY: usize = 512;
const UNDERWAY_OF_ONE: usize = 64;

/// Longest datagram that is taken as an answer, bytes.
const LONGEST: usize = 4096;

/// Servers for a domain; no domain for all names.
#[derive(Debug)]
struct Servers {
    domain: Option<Name>,
    /// The host's resolvers if empty.
    addresses: Vec<SocketAddr>,
}

/// Who is asked, and how many questions are on their way.
#[derive(Debug)]
pub(super) struct Forwarding {
    servers: Mutex<Vec<Servers>>,
    own: Mutex<Vec<IpAddr>>,
    host: Mutex<ResolvConf>,
    /// Which of the host's or general servers answered last: one that is gone is waited for once.
    first: AtomicUsize,
    underway: Mutex<HashMap<IpAddr, usize>>,
}

/// The place of one question; the next one has it when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    forwarding: Arc<Forwarding>,
    guest: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut underway = self.forwarding.underway.lock();
        if let Some(count) = underway.get_mut(&self.guest) {
            *count -= 1;
            if *count == 0 {
                underway.remove(&self.guest);
            }
        }
    }
}

impl Forwarding {
    pub(super) fn new(plan: &Plan, host: ResolvConf) -> Self {
        let forwarding = Self {
            servers: Mutex::default(),
            own: Mutex::default(),
            host: Mutex::new(host),
            first: AtomicUsize::new(0),
            underway: Mutex::default(),
        };
        forwarding.replan(plan);
        forwarding
    }

    /// Asks whom this plan names from now on.
    pub(super) fn replan(&self, plan: &Plan) {
        let mut all: Vec<Servers> = Vec::new();
        for forwarder in plan.description.dns.iter().flat_map(|dns| &dns.forwarders) {
            let domain = forwarder.domain.as_ref().and_then(|domain| domain_name(domain).ok());
            match all.iter_mut().find(|servers| servers.domain == domain) {
                Some(servers) => servers.addresses.extend(forwarder.address),
                None => all.push(Servers { domain, addresses: forwarder.address.into_iter().collect() }),
            }
        }
        *self.servers.lock() = all;
        *self.own.lock() = plan.description.addresses.iter().map(|own| own.address).collect();
    }

    /// A place for a question of this guest, if there is one.
    pub(super) fn place(self: &Arc<Self>, guest: IpAddr) -> Option<Place> {
        let mut underway = self.underway.lock();
        let all: usize = underway.values().sum();
        let of_one = underway.entry(guest).or_default();
        if all >= UNDERWAY || *of_one >= UNDERWAY_OF_ONE {
            if *of_one == 0 {
                underway.remove(&guest);
            }
            return None;
        }
        *of_one += 1;
        Some(Place { forwarding: Arc::clone(self), guest })
    }

    /// How many questions are on their way.
    pub(super) fn underway(&self) -> usize {
        self.underway.lock().values().sum()
    }

    /// Who is asked for a name: the servers of the longest domain that it is in. Never ourselves.
    fn servers_of(&self, name: &Name) -> Vec<SocketAddr> {
        let mut addresses = {
            let servers = self.servers.lock();
            let applies =
                |servers: &&Servers| servers.domain.as_ref().is_none_or(|domain| domain.zone_of(name));
            let labels = |servers: &&Servers| servers.domain.as_ref().map(Name::num_labels);
            servers
                .iter()
                .filter(applies)
                .max_by_key(labels)
                .map(|servers| servers.addresses.clone())
                .unwrap_or_default()
        };
        if addresses.is_empty() {
            addresses = self.host.lock().servers().to_vec();
        }
        let own = self.own.lock();
        addresses.retain(|address| address.port() != 53 || !own.contains(&address.ip()));
        addresses
    }

    /// The answer that others give; that there is none if nobody does.
    pub(super) async fn ask(&self, question: &Question) -> Vec<u8> {
        let servers = self.servers_of(question.name());
        let first = self.first.load(Ordering::Relaxed);
        let mut useless = None;
        for step in 0..servers.len().min(SERVERS) {
            let place = (first + step) % servers.len();
            match timeout(PATIENCE, ask_one(question, servers[place])).await {
                Ok(Ok(answer)) if is_of_no_use(&answer) => useless = Some(answer),
                Ok(Ok(answer)) => {
                    self.first.store(place, Ordering::Relaxed);
                    return answer;
                }
                Ok(Err(error)) => tracing::debug!("{} does not answer: {error}", servers[place]),
                Err(_) => tracing::debug!("{} does not answer", servers[place]),
            }
        }
        useless.unwrap_or_else(|| question.refuse(ResponseCode::ServFail))
    }
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
