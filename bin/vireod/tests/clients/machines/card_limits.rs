//! Limits and VLANs of guests' cards, by virsh, in a network of the test's own.

use super::cards::{card, hear, in_network, taps};
use super::*;
use crate::own_network::run;

/// A network of this name on bridge vn0, without addresses unless `more` has some.
fn start_network(place: &Place, more: &str) {
    let document = format!("<network><name>n</name><bridge name='vn0'/>{more}</network>");
    place.ok(&["net-define", &place.write("n.xml", document)]);
    place.ok(&["net-start", "n"]);
}

fn card_of_network(mac: u8, source: &str, more: &str) -> String {
    format!(
        "<interface type='network'><mac address='52:54:00:00:00:{mac:02x}'/><source network='n' {source}/>
         <model type='virtio'/>{more}</interface>"
    )
}

/// The queue of what a guest receives, as `tc` shows it.
fn queue(tap: &str) -> String {
    run("tc", &["qdisc", "show", "dev", tap])
}

/// What domiftune prints, name and number.
fn tuned(place: &Place, card: &str, more: &[&str]) -> Vec<(String, u32)> {
    let printed = place.ok(&[&["domiftune", "one", card], more].concat());
    let fields = printed.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, number)| (name.trim().to_owned(), number.trim().parse().unwrap())).collect()
}

fn inbound(average: u32, peak: u32, burst: u32) -> Vec<(String, u32)> {
    let numbers = [average, peak, burst, 0, 0, 0, 0];
    let names = ["inbound.average", "inbound.peak", "inbound.burst", "inbound.floor", "outbound.average"];
    let names = names.into_iter().chain(["outbound.peak", "outbound.burst"]);
    names.map(str::to_owned).zip(numbers).collect()
}

#[test]
fn what_a_guest_receives_is_limited_by_its_own_words_or_its_port_group_and_changed_while_it_runs() {
    in_network(|| {
        let place = Place::new();
        let vireod = place.start();
        start_network(
            &place,
            "<portgroup name='usual' default='yes'><bandwidth><inbound average='100'/></bandwidth></portgroup>
             <portgroup name='fast'><bandwidth><inbound average='200' peak='400' burst='256'/></bandwidth></portgroup>",
        );
        let own = "<bandwidth><inbound average='300'/></bandwidth>";
        let cards = [
            card_of_network(1, "", ""),
            card_of_network(2, "portgroup='fast'", ""),
            card_of_network(3, "portgroup='fast'", own),
            card(4, own),
            card(5, ""),
        ];
        let _guest = place.define_cards("one", &cards.concat());
        place.ok(&["start", "one"]);
        for (tap, wanted) in [
            ("vnet0", "rate 819200bit burst 128Kb"),
            ("vnet1", "rate 1638Kbit burst 256Kb"),
            ("vnet2", "rate 2457Kbit burst 128Kb"),
            ("vnet3", "rate 2457Kbit burst 128Kb"),
        ] {
            assert!(
                queue(tap).contains(&format!("qdisc tbf 1: root refcnt 2 {wanted}")),
                "{tap}: {}",
                queue(tap)
            );
        }
        assert!(queue("vnet1").contains("peakrate 3276Kbit"), "{}", queue("vnet1"));
        assert!(!queue("vnet4").contains("tbf"));
        assert_eq!(tuned(&place, "vnet1", &[]), inbound(200, 400, 256));
        assert_eq!(tuned(&place, "52:54:00:00:00:02", &["--config"]), inbound(0, 0, 0));
        // Changed while it runs, and for the next start, by either name.
        place.ok(&["domiftune", "one", "vnet4", "--inbound", "1000,2000,512"]);
        assert!(
            queue("vnet4").contains("rate 8192Kbit burst 512Kb peakrate 16384Kbit"),
            "{}",
            queue("vnet4")
        );
        place.ok(&["domiftune", "one", "vnet3", "--inbound", "50", "--live", "--config"]);
        assert!(queue("vnet3").contains("rate 409600bit"), "{}", queue("vnet3"));
        assert_eq!(tuned(&place, "52:54:00:00:00:04", &["--config"]), inbound(50, 0, 0));
        assert!(place.ok(&["dumpxml", "one"]).contains("<inbound average='1000' peak='2000' burst='512'/>"));
        place.ok(&["domiftune", "one", "vnet0", "--inbound", "0"]);
        assert!(!queue("vnet0").contains("tbf"));
        let other = place.write("other.xml", card(5, "<bandwidth><inbound average='700'/></bandwidth>"));
        place.ok(&["update-device", "one", &other, "--live"]);
        assert!(queue("vnet4").contains("rate 5734Kbit"), "{}", queue("vnet4"));
        // What can't be is refused, and changes nothing.
        let before = queue("vnet4");
        let tune = |arguments: &[&str], parts: &[&str]| {
            place.fails(&[&["domiftune", "one"], arguments].concat(), parts);
        };
        tune(&["vnet4", "--inbound", "100,50"], &["peak"]);
        tune(&["vnet4", "--inbound", "100,0,0,50"], &["floor"]);
        tune(&["vnet9", "--inbound", "100"], &["'vnet9' is not a known interface"]);
        assert_eq!((queue("vnet4"), tuned(&place, "vnet4", &[])), (before, inbound(700, 0, 0)));
        // A port group that is changed is for those that come; the next daemon knows what there is.
        let group = "<portgroup name='fast'><bandwidth><inbound average='800'/></bandwidth></portgroup>";
        place.ok(&["net-update", "n", "modify", "portgroup", group, "--live"]);
        vireod.kill();
        let _vireod = place.start();
        assert_eq!(tuned(&place, "vnet1", &[]), inbound(200, 400, 256));
        assert!(queue("vnet1").contains("rate 1638Kbit"), "{}", queue("vnet1"));
        let process = place.machine("one");
        place.ok(&["reboot", "one"]);
        place.wait_for_another("one", process);
        assert_eq!(tuned(&place, "52:54:00:00:00:01", &[]), inbound(0, 0, 0), "no port group counts again");
        place.ok(&["destroy", "one"]);
        place.ok(&["start", "one"]);
        assert_eq!(tuned(&place, "52:54:00:00:00:02", &[]), inbound(800, 0, 0));
        place.ok(&["destroy", "one"]);
        place.ok(&["net-destroy", "n"]);
    });
}

#[test]
fn limits_and_vlans_that_can_not_be_are_refused_with_what_to_do() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        start_network(&place, "<portgroup name='g'/>");
        let vlan = "<vlan><tag id='42'/></vlan>";
        let direct = "<interface type='direct'><source dev='br0' mode='bridge'/><model type='virtio'/>";
        for (card, parts) in [
            (
                card(1, "<bandwidth><inbound average='9' floor='5'/></bandwidth>"),
                &["/inbound/@floor", "guaranteed"],
            ),
            (format!("{direct}{vlan}</interface>"), &["/vlan", "type='network' or 'bridge'"]),
            (
                card(1, vlan),
                &["bridge 'br0' does not keep VLANs apart", "ip link set br0 type bridge vlan_filtering 1"],
            ),
            (
                card_of_network(1, "", vlan),
                &["bridge 'vn0' does not keep VLANs apart", "by a <vlan> of the network"],
            ),
            (card(1, "<vlan><tag id='4095'/></vlan>"), &["/vlan", "VLAN 4095 is not 1 to 4094"]),
            (card_of_network(1, "portgroup='none'", ""), &["network 'n'", "no portgroup 'none'"]),
        ] {
            let _bad = place.define_cards("bad", &card);
            place.fails(&["start", "bad"], parts);
            assert_eq!(taps(), Vec::<String>::new());
            place.ok(&["undefine", "bad"]);
        }
        for (limit, part) in [
            ("<inbound peak='5'/>", "average"),
            ("<outbound average='0'/>", "outbound/@average"),
            ("<inbound average='5' peak='4'/>", "at least the average"),
            ("<inbound average='4294967296'/>", "4294967295 KiB"),
        ] {
            let limited = card(1, &format!("<bandwidth>{limit}</bandwidth>"));
            let document = document("bad", "", "").replace("<devices>", &format!("<devices>{limited}"));
            place.fails(&["define", &place.write("bad.xml", document)], &["bandwidth", part]);
        }
        for (network, part) in [
            ("<vlan><tag id='0'/></vlan>", "VLAN 0 is not 1 to 4094"),
            (
                "<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='4'/></vlan>",
                "bridge 'br0' does not keep",
            ),
            (
                "<forward mode='private' dev='br0'/><vlan><tag id='4'/></vlan>",
                "doesn't support vlan configuration",
            ),
            (
                "<forward mode='bridge'/><bridge name='br0'/><bandwidth><inbound average='4'/></bandwidth>",
                "limits of a network",
            ),
        ] {
            let document = format!("<network><name>m</name>{network}</network>");
            place.fails(&["net-create", &place.write("m.xml", document)], &[part]);
        }
        place.ok(&["net-destroy", "n"]);
    });
}

#[test]
fn a_bridge_has_what_its_network_says() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let shown = |more: &str| {
            let document = format!("<network><name>n</name>{more}</network>");
            place.ok(&["net-create", &place.write("n.xml", document)]);
            let shown = run("ip", &["-d", "link", "show", "vn0"]);
            let queue = queue("vn0");
            place.ok(&["net-destroy", "n"]);
            (shown, queue)
        };
        let (bridge, limits) = shown(
            "<bridge name='vn0' stp='on' delay='4'/><mtu size='1400'/><mac address='52:54:00:aa:bb:cc'/>
             <bandwidth><inbound average='1024'/></bandwidth>",
        );
        for part in ["mtu 1400", "stp_state 1", "forward_delay 400 ", "52:54:00:aa:bb:cc"] {
            assert!(bridge.contains(part), "{part}: {bridge}");
        }
        assert!(limits.contains("rate 8388Kbit"), "{limits}");
        let (bridge, limits) = shown("<bridge name='vn0' stp='off' delay='0'/>");
        for part in ["mtu 1500", "stp_state 0", "forward_delay 0 "] {
            assert!(bridge.contains(part), "{part}: {bridge}");
        }
        assert!(!limits.contains("tbf"));
    });
}

#[test]
fn a_card_on_a_network_is_listed_counted_and_unplugged() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        start_network(&place, "");
        let _guest = place.define_cards("one", &card_of_network(1, "", ""));
        place.ok(&["start", "one"]);
        let list = place.ok(&["domiflist", "one"]);
        let row = ["vnet0", "network", "n", "virtio", "52:54:00:00:00:01"];
        assert!(list.lines().any(|line| line.split_whitespace().eq(row)), "{list}");
        place.sends("one", "vnet0", 0, 3);
        assert_eq!(place.counted("one", "vnet0", "tx_bytes"), 180);
        let statistics = place.ok(&["domstats", "one", "--interface"]);
        for part in ["net.count=1", "net.0.name=vnet0", "net.0.tx.bytes=180", "net.0.tx.pkts=3"] {
            assert!(statistics.contains(part), "{part}: {statistics}");
        }
        // What virsh sends back is the live document with another link, bridge and port in it.
        let mut terminal = place.terminal("one");
        place.ok(&["domif-setlink", "one", "vnet0", "down"]);
        hear(&mut terminal, "cable net0 is down");
        assert_eq!(place.ok(&["domif-getlink", "one", "vnet0"]).trim(), "vnet0 down");
        // Also when the network has gone.
        place.ok(&["net-destroy", "n"]);
        place.ok(&["domif-setlink", "one", "52:54:00:00:00:01", "up"]);
        hear(&mut terminal, "cable net0 is up");
    });
}

#[test]
fn guests_are_in_the_vlans_that_they_their_port_group_or_their_network_say() {
    in_network(|| {
        let place = Place::new();
        let vireod = place.start();
        let document = "<network><name>n</name><bridge name='vn0'/><vlan><tag id='10'/></vlan>
            <portgroup name='trunk'><vlan trunk='yes'><tag id='20' nativeMode='untagged'/><tag id='30'/></vlan></portgroup>
            </network>";
        place.ok(&["net-define", &place.write("n.xml", document)]);
        let started = place.virsh(&["net-start", "n"]);
        if started.err.contains("CONFIG_BRIDGE_VLAN_FILTERING") {
            eprintln!("skipped: {}", started.err.trim());
            return assert_eq!(run("ip", &["-br", "link", "show", "type", "bridge"]).lines().count(), 1);
        }
        assert!(started.status.success(), "{started:?}");
        let cards = [
            card_of_network(1, "", ""),
            card_of_network(2, "portgroup='trunk'", ""),
            card_of_network(3, "portgroup='trunk'", "<vlan><tag id='40'/></vlan>"),
        ];
        let _guest = place.define_cards("one", &cards.concat());
        place.ok(&["start", "one"]);
        let vlans = |tap: &str| -> Vec<String> {
            let listed = run("bridge", &["vlan", "show", "dev", tap]);
            let lines = listed.lines().skip(1).map(|line| line.trim_start_matches(tap).trim().to_owned());
            lines.collect()
        };
        assert_eq!(vlans("vnet0"), ["10 PVID Egress Untagged"]);
        assert_eq!(vlans("vnet1"), ["20 PVID Egress Untagged", "30"]);
        assert_eq!(vlans("vnet2"), ["40 PVID Egress Untagged"]);
        let other =
            place.write("other.xml", card_of_network(3, "portgroup='trunk'", "<vlan><tag id='50'/></vlan>"));
        place.ok(&["update-device", "one", &other, "--live"]);
        assert_eq!(vlans("vnet2"), ["50 PVID Egress Untagged"]);
        // They stay when the daemon comes new, and when the network is made anew.
        vireod.kill();
        let _vireod = place.start();
        place.ok(&["net-destroy", "n"]);
        place.ok(&["net-start", "n"]);
        assert_eq!(vlans("vnet1"), ["20 PVID Egress Untagged", "30"]);
        assert_eq!(vlans("vnet2"), ["50 PVID Egress Untagged"]);
        place.ok(&["destroy", "one"]);
        place.ok(&["net-destroy", "n"]);
    });
}
