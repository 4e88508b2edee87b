//! A few threads for work that waits: started when there is work and nobody idle, joined on drop.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::{Done, ring_bell};

/// Work that ends with an operation's result.
pub(crate) type Work = Box<dyn FnOnce() -> Result<(), Errno> + Send>;

/// Stack of a thread, bytes: large buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

struct State {
    jobs: VecDeque<(u64, Work)>,
    idle: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    done: Mutex<Vec<Done>>,
    bell: Arc<OwnedFd>,
}

/// The threads and what waits for them. Dropping it does all the work that was started, then joins them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    most: usize,
}

impl Pool {
    /// At most `most` threads; `bell` is rung whenever one has done a piece of work.
    pub(crate) fn new(most: usize, bell: Arc<OwnedFd>) -> Self {
        let state = Mutex::new(State { jobs: VecDeque::new(), idle: 0, closed: false });
        let shared = Shared { state, wake: Condvar::new(), done: Mutex::new(Vec::new()), bell };
        Self { shared: Arc::new(shared), threads: Vec::new(), most }
    }

    pub(crate) fn start(&mut self, token: u64, work: Work) {
        let all_busy = {
            let mut state = self.shared.state.lock();
            state.jobs.push_back((token, work));
            state.idle < state.jobs.len()
        };
        if all_busy && self.threads.len() < self.most {
            let shared = Arc::clone(&self.shared);
            let name = format!("block-io-{}", self.threads.len());
            let builder = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
            match builder.spawn(move || shared.work()) {
                Ok(thread) => self.threads.push(thread),
                Err(error) if self.threads.is_empty() => {
                    // Slow, but every request is answered.
                    tracing::warn!(%error, "cannot start a thread for disk requests: the caller does them itself");
                    self.shared.work_off();
                }
                Err(_) => {}
            }
        }
        self.shared.wake.notify_one();
    }

    pub(crate) fn reap(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.shared.done.lock());
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut state = self.state.lock();
            let (token, work) = loop {
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                state.idle += 1;
                self.wake.wait(&mut state);
                state.idle -= 1;
            };
            drop(state);
            self.finish(token, work);
        }
    }

    /// Does what waits, on the caller's thread.
    fn work_off(&self) {
        loop {
            // The guard is dropped at the end of this statement.
            let job = self.state.lock().jobs.pop_front();
            let Some((token, work)) = job else { return };
            self.finish(token, work);
        }
    }

    fn finish(&self, token: u64, work: Work) {
        let result = work();
        self.done.lock().push((token, result));
        ring_bell(&self.bell);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A panic has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}
