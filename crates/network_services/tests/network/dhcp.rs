//! Addresses for real clients.

use rustix::process::{Pid, Signal, kill_process};

use super::laboratory::{GUEST, Laboratory, Skipped, description, line, start};

pub(crate) fn udhcpc_gets_an_address_at_the_first_try_and_renews_it() -> Result<(), Skipped> {
    let laboratory = Laboratory::new(&description())?;
    let mut results = laboratory.results();
    let client = laboratory.udhcpc(&[])?;
    let bound = line(&mut results);
    let address = bound.split(' ').nth(1).unwrap().to_owned();
    assert!(address.starts_with("10.7.0.1"), "{bound}");
    assert_eq!(bound, format!("bound {address} 10.7.0.1 10.7.0.1 seven.test 600"));
    let before = laboratory.control(async |mut control| control.leases().await).unwrap();
    assert_eq!(
        (before.len(), before[0].mac.to_string(), before[0].address.to_string()),
        (1, GUEST.into(), address.clone())
    );

    // The client asks its server directly.
    let subscription = laboratory.control(async |control| {
        let mut subscription = control.subscribe().await?;
        let client = Pid::from_child(&client.0);
        kill_process(client, Signal::USR1).unwrap();
        subscription.next().await
    });
    let event = subscription.unwrap();
    assert_eq!(
        (event.change, event.lease.address.to_string()),
        (network_services::LeaseChange::Renewed, address.clone())
    );
    assert!(event.lease.expires >= before[0].expires);
    assert!(line(&mut results).starts_with(&format!("renew {address} ")));

    // And gives the address back.
    let released = laboratory.control(async |control| {
        let mut subscription = control.subscribe().await?;
        kill_process(Pid::from_child(&client.0), Signal::USR2).unwrap();
        subscription.next().await
    });
    assert_eq!(released.unwrap().change, network_services::LeaseChange::Released);
    assert_eq!(laboratory.control(async |mut control| control.leases().await).unwrap(), []);
    Ok(())
}

pub(crate) fn a_fixed_address_is_given() -> Result<(), Skipped> {
    let mut fixed = description();
    fixed.dhcp4.as_mut().unwrap().hosts[0].mac = Some(GUEST.parse().unwrap());
    let laboratory = Laboratory::new(&fixed)?;
    assert!(laboratory.obtain(&[])?.starts_with("bound 10.7.0.20 "));
    Ok(())
}

pub(crate) fn a_guest_keeps_its_lease_over_a_kill_of_the_service() -> Result<(), Skipped> {
    let mut laboratory = Laboratory::new(&description())?;
    let first = laboratory.obtain(&["-x", "hostname:web"])?;
    let before = laboratory.control(async |mut control| control.leases().await).unwrap();
    laboratory.kill();
    laboratory.start();
    let after = laboratory.control(async |mut control| control.leases().await).unwrap();
    assert_eq!((&after, after.len()), (&before, 1));
    assert_eq!(after[0].hostname.as_deref(), Some("web"));
    assert_eq!(laboratory.obtain(&[])?, first);
    // By the same hardware address, as a clone of another guest would come.
    assert_eq!(laboratory.obtain(&["-x", "0x3d:ff0102030405"])?, first);
    Ok(())
}

pub(crate) fn dhclient_gets_addresses_of_both_families() -> Result<(), Skipped> {
    let laboratory = Laboratory::new(&description())?;
    let mut results = laboratory.results();
    let client = |family: &str| {
        let mut command = laboratory.guest.command("dhclient");
        command.args([family, "-d", "-1", "-cf", "/dev/null", "-sf"]).arg(laboratory.path("script"));
        command.arg("-lf").arg(laboratory.path(&format!("leases{family}")));
        command.arg("-pf").arg(laboratory.path(&format!("pid{family}")));
        // It hands nothing else on.
        command.arg("-e").arg(format!("RESULTS={}", laboratory.path("results").display())).arg("eth0");
        start(&mut command, "dhclient")
    };
    let version4 = client("-4")?;
    let bound = line(&mut results);
    assert!(bound.starts_with("BOUND 10.7.0.1"), "{bound}");
    drop(version4);
    let version6 = client("-6")?;
    let bound = line(&mut results);
    let address = bound.split(' ').nth(1).unwrap();
    assert!(address.starts_with("fd00:7::1"), "{bound}");
    assert_eq!(bound, format!("BOUND6 {address} fd00:7::1 seven.test."));
    drop(version6);
    let leases = laboratory.control(async |mut control| control.leases().await).unwrap();
    let of_version6 = leases.iter().find(|lease| lease.address.is_ipv6()).unwrap();
    assert_eq!(
        (of_version6.mac.to_string(), of_version6.address.to_string()),
        (GUEST.into(), address.into())
    );
    assert_eq!(leases.len(), 2);
    Ok(())
}

pub(crate) fn advertisements_make_the_guest_use_the_router() -> Result<(), Skipped> {
    let mut autonomous = description();
    autonomous.router_advertisements.as_mut().unwrap().prefixes[0].autonomous = true;
    let mut laboratory = Laboratory::without_service(&autonomous)?;
    // The kernel is the client; it tells when it has made an address of the prefix, and when the router goes.
    let mut monitor = laboratory.guest.command("ip");
    monitor.args(["-6", "-o", "monitor", "address", "route"]).stdout(std::process::Stdio::piped());
    let mut monitor = super::laboratory::Process(monitor.spawn().unwrap());
    let mut told = std::io::BufRead::lines(std::io::BufReader::new(monitor.0.stdout.take().unwrap()));
    let mut wait_for = |parts: [&str; 2]| {
        let found =
            told.by_ref().map(Result::unwrap).find(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found.is_some());
    };
    // It is not there for the first advertisement, and asks for one.
    laboratory.guest.run("ip", &["link", "set", "eth0", "down"]);
    laboratory.start();
    laboratory.guest.run("ip", &["link", "set", "eth0", "up"]);
    wait_for(["default via fe80", "proto ra"]);
    let addresses = laboratory.guest.run("ip", &["-6", "address", "show", "dev", "eth0"]);
    assert!(addresses.contains("inet6 fd00:7:"), "{addresses}");
    let mut service = laboratory.service.take().unwrap();
    kill_process(Pid::from_child(&service.0), Signal::TERM).unwrap();
    assert!(service.0.wait().unwrap().success());
    wait_for(["Deleted default via fe80", "proto ra"]);
    Ok(())
}
