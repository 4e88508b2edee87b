//! Daemons beside and after each other.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn what_is_defined_is_there_for_the_next_daemon() {
    let place = Place::new();
    let vireod = place.start();
    place.pool("running");
    place.pool("stopped");
    place.ok(&["pool-destroy", "stopped"]);
    let target = place.text("storage/transient");
    place.ok(&["pool-create-as", "transient", "dir", "--target", &target, "--build"]);
    place.ok(&["pool-define-as", "marked", "dir", "--target", &place.text("storage/marked")]);
    place.ok(&["pool-build", "marked"]);
    place.ok(&["pool-autostart", "marked"]);
    place.ok(&["vol-create-as", "running", "v", "1M", "--format", "qcow2"]);
    let uuid = place.ok(&["pool-uuid", "running"]);
    // Without the time of the last access, which a look at the volume changes.
    let described = || -> Vec<String> {
        let document = place.ok(&["vol-dumpxml", "v", "running"]);
        document.lines().filter(|line| !line.contains("<atime>")).map(str::to_owned).collect()
    };
    let document = described();
    assert!(vireod.end().success());
    assert!(!place.socket().exists() && !place.read_only_socket().exists());
    let vireod = place.start();
    let state = |pool: &str| {
        let information = place.ok(&["pool-info", pool]);
        information.lines().find(|line| line.starts_with("State:")).unwrap()[16..].to_owned()
    };
    assert_eq!(
        ["running", "stopped", "transient", "marked"].map(state),
        ["running", "inactive", "running", "running"]
    );
    assert_eq!(place.ok(&["pool-uuid", "running"]), uuid);
    assert_eq!(described(), document);
    place.ok(&["pool-destroy", "transient"]);
    vireod.kill();
    let vireod = place.start();
    assert!(!place.ok(&["pool-list", "--all", "--name"]).contains("transient"));
    assert_eq!(vireod.log(), "", "nothing to complain about");
}

#[test]
fn a_second_daemon_takes_neither_the_state_nor_the_sockets() {
    let place = Place::new();
    let vireod = place.start();
    let other = |state: &str, run: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vireod"));
        command.arg("--state-dir").arg(place.path(state)).arg("--runtime-dir").arg(place.path(run));
        command
    };
    let refused = |command: Command| Vireod::try_start(command, place.path("other.log")).err().unwrap();
    let message = refused(other("state", "run2"));
    assert!(message.contains("in use by another daemon"), "{message}");
    let message = refused(other("state2", "run"));
    assert!(message.contains("another daemon answers there"), "{message}");
    place.ok(&["uri"]);
    // What a killed one leaves is replaced.
    vireod.kill();
    assert!(place.socket().exists());
    UnixStream::connect(place.socket()).unwrap_err();
    let _vireod = place.start();
    place.ok(&["uri"]);
}

#[test]
fn a_daemon_that_is_told_to_end_does_not_wait_for_a_client_that_does_not_read() {
    let place = Place::new();
    let vireod = place.start();
    place.pool("p");
    place.ok(&["vol-create-as", "p", "v", "256M", "--allocation", "0"]);
    let mut connection = place.connect();
    let call = libvirt_rpc::procedures::StoragePoolLookupByName { name: "p".into() };
    let pool = connection.call(&call).unwrap().pool;
    let call = libvirt_rpc::procedures::StorageVolLookupByName { pool, name: "v".into() };
    let vol = connection.call(&call).unwrap().vol;
    let call = libvirt_rpc::procedures::StorageVolDownload { vol, offset: 0, length: 0, flags: 0 };
    let (_, mut stream) = connection.open_stream(&call).unwrap();
    stream.receive(Some(Duration::from_secs(20))).unwrap();
    let begun = Instant::now();
    assert!(vireod.end().success());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // The client hears that it has not got everything.
    let mut ended = false;
    for _ in 0..2000 {
        match stream.receive(Some(Duration::from_secs(20))) {
            Ok(libvirt_rpc::client::Input::Data(_)) => {}
            Ok(_) => break,
            Err(_) => {
                ended = true;
                break;
            }
        }
    }
    assert!(ended, "half a volume looked like a whole one");
    let _vireod = place.start();
    place.ok(&["vol-info", "v", "p"]);
}

#[test]
fn a_client_s_virsh_download_ends_with_an_error_when_the_daemon_does() {
    let place = Place::new();
    let vireod = place.start();
    place.pool("p");
    place.ok(&["vol-create-as", "p", "v", "64M"]);
    // A pipe that is not read: virsh is in the middle of the download for sure once the first bytes are there.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mut client = Command::new("virsh")
        .env("LC_ALL", "C")
        .args(["-c", &place.uri(&place.socket()), "vol-download", "v", &place.text("pipe"), "--pool", "p"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = File::open(place.path("pipe")).unwrap();
    std::io::Read::read_exact(&mut pipe, &mut [0; 4096]).unwrap();
    assert!(vireod.end().success());
    std::io::copy(&mut pipe, &mut std::io::sink()).unwrap();
    assert!(!client.wait().unwrap().success());
}
