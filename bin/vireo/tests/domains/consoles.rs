//! Consoles: a daemon of the test's own with a machine that says back what it hears.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{Access, CallContext, ClientHandle, Limits, Server, Service, StreamInput, Table};
use libvirt_rpc::types::RemoteDomain;
use libvirt_rpc::xdr::Uuid;
use rustix::process::Signal;

use super::person::Person;
use super::*;

#[derive(Debug, Default)]
struct Echo {
    /// Flags of each call.
    asked: Mutex<Vec<u32>>,
}

impl Service for Echo {
    fn open(&self, _: &ClientHandle, _: Option<&str>) -> Result<(), RpcError> {
        Ok(())
    }

    fn closed(&self, _: &ClientHandle) {}
}

/// What a daemon that knows nothing of ours takes.
const KNOWN: u32 = 3;

async fn console(echo: Arc<Echo>, call: CallContext, console: DomainOpenConsole) -> Result<(), RpcError> {
    echo.asked.lock().unwrap().push(console.flags);
    if console.dom.name == "plain" && console.flags & !KNOWN != 0 {
        return Err(RpcError::invalid_argument("unsupported flags"));
    }
    if console.dom.name == "busy" && console.flags & 1 == 0 {
        return Err(RpcError::operation_failed("Active console session exists for this domain"));
    }
    let mut stream = call.stream()?;
    tokio::spawn(async move {
        let _ = stream.sender.send(b"hello\r\n").await;
        if console.dom.name == "flood" {
            while stream.sender.send(&[b'x'; 4096]).await.is_ok() {}
            return;
        }
        while let Ok(StreamInput::Data(data)) = stream.receiver.receive().await {
            if data.contains(&b'!') {
                let _ = stream.sender.send(b"bye\r\n").await;
                let _ = stream.complete().await;
                return;
            }
            let shown = data.iter().map(|byte| format!("<{byte:02x}>")).collect::<String>();
            if stream.sender.send(shown.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

struct Fixture {
    echo: Arc<Echo>,
    runtime: tokio::runtime::Runtime,
    server: Option<Server<Echo>>,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let echo = Arc::new(Echo::default());
        let table = Table::new()
            .on(|_: Arc<Echo>, _, call: DomainLookupByName| async move {
                let dom = RemoteDomain { name: call.name, uuid: Uuid([1; 16]), id: 1 };
                Ok(DomainLookupByNameReply { dom })
            })
            .on(console);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = Server::new(Arc::clone(&echo), table, Limits::default());
        {
            let _inside = runtime.enter();
            let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
            server.listen(listener, Access::ReadWrite).unwrap();
        }
        Self { echo, runtime, server: Some(server), directory }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = vireo(arguments);
        command.env("VIREO_URI", format!("qemu:///system?socket={}/sock", self.directory.path().display()));
        command
    }

    fn asked(&self) -> Vec<u32> {
        self.echo.asked.lock().unwrap().clone()
    }

    /// The daemon goes.
    fn end(&mut self) {
        let server = self.server.take().unwrap();
        self.runtime.block_on(server.shut_down(std::time::Duration::from_secs(1)));
    }
}

#[test]
fn the_key_leaves_and_everything_else_is_typed() {
    let fixture = Fixture::new();
    let mut person = Person::starts(fixture.command(&["console", "demo"]));
    person.waits_for("Ctrl-] leaves");
    person.waits_for("hello\r\n");
    assert!(!person.echoes());
    // Neither a signal nor the end of anything, but bytes; and each line end as it is.
    person.types("a\u{3}\u{4}\r");
    person.waits_for("<0d>");
    assert!(person.seen().contains("<61>"), "{}", person.seen());
    person.types("b\u{1d}c");
    assert_eq!(person.exit_code(), Some(0));
    assert!(person.echoes());
    assert_eq!(fixture.asked(), [0]);
}

#[test]
fn another_key_can_leave_and_flags_are_passed_on() {
    let fixture = Fixture::new();
    let arguments = ["console", "demo", "--escape", "^a", "--force", "--history", "--safe"];
    let mut person = Person::starts(fixture.command(&arguments));
    person.waits_for("Ctrl-A leaves");
    person.waits_for("hello");
    person.types("\u{1d}");
    person.waits_for("<1d>");
    person.types("\u{1}");
    assert_eq!(person.exit_code(), Some(0));
    let mut person = Person::starts(fixture.command(&["console", "demo", "--read-only"]));
    person.waits_for("hello");
    person.types("\u{1d}");
    assert_eq!(person.exit_code(), Some(0));
    assert_eq!(fixture.asked(), [1 | 2 | 1 << 17, 1 << 16]);
}

#[test]
fn the_terminal_is_as_before_after_a_signal_and_after_the_daemons_end() {
    let mut fixture = Fixture::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut person = Person::starts(fixture.command(&["console", "demo"]));
        person.waits_for("hello");
        assert!(!person.echoes());
        person.signals(signal);
        assert_eq!(person.exit_code(), Some(code));
        assert!(person.echoes());
    }
    let mut person = Person::starts(fixture.command(&["console", "demo"]));
    person.waits_for("hello");
    fixture.end();
    person.waits_for("the console of domain demo ended");
    assert_ne!(person.exit_code(), Some(0));
    assert!(person.echoes());
}

#[test]
fn a_console_that_ends_ends_the_command() {
    let fixture = Fixture::new();
    let mut person = Person::starts(fixture.command(&["console", "demo"]));
    person.waits_for("hello");
    person.types("!");
    person.waits_for("bye\r\n");
    assert_eq!(person.exit_code(), Some(0));
    assert!(person.echoes());
}

#[test]
fn a_machine_that_floods_does_not_keep_the_person() {
    let fixture = Fixture::new();
    let mut person = Person::starts(fixture.command(&["console", "flood"]));
    person.waits_for("hello");
    // Nothing is read from the terminal any more: the key works all the same.
    person.types("\u{1d}");
    assert_eq!(person.exit_code(), Some(0));
    assert!(person.echoes());
}

#[test]
fn without_a_terminal_it_is_a_pipe() {
    let fixture = Fixture::new();
    let mut command = fixture.command(&["console", "demo"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The key is a byte like any other.
    child.stdin.take().unwrap().write_all(b"\x1d!").unwrap();
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.out.as_str()), (Some(0), "hello\r\nbye\r\n"));
}

#[test]
fn a_console_in_use_is_refused() {
    let fixture = Fixture::new();
    let said = Said::of(&mut fixture.command(&["console", "busy"]));
    said.failed(1, &["cannot open the console of domain busy", "Active console session"]);
    Said::of(&mut fixture.command(&["console", "demo", "--json"])).failed(2, &["no JSON"]);
    Said::of(&mut fixture.command(&["console", "demo", "--escape", "ab"])).failed(2, &["one character"]);
    Said::of(&mut fixture.command(&["console", "demo", "--force", "--read-only"]))
        .failed(2, &["cannot be used"]);
}
