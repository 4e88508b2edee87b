use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use platform::character::{CharacterBackend, CharacterFrontend as _, Endpoint};
use platform::worker::Worker;
use proptest::prelude::*;

use super::*;
use crate::testing::{FakeDriver, PATIENCE, Piece, common};
use crate::transport::status::NEEDS_RESET;

const ALL: u64 = u64::MAX;
const INPUT: u16 = 0;
const OUTPUT: u16 = 1;

struct Rig {
    /// The other end of each port. Dropped first, so that no backend waits for its output to be read.
    ends: Vec<UnixStream>,
    driver: FakeDriver,
    handle: ConsoleHandle,
    /// How often a port was opened or closed.
    changes: Arc<AtomicUsize>,
    _worker: Worker,
}

fn rig(names: &[Option<&str>], features: u64) -> Rig {
    let worker = Worker::spawn("console").unwrap();
    let mut ends = Vec::new();
    let mut ports = Vec::new();
    let changes = Arc::new(AtomicUsize::new(0));
    for name in names {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        ends.push(ours);
        let input = OwnedFd::from(theirs.try_clone().unwrap());
        let endpoint = Endpoint::Stdio { input, output: theirs.into() };
        let backend = CharacterBackend::open(endpoint, None, &worker.handle()).unwrap();
        let changed = Arc::clone(&changes);
        let watcher: Option<PortWatcher> = Some(Arc::new(move || {
            changed.fetch_add(1, Ordering::SeqCst);
        }));
        ports.push(PortConfig { name: name.map(str::to_owned), backend: Arc::new(backend), watcher });
    }
    let console = Console::build(ConsoleConfig { ports, worker: worker.handle() }).unwrap();
    let handle = console.handle();
    let mut driver = FakeDriver::new(Box::new(console));
    driver.initialize(features);
    Rig { ends, driver, handle, changes, _worker: worker }
}

fn plain() -> Rig {
    rig(&[None], ALL)
}

impl Rig {
    fn print(&mut self, queue: u16, text: &[u8]) -> u16 {
        let head = self.driver.add(queue, &[Piece::Out(text)]);
        self.driver.kick(queue);
        head
    }

    fn read_end(&mut self, port: usize, bytes: usize) -> Vec<u8> {
        let mut text = vec![0; bytes];
        self.ends[port].read_exact(&mut text).unwrap();
        text
    }

    /// Sends a control message.
    fn tell(&mut self, id: u32, event: u16, value: u16) {
        let message = control(id, event, value, &[]);
        assert_eq!(self.driver.request(CONTROL_TX, &[Piece::Out(&message)]).written, 0);
    }

    /// The next control message.
    fn hear(&mut self) -> Vec<u8> {
        self.driver.add(CONTROL_RX, &[Piece::In(64)]);
        self.driver.kick(CONTROL_RX);
        let used = self.driver.wait_used(CONTROL_RX);
        used.data[..used.written as usize].to_vec()
    }
}

fn control(id: u32, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes(), rest].concat()
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn a_plain_console_prints_and_listens() {
    let mut rig = plain();
    assert_eq!(rig.driver.read(common::QUEUE_COUNT), 2);
    assert_eq!(rig.driver.offered() & 3, FEATURE_SIZE);
    let used = rig.driver.request(OUTPUT, &[Piece::Out(b"hello, "), Piece::Out(b"world")]);
    assert_eq!(used.written, 0);
    assert_eq!(rig.read_end(0, 12), b"hello, world");
    rig.driver.add(INPUT, &[Piece::In(3), Piece::In(100)]);
    rig.driver.kick(INPUT);
    rig.ends[0].write_all(b"login").unwrap();
    let used = rig.driver.wait_used(INPUT);
    assert_eq!((used.written, &used.data[..5]), (5, &b"login"[..]));
    let counters = rig.handle.counters(0).unwrap();
    assert_eq!((counters.output_bytes.get(), counters.input_bytes.get()), (12, 5));
    assert!(rig.handle.counters(1).is_none());
}

#[test]
fn input_waits_for_buffers_and_nothing_is_lost() {
    let mut rig = plain();
    let text = pattern(50_000);
    rig.ends[0].write_all(&text).unwrap();
    let mut got = Vec::new();
    while got.len() < text.len() {
        rig.driver.add(INPUT, &[Piece::In(777)]);
        rig.driver.kick(INPUT);
        let used = rig.driver.wait_used(INPUT);
        assert_ne!(used.written, 0);
        got.extend_from_slice(&used.data[..used.written as usize]);
        if got.len() % 5 == 0 {
            rig.driver.pause();
            rig.driver.resume();
        }
    }
    assert_eq!(got, text);
}

#[test]
fn output_waits_for_the_other_end_and_is_neither_lost_nor_repeated() {
    let mut rig = plain();
    let text = pattern(64 << 10);
    for _ in 0..20 {
        rig.print(OUTPUT, &text);
    }
    // More than the socket and the backend's queue hold: the last chain can't have been taken.
    rig.driver.wait_used(OUTPUT);
    rig.driver.pause();
    let done = 1 + std::iter::from_fn(|| rig.driver.ring(OUTPUT).take_used()).count();
    assert!(done < 20, "the queue holds the rest");
    rig.driver.resume();
    let mut got = Vec::new();
    for step in 0..20 {
        got.extend(rig.read_end(0, text.len()));
        if step % 3 == 0 {
            rig.driver.pause();
            rig.driver.resume();
        }
    }
    for _ in done..20 {
        rig.driver.wait_used(OUTPUT);
    }
    assert!(got == text.repeat(20), "the text arrives as it was printed");
    assert_eq!(rig.handle.counters(0).unwrap().output_bytes.get(), got.len() as u64);
    rig.driver.initialize(ALL);
    rig.print(OUTPUT, b"next");
    assert_eq!(rig.read_end(0, 4), b"next");
}

#[test]
fn a_reset_forgets_output_that_was_done_in_part() {
    let mut rig = plain();
    let text = pattern(64 << 10);
    for _ in 0..20 {
        rig.print(OUTPUT, &text);
    }
    rig.driver.wait_used(OUTPUT);
    rig.driver.initialize(ALL);
    let printed = usize::try_from(rig.handle.counters(0).unwrap().output_bytes.get()).unwrap();
    rig.read_end(0, printed);
    rig.print(OUTPUT, b"whole");
    assert_eq!(rig.read_end(0, 5), b"whole");
}

#[test]
fn a_plain_console_reads_the_window_from_the_configuration() {
    let mut rig = plain();
    let size = |rig: &mut Rig| {
        let mut config = [0; 8];
        rig.driver.read_config(0, &mut config);
        config
    };
    assert_eq!(size(&mut rig), [0, 0, 0, 0, 1, 0, 0, 0]);
    let changes = rig.driver.msi.sent(0);
    rig.handle.resize(0, WindowSize { columns: 300, rows: 50 });
    rig.driver.msi.wait_more(0, changes);
    assert_eq!(size(&mut rig), [44, 1, 50, 0, 1, 0, 0, 0]);
    rig.handle.resize(0, WindowSize { columns: 300, rows: 50 });
    rig.handle.resize(7, WindowSize { columns: 1, rows: 1 });
    assert_eq!(rig.driver.msi.sent(0), changes + 1, "no change, no interrupt");
}

#[test]
fn ports_are_introduced_when_the_driver_asks() {
    let mut rig = rig(&[None, Some("org.qemu.guest_agent.0"), None], ALL);
    assert_eq!(rig.driver.read(common::QUEUE_COUNT), 8);
    rig.handle.resize(0, WindowSize { columns: 80, rows: 25 });
    rig.tell(u32::MAX, 0, 1);
    for port in 0..3 {
        assert_eq!(rig.hear(), control(port, 1, 1, &[]), "port add");
    }
    rig.tell(1, 3, 1);
    assert_eq!(rig.hear(), control(1, 7, 1, b"org.qemu.guest_agent.0"), "name");
    assert_eq!(rig.hear(), control(1, 6, 1, &[]), "open");
    rig.tell(0, 3, 1);
    assert_eq!(rig.hear(), control(0, 4, 1, &[]), "console");
    assert_eq!(rig.hear(), control(0, 5, 0, &[80, 0, 25, 0]), "resize");
    assert_eq!(rig.hear(), control(0, 6, 1, &[]), "open");
    rig.tell(2, 3, 1);
    assert_eq!(rig.hear(), control(2, 4, 1, &[]), "a console whose window is not known");
    assert_eq!(rig.hear(), control(2, 6, 1, &[]), "open");
    rig.handle.resize(2, WindowSize { columns: 132, rows: 43 });
    assert_eq!(rig.hear(), control(2, 5, 0, &[132, 0, 43, 0]));
    rig.handle.resize(1, WindowSize { columns: 132, rows: 43 });
    rig.tell(2, 3, 1);
    assert_eq!(rig.hear(), control(2, 4, 1, &[]), "a port with a name has no window");
}

#[test]
fn a_port_gets_its_input_once_it_has_been_opened() {
    let mut rig = rig(&[None, Some("channel")], ALL);
    let (input, output) = (4, 5);
    rig.ends[1].write_all(b"early").unwrap();
    rig.driver.add(input, &[Piece::In(100)]);
    rig.driver.kick(input);
    // Output does not wait for that.
    rig.print(output, b"hello");
    assert_eq!(rig.read_end(1, 5), b"hello");
    rig.driver.pause();
    assert_eq!(rig.driver.ring(input).take_used(), None);
    rig.driver.resume();
    rig.tell(1, 6, 1);
    let used = rig.driver.wait_used(input);
    assert_eq!(&used.data[..used.written as usize], b"early");
    assert_eq!((rig.handle.open_channels(), rig.changes.load(Ordering::SeqCst)), (vec!["channel".into()], 1));
    rig.driver.initialize(ALL);
    assert_eq!((rig.handle.open_channels(), rig.changes.load(Ordering::SeqCst)), (Vec::<String>::new(), 2));
    rig.ends[1].write_all(b"again").unwrap();
    rig.driver.add(input, &[Piece::In(100)]);
    rig.driver.kick(input);
    rig.print(output, b"hello");
    assert_eq!(rig.read_end(1, 5), b"hello");
    rig.driver.pause();
    assert_eq!(rig.driver.ring(input).take_used(), None, "a new driver has to open it anew");
}

#[test]
fn input_that_came_before_a_port_was_closed_is_there_when_it_is_opened_again() {
    let mut rig = rig(&[None, Some("channel")], ALL);
    let input = 4;
    rig.tell(1, 6, 1);
    rig.ends[1].write_all(b"onetwo").unwrap();
    rig.driver.add(input, &[Piece::In(3)]);
    rig.driver.kick(input);
    assert_eq!(rig.driver.wait_used(input).data, b"one");
    rig.tell(1, 6, 0);
    rig.driver.add(input, &[Piece::In(3)]);
    rig.driver.kick(input);
    rig.driver.pause();
    assert_eq!(rig.driver.ring(input).take_used(), None);
    rig.driver.resume();
    // Something else is served first, so that the queue has been looked at while the port was closed.
    rig.print(5, b"hello");
    assert_eq!(rig.read_end(1, 5), b"hello");
    rig.tell(1, 6, 1);
    assert_eq!(rig.driver.wait_used(input).data, b"two");
}

#[test]
fn a_driver_without_multiport_has_the_first_port() {
    let mut rig = rig(&[None, Some("channel")], FEATURE_SIZE);
    rig.print(OUTPUT, b"hello");
    assert_eq!(rig.read_end(0, 5), b"hello");
    rig.ends[0].write_all(b"login").unwrap();
    rig.driver.add(INPUT, &[Piece::In(100)]);
    rig.driver.kick(INPUT);
    assert_eq!(rig.driver.wait_used(INPUT).written, 5);
    // The other queues lie idle and come back with the rest.
    rig.driver.add(CONTROL_TX, &[Piece::Out(&[0; 8])]);
    rig.driver.kick(CONTROL_TX);
    rig.driver.pause();
    assert_eq!(rig.driver.ring(CONTROL_TX).take_used(), None);
    rig.driver.resume();
    rig.driver.initialize(ALL);
    rig.tell(0, 0, 1);
    assert_eq!(rig.hear(), control(0, 1, 1, &[]));
}

#[test]
fn chains_that_break_a_rule_break_the_device_until_reset() {
    let cases: [(u16, &[Piece<'_>]); 3] =
        [(CONTROL_TX, &[Piece::Out(&[0; 7])]), (CONTROL_TX, &[Piece::In(8)]), (CONTROL_RX, &[Piece::In(7)])];
    for (queue, pieces) in cases {
        let mut rig = rig(&[None, None], ALL);
        rig.tell(0, 0, 1);
        rig.driver.add(queue, pieces);
        rig.driver.kick(queue);
        rig.driver.wait_needs_reset();
        rig.driver.initialize(ALL);
        rig.print(OUTPUT, b"hello");
        assert_eq!(rig.read_end(0, 5), b"hello");
    }
    let mut rig = plain();
    rig.ends[0].write_all(b"x").unwrap();
    rig.driver.add(INPUT, &[Piece::Out(&[0; 7])]);
    rig.driver.kick(INPUT);
    rig.driver.wait_needs_reset();
}

#[test]
fn a_port_takes_input_only_when_open_and_only_so_much() {
    let worker = Worker::spawn("console").unwrap();
    let backend = CharacterBackend::open(Endpoint::Null, None, &worker.handle()).unwrap();
    let port = port::Port::new(Some("channel".to_owned()), backend.output(), None);
    assert_eq!(port.receive_space(), 0);
    port.set_guest_open(true);
    assert_eq!(port.receive_space(), INPUT_BYTES);
    port.receive(&pattern(INPUT_BYTES + 1));
    assert_eq!(port.receive_space(), 0);
    let mut bytes = [0; INPUT_BYTES + 1];
    assert_eq!(port.take_input(&mut bytes), (INPUT_BYTES, true), "and the backend was held up");
    assert_eq!(bytes[..INPUT_BYTES], pattern(INPUT_BYTES));
}

#[test]
fn a_port_is_described_properly_or_not_built() {
    let worker = Worker::spawn("console").unwrap();
    let build = |names: &[&str]| {
        let port = |name: &&str| PortConfig {
            name: Some((*name).to_owned()),
            backend: Arc::new(CharacterBackend::open(Endpoint::Null, None, &worker.handle()).unwrap()),
            watcher: None,
        };
        let ports = names.iter().map(port).collect();
        Console::build(ConsoleConfig { ports, worker: worker.handle() }).map(|_| ())
    };
    assert!(build(&[]).is_err());
    assert!(build(&["a\0b"]).is_err());
    assert!(build(&[&"a".repeat(256)]).is_err());
    assert!(build(&["a"; 33]).is_err());
    assert!(build(&["a"; 32]).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_message_of_the_driver_makes_the_device_grow_or_break(
        messages in prop::collection::vec((prop_oneof![0..4u32, any::<u32>()], 0..10u16, 0..3u16), 1..100),
    ) {
        let mut rig = rig(&[None, Some("channel"), None], ALL);
        for (id, event, value) in messages {
            rig.tell(id, event, value);
        }
        // Whatever was asked for, and however often, waits as at most one message of each kind and port.
        for _ in 0..60 {
            rig.driver.add(CONTROL_RX, &[Piece::In(64)]);
        }
        rig.driver.kick(CONTROL_RX);
        rig.tell(0, 0, 0);
        rig.driver.pause();
        let heard = std::iter::from_fn(|| rig.driver.ring(CONTROL_RX).take_used()).count();
        prop_assert!(heard <= 3 * 5, "{} messages", heard);
        prop_assert_eq!(rig.driver.status() & NEEDS_RESET, 0);
    }
}
