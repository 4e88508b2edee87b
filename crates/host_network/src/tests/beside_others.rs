//! Docker, firewalld and administrators.

use super::*;

/// What Docker makes for its default bridge, up to version 27.
const DOCKER_24: &str = "
    -N DOCKER-ISOLATION-STAGE-1
    -N DOCKER-ISOLATION-STAGE-2
    -A FORWARD -j DOCKER-USER
    -A FORWARD -j DOCKER-ISOLATION-STAGE-1
    -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A FORWARD -o docker0 -j DOCKER
    -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
    -A FORWARD -i docker0 -o docker0 -j ACCEPT
    -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
    -A DOCKER-ISOLATION-STAGE-1 -j RETURN
    -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
    -A DOCKER-ISOLATION-STAGE-2 -j RETURN
    -A DOCKER-USER -j RETURN";

/// The same since version 28, which leaves `DOCKER-USER` empty, with a container that has a published port.
const DOCKER_28: &str = "
    -N DOCKER-BRIDGE
    -N DOCKER-CT
    -N DOCKER-FORWARD
    -N DOCKER-ISOLATION-STAGE-1
    -N DOCKER-ISOLATION-STAGE-2
    -A FORWARD -j DOCKER-USER
    -A FORWARD -j DOCKER-FORWARD
    -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
    -A DOCKER ! -i docker0 -o docker0 -j DROP
    -A DOCKER-BRIDGE -o docker0 -j DOCKER
    -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A DOCKER-FORWARD -j DOCKER-CT
    -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
    -A DOCKER-FORWARD -j DOCKER-BRIDGE
    -A DOCKER-FORWARD -i docker0 -j ACCEPT
    -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
    -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
    -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80";

/// Lines of a shell that make Docker's rules with a program.
fn docker(iptables: &str, forward: &str) -> String {
    let always = "
        -P FORWARD DROP
        -N DOCKER
        -N DOCKER-USER
        -t nat -N DOCKER
        -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
        -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
        -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
        -t nat -A DOCKER -i docker0 -j RETURN";
    let lines = always.lines().chain(forward.lines()).map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| format!("{iptables} {line}\n")).collect()
}

/// What firewalld (1.3.3 of Debian 12) makes as it is installed, with `up0` in the zone `public`: listed by nft.
const FIREWALLD: &str = include_str!("firewalld.nft");

fn firewalld(host: &Host) {
    let path = host.directory.path().join("firewalld.nft");
    std::fs::write(&path, FIREWALLD).unwrap();
    sh(&format!("nft -f {}", path.display()));
}

fn without_counters(rules: &str) -> String {
    let words = rules.lines().map(|line| match line.split_once("counter packets") {
        Some((before, after)) => format!("{before}{}", after.splitn(5, ' ').last().unwrap()),
        None => line.to_owned(),
    });
    words.collect::<Vec<_>>().join("\n")
}

/// Whether a guest reaches outside and is reached by a forwarded port.
async fn passes(host: &Host, networks: &HostNetwork, network: &Network, outside: &Guest) -> (bool, bool) {
    let guest = host.guest_of(networks, network, 10).await;
    let listener = guest.listen("192.168.122.10:80");
    let passes = (guest.reaches("203.0.113.2"), outside.call("203.0.113.1:8080").is_some());
    drop(listener);
    drop(guest);
    sh("ip link del vnet10 2>/dev/null || true");
    passes
}

fn with_forward() -> Network {
    let mut network = nat();
    network.forwards = vec![forward(8080, "192.168.122.10", 80)];
    network
}

#[test]
fn packets_pass_where_docker_drops_what_it_does_not_know() {
    if Command::new("iptables-nft").arg("-V").output().is_err() {
        return eprintln!("skipped: no iptables-nft");
    }
    for (forward, last) in [(DOCKER_24, "-A DOCKER-USER -j RETURN"), (DOCKER_28, "to guests\" -j ACCEPT")] {
        on_a_host(async move |host: Host| {
            let outside = host.outside();
            sh(&docker("iptables-nft", forward));
            let before = without_counters(&sh("nft list ruleset"));
            let (networks, network) = (host.networks(), with_forward());
            networks.check(&network, &[]).await.unwrap();
            networks.start(&network).await.unwrap();
            assert_eq!(
                passes(&host, &networks, &network, &outside).await,
                (true, true),
                "{}",
                sh("nft list ruleset")
            );
            let listed = sh("iptables-nft -S DOCKER-USER");
            let lines: Vec<&str> = listed.lines().collect();
            assert!(lines[1].contains("virbr0") && lines[2].contains("virbr0"), "{listed}");
            assert!(lines.last().unwrap().ends_with(last), "{listed}");
            assert_eq!(sh("iptables-nft -S FORWARD").matches("virbr0").count(), 0);
            // Docker's own rules are as they were, also after its start has put its jump in front again.
            sh("iptables-nft -D FORWARD -j DOCKER-USER; iptables-nft -I FORWARD -j DOCKER-USER");
            assert_eq!(passes(&host, &networks, &network, &outside).await, (true, true));
            networks.stop(&network).await.unwrap();
            assert_eq!(without_counters(&sh("nft list ruleset")), before);
            assert_eq!(crate::sysctl::read("ipv4/ip_forward").unwrap(), "1", "Docker needs it");
        });
    }
}

#[test]
fn packets_pass_where_docker_has_the_old_filter() {
    for forward in [DOCKER_24, DOCKER_28] {
        on_a_host(async move |host: Host| {
            let listed = Command::new("iptables-legacy").arg("-S").output();
            if !listed.is_ok_and(|output| output.status.success()) {
                return eprintln!("skipped: no iptables-legacy in program or kernel");
            }
            let outside = host.outside();
            sh(&docker("iptables-legacy", forward));
            let before = sh("iptables-legacy -S");
            let (networks, network) = (host.networks(), with_forward());
            networks.start(&network).await.unwrap();
            let passing = passes(&host, &networks, &network, &outside).await;
            assert_eq!(passing, (true, true), "{}", sh("iptables-legacy -S"));
            // Once more, as after a crash: nothing is there twice.
            let with = sh("iptables-legacy -S");
            let failed = host.networks().repair(std::slice::from_ref(&network), Vec::new()).await.unwrap();
            assert!(failed.is_empty(), "{failed:?}");
            assert_eq!(sh("iptables-legacy -S"), with);
            networks.stop(&network).await.unwrap();
            assert_eq!(sh("iptables-legacy -S"), before);
        });
    }
}

#[test]
fn packets_pass_where_firewalld_rejects_what_it_does_not_know_and_after_its_reload() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        firewalld(&host);
        let before = sh("nft list ruleset");
        let (networks, network) = (host.networks(), with_forward());
        networks.start(&network).await.unwrap();
        let _watcher = networks.watch().unwrap();
        assert_eq!(
            passes(&host, &networks, &network, &outside).await,
            (true, true),
            "{}",
            sh("nft list ruleset")
        );
        let guest = host.guest_of(&networks, &network, 11).await;
        let _dns = TcpListener::bind("192.168.122.1:53").unwrap();
        let _other = TcpListener::bind("192.168.122.1:81").unwrap();
        assert!(guest.call("192.168.122.1:53").is_some(), "names");
        assert!(guest.reaches("192.168.122.1"), "ICMP");
        assert!(guest.call("192.168.122.1:81").is_none(), "what it refuses otherwise stays refused");
        // As a reload does: all of its own away, and there again.
        sh("nft delete table inet firewalld");
        firewalld(&host);
        eventually(|| sh("nft list table inet firewalld").contains("virbr0")).await;
        assert!(guest.reaches("203.0.113.2"));
        networks.stop(&network).await.unwrap();
        assert_eq!(sh("nft list ruleset"), before);
    });
}

/// Waits for what a task of the test's own runtime does.
async fn eventually(mut happened: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(std::time::Instant::now() < deadline, "it never happens: {}", sh("nft list ruleset"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn rules_are_put_back_when_somebody_flushes_them() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        let (networks, network) = (host.networks(), with_forward());
        networks.start(&network).await.unwrap();
        let guard = Guard {
            interface: "vnet10".to_owned(),
            mac: [0x52, 0x54, 0, 0, 0, 10],
            addresses: vec![subnet("192.168.122.10/32")],
        };
        networks.guard(guard).await.unwrap();
        let before = sh("nft list ruleset");
        let _watcher = networks.watch().unwrap();
        for damage in [
            "nft flush ruleset",
            "nft flush chain inet vireo translate",
            "nft delete table bridge vireo",
            "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'",
        ] {
            sh(damage);
            eventually(|| {
                let now = sh("nft list ruleset");
                now.contains(before.trim())
                    && (!now.contains("policy drop") || now.contains("virbr0 to guests"))
            })
            .await;
            assert_eq!(passes(&host, &networks, &network, &outside).await, (true, true), "{damage}");
        }
        assert!(sh("nft list table ip filter").contains("vireo: virbr0 from guests"));
    });
}

#[test]
fn others_rules_that_do_not_refuse_are_left_alone() {
    on_a_host(async |host: Host| {
        let rules = "nft add table inet mine; \
            nft add chain inet mine forward '{ type filter hook forward priority 0; policy accept; }'; \
            nft add rule inet mine forward iifname virbr9 drop; \
            nft add rule inet mine forward iifname != virbr9 oifname virbr9 drop; \
            nft add chain inet mine input '{ type filter hook input priority 0; policy drop; }'; \
            nft add rule inet mine input accept";
        sh(rules);
        let before = sh("nft list table inet mine");
        let (networks, network) = (host.networks(), nat());
        networks.start(&network).await.unwrap();
        assert_eq!(sh("nft list table inet mine"), before);
        sh("nft add rule inet mine forward ip saddr 192.168.0.0/16 drop");
        networks.start(&network).await.unwrap();
        assert!(sh("nft list table inet mine").contains("vireo: virbr0 to guests"));
        networks.stop(&network).await.unwrap();
        assert!(!sh("nft list table inet mine").contains("vireo"));
    });
}
