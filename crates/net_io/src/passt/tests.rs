use super::*;

fn ports(first: u16, last: u16, guest: Option<u16>, excluded: bool) -> Ports {
    Ports { first, last, guest, excluded }
}

fn tcp(address: Option<&str>, interface: Option<&str>, ports: Vec<Ports>) -> Forward {
    let address = address.map(|address| address.parse().unwrap());
    Forward { transport: Transport::Tcp, address, interface: interface.map(Into::into), ports }
}

#[test]
fn options_are_spelled_as_passt_reads_them() {
    let passt = Passt {
        interface: Some("eth0".into()),
        ipv4: Some(([192, 0, 2, 9].into(), Some(24))),
        ipv6: Some("2001:db8::9".parse().unwrap()),
        mtu: Some(1400),
        log_file: Some("/tmp/p.log".into()),
        forwards: vec![
            tcp(None, None, vec![ports(2022, 2022, Some(22), false)]),
            Forward {
                transport: Transport::Udp,
                ..tcp(
                    Some("127.0.0.1"),
                    Some("lo"),
                    vec![ports(5000, 5020, Some(6000), false), ports(5010, 5015, None, true)],
                )
            },
            tcp(None, None, vec![]),
        ],
        ..Passt::default()
    };
    let expected = "--fd 7 --interface eth0 --address 192.0.2.9 --netmask 24 --address 2001:db8::9 --mtu 1400 \
                    --log-file /tmp/p.log --tcp-ports 2022:22 \
                    --udp-ports 127.0.0.1%lo/5000-5020:6000-6020,~5010-5015 --tcp-ports all";
    assert_eq!(passt.arguments(7).join(" "), expected);
}

#[test]
fn a_port_that_somebody_listens_on_is_refused_in_either_family() {
    for address in ["127.0.0.1", "0.0.0.0", "::"] {
        let Ok(listener) = TcpListener::bind((address, 0)) else {
            eprintln!("skipped: there is no {address}");
            continue;
        };
        let port = listener.local_addr().unwrap().port();
        // A program that is not there: nothing is started before the ports are looked at.
        let start = |forward| {
            let passt =
                Passt { program: Some("/nowhere/passt".into()), forwards: vec![forward], ..Passt::default() };
            passt.start().unwrap_err().to_string()
        };
        let text = start(tcp(None, None, vec![ports(port, port, Some(80), false)]));
        assert!(text.contains(&format!("TCP port {port} of the host can't be forwarded: another")), "{text}");
        let text =
            start(tcp(None, None, vec![ports(port, port, None, false), ports(port, port, None, true)]));
        assert!(text.contains("not installed"), "{text}");
    }
}

#[test]
fn a_program_that_is_not_there_is_named_with_its_package() {
    let passt = Passt { program: Some("/nowhere/passt".into()), ..Passt::default() };
    let text = passt.start().unwrap_err().to_string();
    assert!(text.contains("/nowhere/passt is not installed") && text.contains("apt install passt"), "{text}");
}

/// A program in place of passt.
fn stand_in(script: &str) -> (tempfile::TempDir, Passt) {
    let directory = tempfile::tempdir().unwrap();
    // Written by another process: a file that is open for writing while some other test forks can't be executed.
    let (source, program) = (directory.path().join("source"), directory.path().join("passt"));
    std::fs::write(&source, format!("#!/bin/sh\n{script}\n")).unwrap();
    assert!(
        Command::new("install").args(["-m", "755"]).arg(source).arg(&program).status().unwrap().success()
    );
    (directory, Passt { program: Some(program), ..Passt::default() })
}

#[test]
fn what_it_says_when_it_fails_is_passed_on_without_chatter() {
    let script =
        "echo \"Don't run as root. Changing to nobody...\" >&2; echo 'Failed to send 35 bytes to syslog' >&2
                  echo ' No route ' >&2; echo 'Not usable' >&2; exit 1";
    let (_directory, passt) = stand_in(script);
    assert_eq!(passt.start().unwrap_err().to_string(), "passt did not start: No route; Not usable");
    let (_directory, passt) = stand_in("exit 3");
    assert_eq!(
        passt.start().unwrap_err().to_string(),
        "passt did not start: it said nothing (exit status: 3)"
    );
}

#[test]
fn the_process_has_the_other_end_of_the_socket_and_nobody_else_has() {
    let (_directory, passt) = stand_in("exec bash -c 'echo hello >&$2' passt \"$@\"");
    let socket = passt.start().unwrap();
    let mut text = String::new();
    // To its end: it would not come if somebody still had the other socket.
    std::fs::File::from(socket).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}
