//! Threads of a process, and what the kernel's files may say.

use proptest::prelude::*;

use super::*;
use crate::machine_process::stand_in::{StandIn, Work};

#[test]
fn threads_are_found_by_what_they_are_called() {
    let machine = StandIn::start(Work::Idle);
    let threads = ProcessThreads::of(machine.pid());
    let all = threads.list().unwrap();
    assert!(all.contains(&Thread { id: machine.pid(), kind: ThreadKind::Other }), "{all:?}");
    let vcpus = threads.vcpus().unwrap();
    assert_eq!(vcpus.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1]);
    assert!(!vcpus.iter().any(|(_, id)| *id == machine.pid()));
}

#[test]
fn use_is_counted_by_thread_and_of_the_whole() {
    let machine = StandIn::start(Work::Busy);
    let threads = ProcessThreads::of(machine.pid());
    let first = threads.vcpus().unwrap()[0].1;
    // Both vCPUs run, however slowly, so this ends.
    let used = loop {
        let usage = threads.usage_of(first).unwrap();
        if usage.time > Duration::from_millis(50) && threads.usage().unwrap().time > usage.time / 2 {
            break usage;
        }
        std::thread::yield_now();
    };
    assert!(used.runnable);
    assert!(threads.usage_of(first).unwrap().time >= used.time);
    assert!(used.delay.is_some());
    assert!(!threads.usage_of(machine.pid()).unwrap().runnable);
    assert!(threads.resident_bytes().unwrap() > 100 << 10);
}

#[test]
fn a_thread_runs_where_it_is_placed_and_others_stay_where_they_are() {
    let machine = StandIn::start(Work::Busy);
    let threads = ProcessThreads::of(machine.pid());
    let vcpus = threads.vcpus().unwrap();
    let all = threads.places(vcpus[0].1).unwrap();
    let last: NumberSet = all.max().into_iter().collect();
    threads.place(vcpus[0].1, &last).unwrap();
    assert_eq!(threads.places(vcpus[0].1).unwrap(), last);
    assert_eq!(threads.places(vcpus[1].1).unwrap(), all);
    // It was moved before the call returned, but only what it does then is counted there.
    let before = threads.usage_of(vcpus[0].1).unwrap().time;
    let after = loop {
        let usage = threads.usage_of(vcpus[0].1).unwrap();
        if usage.time > before {
            break usage;
        }
    };
    assert_eq!(Some(after.processor), last.max());
}

#[test]
fn places_that_are_none_are_refused() {
    let machine = StandIn::start(Work::Idle);
    let threads = ProcessThreads::of(machine.pid());
    for places in [vec![], vec![1023], vec![1024], vec![u32::MAX]] {
        let places: NumberSet = places.into_iter().collect();
        let error = threads.place(machine.pid(), &places).unwrap_err();
        assert!(matches!(error, ThreadError::Places { .. }), "{error}");
    }
    // Process 1 is there, and no thread of this process.
    let places: NumberSet = [0].into_iter().collect();
    for other in [1, 0, -1] {
        threads.place(other, &places).unwrap_err();
        threads.places(other).unwrap_err();
    }
}

#[test]
fn a_process_that_has_ended_is_an_error() {
    let mut machine = StandIn::start(Work::Idle);
    let threads = ProcessThreads::of(machine.pid());
    machine.go();
    machine.end();
    assert!(matches!(threads.list(), Err(ThreadError::Unreadable { .. })));
    assert!(matches!(threads.usage(), Err(ThreadError::Unreadable { .. })));
    assert!(matches!(threads.resident_bytes(), Err(ThreadError::Unreadable { .. })));
}

#[test]
fn a_name_is_a_vcpu_only_as_the_machine_writes_it() {
    assert_eq!(vcpu_number("vcpu0"), Some(0));
    assert_eq!(vcpu_number("vcpu255"), Some(255));
    for other in ["vcpu", "vcpu+1", "vcpu01", "vcpu-1", "vcpu1 ", "cpu1", "vcpu4294967296"] {
        assert_eq!(vcpu_number(other), None, "{other}");
    }
}

#[test]
fn a_hostile_name_moves_no_field() {
    let rest = " S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 77 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0";
    for name in ["vcpu0", "a) R 1 1 (b", ") ) )", ""] {
        let usage = stat(&format!("12 ({name}){rest}")).unwrap();
        assert_eq!((usage.user.as_millis(), usage.system.as_millis()), (2500, 500));
        assert_eq!((usage.processor, usage.runnable), (3, false));
    }
    assert_eq!(stat(&format!("12 (x){}", rest.replace("250", "99999999999999999999"))), None);
    assert_eq!(stat(&format!("12 (x){}", rest.replace("250", "18446744073709551615"))), None);
}

proptest! {
    #[test]
    fn no_text_is_a_fault(text in "\\PC*") {
        let _ = (stat(&text), schedstat(&text), vcpu_number(&text));
    }
}
