//! The memory that a running guest has, and what it tells of it.

use super::usage::value;
use super::*;

/// 64 MiB, of which the guest is to have 48.
const LESS: &str = "<currentMemory unit='MiB'>48</currentMemory>";

impl Place {
    fn used_memory(&self, domain: &str) -> u64 {
        value(&self.ok(&["dominfo", domain]), "Used memory").unwrap()
    }

    /// Waits until the guest has so many KiB: it follows when it likes to.
    fn wait_memory(&self, domain: &str, kib: u64) {
        let since = Instant::now();
        while self.used_memory(domain) != kib {
            assert!(since.elapsed() < PATIENCE, "{domain} has {} KiB", self.used_memory(domain));
        }
    }

    fn current_memory(&self, arguments: &[&str]) -> String {
        let document = self.ok(&[&["dumpxml"], arguments].concat());
        let line = document.lines().find_map(|line| line.trim().strip_prefix("<currentMemory unit='KiB'>"));
        line.unwrap().trim_end_matches("</currentMemory>").to_owned()
    }
}

#[test]
fn a_guest_has_the_memory_that_it_is_to_have_at_the_start_and_after_each_change() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define_with("one", "", LESS);
    assert_eq!(place.used_memory("one"), 49152);
    place.fails(&["setmem", "one", "32M", "--live"], &["domain is not running"]);
    place.ok(&["start", "one"]);
    place.wait_memory("one", 49152);
    place.ok(&["setmem", "one", "32M", "--live"]);
    place.wait_memory("one", 32768);
    assert_eq!(place.current_memory(&["one"]), "32768");
    assert_eq!(place.current_memory(&["one", "--inactive"]), "49152");
    place.fails(&["setmem", "one", "65M"], &["invalid argument: cannot set memory higher than max memory"]);
    place.fails(
        &["setmaxmem", "one", "128M", "--live"],
        &["cannot resize the maximum memory on an active domain"],
    );
    place.ok(&["setmem", "one", "64M", "--live", "--config"]);
    place.wait_memory("one", 65536);
    assert_eq!(place.current_memory(&["one", "--inactive"]), "65536");
    // One document more than it can have: the guest is not told either.
    place.ok(&["setmaxmem", "one", "32M", "--config"]);
    assert_eq!(place.current_memory(&["one", "--inactive"]), "32768");
    place.fails(&["setmem", "one", "48M", "--live", "--config"], &["higher than max memory"]);
    assert_eq!(place.used_memory("one"), 65536);
    // A guest that starts anew goes where it was sent before.
    place.ok(&["setmem", "one", "48M"]);
    place.wait_memory("one", 49152);
    place.ok(&["reset", "one"]);
    place.wait_memory("one", 49152);
    let before = place.machine("one");
    place.ok(&["reboot", "one"]);
    place.wait_for_another("one", before);
    place.wait_memory("one", 49152);
    // Of a machine that stands still the target is set; its guest follows later.
    place.ok(&["suspend", "one"]);
    place.ok(&["setmem", "one", "40M"]);
    assert_eq!(place.used_memory("one"), 49152);
    place.ok(&["resume", "one"]);
    place.wait_memory("one", 40960);
}

#[test]
fn what_is_shown_is_what_the_guest_has_and_the_next_daemon_knows_it() {
    let place = Place::new();
    let vireod = place.start();
    let _lazy = place.define_with("lazy", "balloon=ignore", LESS);
    let _guest = place.define("one", "");
    for name in ["lazy", "one"] {
        place.ok(&["start", name]);
        place.ok(&["setmem", name, "32M"]);
    }
    place.wait_memory("one", 32768);
    assert_eq!((place.used_memory("lazy"), place.current_memory(&["lazy"]).as_str()), (65536, "65536"));
    assert_eq!(value(&place.ok(&["dommemstat", "lazy"]), "actual"), Some(65536));
    // A guest takes back what it needs.
    place.tell("one", "balloon 1048576");
    place.wait_memory("one", 64512);
    let mut keyboard = place.terminal("one");
    vireod.kill();
    writeln!(keyboard, "balloon 2097152").unwrap();
    let _vireod = place.start();
    place.wait_memory("one", 63488);
    assert_eq!(place.current_memory(&["one"]), "63488");
    for text in [place.ok(&["domstats", "--balloon", "one"]), place.ok(&["dommemstat", "one"])] {
        let current = value(&text, "balloon.current").or_else(|| value(&text, "actual"));
        assert_eq!(current, Some(63488), "{text}");
    }
    // Who claims to hold more than there is has nothing.
    place.tell("one", &format!("balloon {}", u64::MAX));
    place.wait_memory("one", 0);
    place.ok(&["reset", "one"]);
    place.wait_memory("one", 32768);
    place.ok(&["setmem", "lazy", "48M", "--live"]);
    place.ok(&["destroy", "lazy"]);
    assert_eq!(place.used_memory("lazy"), 49152, "what it is to have at the next start");
}

#[test]
fn what_a_guest_tells_of_its_memory_is_shown_with_libvirts_names() {
    let place = Place::new();
    let vireod = place.start();
    let _guest = place.define("one", "balloon=tells");
    place.fails(&["dommemstat", "one", "--period", "5", "--live"], &["domain is not running"]);
    place.ok(&["start", "one"]);
    let wanted = [
        ("actual", "current", 65536),
        ("swap_in", "swap_in", 4),
        ("swap_out", "swap_out", 8),
        ("major_fault", "major_fault", 5),
        ("minor_fault", "minor_fault", 6),
        ("unused", "unused", 20480),
        ("available", "available", 61440),
        ("usable", "usable", 30720),
        ("disk_caches", "disk_caches", 7168),
        ("hugetlb_pgalloc", "hugetlb_pgalloc", 8),
        ("hugetlb_pgfail", "hugetlb_pgfail", 9),
    ];
    let all = place.ok(&["domstats", "--balloon", "one"]);
    let memory = place.ok(&["dommemstat", "one"]);
    for (short, long, figure) in wanted {
        assert_eq!(value(&memory, short), Some(figure), "{short}: {memory}");
        assert_eq!(value(&all, &format!("balloon.{long}")), Some(figure), "{long}: {all}");
    }
    assert_eq!(value(&all, "balloon.maximum"), Some(65536));
    for text in [&all, &memory] {
        let rss = value(text, "rss").or_else(|| value(text, "balloon.rss"));
        assert!(rss.unwrap() > 100, "{text}");
    }
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let updated =
        |text: &str| value(text, "last_update").or_else(|| value(text, "balloon.last-update")).unwrap();
    assert!([&all, &memory].iter().all(|text| now() - updated(text) < 60), "{all} {memory}");
    // The stand-in's figures are as old as their period.
    place.ok(&["dommemstat", "one", "--period", "1000", "--live"]);
    // The clock is read after the answer, so the age is never less than it was.
    let age = || {
        let told = updated(&place.ok(&["dommemstat", "one"]));
        now() - told
    };
    let first = age();
    assert!((1000..1060).contains(&first), "{first}");
    assert!(place.ok(&["dumpxml", "one"]).contains("<stats period='1000'/>"));
    assert!(!place.ok(&["dumpxml", "one", "--inactive"]).contains("<stats"));
    place.ok(&["dommemstat", "one", "--period", "2000", "--config"]);
    assert!(place.ok(&["dumpxml", "one", "--inactive"]).contains("<stats period='2000'/>"));
    vireod.kill();
    let _vireod = place.start();
    let later = age();
    assert!(later >= 1000, "{later}");
    place.ok(&["dommemstat", "one", "--period", "0", "--live"]);
    assert!(!place.ok(&["dumpxml", "one"]).contains("<stats"));
}

#[test]
fn without_a_balloon_a_guest_keeps_its_memory() {
    let place = Place::new();
    let _vireod = place.start();
    let document = document("one", "", "").replace("</devices>", "<memballoon model='none'/></devices>");
    place.ok(&["define", &place.write("one.xml", document)]);
    let _guest = Guest { place: &place, name: "one" };
    place.ok(&["setmem", "one", "32M", "--config"]);
    place.fails(&["start", "one"], &["domain/currentMemory", "without a balloon", "memballoon"]);
    place.ok(&["setmem", "one", "64M", "--config"]);
    place.ok(&["start", "one"]);
    let refused = "Unable to change memory of active domain without the balloon device";
    place.fails(&["setmem", "one", "32M", "--live"], &["Requested operation is not valid", refused]);
    for flag in ["--live", "--config"] {
        let refused = "Memory balloon model must be virtio to set the collection period";
        place.fails(&["dommemstat", "one", "--period", "5", flag], &[refused]);
    }
    let memory = place.ok(&["dommemstat", "one"]);
    assert!(memory.contains("rss") && !memory.contains("actual"), "{memory}");
    assert_eq!(place.used_memory("one"), 65536);
}

#[test]
fn a_machine_that_does_not_take_a_balloon_keeps_its_document() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define("one", "refuse=vm.resize");
    place.ok(&["start", "one"]);
    place.fails(&["setmem", "one", "32M", "--live", "--config"], &["told to refuse vm.resize"]);
    assert_eq!(place.current_memory(&["one"]), "65536");
    assert_eq!(place.current_memory(&["one", "--inactive"]), "65536");
    let hangs = place.define("hangs", "hang=vm.counters");
    place.ok(&["start", "hangs"]);
    let memory = place.ok(&["dommemstat", "hangs"]);
    assert!(value(&memory, "actual") == Some(65536) && memory.contains("rss"), "{memory}");
    drop(hangs);
}

#[test]
fn events_tell_how_much_memory_the_guest_has() {
    let place = Place::new();
    let _vireod = place.start();
    let _guest = place.define_with("one", "", LESS);
    let program = "
import os
libvirt.virEventRegisterDefaultImpl()
heard = []
libvirt.virEventAddTimeout(30000, lambda *_: os._exit(1), None)
connection.close()
connection = libvirt.open(URI)
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
    lambda connection, domain, actual, opaque: heard.append((domain.name(), actual)), None)
timer = libvirt.virEventAddTimeout(50, lambda *_: None, None)
def until(wanted):
    while ('one', wanted) not in heard:
        libvirt.virEventRunDefaultImpl()
    print(heard)
    heard.clear()
domain = connection.lookupByName('one')
domain.create()
until(49152)
domain.setMemory(32768)
until(32768)
domain.reset()
until(32768)
";
    let uri = place.uri(&place.socket());
    let said = python(&uri, &program.replace("URI", &format!("'{uri}'")));
    assert!(said.status.success(), "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines, ["[('one', 49152)]", "[('one', 32768)]", "[('one', 65536), ('one', 32768)]"]);
}
