//! User-mode networks of machines: a passt for each card, from before the machine's process until its end.
//!
//! Nothing is remembered of them: passt ends when the other end of its socket is closed. Until the machine's process has that, it is
//! the daemon's, and goes with it.

use std::os::fd::{AsRawFd as _, OwnedFd};

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::interface::{InterfaceType, NetBackendType};
use net_io::passt::PasstError;

use crate::domain::DomainError;
use crate::domain::machine::{MachinePlan, TapSource};

/// Starts what a machine's user-mode cards need, and writes into its plan by which descriptors its process reaches it.
///
/// # Errors
/// One does not start. Then none of them is left.
pub(super) async fn start(plan: &mut MachinePlan) -> Result<Vec<OwnedFd>, DomainError> {
    let wanted: Vec<_> = plan
        .taps
        .iter()
        .filter_map(|demand| match &demand.source {
            TapSource::User(passt) => Some((demand.index, demand.path.clone(), passt.clone())),
            _ => None,
        })
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let starting = tokio::task::spawn_blocking(move || {
        let start = |(index, path, passt): (usize, String, Box<net_io::passt::Passt>)| {
            passt.start().map(|socket| (index, socket)).map_err(|error| failed(&path, &error))
        };
        wanted.into_iter().map(start).collect::<Result<Vec<_>, _>>()
    });
    let started = starting.await;
    let started = started
        .map_err(|error| DomainError::Broken(format!("starting user-mode networks ended: {error}")))?;
    let mut sockets = Vec::new();
    for (index, socket) in started? {
        if let Some(card) = plan.config.net.iter_mut().flatten().nth(index) {
            card.socket_fd = Some(socket.as_raw_fd());
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn failed(path: &str, error: &PasstError) -> DomainError {
    let text = format!("{path}: {error}");
    match error {
        PasstError::NotInstalled { .. } => DomainError::Unsupported(text),
        PasstError::Port { .. } | PasstError::Refused { .. } | PasstError::Host { .. } => {
            DomainError::Machine(text)
        }
    }
}

/// Shows in a running machine's document what its user-mode cards are connected to.
pub(super) fn show(document: &mut Definition) {
    let interfaces = document.devices.interfaces.iter_mut();
    for interface in interfaces.filter(|interface| interface.kind == InterfaceType::User) {
        interface.backend.get_or_insert_default().kind = Some(NetBackendType::Passt);
        interface.target = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::Path;

    use libvirt_xml::domain::assign::{HostDefaults, define};
    use libvirt_xml::domain::cpu::{Cpu, CpuMode};
    use net_io::passt::{Forward, Ports, Transport};

    use super::*;
    use crate::domain::machine::{Places, machine};

    /// A machine with a card on a bridge and one that `program` serves.
    fn plan(program: &Path) -> MachinePlan {
        let mut domain = Definition::parse(
            "<domain type='kvm'><name>a</name><memory unit='MiB'>512</memory>
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/k</kernel></os><devices>
             <interface type='bridge'><source bridge='br0'/></interface><interface type='user'/></devices></domain>",
        )
        .unwrap();
        let cpu = Cpu { mode: Some(CpuMode::HostPassthrough), ..Cpu::default() };
        let host =
            HostDefaults { cpu: Some(cpu), interface_model: "virtio".into(), ..HostDefaults::default() };
        let mut number = 0;
        let mut random = |bytes: &mut [u8]| {
            number += 1;
            bytes.fill(number);
        };
        define(&mut domain, &host, &mut random).unwrap();
        let mut plan = machine(&domain, &Places::default()).unwrap();
        let TapSource::User(passt) = &mut plan.taps[1].source else { panic!("{:?}", plan.taps) };
        passt.program = Some(program.to_owned());
        plan
    }

    fn stand_in(directory: &Path, script: &str) -> std::path::PathBuf {
        // Written by another process: a file that is open for writing while some other test forks can't be executed.
        let (source, program) = (directory.join("source"), directory.join("passt"));
        std::fs::write(&source, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mut install = std::process::Command::new("install");
        assert!(install.args(["-m", "755"]).arg(source).arg(&program).status().unwrap().success());
        program
    }

    #[tokio::test]
    async fn the_card_has_the_socket_of_its_passt_and_others_have_none() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = plan(&stand_in(directory.path(), "exec bash -c 'echo hello >&$2' passt \"$@\""));
        let mut sockets = start(&mut plan).await.unwrap();
        let socket = sockets.pop().unwrap();
        let cards = plan.config.net.as_ref().unwrap();
        assert_eq!((cards[0].socket_fd, cards[1].socket_fd), (None, Some(socket.as_raw_fd())));
        assert!(sockets.is_empty());
        let mut text = String::new();
        std::fs::File::from(socket).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }

    #[tokio::test]
    async fn a_passt_that_does_not_start_is_told_with_the_card_and_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let error =
            start(&mut plan(&stand_in(directory.path(), "echo No route >&2; exit 1"))).await.unwrap_err();
        let expected = "domain/devices/interface[2]: passt did not start: No route";
        assert!(matches!(&error, DomainError::Machine(text) if text == expected), "{error:?}");
        let error = start(&mut plan(Path::new("/nowhere/passt"))).await.unwrap_err();
        assert!(
            matches!(&error, DomainError::Unsupported(text) if text.contains("install the package passt")),
            "{error:?}"
        );
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut plan = plan(Path::new("/nowhere/passt"));
        let TapSource::User(passt) = &mut plan.taps[1].source else { panic!("{:?}", plan.taps) };
        let ports = vec![Ports { first: port, last: port, guest: None, excluded: false }];
        passt.forwards = vec![Forward { transport: Transport::Tcp, address: None, interface: None, ports }];
        let error = start(&mut plan).await.unwrap_err();
        assert!(
            matches!(&error, DomainError::Machine(text) if text.contains(&port.to_string())),
            "{error:?}"
        );
    }

    #[test]
    fn a_running_machine_shows_that_passt_serves_it() {
        let mut document = Definition::parse(
            "<domain type='kvm'><name>a</name><memory>1024</memory><os><type>hvm</type></os><devices>
             <interface type='user'><target dev='vnet0'/></interface>
             <interface type='bridge'><source bridge='b'/><target dev='vnet1'/></interface></devices></domain>",
        )
        .unwrap();
        show(&mut document);
        let [user, bridge] = &document.devices.interfaces[..] else { panic!("{document:?}") };
        assert_eq!(user.backend.as_ref().unwrap().kind, Some(NetBackendType::Passt));
        assert_eq!((&user.target, &bridge.backend), (&None, &None));
        assert!(bridge.target.is_some());
    }
}
