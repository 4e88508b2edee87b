//! Calling a vCPU out of the guest, without ever losing a call.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

use kvm_host::{Exit, Vcpu};

use crate::{Guest, plain};

/// jmp $: never leaves the guest by itself.
const SPIN: &[u8] = b"\xeb\xfe";
/// again: out 80h, al; jmp again: leaves all the time.
const EXITING: &[u8] = b"\xe6\x80\xeb\xfc";
const ROUNDS: u32 = 1000;

/// Kicks the vCPU `ROUNDS` times, each time as soon as the last wish was seen. A lost kick hangs here.
fn every_wish_is_seen(code: &[u8]) {
    let Some(guest) = Guest::new(code) else { return };
    let kick = guest.vcpu.kick();
    let wish = AtomicU32::new(0);
    let (seen, acknowledged) = mpsc::channel();
    thread::scope(|scope| {
        let wish = &wish;
        let mut vcpu = guest.vcpu;
        scope.spawn(move || {
            let mut last = 0;
            while last < ROUNDS {
                if vcpu.run().expect("running") == Exit::Interrupted {
                    let now = wish.load(Ordering::SeqCst);
                    if now != last {
                        last = now;
                        seen.send(now).expect("the test listens");
                    }
                }
            }
        });
        for round in 1..=ROUNDS {
            wish.store(round, Ordering::SeqCst);
            kick.kick();
            assert_eq!(acknowledged.recv(), Ok(round));
        }
    });
}

#[test]
fn a_thousand_kicks_of_a_spinning_guest_are_all_seen() {
    every_wish_is_seen(SPIN);
}

#[test]
fn a_thousand_kicks_of_a_guest_that_exits_are_all_seen() {
    every_wish_is_seen(EXITING);
}

#[test]
fn a_kick_before_the_first_run_is_seen_by_it() {
    let Some(mut guest) = Guest::new(EXITING) else { return };
    guest.vcpu.kick().kick();
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Interrupted);
    assert!(matches!(guest.vcpu.run().unwrap(), Exit::PortOut { .. }), "one kick interrupts once");
}

#[test]
fn a_kicked_run_first_completes_the_last_access() {
    // in al, 80h; out 81h, al
    let Some(mut guest) = Guest::new(b"\xe4\x80\xe6\x81") else { return };
    match guest.vcpu.run().unwrap() {
        Exit::PortIn { data, .. } => data.copy_from_slice(b"q"),
        other => panic!("{other:?}"),
    }
    guest.vcpu.kick().kick();
    assert_eq!(guest.vcpu.run().unwrap(), Exit::Interrupted);
    assert_eq!(guest.vcpu.registers().unwrap().general()[0] & 0xff, u64::from(b'q'));
    assert_eq!(guest.vcpu.run().unwrap(), Exit::PortOut { port: 0x81, size: 1, data: b"q" });
}

#[test]
fn a_halted_guest_is_reached_too() {
    // hlt, with interrupts off
    let Some(guest) = Guest::new(b"\xf4") else { return };
    let kick = guest.vcpu.kick();
    let mut vcpu = guest.vcpu;
    thread::scope(|scope| {
        let halted = scope.spawn(move || vcpu.run().unwrap() == Exit::Interrupted);
        kick.kick();
        assert!(halted.join().unwrap());
    });
}

#[test]
fn a_vcpu_that_waits_to_be_started_is_reached_too() {
    let Some(guest) = Guest::new(SPIN) else { return };
    drop(guest.vcpu);
    let mut second = Vcpu::create(&guest.vm, 1, &plain(2)).unwrap();
    let kick = second.kick();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || second.run().unwrap() == Exit::Interrupted);
        kick.kick();
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn a_vcpu_may_change_threads() {
    let Some(guest) = Guest::new(SPIN) else { return };
    let kick = guest.vcpu.kick();
    let mut vcpu = guest.vcpu;
    for _ in 0..3 {
        let (ready, is_ready) = mpsc::channel();
        vcpu = thread::scope(|scope| {
            let runner = scope.spawn(move || {
                ready.send(()).unwrap();
                assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
                vcpu
            });
            is_ready.recv().unwrap();
            kick.kick();
            runner.join().unwrap()
        });
    }
}

#[test]
fn kicking_a_vcpu_that_is_gone_is_harmless() {
    let Some(guest) = Guest::new(SPIN) else { return };
    let kick = guest.vcpu.kick();
    drop(guest.vcpu);
    kick.kick();
}
