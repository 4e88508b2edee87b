//! MSI-X of one function: the table, the pending bits, and how device threads send a vector.
//!
//! [`Msix`] is a handle that is cloned freely: the function's register side and the threads that notify share it. Each
//! vector has a lock of its own, so that queues on different threads do not meet. A vector's message is given to the
//! [`MsiSink`] when the vector is first unmasked, so vectors that a guest never uses cost the host nothing.
//!
//! Specification: PCI Local Bus 3.0, section 6.8.2 (structures), 6.8.3.5 (masking and pending bits).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::guest_warn;
use crate::interrupt::{MsiMessage, MsiSink};

/// The most vectors a function can have (the table size field has 11 bits).
pub const MAX_VECTORS: u16 = 2048;

const ENTRY_BYTES: u64 = 16;
/// Vector control bit 0: the vector is masked. Set after reset.
const MASKED: u32 = 1;
/// Message control bits 15 and 14, as seen in its upper byte.
const CONTROL_ENABLE: u8 = 0x80;
const CONTROL_FUNCTION_MASK: u8 = 0x40;

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notified {
    /// The message was sent.
    Sent,
    /// The vector is masked: its pending bit is set and the message is sent when it is unmasked.
    Pending,
    /// The guest has not enabled MSI-X, or there is no such vector: nothing was sent nor will be.
    Disabled,
}

/// The message signalled interrupts of one function.
#[derive(Clone)]
pub struct Msix {
    shared: Arc<Shared>,
}

struct Shared {
    sink: Arc<dyn MsiSink>,
    vectors: Box<[Mutex<Vector>]>,
    /// Upper byte of message control as last acted on. Locked before any vector.
    control: Mutex<u8>,
}

#[derive(Debug, Clone, Default)]
struct Vector {
    /// Message address low, message address high, message data, vector control.
    entry: [u32; 4],
    pending: bool,
    /// MSI-X is enabled.
    enabled: bool,
    /// The function is masked.
    function_masked: bool,
    /// What the sink has been told to send.
    programmed: Option<MsiMessage>,
}

impl Vector {
    fn new() -> Self {
        Self { entry: [0, 0, 0, MASKED], ..Self::default() }
    }

    /// What the vector sends now; `None` while anything masks it.
    fn message(&self) -> Option<MsiMessage> {
        let open = self.enabled && !self.function_masked && self.entry[3] & MASKED == 0;
        open.then(|| MsiMessage {
            address: u64::from(self.entry[1]) << 32 | u64::from(self.entry[0] & !0b11),
            data: self.entry[2],
        })
    }
}

impl std::fmt::Debug for Msix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Msix").field("vectors", &self.shared.vectors.len()).finish_non_exhaustive()
    }
}

impl Msix {
    /// `vectors` masked vectors (brought into 1 to 2048) that send through `sink`.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Self {
        let count = vectors.clamp(1, MAX_VECTORS);
        let vectors = (0..count).map(|_| Mutex::new(Vector::new())).collect();
        Self { shared: Arc::new(Shared { sink, vectors, control: Mutex::new(0) }) }
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        // `new` made at most 2048 of them.
        u16::try_from(self.shared.vectors.len()).unwrap_or(MAX_VECTORS)
    }

    /// Length of the table in bytes.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.vectors()) * ENTRY_BYTES
    }

    /// Length of the pending bits in bytes.
    pub fn pending_bytes(&self) -> u64 {
        u64::from(self.vectors()).div_ceil(64) * 8
    }

    /// The sink, for devices that hand a vector's descriptor to the kernel.
    pub fn sink(&self) -> &Arc<dyn MsiSink> {
        &self.shared.sink
    }

    /// Whether the guest has enabled MSI-X.
    pub fn enabled(&self) -> bool {
        *self.shared.control.lock() & CONTROL_ENABLE != 0
    }

    /// Sends `vector`, or notes that it is pending. Any thread.
    pub fn notify(&self, vector: u16) -> Notified {
        let Some(slot) = self.shared.vectors.get(usize::from(vector)) else { return Notified::Disabled };
        // Signalled under the vector's lock: a guest that has seen its mask take effect is not interrupted any more.
        let mut slot = slot.lock();
        if !slot.enabled {
            Notified::Disabled
        } else if slot.programmed.is_some() {
            self.shared.sink.signal(vector);
            Notified::Sent
        } else {
            slot.pending = true;
            Notified::Pending
        }
    }

    /// Takes the upper byte of message control; called after each write of configuration space.
    pub(super) fn set_control(&self, control: u8) {
        let mut current = self.shared.control.lock();
        if *current == control {
            return;
        }
        *current = control;
        for (number, slot) in (0..).zip(&self.shared.vectors) {
            let mut slot = slot.lock();
            slot.enabled = control & CONTROL_ENABLE != 0;
            slot.function_masked = control & CONTROL_FUNCTION_MASK != 0;
            self.settle(number, &mut slot);
        }
    }

    /// Brings the sink in line with the vector and sends what was pending.
    fn settle(&self, number: u16, slot: &mut Vector) {
        let message = slot.message();
        if message != slot.programmed {
            match self.shared.sink.program(number, message) {
                Ok(()) => slot.programmed = message,
                Err(error) => {
                    // The vector stays closed, so notifications stay pending until the guest programs it again.
                    slot.programmed = None;
                    guest_warn!(vector = number, %error, "an MSI-X vector could not be programmed");
                }
            }
        }
        if slot.programmed.is_some() && std::mem::take(&mut slot.pending) {
            self.shared.sink.signal(number);
        }
    }

    /// Reads the table at `offset` in it; zero past its end. Any width and alignment.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (step, byte) in (0u64..).zip(data) {
            let at = offset.wrapping_add(step);
            *byte = self.slot_at(at).map_or(0, |(_, slot, word)| {
                let word = slot.lock().entry[word];
                word.to_le_bytes()[(at % 4) as usize]
            });
        }
    }

    fn slot_at(&self, offset: u64) -> Option<(u16, &Mutex<Vector>, usize)> {
        let number = u16::try_from(offset / ENTRY_BYTES).ok()?;
        let slot = self.shared.vectors.get(usize::from(number))?;
        Some((number, slot, (offset % ENTRY_BYTES / 4) as usize))
    }

    /// Writes the table at `offset` in it; nothing past its end. The specification knows dwords and quadwords only:
    /// narrower and misaligned writes change the bytes that they name.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let first = (at % 4) as usize;
            let (now, later) = rest.split_at(rest.len().min(4 - first));
            if let Some((number, slot, word)) = self.slot_at(at) {
                let mut slot = slot.lock();
                let mut bytes = slot.entry[word].to_le_bytes();
                bytes[first..first + now.len()].copy_from_slice(now);
                let value = u32::from_le_bytes(bytes);
                // Vector control: all bits but the mask are reserved.
                slot.entry[word] = if word == 3 { value & MASKED } else { value };
                self.settle(number, &mut slot);
            }
            let Some(next) = at.checked_add(now.len() as u64) else { return };
            at = next;
            rest = later;
        }
    }

    /// Reads the pending bits at `offset` in them; zero past their end. They are read-only.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (step, byte) in (0u64..).zip(data) {
            let first = offset.wrapping_add(step).saturating_mul(8);
            *byte = 0;
            for bit in 0..8 {
                let number = usize::try_from(first | bit).ok();
                let slot = number.and_then(|number| self.shared.vectors.get(number));
                *byte |= u8::from(slot.is_some_and(|slot| slot.lock().pending)) << bit;
            }
        }
    }
}

#[cfg(test)]
#[path = "msix_tests.rs"]
pub(super) mod tests;
