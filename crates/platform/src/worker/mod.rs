//! Threads that work for devices: an epoll loop that hosts tasks and gives each back whole when asked.
//!
//! A [`Worker`] is a value: it joins its thread when dropped, after every task has wound down. A task is *moved* into the
//! worker by [`WorkerHandle::attach`] and moved back out by [`Attached::detach`], so a device's queues are owned by
//! exactly one thread at any time and need no lock. Several devices may share one worker (the default: few threads,
//! little memory) or have their own (I/O threads).
//!
//! Threads: one a worker. Locks: the mailbox's and one slot's, each held for a push or a take only.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};

/// Work that a [`Worker`] does whenever a descriptor is ready.
pub trait Task: Send + 'static {
    /// Names the descriptors to wait for. Called once by [`WorkerHandle::attach`], on the caller's thread, before the
    /// worker sees the task. On an error the task is handed back to the caller.
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()>;

    /// Works because the descriptor that was registered as `token` is ready. Called on the worker's thread. May be called
    /// spuriously; must not block; bounds the work of one call, so that tasks on the same worker all get on.
    fn ready(&mut self, token: u16, poller: &mut Poller<'_>);

    /// Takes on no new work from now on and returns whether nothing is in flight any more. Called when the task is to be
    /// handed back, then again after each `ready`, until it returns true.
    fn quiesce(&mut self, poller: &mut Poller<'_>) -> bool;
}

/// What a task waits for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Readable, reported as long as it is.
    Read,
    /// Readable, reported once for each new arrival: an eventfd need not be read back.
    ReadEdge,
    /// Writable, reported as long as it is.
    Write,
    /// Readable or writable, reported as long as it is.
    ReadWrite,
    /// Errors and hang-ups only.
    Hangup,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        use epoll::EventFlags as F;
        match self {
            Self::Read => F::IN,
            Self::ReadEdge => F::IN | F::ET,
            Self::Write => F::OUT,
            Self::ReadWrite => F::IN | F::OUT,
            Self::Hangup => F::empty(),
        }
    }
}

/// A descriptor in the epoll set and what it was registered with.
#[derive(Debug, Clone, Copy)]
struct Watched {
    raw: RawFd,
    token: u16,
    interest: Interest,
}

/// Whether registrations take effect at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arming {
    /// The worker has the task: events may be delivered.
    Now,
    /// The task is on its way to the worker: an event would find nobody, and an edge would be lost. Descriptors are
    /// entered into the set (so that errors are known at once) and armed when the task arrives.
    OnArrival,
}

/// A task's view of its worker: the set of descriptors it waits for.
#[derive(Debug)]
pub struct Poller<'a> {
    epoll: BorrowedFd<'a>,
    task: u64,
    arming: Arming,
    watched: &'a mut Vec<Watched>,
}

impl Poller<'_> {
    fn data(&self, token: u16) -> epoll::EventData {
        epoll::EventData::new_u64(self.task << 16 | u64::from(token))
    }

    fn flags(&self, interest: Interest) -> epoll::EventFlags {
        match self.arming {
            Arming::Now => interest.flags(),
            // Only errors are reported, and only once.
            Arming::OnArrival => epoll::EventFlags::ONESHOT,
        }
    }

    /// Waits for `interest` on `fd`, to be reported as `token`. The descriptor must stay open until [`Poller::unwatch`] or
    /// until the task has been handed back: its number might be another's by then. One descriptor can be watched once
    /// on a worker; a duplicate of it can be watched as well.
    pub fn watch(&mut self, fd: impl AsFd, token: u16, interest: Interest) -> io::Result<()> {
        let fd = fd.as_fd();
        epoll::add(self.epoll, fd, self.data(token), self.flags(interest))?;
        self.watched.push(Watched { raw: fd.as_raw_fd(), token, interest });
        Ok(())
    }

    /// Changes what is waited for on `fd`, which is watched already. An edge that has been reported is reported again if
    /// the descriptor is still ready.
    pub fn rewatch(&mut self, fd: impl AsFd, token: u16, interest: Interest) -> io::Result<()> {
        let fd = fd.as_fd();
        epoll::modify(self.epoll, fd, self.data(token), self.flags(interest))?;
        for watched in self.watched.iter_mut().filter(|watched| watched.raw == fd.as_raw_fd()) {
            *watched = Watched { token, interest, ..*watched };
        }
        Ok(())
    }

    /// Waits for `fd` no longer. Harmless when it was not watched.
    pub fn unwatch(&mut self, fd: impl AsFd) {
        let fd = fd.as_fd();
        let before = self.watched.len();
        self.watched.retain(|watched| watched.raw != fd.as_raw_fd());
        if self.watched.len() != before {
            // The only failures are that the descriptor is not in the set, which is the state asked for.
            let _ = epoll::delete(self.epoll, fd);
        }
    }
}

/// A hosted task without its type: what the worker's thread holds.
trait Hosted: Send {
    fn ready(&mut self, token: u16, poller: &mut Poller<'_>);
    fn quiesce(&mut self, poller: &mut Poller<'_>) -> bool;
    fn hand_back(self: Box<Self>);
}

struct Host<T> {
    task: T,
    slot: Arc<Slot<T>>,
}

impl<T: Task> Hosted for Host<T> {
    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        self.task.ready(token, poller);
    }
    fn quiesce(&mut self, poller: &mut Poller<'_>) -> bool {
        self.task.quiesce(poller)
    }
    fn hand_back(self: Box<Self>) {
        *self.slot.task.lock() = Some(self.task);
        self.slot.arrived.notify_all();
    }
}

/// Where a task waits to be taken after the worker has let go of it.
struct Slot<T> {
    task: Mutex<Option<T>>,
    arrived: Condvar,
}

enum Letter {
    Attach { id: u64, task: Box<dyn Hosted>, watched: Vec<Watched> },
    Detach { id: u64 },
    Stop,
}

struct Shared {
    epoll: OwnedFd,
    bell: OwnedFd,
    mailbox: Mutex<Mailbox>,
    /// The worker's thread, once it runs.
    thread: OnceLock<ThreadId>,
}

#[derive(Default)]
struct Mailbox {
    letters: VecDeque<Letter>,
    next_id: u64,
    closed: bool,
}

/// The bell's key in the epoll set; task ids start above it.
const BELL: u64 = 0;

impl Shared {
    fn post(&self, letter: Letter) {
        let mut mailbox = self.mailbox.lock();
        // No `Attach` may be read after `Stop`: its task would never be wound down.
        mailbox.closed |= matches!(letter, Letter::Stop);
        mailbox.letters.push_back(letter);
        drop(mailbox);
        self.ring();
    }

    fn ring(&self) {
        // A full counter means that the bell already rings.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// A thread that hosts tasks. Dropping it winds down and hands back every task, then joins the thread.
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts a worker whose thread is called `name` (the kernel shows the first 15 bytes).
    pub fn spawn(name: &str) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        let mailbox = Mutex::new(Mailbox { next_id: BELL + 1, ..Mailbox::default() });
        let shared = Arc::new(Shared { epoll, bell, mailbox, thread: OnceLock::new() });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&for_thread))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A handle through which tasks are attached; any number of them, on any thread.
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.post(Letter::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic on the worker has been reported by the panic hook; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

/// The right to attach tasks to a [`Worker`].
#[derive(Clone)]
pub struct WorkerHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerHandle").finish_non_exhaustive()
    }
}

impl WorkerHandle {
    /// Moves `task` onto the worker. On failure (a descriptor that cannot be waited for, a worker that has stopped) the
    /// task comes back with the reason.
    pub fn attach<T: Task>(&self, mut task: T) -> Result<Attached<T>, (T, io::Error)> {
        let id = {
            let mut mailbox = self.shared.mailbox.lock();
            mailbox.next_id += 1;
            mailbox.next_id
        };
        let mut watched = Vec::new();
        let epoll = self.shared.epoll.as_fd();
        let mut poller = Poller { epoll, task: id, arming: Arming::OnArrival, watched: &mut watched };
        if let Err(error) = task.watch(&mut poller) {
            forget(&self.shared, &watched);
            return Err((task, error));
        }
        let mut mailbox = self.shared.mailbox.lock();
        if mailbox.closed {
            forget(&self.shared, &watched);
            return Err((task, io::Error::other("the worker has stopped")));
        }
        let slot = Arc::new(Slot { task: Mutex::new(None), arrived: Condvar::new() });
        let host = Box::new(Host { task, slot: Arc::clone(&slot) });
        mailbox.letters.push_back(Letter::Attach { id, task: host, watched });
        drop(mailbox);
        self.shared.ring();
        Ok(Attached { shared: Arc::clone(&self.shared), id, slot, asked: false })
    }
}

/// A task that lives on a worker. Dropping it detaches and drops the task.
pub struct Attached<T: Task> {
    shared: Arc<Shared>,
    id: u64,
    slot: Arc<Slot<T>>,
    asked: bool,
}

impl<T: Task> std::fmt::Debug for Attached<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached").field("id", &self.id).field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl<T: Task> Attached<T> {
    /// Asks the worker to wind the task down; returns at once. [`Attached::try_take`] tells when it is done.
    pub fn request_detach(&mut self) {
        if !self.asked {
            self.asked = true;
            self.shared.post(Letter::Detach { id: self.id });
        }
    }

    /// The task, if it has been wound down and handed back.
    pub fn try_take(&mut self) -> Option<T> {
        self.slot.task.lock().take()
    }

    /// The task, if it is handed back within `patience`: for a caller that can afford to wait only so long.
    pub fn take_within(&mut self, patience: Duration) -> Option<T> {
        let mut slot = self.slot.task.lock();
        if slot.is_none() && !patience.is_zero() {
            self.slot.arrived.wait_while_for(&mut slot, |task| task.is_none(), patience);
        }
        slot.take()
    }

    /// Winds the task down and takes it back, waiting for what is in flight. Never call it on the worker's own thread.
    ///
    /// # Panics
    /// When called there all the same: it would wait for itself.
    pub fn detach(mut self) -> T {
        let worker = self.shared.thread.get();
        assert!(worker != Some(&std::thread::current().id()), "a task is detached by its own worker");
        self.request_detach();
        let mut slot = self.slot.task.lock();
        loop {
            if let Some(task) = slot.take() {
                return task;
            }
            self.slot.arrived.wait(&mut slot);
        }
    }
}

impl<T: Task> Drop for Attached<T> {
    fn drop(&mut self) {
        // Not waited for: the worker winds the task down and drops it with the slot.
        self.request_detach();
    }
}

fn forget(shared: &Shared, watched: &[Watched]) {
    for watched in watched {
        // Fails only when the task has closed the descriptor, and then it is gone from the set already.
        let _ = with_fd(watched.raw, |fd| epoll::delete(&shared.epoll, fd));
    }
}

/// Lends a descriptor of a task, which keeps it open for as long as it is watched, to one call of epoll_ctl.
#[expect(
    unsafe_code,
    reason = "the set of watched descriptors outlives no borrow of the task that owns them"
)]
fn with_fd<T>(raw: RawFd, call: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: the borrow lasts for this call only, during which the task, which has promised in `Poller::watch` to keep
    // the descriptor open, is not running and is not dropped. Were the promise broken, epoll_ctl would answer EBADF or
    // ENOENT, or change an entry of the same epoll set: no memory depends on it.
    call(unsafe { BorrowedFd::borrow_raw(raw) })
}

struct Tenant {
    task: Box<dyn Hosted>,
    watched: Vec<Watched>,
    leaving: bool,
}

impl Tenant {
    /// Arms what `Task::watch` has registered while the task was on its way. Modifying an entry makes the kernel look
    /// at the descriptor anew, so what arrived in the meantime is reported, edges included.
    fn arm(&mut self, shared: &Shared, id: u64) {
        for Watched { raw, token, interest } in self.watched.iter().copied() {
            let data = epoll::EventData::new_u64(id << 16 | u64::from(token));
            let armed = with_fd(raw, |fd| epoll::modify(&shared.epoll, fd, data, interest.flags()));
            if let Err(error) = armed {
                tracing::error!(%error, token, "a descriptor was closed before its task arrived at its worker");
            }
        }
    }
}

/// How many events one wait takes: bounds the stack, not the number of tasks.
const EVENTS_PER_WAIT: usize = 16;

fn run(shared: &Shared) {
    let _ = shared.thread.set(std::thread::current().id());
    let mut tenants: BTreeMap<u64, Tenant> = BTreeMap::new();
    let mut stopping = false;
    loop {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_PER_WAIT];
        let events = match epoll::wait(&shared.epoll, &mut buffer, None) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => unreachable!("epoll_wait on a descriptor that this thread keeps open: {error}"),
        };
        for event in events {
            let data = event.data.u64();
            if data == BELL {
                stopping |= read_mail(shared, &mut tenants);
                continue;
            }
            let id = data >> 16;
            // An event of a task that has left in this round, or that has not arrived (then it is an error condition,
            // reported again once the task is armed), is nobody's.
            if let Some(tenant) = tenants.get_mut(&id) {
                let mut poller = Poller {
                    epoll: shared.epoll.as_fd(),
                    task: id,
                    arming: Arming::Now,
                    watched: &mut tenant.watched,
                };
                tenant.task.ready((data & 0xffff) as u16, &mut poller);
                if tenant.leaving {
                    let_go(shared, &mut tenants, id);
                }
            }
        }
        if stopping && tenants.is_empty() {
            return;
        }
    }
}

/// Answers every letter; returns whether the worker is to stop.
fn read_mail(shared: &Shared, tenants: &mut BTreeMap<u64, Tenant>) -> bool {
    let _ = rustix::io::read(&shared.bell, &mut [0u8; 8]);
    let mut stop = false;
    loop {
        // The guard is dropped at the end of this statement: tasks run without the mailbox's lock.
        let letter = shared.mailbox.lock().letters.pop_front();
        match letter {
            None => return stop,
            Some(Letter::Attach { id, task, watched }) => {
                let mut tenant = Tenant { task, watched, leaving: false };
                tenant.arm(shared, id);
                tenants.insert(id, tenant);
            }
            Some(Letter::Detach { id }) => {
                if let Some(tenant) = tenants.get_mut(&id) {
                    tenant.leaving = true;
                    let_go(shared, tenants, id);
                }
            }
            Some(Letter::Stop) => {
                stop = true;
                for id in tenants.keys().copied().collect::<Vec<_>>() {
                    if let Some(tenant) = tenants.get_mut(&id) {
                        tenant.leaving = true;
                    }
                    let_go(shared, tenants, id);
                }
            }
        }
    }
}

/// Hands a leaving task back if nothing is in flight.
fn let_go(shared: &Shared, tenants: &mut BTreeMap<u64, Tenant>, id: u64) {
    let Some(tenant) = tenants.get_mut(&id) else { return };
    let epoll = shared.epoll.as_fd();
    let mut poller = Poller { epoll, task: id, arming: Arming::Now, watched: &mut tenant.watched };
    if tenant.task.quiesce(&mut poller)
        && let Some(tenant) = tenants.remove(&id)
    {
        forget(shared, &tenant.watched);
        tenant.task.hand_back();
    }
}

#[cfg(test)]
mod tests;
