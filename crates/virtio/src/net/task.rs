//! One queue pair of an interface at work.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use net_io::NetError;
use platform::guest_warn;
use platform::worker::{Interest, Poller, Task};

use super::device::{PairBackend, Peer, Settings, Shared};
use super::guest_offloads;
use super::receive::{Received, Receiver};
use super::send::{Link, Sender};
use crate::device::{ActiveQueue, DeviceEvents, GuestMemory};
use crate::queue::QueueFault;
use crate::running::wake;

/// The driver has made receive buffers available, or the settings or the link have changed.
const RX_KICK: u16 = 0;
/// The driver has made frames available.
const TX_KICK: u16 = 1;
/// The backend has frames or can take some.
const BACKEND: u16 = 2;

pub(super) struct PairTask {
    pair: u16,
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    control_kick: Option<Arc<OwnedFd>>,
    backend: PairBackend,
    receiver: Receiver,
    sender: Sender,
    memory: Arc<GuestMemory>,
    events: Arc<dyn DeviceEvents>,
    /// Version of the settings in force.
    applied: Option<u64>,
    /// The driver uses the pair.
    enabled: bool,
    /// The last attempt to receive, if it found the way blocked.
    obstacle: Option<Obstacle>,
    /// What is waited for on the backend's descriptor.
    watched: Option<Interest>,
    /// The guest broke a queue, or the task is leaving: nothing is touched any more.
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// The guest has no buffers.
    Starved,
    /// The backend failed.
    Failed,
}

impl PairTask {
    #[expect(clippy::too_many_arguments, reason = "everything that a pair consists of, in one place")]
    pub(super) fn new(
        pair: u16,
        shared: Arc<Shared>,
        peer: Arc<Peer>,
        control_kick: Option<Arc<OwnedFd>>,
        backend: PairBackend,
        receiver: Receiver,
        sender: Sender,
        memory: Arc<GuestMemory>,
        events: Arc<dyn DeviceEvents>,
    ) -> Self {
        Self {
            pair,
            shared,
            peer,
            control_kick,
            backend,
            receiver,
            sender,
            memory,
            events,
            applied: None,
            enabled: false,
            obstacle: None,
            watched: None,
            quiet: false,
        }
    }

    /// Number, backend, receive queue and transmit queue.
    pub(super) fn into_parts(self) -> (u16, PairBackend, ActiveQueue, ActiveQueue) {
        (self.pair, self.backend, self.receiver.active, self.sender.active)
    }

    /// Brings the backend in line with what the driver has chosen, and tells the control task.
    fn apply_settings(&mut self) {
        let settings = *self.shared.settings.lock();
        if self.applied == Some(settings.version) {
            return;
        }
        self.enabled = self.pair < settings.pairs;
        self.obstacle = None;
        let outcome = self.configure(&settings);
        if let Err(error) = &outcome {
            guest_warn!(pair = self.pair, %error, "network backend refuses the driver's settings");
            self.obstacle = Some(Obstacle::Failed);
        }
        self.applied = Some(settings.version);
        self.peer.failed.store(outcome.is_err(), Ordering::Relaxed);
        // Release: whoever sees the version sees the outcome.
        self.peer.applied.store(settings.version, Ordering::Release);
        if let Some(control) = &self.control_kick {
            wake(control);
        }
    }

    fn configure(&mut self, settings: &Settings) -> Result<(), NetError> {
        self.backend.set_enabled(self.enabled)?;
        if self.enabled {
            self.backend.backend.set_guest_offloads(guest_offloads(settings.offloads))?;
        }
        Ok(())
    }

    fn work(&mut self, token: u16) -> Result<(), QueueFault> {
        self.apply_settings();
        let link = if self.enabled && self.shared.is_link_up() { Link::Up } else { Link::Down };
        let counters = &self.shared.counters;
        let backend = self.backend.backend.as_mut();
        let blocked = self.sender.is_blocked();
        if (token == TX_KICK && !blocked) || (blocked && (token == BACKEND || link == Link::Down)) {
            self.sender.run(backend, link, &self.memory, counters)?;
        }
        if token != TX_KICK && self.enabled && self.obstacle != Some(Obstacle::Failed) {
            let received = match link {
                Link::Up => self.receiver.run(backend, &self.memory, counters)?,
                Link::Down => self.receiver.discard(backend, counters),
            };
            self.obstacle = match received {
                Received::Waiting => None,
                Received::Starved => Some(Obstacle::Starved),
                Received::Failed => Some(Obstacle::Failed),
                Received::Gone => {
                    self.lose_carrier();
                    Some(Obstacle::Failed)
                }
            };
        }
        for active in [&mut self.receiver.active, &mut self.sender.active] {
            if active.queue.wants_interrupt(&self.memory)? {
                active.interrupt.signal();
            }
        }
        Ok(())
    }

    /// The guest sees a pulled cable, once, and goes on.
    fn lose_carrier(&self) {
        if self.shared.carrier.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                pair = self.pair,
                "nothing carries the interface's frames any more: its link is down"
            );
            self.events.config_changed();
        }
    }

    /// Waits on the backend for just what can be acted on: descriptors report readiness for as long as it lasts.
    fn watch_backend(&mut self, poller: &mut Poller<'_>) {
        let wanted = match (self.enabled && self.obstacle.is_none(), self.sender.is_blocked()) {
            _ if self.quiet => None,
            (true, true) => Some(Interest::ReadWrite),
            (true, false) => Some(Interest::Read),
            (false, true) => Some(Interest::Write),
            (false, false) => None,
        };
        if wanted == self.watched {
            return;
        }
        let fd = self.backend.backend.ready_fd();
        let outcome = match (self.watched, wanted) {
            (_, None) => {
                poller.unwatch(fd);
                Ok(())
            }
            (None, Some(interest)) => poller.watch(fd, BACKEND, interest),
            (Some(_), Some(interest)) => poller.rewatch(fd, BACKEND, interest),
        };
        match outcome {
            Ok(()) => self.watched = wanted,
            Err(error) => {
                guest_warn!(pair = self.pair, %error, "cannot wait for the network backend");
                self.obstacle = Some(Obstacle::Failed);
            }
        }
    }
}

impl Task for PairTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&self.receiver.active.kick, RX_KICK, Interest::ReadEdge)?;
        poller.watch(&self.sender.active.kick, TX_KICK, Interest::ReadEdge)?;
        wake(&self.receiver.active.kick);
        wake(&self.sender.active.kick);
        Ok(())
    }

    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        if self.quiet {
            return;
        }
        if let Err(fault) = self.work(token) {
            guest_warn!(pair = self.pair, %fault, "network queue is broken");
            self.quiet = true;
            poller.unwatch(&self.receiver.active.kick);
            poller.unwatch(&self.sender.active.kick);
            self.events.needs_reset();
        }
        self.watch_backend(poller);
    }

    fn quiesce(&mut self, poller: &mut Poller<'_>) -> bool {
        self.quiet = true;
        self.watch_backend(poller);
        self.receiver.put_back(&self.shared.counters);
        self.sender.put_back();
        true
    }
}
