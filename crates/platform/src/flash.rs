//! Flash memory that remembers: where UEFI firmware keeps its variables.
//!
//! Reads see the memory, by a slot of the hypervisor without an exit, until the guest writes a command; then the slot is closed
//! and reads arrive here, until a command opens it again. What is programmed goes to a file as it is programmed, and is on
//! stable storage when the guest goes back to reading, so a variable that firmware believes to be written is.
//!
//! Specification: Common Flash Interface with the Intel/Sharp extended command set (JESD68.01; Intel 28F640J3 datasheet,
//! section 9). Two liberties that OVMF (OvmfPkg/QemuFlashFvbServicesRuntimeDxe) expects of QEMU's flash: clearing the
//! status clears its ready bit until the next operation, and programming sets bits as well as it clears them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::VolatileMemory;
use vm_memory::mmap::MmapRegion;

use crate::guest_warn;
use crate::register_file::{Effect, RegisterFile};

/// What is erased at once, bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Commands.
const PROGRAM: [u8; 2] = [0x10, 0x40];
const ERASE: u8 = 0x20;
const CLEAR_STATUS: u8 = 0x50;
const LOCK: u8 = 0x60;
const READ_STATUS: u8 = 0x70;
const READ_IDENTIFIERS: u8 = 0x90;
const QUERY: u8 = 0x98;
const CONFIRM: u8 = 0xd0;
const READ_ARRAY: u8 = 0xff;

/// Status bits.
const READY: u8 = 1 << 7;
const ERASE_FAILED: u8 = 1 << 5;
const PROGRAM_FAILED: u8 = 1 << 4;

/// Manufacturer (Intel) and device.
const IDENTIFIERS: [u8; 2] = [0x89, 0x18];

/// The hypervisor's way to answer reads of a flash memory without an exit.
pub trait ReadWindow: Send {
    /// Reads see the memory from now on.
    ///
    /// # Errors
    /// The hypervisor did not do it.
    fn open(&mut self) -> Result<(), String>;

    /// Reads exit from now on.
    ///
    /// # Errors
    /// The hypervisor did not do it.
    fn close(&mut self) -> Result<(), String>;
}

/// What reads give, and what the next write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Array,
    Status,
    Identifiers,
    Query,
    Program,
    Erase,
    Lock,
}

/// A flash memory.
pub struct Flash {
    memory: Arc<MmapRegion>,
    file: File,
    window: Box<dyn ReadWindow>,
    mode: Mode,
    status: u8,
    /// Something is in the file and may not be on stable storage.
    unsynchronized: bool,
}

impl std::fmt::Debug for Flash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flash").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Flash {
    /// A flash memory with the content of `memory`, which is that of `file`; `window` is open.
    pub fn new(memory: Arc<MmapRegion>, file: File, window: Box<dyn ReadWindow>) -> Self {
        Self { memory, file, window, mode: Mode::Array, status: READY, unsynchronized: false }
    }

    fn enter(&mut self, mode: Mode) {
        let (was, is) = (self.mode == Mode::Array, mode == Mode::Array);
        self.mode = mode;
        if is {
            self.synchronize();
        }
        let turned = match (was, is) {
            (true, false) => self.window.close(),
            (false, true) => self.window.open(),
            _ => Ok(()),
        };
        if let Err(error) = turned {
            guest_warn!(%error, "flash memory can't be switched between its content and its commands");
        }
    }

    fn synchronize(&mut self) {
        if std::mem::take(&mut self.unsynchronized)
            && let Err(error) = self.file.sync_data()
        {
            guest_warn!(%error, "what the firmware remembers may not survive a crash of the host");
        }
    }

    /// Puts bytes into the file, then into the memory; neither if the file does not take them.
    fn store(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let slice = self.memory.get_slice(offset, bytes.len()).map_err(|_| outside())?;
        self.unsynchronized = true;
        self.file.write_all_at(bytes, offset as u64)?;
        slice.copy_from(bytes);
        Ok(())
    }

    /// Programs or erases, and says in the status how it went.
    fn operate(&mut self, offset: usize, bytes: &[u8], failed: u8) {
        self.status |= READY;
        if let Err(error) = self.store(offset, bytes) {
            guest_warn!(%error, "what the firmware wants to remember can't be written");
            self.status |= failed;
        }
        self.enter(Mode::Status);
    }

    fn command(&mut self, command: u8) {
        match command {
            READ_ARRAY => self.enter(Mode::Array),
            CLEAR_STATUS => {
                self.status = 0;
                self.enter(Mode::Array);
            }
            READ_STATUS => self.enter(Mode::Status),
            READ_IDENTIFIERS => self.enter(Mode::Identifiers),
            QUERY => self.enter(Mode::Query),
            ERASE => self.enter(Mode::Erase),
            LOCK => self.enter(Mode::Lock),
            command if PROGRAM.contains(&command) => self.enter(Mode::Program),
            _ => self.wrong(),
        }
    }

    /// A sequence of commands that there is not.
    fn wrong(&mut self) {
        self.status |= READY | ERASE_FAILED | PROGRAM_FAILED;
        self.enter(Mode::Status);
    }

    /// A byte of what the flash says of itself (JESD68.01, section 4; JEP137): the command set and sizes.
    fn query(&self, offset: usize) -> u8 {
        let bytes = self.memory.size();
        let log = |number: usize| u8::try_from(number.max(1).ilog2()).unwrap_or(0);
        let blocks = (bytes / BLOCK_BYTES).saturating_sub(1).to_le_bytes();
        let block = (BLOCK_BYTES / 256).to_le_bytes();
        match offset {
            0x10 => b'Q',
            0x11 => b'R',
            0x12 => b'Y',
            0x13 | 0x2c => 1,
            // Log2 of the size, and the one region of blocks: how many less one, of how many times 256 bytes.
            0x27 => log(bytes),
            0x2d => blocks[0],
            0x2e => blocks[1],
            0x2f => block[0],
            0x30 => block[1],
            _ => 0,
        }
    }
}

impl RegisterFile for Flash {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.mode {
            // The window was not opened yet when this vCPU read.
            Mode::Array => {
                data.fill(0xff);
                let length = data.len().min(self.memory.size().saturating_sub(offset));
                if let Ok(slice) = self.memory.get_slice(offset, length) {
                    slice.copy_to(&mut data[..length]);
                }
            }
            Mode::Identifiers => {
                data.fill(0);
                data[0] = IDENTIFIERS.get(offset & 0xff).copied().unwrap_or(0);
            }
            Mode::Query => {
                data.fill(0);
                data[0] = self.query(offset & 0xff);
            }
            Mode::Status | Mode::Program | Mode::Erase | Mode::Lock => data.fill(self.status),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let first = data.first().copied().unwrap_or(READ_ARRAY);
        match self.mode {
            Mode::Program => self.operate(offset, data, PROGRAM_FAILED),
            Mode::Erase if first == CONFIRM => {
                let block = offset - offset % BLOCK_BYTES;
                self.operate(block, &[0xff; BLOCK_BYTES], ERASE_FAILED);
            }
            // Blocks can be locked and unlocked, and are written all the same.
            Mode::Lock => {
                self.status |= READY;
                self.enter(Mode::Status);
            }
            Mode::Erase if first == READ_ARRAY => self.enter(Mode::Array),
            Mode::Erase => self.wrong(),
            Mode::Array | Mode::Status | Mode::Identifiers | Mode::Query => self.command(first),
        }
        Effect::None
    }
}

impl Drop for Flash {
    fn drop(&mut self) {
        self.synchronize();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    const BYTES: usize = 4 * BLOCK_BYTES;

    struct Window(Arc<Mutex<Vec<bool>>>);

    impl ReadWindow for Window {
        fn open(&mut self) -> Result<(), String> {
            self.0.lock().unwrap().push(true);
            Ok(())
        }
        fn close(&mut self) -> Result<(), String> {
            self.0.lock().unwrap().push(false);
            Ok(())
        }
    }

    struct Bench {
        flash: Flash,
        file: File,
        turns: Arc<Mutex<Vec<bool>>>,
    }

    fn bench() -> Bench {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0xaa; BYTES], 0).unwrap();
        let memory = MmapRegion::new(BYTES).unwrap();
        memory.get_slice(0, BYTES).unwrap().copy_from(&[0xaa_u8; BYTES]);
        let turns = Arc::default();
        let window = Box::new(Window(Arc::clone(&turns)));
        Bench { flash: Flash::new(Arc::new(memory), file.try_clone().unwrap(), window), file, turns }
    }

    impl Bench {
        fn read(&mut self, offset: u64) -> u8 {
            let mut byte = [0];
            self.flash.read(offset, &mut byte);
            byte[0]
        }

        fn write(&mut self, offset: u64, byte: u8) {
            assert_eq!(self.flash.write(offset, &[byte]), Effect::None);
        }

        fn in_file(&self, offset: u64) -> u8 {
            let mut byte = [0];
            self.file.read_exact_at(&mut byte, offset).unwrap();
            byte[0]
        }
    }

    /// What OVMF does to find out whether a memory is flash, ROM or RAM.
    #[test]
    fn firmware_finds_that_it_is_flash() {
        let mut bench = bench();
        bench.write(5, CLEAR_STATUS);
        assert_eq!(bench.read(5), 0xaa, "not RAM");
        bench.write(5, READ_STATUS);
        assert_eq!(bench.read(5), 0, "not ROM");
        bench.write(5, READ_ARRAY);
        assert_eq!(bench.read(5), 0xaa);
        assert_eq!(*bench.turns.lock().unwrap(), [false, true]);
    }

    #[test]
    fn what_is_programmed_and_erased_is_in_the_file_and_only_there() {
        let mut bench = bench();
        bench.write(0x1234, PROGRAM[0]);
        bench.write(0x1234, 0x5a);
        assert_eq!(bench.read(0), READY);
        bench.write(0, READ_ARRAY);
        assert_eq!((bench.read(0x1234), bench.in_file(0x1234), bench.in_file(0x1235)), (0x5a, 0x5a, 0xaa));
        bench.write(0x1fff, ERASE);
        bench.write(0x1fff, CONFIRM);
        assert_eq!(bench.read(0), READY);
        bench.write(0, READ_ARRAY);
        for (offset, expected) in [(0xfff, 0xaa), (0x1000, 0xff), (0x1fff, 0xff), (0x2000, 0xaa)] {
            assert_eq!((bench.read(offset), bench.in_file(offset)), (expected, expected), "{offset:#x}");
        }
    }

    #[test]
    fn a_file_that_takes_nothing_is_told_and_the_memory_stays() {
        let mut bench = bench();
        bench.flash.file = File::open("/dev/null").unwrap();
        bench.write(7, PROGRAM[1]);
        bench.write(7, 0);
        assert_eq!(bench.read(7), READY | PROGRAM_FAILED);
        bench.write(7, READ_ARRAY);
        assert_eq!(bench.read(7), 0xaa);
        bench.write(7, ERASE);
        bench.write(7, CONFIRM);
        assert_eq!(bench.read(7), READY | PROGRAM_FAILED | ERASE_FAILED);
    }

    #[test]
    fn what_lies_outside_and_what_is_no_command_fails() {
        let mut bench = bench();
        bench.write(BYTES as u64, PROGRAM[0]);
        bench.write(BYTES as u64, 1);
        assert_eq!(bench.read(0), READY | PROGRAM_FAILED);
        bench.write(0, CLEAR_STATUS);
        bench.write(0, 0xe8);
        assert_eq!(bench.read(0), READY | PROGRAM_FAILED | ERASE_FAILED);
        bench.write(0, READ_ARRAY);
        assert_eq!(bench.read(BYTES as u64), 0xff);
    }

    #[test]
    fn it_says_what_it_is() {
        let mut bench = bench();
        bench.write(0, QUERY);
        assert_eq!([bench.read(0x10), bench.read(0x11), bench.read(0x12)], *b"QRY");
        assert_eq!((bench.read(0x27), bench.read(0x2d), bench.read(0x2f)), (14, 3, 16));
        bench.write(0, READ_IDENTIFIERS);
        assert_eq!([bench.read(0), bench.read(1)], IDENTIFIERS);
    }

    proptest! {
        #[test]
        fn any_access_is_survived_and_file_and_memory_stay_the_same(
            accesses in prop::collection::vec(
                (0..BYTES as u64 + 16, prop::collection::vec(prop_oneof![any::<u8>(), Just(0x10), Just(0x20), Just(0xd0)], 1..9), any::<bool>()),
                0..64,
            ),
        ) {
            let mut bench = bench();
            for (offset, mut data, write) in accesses {
                if write {
                    let _ = bench.flash.write(offset, &data);
                } else {
                    bench.flash.read(offset, &mut data);
                }
            }
            let (mut memory, mut file) = (vec![0; BYTES], vec![0; BYTES]);
            bench.flash.memory.get_slice(0, BYTES).unwrap().copy_to(&mut memory);
            bench.file.read_exact_at(&mut file, 0).unwrap();
            prop_assert!(memory == file);
        }
    }
}
