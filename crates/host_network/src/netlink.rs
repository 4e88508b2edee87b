//! Netlink messages (netlink(7)): written into a buffer, sent, and what comes back taken apart.
//!
//! Answers come from the kernel of the host; lengths in them are checked all the same.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_send_buffer_size, set_socket_timeout,
};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// `struct nlmsghdr` of linux/netlink.h, bytes.
const HEADER_BYTES: usize = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Messages of the protocol's own have numbers below this (`NLMSG_MIN_TYPE`).
const FIRST_OWN: u16 = 0x10;
/// Flags of requests: `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, and of new objects.
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACKNOWLEDGE: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
/// `NLM_F_DUMP_INTR`: what is listed changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// `NLA_F_NESTED`, and what is left of an attribute's type without flags.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
/// What a socket may hold, bytes: a batch of all networks of a host is far smaller.
const SOCKET_BYTES: usize = 1 << 20;
/// Longest datagram that is read: lists come in pieces of 32 KiB at most.
const DATAGRAM_BYTES: usize = 1 << 16;
/// The kernel answers at once, or not at all.
const ANSWER: Duration = Duration::from_secs(10);
/// How often an interrupted list is asked for again.
const MOST_LISTS: usize = 20;

/// Attributes, and messages of them, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// A length did not fit in its field.
    too_long: bool,
}

impl Writer {
    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start)
    }

    /// Adds a string with its end.
    pub(crate) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.close(start)
    }

    /// Adds a number in network order.
    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start)
    }

    /// Adds attributes that were written before.
    pub(crate) fn append(&mut self, other: &Self) -> &mut Self {
        self.bytes.extend_from_slice(&other.bytes);
        self.too_long |= other.too_long;
        self
    }

    /// What was written.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the next message begins.
    pub(crate) fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Asks for an answer to the message that begins there.
    pub(crate) fn acknowledge(&mut self, start: usize) {
        if let Some(flags) = self.bytes.get_mut(start + 6..).and_then(|rest| rest.first_chunk_mut::<2>()) {
            *flags = (u16::from_ne_bytes(*flags) | ACKNOWLEDGE).to_ne_bytes();
        }
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) -> &mut Self {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a message: its type, flags, sequence number, the protocol's own header, and attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        header: &[u8],
        fill: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        self.align();
        fill(self);
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
    }
}

/// The attributes in some bytes; it ends where they make no sense.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    /// Type without flags, and value.
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first of a type.
    pub(crate) fn find_kind(self, kind: u16) -> Option<&'a [u8]> {
        let mut attributes = self;
        attributes.find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes in the first of a type; none if it is not there.
    pub(crate) fn nested(self, kind: u16) -> Self {
        Attributes(self.find_kind(kind).unwrap_or(&[]))
    }

    /// A number in network order.
    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        self.find_kind(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A string, without its end.
    pub(crate) fn text(self, kind: u16) -> Option<String> {
        self.find_kind(kind).map(text)
    }
}

/// A string up to its end.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A message that was received.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl Received<'_> {
    /// The error of an answer; 0 is success.
    fn errno(&self) -> Option<i32> {
        let code = i32::from_ne_bytes(*self.payload.first_chunk::<4>()?);
        (self.kind == ERROR).then_some(code.saturating_neg())
    }
}

/// The messages in a datagram; it ends where they make no sense.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<HEADER_BYTES>()?;
        let length = usize::try_from(u32::from_ne_bytes([head[0], head[1], head[2], head[3]])).ok()?;
        let received = Received {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            sequence: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
            payload: bytes.get(HEADER_BYTES..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(received)
    })
}

/// A connection to the kernel in the network namespace of the thread that opens it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens one.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        Self::with(protocol, 0, SocketFlags::CLOEXEC)
    }

    /// Opens one that hears what a set of groups (a bit each) is told, and never waits.
    pub(crate) fn listen(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        Self::with(protocol, groups, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn with(protocol: Option<Protocol>, groups: u32, flags: SocketFlags) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        set_socket_send_buffer_size(&socket, SOCKET_BYTES)?;
        set_socket_recv_buffer_size(&socket, SOCKET_BYTES)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
        Ok(Self(socket))
    }

    /// Reads a datagram.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        buffer.resize(DATAGRAM_BYTES, 0);
        let (_, length) = loop {
            match recv(&self.0, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                received => break received?,
            }
        };
        buffer.get(..length).ok_or_else(|| io::Error::other("a message of the kernel is too long"))
    }

    fn send(&self, messages: &Writer) -> io::Result<()> {
        if messages.too_long {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too much for one message"));
        }
        let sent = send(&self.0, &messages.bytes, SendFlags::empty())?;
        if sent < messages.bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Sends messages whose last wants an answer, and waits for it. Answers to others are errors, of which the first counts.
    pub(crate) fn exchange(&self, messages_: &Writer, first: u32, last: u32) -> io::Result<()> {
        self.send(messages_)?;
        let (mut buffer, mut failed) = (Vec::new(), None);
        loop {
            for answer in messages(self.receive(&mut buffer)?) {
                let Some(code) = answer.errno() else { continue };
                if code != 0 && failed.is_none() {
                    failed = Some(io::Error::from_raw_os_error(code));
                }
                // The first message opens a batch: when that fails, or its end does, nothing else is answered.
                if answer.sequence == last || (answer.sequence == first && code != 0) {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for a list and gives each entry, type and payload, to `each`; which begins anew when the list changed meanwhile.
    pub(crate) fn list<T>(
        &self,
        request: &Writer,
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..MOST_LISTS {
            if let Some(list) = self.list_once(request, &mut each)? {
                return Ok(list);
            }
        }
        Err(io::Error::other("the list changes all the time"))
    }

    fn list_once<T>(
        &self,
        request: &Writer,
        each: &mut impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.send(request)?;
        let (mut buffer, mut list, mut changed) = (Vec::new(), Vec::new(), false);
        loop {
            for answer in messages(self.receive(&mut buffer)?) {
                changed |= answer.flags & INTERRUPTED != 0;
                match answer.kind {
                    DONE => return Ok((!changed).then_some(list)),
                    ERROR => match answer.errno() {
                        Some(0) | None => return Ok((!changed).then_some(list)),
                        Some(code) => return Err(io::Error::from_raw_os_error(code)),
                    },
                    kind if kind >= FIRST_OWN => list.extend(each(kind, answer.payload)),
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::os::fd::AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut writer = Writer::default();
        writer.text(1, "virbr0").number(2, 7).nest(3, |inner| {
            inner.attribute(1, &[1, 2, 3]);
        });
        let attributes = Attributes(&writer.bytes);
        assert_eq!(attributes.text(1).as_deref(), Some("virbr0"));
        assert_eq!(attributes.number(2), Some(7));
        assert_eq!(attributes.nested(3).find_kind(1), Some(&[1, 2, 3][..]));
        assert_eq!(attributes.count(), 3);
        writer.attribute(4, &vec![0; 70_000]);
        assert!(writer.too_long, "a length that does not fit is not cut");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                prop_assert!(message.payload.len() + HEADER_BYTES <= bytes.len());
                message.errno();
            }
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
