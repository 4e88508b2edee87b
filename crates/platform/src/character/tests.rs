use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::*;
use crate::worker::Worker;

const PATIENCE: Duration = Duration::from_secs(20);

/// A device that reports what it gets and has a settable appetite.
struct Device {
    space: Mutex<usize>,
    received: mpsc::Sender<Vec<u8>>,
    ready: mpsc::Sender<()>,
}

impl CharacterFrontend for Device {
    fn receive_space(&self) -> usize {
        *self.space.lock()
    }
    fn receive(&self, bytes: &[u8]) {
        let mut space = self.space.lock();
        assert!(bytes.len() <= *space);
        *space -= bytes.len();
        let _ = self.received.send(bytes.to_vec());
    }
    fn output_ready(&self) {
        let _ = self.ready.send(());
    }
}

struct Setup {
    backend: CharacterBackend,
    device: Arc<Device>,
    received: mpsc::Receiver<Vec<u8>>,
    ready: mpsc::Receiver<()>,
    _worker: Worker,
}

fn open(endpoint: Endpoint) -> Setup {
    open_logged(endpoint, None)
}

fn open_logged(endpoint: Endpoint, log: Option<&Path>) -> Setup {
    let worker = Worker::spawn("test").unwrap();
    let backend = CharacterBackend::open(endpoint, log, &worker.handle()).unwrap();
    let (to_received, received) = mpsc::channel();
    let (to_ready, ready) = mpsc::channel();
    let device = Arc::new(Device { space: Mutex::new(1 << 20), received: to_received, ready: to_ready });
    let frontend: Arc<dyn CharacterFrontend> = Arc::clone(&device) as Arc<dyn CharacterFrontend>;
    backend.connect(&frontend);
    Setup { backend, device, received, ready, _worker: worker }
}

impl Setup {
    /// Receives exactly `expected`, in however many pieces.
    fn expect(&self, expected: &[u8]) {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(self.received.recv_timeout(PATIENCE).unwrap());
        }
        assert_eq!(seen, expected);
    }

    fn output(&self) -> CharacterOutput {
        self.backend.output()
    }
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index % 251).to_le_bytes()[0]).collect()
}

/// Writes until the backend takes less than it is given; returns how much it took.
fn fill(output: &CharacterOutput, from: &[u8]) -> usize {
    let mut sent = 0;
    while sent < from.len() {
        let chunk = &from[sent..from.len().min(sent + 1000)];
        let taken = output.write(chunk);
        sent += taken;
        if taken < chunk.len() {
            return sent;
        }
    }
    panic!("an output that nobody reads took {sent} bytes");
}

#[test]
fn null_takes_everything() {
    let setup = open(Endpoint::Null);
    assert_eq!(setup.output().write(&[0; 100_000]), 100_000);
    assert_eq!(setup.output().write(&[0; 100_000]), 100_000);
}

#[test]
fn a_file_gets_all_output_by_the_time_the_backend_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial.log");
    std::fs::write(&path, "before\n").unwrap();
    for (existing, expected) in [(Existing::Append, "before\n"), (Existing::Truncate, "")] {
        let setup = open(Endpoint::File { path: path.clone(), existing });
        let data = numbered(300_000);
        let mut sent = 0;
        while sent < data.len() {
            let taken = setup.output().write(&data[sent..]);
            sent += taken;
            if taken == 0 {
                setup.ready.recv_timeout(PATIENCE).unwrap();
            }
        }
        drop(setup);
        let contents = std::fs::read(&path).unwrap();
        assert_eq!(contents.len(), expected.len() + data.len());
        assert!(contents.starts_with(expected.as_bytes()) && contents.ends_with(&data));
    }
}

#[test]
fn a_full_pipe_holds_the_device_back_and_loses_nothing() {
    let (_unused, input) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    drop(input);
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let setup = open(Endpoint::Stdio { input: _unused, output: write_end.try_clone().unwrap() });
    let data = numbered(1 << 20);
    let sent = fill(&setup.output(), &data);
    assert!(sent >= QUEUE_BYTES);
    assert!(setup.ready.try_recv().is_err());
    let mut seen = vec![0; sent];
    std::fs::File::from(read_end.try_clone().unwrap()).read_exact(&mut seen).unwrap();
    assert_eq!(seen, data[..sent]);
    setup.ready.recv_timeout(PATIENCE).unwrap();
    assert_eq!(setup.output().write(b"more"), 4);
}

#[test]
fn the_end_of_a_machine_waits_for_a_slow_reader_of_standard_output() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let setup = open(Endpoint::Stdio { input: null.into(), output: write_end });
    let data = numbered(1 << 20);
    let sent = fill(&setup.output(), &data);
    let closer = std::thread::Builder::new().spawn(move || drop(setup)).unwrap();
    let mut seen = Vec::new();
    std::fs::File::from(read_end).read_to_end(&mut seen).unwrap();
    closer.join().unwrap();
    assert_eq!(seen, data[..sent]);
}

#[test]
fn descriptors_that_others_share_stay_blocking() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    for (input, output) in [
        (read_end.try_clone().unwrap(), write_end.try_clone().unwrap()),
        (OwnedFd::from(socket.try_clone().unwrap()), OwnedFd::from(socket.try_clone().unwrap())),
    ] {
        let (watched_input, watched_output) = (input.try_clone().unwrap(), output.try_clone().unwrap());
        let setup = open(Endpoint::Stdio { input, output });
        setup.output().write(b"x");
        for fd in [&watched_input, &watched_output] {
            assert!(!rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
        }
        drop(setup);
        assert!(!rustix::fs::fcntl_getfl(&watched_output).unwrap().contains(OFlags::NONBLOCK));
    }
}

#[test]
fn the_end_of_input_leaves_output_working() {
    let (input, to_input) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (from_output, output) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let setup = open(Endpoint::Stdio { input, output });
    rustix::io::write(&to_input, b"last words").unwrap();
    drop(to_input);
    setup.expect(b"last words");
    let mut seen = [0; 5];
    assert_eq!(setup.output().write(b"still"), 5);
    std::fs::File::from(from_output).read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"still");
}

#[test]
fn input_waits_until_the_device_has_space() {
    let (socket, mut other) = UnixStream::pair().unwrap();
    let setup = open(Endpoint::Stdio { input: socket.try_clone().unwrap().into(), output: socket.into() });
    *setup.device.space.lock() = 3;
    other.write_all(b"abcdef").unwrap();
    setup.expect(b"abc");
    assert!(setup.received.try_recv().is_err());
    *setup.device.space.lock() = 10;
    setup.output().input_wanted();
    setup.expect(b"def");
}

#[test]
fn a_regular_file_and_dev_null_serve_as_input() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&numbered(10_000)).unwrap();
    let null = || -> OwnedFd {
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
    };
    let input = std::fs::File::open(file.path()).unwrap().into();
    let setup = open(Endpoint::Stdio { input, output: null() });
    setup.expect(&numbered(10_000));
    let setup = open(Endpoint::Stdio { input: null(), output: null() });
    assert_eq!(setup.output().write(b"x"), 1);
}

fn read_until(stream: &mut impl Read, end: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(end) {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    seen
}

#[test]
fn a_late_client_of_a_socket_sees_the_recent_output_and_a_second_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let setup = open(Endpoint::Socket { path: path.clone() });
    let data = numbered(QUEUE_BYTES + 5000);
    for chunk in data.chunks(999) {
        assert_eq!(setup.output().write(chunk), chunk.len(), "nobody is waited for");
    }
    let mut first = UnixStream::connect(&path).unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = vec![0; QUEUE_BYTES];
    first.read_exact(&mut seen).unwrap();
    assert_eq!(seen, data[5000..]);
    let mut second = UnixStream::connect(&path).unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(second.read(&mut [0; 8]).unwrap(), 0, "closed at once");
    first.write_all(b"in").unwrap();
    setup.expect(b"in");
    // The first leaves, another may come; in between, output is kept again.
    drop(first);
    let mut third = loop {
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        setup.output().write(b"hello\n");
        if client.read(&mut [0; 1]).unwrap() == 1 {
            break client;
        }
    };
    read_until(&mut third, b"ello\n");
    drop(setup);
    assert!(!path.exists());
}

#[test]
fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _setup = open(Endpoint::Socket { path: path.clone() });
    let worker = Worker::spawn("test").unwrap();
    let error =
        CharacterBackend::open(Endpoint::Socket { path: path.clone() }, None, &worker.handle()).unwrap_err();
    assert!(error.to_string().contains(&format!("socket {}: listen on it", path.display())), "{error}");
}

fn open_reader(path: &Path) -> std::fs::File {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap().into()
}

#[test]
fn a_late_reader_of_a_pty_sees_the_recent_output_and_types() {
    let setup = open(Endpoint::Pty);
    let path = setup.backend.pty_path().unwrap().to_owned();
    let mut old = vec![b'.'; QUEUE_BYTES];
    old.extend(b"boot\nlogin: ");
    assert_eq!(setup.output().write(&old), old.len(), "nobody is waited for");
    for turn in 0..3 {
        let mut reader = open_reader(&path);
        let seen = read_until(&mut reader, b"login: ");
        assert!(seen.len() <= QUEUE_BYTES, "turn {turn}");
        reader.write_all(b"root\n").unwrap();
        setup.expect(b"root\n");
        drop(reader);
        // With nobody there, more than the terminal's own buffer is taken without anybody being waited for.
        while !matches!(setup.backend.shared.state.lock().route, Route::Nobody) {
            std::thread::yield_now();
        }
        assert_eq!(setup.output().write(&old), old.len());
    }
}

#[test]
fn a_reader_who_leaves_while_the_device_takes_no_input_is_noticed() {
    let setup = open(Endpoint::Pty);
    let path = setup.backend.pty_path().unwrap().to_owned();
    *setup.device.space.lock() = 2;
    let mut reader = open_reader(&path);
    reader.write_all(b"abcd").unwrap();
    setup.expect(b"ab");
    drop(reader);
    let data = vec![b'x'; 4 * QUEUE_BYTES];
    let mut sent = 0;
    while sent < data.len() {
        let taken = setup.output().write(&data[sent..]);
        sent += taken;
        if taken == 0 {
            setup.ready.recv_timeout(PATIENCE).unwrap();
        }
    }
    // What was typed before still arrives.
    *setup.device.space.lock() = 10;
    setup.output().input_wanted();
    setup.expect(b"cd");
}

#[test]
fn a_terminal_is_raw_while_in_use_and_restored_after() {
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, rustix::pty::OpenptFlags::RDWR).unwrap();
    let local = || rustix::termios::tcgetattr(&slave).unwrap().local_modes;
    let before = local();
    let endpoint =
        || Endpoint::Stdio { input: slave.try_clone().unwrap(), output: slave.try_clone().unwrap() };
    let setup = open(endpoint());
    assert!(!local().contains(rustix::termios::LocalModes::ICANON));
    rustix::io::write(&master, b"\x03").unwrap();
    setup.expect(b"\x03");
    assert_eq!(setup.output().write(b"hi"), 2);
    let mut seen = [0; 2];
    std::fs::File::from(master.try_clone().unwrap()).read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hi");
    drop(setup);
    assert_eq!(local(), before);
    let _setup = open(endpoint());
    restore_terminals();
    assert_eq!(local(), before);
}

/// Sends all of `data`, waiting for room.
fn send_all(setup: &Setup, data: &[u8]) {
    let mut sent = 0;
    while sent < data.len() {
        let taken = setup.output().write(&data[sent..]);
        sent += taken;
        if taken == 0 {
            setup.ready.recv_timeout(PATIENCE).unwrap();
        }
    }
}

/// What the old log and the present one have.
fn logged(path: &Path) -> Vec<u8> {
    let mut all = std::fs::read(path.with_added_extension("1")).unwrap_or_default();
    all.extend(std::fs::read(path).unwrap());
    all
}

#[test]
fn a_log_gets_everything_with_nobody_at_the_other_end() {
    let folder = tempfile::tempdir().unwrap();
    let data = numbered(700_000);
    for (name, endpoint) in [
        ("null", Endpoint::Null),
        ("pty", Endpoint::Pty),
        ("socket", Endpoint::Socket { path: folder.path().join("s") }),
        ("file", Endpoint::File { path: folder.path().join("f"), existing: Existing::Truncate }),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, "before\n").unwrap();
        let setup = open_logged(endpoint, Some(&path));
        send_all(&setup, &data);
        drop(setup);
        assert!(logged(&path) == [b"before\n", data.as_slice()].concat(), "{name}");
    }
    assert!(std::fs::read(folder.path().join("f")).unwrap() == data);
}

#[test]
fn with_a_log_a_reader_who_does_not_read_loses_the_oldest_and_holds_nobody_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let setup = open_logged(Endpoint::Pty, Some(&path));
    let mut reader = open_reader(setup.backend.pty_path().unwrap());
    reader.write_all(b"x").unwrap();
    setup.expect(b"x");
    let mut data = numbered(500_000);
    data.extend(b"login: ");
    send_all(&setup, &data);
    let seen = read_until(&mut reader, b"login: ");
    assert!(seen.len() < data.len());
    drop(setup);
    assert!(logged(&path) == data);
}

#[test]
fn a_full_log_is_put_aside_and_only_one_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let setup = open_logged(Endpoint::Null, Some(&path));
    let limit = usize::try_from(LOG_BYTES).unwrap();
    let data = numbered(3 * limit + 5);
    send_all(&setup, &data);
    drop(setup);
    assert!(std::fs::read(&path).unwrap() == data[3 * limit..]);
    assert!(std::fs::read(folder.path().join("log.1")).unwrap() == data[2 * limit..3 * limit]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_log_that_cannot_be_put_aside_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::create_dir_all(folder.path().join("log.1/occupied")).unwrap();
    let mut log = Log::open(&path).unwrap();
    let limit = usize::try_from(LOG_BYTES).unwrap();
    log.write(&numbered(limit + 5));
    assert_eq!(std::fs::read(&path).unwrap(), numbered(limit + 5)[limit..]);
}

#[test]
fn a_log_that_cannot_be_written_or_opened_is_told_and_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, "").unwrap();
    Log::unwritable(&path).write(b"lost");
    let worker = Worker::spawn("test").unwrap();
    for bad in [folder.path().to_owned(), folder.path().join("no/log"), "/dev/null".into()] {
        let error = CharacterBackend::open(Endpoint::Null, Some(&bad), &worker.handle()).unwrap_err();
        let expected = format!("character device null: log {}: open it", bad.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
