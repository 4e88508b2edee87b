//! One connection: requests one after the other, each within its time and size.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::http::{self, CONTINUE, Head, Parsed, Response, Status};
use super::router;
use super::server::Shared;

/// Bytes taken from the socket at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// Most bytes that are thrown away to let a client read why it was refused.
const MAX_LINGER_BYTES: usize = 8 << 20;
/// How long a response may still take once the server is to end.
const ENDING_GRACE: Duration = Duration::from_millis(500);

/// Serves `socket`, which does not block, until the client or the server ends it.
pub(super) fn serve(socket: OwnedFd, shared: &Shared) {
    let mut connection = Connection { socket, shared, received: Vec::new() };
    loop {
        match connection.exchange() {
            Ok(Next::Again) => {}
            Ok(Next::Close) | Err(End::Gone) => return,
            Err(End::Refused(response)) => {
                if connection.send(&response.bytes(true)).is_ok() {
                    connection.linger();
                }
                return;
            }
        }
    }
}

/// What follows an exchange.
enum Next {
    Again,
    Close,
}

/// Why there is no further exchange.
enum End {
    /// The client has left or has been idle for too long, or the server ends.
    Gone,
    /// What the client sends can't be followed any more; it is told why.
    Refused(Response),
}

impl From<Response> for End {
    fn from(response: Response) -> Self {
        Self::Refused(response)
    }
}

/// How a wait ended.
enum Wait {
    Ready,
    Late,
    Stopped,
}

struct Connection<'a> {
    socket: OwnedFd,
    shared: &'a Shared,
    /// Bytes that have arrived and belong to no request yet.
    received: Vec<u8>,
}

impl Connection<'_> {
    /// One request and its response.
    fn exchange(&mut self) -> Result<Next, End> {
        if self.received.is_empty() {
            match self.receive(Instant::now() + self.shared.limits.idle)? {
                Received::Bytes => {}
                Received::Late => return Err(End::Gone),
            }
        }
        let deadline = Instant::now() + self.shared.limits.request;
        let head = self.receive_head(deadline)?;
        // Before the body: a client that waits for an interim response learns at once that there is no point.
        let endpoint = router::route(&head.method, &head.path);
        if endpoint.is_ok() && head.expects_continue && self.received.len() < head.body_bytes {
            self.send(CONTINUE)?;
        } else if let Err(response) = &endpoint
            && head.expects_continue
        {
            // It may send the body or not: what follows can't be told apart.
            return Err(End::Refused(response.clone()));
        }
        let body = self.receive_body(head.body_bytes, deadline)?;
        let response = match endpoint {
            Ok(endpoint) => router::respond(endpoint, &body, &self.shared.controller),
            Err(response) => response,
        };
        // Others wait for a place: let them have this one.
        let closes = head.closes || self.shared.is_full();
        self.send(&response.bytes(closes))?;
        if !closes {
            return Ok(Next::Again);
        }
        self.linger();
        Ok(Next::Close)
    }

    fn receive_head(&mut self, deadline: Instant) -> Result<Head, End> {
        let mut looked_at = 0;
        loop {
            // Parsed only when a line has ended: a client that sends byte by byte must not cost the square of it.
            let line_ended = self.received[looked_at..].contains(&b'\n');
            if (line_ended || self.received.len() >= http::MAX_HEAD_BYTES)
                && let Parsed::Head(head, bytes) = http::parse_head(&self.received)?
            {
                self.received.drain(..bytes);
                return Ok(head);
            }
            looked_at = self.received.len();
            self.receive_in_time(deadline)?;
        }
    }

    fn receive_body(&mut self, bytes: usize, deadline: Instant) -> Result<Vec<u8>, End> {
        while self.received.len() < bytes {
            self.receive_in_time(deadline)?;
        }
        let rest = self.received.split_off(bytes);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    fn receive_in_time(&mut self, deadline: Instant) -> Result<(), End> {
        match self.receive(deadline)? {
            Received::Bytes => Ok(()),
            Received::Late => {
                Err(Response::error(Status::RequestTimeout, "the request took too long to arrive").into())
            }
        }
    }

    /// Waits for bytes.
    fn receive(&mut self, deadline: Instant) -> Result<Received, End> {
        loop {
            match self.wait(PollFlags::IN, deadline) {
                Wait::Ready => {}
                Wait::Late => return Ok(Received::Late),
                Wait::Stopped => return Err(End::Gone),
            }
            let mut chunk = [0; CHUNK_BYTES];
            match rustix::io::read(&self.socket, &mut chunk) {
                Ok(0) => return Err(End::Gone),
                Ok(bytes) => {
                    self.received.extend_from_slice(&chunk[..bytes]);
                    return Ok(Received::Bytes);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Err(End::Gone),
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        let mut deadline = Instant::now() + self.shared.limits.response;
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match self.wait(PollFlags::OUT, deadline) {
                    Wait::Ready => {}
                    Wait::Late => return Err(End::Gone),
                    // From here on the stop is ready all the time: wait for the socket alone.
                    Wait::Stopped => {
                        deadline = deadline.min(Instant::now() + ENDING_GRACE);
                        if !self.wait_for_socket(PollFlags::OUT, deadline) {
                            return Err(End::Gone);
                        }
                    }
                },
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(())
    }

    /// Lets the client finish sending: closing on unread bytes would make it see an error instead of the response.
    fn linger(&mut self) {
        let deadline = Instant::now() + self.shared.limits.linger;
        if rustix::net::shutdown(&self.socket, Shutdown::Write).is_err() {
            return;
        }
        let mut thrown_away = self.received.len();
        while thrown_away < MAX_LINGER_BYTES {
            self.received.clear();
            match self.receive(deadline) {
                Ok(Received::Bytes) => thrown_away += self.received.len(),
                Ok(Received::Late) | Err(_) => return,
            }
        }
    }

    /// Waits for the socket, until the deadline or the server's end.
    fn wait(&self, flags: PollFlags, deadline: Instant) -> Wait {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.socket, flags), PollFd::new(&self.shared.stop, PollFlags::IN)];
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Wait::Late,
                Ok(_) if !fds[1].revents().is_empty() => return Wait::Stopped,
                Ok(_) => return Wait::Ready,
                Err(Errno::INTR) => {}
                // Out of memory, for instance: the connection is given up.
                Err(_) => return Wait::Stopped,
            }
        }
    }

    fn wait_for_socket(&self, flags: PollFlags, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&self.socket, flags)];
        poll(&mut fds, Timespec::try_from(left).ok().as_ref()).is_ok_and(|ready| ready > 0)
    }
}

/// What a wait for bytes brought.
enum Received {
    Bytes,
    Late,
}
