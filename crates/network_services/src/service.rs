//! The services of one network at work: packets in, replies out when what they promise is on stable storage.
//!
//! One task reads a socket's packets, some at a time; the state machines answer them in memory; their changes go to the database's writer, and one
//! task follows the writer in order: names, subscribers and replies come after the commit. When that task has much to do, packets wait in the kernel.

use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use platform::guest_warn;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::alarm::Alarm;
use crate::control::Status;
use crate::database::Database;
use crate::description::Description;
use crate::dhcpv4::{Datagram4, Dhcp4Server};
use crate::dhcpv6::Dhcp6Server;
use crate::dns::DnsServer;
use crate::lease::{Lease, LeaseChange, LeaseEvent};
use crate::mac::MacAddress;
use crate::packet_socket::LONGEST;
use crate::packets::{self, Carried};
use crate::plan::Plan;
use crate::pool::Pool;
use crate::router_advertisement::{INITIAL, INTERVAL, advertisement, is_solicitation};
use crate::sockets::{ALL_SERVERS, Dhcp4Socket, DnsSockets, Sockets, Version6Sockets, is_guest};

/// Packets that are answered before other tasks have their turn.
const TOGETHER: usize = 64;

/// Batches on their way to stable storage.
const UNDERWAY: usize = 64;

/// Events that a subscriber may be behind.
const BEHIND: usize = 4096;

/// Most solicitations that are answered in a second.
const SOLICITATIONS: u32 = 100;

/// What is done when changes are on stable storage, or are not.
type Then = Box<dyn FnOnce(bool) + Send>;

/// Changes on their way to stable storage.
struct Commit {
    receipt: oneshot::Receiver<bool>,
    events: Vec<LeaseEvent>,
    then: Then,
}

/// What may change while the service runs.
#[derive(Debug)]
struct State {
    plan: Arc<Plan>,
    dhcp4: Option<Dhcp4Server>,
    dhcp6: Option<Dhcp6Server>,
    /// What the alarm is set to.
    awaited: Option<u64>,
}

impl State {
    fn leases(&self) -> impl Iterator<Item = &Lease> {
        let pools = self.dhcp4.iter().map(|server| &server.pool);
        pools.chain(self.dhcp6.iter().map(|server| &server.pool)).flat_map(Pool::leases)
    }

    fn pools(&mut self) -> impl Iterator<Item = &mut Pool> {
        let version6 = self.dhcp6.iter_mut().map(|server| &mut server.pool);
        self.dhcp4.iter_mut().map(|server| &mut server.pool).chain(version6)
    }
}

/// The services, shared by their tasks.
pub(crate) struct Service {
    state: Mutex<State>,
    dns: Option<Arc<DnsServer>>,
    dns_port: Option<u16>,
    dhcp4: Option<Dhcp4Socket>,
    version6: Option<Version6Sockets>,
    database: Database,
    commits: mpsc::Sender<Commit>,
    subscribers: broadcast::Sender<LeaseEvent>,
    replanned: Notify,
    alarm: Alarm,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Service {
    /// Starts all tasks; they end with the set.
    pub(crate) fn start(
        plan: Plan,
        leases: &[Lease],
        sockets: Sockets,
        database: Database,
        alarm: Alarm,
    ) -> (Arc<Self>, JoinSet<()>) {
        let plan = Arc::new(plan);
        let now = now();
        let state = State {
            dhcp4: Dhcp4Server::new(&plan, leases.iter().cloned(), now),
            dhcp6: Dhcp6Server::new(&plan, leases.iter().cloned(), now),
            plan: Arc::clone(&plan),
            awaited: None,
        };
        let Sockets { dhcp4, version6, dns: dns_sockets } = sockets;
        let dns = dns_sockets.as_ref().map(|_| Arc::new(DnsServer::new(&plan, state.leases())));
        let (commits, committed) = mpsc::channel(UNDERWAY);
        let service = Arc::new(Self {
            state: Mutex::new(state),
            dns,
            dns_port: dns_sockets.as_ref().map(|sockets| sockets.port),
            dhcp4,
            version6,
            database,
            commits,
            subscribers: broadcast::Sender::new(BEHIND),
            replanned: Notify::new(),
            alarm,
        });
        service.set_alarm(&mut service.state.lock());
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&service).follow_commits(committed));
        tasks.spawn(Arc::clone(&service).expire());
        tasks.spawn(Arc::clone(&service).serve_version4());
        tasks.spawn(Arc::clone(&service).serve_version6());
        tasks.spawn(Arc::clone(&service).advertise());
        if let (Some(dns), Some(DnsSockets { datagrams, listeners, .. })) = (&service.dns, dns_sockets) {
            for socket in datagrams {
                tasks.spawn(Arc::clone(dns).serve_datagrams(socket));
            }
            for listener in listeners {
                tasks.spawn(Arc::clone(dns).serve_connections(listener));
            }
        }
        (service, tasks)
    }

    async fn follow_commits(self: Arc<Self>, mut commits: mpsc::Receiver<Commit>) {
        while let Some(Commit { receipt, events, then }) = commits.recv().await {
            let written = receipt.await.unwrap_or(false);
            // What has ended has ended, even if the database can't be told: the address may be another's soon.
            for event in events.into_iter().filter(|event| written || event.change.is_end()) {
                if let Some(dns) = &self.dns {
                    dns.follow(&event);
                }
                if event.change != LeaseChange::Forgotten {
                    // Nobody has to listen.
                    let _ = self.subscribers.send(event);
                }
            }
            then(written);
        }
    }

    /// Sends changes on their way. The permit was had before they were made, so that there is room.
    fn commit(&self, permit: mpsc::Permit<'_, Commit>, events: Vec<LeaseEvent>, then: Then) {
        if events.is_empty() {
            return then(true);
        }
        let receipt = self.database.submit(events.clone());
        permit.send(Commit { receipt, events, then });
    }

    /// Has the alarm ring when something ends next. To be called after what may have made something end sooner.
    fn set_alarm(&self, state: &mut State) {
        let next = state.pools().filter_map(|pool| pool.next_end()).min();
        if next == state.awaited {
            return;
        }
        state.awaited = next;
        if let Err(error) = self.alarm.set(next) {
            guest_warn!("the end of leases can't be waited for: {error}");
        }
    }

    async fn expire(self: Arc<Self>) {
        loop {
            pause(self.alarm.rings().await).await;
            let Ok(permit) = self.commits.reserve().await else { return };
            let mut events = Vec::new();
            {
                let mut state = self.state.lock();
                let now = now();
                events.extend(state.pools().flat_map(|pool| pool.expire(now)));
                // It has rung, and rings no more by itself.
                state.awaited = None;
                self.set_alarm(&mut state);
            }
            self.commit(permit, events, Box::new(drop));
        }
    }

    async fn serve_version4(self: Arc<Self>) {
        let Some(socket) = &self.dhcp4 else { return };
        let mut buffer = Box::new([0; LONGEST]);
        loop {
            let Some(permit) = self.ready(socket.packets.readable()).await else { return };
            let (mut at_once, mut later, mut events) = (Vec::new(), Vec::new(), Vec::new());
            let received = {
                let mut state = self.state.lock();
                let mut answer = || -> io::Result<()> {
                    for _ in 0..TOGETHER {
                        let Some((length, mac)) = socket.packets.receive(&mut buffer)? else { break };
                        let message = buffer.get(..length).and_then(packets::udp_in_version4);
                        let (Some(message), Some(server)) = (message, &mut state.dhcp4) else { continue };
                        let outcome = server.handle(message, mac, now());
                        let promises = !outcome.events.is_empty();
                        events.extend(outcome.events);
                        if promises { &mut later } else { &mut at_once }.extend(outcome.reply);
                    }
                    Ok(())
                };
                let received = answer();
                self.set_alarm(&mut state);
                received
            };
            send4(socket, &at_once);
            let service = Arc::clone(&self);
            let then = move |written: bool| {
                if let Some(socket) = service.dhcp4.as_ref().filter(|_| written) {
                    send4(socket, &later);
                }
            };
            self.commit(permit, events, Box::new(then));
            pause(received).await;
        }
    }

    async fn serve_version6(self: Arc<Self>) {
        let Some(socket) = &self.version6 else { return };
        let mut buffer = Box::new([0; LONGEST]);
        let mut solicited = Solicited::default();
        loop {
            let Some(permit) = self.ready(socket.packets.readable()).await else { return };
            let (mut at_once, mut later, mut events, mut solicitors) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let received = {
                let mut state = self.state.lock();
                let mut answer = || -> io::Result<()> {
                    for _ in 0..TOGETHER {
                        let Some((length, mac)) = socket.packets.receive(&mut buffer)? else { break };
                        let Some((from, to, carried)) = buffer.get(..length).and_then(packets::in_version6)
                        else {
                            continue;
                        };
                        match (carried, &mut state.dhcp6) {
                            (Carried::Udp(message), Some(server))
                                if to == ALL_SERVERS && is_guest(mac, from) =>
                            {
                                let outcome = server.handle(message, mac, now());
                                let promises = !outcome.events.is_empty();
                                events.extend(outcome.events);
                                let reply = outcome.reply.map(|reply| (reply, from));
                                if promises { &mut later } else { &mut at_once }.extend(reply);
                            }
                            (Carried::Icmp(message), _) if is_solicitation(message) => solicitors.push(from),
                            _ => {}
                        }
                    }
                    Ok(())
                };
                let received = answer();
                self.set_alarm(&mut state);
                received
            };
            send6(socket, &at_once);
            for guest in solicitors {
                if solicited.admit() {
                    self.send_advertisement(false, Some(guest).filter(Ipv6Addr::is_unicast_link_local));
                }
            }
            let service = Arc::clone(&self);
            let then = move |written: bool| {
                if let Some(socket) = service.version6.as_ref().filter(|_| written) {
                    send6(socket, &later);
                }
            };
            self.commit(permit, events, Box::new(then));
            pause(received).await;
        }
    }

    /// Waits for packets, and for room for what they change.
    async fn ready(
        &self,
        readable: impl Future<Output = io::Result<()>>,
    ) -> Option<mpsc::Permit<'_, Commit>> {
        pause(readable.await).await;
        self.commits.reserve().await.ok()
    }

    /// Advertises the router: soon after the start, now and then, and when the plan changes.
    async fn advertise(self: Arc<Self>) {
        if self.version6.is_none() {
            return;
        }
        let (mut sent, (initially, apart)) = (0, INITIAL);
        loop {
            self.send_advertisement(false, None);
            sent += 1;
            let mut jitter = [0];
            // Without random numbers all of a host's networks advertise at once, which harms nobody.
            let _ = rustix::rand::getrandom(&mut jitter, rustix::rand::GetRandomFlags::empty());
            let interval = if sent < initially { apart } else { INTERVAL - u64::from(jitter[0]) };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(interval)) => {}
                () = self.replanned.notified() => {}
            }
        }
    }

    /// Sends an advertisement, if there are any.
    pub(crate) fn send_advertisement(&self, ending: bool, guest: Option<Ipv6Addr>) {
        let message = advertisement(&self.state.lock().plan, ending);
        if let (Some(message), Some(socket)) = (message, &self.version6)
            && let Err(error) = socket.advertise(&message, guest)
        {
            // A bridge without ports has no link-local address yet; who comes asks.
            tracing::debug!("an advertisement is not sent: {error}");
        }
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.state.lock();
        let description = &state.plan.description;
        Status {
            network: description.name.clone(),
            bridge: description.bridge.clone(),
            pid: std::process::id(),
            dns_port: self.dns_port,
            leases: state.leases().count(),
            questions: self.dns.as_ref().map_or(0, |dns| dns.underway()),
        }
    }

    /// The leases in force.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let now = now();
        self.state.lock().leases().filter(|lease| !lease.is_over(now)).cloned().collect()
    }

    /// The leases in force, and what happens to leases after that.
    pub(crate) fn subscribe(&self) -> (Vec<Lease>, broadcast::Receiver<LeaseEvent>) {
        let events = self.subscribers.subscribe();
        (self.leases(), events)
    }

    /// Takes another description, all of it or nothing.
    pub(crate) fn reload(&self, description: Description) -> Result<(), String> {
        let plan = Arc::new(description.check().map_err(|error| error.to_string())?);
        let mut state = self.state.lock();
        fixed(&state.plan, &plan)?;
        state.dhcp4 = state.dhcp4.take().and_then(|server| Dhcp4Server::of(&plan, server.pool));
        state.dhcp6 = state.dhcp6.take().and_then(|server| Dhcp6Server::of(&plan, server.pool));
        if let Some(dns) = &self.dns {
            dns.replan(&plan);
        }
        state.plan = plan;
        drop(state);
        self.replanned.notify_one();
        Ok(())
    }

    /// Ends the leases of a guest, and returns them when that is on stable storage.
    pub(crate) async fn release(&self, mac: MacAddress) -> Result<Vec<Lease>, String> {
        let Ok(permit) = self.commits.reserve().await else { return Err("the service ends".into()) };
        let mut events = Vec::new();
        {
            let mut state = self.state.lock();
            let now = now();
            events.extend(state.pools().flat_map(|pool| pool.release_all(mac, now)));
        }
        let leases = events.iter().map(|event| event.lease.clone()).collect();
        let (told, written) = oneshot::channel();
        self.commit(
            permit,
            events,
            Box::new(move |written| {
                // Who asked may be gone.
                let _ = told.send(written);
            }),
        );
        match written.await {
            Ok(true) => Ok(leases),
            _ => Err("the leases can't be written".into()),
        }
    }
}

/// What sockets and identities are made of can't be changed while they are there.
fn fixed(old: &Plan, new: &Plan) -> Result<(), String> {
    let identity = |plan: &Plan| {
        let it = &plan.description;
        (it.bridge.clone(), plan.uuid, it.addresses.clone(), plan.own4, plan.own6)
    };
    let services = |plan: &Plan| {
        let it = &plan.description;
        (it.dhcp4.is_some(), it.dhcp6.is_some(), it.router_advertisements.is_some(), it.dns.is_some())
    };
    let network = &new.description.name;
    if identity(old) != identity(new) {
        return Err(format!(
            "network {network:?}: its bridge, UUID and addresses stay while it runs: start it again"
        ));
    }
    if services(old) != services(new) {
        return Err(format!(
            "network {network:?}: DHCP, advertisements and DNS begin and end with it: start it again"
        ));
    }
    Ok(())
}

fn send4(socket: &Dhcp4Socket, replies: &[Datagram4]) {
    for reply in replies {
        if let Err(error) = socket.send(reply) {
            guest_warn!("a DHCP reply to {} is not sent: {error}", reply.mac);
        }
    }
}

fn send6(socket: &Version6Sockets, replies: &[(Vec<u8>, Ipv6Addr)]) {
    for (reply, guest) in replies {
        if let Err(error) = socket.reply(reply, *guest) {
            guest_warn!("a DHCPv6 reply to {guest} is not sent: {error}");
        }
    }
}

/// After an error of a socket that goes by (the bridge is down): does not keep a processor busy with it.
async fn pause(result: io::Result<()>) {
    if let Err(error) = result {
        guest_warn!("DHCP: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many solicitations were answered in this second.
#[derive(Debug, Default)]
struct Solicited {
    since: Option<Instant>,
    count: u32,
}

impl Solicited {
    fn admit(&mut self) -> bool {
        if self.since.is_none_or(|since| since.elapsed() >= Duration::from_secs(1)) {
            *self = Self { since: Some(Instant::now()), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= SOLICITATIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::answer_of;

    /// The database goes away after the first lease.
    #[tokio::test]
    async fn a_name_is_gone_with_its_lease_even_if_the_end_can_not_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.sqlite");
        let description: Description = serde_json::from_str(include_str!("plan/everything.json")).unwrap();
        let plan = description.check().unwrap();
        let lease = Lease {
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            address: "10.7.0.150".parse().unwrap(),
            prefix: 24,
            hostname: Some("guest".into()),
            client_id: None,
            iaid: None,
            since: 1,
            expires: None,
        };
        let opened = crate::database::open(&path).unwrap();
        opened.lose();
        let dns = DnsSockets { datagrams: Vec::new(), listeners: Vec::new(), port: 53 };
        let sockets = Sockets { dhcp4: None, version6: None, dns: Some(dns) };
        let database = opened.start().unwrap();
        let alarm = Alarm::new().unwrap();
        let (service, _tasks) = Service::start(plan, std::slice::from_ref(&lease), sockets, database, alarm);
        let (known, mut events) = service.subscribe();
        assert_eq!(known, std::slice::from_ref(&lease));
        let named = || answer_of(service.dns.as_ref().unwrap(), "guest.").contains("10.7.0.150");
        assert!(named());
        assert!(service.release(lease.mac).await.is_err(), "it is not on stable storage");
        assert_eq!(events.try_recv().unwrap().change, LeaseChange::Released);
        assert!(!named());
        assert_eq!(service.leases(), []);
    }
}
