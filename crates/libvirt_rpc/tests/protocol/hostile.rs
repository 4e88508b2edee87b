//! Clients that break the rules, stop reading, or ask for too much: they hurt nobody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libvirt_rpc::client::ClientError;
use libvirt_rpc::events::DomainEventLifecycle;
use libvirt_rpc::frame::{
    FrameStatus, FrameType, HEAD_BYTES, Header, KEEPALIVE_PING, KEEPALIVE_PONG, PROGRAM_VERSION,
    REMOTE_PROGRAM, data_frame, value_frame,
};
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::Limits;
use libvirt_rpc::xdr::{Reader, Xdr};
use libvirt_rpc::{Call, ErrorCode, Event, RpcError};

use crate::service::{Fixture, domain, eventually};

/// A socket without manners.
struct Raw(UnixStream);

impl Raw {
    fn new(fixture: &Fixture) -> Self {
        let socket = UnixStream::connect(fixture.socket()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(socket)
    }

    fn opened(fixture: &Fixture) -> Self {
        let mut raw = Self::new(fixture);
        raw.call(1, &ConnectOpen { name: None, flags: 0 });
        assert_eq!(raw.reply().0.status, FrameStatus::Ok);
        raw
    }

    fn call<C: Call>(&mut self, serial: u32, call: &C) {
        let header = Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure: C::PROCEDURE.number(),
            kind: FrameType::Call,
            serial,
            status: FrameStatus::Ok,
        };
        self.0.write_all(&value_frame(header, call).unwrap()).unwrap();
    }

    fn reply(&mut self) -> (Header, Vec<u8>) {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.0.read_exact(&mut frame).unwrap();
        (Header::decode(&mut Reader::new(&frame)).unwrap(), frame.split_off(HEAD_BYTES - 4))
    }

    fn error(&mut self) -> RpcError {
        let (header, body) = self.reply();
        assert_eq!((header.kind, header.status), (FrameType::Reply, FrameStatus::Error));
        RpcError::from_bytes(&body).unwrap()
    }

    fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

fn header(program: u32, version: u32, procedure: u32) -> Header {
    Header { program, version, procedure, kind: FrameType::Call, serial: 9, status: FrameStatus::Ok }
}

#[test]
fn wrong_numbers_get_errors_and_the_connection_goes_on() {
    let fixture = Fixture::new();
    let mut raw = Raw::opened(&fixture);
    for (header, message) in [
        (header(REMOTE_PROGRAM, 1, 9999), "unknown procedure: 9999"),
        (header(REMOTE_PROGRAM, 1, u32::MAX), "unknown procedure: 4294967295"),
        (header(0x2000_8087, 1, 77), "unknown procedure: 77"),
        (header(REMOTE_PROGRAM, 2, 1), "Cannot find program 536903814 version 2"),
        (header(5, 1, 1), "Cannot find program 5 version 1"),
        (
            Header { status: FrameStatus::Continue, ..header(REMOTE_PROGRAM, 1, 59) },
            "Unexpected message status 2",
        ),
    ] {
        raw.0.write_all(&data_frame(header, &[])).unwrap();
        let error = raw.error();
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::Rpc, message));
    }
    // Arguments that are none: a lookup whose name is longer than the packet.
    raw.0.write_all(&data_frame(header(REMOTE_PROGRAM, 1, 23), &[0, 0, 1, 0, b'x'])).unwrap();
    assert!(raw.error().message.starts_with("Unable to decode message payload"));
    // Frames that nobody answers.
    for kind in [FrameType::Reply, FrameType::Message, FrameType::Stream, FrameType::StreamHole] {
        raw.0.write_all(&data_frame(Header { kind, ..header(REMOTE_PROGRAM, 1, 59) }, &[1, 2, 3])).unwrap();
    }
    // Descriptors are not taken: each has a byte behind the frame.
    let with = Header { kind: FrameType::CallWithDescriptors, ..header(REMOTE_PROGRAM, 1, 59) };
    raw.0.write_all(&data_frame(with, &[0, 0, 0, 2])).unwrap();
    raw.0.write_all(&[0, 0]).unwrap();
    assert_eq!(raw.error().code, ErrorCode::NoSupport);
    raw.call(10, &ConnectGetHostname {});
    let (header, body) = raw.reply();
    assert_eq!((header.serial, header.status), (10, FrameStatus::Ok));
    assert_eq!(ConnectGetHostnameReply::from_bytes(&body).unwrap().hostname, "here");
}

#[test]
fn garbage_closes_the_connection_that_it_came_from_and_no_other() {
    let fixture = Fixture::new();
    let mut good = fixture.connect();
    let mut lies = [0xff; 40];
    lies[..4].copy_from_slice(&40u32.to_be_bytes());
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"[..],
        &[0; 64],
        &[0, 0, 0, 8, 1, 2, 3, 4],
        &lies,
        // Before a connection is opened, large frames are refused.
        &1_000_000u32.to_be_bytes(),
    ] {
        let mut raw = Raw::new(&fixture);
        raw.0.write_all(garbage).unwrap();
        raw.assert_closed();
        assert!(good.call(&ConnectGetHostname {}).is_ok());
    }
    let mut half = Raw::new(&fixture);
    half.0.write_all(&[0, 0, 0, 28, 0x20]).unwrap();
    half.0.shutdown(std::net::Shutdown::Write).unwrap();
    half.assert_closed();
}

#[test]
fn nothing_works_before_the_connection_is_open() {
    let fixture = Fixture::new();
    let mut raw = Raw::new(&fixture);
    raw.call(0, &AuthList {});
    assert_eq!(raw.reply().1, [0, 0, 0, 1, 0, 0, 0, 0]);
    raw.call(1, &ConnectGetHostname {});
    assert_eq!(raw.error().message, "internal error: connection not open");
    raw.call(2, &ConnectOpen { name: None, flags: 64 });
    assert_eq!(raw.error().code, ErrorCode::InvalidArgument);
    raw.call(3, &ConnectOpen { name: None, flags: 0 });
    assert_eq!(raw.reply().0.status, FrameStatus::Ok);
    raw.call(4, &ConnectOpen { name: None, flags: 0 });
    assert_eq!(raw.error().message, "internal error: connection already open");
}

#[test]
fn a_client_that_never_opens_a_connection_is_closed() {
    let limits = Limits { handshake: Duration::from_millis(50), ..Default::default() };
    let fixture = Fixture::with(limits, &[]);
    Raw::new(&fixture).assert_closed();
}

#[test]
fn calls_of_one_client_run_beside_each_other_up_to_the_limit() {
    let fixture = Fixture::new();
    let mut raw = Raw::opened(&fixture);
    for serial in 10..20 {
        raw.call(serial, &DomainSuspend { dom: domain("alpha") });
    }
    eventually("five calls wait", || fixture.memory.waiting.load(Ordering::SeqCst) == 5);
    let mut other = fixture.connect();
    assert!(other.call(&ConnectGetHostname {}).is_ok(), "others are served");
    assert_eq!(fixture.memory.waiting.load(Ordering::SeqCst), 5, "and no sixth call was read");
    fixture.memory.gate.add_permits(10);
    let mut serials: Vec<u32> = (10..20).map(|_| raw.reply().0.serial).collect();
    serials.sort_unstable();
    assert_eq!(serials, (10..20).collect::<Vec<_>>());
}

#[test]
fn keepalive_is_answered_during_a_long_call_and_silence_closes() {
    let limits =
        Limits { keepalive_interval: Duration::from_millis(100), keepalive_count: 2, ..Default::default() };
    let fixture = Fixture::with(limits, &[("alpha", 1)]);
    let mut raw = Raw::opened(&fixture);
    raw.call(5, &DomainSuspend { dom: domain("alpha") });
    raw.0.write_all(&data_frame(Header::keepalive(KEEPALIVE_PING), &[])).unwrap();
    let (header, body) = raw.reply();
    assert_eq!((header, body.len()), (Header::keepalive(KEEPALIVE_PONG), 0));
    // The server asks only those that said that they know how to answer.
    raw.call(6, &ConnectSupportsFeature { feature: 10 });
    assert_eq!(raw.reply().1, [0, 0, 0, 1]);
    for _ in 0..2 {
        assert_eq!(raw.reply().0, Header::keepalive(KEEPALIVE_PING));
    }
    raw.assert_closed();
}

#[test]
fn a_client_that_does_not_read_is_closed_and_blocks_no_event() {
    let limits = Limits { unsent_bytes: 1 << 20, ..Default::default() };
    let fixture = Fixture::with(limits, &[("alpha", 1)]);
    let mut deaf = Raw::opened(&fixture);
    deaf.call(3, &ConnectDomainEventCallbackRegisterAny { event_id: 0, dom: None });
    let mut good = fixture.connect();
    good.call(&ConnectDomainEventCallbackRegisterAny { event_id: 0, dom: None }).unwrap();
    eventually("both are registered", || fixture.memory.subscribed() == 2);
    let start = Instant::now();
    let mut seen = 0;
    while fixture.memory.subscribed() == 2 {
        assert!(start.elapsed() < Duration::from_secs(30), "the deaf client lives on");
        fixture.memory.lifecycle("alpha", 3, 0);
        let message = good.next_event(Duration::from_secs(20)).unwrap().unwrap();
        assert_eq!(message.number, DomainEventLifecycle::NUMBER);
        seen += 1;
    }
    assert!(seen > 1000);
    assert!(good.call(&ConnectGetHostname {}).is_ok());
}

#[test]
fn a_client_that_takes_no_answers_is_closed_after_a_while() {
    let limits = Limits { stall: Duration::from_millis(200), ..Default::default() };
    let fixture = Fixture::with(limits, &[("alpha", 1)]);
    let mut raw = Raw::opened(&fixture);
    raw.0.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let lookup = value_frame(header(REMOTE_PROGRAM, 1, 23), &DomainLookupByName { name: "n".repeat(2000) });
    let lookup = lookup.unwrap().repeat(100);
    // A million requests and no wish for an answer: the server stops reading, then closes.
    let end = loop {
        if let Err(error) = raw.0.write_all(&lookup) {
            break error;
        }
    };
    assert!(
        matches!(end.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset),
        "{end}"
    );
    eventually("the service hears of it", || fixture.memory.closed.load(Ordering::SeqCst) == 1);
}

#[test]
fn too_many_clients_are_turned_away() {
    let fixture = Fixture::with(Limits { clients: 2, ..Default::default() }, &[]);
    let first = fixture.connect();
    let _second = fixture.connect();
    let mut third = Raw::new(&fixture);
    third.assert_closed();
    drop(first);
    eventually("the place is free again", || {
        libvirt_rpc::client::Connection::open(&fixture.uri(), false).is_ok()
    });
}

#[test]
fn a_shutdown_answers_calls_in_flight_and_closes() {
    let mut fixture = Fixture::new();
    let mut raw = Raw::opened(&fixture);
    let mut idle = fixture.connect();
    raw.call(5, &DomainSuspend { dom: domain("alpha") });
    eventually("the call waits", || fixture.memory.waiting.load(Ordering::SeqCst) == 1);
    let server = fixture.server.take().unwrap();
    let ending = fixture.runtime.spawn(server.shut_down(Duration::from_secs(20)));
    assert!(matches!(
        idle.next_event(Duration::from_secs(20)),
        Err(ClientError::Closed | ClientError::Socket(_))
    ));
    fixture.memory.gate.add_permits(1);
    assert_eq!(raw.reply().0.serial, 5);
    raw.assert_closed();
    fixture.runtime.block_on(ending).unwrap();
}

#[test]
fn a_shutdown_does_not_wait_for_ever() {
    let mut fixture = Fixture::new();
    let mut raw = Raw::opened(&fixture);
    raw.call(5, &DomainSuspend { dom: domain("alpha") });
    eventually("the call waits", || fixture.memory.waiting.load(Ordering::SeqCst) == 1);
    let server = fixture.server.take().unwrap();
    fixture.runtime.block_on(server.shut_down(Duration::from_millis(50)));
    raw.assert_closed();
}
