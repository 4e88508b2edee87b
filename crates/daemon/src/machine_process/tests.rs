//! Processes that behave, and processes that do not.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{
    Cause, ControlClient, ControlError, Ending, EventTail, LaunchError, MachineEvent, MachineProcess, launch,
};

/// A program that stands in for `vireo-vmm`: the shell, with the files of the machine in `$events` and `$api`.
fn program(directory: &Path, script: &str) -> PathBuf {
    // Written by another process: a file that is open for writing while some other test forks can't be executed.
    let (source, path) = (directory.join("source"), directory.join("program"));
    std::fs::write(&source, format!("#!/bin/sh\napi=$2 events=$4\n{script}\n")).unwrap();
    let installed = std::process::Command::new("install").args(["-m", "755"]).arg(source).arg(&path).status();
    assert!(installed.unwrap().success());
    path
}

const STARTING: &str = r#"echo '{"source":"vmm","event":"starting"}' >> "$events""#;

#[tokio::test]
async fn a_process_is_started_found_again_and_ended() {
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &format!("{STARTING}\nexec sleep 600"));
    let place = directory.path().join("machine");
    let process = launch(&program, &place, Vec::new()).await.unwrap();
    let same = MachineProcess::find(&place, process.identity().clone()).unwrap().unwrap();
    assert_eq!(same.events().unwrap().next().await.unwrap(), MachineEvent::Starting);
    process.terminate().unwrap();
    assert_eq!(process.ended().await, Ending::Killed(15));
    assert_eq!(same.ended().await, Ending::Killed(15));
    process.kill().unwrap();
    let identity = process.identity().clone();
    drop(process);
    assert!(MachineProcess::find(&place, identity).unwrap().is_none());
}

#[tokio::test]
async fn a_process_gets_the_descriptors_that_are_meant_for_it_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &format!("{STARTING}\nexec sleep 600"));
    let file = |name: &str| {
        let path = directory.path().join(name);
        (std::fs::File::create_new(&path).unwrap(), path)
    };
    let (own, _) = file("own");
    let meant = [file("one"), file("two")];
    let wanted = meant.each_ref().map(|(file, path)| (file.as_raw_fd(), path.clone()));
    let handed = meant.map(|(file, _)| file.into()).into();
    let process = launch(&program, &directory.path().join("machine"), handed).await.unwrap();
    let end = |number: i32| std::fs::read_link(format!("/proc/{}/fd/{number}", process.identity().pid)).ok();
    for (number, path) in wanted {
        assert_eq!(end(number).as_ref(), Some(&path));
        let here = std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
        assert_ne!(here, Some(path), "it is the other process's");
    }
    assert_eq!(end(own.as_raw_fd()), None);
    process.kill().unwrap();
    process.ended().await;
}

#[tokio::test]
async fn another_process_with_the_number_is_not_taken_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &format!("{STARTING}\nexec sleep 600"));
    let process = launch(&program, &directory.path().join("machine"), Vec::new()).await.unwrap();
    let right = process.identity().clone();
    for wrong in [
        super::ProcessIdentity { started: right.started + 1, ..right.clone() },
        super::ProcessIdentity { boot: "another".into(), ..right.clone() },
        super::ProcessIdentity { pid: 0, ..right.clone() },
        super::ProcessIdentity { pid: -1, ..right.clone() },
    ] {
        assert!(MachineProcess::find(directory.path(), wrong).unwrap().is_none());
    }
    process.kill().unwrap();
    process.ended().await;
}

#[tokio::test]
async fn a_process_that_ends_at_once_is_quoted_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), "echo 'cannot open /dev/kvm:' >&2; echo 'try again' >&2; exit 2");
    let place = directory.path().join("machine");
    let error = launch(&program, &place, Vec::new()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Ended { ending: Ending::Exited(2), .. }), "{error}");
    assert!(error.to_string().ends_with("cannot open /dev/kvm: try again"), "{error}");
    assert!(!place.exists());
    let error = launch(&directory.path().join("nothing"), &place, Vec::new()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Host { operation: "find the machine's program", .. }), "{error}");
}

#[tokio::test]
async fn events_are_read_as_they_come_and_after_the_file_began_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events");
    let mut file = std::fs::File::options().append(true).create(true).open(&path).unwrap();
    let mut tail = EventTail::open(&path).unwrap();
    assert_eq!(tail.available().unwrap(), None);
    let crash = json!({ "source": "vm", "event": "crashed", "properties": { "report": "triple fault" } });
    let reboot = json!({ "source": "vm", "event": "rebooted", "properties": { "cause": "guest" } });
    write!(file, "rubbish\n{{\"source\":\"vm\",\"event\":").unwrap();
    assert_eq!(tail.next().await.unwrap(), MachineEvent::Other);
    assert_eq!(tail.available().unwrap(), None);
    let writer = tokio::task::spawn_blocking(move || {
        write!(file, "\"booted\"}}\n{crash}\n").unwrap();
        file
    });
    assert_eq!(tail.next().await.unwrap(), MachineEvent::Booted);
    assert_eq!(tail.next().await.unwrap(), MachineEvent::Crashed { report: "triple fault".into() });
    let mut file = writer.await.unwrap();
    file.set_len(0).unwrap();
    writeln!(file, "{reboot}").unwrap();
    assert_eq!(tail.next().await.unwrap(), MachineEvent::Rebooted(Cause::Guest));
}

/// Answers one request with `answer`; returns what was asked.
async fn asked(answer: &'static [u8], client: impl AsyncFnOnce(ControlClient)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("api")).unwrap();
    let server = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let count = stream.read(&mut request).unwrap();
        stream.write_all(answer).unwrap();
        String::from_utf8(request[..count].to_vec()).unwrap()
    });
    client(ControlClient::new(directory.path().join("api"))).await;
    server.await.unwrap()
}

#[tokio::test]
async fn requests_are_asked_and_answers_understood() {
    let request =
        asked(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"state\":\"Paused\"}", async |client| {
            assert_eq!(client.get("vm.info").await.unwrap()["state"], "Paused");
        });
    assert!(request.await.starts_with("GET /api/v1/vm.info HTTP/1.1\r\n"));
    let body = json!({ "a": 1 });
    let request = asked(b"HTTP/1.1 204 No Content\r\n\r\n", async |client| {
        client.put("vm.create", Some(&body)).await.unwrap();
    });
    assert!(request.await.ends_with("Content-Length: 7\r\n\r\n{\"a\":1}"));
    asked(b"HTTP/1.1 405 No\r\ncontent-length: 9\r\n\r\n[\"a\",\"b\"]", async |client| {
        let ControlError::Refused { status, message, .. } = client.get("vm.info").await.unwrap_err() else {
            panic!("not refused")
        };
        assert_eq!((status, message.as_str()), (405, "a: b"));
    })
    .await;
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"\0\0\0\0",
        b"",
    ] {
        asked(answer, async |client| {
            let error = client.get("vm.info").await.unwrap_err();
            assert!(matches!(error, ControlError::Gone { .. }), "{error}");
        })
        .await;
    }
    let directory = tempfile::tempdir().unwrap();
    let error = ControlClient::new(directory.path().join("api")).get("vm.info").await.unwrap_err();
    assert!(matches!(error, ControlError::Gone { .. }), "{error}");
}
