//! A port as its character backend, the device and the device's task share it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use parking_lot::Mutex;
use platform::character::{CharacterFrontend, CharacterOutput};

use super::INPUT_BYTES;
use super::request::DeviceMessage;
use crate::counter::Counter;
use crate::running::wake;

/// Size of a window in characters; zero where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// What went through a port since the device was built.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Bytes that the guest got.
    pub input_bytes: Counter,
    /// Bytes that the guest sent and the backend took.
    pub output_bytes: Counter,
}

/// Called when somebody in the guest opens or closes a port, by any thread; must not block, and not call the device.
pub type PortWatcher = Arc<dyn Fn() + Send + Sync>;

/// Messages about a port that are still to be sent, a bit each, in the order in which they go out.
pub(super) mod pending {
    pub(in super::super) const ADD: u8 = 1 << 0;
    pub(in super::super) const CONSOLE: u8 = 1 << 1;
    pub(in super::super) const NAME: u8 = 1 << 2;
    pub(in super::super) const RESIZE: u8 = 1 << 3;
    pub(in super::super) const OPEN: u8 = 1 << 4;
    pub(in super::super) const IN_ORDER: [u8; 5] = [ADD, CONSOLE, NAME, RESIZE, OPEN];
}

/// Descriptors that wake the task, while it runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Kicks {
    pub(super) input: Option<Arc<OwnedFd>>,
    pub(super) output: Option<Arc<OwnedFd>>,
    pub(super) control: Option<Arc<OwnedFd>>,
}

/// A port. Locks are held for a copy of a few bytes only, never while anything is called.
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) output: CharacterOutput,
    pub(super) counters: PortCounters,
    watcher: Option<PortWatcher>,
    kicks: Mutex<Kicks>,
    input: Mutex<VecDeque<u8>>,
    /// Somebody in the guest wants input.
    guest_open: AtomicBool,
    /// The driver has set the port up and wants to hear of it.
    pub(super) ready: AtomicBool,
    /// Messages still to be sent.
    pending: AtomicU8,
    /// Columns in the upper half, rows in the lower.
    window: AtomicU32,
    /// Bytes of the next output chain that the backend has taken before a pause.
    skip: AtomicU32,
}

impl Port {
    pub(super) fn new(name: Option<String>, output: CharacterOutput, watcher: Option<PortWatcher>) -> Self {
        Self {
            name,
            output,
            counters: PortCounters::default(),
            watcher,
            kicks: Mutex::default(),
            input: Mutex::default(),
            guest_open: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            pending: AtomicU8::new(0),
            window: AtomicU32::new(0),
            skip: AtomicU32::new(0),
        }
    }

    /// Forgets what the driver said, its unread input included.
    pub(super) fn reset(&self) {
        let Self {
            name: _,
            output: _,
            counters: _,
            watcher: _,
            kicks,
            input,
            guest_open: _,
            ready,
            pending,
            window: _,
            skip,
        } = self;
        *kicks.lock() = Kicks::default();
        *input.lock() = VecDeque::new();
        self.set_guest_open(false);
        ready.store(false, Ordering::Relaxed);
        pending.store(0, Ordering::Relaxed);
        skip.store(0, Ordering::Relaxed);
    }

    pub(super) fn set_kicks(&self, kicks: Kicks) {
        *self.kicks.lock() = kicks;
    }

    fn wake(&self, which: impl FnOnce(&Kicks) -> Option<&Arc<OwnedFd>>) {
        if let Some(kick) = which(&self.kicks.lock()) {
            wake(kick);
        }
    }

    pub(super) fn window(&self) -> WindowSize {
        let packed = self.window.load(Ordering::Relaxed).to_le_bytes();
        let [r0, r1, c0, c1] = packed;
        WindowSize { columns: u16::from_le_bytes([c0, c1]), rows: u16::from_le_bytes([r0, r1]) }
    }

    /// Sets the window's size; whether it has changed.
    pub(super) fn set_window(&self, size: WindowSize) -> bool {
        let packed = u32::from(size.columns) << 16 | u32::from(size.rows);
        self.window.swap(packed, Ordering::Relaxed) != packed
    }

    pub(super) fn is_guest_open(&self) -> bool {
        self.guest_open.load(Ordering::Relaxed)
    }

    /// Somebody in the guest wants input, or nobody any more.
    pub(super) fn set_guest_open(&self, open: bool) {
        if self.guest_open.swap(open, Ordering::Relaxed) != open
            && let Some(watcher) = &self.watcher
        {
            watcher();
        }
        if open {
            self.output.input_wanted();
            // Input may have been waiting here since the port was last open.
            self.wake(|kicks| kicks.input.as_ref());
        }
    }

    /// Has messages sent by the task.
    pub(super) fn announce(&self, messages: u8) {
        self.pending.fetch_or(messages, Ordering::Relaxed);
        self.wake(|kicks| kicks.control.as_ref());
    }

    /// The next message that is to be sent, as its bit.
    pub(super) fn next_message(&self) -> Option<u8> {
        let pending = self.pending.load(Ordering::Relaxed);
        pending::IN_ORDER.into_iter().find(|bit| pending & bit != 0)
    }

    /// The message with this bit. Called after [`Port::clear_message`]: a change that comes in between sends it again.
    pub(super) fn message(&self, bit: u8) -> DeviceMessage<'_> {
        match bit {
            pending::ADD => DeviceMessage::Add,
            pending::CONSOLE => DeviceMessage::Console,
            pending::NAME => DeviceMessage::Name(self.name.as_deref().unwrap_or_default()),
            pending::RESIZE => DeviceMessage::Resize(self.window()),
            // The backend keeps output for a reader that comes later, so there is always somebody to write to.
            _ => DeviceMessage::Open(true),
        }
    }

    /// The message with this bit is on its way.
    pub(super) fn clear_message(&self, bit: u8) {
        self.pending.fetch_and(!bit, Ordering::Relaxed);
    }

    /// What the driver has not been told of and needs no asking: everything that a port is, in the order of 5.3.6.2.
    pub(super) fn introduce(&self, size: bool) {
        let kind = if self.name.is_some() {
            pending::NAME
        } else if size && self.window() != WindowSize::default() {
            pending::CONSOLE | pending::RESIZE
        } else {
            pending::CONSOLE
        };
        self.announce(kind | pending::OPEN);
    }

    /// Moves input to `bytes`; returns how much, and whether the backend was held up by it.
    pub(super) fn take_input(&self, bytes: &mut [u8]) -> (usize, bool) {
        let mut input = self.input.lock();
        let was_full = input.len() >= INPUT_BYTES;
        let count = bytes.len().min(input.len());
        for (to, from) in bytes.iter_mut().zip(input.drain(..count)) {
            *to = from;
        }
        (count, was_full)
    }

    pub(super) fn has_input(&self) -> bool {
        !self.input.lock().is_empty()
    }

    /// Remembers how much of the next output chain is done.
    pub(super) fn set_skip(&self, bytes: u32) {
        self.skip.store(bytes, Ordering::Relaxed);
    }

    /// How much of the next output chain is done; forgets it.
    pub(super) fn take_skip(&self) -> u32 {
        self.skip.swap(0, Ordering::Relaxed)
    }
}

impl CharacterFrontend for Port {
    fn receive_space(&self) -> usize {
        if self.is_guest_open() { INPUT_BYTES.saturating_sub(self.input.lock().len()) } else { 0 }
    }

    fn receive(&self, bytes: &[u8]) {
        {
            let mut input = self.input.lock();
            let room = INPUT_BYTES.saturating_sub(input.len());
            input.extend(&bytes[..bytes.len().min(room)]);
        }
        self.wake(|kicks| kicks.input.as_ref());
    }

    fn output_ready(&self) {
        self.wake(|kicks| kicks.output.as_ref());
    }
}
