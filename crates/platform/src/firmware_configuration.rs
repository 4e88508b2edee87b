//! What firmware is told about the machine: the fw_cfg device, through which QEMU's boards speak to SeaBIOS and OVMF.
//!
//! A guest selects an item by its number and reads it, a byte at a time from the data port or in one go by DMA. Items with
//! a name are files, which the directory (item 19h) lists. Nothing can be written.
//!
//! Numbers in the device's own structures are big-endian, items have the byte order of who reads them (little-endian for
//! those with numbers of their own). A read past the end of an item gives zeros.
//!
//! Specification: QEMU, docs/specs/fw_cfg.rst. Where it is: [`crate::board::FIRMWARE_CONFIGURATION_PORTS`].

use std::collections::BTreeMap;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::register_file::{Effect, RegisterFile};

/// Items with numbers of their own (QEMU, include/standard-headers/linux/qemu_fw_cfg.h and hw/nvram/fw_cfg.h).
pub mod item {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// What the device can: bit 0 the data port, bit 1 DMA.
    pub const FEATURES: u16 = 0x01;
    /// vCPUs that are there at the start, 16 bits.
    pub const CPU_COUNT: u16 = 0x05;
    /// The largest local APIC identifier and one, 16 bits.
    pub const MOST_CPUS: u16 = 0x0f;
    /// The list of files.
    pub const DIRECTORY: u16 = 0x19;
    /// The first file.
    pub const FIRST_FILE: u16 = 0x20;
}

/// Longest name of a file, bytes, with the zero at its end.
const NAME_BYTES: usize = 56;
/// Files there can be: numbers from 4000h are something else.
const MOST_FILES: usize = 0x3fe0;

/// Registers, in the order of their ports.
const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA_HIGH: u64 = 4;
const DMA_LOW: u64 = 8;
/// What the DMA register reads as.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Control bits of a DMA command.
const DMA_ERROR: u32 = 1 << 0;
const DMA_READ: u32 = 1 << 1;
const DMA_SKIP: u32 = 1 << 2;
const DMA_SELECT: u32 = 1 << 3;
const DMA_WRITE: u32 = 1 << 4;

/// Zeros are written to the guest in pieces of this many bytes, and at most this many past the end of an item: whoever
/// asks for more does not read an item, and would keep its vCPU busy for as long as memory is large.
const ZEROS: usize = 4096;
const MOST_ZEROS: usize = 1 << 20;

/// Why an item could not be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// The name does not fit, or has bytes that firmware does not compare.
    #[error("{0:?} is no name of a file for firmware: 1 to 55 printable ASCII characters")]
    Name(String),
    /// Already there.
    #[error("{0:?} is told to firmware twice")]
    Twice(String),
    /// Longer than the 32 bits that say how long.
    #[error("{0:?} is larger than 4 GiB")]
    TooLarge(String),
    /// No number is left.
    #[error("more than {MOST_FILES} files")]
    TooMany,
}

/// What an item says when it is selected.
enum Content {
    /// Always the same.
    Fixed(Arc<[u8]>),
    /// What is right at that moment, for firmware has changed the machine meanwhile; of a length that is known before.
    Made { length: usize, make: Make },
}

/// Makes what an item says.
type Make = Box<dyn FnMut() -> Vec<u8> + Send>;

impl Content {
    fn length(&self) -> usize {
        match self {
            Self::Fixed(bytes) => bytes.len(),
            Self::Made { length, .. } => *length,
        }
    }

    fn bytes(&mut self) -> Arc<[u8]> {
        match self {
            Self::Fixed(bytes) => Arc::clone(bytes),
            Self::Made { length, make } => {
                let mut bytes = make();
                bytes.resize(*length, 0);
                bytes.into()
            }
        }
    }
}

/// What firmware is to be told; becomes a [`FirmwareConfiguration`].
#[derive(Default)]
pub struct Items {
    numbered: BTreeMap<u16, Content>,
    files: BTreeMap<String, Content>,
}

impl std::fmt::Debug for Items {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Items").field("files", &self.files.keys()).finish_non_exhaustive()
    }
}

impl Items {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an item of [`item`].
    pub fn set(&mut self, number: u16, content: impl Into<Arc<[u8]>>) {
        self.numbered.insert(number, Content::Fixed(content.into()));
    }

    /// Adds a file.
    ///
    /// # Errors
    /// The name can't be told or is taken, or the content is too long.
    pub fn add(&mut self, name: &str, content: impl Into<Arc<[u8]>>) -> Result<(), ItemError> {
        self.add_content(name, Content::Fixed(content.into()))
    }

    /// Adds a file of `length` bytes that is made each time that it is selected. `make` is called by the vCPU that selects it, with
    /// this device's lock held.
    ///
    /// # Errors
    /// As for [`Items::add`].
    pub fn add_made(
        &mut self,
        name: &str,
        length: usize,
        make: impl FnMut() -> Vec<u8> + Send + 'static,
    ) -> Result<(), ItemError> {
        self.add_content(name, Content::Made { length, make: Box::new(make) })
    }

    fn add_content(&mut self, name: &str, content: Content) -> Result<(), ItemError> {
        if name.is_empty() || name.len() >= NAME_BYTES || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ItemError::Name(name.to_owned()));
        }
        if u32::try_from(content.length()).is_err() {
            return Err(ItemError::TooLarge(name.to_owned()));
        }
        if self.files.len() == MOST_FILES {
            return Err(ItemError::TooMany);
        }
        match self.files.insert(name.to_owned(), content) {
            None => Ok(()),
            Some(_) => Err(ItemError::Twice(name.to_owned())),
        }
    }

    /// All items by number, with the directory. Files are in the order of their names, in which firmware searches.
    fn finish(self) -> BTreeMap<u16, Content> {
        let Self { numbered: mut items, files } = self;
        let mut directory = u32::try_from(files.len()).unwrap_or(0).to_be_bytes().to_vec();
        for (number, (name, content)) in (item::FIRST_FILE..).zip(files) {
            directory.extend(u32::try_from(content.length()).unwrap_or(0).to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0; 2]);
            let end = directory.len() + NAME_BYTES;
            directory.extend(name.as_bytes());
            directory.resize(end, 0);
            items.insert(number, content);
        }
        items.insert(item::DIRECTORY, Content::Fixed(directory.into()));
        items.insert(item::SIGNATURE, Content::Fixed((*b"QEMU").into()));
        items.insert(item::FEATURES, Content::Fixed(0b11u32.to_le_bytes().into()));
        items
    }
}

/// The device.
pub struct FirmwareConfiguration {
    items: BTreeMap<u16, Content>,
    /// The selected item, from where the next byte comes.
    selected: Arc<[u8]>,
    offset: usize,
    /// Upper half of the address of the next DMA command.
    dma_high: u32,
    memory: GuestMemoryMmap<()>,
}

impl std::fmt::Debug for FirmwareConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirmwareConfiguration").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

impl FirmwareConfiguration {
    /// A device that tells these items, and copies them into this memory when it is asked to.
    pub fn new(items: Items, memory: GuestMemoryMmap<()>) -> Self {
        let mut device =
            Self { items: items.finish(), selected: Arc::default(), offset: 0, dma_high: 0, memory };
        device.select(item::SIGNATURE);
        device
    }

    fn select(&mut self, number: u16) {
        self.selected = self.items.get_mut(&number).map(Content::bytes).unwrap_or_default();
        self.offset = 0;
    }

    fn next(&mut self) -> u8 {
        let byte = self.selected.get(self.offset).copied().unwrap_or(0);
        self.skip(1);
        byte
    }

    /// Goes forward, to the end at most: there is nothing behind.
    fn skip(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_add(bytes).min(self.selected.len());
    }

    /// Carries out the command at `address` and writes there whether it was done.
    fn dma(&mut self, address: u64) {
        let mut command = [0; 16];
        let place = GuestAddress(address);
        // Without a command there is nowhere to say so.
        if self.memory.read_slice(&mut command, place).is_err() {
            crate::guest_warn!("a command for the firmware's configuration lies outside of memory");
            return;
        }
        let [a, b, c, d, e, f, g, h, rest @ ..] = command;
        let (control, length) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let result = self.command(control, length, u64::from_be_bytes(rest));
        let control = if result.is_ok() { 0 } else { DMA_ERROR };
        // The guest has just had its command there; if it has taken the memory away, it does not wait for an answer.
        let _ = self.memory.write_slice(&control.to_be_bytes(), place);
    }

    fn command(&mut self, control: u32, length: u32, address: u64) -> Result<(), ()> {
        if control & DMA_SELECT != 0 {
            // The upper half is the number.
            self.select(u16::try_from(control >> 16).map_err(|_| ())?);
        }
        let length = usize::try_from(length).map_err(|_| ())?;
        if control & DMA_READ != 0 {
            self.copy(length, address)
        } else if control & DMA_WRITE != 0 {
            Err(())
        } else {
            if control & DMA_SKIP != 0 {
                self.skip(length);
            }
            Ok(())
        }
    }

    fn copy(&mut self, length: usize, address: u64) -> Result<(), ()> {
        let rest = self.selected.get(self.offset..).unwrap_or_default();
        let bytes = rest.len().min(length);
        self.memory.write_slice(&rest[..bytes], GuestAddress(address)).map_err(|_| ())?;
        self.skip(bytes);
        let mut zeros = length - bytes;
        if zeros > MOST_ZEROS {
            return Err(());
        }
        let mut address = address.checked_add(bytes as u64).ok_or(())?;
        while zeros > 0 {
            let piece = zeros.min(ZEROS);
            self.memory.write_slice(&[0; ZEROS][..piece], GuestAddress(address)).map_err(|_| ())?;
            address = address.checked_add(piece as u64).ok_or(())?;
            zeros -= piece;
        }
        Ok(())
    }
}

impl RegisterFile for FirmwareConfiguration {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            DATA => data.fill_with(|| self.next()),
            DMA_HIGH.. => {
                for (byte, at) in data.iter_mut().zip(offset - DMA_HIGH..) {
                    let at = usize::try_from(at).unwrap_or(usize::MAX);
                    *byte = DMA_SIGNATURE.get(at).copied().unwrap_or(0);
                }
            }
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (SELECTOR, [low, high]) => self.select(u16::from_le_bytes([*low, *high])),
            (DMA_HIGH, [a, b, c, d]) => self.dma_high = u32::from_be_bytes([*a, *b, *c, *d]),
            (DMA_LOW, [a, b, c, d]) => {
                let high = std::mem::take(&mut self.dma_high);
                self.dma(u64::from(high) << 32 | u64::from(u32::from_be_bytes([*a, *b, *c, *d])));
            }
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: usize = 0x10000;

    fn device() -> FirmwareConfiguration {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let mut items = Items::new();
        items.set(item::CPU_COUNT, 4u16.to_le_bytes());
        items.add("etc/b", *b"second").unwrap();
        items.add("etc/a", vec![7; 5000]).unwrap();
        FirmwareConfiguration::new(items, memory)
    }

    fn select(device: &mut FirmwareConfiguration, number: u16) {
        assert_eq!(device.write(SELECTOR, &number.to_le_bytes()), Effect::None);
    }

    fn bytes<const N: usize>(device: &mut FirmwareConfiguration) -> [u8; N] {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            device.read(DATA, std::slice::from_mut(byte));
        }
        bytes
    }

    /// Runs a DMA command that lies at 100h; what its control field says then.
    fn command(device: &mut FirmwareConfiguration, control: u32, length: u32, address: u64) -> u32 {
        let mut command = control.to_be_bytes().to_vec();
        command.extend(length.to_be_bytes());
        command.extend(address.to_be_bytes());
        device.memory.write_slice(&command, GuestAddress(0x100)).unwrap();
        assert_eq!(device.write(DMA_HIGH, &[0; 4]), Effect::None);
        assert_eq!(device.write(DMA_LOW, &0x100u32.to_be_bytes()), Effect::None);
        let mut control = [0; 4];
        device.memory.read_slice(&mut control, GuestAddress(0x100)).unwrap();
        u32::from_be_bytes(control)
    }

    fn file(device: &mut FirmwareConfiguration, wanted: &str) -> (u32, u16) {
        select(device, item::DIRECTORY);
        let count = u32::from_be_bytes(bytes(device));
        for _ in 0..count {
            let (size, number) = (u32::from_be_bytes(bytes(device)), u16::from_be_bytes(bytes(device)));
            assert_eq!(bytes(device), [0; 2]);
            let name: [u8; NAME_BYTES] = bytes(device);
            let name = std::str::from_utf8(&name).unwrap().trim_end_matches('\0').to_owned();
            if name == wanted {
                return (size, number);
            }
        }
        panic!("no {wanted}");
    }

    #[test]
    fn firmware_finds_the_device_and_what_it_can() {
        let mut device = device();
        select(&mut device, item::SIGNATURE);
        assert_eq!(&bytes(&mut device), b"QEMU");
        select(&mut device, item::FEATURES);
        assert_eq!(bytes(&mut device), [3, 0, 0, 0]);
        let mut signature = [0; 4];
        device.read(DMA_HIGH, &mut signature);
        assert_eq!(&signature, b"QEMU");
        device.read(DMA_LOW, &mut signature);
        assert_eq!(&signature, b" CFG");
    }

    #[test]
    fn files_are_in_the_directory_and_read_to_their_end_and_zeros_after_it() {
        let mut device = device();
        select(&mut device, item::CPU_COUNT);
        assert_eq!(bytes(&mut device), [4, 0]);
        let (size, number) = file(&mut device, "etc/b");
        assert_eq!(size, 6);
        select(&mut device, number);
        assert_eq!(&bytes(&mut device), b"second\0\0");
        select(&mut device, number);
        let mut several = [0; 4];
        device.read(DATA, &mut several);
        assert_eq!(&several, b"seco");
        select(&mut device, 0x7777);
        assert_eq!(bytes(&mut device), [0, 0]);
    }

    #[test]
    fn dma_selects_skips_and_copies_in_one_go() {
        let mut device = device();
        let (size, number) = file(&mut device, "etc/a");
        let selecting = u32::from(number) << 16 | DMA_SELECT;
        device.memory.write_slice(&[9; 6000], GuestAddress(0x1000)).unwrap();
        assert_eq!(command(&mut device, selecting | DMA_READ, size + 10, 0x1000), 0);
        let mut copied = [0; 6000];
        device.memory.read_slice(&mut copied, GuestAddress(0x1000)).unwrap();
        assert_eq!(copied[..5000], [7; 5000]);
        assert_eq!(copied[5000..5010], [0; 10]);
        assert_eq!(copied[5010..], [9; 990]);

        let (_, number) = file(&mut device, "etc/b");
        assert_eq!(command(&mut device, u32::from(number) << 16 | DMA_SELECT | DMA_SKIP, 2, 0), 0);
        assert_eq!(command(&mut device, DMA_READ, 4, 0x1000), 0);
        device.memory.read_slice(&mut copied[..4], GuestAddress(0x1000)).unwrap();
        assert_eq!(&copied[..4], b"cond");
        assert_eq!(command(&mut device, DMA_SKIP, u32::MAX, 0), 0);
        assert_eq!(bytes(&mut device), [0]);
    }

    #[test]
    fn what_can_not_be_done_is_said_so() {
        let mut device = device();
        let (size, number) = file(&mut device, "etc/a");
        let reading = u32::from(number) << 16 | DMA_SELECT | DMA_READ;
        assert_eq!(command(&mut device, reading, size, MEMORY as u64 - 10), DMA_ERROR);
        assert_eq!(command(&mut device, reading, size, u64::MAX), DMA_ERROR);
        assert_eq!(command(&mut device, reading, u32::MAX, 0x1000), DMA_ERROR);
        assert_eq!(command(&mut device, DMA_WRITE, 1, 0x1000), DMA_ERROR);
        // A command that is nowhere.
        assert_eq!(device.write(DMA_HIGH, &[0xff; 4]), Effect::None);
        assert_eq!(device.write(DMA_LOW, &[0xff; 4]), Effect::None);
    }

    #[test]
    fn what_is_made_is_made_when_it_is_selected_and_as_long_as_was_said() {
        let mut items = Items::new();
        let mut times = 0;
        let make = move || {
            times += 1;
            vec![times; 2 + usize::from(times)]
        };
        items.add_made("etc/made", 4, make).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let mut device = FirmwareConfiguration::new(items, memory);
        let (size, number) = file(&mut device, "etc/made");
        assert_eq!(size, 4);
        for expected in [[1, 1, 1, 0], [2, 2, 2, 2], [3, 3, 3, 3]] {
            select(&mut device, number);
            assert_eq!(bytes(&mut device), expected);
            assert_eq!(bytes(&mut device), [0]);
        }
    }

    #[test]
    fn names_that_firmware_can_not_find_are_refused() {
        let mut items = Items::new();
        assert_eq!(items.add("", *b""), Err(ItemError::Name(String::new())));
        assert!(matches!(items.add(&"n".repeat(56), *b""), Err(ItemError::Name(_))));
        assert!(matches!(items.add("etc/a b", *b""), Err(ItemError::Name(_))));
        items.add(&"n".repeat(55), *b"").unwrap();
        items.add("bootorder", *b"x").unwrap();
        assert_eq!(items.add("bootorder", *b"y"), Err(ItemError::Twice("bootorder".into())));
    }

    proptest! {
        #[test]
        fn any_access_is_survived(
            accesses in prop::collection::vec((0u64..16, prop::collection::vec(any::<u8>(), 1..9), any::<bool>()), 0..64),
            seed in prop::collection::vec(any::<u8>(), 64),
        ) {
            let mut device = device();
            device.memory.write_slice(&seed, GuestAddress(0)).unwrap();
            for (offset, mut data, write) in accesses {
                if write {
                    let _ = device.write(offset, &data);
                } else {
                    device.read(offset, &mut data);
                }
            }
        }
    }
}
