//! Consoles and channels of running machines.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bench::tiny_kernel::{Ending, GREETING, image};
use libvirt_rpc::client::{Connection, Input};
use libvirt_rpc::procedures::{DomainLookupByName, DomainOpenChannel, DomainOpenConsole};
use libvirt_rpc::types::RemoteDomain;

use super::{Place, Vireod};

const PATIENCE: Duration = Duration::from_secs(20);
const READ_ONLY: u32 = 1 << 16;
const HISTORY: u32 = 1 << 17;

/// The domain `echo`: a guest that comes back to every line, whose machine ends with this value.
struct Guest<'a>(&'a Place);

impl<'a> Guest<'a> {
    fn start(place: &'a Place) -> Self {
        Self::with_kernel(place, "/boot/none")
    }

    fn with_kernel(place: &'a Place, kernel: &str) -> Self {
        let document = format!(
            "<domain type='kvm'><name>echo</name><memory unit='MiB'>64</memory>
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel></os>
             <devices><console type='pty'><target type='serial' port='0'/></console>
             <channel type='unix'><target type='virtio' name='org.example.0'/></channel></devices></domain>"
        );
        place.ok(&["define", &place.write("echo.xml", document)]);
        place.ok(&["start", "echo"]);
        Self(place)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.0.virsh(&["destroy", "echo"]);
    }
}

/// Waits until the daemon has the keyboard for somebody: virsh throws away what is typed before it asks for the console.
fn wait_for_keyboard(place: &Place, vireod: &Vireod) {
    let terminal = PathBuf::from(place.ok(&["ttyconsole", "echo"]).trim());
    let start = Instant::now();
    let descriptors = format!("/proc/{}/fd", vireod.child.id());
    let open = || {
        let mut all = std::fs::read_dir(&descriptors).unwrap().flatten();
        all.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == terminal))
    };
    while !open() {
        assert!(start.elapsed() < PATIENCE, "nobody types");
        std::thread::yield_now();
    }
}

const READY: &[u8] = b"mock guest ready\r\n";

fn heard(line: &str) -> Vec<u8> {
    format!("guest heard: {line}\r\n").into_bytes()
}

/// virsh at a terminal of its own.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: mpsc::Receiver<u8>,
    seen: Vec<u8>,
}

impl Terminal {
    fn virsh(uri: &str, arguments: &str) -> Self {
        let command = format!("exec virsh -c '{uri}' {arguments}");
        let mut script = Command::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .env("LC_ALL", "C")
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keys = script.stdin.take().unwrap();
        let output = script.stdout.take().unwrap();
        let (shown, screen) = mpsc::channel();
        let show = move || {
            for byte in BufReader::new(output).bytes().map_while(Result::ok) {
                if shown.send(byte).is_err() {
                    return;
                }
            }
        };
        // It ends with the program whose output it reads.
        std::thread::Builder::new().name("screen".into()).spawn(show).unwrap();
        Self { script, keys, screen, seen: Vec::new() }
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until `text` has been shown since the last wait.
    fn wait_for(&mut self, text: &str) {
        let mut since = Vec::new();
        while !since.ends_with(text.as_bytes()) {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(byte) => since.push(byte),
                Err(error) => panic!("no {text:?}: {error}: {:?}", String::from_utf8_lossy(&since)),
            }
        }
        self.seen.extend(since);
    }

    /// Waits until virsh has ended by itself; what it showed last.
    fn rest(mut self) -> String {
        let start = Instant::now();
        let mut rest = Vec::new();
        loop {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(byte) => rest.push(byte),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("virsh goes on"),
            }
            assert!(start.elapsed() < PATIENCE);
        }
        self.script.wait().unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn lookup(connection: &mut Connection) -> RemoteDomain {
    connection.call(&DomainLookupByName { name: "echo".to_owned() }).unwrap().dom
}

/// What a reader sees until there is `end`.
fn read(connection: &mut Connection, flags: u32, end: &[u8]) -> Vec<u8> {
    let dom = lookup(connection);
    let call = DomainOpenConsole { dom, dev_name: Some("serial0".to_owned()), flags };
    let ((), mut stream) = connection.open_stream(&call).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        match stream.receive(Some(PATIENCE)).unwrap() {
            Input::Data(bytes) => seen.extend(bytes),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    stream.abort().unwrap();
    seen
}

#[test]
fn virsh_has_the_console_until_somebody_takes_it_or_the_machine_ends() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = Guest::start(&place);
    let uri = place.uri(&place.socket());
    let mut first = Terminal::virsh(&uri, "console echo");
    first.wait_for("Escape character is ^]");
    wait_for_keyboard(&place, &vireod);
    first.type_in("first\r");
    first.wait_for("guest heard: first");
    // By its name, and refused.
    let mut second = Terminal::virsh(&uri, "console echo --devname serial0");
    second.wait_for("Active console session exists for this domain");
    drop(second);
    let all = [READY, &heard("first")].concat();
    assert_eq!(read(&mut place.connect(), READ_ONLY | HISTORY, &heard("first")), all);
    let mut third = Terminal::virsh(&uri, "console echo --force");
    third.wait_for("Escape character is ^]");
    first.rest();
    third.type_in("third\r");
    third.wait_for("guest heard: third");
    place.ok(&["destroy", "echo"]);
    third.rest();
    let mut late = Terminal::virsh(&uri, "console echo");
    late.wait_for("The domain is not running");
}

#[test]
fn the_key_that_leaves_frees_the_console_and_what_cannot_be_is_refused() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = Guest::start(&place);
    let uri = place.uri(&place.socket());
    for _ in 0..2 {
        let mut terminal = Terminal::virsh(&uri, "console echo --safe");
        terminal.wait_for("Escape character is ^]");
        wait_for_keyboard(&place, &vireod);
        terminal.type_in("x\r");
        terminal.wait_for("guest heard: x");
        terminal.type_in("\x1d");
        terminal.rest();
    }
    let mut terminal = Terminal::virsh(&uri, "console echo --devname serial7");
    terminal.wait_for("cannot find character device serial7");
    let mut connection = place.connect();
    let dom = lookup(&mut connection);
    for (flags, expected) in [(1 | READ_ONLY, "takes nothing by force"), (4, "unsupported flags (0x4)")] {
        let call = DomainOpenConsole { dom: dom.clone(), dev_name: None, flags };
        let error = connection.open_stream(&call).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut read_only = Connection::open_socket(&place.read_only_socket(), None, true).unwrap();
    let call = DomainOpenConsole { dom, dev_name: None, flags: READ_ONLY };
    let error = read_only.open_stream(&call).map(drop).unwrap_err().to_string();
    assert!(error.contains("read only access prevents virDomainOpenConsole"), "{error}");
}

#[test]
fn what_was_printed_outlives_the_daemon_and_the_machine_until_the_domain_is_no_more() {
    let place = Place::new();
    let vireod = place.start();
    let guest = Guest::start(&place);
    let mut connection = place.connect();
    let dom = lookup(&mut connection);
    let call = DomainOpenConsole { dom, dev_name: None, flags: HISTORY };
    let ((), mut stream) = connection.open_stream(&call).unwrap();
    stream.send(b"before\n").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(&heard("before")) {
        match stream.receive(Some(PATIENCE)).unwrap() {
            Input::Data(bytes) => seen.extend(bytes),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    vireod.kill();
    assert!(stream.receive(Some(PATIENCE)).is_err());
    drop(stream);
    let vireod = place.start();
    let all = [READY, &heard("before")].concat();
    assert_eq!(read(&mut place.connect(), READ_ONLY | HISTORY, &heard("before")), all);
    let mut terminal = Terminal::virsh(&place.uri(&place.socket()), "console echo");
    terminal.wait_for("Escape character is ^]");
    wait_for_keyboard(&place, &vireod);
    terminal.type_in("after\r");
    terminal.wait_for("guest heard: after");
    drop(terminal);
    place.ok(&["destroy", "echo"]);
    place.ok(&["start", "echo"]);
    let end = [&heard("after"), READY].concat();
    assert_eq!(read(&mut place.connect(), READ_ONLY | HISTORY, &end), [all, end.clone()].concat());
    let logs = place.path("state/consoles");
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 1);
    // It is needed as long as the machine runs.
    place.ok(&["undefine", "echo"]);
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 1);
    drop(guest);
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 0);
}

#[test]
fn a_console_goes_on_over_a_restart_of_its_machine() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = Guest::start(&place);
    let uri = place.uri(&place.socket());
    let mut terminal = Terminal::virsh(&uri, "console echo");
    terminal.wait_for("Escape character is ^]");
    wait_for_keyboard(&place, &vireod);
    let mut connection = place.connect();
    let dom = lookup(&mut connection);
    let ((), mut reader) =
        connection.open_stream(&DomainOpenConsole { dom, dev_name: None, flags: READ_ONLY }).unwrap();
    terminal.type_in("before\r");
    terminal.wait_for("guest heard: before");
    // The guest powers off, and another process begins.
    place.ok(&["reboot", "echo"]);
    terminal.wait_for("mock guest ready");
    wait_for_keyboard(&place, &vireod);
    terminal.type_in("after\r");
    terminal.wait_for("guest heard: after");
    let all = [heard("before"), READY.to_vec(), heard("after")].concat();
    let mut seen = Vec::new();
    while !seen.ends_with(&heard("after")) {
        match reader.receive(Some(PATIENCE)).unwrap() {
            Input::Data(bytes) => seen.extend(bytes),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    assert!(seen.ends_with(&all), "{seen:?}");
    let mut other = place.connect();
    let dom = lookup(&mut other);
    let error = other.open_stream(&DomainOpenConsole { dom, dev_name: None, flags: 0 });
    assert!(error.map(drop).unwrap_err().to_string().contains("Active console session"), "it is still held");
    // An end for good ends it, also when the domain is started at once.
    place.ok(&["destroy", "echo"]);
    place.ok(&["start", "echo"]);
    terminal.rest();
    assert_eq!(reader.receive(Some(PATIENCE)).unwrap(), Input::End);
}

#[test]
fn a_log_that_the_document_names_is_the_console_s() {
    let place = Place::new();
    let _vireod = place.start();
    let log = place.text("echo.log");
    let define = |log: &str| {
        let document = format!(
            "<domain type='kvm'><name>echo</name><uuid>0c4b8f6e-12d3-4c5b-9e7a-000000000001</uuid>
             <memory unit='MiB'>64</memory>
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/none</kernel></os>
             <devices><serial type='pty'>{log}</serial></devices></domain>"
        );
        place.ok(&["define", &place.write("echo.xml", document)]);
    };
    define(&format!("<log file='{log}'/>"));
    let _guest = Guest(&place);
    let history = |end: &[u8]| read(&mut place.connect(), READ_ONLY | HISTORY, end);
    for times in [1, 2] {
        place.ok(&["start", "echo"]);
        assert_eq!(history(&READY.repeat(times)), READY.repeat(times));
        place.ok(&["destroy", "echo"]);
        assert_eq!(std::fs::read(&log).unwrap(), READY.repeat(times), "what there is stays");
    }
    define(&format!("<log file='{log}' append='off'/>"));
    std::fs::write(format!("{log}.1"), "put aside").unwrap();
    place.ok(&["start", "echo"]);
    assert_eq!(history(READY), READY, "it begins anew with the domain");
    assert!(!place.path("echo.log.1").exists());
    assert!(place.ok(&["dumpxml", "echo"]).contains(&format!("<log file='{log}' append='off'/>")));
    place.ok(&["destroy", "echo"]);
    let storage = place.text("storage");
    for (file, message) in [("echo.log", "not absolute"), (&*storage, "storage"), ("/nowhere/echo.log", "")] {
        define(&format!("<log file='{file}' append='off'/>"));
        place.fails(&["start", "echo"], &[message]);
    }
}

#[test]
fn a_channel_has_one_client_and_ends_with_the_machine() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = Guest::start(&place);
    let uuid = place.ok(&["domuuid", "echo"]);
    let socket = place.path("run/machines").join(uuid.trim()).join("org.example.0.sock");
    // In place of the machine, which stands in for one itself and has no channels.
    let listener = UnixListener::bind(socket).unwrap();
    let mut connection = place.connect();
    let dom = lookup(&mut connection);
    let call = |name: Option<&str>, flags| DomainOpenChannel {
        dom: dom.clone(),
        name: name.map(str::to_owned),
        flags,
    };
    let ((), mut stream) = connection.open_stream(&call(Some("org.example.0"), 0)).unwrap();
    let mut other = place.connect();
    for (name, expected) in [
        (None, "Active channel stream exists for this domain"),
        (Some("channel0"), "Active channel stream exists for this domain"),
        (Some("org.example.1"), "cannot find channel org.example.1"),
    ] {
        let error = other.open_stream(&call(name, 0)).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (mut first, _) = listener.accept().unwrap();
    stream.send(b"to the guest").unwrap();
    let mut sent = [0; 12];
    first.read_exact(&mut sent).unwrap();
    assert_eq!(&sent, b"to the guest");
    first.write_all(b"back").unwrap();
    assert_eq!(stream.receive(Some(PATIENCE)).unwrap(), Input::Data(b"back".to_vec()));
    let ((), mut taken) = other.open_stream(&call(None, 1)).unwrap();
    let _second = listener.accept().unwrap();
    assert_eq!(stream.receive(Some(PATIENCE)).unwrap(), Input::End);
    place.ok(&["destroy", "echo"]);
    assert_eq!(taken.receive(Some(PATIENCE)).unwrap(), Input::End);
}

/// The machine's real program, when it has been built and can run here.
fn machine_program() -> Option<PathBuf> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_vireod")).with_file_name("vireo-vmm");
    if !program.exists() {
        eprintln!("skipped: vireo-vmm has not been built");
        return None;
    }
    match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Some(program),
        Err(error) => {
            eprintln!("skipped: /dev/kvm: {error}");
            None
        }
    }
}

#[test]
fn the_console_of_a_real_machine_is_seen_and_typed_into() {
    let Some(program) = machine_program() else { return };
    let place = Place::new();
    let vireod = Vireod::start(place.command_with(&program), place.path("log"));
    let kernel = place.write("kernel", image(Ending::Echo));
    let _guest = Guest::with_kernel(&place, &kernel);
    let mut terminal = Terminal::virsh(&place.uri(&place.socket()), "console echo");
    terminal.wait_for("Escape character is ^]");
    wait_for_keyboard(&place, &vireod);
    terminal.type_in("typed");
    terminal.wait_for("typed");
    let all = [&[GREETING], b"typed".as_slice()].concat();
    assert_eq!(read(&mut place.connect(), READ_ONLY | HISTORY, b"typed"), all);
    place.ok(&["destroy", "echo"]);
    terminal.rest();
}
