//! The process: its rights, its lock, its description.

use std::process::Stdio;

use network_services::ControlError;

use super::laboratory::{Laboratory, Skipped, description, said};

pub(crate) fn a_description_is_replaced_whole_or_not_at_all() -> Result<(), Skipped> {
    let laboratory = Laboratory::new(&description())?;
    let first = laboratory.obtain(&[])?;
    let mut wrong = description();
    wrong.dhcp4.as_mut().unwrap().ranges[0].end = "10.8.0.1".parse().unwrap();
    let mut moved = description();
    moved.addresses.pop();
    (moved.dhcp6, moved.router_advertisements) = (None, None);
    for refused in [wrong, moved] {
        let refusal = laboratory.control(async |mut control| control.reload(refused).await);
        assert!(matches!(refusal, Err(ControlError::Refused(_))), "{refusal:?}");
    }
    assert_eq!(laboratory.obtain(&[])?, first);
    let mut smaller = description();
    smaller.dhcp4.as_mut().unwrap().ranges[0].start = "10.7.0.198".parse().unwrap();
    smaller.dhcp4.as_mut().unwrap().ranges[0].lease_seconds = Some(120);
    laboratory.control(async |mut control| control.reload(smaller).await).unwrap();
    let leases = laboratory.control(async |mut control| control.leases().await).unwrap();
    assert_eq!(leases.len(), 1, "no lease is lost");
    let now = laboratory.obtain(&[])?;
    assert!(now.starts_with("bound 10.7.0.19") && now.ends_with(" 120"), "{now}");
    let mac = leases[0].mac;
    let released = laboratory.control(async |mut control| control.release(mac).await).unwrap();
    assert_eq!(released.len(), 1);
    assert_eq!(laboratory.control(async |mut control| control.leases().await).unwrap(), []);
    Ok(())
}

pub(crate) fn the_process_has_no_rights_left_and_is_alone() -> Result<(), Skipped> {
    let mut laboratory = Laboratory::new(&description())?;
    // A thread of its database, too.
    laboratory.obtain(&[])?;
    let pid = laboratory.service.as_ref().unwrap().0.id();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut count = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("Uid:"), "65534 65534 65534 65534");
        assert_eq!(field("Gid:"), "65534 65534 65534 65534");
        assert_eq!(field("Groups:"), "");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
        count += 1;
    }
    assert_eq!(count, 2, "threads");
    let mut second =
        laboratory.service_command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let refusal = said(&mut second);
    assert!(!second.wait().unwrap().success());
    assert!(refusal.contains(&format!("process {pid} serves this network already")), "{refusal}");
    laboratory.kill();
    laboratory.start();
    Ok(())
}
