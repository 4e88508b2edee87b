//! The common configuration structure (virtio 1.2, 4.1.4.3): from accesses of any width to fields.

use super::interrupts::PciInterrupts;
use super::{NO_VECTOR, place};
use crate::transport::{FeatureHalf, Transport};

/// A field of the structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    QueueCount,
    Status,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOffset,
    QueueDescriptors,
    QueueAvailable,
    QueueUsed,
}

/// The fields with their lengths, in order and without holes.
const FIELDS: [(Field, usize); 16] = [
    (Field::DeviceFeatureSelect, 4),
    (Field::DeviceFeature, 4),
    (Field::DriverFeatureSelect, 4),
    (Field::DriverFeature, 4),
    (Field::ConfigVector, 2),
    (Field::QueueCount, 2),
    (Field::Status, 1),
    (Field::ConfigGeneration, 1),
    (Field::QueueSelect, 2),
    (Field::QueueSize, 2),
    (Field::QueueVector, 2),
    (Field::QueueEnable, 2),
    (Field::QueueNotifyOffset, 2),
    (Field::QueueDescriptors, 8),
    (Field::QueueAvailable, 8),
    (Field::QueueUsed, 8),
];

/// The part of an access that falls on one field.
struct Part {
    field: Field,
    bytes: usize,
    /// Which bytes of the field.
    of_field: std::ops::Range<usize>,
    /// Which bytes of the access.
    of_access: std::ops::Range<usize>,
}

/// The fields that an access of `length` bytes at `offset` touches.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = Part> {
    let length = length as u64;
    let mut start = 0u64;
    FIELDS.iter().filter_map(move |(field, bytes)| {
        let (first, end) = (start, start + *bytes as u64);
        start = end;
        let from = first.max(offset);
        let to = end.min(offset.saturating_add(length));
        let range = |base: u64| Some(usize::try_from(from - base).ok()?..usize::try_from(to - base).ok()?);
        (from < to).then_some(())?;
        Some(Part { field: *field, bytes: *bytes, of_field: range(first)?, of_access: range(offset)? })
    })
}

/// The registers of the structure that are the transport's own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selects {
    device_feature: u32,
    driver_feature: u32,
    queue: u16,
}

/// The structure with everything that it reaches, for one access.
pub(super) struct Common<'a> {
    pub(super) selects: &'a mut Selects,
    pub(super) transport: &'a mut Transport,
    pub(super) interrupts: &'a PciInterrupts,
}

impl Common<'_> {
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        for part in parts(offset, data.len()) {
            let value = self.read_field(part.field).to_le_bytes();
            data[part.of_access].copy_from_slice(&value[part.of_field]);
        }
    }

    /// A write that covers a field in part leaves its other bytes as they are read.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for part in parts(offset, data.len()) {
            let whole = part.of_field.len() == part.bytes;
            let mut value = if whole { [0; 8] } else { self.read_field(part.field).to_le_bytes() };
            value[part.of_field].copy_from_slice(&data[part.of_access]);
            self.write_field(part.field, value);
        }
    }

    fn read_field(&mut self, field: Field) -> u64 {
        let queue = self.transport.queue(self.selects.queue).copied();
        match field {
            Field::DeviceFeatureSelect => u64::from(self.selects.device_feature),
            Field::DeviceFeature => {
                u64::from(self.transport.device_features(FeatureHalf::selected(self.selects.device_feature)))
            }
            Field::DriverFeatureSelect => u64::from(self.selects.driver_feature),
            Field::DriverFeature => {
                u64::from(self.transport.driver_features(FeatureHalf::selected(self.selects.driver_feature)))
            }
            Field::ConfigVector => u64::from(self.interrupts.config_vector()),
            Field::QueueCount => u64::from(self.transport.queue_count()),
            Field::Status => u64::from(self.transport.read_status()),
            Field::ConfigGeneration => u64::from(self.transport.config_generation()),
            Field::QueueSelect => u64::from(self.selects.queue),
            // Zero says that there is no such queue.
            Field::QueueSize => queue.map_or(0, |queue| u64::from(queue.size)),
            Field::QueueVector => u64::from(self.interrupts.queue_vector(self.selects.queue)),
            Field::QueueEnable => queue.map_or(0, |queue| u64::from(queue.enabled())),
            Field::QueueNotifyOffset => queue.map_or(0, |_| u64::from(self.selects.queue)),
            Field::QueueDescriptors => queue.map_or(0, |queue| queue.descriptors),
            Field::QueueAvailable => queue.map_or(0, |queue| queue.available),
            Field::QueueUsed => queue.map_or(0, |queue| queue.used),
        }
    }

    fn write_field(&mut self, field: Field, raw: [u8; 8]) {
        let [a, b, c, d, ..] = raw;
        let (byte, word, dword, qword) =
            (a, u16::from_le_bytes([a, b]), u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(raw));
        let queue = self.selects.queue;
        match field {
            Field::DeviceFeatureSelect => self.selects.device_feature = dword,
            Field::DriverFeatureSelect => self.selects.driver_feature = dword,
            Field::DriverFeature => {
                let half = FeatureHalf::selected(self.selects.driver_feature);
                self.transport.write_driver_features(half, dword);
            }
            Field::ConfigVector => self.interrupts.set_config_vector(word),
            Field::Status => self.transport.write_status(byte),
            Field::QueueSelect => self.selects.queue = word,
            Field::QueueSize => self.transport.configure_queue(queue, |queue| queue.size = word),
            Field::QueueVector => self.interrupts.set_queue_vector(queue, word),
            Field::QueueEnable => {
                // A driver can't disable a queue but by a reset (4.1.4.3.2).
                if word == 1 {
                    self.transport.enable_queue(queue);
                }
            }
            Field::QueueDescriptors => {
                self.transport.configure_queue(queue, |queue| queue.descriptors = qword)
            }
            Field::QueueAvailable => self.transport.configure_queue(queue, |queue| queue.available = qword),
            Field::QueueUsed => self.transport.configure_queue(queue, |queue| queue.used = qword),
            Field::DeviceFeature | Field::QueueCount | Field::ConfigGeneration | Field::QueueNotifyOffset => {
            }
        }
    }
}

const _: () = {
    let mut total = 0;
    let mut at = 0;
    while at < FIELDS.len() {
        total += FIELDS[at].1 as u64;
        at += 1;
    }
    assert!(total == place::COMMON_BYTES, "the fields make up the structure");
    assert!(NO_VECTOR == u16::MAX, "a vector that does not exist reads as all ones");
};
