//! Real clients: virsh, libvirt-python, and our own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use libvirt_rpc::client::{ClientError, Connection, Keepalive};
use libvirt_rpc::events::DomainEventLifecycle;
use libvirt_rpc::procedures::*;
use libvirt_rpc::{ErrorCode, ErrorDomain};

use crate::service::{Fixture, domain, eventually};

/// virsh with the words of `line`; none when it is not installed.
fn virsh(fixture: &Fixture, line: &str) -> Option<Output> {
    let output =
        Command::new("virsh").args(["-c", &fixture.uri()]).args(line.split(' ')).env("LC_ALL", "C").output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: virsh (package libvirt-clients) can't be run: {error}");
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// What virsh prints for `line`, which has to succeed.
#[track_caller]
fn good(fixture: &Fixture, line: &str) -> Option<String> {
    let output = virsh(fixture, line)?;
    assert!(output.status.success(), "{line}: {}", format_args!("{output:?}"));
    Some(text(&output.stdout))
}

#[test]
fn virsh_learns_what_the_host_is() {
    let fixture = Fixture::new();
    let Some(uri) = good(&fixture, "uri") else { return };
    assert_eq!(uri, fixture.uri());
    assert_eq!(good(&fixture, "hostname").unwrap(), "here");
    let version = good(&fixture, "version").unwrap();
    assert!(version.contains("Using API: QEMU 8.2.0") || version.contains("Using API: QEMU"), "{version}");
    assert!(version.contains("Running hypervisor: QEMU 8.2.0"), "{version}");
    let info = good(&fixture, "nodeinfo").unwrap();
    assert!(info.contains("x86_64") && info.contains("2400 MHz"), "{info}");
}

#[test]
fn virsh_lists_domains() {
    let fixture = Fixture::new();
    let Some(list) = good(&fixture, "list --all") else { return };
    let lines: Vec<Vec<&str>> = list.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [vec!["1", "alpha", "running"], vec!["-", "beta", "shut", "off"]]);
    let empty = Fixture::with(libvirt_rpc::server::Limits::default(), &[]);
    assert_eq!(good(&empty, "list --all").unwrap().lines().count(), 2);
}

#[test]
fn virsh_shows_errors_with_their_message() {
    let fixture = Fixture::new();
    let Some(output) = virsh(&fixture, "domstate nobody") else { return };
    assert!(!output.status.success());
    // virsh has its own words for this one; others are the server's.
    assert_eq!(text(&output.stderr), "error: failed to get domain 'nobody'");
    let output = virsh(&fixture, "vol-list nowhere").unwrap();
    let message = "error: Storage pool not found: no storage pool with matching name 'nowhere'";
    assert!(text(&output.stderr).ends_with(message), "{output:?}");
    // Known to the protocol, not to this service.
    let output = virsh(&fixture, "managedsave alpha").unwrap();
    assert!(
        text(&output.stderr)
            .contains("this function is not supported by the connection driver: virDomainManagedSave"),
        "{}",
        text(&output.stderr)
    );
    // Not known to this crate at all: clients take it for the same.
    let output = virsh(&fixture, "domdirtyrate-calc alpha").unwrap();
    assert!(
        text(&output.stderr).contains("not supported by the connection driver: virDomainStartDirtyRateCalc"),
        "{}",
        format_args!("{output:?}")
    );
}

#[test]
fn virsh_keeps_alive_and_sees_an_event() {
    let limits =
        libvirt_rpc::server::Limits { keepalive_interval: Duration::from_secs(1), ..Default::default() };
    let fixture = Fixture::with(limits, &[("alpha", 1)]);
    let spawned = Command::new("virsh")
        .args(["-k1", "-K3", "-c", &fixture.uri(), "event", "--event", "lifecycle", "--timeout", "20"])
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("skipped: virsh (package libvirt-clients) can't be run");
        return;
    };
    eventually("virsh registers", || fixture.memory.subscribed() == 1);
    // Both sides ask each other within this time, and both have to answer.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(fixture.memory.subscribed(), 1, "the connection lives");
    fixture.memory.lifecycle("alpha", 2, 0);
    let mut line = String::new();
    // Kept open to its end: virsh has more to say, and fails when nobody listens.
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "event 'lifecycle' for domain 'alpha': Started Booted");
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
    eventually("the server sees it go", || fixture.memory.subscribed() == 0);
}

#[test]
fn virsh_moves_a_volume_there_and_back() {
    let fixture = Fixture::new();
    let from = fixture.directory().join("from");
    let to = fixture.directory().join("to");
    let bytes: Vec<u8> = (0..5_000_003u32).map(|index| index.to_le_bytes()[index as usize % 3]).collect();
    std::fs::write(&from, &bytes).unwrap();
    let Some(_) = good(&fixture, &format!("vol-upload --pool default disk {}", from.display())) else {
        return;
    };
    assert!(*fixture.memory.volume.lock().unwrap() == bytes, "what was uploaded is there");
    good(&fixture, &format!("vol-download --pool default disk {}", to.display()));
    assert!(std::fs::read(&to).unwrap() == bytes, "what is downloaded is the same");

    // With holes: a file with data at both ends.
    let mut sparse = vec![0; 9 << 20];
    sparse[..4].copy_from_slice(b"head");
    sparse[(9 << 20) - 4..].copy_from_slice(b"tail");
    fixture.memory.volume.lock().unwrap().clone_from(&sparse);
    good(&fixture, &format!("vol-download --sparse --pool default disk {}", to.display()));
    assert!(std::fs::read(&to).unwrap() == sparse);
    fixture.memory.volume.lock().unwrap().clear();
    good(&fixture, &format!("vol-upload --sparse --pool default disk {}", to.display()));
    assert!(*fixture.memory.volume.lock().unwrap() == sparse);
    let output = virsh(&fixture, "vol-download --pool nowhere disk /dev/null").unwrap();
    assert!(text(&output.stderr).contains("Storage pool not found"), "{}", format_args!("{output:?}"));
}

#[test]
fn python_finds_domains_and_codes_of_errors() {
    let fixture = Fixture::new();
    let program = r#"
import sys
try:
    import libvirt
except ImportError:
    sys.exit(77)
c = libvirt.open(sys.argv[1])
print(sorted(d.name() for d in c.listAllDomains()), c.getHostname(), c.getInfo()[0:2])
try:
    c.lookupByName('nobody')
except libvirt.libvirtError as e:
    print(e.get_error_code(), e.get_error_domain(), e)
s = c.newStream()
c.lookupByName('alpha').openConsole(None, s, 0)
s.send(b'hello')
print(s.recv(100))
s.finish()
c.close()
"#;
    let output = Command::new("/usr/bin/python3").args(["-c", program, &fixture.uri()]).output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no /usr/bin/python3");
        return;
    };
    if output.status.code() == Some(77) {
        eprintln!("skipped: python3-libvirt is not installed");
        return;
    }
    let lines = text(&output.stdout);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(
        lines,
        [
            "['alpha', 'beta'] here ['x86_64', 4]",
            "42 10 Domain not found: no domain with matching name 'nobody'",
            "b'hello'",
        ],
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn our_own_client_calls_and_keeps_code_and_message_of_errors() {
    let fixture = Fixture::new();
    let mut connection = fixture.connect();
    assert_eq!(connection.uri().unwrap(), "qemu:///system");
    assert_eq!(connection.call(&NodeGetInfo {}).unwrap().model.text(), "x86_64");
    let Err(ClientError::Daemon(error)) = connection.call(&DomainLookupByName { name: "x".into() }) else {
        panic!("found")
    };
    assert_eq!((error.code, error.domain), (ErrorCode::NoDomain, ErrorDomain::Qemu));
    assert_eq!(error.message, "Domain not found: no domain with matching name 'x'");
    connection.close().unwrap();
    eventually("the service hears of the end", || {
        fixture.memory.closed.load(std::sync::atomic::Ordering::SeqCst) == 1
    });
    let refused = Connection::open_socket(&fixture.socket(), Some("xen:///system"), false);
    assert!(matches!(refused, Err(ClientError::Daemon(_))));
    assert!(matches!(
        Connection::open("qemu:///system?socket=/nonexistent/sock", false),
        Err(ClientError::Connect { .. })
    ));
}

#[test]
fn read_only_connections_change_nothing() {
    let fixture = Fixture::new();
    let by_socket = Connection::open_socket(&fixture.read_only_socket(), None, false).unwrap();
    let by_flag = Connection::open_socket(&fixture.socket(), None, true).unwrap();
    for mut connection in [by_socket, by_flag] {
        assert_eq!(connection.call(&ConnectGetHostname {}).unwrap().hostname, "here");
        let Err(ClientError::Daemon(error)) = connection.call(&DomainSuspend { dom: domain("alpha") }) else {
            panic!("allowed")
        };
        assert_eq!(error.code, ErrorCode::OperationDenied);
        assert_eq!(error.message, "operation forbidden: read only access prevents virDomainSuspend");
        let xml = |flags| DomainGetXmlDesc { dom: domain("alpha"), flags };
        assert!(connection.call(&xml(2)).is_ok());
        assert!(connection.call(&xml(1)).is_err(), "secure XML");
    }
}

#[test]
fn our_own_client_gets_events_while_it_calls() {
    let fixture = Fixture::new();
    let mut connection = fixture.connect();
    assert!(
        connection.keep_alive(Keepalive { interval: Duration::from_secs(1), count: 3 }).unwrap(),
        "the server knows keepalive"
    );
    connection.call(&ConnectDomainEventCallbackRegisterAny { event_id: 0, dom: None }).unwrap();
    assert_eq!(connection.next_event(Duration::from_millis(10)).unwrap(), None);
    fixture.memory.lifecycle("alpha", 5, 1);
    connection.call(&ConnectGetHostname {}).unwrap();
    let message = connection.next_event(Duration::from_secs(20)).unwrap().unwrap();
    let event = message.event::<DomainEventLifecycle>().unwrap().unwrap();
    assert_eq!((event.callback_id, event.event, event.detail, event.dom.name.as_str()), (7, 5, 1, "alpha"));
}
