//! The keyboard controller, with nothing plugged in: what a guest needs to find that out quickly, and to reset the
//! machine through it.
//!
//! A byte sent to a device is answered as a real controller does when no device clocks it in: a transmission timeout
//! (status bit 6) with FEh in the data register, so that drivers give up at once. The auxiliary port tests as broken
//! (clock line stuck), because an absent answer would make drivers wait half a second for each of several commands.
//!
//! Specification: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller" (May 1988).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::bus::SharedDevice;
use crate::interrupt::InterruptLine;
use crate::register_file::{Effect, RegisterFile, VmRequest};

/// Status register.
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_AUXILIARY: u8 = 1 << 5;
const STATUS_TIMEOUT: u8 = 1 << 6;

/// Command byte (controller RAM location 0).
const COMMAND_BYTE_INTERRUPT: u8 = 1 << 0;
const COMMAND_BYTE_SYSTEM: u8 = 1 << 2;
const COMMAND_BYTE_NO_KEYBOARD: u8 = 1 << 4;
const COMMAND_BYTE_NO_AUXILIARY: u8 = 1 << 5;

/// Output port bit 0: zero resets the processor. Bit 1: the A20 gate.
const OUTPUT_PORT_RUN: u8 = 1 << 0;
const OUTPUT_PORT_A20: u8 = 1 << 1;

/// What a device's answer register reads when the device did not take a byte.
const NOT_TAKEN: u8 = 0xfe;

/// What the next byte at the data port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    Keyboard,
    Ram(u8),
    OutputPort,
    Loop(u8),
    Auxiliary,
}

#[derive(Debug)]
struct Controller {
    ram: [u8; 32],
    output_port: u8,
    expects: Expects,
    last_was_command: bool,
    /// The byte in the output buffer and the status bits that come with it.
    answer: Option<(u8, u8)>,
}

impl Controller {
    fn new() -> Self {
        let mut ram = [0; 32];
        ram[0] = COMMAND_BYTE_NO_KEYBOARD | COMMAND_BYTE_NO_AUXILIARY;
        Self {
            ram,
            output_port: OUTPUT_PORT_RUN | OUTPUT_PORT_A20,
            expects: Expects::Keyboard,
            last_was_command: false,
            answer: None,
        }
    }

    fn status(&self) -> u8 {
        let answer = self.answer.map_or(0, |(_, status)| status | STATUS_OUTPUT_FULL);
        let system = if self.ram[0] & COMMAND_BYTE_SYSTEM != 0 { STATUS_SYSTEM } else { 0 };
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        STATUS_UNLOCKED | answer | system | command
    }

    fn set_output_port(&mut self, value: u8) -> Effect {
        self.output_port = value;
        if value & OUTPUT_PORT_RUN == 0 { Effect::Ask(VmRequest::Reset) } else { Effect::None }
    }

    fn command(&mut self, command: u8) -> Effect {
        self.last_was_command = true;
        self.expects = Expects::Keyboard;
        match command {
            0x20..=0x3f => self.answer = Some((self.ram[usize::from(command & 0x1f)], 0)),
            0x60..=0x7f => self.expects = Expects::Ram(command & 0x1f),
            0xa7 => self.ram[0] |= COMMAND_BYTE_NO_AUXILIARY,
            0xa8 => self.ram[0] &= !COMMAND_BYTE_NO_AUXILIARY,
            0xa9 => self.answer = Some((0x01, 0)), // auxiliary clock line stuck low
            0xaa => {
                self.ram[0] |= COMMAND_BYTE_SYSTEM;
                self.answer = Some((0x55, 0)); // self-test passed
            }
            0xab => self.answer = Some((0x00, 0)), // keyboard lines in order
            0xad => self.ram[0] |= COMMAND_BYTE_NO_KEYBOARD,
            0xae => self.ram[0] &= !COMMAND_BYTE_NO_KEYBOARD,
            0xc0 => self.answer = Some((0x80, 0)), // input port: keyboard not inhibited
            0xd0 => self.answer = Some((self.output_port, 0)),
            0xd1 => self.expects = Expects::OutputPort,
            0xd2 => self.expects = Expects::Loop(0),
            0xd3 => self.expects = Expects::Loop(STATUS_AUXILIARY | STATUS_TIMEOUT),
            0xd4 => self.expects = Expects::Auxiliary,
            0xe0 => self.answer = Some((0x00, 0)), // test inputs
            // Pulse the output port bits that are zero; only bit 0 is wired.
            0xf0..=0xff if command & OUTPUT_PORT_RUN == 0 => return Effect::Ask(VmRequest::Reset),
            _ => {}
        }
        Effect::None
    }

    fn data(&mut self, value: u8) -> Effect {
        self.last_was_command = false;
        match std::mem::replace(&mut self.expects, Expects::Keyboard) {
            Expects::Ram(address) => self.ram[usize::from(address & 0x1f)] = value,
            Expects::OutputPort => return self.set_output_port(value),
            Expects::Loop(0) => self.answer = Some((value, 0)),
            // Loops through a port whose test fails: not what was sent, so that no device is taken to be there.
            Expects::Loop(status) => self.answer = Some((NOT_TAKEN, status)),
            Expects::Auxiliary => self.answer = Some((NOT_TAKEN, STATUS_AUXILIARY | STATUS_TIMEOUT)),
            Expects::Keyboard => self.answer = Some((NOT_TAKEN, STATUS_TIMEOUT)),
        }
        Effect::None
    }

    fn interrupts(&self) -> bool {
        let keyboard = self.answer.is_some_and(|(_, status)| status & STATUS_AUXILIARY == 0);
        keyboard && self.ram[0] & COMMAND_BYTE_INTERRUPT != 0
    }
}

/// The controller; it becomes two devices, because other devices have the ports between its two.
pub struct I8042 {
    line: Arc<dyn InterruptLine>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Face {
    Data,
    Command,
}

struct Port {
    face: Face,
    controller: Arc<Mutex<Controller>>,
    line: Arc<dyn InterruptLine>,
}

impl I8042 {
    /// A controller that interrupts through `line` (IRQ 1).
    pub fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self { line }
    }

    /// The data port and the command port, each one byte wide, to be placed at [`crate::board::I8042_DATA_PORT`] and
    /// [`crate::board::I8042_COMMAND_PORT`].
    pub fn into_ports(self) -> (SharedDevice, SharedDevice) {
        let controller = Arc::new(Mutex::new(Controller::new()));
        let port = |face| -> SharedDevice {
            let (controller, line) = (Arc::clone(&controller), Arc::clone(&self.line));
            Arc::new(Mutex::new(Port { face, controller, line }))
        };
        (port(Face::Data), port(Face::Command))
    }
}

impl RegisterFile for Port {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let Some(first) = data.first_mut() else { return };
        let mut controller = self.controller.lock();
        match self.face {
            Face::Command => *first = controller.status(),
            Face::Data => {
                *first = controller.answer.take().map_or(0, |(value, _)| value);
                self.line.set_level(false);
            }
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) -> Effect {
        let Some(&value) = data.first() else { return Effect::None };
        let mut controller = self.controller.lock();
        let effect = match self.face {
            Face::Command => controller.command(value),
            Face::Data => controller.data(value),
        };
        self.line.set_level(controller.interrupts());
        effect
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Line(AtomicBool);

    impl InterruptLine for Line {
        fn set_level(&self, high: bool) {
            self.0.store(high, Ordering::SeqCst);
        }
    }

    struct Setup {
        data: SharedDevice,
        command: SharedDevice,
        line: Arc<Line>,
    }

    impl Setup {
        fn new() -> Self {
            let line = Arc::new(Line::default());
            let (data, command) = I8042::new(Arc::clone(&line) as Arc<dyn InterruptLine>).into_ports();
            Self { data, command, line }
        }
        fn status(&self) -> u8 {
            let mut data = [0];
            self.command.lock().read(0, &mut data);
            data[0]
        }
        fn answer(&self) -> u8 {
            assert!(self.status() & STATUS_OUTPUT_FULL != 0, "there is no answer");
            let mut data = [0];
            self.data.lock().read(0, &mut data);
            data[0]
        }
        fn command(&self, value: u8) -> Effect {
            self.command.lock().write(0, &[value])
        }
        fn data(&self, value: u8) -> Effect {
            self.data.lock().write(0, &[value])
        }
    }

    #[test]
    fn the_controller_tests_and_its_command_byte_reads_back() {
        let setup = Setup::new();
        assert_eq!(setup.status() & STATUS_OUTPUT_FULL, 0);
        let _ = setup.command(0xaa);
        assert_eq!(setup.answer(), 0x55);
        assert_eq!(setup.status() & STATUS_SYSTEM, STATUS_SYSTEM);
        let _ = setup.command(0x60);
        let _ = setup.data(0x74);
        let _ = setup.command(0x20);
        assert_eq!(setup.answer(), 0x74);
        let _ = setup.command(0xa8);
        let _ = setup.command(0x20);
        assert_eq!(setup.answer(), 0x54);
    }

    #[test]
    fn a_byte_for_a_device_is_answered_with_a_timeout_at_once() {
        let setup = Setup::new();
        let _ = setup.command(0x60);
        let _ = setup.data(COMMAND_BYTE_INTERRUPT);
        let _ = setup.data(0xf2);
        assert!(setup.line.0.load(Ordering::SeqCst));
        assert_eq!(setup.status() & (STATUS_TIMEOUT | STATUS_AUXILIARY), STATUS_TIMEOUT);
        assert_eq!(setup.answer(), NOT_TAKEN);
        assert!(!setup.line.0.load(Ordering::SeqCst));
        let _ = setup.command(0xd4);
        let _ = setup.data(0xf2);
        let both = STATUS_TIMEOUT | STATUS_AUXILIARY;
        assert_eq!(setup.status() & both, both);
        assert_eq!(setup.answer(), NOT_TAKEN);
    }

    #[test]
    fn a_driver_finds_no_auxiliary_port() {
        let setup = Setup::new();
        let _ = setup.command(0xd3);
        let _ = setup.data(0x5a);
        assert_ne!(setup.answer(), 0x5a);
        let _ = setup.command(0xa9);
        assert!(!matches!(setup.answer(), 0x00 | 0xfa | 0xff));
    }

    #[test]
    fn the_pulse_command_and_the_output_port_reset() {
        let setup = Setup::new();
        assert_eq!(setup.command(0xff), Effect::None);
        assert_eq!(setup.command(0xfe), Effect::Ask(VmRequest::Reset));
        assert_eq!(setup.command(0xd1), Effect::None);
        assert_eq!(setup.data(0xdf), Effect::None);
        assert_eq!(setup.command(0xd1), Effect::None);
        assert_eq!(setup.data(0x02), Effect::Ask(VmRequest::Reset));
    }

    proptest! {
        #[test]
        fn no_access_panics(steps in proptest::collection::vec((0u8..4, any::<[u8; 8]>(), 1usize..=8), 0..100)) {
            let setup = Setup::new();
            for (what, mut bytes, length) in steps {
                let port = if what & 1 == 0 { &setup.data } else { &setup.command };
                if what & 2 == 0 {
                    port.lock().read(0, &mut bytes[..length]);
                } else {
                    let _ = port.lock().write(0, &bytes[..length]);
                }
            }
        }
    }
}
