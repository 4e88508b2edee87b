//! The definition of a copy: what has to be another's, and what stays.
//!
//! New: name, UUID, generation of memory, addresses of interfaces, ports of displays, sockets and names that the host gives. Everything else,
//! addresses of devices and aliases of the user's included, stays as it is.

use libvirt_xml::domain::character::{CharacterBackend, CharacterType};
use libvirt_xml::domain::interface::{Interface, InterfaceSource, InterfaceType, Mac};
use libvirt_xml::domain::{Domain, GenerationId};
use libvirt_xml::{MacAddress, Uuid, YesNo};

use crate::connection::Error;

/// The definition with another name and identity; disks are still the source's.
pub(super) fn renamed(
    old: &Domain,
    name: &str,
    macs: &[MacAddress],
    notes: &mut Vec<String>,
) -> Result<Domain, Error> {
    let mut new = old.clone().without_live_details();
    let old_name = old.name.clone().unwrap_or_default();
    let uuid = Uuid(*uuid::Uuid::new_v4().as_bytes());
    new.name = Some(name.to_owned());
    new.uuid = Some(uuid);
    if new.generation_id.is_some() {
        new.generation_id = Some(GenerationId(None));
    }
    for system in new.sysinfos.iter_mut().filter_map(|sysinfo| sysinfo.system.as_mut()) {
        // It has to be the domain's.
        for entry in system.entries.iter_mut().filter(|entry| entry.name.as_deref() == Some("uuid")) {
            entry.value = Some(uuid.to_string());
        }
    }
    let devices = &mut new.devices;
    if macs.len() > devices.interfaces.len() {
        return Err(Error::usage(format!(
            "--mac: {} addresses for {} network interfaces",
            macs.len(),
            devices.interfaces.len()
        )));
    }
    let mut given = macs.iter().copied();
    for interface in &mut devices.interfaces {
        renew_interface(interface, given.next(), notes);
    }
    for graphics in &mut devices.graphics {
        if graphics.port.is_some_and(|port| port > 0) {
            notes.push(
                "A display had a port of its own, which the source keeps: the new one is chosen at the start"
                    .to_owned(),
            );
            graphics.port = Some(-1);
            graphics.tls_port = None;
            graphics.autoport = Some(YesNo::Yes);
        }
    }
    if let Some(vsock) = &mut devices.vsock
        && let Some(cid) = &mut vsock.cid
    {
        cid.address = None;
        cid.auto = Some(YesNo::Yes);
    }
    let terminals = (devices.serials.iter_mut().chain(&mut devices.parallels)).chain(&mut devices.consoles);
    for device in terminals {
        renew_backend(&mut device.backend, &old_name, name, notes);
    }
    for device in &mut devices.channels {
        if device.backend.kind == CharacterType::Unix {
            // The daemon chooses one of the new domain's.
            device.backend.sources.clear();
        } else {
            renew_backend(&mut device.backend, &old_name, name, notes);
        }
    }
    if !devices.host_devices.is_empty() {
        notes.push(
            "Devices of the host are the same in both: only one of the domains can run at a time".to_owned(),
        );
    }
    Ok(new)
}

/// Connects all interfaces to a network.
pub(super) fn connect(new: &mut Domain, network: &str) -> Result<(), Error> {
    if new.devices.interfaces.is_empty() {
        return Err(Error::usage("--network: the source has no network interface"));
    }
    for interface in &mut new.devices.interfaces {
        interface.kind = InterfaceType::Network;
        let network = Some(network.to_owned());
        interface.source = Some(InterfaceSource { network, ..InterfaceSource::default() });
        // Those are of what it was connected to.
        interface.virtual_port = None;
        interface.target = None;
    }
    Ok(())
}

fn renew_interface(interface: &mut Interface, mac: Option<MacAddress>, notes: &mut Vec<String>) {
    // Without one the daemon assigns it, in its own way.
    interface.mac = mac.map(|address| Mac { address, ..Mac::default() });
    if let Some(dev) = interface.target.as_mut().and_then(|target| target.dev.take()) {
        notes.push(format!(
            "The device {dev} on the host stays the source's: the new interface gets one at the start"
        ));
    }
    interface.target = interface.target.take().filter(|target| *target != Default::default());
    if let Some(parameters) = interface.virtual_port.as_mut().and_then(|port| port.parameters.as_mut()) {
        parameters.interface_id = None;
        parameters.instance_id = None;
    }
}

/// Files and sockets that have the source's name in theirs get the new one's; others stay, and that is said.
fn renew_backend(backend: &mut CharacterBackend, old: &str, new: &str, notes: &mut Vec<String>) {
    let written = matches!(
        backend.kind,
        CharacterType::Unix
            | CharacterType::File
            | CharacterType::Pipe
            | CharacterType::Tcp
            | CharacterType::Udp
    );
    if !written && backend.log.is_none() {
        return;
    }
    let mut shared = Vec::new();
    let mut rename = |path: &mut String| match renamed_path(path, old, new) {
        Some(other) => *path = other,
        None => shared.push(path.clone()),
    };
    let mut ports = Vec::new();
    for source in &mut backend.sources {
        if written && let Some(path) = &mut source.path {
            rename(path);
        } else if let Some(service) = source.service.as_deref().filter(|_| written) {
            ports.push(format!("the port {service}"));
        }
    }
    if let Some(log) = &mut backend.log {
        rename(&mut log.file);
    }
    let told = shared.into_iter().chain(ports);
    notes.extend(told.map(|what| format!("A serial port, console or channel uses {what} in both domains")));
}

/// A path whose last part begins with the old name, with the new name there.
pub(super) fn renamed_path(path: &str, old: &str, new: &str) -> Option<String> {
    let (directory, file) = path.rsplit_once('/')?;
    let rest = file.strip_prefix(old).filter(|_| !old.is_empty())?;
    // "web" is not the beginning of "website".
    let ends = rest.chars().next().is_none_or(|next| !next.is_alphanumeric());
    ends.then(|| format!("{directory}/{new}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "<domain type='kvm'><name>web</name><uuid>0c4b8f6e-12d3-4c5b-9e7a-000000000001</uuid>
        <genid>0c4b8f6e-12d3-4c5b-9e7a-000000000002</genid><memory>1048576</memory>
        <sysinfo type='smbios'><system><entry name='uuid'>0c4b8f6e-12d3-4c5b-9e7a-000000000001</entry></system></sysinfo>
        <os><type>hvm</type></os>
        <devices>
          <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/><target dev='tap7'/>
            <model type='virtio'/><address type='pci' domain='0' bus='1' slot='0' function='0'/></interface>
          <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/></interface>
          <serial type='file'><source path='/log/web-serial.log'/></serial>
          <channel type='unix'><source mode='bind' path='/run/web.agent'/>
            <target type='virtio' name='org.qemu.guest_agent.0'/></channel>
          <graphics type='vnc' port='5901' autoport='no'/>
        </devices></domain>";

    #[test]
    fn what_identifies_a_domain_is_another_and_the_rest_stays() {
        let old = Domain::parse(SOURCE).unwrap();
        let mut notes = Vec::new();
        let mac = MacAddress([0x52, 0x54, 0, 9, 9, 9]);
        let new = renamed(&old, "web2", &[mac], &mut notes).unwrap();
        assert_eq!(new.name.as_deref(), Some("web2"));
        assert!(new.uuid.is_some() && new.uuid != old.uuid);
        assert_eq!(new.generation_id, Some(GenerationId(None)));
        let entry = &new.sysinfos[0].system.as_ref().unwrap().entries[0];
        assert_eq!(entry.value, new.uuid.map(|uuid| uuid.to_string()));
        let [first, second] = &new.devices.interfaces[..] else { panic!("two interfaces") };
        assert_eq!(first.mac.as_ref().unwrap().address, mac);
        assert_eq!((&second.mac, &first.target), (&None, &None));
        assert_eq!(first.info, old.devices.interfaces[0].info);
        assert_eq!(new.devices.serials[0].backend.path(), Some("/log/web2-serial.log"));
        assert_eq!(new.devices.channels[0].backend.path(), None);
        assert_eq!(new.devices.graphics[0].port, Some(-1));
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(renamed(&old, "x", &[mac; 3], &mut notes).is_err());
    }

    #[test]
    fn only_names_that_begin_with_the_source_s_are_changed() {
        assert_eq!(renamed_path("/a/web.qcow2", "web", "new"), Some("/a/new.qcow2".into()));
        assert_eq!(renamed_path("/web/website.img", "web", "new"), None);
        assert_eq!(renamed_path("/a/other.img", "web", "new"), None);
        assert_eq!(renamed_path("/a/b", "", "new"), None);
    }
}
