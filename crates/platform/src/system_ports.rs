//! Two single-byte ports of the PC: system control port A (92h) and the POST code port (80h).
//!
//! Specification: Intel ICH9 datasheet (316972), section 13.7.3 (PORT92); the POST port is the convention of the IBM PC.

use crate::register_file::{Effect, RegisterFile, VmRequest};

/// Bit 0: a change from 0 to 1 resets the processor. Bit 1: the A20 gate, which is always open: it reads back only.
const FAST_RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;

/// Port 92h, to be placed at [`crate::board::SYSTEM_CONTROL_PORTS`].
#[derive(Debug)]
pub struct SystemControl {
    value: u8,
}

impl SystemControl {
    /// As after power-on, with A20 open.
    pub fn new() -> Self {
        Self { value: A20 }
    }
}

impl Default for SystemControl {
    fn default() -> Self {
        Self::new()
    }
}

impl RegisterFile for SystemControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, [value, ..]) = (offset, data) {
            *value = self.value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let (0, [value, ..]) = (offset, data) else { return Effect::None };
        let before = std::mem::replace(&mut self.value, value & (FAST_RESET | A20));
        let rises = before & FAST_RESET == 0 && value & FAST_RESET != 0;
        if rises { Effect::Ask(VmRequest::Reset) } else { Effect::None }
    }
}

/// Port 80h: firmware writes its progress there and old drivers use it as a delay. It keeps what was written.
#[derive(Debug, Default)]
pub struct PostCode {
    last: u8,
}

impl RegisterFile for PostCode {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.last);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) -> Effect {
        self.last = data.first().copied().unwrap_or(self.last);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_reset_resets_once_each_time_it_rises() {
        let mut port = SystemControl::new();
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, [A20]);
        assert_eq!(port.write(0, &[A20]), Effect::None);
        assert_eq!(port.write(0, &[A20 | FAST_RESET]), Effect::Ask(VmRequest::Reset));
        assert_eq!(port.write(0, &[A20 | FAST_RESET]), Effect::None);
        assert_eq!(port.write(1, &[0]), Effect::None);
        port.read(0, &mut data);
        assert_eq!(data, [A20 | FAST_RESET]);
        assert_eq!(port.write(0, &[A20]), Effect::None);
        assert_eq!(port.write(0, &[A20 | FAST_RESET]), Effect::Ask(VmRequest::Reset));
    }
}
