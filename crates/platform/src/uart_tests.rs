use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Condvar;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::character::{Endpoint, QUEUE_BYTES};
use crate::worker::Worker;

/// An interrupt line whose changes a test can wait for.
#[derive(Default)]
struct Line(std::sync::Mutex<bool>, Condvar);

impl InterruptLine for Line {
    fn set_level(&self, high: bool) {
        *self.0.lock().unwrap() = high;
        self.1.notify_all();
    }
}

impl Line {
    fn high(&self) -> bool {
        *self.0.lock().unwrap()
    }
    fn wait_until_high(&self) {
        let guard = self.0.lock().unwrap();
        let patience = Duration::from_secs(20);
        let (guard, timeout) = self.1.wait_timeout_while(guard, patience, |high| !*high).unwrap();
        assert!(*guard && !timeout.timed_out(), "the line was not raised");
    }
}

fn read(uart: &mut Uart, register: u64) -> u8 {
    let mut data = [0];
    uart.read(register, &mut data);
    data[0]
}

fn write(uart: &mut Uart, register: u64, value: u8) {
    assert_eq!(uart.write(register, &[value]), Effect::None);
}

fn open(endpoint: Endpoint, worker: &Worker) -> (Uart, Arc<Line>) {
    let line = Arc::new(Line::default());
    let backend = CharacterBackend::open(endpoint, None, &worker.handle()).unwrap();
    (Uart::new(Arc::clone(&line) as Arc<dyn InterruptLine>, Arc::new(backend)), line)
}

fn null() -> (Worker, Uart, Arc<Line>) {
    let worker = Worker::spawn("test").unwrap();
    let (uart, line) = open(Endpoint::Null, &worker);
    (worker, uart, line)
}

/// A port whose other end is the returned socket.
fn wired() -> (Worker, Uart, Arc<Line>, UnixStream) {
    let worker = Worker::spawn("test").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (input, output) = (ours.try_clone().unwrap().into(), ours.into());
    let (uart, line) = open(Endpoint::Stdio { input, output }, &worker);
    (worker, uart, line, theirs)
}

#[test]
fn registers_that_hold_something_read_back_and_the_divisor_hides_two() {
    let (_worker, mut uart, _) = null();
    write(&mut uart, 7, 0x5a);
    write(&mut uart, 3, 0x83);
    write(&mut uart, 0, 0x01);
    write(&mut uart, 1, 0x02);
    assert_eq!([read(&mut uart, 0), read(&mut uart, 1), read(&mut uart, 7)], [1, 2, 0x5a]);
    write(&mut uart, 3, 0x03);
    assert_eq!([read(&mut uart, 0), read(&mut uart, 1), read(&mut uart, 3)], [0, 0, 3]);
    assert_eq!(read(&mut uart, 5), 0x60);
    write(&mut uart, 2, 0x01);
    assert_eq!(read(&mut uart, 2), 0xc1, "a 16550A with working FIFOs");
}

#[test]
fn output_reaches_the_other_end_in_order() {
    let (_worker, mut uart, _, mut other) = wired();
    for byte in b"login: " {
        assert_eq!(read(&mut uart, 5) & LSR_HOLDING_EMPTY, LSR_HOLDING_EMPTY);
        write(&mut uart, 0, *byte);
    }
    let mut seen = [0; 7];
    other.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"login: ");
}

#[test]
fn the_empty_interrupt_is_raised_when_enabled_and_after_each_byte_and_cleared_by_reading_it() {
    let (_worker, mut uart, line) = null();
    write(&mut uart, 1, IER_EMPTY);
    assert!(line.high());
    assert_eq!(read(&mut uart, 2), IIR_EMPTY);
    assert!(!line.high());
    assert_eq!(read(&mut uart, 2), IIR_NONE);
    write(&mut uart, 0, b'x');
    assert!(line.high());
    assert_eq!(read(&mut uart, 2), IIR_EMPTY);
}

#[test]
fn input_interrupts_and_more_of_it_comes_as_the_guest_reads() {
    let (_worker, mut uart, line, mut other) = wired();
    write(&mut uart, 2, 0x81);
    write(&mut uart, 1, IER_RECEIVED);
    let sent: Vec<u8> = (0..=255).collect();
    other.write_all(&sent).unwrap();
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        line.wait_until_high();
        assert!(matches!(read(&mut uart, 2) & 0x0f, IIR_RECEIVED | IIR_TIMEOUT));
        while read(&mut uart, 5) & LSR_DATA != 0 {
            seen.push(read(&mut uart, 0));
        }
    }
    assert_eq!(seen, sent, "nothing is lost or overruns");
}

#[test]
fn a_stuck_reader_keeps_the_transmitter_full_until_it_reads() {
    let (_worker, mut uart, line, mut other) = wired();
    let mut sent = 0usize;
    while read(&mut uart, 5) & LSR_HOLDING_EMPTY != 0 {
        write(&mut uart, 0, sent.to_le_bytes()[0]);
        sent += 1;
        assert!(sent < 64 << 20, "the queue is bounded");
    }
    assert!(sent > QUEUE_BYTES);
    write(&mut uart, 1, IER_EMPTY);
    assert!(!line.high());
    let mut seen = vec![0; sent];
    other.read_exact(&mut seen).unwrap();
    assert!(seen.iter().enumerate().all(|(index, byte)| *byte == index.to_le_bytes()[0]), "nothing is lost");
    line.wait_until_high();
    assert_eq!(read(&mut uart, 5), 0x60);
}

#[test]
fn loopback_connects_the_transmitter_and_the_modem_lines_to_the_receiver() {
    let (_worker, mut uart, _) = null();
    assert_eq!(read(&mut uart, 6), 0xb0);
    write(&mut uart, 4, MCR_LOOP | MCR_OUT2 | MCR_RTS);
    assert_eq!(read(&mut uart, 6) & 0xf0, 0x90);
    write(&mut uart, 0, b'a');
    assert_eq!(read(&mut uart, 5) & LSR_DATA, LSR_DATA);
    write(&mut uart, 0, b'b');
    assert_eq!(read(&mut uart, 5) & LSR_OVERRUN, LSR_OVERRUN);
    assert_eq!(read(&mut uart, 5) & LSR_OVERRUN, 0, "cleared by reading");
    assert_eq!(read(&mut uart, 0), b'a');
    write(&mut uart, 4, 0);
    assert_eq!(read(&mut uart, 6), 0xb0 | 0x02, "DSR has changed");
}

#[test]
fn clearing_the_fifo_empties_it() {
    let (_worker, mut uart, line) = null();
    write(&mut uart, 2, FCR_ENABLE);
    write(&mut uart, 4, MCR_LOOP);
    write(&mut uart, 1, IER_RECEIVED);
    write(&mut uart, 0, b'a');
    assert!(line.high());
    write(&mut uart, 2, FCR_ENABLE | FCR_CLEAR_RECEIVED);
    assert!(!line.high());
    assert_eq!(read(&mut uart, 5) & LSR_DATA, 0);
}

proptest! {
    #[test]
    fn no_access_panics_and_the_fifos_stay_bounded(
        steps in proptest::collection::vec((any::<bool>(), 0u64..9, any::<[u8; 8]>(), 1usize..=8), 0..100)
    ) {
        let (_worker, mut uart, line) = null();
        for (is_read, offset, mut bytes, length) in steps {
            if is_read {
                uart.read(offset, &mut bytes[..length]);
            } else {
                let _ = uart.write(offset, &bytes[..length]);
            }
            let registers = uart.port.registers.lock();
            prop_assert!(registers.received.len() <= FIFO_BYTES && registers.transmit.len() <= FIFO_BYTES);
            prop_assert_eq!(line.high(), registers.interrupt() != IIR_NONE);
        }
    }
}
