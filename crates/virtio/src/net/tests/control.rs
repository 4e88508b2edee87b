//! The control queue, and what it changes.

use net_io::Offloads;

use super::*;

const OK: u8 = 0;
const ERR: u8 = 1;

fn command(rig: &mut Rig, queue: u16, class: u8, command: u8, data: &[u8]) -> u8 {
    let bytes = [&[class, command], data].concat();
    let used = rig.driver.request(queue, &[Piece::Out(&bytes), Piece::In(1)]);
    assert_eq!(used.written, 1);
    used.data[0]
}

#[test]
fn receive_modes_and_filters_are_accepted_when_well_formed() {
    let mut rig = Rig::new(1, None, ALL);
    assert_eq!(command(&mut rig, 2, 0, 0, &[1]), OK, "promiscuous");
    assert_eq!(command(&mut rig, 2, 0, 1, &[0]), OK, "all multicast");
    assert_eq!(command(&mut rig, 2, 0, 0, &[2]), ERR, "neither on nor off");
    assert_eq!(command(&mut rig, 2, 0, 0, &[]), ERR, "nothing");
    assert_eq!(command(&mut rig, 2, 0, 2, &[1]), ERR, "an extra mode that is not offered");
    let table = |addresses: u32| [&addresses.to_le_bytes()[..], &vec![2; 6 * addresses as usize]].concat();
    assert_eq!(command(&mut rig, 2, 1, 0, &[table(2), table(3)].concat()), OK);
    assert_eq!(command(&mut rig, 2, 1, 0, &[table(2)].concat()), ERR, "one table only");
    assert_eq!(command(&mut rig, 2, 1, 0, &[table(2), table(3), vec![0]].concat()), ERR, "more follows");
    assert_eq!(command(&mut rig, 2, 1, 0, &u32::MAX.to_le_bytes()), ERR, "a table without addresses");
    assert_eq!(command(&mut rig, 2, 2, 0, &[1, 0]), ERR, "VLAN filters are not offered");
    assert_eq!(command(&mut rig, 2, 9, 0, &[]), ERR, "an unknown class");
    let long = vec![0; 64 << 10];
    assert_eq!(command(&mut rig, 2, 1, 0, &long), ERR, "longer than any command");
}

#[test]
fn the_address_can_be_changed_until_reset() {
    let mut rig = Rig::new(1, None, ALL);
    let address = |rig: &mut Rig| {
        let mut mac = [0; 6];
        rig.driver.read_config(0, &mut mac);
        mac
    };
    assert_eq!(command(&mut rig, 2, 1, 1, &[2, 1, 2, 3, 4, 5]), OK);
    assert_eq!(address(&mut rig), [2, 1, 2, 3, 4, 5]);
    assert_eq!(command(&mut rig, 2, 1, 1, &[2, 1, 2, 3, 4]), ERR);
    rig.driver.initialize(ALL);
    assert_eq!(address(&mut rig), MAC);
}

#[test]
fn pairs_take_part_only_while_the_driver_uses_them() {
    let mut rig = Rig::new(3, None, ALL);
    let enabled = |rig: &Rig| rig.nets.iter().map(|net| net.state().enabled).collect::<Vec<_>>();
    assert_eq!(command(&mut rig, 6, 4, 0, &2u16.to_le_bytes()), OK);
    assert_eq!(enabled(&rig), [true, true, false], "as soon as the command is acknowledged");
    rig.driver.add(2, &[Piece::In(1600)]);
    rig.driver.kick(2);
    rig.nets[1].send(&[9; 60]);
    assert_eq!(frame(&rig.driver.wait_used(2)).0, [9; 60]);
    for bad in [0u16, 4, u16::MAX] {
        assert_eq!(command(&mut rig, 6, 4, 0, &bad.to_le_bytes()), ERR, "{bad} pairs");
    }
    assert_eq!(enabled(&rig), [true, true, false]);
    // A pause is none of the driver's business; a reset brings back one pair.
    rig.driver.pause();
    rig.driver.resume();
    assert_eq!(command(&mut rig, 6, 0, 0, &[1]), OK);
    assert_eq!(command(&mut rig, 6, 4, 0, &3u16.to_le_bytes()), OK);
    assert_eq!(enabled(&rig), [true, true, true]);
    rig.driver.initialize(ALL);
    assert_eq!(command(&mut rig, 6, 4, 0, &1u16.to_le_bytes()), OK);
    assert_eq!(enabled(&rig), [true, false, false]);
    // Frames on a pair that is not used are thrown away, not kept.
    rig.driver.add(3, &[Piece::Out(&[0; 72])]);
    rig.driver.kick(3);
    rig.driver.wait_used(3);
    assert_eq!(rig.handle.counters().tx_dropped.get(), 1);
}

#[test]
fn a_driver_without_multiqueue_finds_the_control_queue_after_the_first_pair() {
    let mut rig = Rig::new(2, None, ALL & !FEATURE_MQ);
    assert_eq!(command(&mut rig, 2, 0, 0, &[1]), OK);
    assert_eq!(command(&mut rig, 2, 4, 0, &1u16.to_le_bytes()), ERR, "not negotiated");
    assert!(!rig.nets[1].state().enabled);
    rig.add_tx(&[1; 60]);
    rig.driver.wait_used(TX);
    // Queues without a use come back all the same: the device can be paused and reset.
    rig.driver.pause();
    rig.driver.resume();
    rig.driver.initialize(ALL);
    assert_eq!(command(&mut rig, 4, 4, 0, &2u16.to_le_bytes()), OK);
    assert!(rig.nets[1].state().enabled);
}

#[test]
fn offloads_for_the_guest_are_in_force_when_they_are_acknowledged() {
    let mut rig = Rig::new(1, None, ALL);
    // Any command that is answered has the pair's first settings behind it or not; this one waits for the pair.
    let set = |rig: &mut Rig, features: u64| command(rig, 2, 5, 0, &features.to_le_bytes());
    assert_eq!(set(&mut rig, FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4), OK);
    let expected = Offloads { checksum: true, tso4: true, ..Offloads::default() };
    assert_eq!(rig.nets[0].state().guest_offloads, Some(expected));
    assert_eq!(set(&mut rig, FEATURE_HOST_TSO4), ERR, "not the guest's side");
    assert_eq!(set(&mut rig, 0), OK);
    assert_eq!(rig.nets[0].state().guest_offloads, Some(Offloads::default()));
    rig.nets[0].change(|state| state.refuse_offloads = true);
    assert_eq!(set(&mut rig, FEATURE_GUEST_CSUM), ERR, "the backend refuses");
    rig.nets[0].change(|state| state.refuse_offloads = false);
    assert_eq!(set(&mut rig, FEATURE_GUEST_CSUM), OK);
    rig.add_rx(1530);
    rig.nets[0].send(&[5; 60]);
    assert_eq!(frame(&rig.driver.wait_used(RX)).0, [5; 60], "a refusal is not the end");
}

#[test]
fn offloads_survive_a_pause_and_not_a_reset() {
    let mut rig = Rig::new(1, None, ALL & !FEATURE_GUEST_USO4);
    assert_eq!(command(&mut rig, 2, 5, 0, &0u64.to_le_bytes()), OK);
    rig.driver.pause();
    rig.nets[0].change(|state| state.guest_offloads = None);
    rig.driver.resume();
    rig.nets[0].wait(|state| state.guest_offloads == Some(Offloads::default()));
    rig.driver.initialize(ALL & !FEATURE_GUEST_USO4);
    let negotiated = Offloads { uso: false, ..fake_net::OFFLOADS };
    rig.nets[0].wait(|state| state.guest_offloads == Some(negotiated));
}
