//! Logs as the machine's process writes them, and terminals made here.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libvirt_xml::Uuid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{
    ConsoleError, Consoles, End, From, HISTORY, LogTail, Mode, Port, channel, console, log_directory,
    log_path,
};

/// What is there, up to `length` bytes.
async fn read(tail: &mut LogTail, length: usize) -> Vec<u8> {
    let mut seen = Vec::new();
    while seen.len() < length {
        seen.extend(tokio::time::timeout(PATIENCE, tail.next()).await.unwrap().unwrap());
    }
    seen
}

fn append(path: &Path, bytes: &[u8]) {
    File::options().append(true).create(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn put_aside(path: &Path) {
    std::fs::rename(path, path.with_added_extension("1")).unwrap();
}

#[tokio::test]
async fn a_log_is_read_from_its_end_across_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serial0.log");
    append(&path, b"old");
    let mut tail = LogTail::open(&path, 0).unwrap();
    assert_eq!(tail.available().unwrap(), b"");
    let writer = tokio::task::spawn_blocking({
        let path = path.clone();
        move || append(&path, b"one")
    });
    assert_eq!(read(&mut tail, 3).await, b"one");
    writer.await.unwrap();
    // Written and put aside before anybody looks.
    append(&path, b"two");
    put_aside(&path);
    append(&path, b"three");
    assert_eq!(read(&mut tail, 8).await, b"twothree");
    // Two files behind: what is gone is gone.
    append(&path, b"four");
    put_aside(&path);
    append(&path, b"five");
    put_aside(&path);
    append(&path, b"six");
    assert_eq!(read(&mut tail, 11).await, b"fourfivesix");
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    append(&path, b"7");
    assert_eq!(read(&mut tail, 1).await, b"7");
    assert_eq!(tail.available().unwrap(), b"");
}

#[tokio::test]
async fn one_who_is_many_files_behind_goes_on_with_what_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serial0.log");
    append(&path, b"a");
    let mut tail = LogTail::open(&path, 100).unwrap();
    for text in ["b", "c", "d"] {
        put_aside(&path);
        append(&path, text.as_bytes());
    }
    // The first is still open, the second is gone.
    assert_eq!(read(&mut tail, 3).await, b"acd");
    put_aside(&path);
    std::fs::remove_file(path.with_added_extension("1")).unwrap();
    assert_eq!(tail.available().unwrap(), b"");
    append(&path, b"e");
    assert_eq!(read(&mut tail, 1).await, b"e");
}

#[tokio::test]
async fn history_reaches_into_the_file_that_was_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console0.log");
    let mut early = LogTail::open(&path, 5).unwrap();
    assert_eq!(early.available().unwrap(), b"");
    append(&path, b"abcdef");
    assert_eq!(LogTail::open(&path, 4).unwrap().available().unwrap(), b"cdef");
    put_aside(&path);
    append(&path, b"gh");
    assert_eq!(read(&mut LogTail::open(&path, 1).unwrap(), 1).await, b"h");
    assert_eq!(read(&mut LogTail::open(&path, 5).unwrap(), 5).await, b"defgh");
    assert_eq!(read(&mut LogTail::open(&path, 500).unwrap(), 8).await, b"abcdefgh");
    assert_eq!(LogTail::open(&path, 0).unwrap().available().unwrap(), b"");
    // It saw none of the first file.
    assert_eq!(read(&mut early, 2).await, b"gh");
}

#[tokio::test]
async fn what_is_not_a_log_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serial0.log");
    let secret = directory.path().join("secret");
    append(&secret, b"secret");
    std::os::unix::fs::symlink(&secret, &path).unwrap();
    LogTail::open(&path, 100).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    LogTail::open(&path, 100).unwrap_err();
}

struct Terminal {
    master: File,
    port: Port,
}

impl Terminal {
    fn open(directory: &Path) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = PathBuf::from(ptsname(&master, Vec::new()).unwrap().into_string().unwrap());
        let port = Port {
            alias: "serial0".to_owned(),
            name: None,
            end: End::Terminal(slave),
            log: Some(log_path(directory, "serial0")),
        };
        Self { master: master.into(), port }
    }

    fn typed(&mut self, length: usize) -> Vec<u8> {
        let mut typed = vec![0; length];
        std::io::Read::read_exact(&mut self.master, &mut typed).unwrap();
        typed
    }
}

fn me() -> u32 {
    rustix::process::getuid().as_raw()
}

const DOMAIN: Uuid = Uuid([7; 16]);
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[tokio::test]
async fn one_types_and_all_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open(directory.path());
    let port = terminal.port.clone();
    let log = port.log.clone().unwrap();
    append(&log, b"login: ");
    let consoles = Consoles::default();
    let attach = async |mode, from| consoles.attach(DOMAIN, me(), &port, mode, from).await;
    let mut first = attach(Mode::Writer, From::Now).await.unwrap();
    let mut reader = attach(Mode::Reader, From::History).await.unwrap();
    assert!(reader.typing.is_none());
    let refused = attach(Mode::Writer, From::Now).await.unwrap_err();
    assert_eq!(refused.to_string(), "Active console session exists for this domain");
    first.typing.as_ref().unwrap().keyboard.write(b"root\n", PATIENCE).await.unwrap();
    assert_eq!(terminal.typed(5), b"root\n", "unchanged and without echo");
    append(&log, b"# ");
    assert_eq!(read(&mut first.screen, 2).await, b"# ");
    assert_eq!(read(&mut reader.screen, 9).await, b"login: # ");
    // Another machine's device of that name is another.
    consoles.attach(Uuid([8; 16]), me(), &port, Mode::Writer, From::Now).await.unwrap();
    let second = attach(Mode::WriterByForce, From::Now);
    tokio::pin!(second);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(20), &mut second).await.is_err());
    // It has to let go before the other one begins, and takes nothing from that one.
    first.typing.as_ref().unwrap().lease.lost().await;
    drop(first);
    let second = second.await.unwrap();
    assert!(attach(Mode::Writer, From::Now).await.is_err());
    drop(second);
    attach(Mode::Writer, From::Now).await.unwrap();
    assert!(consoles.writers.lock().is_empty());
}

#[tokio::test]
async fn a_guest_that_takes_nothing_is_not_waited_for_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let terminal = Terminal::open(directory.path());
    let consoles = Consoles::default();
    let attached = consoles.attach(DOMAIN, me(), &terminal.port, Mode::Writer, From::Now).await.unwrap();
    let keyboard = attached.typing.unwrap().keyboard;
    let error = keyboard.write(&vec![b'x'; 1 << 20], std::time::Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(terminal);
    let error = keyboard.write(b"x", PATIENCE).await.unwrap_err();
    assert_ne!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(keyboard.read().await.unwrap(), b"");
}

#[tokio::test]
async fn only_a_terminal_of_the_machine_is_typed_into() {
    let directory = tempfile::tempdir().unwrap();
    let terminal = Terminal::open(directory.path());
    let consoles = Consoles::default();
    let attach = async |end: &Path, owner| {
        let port = Port { end: End::Terminal(end.to_owned()), ..terminal.port.clone() };
        consoles.attach(DOMAIN, owner, &port, Mode::Writer, From::Now).await
    };
    let End::Terminal(path) = &terminal.port.end else { panic!("no terminal") };
    attach(path, me()).await.unwrap();
    let file = directory.path().join("file");
    append(&file, b"precious");
    for (path, owner) in [
        (path.as_path(), me() + 1),
        (&file, me()),
        (Path::new("/dev/pts/ptmx"), me()),
        (Path::new("/dev/pts/"), me()),
        (Path::new("/dev/pts/../null"), me()),
        (Path::new("/dev/null"), me()),
    ] {
        let error = attach(path, owner).await.unwrap_err();
        assert!(matches!(error, ConsoleError::Host { .. }), "{}: {error}", path.display());
    }
    // Whoever failed does not keep the keyboard.
    attach(path, me()).await.unwrap();
}

#[tokio::test]
async fn a_socket_is_typed_into_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let port = Port {
        alias: "channel0".to_owned(),
        name: Some("org.example".to_owned()),
        end: End::Socket(path),
        log: None,
    };
    let line = super::line(&port, me()).await.unwrap();
    let (mut machine, _) = listener.accept().unwrap();
    line.write(b"to the guest", PATIENCE).await.unwrap();
    let mut sent = [0; 12];
    std::io::Read::read_exact(&mut machine, &mut sent).unwrap();
    assert_eq!(&sent, b"to the guest");
    machine.write_all(b"back").unwrap();
    assert_eq!(line.read().await.unwrap(), b"back");
    drop(machine);
    assert_eq!(line.read().await.unwrap(), b"");
    let error = Consoles::default().attach(DOMAIN, me(), &port, Mode::Reader, From::Now).await.unwrap_err();
    assert!(matches!(error, ConsoleError::NoLog { .. }), "{error}");
}

#[test]
fn devices_are_found_by_alias_name_or_as_the_first() {
    let port = |alias: &str, name: Option<&str>| Port {
        alias: alias.to_owned(),
        name: name.map(str::to_owned),
        end: End::Other,
        log: None,
    };
    let ports = [port("channel0", Some("org.a")), port("serial0", None), port("console1", None)];
    let found =
        |name| console(&ports, name).map(|port| port.alias.as_str()).map_err(|error| error.to_string());
    assert_eq!(found(None).unwrap(), "serial0");
    assert_eq!(found(Some("console1")).unwrap(), "console1");
    assert_eq!(found(Some("x")).unwrap_err(), "cannot find character device x");
    let found =
        |name| channel(&ports, name).map(|port| port.alias.as_str()).map_err(|error| error.to_string());
    assert_eq!(found(None).unwrap(), "channel0");
    assert_eq!(found(Some("org.a")).unwrap(), "channel0");
    assert_eq!(found(Some("serial0")).unwrap_err(), "cannot find channel serial0");
}

#[test]
fn logs_stay_in_their_domains_directory() {
    let directory = log_directory(Path::new("/var/lib/vireo/consoles"), DOMAIN);
    assert_eq!(directory, Path::new("/var/lib/vireo/consoles/07070707-0707-0707-0707-070707070707"));
    assert_eq!(log_path(&directory, "serial0"), directory.join("serial0.log"));
    assert_eq!(log_path(&directory, "../x").parent(), Some(directory.as_path()));
    const { assert!(HISTORY <= 1 << 20) };
}
