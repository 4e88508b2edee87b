//! The serial port: a 16550A with its 16-byte FIFOs, modem lines and loopback.
//!
//! Flow control: a byte that the character backend does not take stays in the transmitter and THRE stays clear, so the
//! guest waits as it would for a slow line; input is taken from the backend only as the receive FIFO has room, so
//! nothing overruns. Line speed and parity are accepted and have no effect.
//!
//! Specification: PC16550D datasheet (National Semiconductor, June 1995), section 8. Locks: the port's state, then the
//! backend's; the backend calls the port with none held.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::character::{CharacterBackend, CharacterFrontend, CharacterOutput};
use crate::interrupt::InterruptLine;
use crate::register_file::{Effect, RegisterFile};

const FIFO_BYTES: usize = 16;

/// Interrupt enable register.
const IER_RECEIVED: u8 = 1 << 0;
const IER_EMPTY: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;
/// Interrupt identification register.
const IIR_NONE: u8 = 0b0001;
const IIR_MODEM: u8 = 0b0000;
const IIR_EMPTY: u8 = 0b0010;
const IIR_RECEIVED: u8 = 0b0100;
const IIR_LINE: u8 = 0b0110;
const IIR_TIMEOUT: u8 = 0b1100;
const IIR_FIFO: u8 = 0b1100_0000;
/// FIFO control register.
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVED: u8 = 1 << 1;
const FCR_CLEAR_TRANSMIT: u8 = 1 << 2;
/// Line control register: the divisor latch takes the place of registers 0 and 1.
const LCR_DIVISOR: u8 = 1 << 7;
/// Modem control register.
const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
/// Line status register.
const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_HOLDING_EMPTY: u8 = 1 << 5;
const LSR_EMPTY: u8 = 1 << 6;
/// Modem status register; bits 3:0 tell which of bits 7:4 have changed.
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RING: u8 = 1 << 6;
const MSR_CARRIER: u8 = 1 << 7;
const MSR_RING_ENDED: u8 = 1 << 2;
const MSR_LINES: u8 = 0xf0;

struct Registers {
    interrupt_enable: u8,
    fifo_enabled: bool,
    receive_trigger: usize,
    line_control: u8,
    modem_control: u8,
    modem_status: u8,
    overrun: bool,
    scratch: u8,
    divisor: [u8; 2],
    received: VecDeque<u8>,
    /// Bytes that the backend has not taken yet.
    transmit: VecDeque<u8>,
    /// The transmitter has become empty and the guest has not been told.
    empty_pending: bool,
    /// The backend saw no room for input and waits for [`CharacterOutput::input_wanted`].
    input_waits: bool,
    line_high: bool,
}

impl Registers {
    fn new() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_enabled: false,
            receive_trigger: 1,
            line_control: 0,
            modem_control: 0,
            // A terminal is there and ready.
            modem_status: MSR_CARRIER | MSR_DSR | MSR_CTS,
            overrun: false,
            scratch: 0,
            divisor: [12, 0], // 9600 baud
            received: VecDeque::with_capacity(FIFO_BYTES),
            transmit: VecDeque::with_capacity(FIFO_BYTES),
            empty_pending: false,
            input_waits: false,
            line_high: false,
        }
    }

    fn depth(&self) -> usize {
        if self.fifo_enabled { FIFO_BYTES } else { 1 }
    }

    fn loops(&self) -> bool {
        self.modem_control & MCR_LOOP != 0
    }

    fn line_status(&self) -> u8 {
        let mut status = if self.transmit.is_empty() { LSR_HOLDING_EMPTY | LSR_EMPTY } else { 0 };
        if !self.received.is_empty() {
            status |= LSR_DATA;
        }
        if self.overrun {
            status |= LSR_OVERRUN;
        }
        status
    }

    /// The pending interrupt of the highest priority (section 8.6, table IV).
    fn interrupt(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE) && self.overrun {
            IIR_LINE
        } else if enabled(IER_RECEIVED) && self.received.len() >= self.receive_trigger {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && !self.received.is_empty() {
            // Fewer than the trigger level: the line is silent as soon as the backend has no more.
            IIR_TIMEOUT
        } else if enabled(IER_EMPTY) && self.empty_pending {
            IIR_EMPTY
        } else if enabled(IER_MODEM) && self.modem_status & !MSR_LINES != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// Sets the modem lines, noting what changes.
    fn set_modem_lines(&mut self, lines: u8) {
        let before = self.modem_status & MSR_LINES;
        let changed = (before ^ lines) & (MSR_CTS | MSR_DSR | MSR_CARRIER);
        self.modem_status |= changed >> 4;
        if before & MSR_RING != 0 && lines & MSR_RING == 0 {
            self.modem_status |= MSR_RING_ENDED;
        }
        self.modem_status = self.modem_status & !MSR_LINES | lines;
    }

    fn set_modem_control(&mut self, value: u8) {
        self.modem_control = value & 0x1f;
        let wired = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RING), (MCR_OUT2, MSR_CARRIER)];
        let lines = if self.loops() {
            wired.iter().filter(|(control, _)| value & control != 0).map(|(_, line)| line).sum()
        } else {
            MSR_CARRIER | MSR_DSR | MSR_CTS
        };
        self.set_modem_lines(lines);
    }

    fn set_fifo_control(&mut self, value: u8) {
        let enable = value & FCR_ENABLE != 0;
        if enable != self.fifo_enabled || value & FCR_CLEAR_RECEIVED != 0 {
            self.received.clear();
        }
        if enable != self.fifo_enabled || value & FCR_CLEAR_TRANSMIT != 0 {
            // What the guest clears was never on the line.
            self.empty_pending |= !self.transmit.is_empty();
            self.transmit.clear();
        }
        self.fifo_enabled = enable;
        self.receive_trigger = if enable { [1, 4, 8, 14][usize::from(value >> 6)] } else { 1 };
    }

    fn transmit(&mut self, byte: u8, output: &CharacterOutput) {
        self.empty_pending = false;
        if self.loops() {
            if self.received.len() < self.depth() {
                self.received.push_back(byte);
            } else {
                self.overrun = true;
            }
            self.empty_pending = true;
        } else if self.transmit.is_empty() && output.write(&[byte]) == 1 {
            self.empty_pending = true;
        } else if self.transmit.len() < self.depth() {
            self.transmit.push_back(byte);
        }
        // Else the guest wrote without looking at THRE: the byte is lost, as on the real device.
    }

    /// Offers the backend what waits in the transmitter.
    fn flush(&mut self, output: &CharacterOutput) {
        if self.transmit.is_empty() {
            return;
        }
        let taken = output.write(self.transmit.make_contiguous());
        self.transmit.drain(..taken);
        self.empty_pending |= self.transmit.is_empty();
    }

    fn read(&mut self, register: u64) -> u8 {
        let divisor = self.line_control & LCR_DIVISOR != 0;
        match register {
            0 if divisor => self.divisor[0],
            1 if divisor => self.divisor[1],
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.interrupt_enable,
            2 => {
                let interrupt = self.interrupt();
                if interrupt == IIR_EMPTY {
                    self.empty_pending = false;
                }
                interrupt | if self.fifo_enabled { IIR_FIFO } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let status = self.line_status();
                self.overrun = false;
                status
            }
            6 => {
                let status = self.modem_status;
                self.modem_status &= MSR_LINES;
                status
            }
            7 => self.scratch,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u64, value: u8, output: &CharacterOutput) {
        let divisor = self.line_control & LCR_DIVISOR != 0;
        match register {
            0 if divisor => self.divisor[0] = value,
            1 if divisor => self.divisor[1] = value,
            0 => self.transmit(value, output),
            1 => {
                let newly = value & !self.interrupt_enable;
                self.interrupt_enable = value & 0x0f;
                // Enabling it while the transmitter is empty interrupts at once.
                self.empty_pending |= newly & IER_EMPTY != 0 && self.transmit.is_empty();
            }
            2 => self.set_fifo_control(value),
            3 => self.line_control = value,
            4 => self.set_modem_control(value),
            7 => self.scratch = value,
            _ => {}
        }
    }
}

struct Port {
    registers: Mutex<Registers>,
    line: Arc<dyn InterruptLine>,
    output: CharacterOutput,
}

impl Port {
    /// Does `work` on the registers, then drives the interrupt line and wakes the backend as they say.
    fn with<T>(&self, work: impl FnOnce(&mut Registers) -> T) -> T {
        let mut registers = self.registers.lock();
        let result = work(&mut registers);
        let high = registers.interrupt() != IIR_NONE;
        if high != registers.line_high {
            registers.line_high = high;
            self.line.set_level(high);
        }
        let room = !registers.loops() && registers.received.len() < registers.depth();
        let wake = room && std::mem::take(&mut registers.input_waits);
        drop(registers);
        if wake {
            self.output.input_wanted();
        }
        result
    }
}

impl CharacterFrontend for Port {
    fn receive_space(&self) -> usize {
        let mut registers = self.registers.lock();
        let space =
            if registers.loops() { 0 } else { registers.depth().saturating_sub(registers.received.len()) };
        registers.input_waits = space == 0;
        space
    }

    fn receive(&self, bytes: &[u8]) {
        self.with(|registers| {
            let room = registers.depth().saturating_sub(registers.received.len());
            registers.received.extend(&bytes[..bytes.len().min(room)]);
        });
    }

    fn output_ready(&self) {
        self.with(|registers| registers.flush(&self.output));
    }
}

/// A 16550A serial port, eight registers wide.
pub struct Uart {
    port: Arc<Port>,
    /// Lives at least as long as the port; the port is called through it.
    _backend: Arc<CharacterBackend>,
}

impl std::fmt::Debug for Uart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uart").finish_non_exhaustive()
    }
}

impl Uart {
    /// A port that interrupts through `line` and is connected to `backend`.
    pub fn new(line: Arc<dyn InterruptLine>, backend: Arc<CharacterBackend>) -> Self {
        let port = Arc::new(Port { registers: Mutex::new(Registers::new()), line, output: backend.output() });
        let frontend: Arc<dyn CharacterFrontend> = Arc::clone(&port) as Arc<dyn CharacterFrontend>;
        backend.connect(&frontend);
        Self { port, _backend: backend }
    }
}

impl RegisterFile for Uart {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // The chip is eight bits wide: a wider access is a row of byte accesses.
        for (step, byte) in (0u64..).zip(data) {
            *byte = self.port.with(|registers| registers.read(offset.saturating_add(step)));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        for (step, byte) in (0u64..).zip(data) {
            let port = &self.port;
            port.with(|registers| registers.write(offset.saturating_add(step), *byte, &port.output));
        }
        Effect::None
    }
}

#[cfg(test)]
#[path = "uart_tests.rs"]
mod tests;
