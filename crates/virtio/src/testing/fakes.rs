//! Interrupts and doorbells that keep a record.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use platform::{Doorbells, InterruptError, InterruptLine, MsiMessage, MsiSink};

use super::PATIENCE;

/// An interrupt line that remembers its level and how often it rose.
#[derive(Debug, Default)]
pub struct FakeLine {
    state: Mutex<(bool, u32)>,
    changed: Condvar,
}

impl FakeLine {
    /// Whether the line is high.
    pub fn is_high(&self) -> bool {
        self.state.lock().0
    }

    /// How often it went from low to high.
    pub fn rises(&self) -> u32 {
        self.state.lock().1
    }

    /// Waits until it is high.
    pub fn wait_high(&self) {
        let mut state = self.state.lock();
        let timeout = self.changed.wait_while_for(&mut state, |(high, _)| !*high, PATIENCE);
        assert!(!timeout.timed_out(), "the interrupt line stays low");
    }
}

impl InterruptLine for FakeLine {
    fn set_level(&self, high: bool) {
        let mut state = self.state.lock();
        state.1 += u32::from(high && !state.0);
        state.0 = high;
        self.changed.notify_all();
    }
}

#[derive(Debug, Default)]
struct MsiRecord {
    programmed: BTreeMap<u16, MsiMessage>,
    sent: BTreeMap<u16, u64>,
}

/// Message signalled interrupts that are counted.
#[derive(Debug, Default)]
pub struct FakeMsi {
    record: Mutex<MsiRecord>,
    changed: Condvar,
}

impl FakeMsi {
    /// How often `vector` was sent.
    pub fn sent(&self, vector: u16) -> u64 {
        self.record.lock().sent.get(&vector).copied().unwrap_or(0)
    }

    /// What `vector` is programmed to.
    pub fn programmed(&self, vector: u16) -> Option<MsiMessage> {
        self.record.lock().programmed.get(&vector).copied()
    }

    /// Waits until `vector` has been sent more than `count` times.
    pub fn wait_more(&self, vector: u16, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut record = self.record.lock();
        while record.sent.get(&vector).copied().unwrap_or(0) <= count {
            let timeout = self.changed.wait_until(&mut record, deadline);
            assert!(!timeout.timed_out(), "vector {vector} was not sent");
        }
    }
}

impl MsiSink for FakeMsi {
    fn program(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        let mut record = self.record.lock();
        match message {
            Some(message) => record.programmed.insert(vector, message),
            None => record.programmed.remove(&vector),
        };
        Ok(())
    }

    fn signal(&self, vector: u16) {
        *self.record.lock().sent.entry(vector).or_default() += 1;
        self.changed.notify_all();
    }

    fn event(&self, _vector: u16) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Doorbells as the kernel keeps them.
#[derive(Debug, Default)]
pub struct FakeDoorbells {
    /// Address to our duplicate of the descriptor and the number that it was bound by.
    bound: Mutex<BTreeMap<u64, (OwnedFd, i32)>>,
}

impl FakeDoorbells {
    /// Writes to `address` as a vCPU does; whether a doorbell took the write.
    pub fn ring(&self, address: u64) -> bool {
        let bound = self.bound.lock();
        let Some((event, _)) = bound.get(&address) else { return false };
        rustix::io::write(event, &1u64.to_ne_bytes()).expect("the eventfd takes a notification");
        true
    }

    /// The addresses that are bound, ascending.
    pub fn addresses(&self) -> Vec<u64> {
        self.bound.lock().keys().copied().collect()
    }
}

impl Doorbells for FakeDoorbells {
    fn bind(&self, address: u64, event: BorrowedFd<'_>) -> Result<(), InterruptError> {
        let raw = event.as_raw_fd();
        let event = event.try_clone_to_owned().expect("a descriptor can be duplicated");
        let before = self.bound.lock().insert(address, (event, raw));
        assert!(before.is_none(), "a doorbell is bound already at {address:#x}");
        Ok(())
    }

    fn unbind(&self, address: u64, event: BorrowedFd<'_>) -> Result<(), InterruptError> {
        let (_, raw) = self.bound.lock().remove(&address).expect("the doorbell was bound");
        assert_eq!(raw, event.as_raw_fd(), "the doorbell at {address:#x} was bound to another descriptor");
        Ok(())
    }
}
