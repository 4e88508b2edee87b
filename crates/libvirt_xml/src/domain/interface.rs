//! Network interfaces (formatdomain, "Network interfaces").
//!
//! Refused: server, client, multicast, UDP, internal, VDPA, VDS and null interfaces, scripts of driver domains.

use super::address::{Address, DeviceInfo, VirtioOptions};
use super::character::Reconnect;
use crate::model::model;
use crate::value::{MacAddress, OnOff, Uuid, YesNo, words};

words! {
    /// What an interface is connected to.
    pub enum InterfaceType {
        Network = "network",
        Bridge = "bridge",
        Direct = "direct",
        User = "user",
        Ethernet = "ethernet",
        Vhostuser = "vhostuser",
        Hostdev = "hostdev",
    }
    refused "server", "client", "mcast", "udp", "internal", "vdpa", "vds", "null";

    /// Where a MAC address comes from.
    pub enum MacType { Generated = "generated", Static = "static", }

    /// Modes: macvtap's for direct interfaces, who listens for vhost-user ones.
    pub enum SourceMode {
        Vepa = "vepa",
        Bridge = "bridge",
        Private = "private",
        Passthrough = "passthrough",
        Client = "client",
        Server = "server",
    }

    /// Who fills the bridge's table of addresses.
    pub enum MacTableManager { Kernel = "kernel", Libvirt = "libvirt", }

    /// Who moves packets.
    pub enum NetDriverName { Vhost = "vhost", Qemu = "qemu", Vfio = "vfio", }
    refused "kvm", "xen";

    /// How packets are sent.
    pub enum TxMode { Iothread = "iothread", Timer = "timer", }

    /// State of the cable.
    pub enum LinkState { Up = "up", Down = "down", }

    /// Which end of a team of interfaces.
    pub enum TeamingType { Persistent = "persistent", Transient = "transient", }

    /// Families of addresses.
    pub enum IpFamily { Ipv4 = "ipv4", Ipv6 = "ipv6", }

    /// Whether a trunk's frames carry the tag.
    pub enum NativeMode { Tagged = "tagged", Untagged = "untagged", }

    /// What the other side of a connection speaks.
    pub enum VirtualPortType {
        OpenVswitch = "openvswitch",
        Vepa = "802.1Qbg",
        Vnlink = "802.1Qbh",
        Midonet = "midonet",
    }

    /// What stands behind a user interface.
    pub enum NetBackendType { Default = "default", Passt = "passt", }

    /// Transport of a forwarded port.
    pub enum ForwardProtocol { Tcp = "tcp", Udp = "udp", }

    /// Sockets that a vhost-user interface uses.
    pub enum SocketType { Unix = "unix", }
}

model! {
    /// The interface's address.
    pub struct Mac {
        /// The address.
        address: required("address") => MacAddress,
        /// Where it comes from.
        kind: attribute("type") => Option<MacType>,
        /// Whether a hypervisor checks it.
        check: attribute("check") => Option<YesNo>,
    }

    /// An IP address.
    pub struct InterfaceIp {
        /// The address.
        address: required("address") => String,
        /// Its family.
        family: attribute("family") => Option<IpFamily>,
        /// Length of the prefix, bits.
        prefix: attribute("prefix") => Option<u32>,
        /// The other end of a point-to-point link.
        peer: attribute("peer") => Option<String>,
    }

    /// A route.
    pub struct InterfaceRoute {
        /// Its family.
        family: attribute("family") => Option<IpFamily>,
        /// Destination.
        address: required("address") => String,
        /// Length of the prefix, bits.
        prefix: attribute("prefix") => Option<u32>,
        /// Netmask instead of a prefix.
        netmask: attribute("netmask") => Option<String>,
        /// Where to.
        gateway: required("gateway") => String,
        /// Cost.
        metric: attribute("metric") => Option<u32>,
    }

    /// What it is connected to. Which attribute counts is said by the interface's type.
    pub struct InterfaceSource {
        /// Of type `vhostuser`: a unix socket.
        socket: attribute("type") => Option<SocketType>,
        /// Of type `network`: the network's name.
        network: attribute("network") => Option<String>,
        /// Of type `network`: a port group of it.
        portgroup: attribute("portgroup") => Option<String>,
        /// The network's port; running domains only.
        port_id: attribute("portid") => Option<Uuid>,
        /// Of type `bridge`: the bridge's name; of a running `network`, its bridge.
        bridge: attribute("bridge") => Option<String>,
        /// Of a running `network`.
        mac_table_manager: attribute("macTableManager") => Option<MacTableManager>,
        /// Of type `direct`: the host's interface; of `user`, the interface to leave by.
        dev: attribute("dev") => Option<String>,
        /// Of type `vhostuser`: path of the socket.
        path: attribute("path") => Option<String>,
        /// Mode of macvtap, or who listens.
        mode: attribute("mode") => Option<SourceMode>,
        /// Of type `vhostuser`.
        reconnect: child("reconnect") => Option<Reconnect>,
        /// Of type `hostdev`.
        address: child("address") => Option<Address>,
        /// Addresses on the host's side.
        ips: children("ip") => Vec<InterfaceIp>,
        /// Routes on the host's side.
        routes: children("route") => Vec<InterfaceRoute>,
    }

    /// A VLAN.
    pub struct VlanTag {
        /// Number, below 4096.
        id: required("id") => u16,
        /// Of trunks.
        native_mode: attribute("nativeMode") => Option<NativeMode>,
    }

    /// VLANs.
    pub struct Vlan {
        /// Whether several are carried.
        trunk: attribute("trunk") => Option<YesNo>,
        /// Which.
        tags: children("tag") => Vec<VlanTag>,
    }

    /// Parameters of a switch's port.
    pub struct VirtualPortParameters {
        /// Manager.
        manager_id: attribute("managerid") => Option<u32>,
        /// Type of VSI.
        type_id: attribute("typeid") => Option<u32>,
        /// Its version.
        type_id_version: attribute("typeidversion") => Option<u32>,
        /// Instance.
        instance_id: attribute("instanceid") => Option<Uuid>,
        /// Port.
        interface_id: attribute("interfaceid") => Option<Uuid>,
        /// Profile.
        profile_id: attribute("profileid") => Option<String>,
    }

    /// A switch's port.
    pub struct VirtualPort {
        /// What the switch speaks.
        kind: attribute("type") => Option<VirtualPortType>,
        /// Parameters.
        parameters: child("parameters") => Option<VirtualPortParameters>,
    }

    /// Limits of one direction, in KiB/s; bursts in KiB.
    pub struct BandwidthLimit {
        /// KiB/s.
        average: attribute("average") => Option<u64>,
        /// KiB/s.
        peak: attribute("peak") => Option<u64>,
        /// Guaranteed KiB/s.
        floor: attribute("floor") => Option<u64>,
        /// KiB.
        burst: attribute("burst") => Option<u64>,
    }

    /// Limits.
    pub struct Bandwidth {
        /// Towards the guest.
        inbound: child("inbound") => Option<BandwidthLimit>,
        /// From the guest.
        outbound: child("outbound") => Option<BandwidthLimit>,
    }

    /// A port of a bridge.
    pub struct BridgePort {
        /// Isolated ports don't see each other.
        isolated: attribute("isolated") => Option<YesNo>,
    }

    /// Ports that are forwarded.
    pub struct PortRange {
        /// First port on the host.
        start: required("start") => u16,
        /// Last port.
        end: attribute("end") => Option<u16>,
        /// First port of the guest.
        to: attribute("to") => Option<u16>,
        /// Left out.
        exclude: attribute("exclude") => Option<YesNo>,
    }

    /// Forwarded ports of a user interface.
    pub struct PortForward {
        /// Transport.
        protocol: required("proto") => ForwardProtocol,
        /// Address on the host.
        address: attribute("address") => Option<String>,
        /// Interface of the host.
        dev: attribute("dev") => Option<String>,
        /// Which ports.
        ranges: children("range") => Vec<PortRange>,
    }

    /// A script of the host.
    pub struct Script {
        /// Its path.
        path: required("path") => String,
    }

    /// The host's end.
    pub struct InterfaceTarget {
        /// Name of the tap device.
        dev: attribute("dev") => Option<String>,
        /// Whether it is there already.
        managed: attribute("managed") => Option<YesNo>,
    }

    /// What the guest sees.
    pub struct InterfaceModel {
        /// `virtio`, `e1000e`, …
        kind: required("type") => String,
    }

    /// Offloads of the host.
    pub struct HostOffloads {
        /// Checksums.
        csum: attribute("csum") => Option<OnOff>,
        /// Segmentation.
        gso: attribute("gso") => Option<OnOff>,
        /// TCP over IPv4.
        tso4: attribute("tso4") => Option<OnOff>,
        /// TCP over IPv6.
        tso6: attribute("tso6") => Option<OnOff>,
        /// With congestion notification.
        ecn: attribute("ecn") => Option<OnOff>,
        /// UDP.
        ufo: attribute("ufo") => Option<OnOff>,
        /// Merged receive buffers.
        mrg_rxbuf: attribute("mrg_rxbuf") => Option<OnOff>,
    }

    /// Offloads of the guest.
    pub struct GuestOffloads {
        /// Checksums.
        csum: attribute("csum") => Option<OnOff>,
        /// TCP over IPv4.
        tso4: attribute("tso4") => Option<OnOff>,
        /// TCP over IPv6.
        tso6: attribute("tso6") => Option<OnOff>,
        /// With congestion notification.
        ecn: attribute("ecn") => Option<OnOff>,
        /// UDP.
        ufo: attribute("ufo") => Option<OnOff>,
    }

    /// How packets are moved.
    pub struct InterfaceDriver {
        /// Who moves them.
        name: attribute("name") => Option<NetDriverName>,
        /// How they are sent.
        txmode: attribute("txmode") => Option<TxMode>,
        /// Doorbells through the kernel.
        ioeventfd: attribute("ioeventfd") => Option<OnOff>,
        /// Suppression of interrupts.
        event_idx: attribute("event_idx") => Option<OnOff>,
        /// Pairs of queues.
        queues: attribute("queues") => Option<u32>,
        /// Entries of a receive queue.
        rx_queue_size: attribute("rx_queue_size") => Option<u32>,
        /// Entries of a transmit queue.
        tx_queue_size: attribute("tx_queue_size") => Option<u32>,
        /// Receive side scaling.
        rss: attribute("rss") => Option<OnOff>,
        /// Hashes reported to the guest.
        rss_hash_report: attribute("rss_hash_report") => Option<OnOff>,
        /// Virtio's switches.
        virtio: part => VirtioOptions,
        /// Offloads of the host.
        host: child("host") => Option<HostOffloads>,
        /// Offloads of the guest.
        guest: child("guest") => Option<GuestOffloads>,
    }

    /// What stands behind it.
    pub struct InterfaceBackend {
        /// Program.
        kind: attribute("type") => Option<NetBackendType>,
        /// Device node for taps.
        tap: attribute("tap") => Option<String>,
        /// Device node for vhost.
        vhost: attribute("vhost") => Option<String>,
        /// Log of the program.
        log_file: attribute("logFile") => Option<String>,
    }

    /// A variable of a filter.
    pub struct FilterParameter {
        /// Name.
        name: required("name") => String,
        /// Value.
        value: required("value") => String,
    }

    /// A packet filter.
    pub struct FilterReference {
        /// Its name.
        filter: required("filter") => String,
        /// Variables.
        parameters: children("parameter") => Vec<FilterParameter>,
    }

    /// Tuning.
    pub struct InterfaceTune {
        /// Send buffer, bytes.
        sndbuf: field("sndbuf") => Option<u64>,
    }

    /// Interfaces that the guest uses as one.
    pub struct Teaming {
        /// Which end.
        kind: required("type") => TeamingType,
        /// Alias of the persistent end.
        persistent: attribute("persistent") => Option<String>,
    }

    /// The cable.
    pub struct Link {
        /// Its state.
        state: required("state") => LinkState,
    }

    /// Largest packet.
    pub struct Mtu {
        /// Bytes.
        size: required("size") => u32,
    }

    /// How many frames are collected.
    pub struct CoalesceFrames {
        /// Frames.
        max: attribute("max") => Option<u32>,
    }

    /// Collecting of received packets.
    pub struct CoalesceRx {
        /// Frames.
        frames: child("frames") => Option<CoalesceFrames>,
    }

    /// Collecting of packets.
    pub struct Coalesce {
        /// Received ones.
        rx: child("rx") => Option<CoalesceRx>,
    }

    /// A network interface.
    pub struct Interface {
        /// What it is connected to.
        kind: required("type") => InterfaceType,
        /// Of type `hostdev`: the host's driver is taken away and given back.
        managed: attribute("managed") => Option<YesNo>,
        /// Whether the host follows the guest's filters.
        trust_guest_rx_filters: attribute("trustGuestRxFilters") => Option<YesNo>,
        /// Address; assigned when absent.
        mac: child("mac") => Option<Mac>,
        /// What it is connected to.
        source: child("source") => Option<InterfaceSource>,
        /// VLANs.
        vlan: child("vlan") => Option<Vlan>,
        /// A switch's port.
        virtual_port: child("virtualport") => Option<VirtualPort>,
        /// Limits.
        bandwidth: child("bandwidth") => Option<Bandwidth>,
        /// A bridge's port.
        port: child("port") => Option<BridgePort>,
        /// Addresses on the guest's side.
        ips: children("ip") => Vec<InterfaceIp>,
        /// Routes on the guest's side.
        routes: children("route") => Vec<InterfaceRoute>,
        /// Forwarded ports.
        port_forwards: children("portForward") => Vec<PortForward>,
        /// Run when it is made.
        script: child("script") => Option<Script>,
        /// Run when it goes.
        down_script: child("downscript") => Option<Script>,
        /// The host's end.
        target: child("target") => Option<InterfaceTarget>,
        /// What the guest sees.
        model: child("model") => Option<InterfaceModel>,
        /// How packets are moved.
        driver: child("driver") => Option<InterfaceDriver>,
        /// What stands behind it.
        backend: child("backend") => Option<InterfaceBackend>,
        /// A packet filter.
        filter: child("filterref") => Option<FilterReference>,
        /// Tuning.
        tune: child("tune") => Option<InterfaceTune>,
        /// Part of a team.
        teaming: child("teaming") => Option<Teaming>,
        /// The cable.
        link: child("link") => Option<Link>,
        /// Largest packet.
        mtu: child("mtu") => Option<Mtu>,
        /// Collecting of packets.
        coalesce: child("coalesce") => Option<Coalesce>,
        /// Alias, boot order, ROM, address.
        info: part => DeviceInfo,
    }
}

impl Interface {
    /// Whether the guest sees a virtio device.
    pub fn is_virtio(&self) -> bool {
        self.model.as_ref().is_some_and(|model| model.kind.starts_with("virtio"))
    }
}
