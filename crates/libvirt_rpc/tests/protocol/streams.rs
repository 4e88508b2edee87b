//! Streams over our own client: both ways, holes, ends of every kind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use libvirt_rpc::client::{ClientError, Input};
use libvirt_rpc::procedures::*;

use crate::service::{Fixture, domain, eventually, test_volume};

fn download(flags: u32) -> StorageVolDownload {
    StorageVolDownload { vol: test_volume(), offset: 0, length: 0, flags }
}

fn upload() -> StorageVolUpload {
    StorageVolUpload { vol: test_volume(), offset: 0, length: 0, flags: 1 }
}

#[test]
fn a_volume_goes_up_and_comes_down_with_holes() {
    let fixture = Fixture::new();
    let mut connection = fixture.connect();
    let ((), mut stream) = connection.open_stream(&upload()).unwrap();
    stream.send(&vec![7; 700_000]).unwrap();
    stream.send_hole(5 << 20).unwrap();
    stream.send(b"end").unwrap();
    stream.finish().unwrap();
    let volume = fixture.memory.volume.lock().unwrap().clone();
    assert_eq!(volume.len(), 700_000 + (5 << 20) + 3);
    assert!(volume.ends_with(b"\0end"));

    let ((), mut stream) = connection.open_stream(&download(1)).unwrap();
    let (mut got, mut holes) = (Vec::new(), 0);
    loop {
        match stream.receive(None).unwrap() {
            Input::Data(data) => got.extend_from_slice(&data),
            Input::Hole(length) => {
                holes += 1;
                got.resize(got.len() + usize::try_from(length).unwrap(), 0);
            }
            Input::End => break,
            Input::Nothing => panic!("without a timeout"),
        }
    }
    stream.finish().unwrap();
    assert!(got == volume);
    assert!(holes > 0);
    assert_eq!(connection.call(&ConnectGetHostname {}).unwrap().hostname, "here", "the connection goes on");
}

#[test]
fn a_console_echoes_and_ends() {
    let fixture = Fixture::new();
    let mut connection = fixture.connect();
    let call = DomainOpenConsole { dom: domain("alpha"), dev_name: None, flags: 0 };
    let ((), mut stream) = connection.open_stream(&call).unwrap();
    assert_eq!(stream.receive(Some(Duration::from_millis(5))).unwrap(), Input::Nothing);
    stream.send(b"hello").unwrap();
    assert_eq!(stream.receive(None).unwrap(), Input::Data(b"hello".to_vec()));
    stream.finish().unwrap();
}

#[test]
fn the_daemons_failure_reaches_the_client() {
    let fixture = Fixture::new();
    let mut connection = fixture.connect();
    let ((), mut stream) = connection.open_stream(&upload()).unwrap();
    stream.send_hole(1 << 40).unwrap();
    let Err(ClientError::Daemon(error)) = stream.receive(None) else { panic!("no error") };
    assert_eq!(error.message, "operation failed: no space left");
    drop(stream);
    assert!(connection.call(&ConnectGetHostname {}).is_ok());
}

#[test]
fn aborted_streams_and_lost_clients_end_the_daemons_side() {
    let fixture = Fixture::new();
    *fixture.memory.volume.lock().unwrap() = vec![1; 64 << 20];
    let mut connection = fixture.connect();
    let ((), mut stream) = connection.open_stream(&download(0)).unwrap();
    assert!(matches!(stream.receive(None).unwrap(), Input::Data(_)));
    stream.abort().unwrap();
    eventually("the download ends", || fixture.memory.broken_streams.load(Ordering::SeqCst) == 1);
    let ((), mut stream) = connection.open_stream(&upload()).unwrap();
    stream.send(b"half").unwrap();
    drop(stream);
    drop(connection);
    eventually("the upload ends", || fixture.memory.broken_streams.load(Ordering::SeqCst) == 2);
    assert_eq!(fixture.memory.volume.lock().unwrap().len(), 64 << 20, "half an upload changes nothing");
}
