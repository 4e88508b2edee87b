use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

/// How long a test waits for what must happen; only a broken worker makes it wait that long.
const PATIENCE: Duration = Duration::from_secs(20);

fn bell() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
}

/// Reports every `ready` and lets go when `in_flight` is zero.
struct Probe {
    name: usize,
    bell: Arc<OwnedFd>,
    interest: Interest,
    reports: mpsc::Sender<(usize, u16)>,
    in_flight: Arc<AtomicUsize>,
    quiesced: usize,
    during_watch: fn(&OwnedFd),
}

impl Task for Probe {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&*self.bell, 7, self.interest)?;
        (self.during_watch)(&self.bell);
        Ok(())
    }
    fn ready(&mut self, token: u16, _poller: &mut Poller<'_>) {
        if self.interest == Interest::Read {
            let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
        }
        let _ = self.reports.send((self.name, token));
    }
    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        self.quiesced += 1;
        self.in_flight.load(Ordering::SeqCst) == 0
    }
}

fn probe(interest: Interest) -> (Probe, mpsc::Receiver<(usize, u16)>) {
    let (reports, received) = mpsc::channel();
    let probe = Probe {
        name: 0,
        bell: bell(),
        interest,
        reports,
        in_flight: Arc::default(),
        quiesced: 0,
        during_watch: |_| (),
    };
    (probe, received)
}

#[test]
fn a_task_works_when_its_descriptor_is_ready_and_comes_back_on_detach() {
    let worker = Worker::spawn("test").unwrap();
    let (task, reports) = probe(Interest::Read);
    let bell = Arc::clone(&task.bell);
    let attached = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
    for _ in 0..3 {
        ring(&bell);
        assert_eq!(reports.recv_timeout(PATIENCE), Ok((0, 7)));
    }
    let task = attached.detach();
    assert!(Arc::ptr_eq(&task.bell, &bell));
    ring(&bell);
    // The descriptor has left the set: another task can have it.
    let again = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
    assert_eq!(reports.recv_timeout(PATIENCE), Ok((0, 7)));
    again.detach();
}

#[test]
fn an_edge_before_the_task_arrives_is_not_lost() {
    let worker = Worker::spawn("test").unwrap();
    for _ in 0..300 {
        let (mut task, reports) = probe(Interest::ReadEdge);
        // Wait until the worker has had every chance to see and lose the event.
        task.during_watch = |bell| {
            ring(bell);
            std::thread::yield_now();
        };
        let attached = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
        assert_eq!(reports.recv_timeout(PATIENCE), Ok((0, 7)));
        attached.detach();
    }
}

#[test]
fn an_edge_is_reported_once_for_each_arrival_without_reading_back() {
    let worker = Worker::spawn("test").unwrap();
    let (task, reports) = probe(Interest::ReadEdge);
    let bell = Arc::clone(&task.bell);
    let attached = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
    for _ in 0..100 {
        ring(&bell);
        assert_eq!(reports.recv_timeout(PATIENCE), Ok((0, 7)));
    }
    attached.detach();
    assert_eq!(reports.try_recv().ok(), None);
}

#[test]
fn a_task_with_work_in_flight_is_handed_back_only_when_it_is_done() {
    let worker = Worker::spawn("test").unwrap();
    let (task, reports) = probe(Interest::Read);
    let (bell, in_flight) = (Arc::clone(&task.bell), Arc::clone(&task.in_flight));
    in_flight.store(1, Ordering::SeqCst);
    let mut attached = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
    attached.request_detach();
    attached.request_detach();
    for _ in 0..5 {
        ring(&bell);
        assert_eq!(reports.recv_timeout(PATIENCE), Ok((0, 7)));
        assert!(attached.try_take().is_none());
    }
    in_flight.store(0, Ordering::SeqCst);
    ring(&bell);
    let task = attached.detach();
    assert!(task.quiesced >= 2, "asked again after `ready`");
}

#[test]
fn a_task_is_waited_for_no_longer_than_asked() {
    let worker = Worker::spawn("test").unwrap();
    let (task, _received) = probe(Interest::Read);
    let (bell, in_flight) = (Arc::clone(&task.bell), Arc::clone(&task.in_flight));
    in_flight.store(1, Ordering::SeqCst);
    let mut attached = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
    attached.request_detach();
    assert!(attached.take_within(Duration::ZERO).is_none());
    assert!(attached.take_within(Duration::from_millis(1)).is_none());
    in_flight.store(0, Ordering::SeqCst);
    ring(&bell);
    assert!(attached.take_within(PATIENCE).is_some());
}

#[test]
fn a_dropped_worker_winds_tasks_down_and_hands_them_back() {
    let worker = Worker::spawn("test").unwrap();
    let handle = worker.handle();
    let mut attached: Vec<_> =
        (0..3).map(|_| handle.attach(probe(Interest::Read).0).map_err(|(_, error)| error).unwrap()).collect();
    drop(worker);
    for attached in &mut attached {
        assert_eq!(attached.try_take().map(|task| task.quiesced), Some(1));
    }
    let (_, error) = handle.attach(probe(Interest::Read).0).err().unwrap();
    assert_eq!(error.to_string(), "the worker has stopped");
}

#[test]
fn tasks_attached_while_the_worker_stops_are_wound_down_or_refused() {
    for _ in 0..200 {
        let worker = Worker::spawn("test").unwrap();
        let handle = worker.handle();
        let racer = std::thread::Builder::new()
            .spawn(move || {
                while let Ok(attached) = handle.attach(probe(Interest::Read).0) {
                    drop(attached.detach());
                }
            })
            .unwrap();
        std::thread::yield_now();
        drop(worker);
        racer.join().unwrap();
    }
}

#[test]
fn a_descriptor_that_cannot_be_watched_brings_the_task_back() {
    let worker = Worker::spawn("test").unwrap();
    let (mut task, _reports) = probe(Interest::Read);
    task.bell = Arc::new(tempfile::tempfile().unwrap().into());
    let (task, error) = worker.handle().attach(task).err().unwrap();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::PERM.raw_os_error()));
    assert_eq!(task.quiesced, 0);
}

#[test]
fn a_dropped_attachment_drops_the_task_on_the_worker() {
    let worker = Worker::spawn("test").unwrap();
    let (task, reports) = probe(Interest::Read);
    drop(worker.handle().attach(task).map_err(|(_, error)| error).unwrap());
    // The task owned the only sender.
    assert_eq!(reports.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn many_tasks_share_a_worker_and_each_gets_its_own_events() {
    let worker = Worker::spawn("test").unwrap();
    let (reports, received) = mpsc::channel();
    let mut bells = Vec::new();
    let mut tasks = Vec::new();
    for name in 0..100 {
        let (task, _) = probe(Interest::Read);
        let task = Probe { name, reports: reports.clone(), ..task };
        bells.push(Arc::clone(&task.bell));
        tasks.push(worker.handle().attach(task).map_err(|(_, error)| error).unwrap());
    }
    for bell in &bells {
        ring(bell);
    }
    let mut names: Vec<_> = (0..100).map(|_| received.recv_timeout(PATIENCE).unwrap().0).collect();
    names.sort_unstable();
    assert_eq!(names, (0..100).collect::<Vec<_>>());
    for (name, attached) in tasks.into_iter().enumerate() {
        assert_eq!(attached.detach().name, name);
    }
}

/// Swaps one pipe for another while it runs, as a backend does when a client leaves and another comes.
struct Swapper {
    pipe: OwnedFd,
    next: Option<OwnedFd>,
    seen: mpsc::Sender<u8>,
}

impl Task for Swapper {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&self.pipe, 0, Interest::Hangup)?;
        poller.rewatch(&self.pipe, 1, Interest::Read)
    }
    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        let mut byte = [0];
        if token == 1 && rustix::io::read(&self.pipe, &mut byte) == Ok(1) {
            let _ = self.seen.send(byte[0]);
            if let Some(next) = self.next.take() {
                poller.unwatch(&self.pipe);
                poller.unwatch(&self.pipe);
                self.pipe = next;
                poller.watch(&self.pipe, 1, Interest::Read).unwrap();
            }
        }
    }
    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        true
    }
}

#[test]
fn a_task_changes_what_it_watches_before_and_after_it_arrives() {
    let worker = Worker::spawn("test").unwrap();
    let (first, to_first) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (second, to_second) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (seen, received) = mpsc::channel();
    let task = Swapper { pipe: first, next: Some(second), seen };
    let attached = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
    for (pipe, byte) in [(&to_first, b'a'), (&to_second, b'b'), (&to_second, b'c')] {
        rustix::io::write(pipe, &[byte]).unwrap();
        assert_eq!(received.recv_timeout(PATIENCE), Ok(byte));
    }
    attached.detach();
}

struct SelfDetacher(Arc<Mutex<Option<Attached<Probe>>>>, Arc<OwnedFd>, mpsc::Sender<bool>);

impl Task for SelfDetacher {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&*self.1, 0, Interest::Read)
    }
    fn ready(&mut self, _token: u16, _poller: &mut Poller<'_>) {
        let _ = rustix::io::read(&*self.1, &mut [0u8; 8]);
        let attached = self.0.lock().take().unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(attached.detach())));
        let _ = self.2.send(outcome.is_err());
    }
    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        true
    }
}

#[test]
fn detaching_on_the_workers_own_thread_is_caught_instead_of_hanging() {
    let worker = Worker::spawn("test").unwrap();
    let other = worker.handle().attach(probe(Interest::Read).0).map_err(|(_, error)| error).unwrap();
    let (caught, received) = mpsc::channel();
    let bell = bell();
    let task = SelfDetacher(Arc::new(Mutex::new(Some(other))), Arc::clone(&bell), caught);
    let _attached = worker.handle().attach(task).map_err(|(_, error)| error).unwrap();
    ring(&bell);
    assert_eq!(received.recv_timeout(PATIENCE), Ok(true));
}
