//! The real-time clock and its battery-backed memory: an MC146818 with the PC's second bank left out.
//!
//! Time is the host's clock plus an offset that the guest sets. Nothing ticks while the guest asks for no interrupts:
//! the registers, the update-in-progress bit and the flags are computed when they are read. A timer runs on a worker
//! only while the guest has enabled an interrupt.
//!
//! Specification: MC146818A datasheet (Motorola, 1984); the PC/AT's use of the memory (memory size at 15h-18h, 30h, 34h,
//! 5Bh; century at 32h) is a convention that firmware and ACPI (FADT `CENTURY`) rely on. Locks: the clock's state only.

mod calendar;
mod clock;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::interrupt::InterruptLine;
use crate::register_file::{Effect, RegisterFile};
use crate::timer;
use crate::worker::{Attached, Interest, Poller, Task, WorkerHandle};
use clock::Clock;

/// What the memory size bytes say, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize {
    /// Memory below 4 GiB, from address 0.
    pub below_4g: u64,
    /// Memory from 4 GiB on.
    pub above_4g: u64,
}

struct State {
    clock: Clock,
    line: Arc<dyn InterruptLine>,
    line_high: bool,
    timer: Arc<OwnedFd>,
    armed: Option<Duration>,
}

impl State {
    /// Drives the interrupt line and sets the timer as the registers say.
    fn settle(&mut self, now: Duration) {
        let high = self.clock.interrupts();
        if high != self.line_high {
            self.line_high = high;
            self.line.set_level(high);
        }
        // While an interrupt is pending nothing new can be told, so a guest that does not answer costs no wake-ups.
        let next = if high { None } else { self.clock.next_event(now) };
        if next != self.armed {
            self.armed = next;
            let wait = next.map_or(Duration::ZERO, |at| at.saturating_sub(now).max(Duration::from_nanos(1)));
            timer::set(&*self.timer, wait, Duration::ZERO);
        }
    }
}

/// The clock, two ports wide: index and data ([`crate::board::RTC_PORTS`]).
pub struct Rtc {
    state: Arc<Mutex<State>>,
    index: u8,
    _ticker: Attached<Ticker>,
}

impl std::fmt::Debug for Rtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rtc").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Time since 1970 by the host's clock.
fn host_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl Rtc {
    /// A clock that shows the host's time (UTC) and `memory`, interrupts through `line`
    /// ([`crate::board::RTC_IRQ`]), and has its timer on `worker`.
    pub fn new(line: Arc<dyn InterruptLine>, memory: MemorySize, worker: &WorkerHandle) -> io::Result<Self> {
        let timer = Arc::new(timer::idle()?);
        let state = State {
            clock: Clock::new(host_time(), memory),
            line,
            line_high: false,
            timer: Arc::clone(&timer),
            armed: None,
        };
        let state = Arc::new(Mutex::new(state));
        let ticker = Ticker { state: Arc::clone(&state), timer };
        let ticker = worker.attach(ticker).map_err(|(_, error)| error)?;
        Ok(Self { state, index: 0, _ticker: ticker })
    }
}

/// Looks at the clock when an interrupt is due.
struct Ticker {
    state: Arc<Mutex<State>>,
    timer: Arc<OwnedFd>,
}

impl Task for Ticker {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&*self.timer, 0, Interest::Read)
    }

    fn ready(&mut self, _token: u16, _poller: &mut Poller<'_>) {
        if timer::expired(&*self.timer) {
            let now = host_time();
            let mut state = self.state.lock();
            state.armed = None;
            state.clock.advance(now);
            state.settle(now);
        }
    }

    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        true
    }
}

impl RegisterFile for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (1, [byte, ..]) = (offset, data) {
            let now = host_time();
            let mut state = self.state.lock();
            *byte = state.clock.read(self.index, now);
            state.settle(now);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            // Bit 7 of the index port gates the NMI, which nothing here raises.
            (0, [value, rest @ ..]) => {
                self.index = value & 0x7f;
                // A 16-bit write sets the index and writes the register.
                if !rest.is_empty() {
                    return self.write(1, rest);
                }
            }
            (1, [value, ..]) => {
                let now = host_time();
                let mut state = self.state.lock();
                state.clock.write(self.index, *value, now);
                state.settle(now);
            }
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;
