//! The server as clients meet it: through a real socket, with a driver that answers as it is told.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use machine_spec::MachineSpec;
use machine_spec::wire::{VmConfig, VmInfo, VmmPingResponse};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::server::Limits;
use super::*;
use crate::control::{Action, CharacterDevice, ControlError, Controller, Reply, VmState};

/// Long enough never to be met by a client that does its part.
const PATIENT: Limits = Limits {
    idle: Duration::from_secs(60),
    request: Duration::from_secs(60),
    response: Duration::from_secs(60),
    linger: Duration::from_secs(60),
};

struct Fixture {
    server: Option<ApiServer>,
    seen: Arc<Mutex<Vec<Action>>>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

type Answer = Result<Reply, ControlError>;

impl Fixture {
    fn new() -> Self {
        Self::answering(PATIENT, |_| Ok(Reply::Done))
    }

    fn answering(limits: Limits, answer: impl Fn(&Action) -> Answer + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let for_driver = Arc::clone(&seen);
        let controller = Controller::new(move |request| {
            let answer = answer(&request.action);
            for_driver.lock().push(request.action);
            request.reply.send(answer).unwrap();
            Ok(())
        });
        let server = Some(ApiServer::start_with(&path, controller, limits).unwrap());
        Self { server, seen, path, _directory: directory }
    }

    fn connect(&self) -> Client {
        let socket = UnixStream::connect(&self.path).unwrap();
        // A server that never answers fails the test instead of hanging it.
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Client(socket)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let mut client = self.connect();
        client.send(request(method, path, body));
        client.response()
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

struct Client(UnixStream);

#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The only message of an error.
    fn error(&self) -> String {
        let messages: Vec<String> = serde_json::from_str(&self.body).unwrap();
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages.into_iter().next().unwrap()
    }
}

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    fn response(&mut self) -> Response {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        Response { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Whether the server has nothing more to say.
    fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap() == 0
    }
}

const LEAST: &str = r#"{"payload":{"kernel":"/boot/vmlinux"}}"#;

fn least() -> MachineSpec {
    let config: VmConfig = serde_json::from_str(LEAST).unwrap();
    MachineSpec::from_config(config, &mut || [0; 6]).unwrap()
}

#[test]
fn every_action_reaches_the_driver_and_is_answered_without_content() {
    let fixture = Fixture::new();
    for (path, body, expected) in [
        ("vm.create", LEAST, "Create"),
        (
            "vm.resize",
            r#"{"desired_balloon":4096,"desired_ram":null}"#,
            "ChangeBalloon { bytes: Some(4096), statistics_period: None }",
        ),
        (
            "vm.resize",
            r#"{"balloon_statistics_period":5}"#,
            "ChangeBalloon { bytes: None, statistics_period: Some(5) }",
        ),
        ("vm.boot", "", "Boot"),
        ("vm.pause", "", "Pause"),
        ("vm.resume", "", "Resume"),
        ("vm.reboot", "", "Reboot"),
        ("vm.power-button", "", "PowerButton"),
        ("vm.nmi", "", "Nmi"),
        ("vmm.nmi", "", "Nmi"),
        ("vm.shutdown", "", "Shutdown"),
        ("vm.delete", "", "Delete"),
        ("vmm.shutdown", "", "ShutdownVmm"),
    ] {
        let response = fixture.ask("PUT", path, body);
        assert_eq!((response.status, response.body.as_str()), (204, ""), "{path}");
        assert!(!response.head.contains("Content-"), "{}", response.head);
        let seen = format!("{:?}", fixture.seen.lock().pop().unwrap());
        assert!(seen.starts_with(expected), "{path}: {seen}");
    }
}

#[test]
fn ping_is_answered_without_the_driver() {
    let fixture = Fixture::answering(PATIENT, |_| Err(ControlError::Ending));
    let response = fixture.ask("GET", "vmm.ping", "");
    assert_eq!(response.status, 200);
    assert!(response.head.contains("\r\nContent-Type: application/json\r\n"), "{}", response.head);
    let ping: VmmPingResponse = serde_json::from_str(&response.body).unwrap();
    assert_eq!(ping.pid, i64::from(std::process::id()));
    assert_eq!(ping.version, env!("CARGO_PKG_VERSION"));
    assert!(fixture.seen.lock().is_empty());
}

#[test]
fn info_has_the_description_the_state_and_the_pseudo_terminals() {
    let fixture = Fixture::answering(PATIENT, |_| {
        let mut spec = least();
        let port = |name: Option<&str>| machine_spec::spec::ConsolePortSpec {
            name: name.map(str::to_owned),
            backend: machine_spec::spec::CharacterSpec::Pty,
            log: None,
        };
        spec.serial = machine_spec::spec::CharacterSpec::Pty;
        spec.console_ports = vec![port(None), port(Some("a")), port(Some("b"))];
        Ok(Reply::Info {
            spec: Box::new(spec),
            state: VmState::Paused,
            memory_actual_bytes: 1 << 29,
            pseudo_terminals: vec![
                (CharacterDevice::Serial, "/dev/pts/1".into()),
                (CharacterDevice::ConsolePort(0), "/dev/pts/2".into()),
                (CharacterDevice::ConsolePort(2), "/dev/pts/3".into()),
                (CharacterDevice::ConsolePort(9), "/dev/pts/4".into()),
            ],
        })
    });
    let response = fixture.ask("GET", "vm.info", "");
    assert_eq!(response.status, 200);
    let _: VmInfo = serde_json::from_str(&response.body).unwrap();
    let info = response.json();
    assert_eq!(info["state"], "Paused");
    assert_eq!(info["memory_actual_size"], 1 << 29);
    let config = &info["config"];
    assert_eq!(config["payload"]["kernel"], "/boot/vmlinux");
    assert_eq!(config["serial"], json!({"mode": "Pty", "file": "/dev/pts/1"}));
    assert_eq!(config["console"], json!({"mode": "Pty", "file": "/dev/pts/2"}));
    assert_eq!(config["console_ports"][0], json!({"name": "a", "mode": "Pty"}));
    assert_eq!(config["console_ports"][1], json!({"name": "b", "mode": "Pty", "file": "/dev/pts/3"}));
}

#[test]
fn the_first_console_port_is_in_the_list_when_it_has_a_name() {
    let fixture = Fixture::answering(PATIENT, |_| {
        let mut spec = least();
        let name = Some("a".to_owned());
        let backend = machine_spec::spec::CharacterSpec::Pty;
        spec.console_ports = vec![machine_spec::spec::ConsolePortSpec { name, backend, log: None }];
        Ok(Reply::Info {
            spec: Box::new(spec),
            state: VmState::Running,
            memory_actual_bytes: 0,
            pseudo_terminals: vec![(CharacterDevice::ConsolePort(0), "/dev/pts/7".into())],
        })
    });
    let config = &fixture.ask("GET", "vm.info", "").json()["config"];
    assert_eq!(config["console_ports"][0]["file"], "/dev/pts/7");
    assert_eq!(config["console"], json!({"mode": "Off"}));
}

#[test]
fn counters_are_told_by_device() {
    let fixture = Fixture::answering(PATIENT, |_| {
        Ok(Reply::Counters(vec![("disk0".to_owned(), vec![("read_bytes", 4096), ("read_ops", u64::MAX)])]))
    });
    let response = fixture.ask("GET", "vm.counters", "");
    assert_eq!(response.json(), json!({"disk0": {"read_bytes": 4096, "read_ops": u64::MAX}}));
}

#[test]
fn only_the_balloon_is_resized() {
    let fixture = Fixture::new();
    for (body, expected) in [
        ("{}", "no new size"),
        (r#"{"desired_vcpus":2}"#, "field `desired_vcpus` is not supported"),
        (r#"{"desired_balloon":4096,"desired_ram":1073741824}"#, "field `desired_ram` is not supported"),
        (r#"{"desired_balloon":-1}"#, "invalid value"),
        (r#"{"desired_balloon":1,"colour":2}"#, "unknown field"),
    ] {
        let response = fixture.ask("PUT", "vm.resize", body);
        assert_eq!(response.status, 400, "{body}");
        assert!(
            response.body.contains("vm.resize: ") && response.body.contains(expected),
            "{}",
            response.body
        );
    }
    assert!(fixture.seen.lock().is_empty());
}

#[test]
fn a_disk_is_resized_by_its_identifier() {
    let fixture = Fixture::answering(PATIENT, |_| Ok(Reply::Done));
    let body = r#"{"id":"disk1","desired_size":1073741824}"#;
    assert_eq!(fixture.ask("PUT", "vm.resize-disk", body).status, 204);
    let seen = format!("{:?}", fixture.seen.lock().pop());
    assert!(seen.contains(r#"ResizeDisk { id: "disk1", bytes: 1073741824 }"#), "{seen}");
    for bad in ["", "{}", r#"{"id":"disk1"}"#, r#"{"id":"disk1","desired_size":-1}"#] {
        let response = fixture.ask("PUT", "vm.resize-disk", bad);
        assert_eq!(response.status, 400, "{bad}");
        assert!(response.body.contains("vm.resize-disk: "), "{}", response.body);
    }
}

#[test]
fn a_cable_is_pulled_by_its_interface_s_identifier() {
    let fixture = Fixture::answering(PATIENT, |_| Ok(Reply::Done));
    assert_eq!(fixture.ask("PUT", "vm.set-link", r#"{"id":"net0","up":false}"#).status, 204);
    let seen = format!("{:?}", fixture.seen.lock().pop());
    assert!(seen.contains(r#"SetLink { id: "net0", up: false }"#), "{seen}");
    for bad in ["", "{}", r#"{"id":"net0"}"#, r#"{"id":"net0","up":"down"}"#] {
        let response = fixture.ask("PUT", "vm.set-link", bad);
        assert_eq!(response.status, 400, "{bad}");
        assert!(response.body.contains("vm.set-link: "), "{}", response.body);
    }
}

#[test]
fn what_the_driver_refuses_has_the_status_of_its_reason() {
    let refuse = |action: &Action| match action {
        Action::Boot => Err(ControlError::NotCreated),
        Action::Create(_) => Err(ControlError::AlreadyCreated),
        Action::Pause => Err(ControlError::WrongState { action: "pause", state: VmState::Paused }),
        Action::Reboot => Err(ControlError::Failed("out of \"memory\"\n".to_owned())),
        _ => Err(ControlError::Ending),
    };
    let fixture = Fixture::answering(PATIENT, refuse);
    for (path, body, status, message) in [
        ("vm.boot", "", 404, "no virtual machine has been created: send vm.create first"),
        ("vm.create", LEAST, 405, "a virtual machine exists already: delete it first"),
        ("vm.pause", "", 405, "cannot pause a virtual machine that is Paused"),
        ("vm.reboot", "", 500, "out of \"memory\"\n"),
        ("vm.delete", "", 503, "the virtual machine process is ending"),
    ] {
        let response = fixture.ask("PUT", path, body);
        assert_eq!((response.status, response.error().as_str()), (status, message), "{path}");
    }
}

#[test]
fn a_driver_that_has_gone_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let _server = ApiServer::start(&path, Controller::new(Err)).unwrap();
    let mut client = Client(UnixStream::connect(&path).unwrap());
    client.send(request("PUT", "vm.boot", ""));
    assert_eq!(client.response().status, 503);
}

#[test]
fn a_description_reaches_the_driver_checked() {
    let fixture = Fixture::new();
    let body = r#"{"payload":{"kernel":"/k"},"net":[{"tap":"tap0"}],"memory":{"size":134217728}}"#;
    assert_eq!(fixture.ask("PUT", "vm.create", body).status, 204);
    let Some(Action::Create(spec)) = fixture.seen.lock().pop() else { panic!("no description") };
    assert_eq!(spec.memory.bytes, 128 << 20);
    assert_eq!(spec.nets[0].mac[0] & 3, 2, "a made address is local and of one station");
}

#[test]
fn a_bad_description_is_refused_before_the_driver() {
    let fixture = Fixture::new();
    for (body, message) in [
        ("", "no description"),
        ("{", "EOF while parsing"),
        ("[]", "invalid"),
        ("\u{0}", "expected value"),
        (r#"{"payload":{},"colour":1}"#, "unknown field `colour`"),
        (r#"{"payload":{},"watchdog":true}"#, "field `watchdog` is not supported"),
        (r#"{"payload":{}}"#, "no kernel and no firmware"),
        (r#"{"payload":{"kernel":"/k"},"memory":{"size":1}}"#, "at least 64M"),
        (r#"{"payload":{"kernel":"/k"},"memory":{"size":-1}}"#, "expected u64"),
        (r#"{"payload":{"kernel":"/k"}} x"#, "trailing characters"),
    ] {
        let response = fixture.ask("PUT", "vm.create", body);
        assert_eq!(response.status, 400, "{body}");
        let error = response.error();
        assert!(error.starts_with("vm.create: ") && error.contains(message), "{body}: {error}");
    }
    assert!(fixture.seen.lock().is_empty());
}

#[test]
fn requests_for_what_is_not_there_are_refused() {
    let fixture = Fixture::new();
    for path in ["vm.explode", "vm.boot/", "", "../v1/vm.boot", "vm.BOOT"] {
        assert_eq!(fixture.ask("PUT", path, "").status, 404, "{path}");
    }
    for (method, path, allow) in [
        ("GET", "vm.boot", "PUT"),
        ("PUT", "vm.info", "GET"),
        ("DELETE", "vm.delete", "PUT"),
        ("put", "vm.boot", "PUT"),
    ] {
        let response = fixture.ask(method, path, "");
        assert_eq!(response.status, 405, "{method} {path}");
        assert!(response.head.contains(&format!("\r\nAllow: {allow}\r\n")), "{}", response.head);
    }
    let response = fixture.ask("PUT", "vm.boot", "{}");
    assert_eq!((response.status, response.error().as_str()), (400, "this request takes no body"));
    assert!(fixture.seen.lock().is_empty());
}

#[test]
fn other_forms_of_a_path_are_understood() {
    let fixture = Fixture::new();
    for target in ["/api/v1/vm.boot?x=1", "http://localhost/api/v1/vm.boot", "HTTP://h/api/v1/vm.boot?"] {
        let mut client = fixture.connect();
        client.send(format!("PUT {target} HTTP/1.1\r\nhost: h\r\n\r\n"));
        assert_eq!(client.response().status, 204, "{target}");
    }
}

#[test]
fn what_is_not_http_is_answered_and_the_connection_ends() {
    let fixture = Fixture::new();
    let many = format!("PUT /a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
    let long = format!("PUT /a HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(64 << 10));
    let endless = "x".repeat(64 << 10);
    let start = "PUT /api/v1/vm.boot HTTP/1.1\r\nHost: h\r\n";
    let with = |field: &str| format!("{start}{field}\r\n\r\n");
    for (bytes, status) in [
        ("\u{16}\u{3}\u{1}\n".to_owned(), 400),
        ("PUT\r\n\r\n".to_owned(), 400),
        ("PUT /a HTTP/2.0\r\n\r\n".to_owned(), 505),
        ("PUT /a HTTP/1.1\r\n\r\n".to_owned(), 400),
        (with("Host: h"), 400),
        (with("bad header"), 400),
        (with("Content-Length: -1"), 400),
        (with("Content-Length: +1"), 400),
        (with("Content-Length: 1, 1"), 400),
        (with("Content-Length:"), 400),
        (with("Content-Length: 0\r\nContent-Length: 1"), 400),
        (with("Content-Length: 1048577"), 413),
        (with("Content-Length: 99999999999999999999999"), 413),
        (with("Transfer-Encoding: chunked"), 501),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 3"), 501),
        (with("Expect: miracles"), 417),
        (many, 431),
        (long, 431),
        (endless, 431),
    ] {
        let mut client = fixture.connect();
        client.send(&bytes);
        let response = client.response();
        let shown = &bytes[..bytes.len().min(80)];
        assert_eq!(response.status, status, "{shown:?}");
        assert!(response.head.contains("\r\nConnection: close\r\n"), "{shown:?}");
        response.error();
        assert!(client.is_closed(), "{shown:?}");
    }
    assert!(fixture.seen.lock().is_empty());
}

#[test]
fn a_client_that_sends_a_huge_body_can_read_why_it_is_refused() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let body = "x".repeat(4 << 20);
    client.send(request("PUT", "vm.create", &body));
    assert_eq!(client.response().status, 413);
    assert!(client.is_closed());
}

#[test]
fn a_body_of_the_largest_size_is_taken() {
    let fixture = Fixture::new();
    let body = format!("{LEAST}{}", " ".repeat((1 << 20) - LEAST.len()));
    assert_eq!(fixture.ask("PUT", "vm.create", &body).status, 204);
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    for byte in request("PUT", "vm.create", LEAST).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response().status, 204);
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let all = [
        request("PUT", "vm.create", LEAST),
        request("GET", "vmm.ping", ""),
        request("PUT", "vm.nowhere", "some body"),
        request("PUT", "vm.boot", ""),
    ];
    client.send(all.concat());
    let statuses = [(); 4].map(|()| client.response().status);
    assert_eq!(statuses, [204, 200, 404, 204]);
    // And the connection stays open.
    client.send(request("GET", "vmm.ping", ""));
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_connection_ends_when_the_client_wants_it() {
    let fixture = Fixture::new();
    for head in [
        "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n",
        "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: h\r\nConnection: te, close\r\n\r\n",
        "GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n",
    ] {
        let mut client = fixture.connect();
        client.send(head);
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(response.head.contains("\r\nConnection: close\r\n"), "{head}");
        assert!(client.is_closed(), "{head}");
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on_or_not() {
    let fixture = Fixture::new();
    let head = |path: &str, bytes: usize| {
        format!(
            "PUT /api/v1/{path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {bytes}\r\n\r\n"
        )
    };
    let mut client = fixture.connect();
    client.send(head("vm.create", LEAST.len()));
    assert_eq!(client.response().status, 100);
    client.send(LEAST);
    assert_eq!(client.response().status, 204);
    // Sent all the same: no interim response.
    client.send(head("vm.create", LEAST.len()) + LEAST);
    assert_eq!(client.response().status, 204);
    for (path, bytes, status) in [("vm.nowhere", 3, 404), ("vm.info", 3, 405), ("vm.create", 2 << 20, 413)] {
        let mut client = fixture.connect();
        client.send(head(path, bytes));
        assert_eq!(client.response().status, status, "{path}");
        assert!(client.is_closed(), "{path}");
    }
}

#[test]
fn a_request_that_does_not_arrive_in_time_is_given_up() {
    let limits = Limits { request: Duration::from_millis(50), ..PATIENT };
    let fixture = Fixture::answering(limits, |_| Ok(Reply::Done));
    for part in [
        "P",
        "PUT /api/v1/vm.boot HTTP/1.1\r\n",
        "PUT /api/v1/vm.boot HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{",
    ] {
        let mut client = fixture.connect();
        client.send(part);
        assert_eq!(client.response().status, 408, "{part:?}");
        assert!(client.is_closed(), "{part:?}");
    }
    assert!(fixture.seen.lock().is_empty());
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let limits = Limits { idle: Duration::from_millis(50), ..PATIENT };
    let fixture = Fixture::answering(limits, |_| Ok(Reply::Done));
    assert!(fixture.connect().is_closed());
    let mut client = fixture.connect();
    client.send(request("PUT", "vm.boot", ""));
    assert_eq!(client.response().status, 204);
    assert!(client.is_closed());
}

#[test]
fn a_hundred_connections_at_once_are_all_answered() {
    let fixture = Fixture::new();
    let mut clients: Vec<_> = (0..100).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        client.send(request("PUT", "vm.boot", ""));
    }
    // Most of them are not accepted before others have been answered and closed.
    for client in &mut clients {
        assert_eq!(client.response().status, 204);
        let _ = client.0.shutdown(std::net::Shutdown::Both);
    }
    assert_eq!(fixture.seen.lock().len(), 100);
}

#[test]
fn the_end_of_the_server_ends_connections_in_every_state() {
    let mut fixture = Fixture::new();
    let mut idle = fixture.connect();
    idle.send(request("PUT", "vm.boot", ""));
    assert_eq!(idle.response().status, 204);
    let mut halfway = fixture.connect();
    halfway.send("PUT /api/v1/vm.boot HTTP/1.1\r\nHost:");
    let mut lingering = fixture.connect();
    lingering.send("nonsense\r\n\r\n");
    assert_eq!(lingering.response().status, 400);
    // With limits of a minute this returns in time only if nobody waits for them.
    fixture.server = None;
    for client in [&mut idle, &mut halfway, &mut lingering] {
        // Reset if bytes were on their way.
        let end = client.0.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
    }
    assert!(!fixture.path.exists());
}

#[test]
fn the_end_of_the_server_lets_a_response_out_first() {
    let (arrived_sender, arrived) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let (arrived_sender, gone) = (Mutex::new(arrived_sender), Mutex::new(gone));
    let mut fixture = Fixture::answering(PATIENT, move |_| {
        arrived_sender.lock().send(()).unwrap();
        gone.lock().recv().unwrap();
        Ok(Reply::Done)
    });
    let mut client = fixture.connect();
    client.send(request("PUT", "vmm.shutdown", ""));
    arrived.recv().unwrap();
    let server = fixture.server.take();
    let ending = std::thread::Builder::new().spawn(move || drop(server)).unwrap();
    go.send(()).unwrap();
    assert_eq!(client.response().status, 204);
    ending.join().unwrap();
}

#[test]
fn the_socket_is_for_its_user_only() {
    let fixture = Fixture::new();
    let mode = std::fs::metadata(&fixture.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let controller = || Controller::new(Err);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = ApiServer::start(&path, controller()).unwrap();
    let refused = ApiServer::start(&path, controller()).unwrap_err();
    assert!(matches!(refused, SocketError::InUse { .. }), "{refused}");
    // The attempt has not taken the socket from the server.
    UnixStream::connect(&path).unwrap();
    drop(server);
    assert!(!path.exists());
}

#[test]
fn other_files_are_neither_replaced_nor_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    std::fs::write(&path, "precious").unwrap();
    let refused = ApiServer::start(&path, Controller::new(Err)).unwrap_err();
    assert!(matches!(refused, SocketError::NotASocket { .. }), "{refused}");
    std::fs::remove_file(&path).unwrap();
    let server = ApiServer::start(&path, Controller::new(Err)).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(server);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_place_where_no_socket_can_be_is_refused_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("absent/api.sock"), directory.path().join("x".repeat(200))] {
        let refused = ApiServer::start(&path, Controller::new(Err)).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("API socket {}: cannot ", path.display())), "{refused}");
    }
}
