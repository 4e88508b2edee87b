//! Networks that can't be: refused with a line that says what collides with what, and nothing is changed.

use std::net::{TcpListener, UdpSocket};

use super::*;
use crate::own_network::{host, in_network, sh};

/// A subnet that is free, with something inside.
fn subnet(inside: &str) -> String {
    format!("<ip address='10.77.1.1' prefix='24'>{inside}</ip>")
}

fn dhcp(inside: &str) -> String {
    subnet(&format!("<dhcp>{inside}</dhcp>"))
}

/// A document of a network with address translation on a bridge of its own.
fn document(bridge: &str, inside: &str) -> String {
    format!(
        "<network xmlns:vireo='urn:vireo:network:1'><name>bad</name><forward mode='nat'/><bridge name='{bridge}'/>{inside}</network>"
    )
}

fn forwarded(forward: &str) -> String {
    document("vt-bad", &subnet("")).replace(
        "</network>",
        &format!("<vireo:options><vireo:portForward {forward}/></vireo:options></network>"),
    )
}

/// Files that a daemon has for its networks.
fn files(place: &Place) -> String {
    sh(&format!("cd {}; find state/networks run/networks -mindepth 1 2>/dev/null || true", place.text("")))
}

/// What a host must not notice.
fn everything(place: &Place) -> (Vec<String>, String, String) {
    (host(), files(place), place.ok(&["net-list", "--all"]))
}

#[test]
fn a_document_that_contradicts_itself_is_not_defined() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let before = everything(&place);
        let host = |mac: &str, ip: &str, name: &str| {
            format!("<host mac='52:54:00:00:00:0{mac}' ip='{ip}' name='{name}'/>")
        };
        let two = |one: String, other: String| document("vt-bad", &dhcp(&(one + &other)));
        for (document, message) in [
            (
                document("vt-bad", &dhcp("<range start='10.77.2.2' end='10.77.2.9'/>")),
                "range 10.77.2.2 - 10.77.2.9 is not entirely within network 10.77.1.1/24",
            ),
            (
                document("vt-bad", &dhcp("<range start='10.77.1.2' end='10.77.1.255'/>")),
                "10.77.1.1/24 is the broadcast address",
            ),
            (
                two(host("1", "10.77.1.5", "a"), host("1", "10.77.1.6", "b")),
                "two static hosts in network 'bad' have the MAC address '52:54:00:00:00:01'",
            ),
            (
                two(host("1", "10.77.1.5", "a"), host("2", "10.77.1.5", "b")),
                "two static hosts in network 'bad' have the IP address '10.77.1.5'",
            ),
            (
                two(host("1", "10.77.1.5", "a"), host("2", "10.77.1.6", "A")),
                "two static hosts in network 'bad' have the name 'a'",
            ),
            (
                two(host("1", "10.77.2.5", "a"), String::new()),
                "static host '10.77.2.5' is not within network 10.77.1.1/24",
            ),
            (
                document("vt-bad", "<ip family='ipv6' address='fd00::1'/>"),
                "IPv6 address 'fd00::1' in network 'bad' has no prefix: give one, as in prefix='64'",
            ),
            (
                document("vt-bad", &(subnet("") + "<ip address='10.77.0.1' prefix='16'/>")),
                "addresses '10.77.1.1' and '10.77.0.1' in network 'bad' are in overlapping subnets",
            ),
            (document("sixteen-letters-", &subnet("")), "'sixteen-letters-' can't be the name of a bridge"),
            (document("a/b", &subnet("")), "'a/b' can't be the name of a bridge"),
            (document("..", &subnet("")), "'..' can't be the name of a bridge"),
            (document("a\"b", &subnet("")), "'a\"b' is not a name that the kernel takes for an interface"),
            (document("all", &subnet("")), "'all' can't be the name of a bridge"),
            (document("default", &subnet("")), "'default' can't be the name of a bridge"),
            (
                forwarded("proto='tcp' port='80' to='10.77.9.2'"),
                "forward of tcp port 80 in network 'bad': '10.77.9.2' can't be a guest's address there",
            ),
            (
                forwarded(
                    "proto='tcp' port='80' to='10.77.1.2'/><vireo:portForward proto='tcp' port='80' to='10.77.1.3'",
                ),
                "forward of tcp port 80 in network 'bad': the port is forwarded to '10.77.1.2' as well",
            ),
        ] {
            let file = place.write("bad.xml", document);
            for verb in ["net-define", "net-create"] {
                place.fails(&[verb, &file], &[message]);
                assert_eq!(everything(&place), before, "{verb}: {message}");
            }
        }
    });
}

#[test]
fn what_another_network_has_is_not_taken() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let other = document("vt-other", &dhcp("<range start='10.77.1.2' end='10.77.1.9'/>"))
            .replace("bad", "other")
            .replace("<forward", "<mac address='52:54:00:00:00:99'/><forward")
            .replace("</network>", "<vireo:options><vireo:portForward proto='udp' port='5300' to='10.77.1.2'/></vireo:options></network>");
        place.ok(&["net-create", &place.write("other.xml", &other)]);
        let uuid = place.ok(&["net-uuid", "other"]);
        let before = everything(&place);
        let free = "<ip address='10.77.2.1' prefix='24'/>";
        let forward =
            "<vireo:options><vireo:portForward proto='udp' port='5300' to='10.77.2.2'/></vireo:options>";
        for (document, message) in [
            (
                document("vt-bad", free).replace("<name>bad", "<name>other"),
                format!("network 'other' already exists with uuid {}", uuid.trim()),
            ),
            (
                document("vt-bad", free)
                    .replace("<forward", &format!("<uuid>{}</uuid><forward", uuid.trim())),
                format!("network 'other' is already defined with uuid {}", uuid.trim()),
            ),
            (
                document("vt-other", free),
                "bridge name 'vt-other' already in use by network 'other'".to_owned(),
            ),
            (
                document("vt-bad", "<ip address='10.77.0.1' prefix='16'/>"),
                "network 'bad': its subnet 10.77.0.1/16 overlaps 10.77.1.1/24 of network 'other'".to_owned(),
            ),
            (
                document("vt-bad", free).replace("<forward", "<mac address='52:54:00:00:00:99'/><forward"),
                "the bridge of network 'other' has the MAC address 52:54:00:00:00:99 as well".to_owned(),
            ),
            (
                document("vt-bad", &(free.to_owned() + forward)),
                "UDP port 5300 to 10.77.2.2 port 5300: network 'other' forwards UDP port 5300 to 10.77.1.2"
                    .to_owned(),
            ),
        ] {
            place.fails(&["net-create", &place.write("bad.xml", document)], &[&message]);
            assert_eq!(everything(&place), before, "{message}");
        }
    });
}

#[test]
fn what_the_host_has_is_not_taken() {
    in_network(|| {
        sh("ip link add up0 type veth peer name up1; ip addr add 203.0.113.1/24 dev up0; ip link set up0 up; ip link set up1 up
            ip route add 10.66.0.0/16 via 203.0.113.2; ip link add br9 type bridge; ip link set br9 alias mine");
        let place = Place::new();
        let _vireod = place.start();
        let tcp = TcpListener::bind("0.0.0.0:2022").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:2053").unwrap();
        let other = |mode: &str, inside: &str| {
            format!("<network><name>bad</name><forward mode='{mode}'>{inside}</network>")
        };
        for (document, message) in [
            (
                document("vt-bad", "<ip address='203.0.113.129' prefix='25'/>"),
                "network 'bad': its subnet 203.0.113.129/25 overlaps the address 203.0.113.1/24 of interface 'up0'",
            ),
            (
                document("vt-bad", "<ip address='10.66.7.1' prefix='24'/>"),
                "network 'bad': its subnet 10.66.7.1/24 overlaps the route 10.66.0.0/16 of interface 'up0'",
            ),
            (
                document("up0", &subnet("")),
                "the bridge's name 'up0' is that of an interface of somebody else",
            ),
            (document("br9", &subnet("")), "the bridge's name 'br9' is that of an interface of 'mine'"),
            (
                forwarded("proto='tcp' port='2022' to='10.77.1.2'"),
                "TCP port 2022 to 10.77.1.2 port 2022: a program of this host listens at this port",
            ),
            (
                forwarded("proto='udp' port='2053' to='10.77.1.2' toPort='53'"),
                "UDP port 2053 to 10.77.1.2 port 53: a program of this host listens at this port",
            ),
            (
                forwarded("proto='tcp' port='80' address='192.0.2.9' to='10.77.1.2'"),
                "TCP port 80 of 192.0.2.9 to 10.77.1.2 port 80: the host does not have this address",
            ),
            (
                document("vt-bad", &subnet("")).replace("mode='nat'", "mode='nat' dev='eth9'"),
                "there is no interface 'eth9' on this host",
            ),
            (other("bridge", "</forward><bridge name='br8'/>"), "there is no bridge 'br8' on this host"),
            (other("bridge", "</forward><bridge name='up0'/>"), "interface 'up0' is not a bridge"),
            (
                other("private", "<interface dev='eth9'/></forward>"),
                "there is no interface 'eth9' on this host",
            ),
        ] {
            place.ok(&["net-define", &place.write("bad.xml", document)]);
            let before = everything(&place);
            place.fails(&["net-start", "bad"], &["error: Failed to start network bad", message]);
            assert_eq!(everything(&place), before, "{message}");
            place.ok(&["net-undefine", "bad"]);
        }
        // What is free again is had.
        drop((tcp, udp));
        place.ok(&[
            "net-create",
            &place.write("bad.xml", forwarded("proto='tcp' port='2022' to='10.77.1.2'")),
        ]);
        place.ok(&["net-destroy", "bad"]);
    });
}

#[test]
fn a_change_that_collides_is_not_made() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let range = "<range start='10.77.1.2' end='10.77.1.9'/>";
        let host = "<host mac='52:54:00:00:00:01' ip='10.77.1.5' name='a'/>";
        let text = document("vt-n", &dhcp(&format!("{range}{host}"))).replace("bad", "n");
        place.ok(&["net-define", &place.write("n.xml", text)]);
        place.ok(&["net-start", "n"]);
        let served = || sh(&format!("cat {}/*/description", place.text("run/networks")));
        let seen = || (everything(&place), place.ok(&["net-dumpxml", "n"]), served());
        let before = seen();
        for (section, entry, message) in [
            (
                "ip-dhcp-host",
                "<host mac='52:54:00:00:00:01' ip='10.77.1.6'/>",
                "there is an existing dhcp host entry in network 'n' that matches",
            ),
            (
                "ip-dhcp-host",
                "<host mac='52:54:00:00:00:02' ip='10.77.1.5'/>",
                "there is an existing dhcp host entry in network 'n' that matches",
            ),
            (
                "ip-dhcp-host",
                "<host mac='52:54:00:00:00:02' ip='10.77.2.5'/>",
                "static host '10.77.2.5' is not within network 10.77.1.1/24",
            ),
            (
                "ip-dhcp-host",
                "<host mac='52:54:00:00:00:02' ip='10.77.1.1'/>",
                "static host '10.77.1.1' in network 'n' has the address of the host",
            ),
            (
                "ip-dhcp-range",
                "<range start='10.77.1.250' end='10.77.2.3'/>",
                "range 10.77.1.250 - 10.77.2.3 is not entirely within network 10.77.1.1/24",
            ),
            (
                "ip-dhcp-range",
                "<range start='10.77.1.9' end='10.77.1.20'/>",
                "range 10.77.1.2 - 10.77.1.9 overlaps with range 10.77.1.9 - 10.77.1.20",
            ),
            ("dns-host", "<host ip='10.77.1.300'><hostname>a</hostname></host>", "10.77.1.300"),
        ] {
            for place_of in ["--live", "--config"] {
                place.fails(&["net-update", "n", "add", section, entry, place_of], &[message]);
                assert_eq!(seen(), before, "{section} {entry} {place_of}");
            }
        }
    });
}

/// Has the kernel answer as one without packet filters does: socket(AF_NETLINK, _, NETLINK_NETFILTER) is EPROTONOSUPPORT (seccomp(2);
/// a filter of linux/filter.h for x86-64).
const WITHOUT_FILTERS: &str = "
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 4), (0x15, 0, 6, 0xC000003E), (0x20, 0, 0, 0), (0x15, 0, 4, 41), (0x20, 0, 0, 16), (0x15, 0, 2, 16),
        (0x20, 0, 0, 32), (0x15, 1, 0, 12), (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | 93)]
instructions = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *one) for one in code))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
program = Program(len(code), ctypes.addressof(instructions))
if ctypes.CDLL(None).prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit('no seccomp')
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_host_without_packet_filters_or_a_daemon_without_rights_starts_no_network() {
    in_network(|| {
        let cases = [
            (
                vec!["/usr/bin/python3", "-c", WITHOUT_FILTERS],
                "the kernel has no nftables here (Protocol not supported",
            ),
            (
                vec!["setpriv", "--bounding-set=-net_admin"],
                "making networks takes CAP_NET_ADMIN: run the daemon as root",
            ),
        ];
        for (wrapper, message) in cases {
            let place = Place::new();
            let daemon = place.command();
            let mut command = Command::new(wrapper[0]);
            command.args(&wrapper[1..]).arg(daemon.get_program()).args(daemon.get_args());
            let vireod = Vireod::start(command, place.path("log"));
            place.ok(&["net-define", &place.write("bad.xml", document("vt-bad", &subnet("")))]);
            let before = (host(), place.ok(&["net-list", "--all"]));
            place.fails(&["net-start", "bad"], &["network 'bad': ", message]);
            assert_eq!((host(), place.ok(&["net-list", "--all"])), before);
            assert_eq!(sh(&format!("find {} -mindepth 1", place.text("run/networks"))), "");
            assert_eq!(vireod.log(), "", "whoever asked was told");
        }
    });
}
