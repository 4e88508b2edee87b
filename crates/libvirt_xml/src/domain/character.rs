//! Serial and parallel ports, consoles, channels, and what else speaks bytes (formatdomain, "Consoles, serial, parallel & channel devices").
//!
//! Refused: nmdm (FreeBSD), the DBus and SPICE port of other back ends, TLS set up by configuration files.

use super::address::DeviceInfo;
use super::security::SourceLabel;
use crate::model::model;
use crate::tree::Kept;
use crate::value::{OnOff, YesNo, words};

words! {
    /// What is at the host's end.
    pub enum CharacterType {
        Pty = "pty",
        Unix = "unix",
        File = "file",
        Tcp = "tcp",
        Udp = "udp",
        Null = "null",
        Stdio = "stdio",
        Dev = "dev",
        Pipe = "pipe",
        Vc = "vc",
        Spicevmc = "spicevmc",
        SpicePort = "spiceport",
        VdAgent = "qemu-vdagent",
    }
    refused "nmdm", "dbus";

    /// Who waits for the other.
    pub enum ConnectMode { Bind = "bind", Connect = "connect", }

    /// What is spoken over TCP.
    pub enum TcpProtocol { Raw = "raw", Telnet = "telnet", Telnets = "telnets", Tls = "tls", }

    /// State of a channel: whether the agent in the guest holds it open.
    pub enum ChannelState { Connected = "connected", Disconnected = "disconnected", }

    /// What the guest sees of a device: types of targets, of all kinds of devices.
    pub enum TargetType {
        IsaSerial = "isa-serial",
        PciSerial = "pci-serial",
        UsbSerial = "usb-serial",
        IsaDebug = "isa-debug",
        Serial = "serial",
        Virtio = "virtio",
        Guestfwd = "guestfwd",
    }
    refused "xen", "uml", "lxc", "openvz", "sclp", "sclplm", "spapr-vio-serial", "system-serial", "sclp-serial";

    /// What emulates a serial port.
    pub enum SerialModelName {
        IsaSerial = "isa-serial",
        PciSerial = "pci-serial",
        UsbSerial = "usb-serial",
        IsaDebugcon = "isa-debugcon",
    }
    refused "spapr-vty", "pl011", "sclpconsole", "sclplmconsole", "16550a";
}

model! {
    /// What happens when a connection breaks.
    pub struct Reconnect {
        /// Whether it is made again.
        enabled: required("enabled") => YesNo,
        /// After so many seconds.
        timeout: attribute("timeout") => Option<u32>,
    }

    /// The host's end. Which attribute counts is said by the device's type.
    pub struct CharacterSource {
        /// Kind of socket, of TPMs only.
        socket: attribute("type") => Option<super::interface::SocketType>,
        /// Who waits.
        mode: attribute("mode") => Option<ConnectMode>,
        /// Path of a socket, file or terminal.
        path: attribute("path") => Option<String>,
        /// Whether a file is added to or begun anew.
        append: attribute("append") => Option<OnOff>,
        /// Host.
        host: attribute("host") => Option<String>,
        /// Port.
        service: attribute("service") => Option<String>,
        /// Encryption.
        tls: attribute("tls") => Option<YesNo>,
        /// Name of a SPICE channel.
        channel: attribute("channel") => Option<String>,
        /// When the connection breaks.
        reconnect: child("reconnect") => Option<Reconnect>,
        /// Security labels of this source alone.
        labels: children("seclabel") => Vec<SourceLabel>,
        /// Of the clipboard agent.
        agent: kept("clipboard", "mouse") => Kept,
    }

    /// What is spoken.
    pub struct CharacterProtocol {
        /// The protocol.
        kind: required("type") => TcpProtocol,
    }

    /// A log of everything that the guest writes.
    pub struct CharacterLog {
        /// Path.
        file: required("file") => String,
        /// Whether it is added to or begun anew.
        append: attribute("append") => Option<OnOff>,
    }

    /// What emulates a serial port.
    pub struct SerialModel {
        /// The name.
        name: required("name") => SerialModelName,
    }

    /// What the guest sees.
    pub struct CharacterTarget {
        /// Kind.
        kind: attribute("type") => Option<TargetType>,
        /// Of guest forwards.
        address: attribute("address") => Option<String>,
        /// Number of the port.
        port: attribute("port") => Option<u32>,
        /// Of virtio channels.
        name: attribute("name") => Option<String>,
        /// Of virtio channels of running domains.
        state: attribute("state") => Option<ChannelState>,
        /// What emulates it.
        model: child("model") => Option<SerialModel>,
    }

    /// What all devices that speak bytes have: the host's end.
    pub struct CharacterBackend {
        /// What it is.
        kind: defaulted("type") => CharacterType,
        /// Terminal of a running console.
        tty: attribute("tty") => Option<String>,
        /// The host's end; UDP has two.
        sources: children("source") => Vec<CharacterSource>,
        /// What is spoken over TCP.
        protocol: child("protocol") => Option<CharacterProtocol>,
        /// A log.
        log: child("log") => Option<CharacterLog>,
    }

    /// A serial or parallel port, a console or a channel.
    pub struct CharacterDevice {
        /// The host's end.
        backend: part => CharacterBackend,
        /// What the guest sees.
        target: child("target") => Option<CharacterTarget>,
        /// Alias, address.
        info: part => DeviceInfo,
    }

    /// USB devices of the client's machine.
    pub struct RedirectedDevice {
        /// Always `usb`.
        bus: attribute("bus") => Option<String>,
        /// The host's end.
        backend: part => CharacterBackend,
        /// Alias, boot order, address.
        info: part => DeviceInfo,
    }
}

impl CharacterBackend {
    /// The path of its (first) source.
    pub fn path(&self) -> Option<&str> {
        self.sources.first().and_then(|source| source.path.as_deref())
    }
}
