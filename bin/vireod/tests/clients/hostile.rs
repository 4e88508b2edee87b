//! Clients that do what they must not: the others are served.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libvirt_rpc::Call;
use libvirt_rpc::frame::{FrameStatus, FrameType, Header, PROGRAM_VERSION, value_frame};
use libvirt_rpc::procedures::{AuthList, ConnectGetHostname, ConnectOpen};

use super::*;

/// Longest that anybody may wait for an answer while others misbehave, on a slow machine that does other things.
const PATIENCE: Duration = Duration::from_secs(10);

fn frame<C: Call>(call: &C, serial: u32) -> Vec<u8> {
    let header = Header {
        program: C::PROCEDURE.program(),
        version: PROGRAM_VERSION,
        procedure: C::PROCEDURE.number(),
        kind: FrameType::Call,
        serial,
        status: FrameStatus::Ok,
    };
    value_frame(header, call).unwrap()
}

/// Is served as if nobody else was there.
fn is_served(place: &Place) {
    let begun = Instant::now();
    let mut connection = place.connect();
    for _ in 0..20 {
        connection.call(&ConnectGetHostname {}).unwrap();
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

/// Memory of the daemon, bytes.
fn resident(vireod: &Vireod) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vireod.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn half_frames_and_garbage_hurt_nobody_else() {
    let place = Place::new();
    let vireod = place.start();
    let open = frame(&AuthList {}, 0);
    let mut held = Vec::new();
    for length in 0..open.len() {
        let mut socket = UnixStream::connect(place.socket()).unwrap();
        socket.write_all(&open[..length]).unwrap();
        held.push(socket);
    }
    let mut state = 9u64;
    for _ in 0..200 {
        let mut socket = UnixStream::connect(place.socket()).unwrap();
        let mut garbage = vec![0; 4096];
        for byte in &mut garbage {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        // The daemon may close the connection before all of it is written.
        let _ = socket.write_all(&garbage);
        held.push(socket);
    }
    // The largest length that there is, and one that is too short for a head.
    for length in [u32::MAX, 33_554_436, 3, 27] {
        let mut socket = UnixStream::connect(place.socket()).unwrap();
        socket.write_all(&length.to_be_bytes()).unwrap();
        held.push(socket);
    }
    is_served(&place);
    place.ok(&["hostname"]);
    assert!(resident(&vireod) < 200 << 20, "{} bytes", resident(&vireod));
    drop(held);
    is_served(&place);
}

#[test]
fn a_million_requests_without_reading_an_answer_are_not_taken() {
    let place = Place::new();
    let vireod = place.start();
    let mut socket = UnixStream::connect(place.socket()).unwrap();
    socket.write_all(&frame(&AuthList {}, 0)).unwrap();
    socket.write_all(&frame(&ConnectOpen { name: None, flags: 0 }, 1)).unwrap();
    let requests: Vec<u8> = (2..1002).flat_map(|serial| frame(&ConnectGetHostname {}, serial)).collect();
    // The daemon stops to read when nobody takes its answers.
    socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut written = 0u64;
    let stopped = (0..1000).any(|_| match socket.write(&requests) {
        Ok(bytes) => {
            written += bytes as u64;
            false
        }
        Err(error) => {
            let kinds = [
                ErrorKind::WouldBlock,
                ErrorKind::TimedOut,
                ErrorKind::BrokenPipe,
                ErrorKind::ConnectionReset,
            ];
            assert!(kinds.contains(&error.kind()), "{error}");
            true
        }
    });
    assert!(stopped, "a million requests were taken");
    is_served(&place);
    assert!(resident(&vireod) < 100 << 20, "{} bytes after {written}", resident(&vireod));
}

#[test]
fn a_client_beyond_the_limit_is_closed_and_the_others_go_on() {
    let place = Place::new();
    let _vireod = place.start();
    // Of this process' own: each connection is a descriptor.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < 2000) {
        eprintln!("skipped: this process may not open 2,000 files");
        return;
    }
    let raised = rustix::process::Rlimit { current: Some(limit.maximum.unwrap_or(4096).min(4096)), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut first = place.connect();
    let mut many = Vec::new();
    for _ in 0..1100 {
        many.push(UnixStream::connect(place.socket()).unwrap());
    }
    assert!(first.call(&ConnectGetHostname {}).is_ok(), "who was there before is served");
    // The last ones are closed at once: one was accepted before them all is known.
    let last = many.last_mut().unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(last.read(&mut [0; 1]).unwrap(), 0);
    let read_only = virsh(&place.uri(&place.read_only_socket()), &["hostname"]);
    assert!(read_only.status.success(), "the other socket has room of its own: {read_only:?}");
    drop(many);
    let begun = Instant::now();
    while Connection::open_socket(&place.socket(), None, false).is_err() {
        assert!(begun.elapsed() < PATIENCE, "there is no room again");
    }
    is_served(&place);
}

#[test]
fn one_client_s_storage_work_keeps_nobody_waiting() {
    let place = Place::new();
    let _vireod = place.start();
    place.pool("p");
    place.ok(&["vol-create-as", "p", "v", "64M"]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            place.ok(&["vol-wipe", "v", "p"]);
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            is_served(&place);
        }
    });
}
