//! Hosts that exist elsewhere, and this one.

use std::time::Duration;

use crate::{Host, HostError, PagePool, number_list};

struct Files(tempfile::TempDir);

impl Files {
    fn new<P: AsRef<str>, C: AsRef<str>>(files: &[(P, C)]) -> Self {
        let files_of = Self(tempfile::tempdir().unwrap());
        for (path, content) in files {
            let path = files_of.0.path().join(path.as_ref());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content.as_ref()).unwrap();
        }
        files_of
    }

    fn host(&self) -> Host {
        Host::at(self.0.path())
    }
}

/// Two sockets with a cell each; processor 3 is off.
fn two_cells() -> Files {
    let mut files = vec![
        ("sys/devices/system/cpu/present".to_owned(), "0-3\n".to_owned()),
        ("sys/devices/system/cpu/online".to_owned(), "0-2\n".to_owned()),
    ];
    for (cpu, socket, siblings) in [(0, "0", "0-1"), (1, "0", "0-1"), (2, "1", "2")] {
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        files.push((format!("{topology}/physical_package_id"), format!("{socket}\n")));
        files.push((format!("{topology}/die_id"), "-1\n".into()));
        files.push((format!("{topology}/core_id"), "4\n".into()));
        files.push((format!("{topology}/thread_siblings_list"), format!("{siblings}\n")));
    }
    for (node, cpus, distance) in [(0, "0-1", "10 21"), (1, "2", "21 10")] {
        let path = format!("sys/devices/system/node/node{node}");
        files.push((format!("{path}/cpulist"), format!("{cpus}\n")));
        files.push((format!("{path}/distance"), format!("{distance}\n")));
        let meminfo = format!(
            "Node {node} MemTotal:       8000 kB\nNode {node} MemFree:   4000 kB\nNode {node} FilePages: 7 kB\n"
        );
        files.push((format!("{path}/meminfo"), meminfo));
        files.push((format!("{path}/hugepages/hugepages-2048kB/nr_hugepages"), format!("{node}\n")));
        files.push((format!("{path}/hugepages/hugepages-2048kB/free_hugepages"), "0\n".into()));
    }
    Files::new(&files)
}

#[test]
fn processors_belong_to_sockets_cores_and_cells() {
    let files = two_cells();
    let shape: Vec<_> = files
        .host()
        .processors()
        .unwrap()
        .iter()
        .map(|cpu| (cpu.id, cpu.online, cpu.socket, cpu.die, cpu.core, cpu.cell, cpu.siblings.len()))
        .collect();
    let expected = [
        (0, true, 0, 0, 4, 0, 2),
        (1, true, 0, 0, 4, 0, 2),
        (2, true, 1, 0, 4, 1, 1),
        (3, false, 0, 0, 0, 0, 0),
    ];
    assert_eq!(shape, expected);
}

#[test]
fn cells_have_memory_pages_and_distances() {
    let files = two_cells();
    let cells = files.host().cells().unwrap();
    assert_eq!(cells.len(), 2);
    assert_eq!((cells[1].memory.total, cells[1].memory.free, cells[1].memory.cached), (8000, 4000, Some(7)));
    let pages = [PagePool { kib: 4, total: 1488, free: 1000 }, PagePool { kib: 2048, total: 1, free: 0 }];
    assert_eq!(cells[1].pages, pages);
    assert_eq!(cells[1].distances, [(0, 21), (1, 10)]);
    assert_eq!(cells[0].processors, [0, 1]);
}

#[test]
fn a_host_without_numa_is_one_cell() {
    let files = Files::new(&[
        ("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 700 kB\nBuffers: 1 kB\n"),
        ("sys/devices/system/cpu/present", "0-1"),
        ("sys/devices/system/cpu/online", "0-1"),
    ]);
    let cells = files.host().cells().unwrap();
    assert_eq!((cells.len(), cells[0].memory.available), (1, Some(700)));
    assert_eq!(cells[0].processors, [0, 1]);
}

#[test]
fn times_are_of_one_processor_or_of_all() {
    let files = Files::new(&[("proc/stat", "cpu  100 50 10 1000 7 1 2 0 0 0\ncpu1 1 0 0 5 0 0 0 0 0 0\n")]);
    let all = files.host().cpu_times(None).unwrap();
    assert_eq!((all.user, all.kernel), (Duration::from_millis(1500), Duration::from_millis(130)));
    assert_eq!(files.host().cpu_times(Some(1)).unwrap().idle, Duration::from_millis(50));
    assert!(matches!(files.host().cpu_times(Some(0)), Err(HostError::Unknown(_))));
}

#[test]
fn lists_of_the_kernel_are_read() {
    assert_eq!(number_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
    assert_eq!(number_list("\n"), Some(vec![]));
    for wrong in ["a", "1-", "0-4294967295", "-1"] {
        assert_eq!(number_list(wrong), None, "{wrong}");
    }
}

#[test]
fn files_that_make_no_sense_are_named() {
    let files = Files::new(&[("proc/meminfo", "MemTotal: 1 kB\n"), ("proc/stat", "cpu 1 2\n")]);
    let error = files.host().memory().unwrap_err().to_string();
    assert!(error.ends_with("proc/meminfo: there is no number \"MemFree\""), "{error}");
    assert!(files.host().cpu_times(None).is_err());
    assert!(files.host().processor_model().unwrap_err().to_string().contains("proc/cpuinfo"));
}

#[test]
fn this_host_has_processors_and_memory() {
    let host = Host::this();
    assert!(host.processors().unwrap().iter().any(|processor| processor.online));
    let memory: u64 = host.cells().unwrap().iter().map(|cell| cell.memory.total).sum();
    assert!(memory > 0 && memory <= host.memory().unwrap().total);
    assert!(!host.name().unwrap().is_empty());
    assert!(host.cpu_times(None).unwrap().user > Duration::ZERO);
}

#[test]
fn the_firmware_s_strings_are_told_by_table() {
    let files = Files::new(&[
        ("sys/class/dmi/id/bios_vendor", "SeaBIOS\n"),
        ("sys/class/dmi/id/bios_version", "\n"),
        ("sys/class/dmi/id/product_name", " Standard \u{1}PC & co \n"),
        ("sys/class/dmi/id/product_uuid", "01234567-89ab-cdef-0123-456789abcdef\n"),
        ("sys/class/dmi/id/chassis_type", "1\n"),
    ]);
    let tables = files.host().smbios().unwrap();
    let told: Vec<_> = tables.iter().map(|table| (table.name, &table.strings[..])).collect();
    let bios = [("vendor", "SeaBIOS".to_owned())];
    let system = [
        ("product", "Standard PC & co".to_owned()),
        ("uuid", "01234567-89ab-cdef-0123-456789abcdef".to_owned()),
    ];
    assert_eq!(told, [("bios", &bios[..]), ("system", &system[..])]);
    assert_eq!(Files::new(&[("proc/x", "")]).host().smbios().unwrap(), []);
}

#[test]
fn what_went_through_an_interface_is_seen_from_both_ends() {
    let path = "sys/class/net/vnet0/statistics";
    let names = ["rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors"];
    let mut files: Vec<(String, String)> = names
        .iter()
        .zip(1..)
        .map(|(name, number)| (format!("{path}/{name}"), format!("{number}\n")))
        .collect();
    files.push((format!("{path}/tx_dropped"), format!("{}\n", u64::MAX)));
    files.push(("sys/class/net/broken/statistics/rx_bytes".into(), "x\n".into()));
    let files = Files::new(&files);
    let host = files.host();
    let seen = host.interface_statistics("vnet0").unwrap().unwrap();
    assert_eq!((seen.rx_bytes, seen.rx_packets, seen.rx_errors, seen.rx_dropped), (1, 2, 3, 4));
    assert_eq!((seen.tx_bytes, seen.tx_packets, seen.tx_errors, seen.tx_dropped), (5, 6, 7, u64::MAX));
    let guest = seen.reversed();
    assert_eq!((guest.rx_bytes, guest.rx_dropped, guest.tx_bytes, guest.tx_errors), (5, u64::MAX, 1, 3));
    assert_eq!(guest.reversed(), seen);
    for none in ["vnet1", "", ".", "..", "../net/vnet0", "a b", "a:b", "vnet0/../vnet0", "sixteen-letters-"] {
        assert_eq!(host.interface_statistics(none).unwrap(), None, "{none}");
    }
    assert!(matches!(host.interface_statistics("broken"), Err(HostError::Senseless { .. })));
    assert!(Host::this().interface_statistics("lo").unwrap().is_some());
}
