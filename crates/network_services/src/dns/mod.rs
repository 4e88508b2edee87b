//! Name service (RFC 1034, RFC 1035, RFC 6891, RFC 7766): the network's own names, and what others know.
//!
//! Each of the host's addresses on the bridge has a task for datagrams and one for connections; questions that go to others have a task each. Only
//! who is on the network is answered, and only so many questions and connections of one guest are worked on at a time.

mod answer;
mod forward;
mod places;
mod resolv_conf;
mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use parking_lot::Mutex;
use platform::guest_warn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use self::answer::{Action, Question, Transport};
use self::forward::Forwarding;
use self::places::{Place, Places};
use self::resolv_conf::ResolvConf;
use self::zone::Zone;
use crate::lease::{Lease, LeaseEvent};
use crate::plan::Plan;

/// Most connections at a time, of all guests and of one.
const CONNECTIONS: usize = 128;
const CONNECTIONS_OF_ONE: usize = 16;

/// How long a connection may be silent (RFC 7766, section 6.2.3), and how long an answer may take to be sent.
const SILENCE: Duration = Duration::from_secs(10);

/// Most questions that others are being asked, of all guests and of one.
const UNDERWAY: usize = 512;
const UNDERWAY_OF_ONE: usize = 64;

/// Longest datagram and question, bytes: a name has 255 at most, and nobody is told that we take longer answers.
const LONGEST: usize = 4096;

/// The service, shared by its tasks.
#[derive(Debug)]
pub(crate) struct DnsServer {
    zone: Mutex<Zone>,
    forwarding: Arc<Forwarding>,
    questions: Arc<Places>,
    connections: Arc<Places>,
}

/// A question's way: what can be said at once, and what others are asked first.
enum Asked {
    Nothing,
    Answered(Vec<u8>),
    Forwarded(Question, Place),
}

impl DnsServer {
    pub(crate) fn new<'a>(plan: &Arc<Plan>, leases: impl IntoIterator<Item = &'a Lease>) -> Self {
        let host = ResolvConf::new("/etc/resolv.conf");
        Self {
            zone: Mutex::new(Zone::new(plan, leases)),
            forwarding: Arc::new(Forwarding::new(plan, host)),
            questions: Places::new(UNDERWAY, UNDERWAY_OF_ONE),
            connections: Places::new(CONNECTIONS, CONNECTIONS_OF_ONE),
        }
    }

    /// Takes another plan in place of the present one.
    pub(crate) fn replan(&self, plan: &Arc<Plan>) {
        self.zone.lock().replan(plan);
        self.forwarding.replan(plan);
    }

    /// Follows what happened to a lease.
    pub(crate) fn follow(&self, event: &LeaseEvent) {
        self.zone.lock().follow(event);
    }

    /// How many questions others are being asked.
    pub(crate) fn underway(&self) -> usize {
        self.questions.taken()
    }

    fn ask(&self, bytes: &[u8], transport: Transport, guest: IpAddr) -> Asked {
        let action = {
            let zone = self.zone.lock();
            if !zone.has(guest) {
                guest_warn!(
                    "a question for names from {guest}, which is not on the network, is not answered"
                );
                return Asked::Nothing;
            }
            // From one of our own addresses the host asks: it has resolvers, and would be asked in turn.
            answer::answer(bytes, transport, &zone, !zone.is_own(guest))
        };
        match action {
            Action::Ignore => Asked::Nothing,
            Action::Answer(answer) => Asked::Answered(answer),
            Action::Forward(question) => match self.questions.take(guest) {
                Some(place) => Asked::Forwarded(question, place),
                None => {
                    guest_warn!("{guest} asks for too many names at once");
                    Asked::Answered(question.refuse(ResponseCode::ServFail))
                }
            },
        }
    }

    /// Answers datagrams for as long as the task lives.
    pub(crate) async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, guest) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            };
            match self.ask(&buffer[..length], Transport::Udp, guest.ip()) {
                Asked::Nothing => {}
                Asked::Answered(answer) => send(&socket, &answer, guest),
                Asked::Forwarded(question, place) => {
                    let (socket, forwarding) = (Arc::clone(&socket), Arc::clone(&self.forwarding));
                    tokio::spawn(async move {
                        let answer = forwarding.ask(&question).await;
                        send(&socket, &answer, guest);
                        drop(place);
                    });
                }
            }
        }
    }

    /// Answers connections for as long as the task lives.
    pub(crate) async fn serve_connections(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, guest)) => {
                    if !self.zone.lock().has(guest.ip()) {
                        continue;
                    }
                    let Some(connection) = self.connections.take(guest.ip()) else { continue };
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        let served = server.serve_connection(stream, guest.ip()).await;
                        if let Err(error) = served {
                            tracing::debug!("a connection for names ends: {error}");
                        }
                        drop(connection);
                    });
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream, guest: IpAddr) -> io::Result<()> {
        loop {
            let length = match timeout(SILENCE, stream.read_u16()).await {
                Ok(Ok(length)) => usize::from(length),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            if length > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut bytes = vec![0; length];
            timeout(SILENCE, stream.read_exact(&mut bytes)).await??;
            let answer = match self.ask(&bytes, Transport::Tcp, guest) {
                Asked::Nothing => return Ok(()),
                Asked::Answered(answer) => answer,
                Asked::Forwarded(question, _place) => self.forwarding.ask(&question).await,
            };
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend(answer);
            timeout(SILENCE, stream.write_all(&framed)).await??;
        }
    }
}

/// Sends, or does not: a guest whose answers find no room asks again.
fn send(socket: &UdpSocket, answer: &[u8], guest: SocketAddr) {
    if !answer.is_empty()
        && let Err(error) = socket.try_send_to(answer, guest)
    {
        tracing::debug!("an answer for {guest} is lost: {error}");
    }
}

/// After an error of a socket that goes by (the bridge is down, no descriptor is left): does not keep a processor busy with it.
async fn pause(error: &io::Error) {
    guest_warn!("name service: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// The answer of a server with nothing but a plan and leases; if others are to be asked, with `foreign` for what they say.
#[cfg(any(fuzzing, test))]
pub(crate) fn answer_alone(
    plan: &Arc<Plan>,
    leases: &[Lease],
    bytes: &[u8],
    stream: bool,
    foreign: &[u8],
) -> Option<Vec<u8>> {
    let zone = Zone::new(plan, leases);
    let transport = if stream { Transport::Tcp } else { Transport::Udp };
    match answer::answer(bytes, transport, &zone, true) {
        Action::Ignore => None,
        Action::Answer(answer) => Some(answer),
        Action::Forward(question) => {
            let asked = question.to_ask(7)?;
            question.relay(&asked, foreign.to_vec());
            // The question again with something after it.
            let mut answer = asked.clone();
            *answer.get_mut(2)? |= 0x80;
            answer.extend(foreign);
            question.relay(&asked, answer)
        }
    }
}

/// What the server says of a name's IPv4 address, as text.
#[cfg(test)]
pub(crate) fn answer_of(server: &DnsServer, name: &str) -> String {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    match answer::answer(&question.to_vec().unwrap(), Transport::Udp, &server.zone.lock(), false) {
        Action::Answer(answer) => format!("{:?}", Message::from_vec(&answer).unwrap().answers),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
