use std::io;
use std::os::fd::BorrowedFd;

use proptest::prelude::*;

use super::*;
use crate::interrupt::InterruptError;

/// A sink that remembers what it was told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) programmed: Mutex<Vec<(u16, Option<MsiMessage>)>>,
    pub(crate) signalled: Mutex<Vec<u16>>,
    pub(crate) broken: Mutex<bool>,
}

impl MsiSink for Recorder {
    fn program(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        self.programmed.lock().push((vector, message));
        if *self.broken.lock() {
            return Err(InterruptError { what: "route".into(), source: io::Error::other("full") });
        }
        Ok(())
    }
    fn signal(&self, vector: u16) {
        self.signalled.lock().push(vector);
    }
    fn event(&self, _vector: u16) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn msix(vectors: u16) -> (Msix, Arc<Recorder>) {
    let sink = Arc::new(Recorder::default());
    (Msix::new(vectors, Arc::clone(&sink) as Arc<dyn MsiSink>), sink)
}

fn write_entry(msix: &Msix, vector: u64, words: [u32; 4]) {
    for (index, word) in (0..).zip(words) {
        msix.write_table(vector * 16 + index * 4, &word.to_le_bytes());
    }
}

fn pending(msix: &Msix) -> u64 {
    let mut data = [0; 8];
    msix.read_pending(0, &mut data);
    u64::from_le_bytes(data)
}

const MESSAGE: MsiMessage = MsiMessage { address: 0x1_fee0_0000, data: 0x4021 };
const OPEN: [u32; 4] = [0xfee0_0000, 1, 0x4021, 0];

#[test]
fn an_unmasked_vector_is_programmed_once_and_sent() {
    let (msix, sink) = msix(3);
    write_entry(&msix, 1, OPEN);
    assert_eq!(*sink.programmed.lock(), [], "nothing is taken from the host before MSI-X is enabled");
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(*sink.programmed.lock(), [(1, Some(MESSAGE))]);
    assert_eq!(msix.notify(1), Notified::Sent);
    assert_eq!(*sink.signalled.lock(), [1]);
}

#[test]
fn a_masked_vector_becomes_pending_and_is_sent_once_when_unmasked() {
    let (msix, sink) = msix(3);
    write_entry(&msix, 2, [0xfee0_0000, 1, 0x4021, MASKED]);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(msix.notify(2), Notified::Pending);
    assert_eq!(msix.notify(2), Notified::Pending);
    assert_eq!(pending(&msix), 0b100);
    assert_eq!(*sink.signalled.lock(), Vec::<u16>::new());
    msix.write_table(2 * 16 + 12, &0u32.to_le_bytes());
    assert_eq!(*sink.signalled.lock(), [2]);
    assert_eq!(pending(&msix), 0);
}

#[test]
fn the_function_mask_holds_every_vector_back() {
    let (msix, sink) = msix(2);
    write_entry(&msix, 0, OPEN);
    write_entry(&msix, 1, OPEN);
    msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
    assert_eq!((msix.notify(0), msix.notify(1)), (Notified::Pending, Notified::Pending));
    assert_eq!(pending(&msix), 0b11);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(*sink.signalled.lock(), [0, 1]);
    msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
    assert_eq!(sink.programmed.lock()[2..], [(0, None), (1, None)]);
}

#[test]
fn a_disabled_or_absent_vector_sends_nothing() {
    let (msix, sink) = msix(2);
    assert_eq!(msix.notify(0), Notified::Disabled);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(msix.notify(2), Notified::Disabled);
    assert_eq!(pending(&msix), 0);
    assert_eq!(*sink.signalled.lock(), Vec::<u16>::new());
}

#[test]
fn a_vector_that_the_host_refuses_stays_pending_until_it_is_programmed_again() {
    let (msix, sink) = msix(1);
    *sink.broken.lock() = true;
    msix.set_control(CONTROL_ENABLE);
    write_entry(&msix, 0, OPEN);
    assert_eq!(msix.notify(0), Notified::Pending);
    *sink.broken.lock() = false;
    msix.write_table(12, &MASKED.to_le_bytes());
    msix.write_table(12, &0u32.to_le_bytes());
    assert_eq!(*sink.signalled.lock(), [0]);
}

#[test]
fn narrow_and_misaligned_table_accesses_touch_only_the_bytes_they_name() {
    let (msix, _) = msix(2);
    msix.write_table(2, &[0x11, 0x22, 0x33, 0x44]);
    msix.write_table(13, &[0xff]);
    let mut data = [0; 16];
    msix.read_table(0, &mut data);
    assert_eq!(data, [0, 0, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
}

proptest! {
    #[test]
    fn no_access_panics_and_a_sent_vector_is_never_masked(
        steps in proptest::collection::vec((0u8..6, any::<u64>(), any::<[u8; 8]>(), 1usize..=8), 0..60)
    ) {
        let (msix, sink) = msix(5);
        for (what, number, bytes, length) in steps {
            let offset = if number % 7 == 0 { number } else { number % 100 };
            match what {
                0 => msix.set_control(bytes[0] & 0xc0),
                1 | 2 => msix.write_table(offset, &bytes[..length]),
                3 => msix.read_table(offset, &mut vec![0; length]),
                4 => msix.read_pending(offset, &mut vec![0; length]),
                _ => {
                    let vector = u16::from(bytes[0] % 6);
                    let mut control = [0; 4];
                    msix.read_table(u64::from(vector) * 16 + 12, &mut control);
                    let before = sink.signalled.lock().len();
                    let outcome = msix.notify(vector);
                    prop_assert_eq!(outcome == Notified::Sent, sink.signalled.lock().len() > before);
                    prop_assert!(outcome != Notified::Sent || control[0] & 1 == 0);
                }
            }
        }
    }
}
