//! The task that empties the output queue, brings input to the device, and notices readers and clients come and go.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Ends;
use super::log::Log;
use super::stream::Stream;
use super::{QUEUE_BYTES, Route, Shared, State};
use crate::guest_warn;
use crate::timer;
use crate::worker::{Interest, Poller, Task};

const TOKEN_BELL: u16 = 0;
const TOKEN_INPUT: u16 = 1;
const TOKEN_OUTPUT: u16 = 2;
const TOKEN_ARRIVAL: u16 = 3;
const TOKEN_TIMER: u16 = 4;

/// How much one turn moves in each direction, so that a fast stream does not hold up other tasks of the worker.
const TURN_BYTES: usize = 64 * 1024;
/// How many clients one turn accepts or refuses.
const TURN_CLIENTS: usize = 16;
/// How much input is read at once.
const READ_BYTES: usize = 4096;
/// How long a full disk is left alone before the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end of the machine waits for whoever reads standard output.
const FAREWELL: Duration = Duration::from_secs(5);

/// A stream and what it is watched for in the worker's set.
struct Watch {
    stream: Stream,
    token: u16,
    interest: Option<Interest>,
}

impl Watch {
    fn new(stream: Stream, token: u16) -> Self {
        Self { stream, token, interest: None }
    }

    fn set(&mut self, wanted: Option<Interest>, poller: &mut Poller<'_>) {
        if wanted == self.interest || !self.stream.pollable() {
            return;
        }
        let result = match (self.interest, wanted) {
            (_, None) => {
                poller.unwatch(&self.stream);
                Ok(())
            }
            (None, Some(interest)) => poller.watch(&self.stream, self.token, interest),
            (Some(_), Some(interest)) => poller.rewatch(&self.stream, self.token, interest),
        };
        match result {
            Ok(()) => self.interest = wanted,
            Err(error) => tracing::error!(%error, "a character device can't be waited for"),
        }
    }
}

/// See the module.
pub(super) struct Pump {
    shared: Arc<Shared>,
    ends: Ends,
    log: Option<Log>,
    /// What the log is given next: kept for its memory.
    logging: Vec<u8>,
    input: Option<Watch>,
    /// A descriptor of its own for the output, so that it can be waited for apart from the input.
    output: Option<Watch>,
    /// A reader or client has hung up; what it sent is still being read.
    hung_up: bool,
    timer: Option<OwnedFd>,
    /// Bytes that a file has not taken yet.
    writing: VecDeque<u8>,
    leaving: bool,
    gave_up: bool,
}

impl Pump {
    pub(super) fn new(shared: Arc<Shared>, ends: Ends, log: Option<Log>) -> Self {
        Self {
            shared,
            ends,
            log,
            logging: Vec::new(),
            input: None,
            output: None,
            hung_up: false,
            timer: None,
            writing: VecDeque::new(),
            leaving: false,
            gave_up: false,
        }
    }

    /// Somebody is there: output goes to `stream` and input comes from it.
    fn engage(&mut self, stream: Arc<Stream>) {
        let (input, output) = match (stream.try_clone(), stream.try_clone()) {
            (Ok(input), Ok(output)) => (input, output),
            (Err(error), _) | (_, Err(error)) => {
                guest_warn!(%error, "whoever is at a character device's other end can't be served");
                return;
            }
        };
        self.input = Some(Watch::new(input, TOKEN_INPUT));
        self.output = Some(Watch::new(output, TOKEN_OUTPUT));
        self.hung_up = false;
        self.shared.state.lock().route = Route::Direct(stream);
    }

    /// Nobody is there any more.
    fn disengage(&mut self, poller: &mut Poller<'_>) {
        if let Some(mut input) = self.input.take() {
            input.set(None, poller);
        }
        self.stop_output(poller);
    }

    /// Nobody takes output any more.
    fn stop_output(&mut self, poller: &mut Poller<'_>) {
        if let Some(mut output) = self.output.take() {
            output.set(None, poller);
        }
        let mut state = self.shared.state.lock();
        state.route = match self.ends {
            Ends::Nothing | Ends::Fixed { .. } => Route::Discard,
            Ends::Pty { .. } | Ends::Socket { .. } => Route::Nobody,
        };
        if matches!(state.route, Route::Discard) {
            state.queue = VecDeque::new();
        }
        self.tell_room(state);
    }

    /// Tells the device of room if it waits for some.
    fn tell_room(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let bounded = matches!(state.route, Route::Direct(_) | Route::Queued) && !state.sheds_oldest;
        let logged = state.log.as_ref().is_none_or(|log| log.len() <= QUEUE_BYTES / 2);
        let room = logged && (!bounded || state.queue.len() <= QUEUE_BYTES / 2);
        let tell = room && std::mem::take(&mut state.starved);
        drop(state);
        if tell && let Some(frontend) = self.shared.frontend() {
            frontend.output_ready();
        }
    }

    /// A reader may have opened the pseudo-terminal.
    fn meet_reader(&mut self, poller: &mut Poller<'_>) {
        let Ends::Pty { master, opened } = &self.ends else { return };
        let mut events = [0u8; 512];
        while matches!(rustix::io::read(opened, &mut events), Ok(1..)) {}
        let engaged = self.input.is_some() && !self.hung_up;
        if engaged || master.hung_up() {
            return;
        }
        let master = Arc::clone(master);
        self.disengage(poller);
        self.engage(master);
    }

    /// Clients may have come: one is served, others are let go.
    fn meet_clients(&mut self, poller: &mut Poller<'_>) {
        for _ in 0..TURN_CLIENTS {
            let Ends::Socket { listener, .. } = &self.ends else { return };
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    guest_warn!(%error, "a client of a character device's socket can't be accepted");
                    return;
                }
            };
            if self.input.as_ref().is_some_and(|current| !current.stream.hung_up()) {
                guest_warn!("a second client of a character device's socket is refused");
                continue;
            }
            self.disengage(poller);
            self.engage(Arc::new(Stream::socket(client.into())));
        }
        // There may be more, and an edge is not repeated by itself.
        if let Ends::Socket { listener, .. } = &self.ends
            && let Err(error) = poller.rewatch(listener, TOKEN_ARRIVAL, Interest::ReadEdge)
        {
            tracing::error!(%error, "a character device's socket can't be waited for");
        }
    }

    /// Moves input to the device until one of the two has enough.
    fn move_input(&mut self, poller: &mut Poller<'_>) {
        let mut budget = TURN_BYTES;
        while let Some(input) = &mut self.input {
            let frontend = self.shared.frontend();
            let space = frontend.as_ref().map_or(0, |frontend| frontend.receive_space());
            let wanted = space > 0 && !self.leaving;
            let stays = matches!(self.ends, Ends::Fixed { .. });
            if !wanted && !self.hung_up && !stays && input.stream.hung_up() {
                // Nobody is there to read output, but what was sent before is for the device once it has space.
                self.hung_up = true;
                input.set(None, poller);
                self.stop_output(poller);
                return;
            }
            let interest = match (wanted, self.hung_up || stays) {
                (true, _) => Some(Interest::Read),
                (false, false) => Some(Interest::Hangup),
                (false, true) => None,
            };
            input.set(interest, poller);
            let (true, Some(frontend)) = (wanted && budget > 0, frontend) else { break };
            let mut bytes = [0; READ_BYTES];
            let most = space.min(READ_BYTES).min(budget);
            match input.stream.read(&mut bytes[..most]) {
                Ok(read @ 1..) => {
                    budget -= read;
                    frontend.receive(&bytes[..read]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The end of standard input is not the end of standard output.
                Ok(0) | Err(_) if matches!(self.ends, Ends::Fixed { .. }) => {
                    input.set(None, poller);
                    self.input = None;
                }
                Ok(_) | Err(_) => self.leave_by_hang_up(poller),
            }
        }
        if budget == 0 && self.input.as_ref().is_some_and(|input| !input.stream.pollable()) {
            self.shared.ring();
        }
    }

    fn leave_by_hang_up(&mut self, poller: &mut Poller<'_>) {
        self.disengage(poller);
        // Somebody may have come between the last look and now, and is not announced again.
        self.meet_reader(poller);
    }

    /// Gives the log what there is for it, without the lock: a disk may be waited for.
    fn move_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        let mut state = self.shared.state.lock();
        state.rung = false;
        if let Some(waiting) = &mut state.log {
            std::mem::swap(waiting, &mut self.logging);
        }
        drop(state);
        log.write(&self.logging);
        self.logging.clear();
        self.tell_room(self.shared.state.lock());
    }

    /// Writes the queue to whoever is there.
    fn move_output(&mut self, poller: &mut Poller<'_>) {
        let mut budget = TURN_BYTES;
        loop {
            let mut state = self.shared.state.lock();
            state.rung = false;
            let Route::Direct(stream) = &state.route else { break };
            let stream = Arc::clone(stream);
            let pending = !state.queue.is_empty();
            if pending && budget > 0 {
                match stream.write(state.queue.as_slices().0) {
                    Ok(written) => {
                        state.queue.drain(..written);
                        budget = budget.saturating_sub(written);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        drop(state);
                        self.leave_by_hang_up(poller);
                        break;
                    }
                }
            }
            self.tell_room(state);
            // What the device sent when it was told of room has rung the bell if it did not go out.
            let pending = pending && !self.shared.state.lock().queue.is_empty();
            if let Some(output) = &mut self.output {
                output.set(pending.then_some(Interest::Write), poller);
            }
            return;
        }
        self.move_to_file(poller);
    }

    /// Writes the queue to a file, without the lock: a disk may be waited for.
    fn move_to_file(&mut self, poller: &mut Poller<'_>) {
        let Ends::Fixed { output, .. } = &self.ends else { return };
        let output = Arc::clone(output);
        if !matches!(self.shared.state.lock().route, Route::Queued) {
            return;
        }
        loop {
            if self.writing.is_empty() {
                let mut state = self.shared.state.lock();
                self.writing = std::mem::take(&mut state.queue);
                self.tell_room(state);
            }
            if self.writing.is_empty() {
                return;
            }
            match output.write(self.writing.as_slices().0) {
                Ok(written) => drop(self.writing.drain(..written)),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
                {
                    guest_warn!(%error, "a character device's file can't grow: its output waits");
                    self.arm_timer(RETRY, poller);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "a character device's file can't be written: output is discarded");
                    self.writing = VecDeque::new();
                    self.disengage(poller);
                    return;
                }
            }
        }
    }

    fn arm_timer(&mut self, after: Duration, poller: &mut Poller<'_>) {
        if self.timer.is_none() {
            let made = timer::idle().and_then(|timer| {
                poller.watch(&timer, TOKEN_TIMER, Interest::Read)?;
                Ok(timer)
            });
            match made {
                Ok(timer) => self.timer = Some(timer),
                Err(error) => {
                    tracing::error!(%error, "a character device has no timer");
                    self.gave_up = true;
                }
            }
        }
        if let Some(timer) = &self.timer {
            timer::set(timer, after, Duration::ZERO);
        }
    }

    /// Bytes that must not be lost: those for standard output, a file or the log.
    fn owed(&self) -> usize {
        let state = self.shared.state.lock();
        let log = state.log.as_ref().map_or(0, Vec::len);
        let fixed = matches!(self.ends, Ends::Fixed { .. });
        log + if fixed { self.writing.len() + state.queue.len() } else { 0 }
    }
}

impl Task for Pump {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&self.shared.bell, TOKEN_BELL, Interest::Read)?;
        match &mut self.ends {
            Ends::Fixed { input, output, .. } => {
                self.input = input.take().map(|input| Watch::new(input, TOKEN_INPUT));
                if output.pollable() {
                    self.output = Some(Watch::new(output.try_clone()?, TOKEN_OUTPUT));
                }
            }
            Ends::Nothing => {}
            Ends::Pty { opened, .. } => poller.watch(&*opened, TOKEN_ARRIVAL, Interest::Read)?,
            // By edges: a client that can't be accepted for want of descriptors would be reported for ever.
            Ends::Socket { listener, .. } => poller.watch(&*listener, TOKEN_ARRIVAL, Interest::ReadEdge)?,
        }
        Ok(())
    }

    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        match token {
            TOKEN_BELL => drop(rustix::io::read(&self.shared.bell, &mut [0u8; 8])),
            TOKEN_ARRIVAL => {
                self.meet_reader(poller);
                self.meet_clients(poller);
            }
            TOKEN_TIMER => {
                let expired = self.timer.as_ref().is_some_and(timer::expired);
                self.gave_up |= expired && self.leaving;
            }
            _ => {}
        }
        self.move_log();
        self.move_output(poller);
        self.move_input(poller);
    }

    fn quiesce(&mut self, poller: &mut Poller<'_>) -> bool {
        if !self.leaving {
            self.leaving = true;
            self.move_log();
            self.move_output(poller);
            if self.owed() > 0 {
                self.arm_timer(FAREWELL, poller);
            }
        }
        let owed = self.owed();
        if owed > 0 && self.gave_up {
            tracing::warn!(
                bytes = owed,
                "a character device's last output was not taken in time and is lost"
            );
        }
        owed == 0 || self.gave_up
    }
}
