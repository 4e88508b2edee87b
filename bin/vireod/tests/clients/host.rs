//! The host, as virsh shows it.

use super::*;

#[test]
fn the_connection_says_who_answers() {
    let place = Place::new();
    let _vireod = place.start();
    let uri = place.uri(&place.socket());
    assert_eq!(place.ok(&["uri"]).trim(), uri);
    let version = place.ok(&["version"]);
    assert!(version.contains("Running hypervisor: QEMU 10."), "{version}");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(place.ok(&["hostname"]).trim(), name.trim());
    assert_eq!(place.ok(&["maxvcpus"]).trim(), "254");
    let told = python(
        &uri,
        "print(connection.getType(), connection.isSecure(), connection.isAlive(), connection.getURI().split('?')[0])",
    );
    let own = uri.split('?').next().unwrap();
    assert_eq!(told.out.trim(), format!("QEMU 1 1 {own}"), "{told:?}");
}

#[test]
fn processors_and_memory_are_the_host_s() {
    let place = Place::new();
    let _vireod = place.start();
    let field = |text: &str, name: &str| -> u64 {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = field(&memory, "MemTotal:");
    let online = std::fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t:").count() as u64;
    let information = place.ok(&["nodeinfo"]);
    assert_eq!(field(&information, "CPU(s):"), online);
    assert_eq!(field(&information, "Memory size:"), total);
    let product: u64 = ["CPU socket(s):", "Core(s) per socket:", "Thread(s) per core:", "NUMA cell(s):"]
        .iter()
        .map(|name| field(&information, name))
        .product();
    let map = place.ok(&["nodecpumap"]);
    assert_eq!(field(&map, "CPUs online:"), online);
    assert_eq!(field(&map, "CPUs present:"), product);
    assert_eq!(
        map.lines().find(|line| line.starts_with("CPU map:")).unwrap().matches('y').count() as u64,
        online
    );
    for name in ["user:", "system:", "idle:", "iowait:"] {
        field(&place.ok(&["nodecpustats"]), name);
        field(&place.ok(&["nodecpustats", "0"]), name);
    }
    place.fails(&["nodecpustats", "70000"], &["this host has no processor 70000"]);
    let statistics = place.ok(&["nodememstats"]);
    assert_eq!(field(&statistics, "total"), total);
    assert!(field(&statistics, "free") < total);
    place.fails(&["nodememstats", "4000"], &["this host has no cell 4000"]);
    assert!(place.ok(&["freecell"]).starts_with("Total: "));
    place.fails(&["freecell", "4000"], &["start cell 4000 out of range (0-"]);
    assert!(place.ok(&["freepages", "0", "4"]).starts_with("4KiB: "));
    place.fails(&["freepages", "0", "5"], &["page size 5 is not available on node 0"]);
}

#[test]
fn lists_of_what_is_not_managed_are_empty() {
    let place = Place::new();
    let _vireod = place.start();
    for list in ["iface-list", "nwfilter-list", "secret-list"] {
        let printed = place.ok(&[list]);
        assert_eq!(
            printed.lines().filter(|line| !line.trim().is_empty()).count(),
            2,
            "only a head: {printed}"
        );
    }
    assert_eq!(place.ok(&["nodedev-list"]).trim(), "");
}

#[test]
fn system_information_is_the_firmware_s_or_missing() {
    let place = Place::new();
    let _vireod = place.start();
    match std::fs::read_to_string("/sys/class/dmi/id/bios_vendor") {
        Ok(vendor) => {
            let printed = place.ok(&["sysinfo"]);
            assert!(printed.starts_with("<sysinfo type='smbios'>"), "{printed}");
            assert!(vendor.trim().is_empty() || printed.contains("<entry name='vendor'>"), "{printed}");
        }
        Err(_) => place.fails(&["sysinfo"], &["failed to get sysinfo", "unsupported configuration"]),
    }
}

#[test]
fn what_is_not_there_is_not_supported_and_the_connection_goes_on() {
    let place = Place::new();
    let _vireod = place.start();
    let told = python(
        &place.uri(&place.socket()),
        "
libvirt.registerErrorHandler(lambda *_: None, None)
for ask in (lambda: connection.nodeDeviceLookupByName('x'), lambda: connection.suspendForDuration(0, 60),
            lambda: connection.interfaceLookupByName('x')):
    try:
        ask()
        print('answered')
    except libvirt.libvirtError as error:
        print(error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT, connection.isAlive())
",
    );
    assert_eq!(told.out, "True 1\n".repeat(3), "{told:?}");
}
