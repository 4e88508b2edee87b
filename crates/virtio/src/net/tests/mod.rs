mod control;
mod fake_net;
mod malformed;

use std::sync::Arc;

use platform::worker::Worker;

use self::fake_net::{Backend, FakeNet};
use super::*;
use crate::queue::FEATURE_INDIRECT_DESCRIPTORS;
use crate::testing::{FakeDriver, PATIENCE, Piece, Used, common};

const RX: u16 = 0;
const TX: u16 = 1;
const ALL: u64 = u64::MAX;
const MAC: [u8; 6] = [2, 0, 0, 0xaa, 0xbb, 0xcc];

struct Rig {
    driver: FakeDriver,
    handle: NetHandle,
    nets: Vec<Arc<FakeNet>>,
    _worker: Worker,
}

impl Rig {
    fn new(pairs: usize, mtu: Option<u16>, features: u64) -> Self {
        let worker = Worker::spawn("net").unwrap();
        let nets: Vec<_> = (0..pairs).map(|_| FakeNet::new()).collect();
        let backends = nets.iter().map(|net| Box::new(Backend(Arc::clone(net))) as _).collect();
        let config = NetConfig {
            backends,
            mac: MAC,
            mtu,
            link_up: true,
            queue_size: 128,
            workers: vec![worker.handle()],
        };
        let net = Net::build(config).unwrap();
        let handle = net.handle();
        let mut driver = FakeDriver::new(Box::new(net));
        driver.initialize(features);
        Self { driver, handle, nets, _worker: worker }
    }

    /// One pair, MTU 1500, without segmentation: frames are at most 1530 bytes with their header.
    fn simple() -> Self {
        Self::new(1, Some(1500), FEATURE_MAC | FEATURE_STATUS | FEATURE_MTU | FEATURE_INDIRECT_DESCRIPTORS)
    }

    fn add_rx(&mut self, bytes: u32) -> u16 {
        let head = self.driver.add(RX, &[Piece::In(bytes)]);
        self.driver.kick(RX);
        head
    }

    fn add_tx(&mut self, frame: &[u8]) -> u16 {
        let head = self.driver.add(TX, &[Piece::Out(&[0; 12]), Piece::Out(frame)]);
        self.driver.kick(TX);
        head
    }
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at + seed) % 251).unwrap()).collect()
}

/// The frame in a used buffer, and its `num_buffers`.
fn frame(used: &Used) -> (&[u8], u16) {
    (&used.data[12..used.written as usize], u16::from_le_bytes([used.data[10], used.data[11]]))
}

/// Waits for what no event tells, such as a counter.
fn until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it does not come to pass");
        std::thread::yield_now();
    }
}

#[test]
fn frames_reach_the_guest_in_order() {
    let mut rig = Rig::simple();
    for seed in 0..100 {
        rig.driver.add(RX, &[Piece::In(1530)]);
        rig.nets[0].send(&pattern(60 + seed, seed));
    }
    rig.driver.kick(RX);
    for seed in 0..100 {
        let used = rig.driver.wait_used(RX);
        assert_eq!(frame(&used), (&pattern(60 + seed, seed)[..], 1));
    }
    assert_eq!(rig.handle.counters().rx_frames.get(), 100);
    assert_eq!(rig.handle.counters().rx_bytes.get(), (60..160).sum::<u64>());
    assert_eq!(rig.handle.counters().rx_dropped.get(), 0);
}

#[test]
fn frames_wait_in_the_backend_while_the_guest_has_no_buffers() {
    let mut rig = Rig::simple();
    rig.nets[0].send(&pattern(60, 1));
    rig.nets[0].send(&pattern(60, 2));
    rig.add_rx(1530);
    assert_eq!(frame(&rig.driver.wait_used(RX)).0, pattern(60, 1));
    // Sending goes on meanwhile, and the worker does not turn in circles for the frame that waits.
    let before = rig.nets[0].state().receives;
    for _ in 0..10 {
        rig.add_tx(&[1; 60]);
        rig.driver.wait_used(TX);
    }
    assert!(rig.nets[0].state().receives <= before + 1);
    assert_eq!(rig.nets[0].state().to_guest.len(), 1);
    rig.add_rx(1530);
    assert_eq!(frame(&rig.driver.wait_used(RX)).0, pattern(60, 2));
}

#[test]
fn a_frame_that_is_too_long_for_its_buffer_is_dropped_and_the_buffer_used_for_the_next() {
    let mut rig = Rig::simple();
    rig.add_rx(112);
    rig.nets[0].send(&pattern(101, 1));
    rig.nets[0].send(&pattern(100, 2));
    assert_eq!(frame(&rig.driver.wait_used(RX)), (&pattern(100, 2)[..], 1));
    assert_eq!(rig.handle.counters().rx_dropped.get(), 1);
}

#[test]
fn a_long_frame_takes_as_many_mergeable_buffers_as_it_needs() {
    let mut rig = Rig::new(1, None, ALL);
    for _ in 0..60 {
        rig.driver.add(RX, &[Piece::In(500), Piece::In(1000)]);
    }
    rig.driver.kick(RX);
    for bytes in [60, 1488, 1489, 20_000, 30_000] {
        rig.nets[0].send(&pattern(bytes, 5));
        let mut got = Vec::new();
        let first = rig.driver.wait_used(RX);
        let buffers = u16::from_le_bytes([first.data[10], first.data[11]]);
        assert_eq!(usize::from(buffers), (bytes + 12).div_ceil(1500));
        got.extend_from_slice(&first.data[12..first.written as usize]);
        for _ in 1..buffers {
            let next = rig.driver.wait_used(RX);
            got.extend_from_slice(&next.data[..next.written as usize]);
        }
        assert_eq!(got, pattern(bytes, 5), "{bytes} bytes");
    }
}

#[test]
fn a_frame_waits_for_more_mergeable_buffers_when_they_run_short() {
    let mut rig = Rig::new(1, None, ALL);
    rig.add_rx(1000);
    let data = pattern(5000, 3);
    rig.nets[0].send(&data);
    rig.nets[0].send(&pattern(60, 4));
    // The frame has been taken from the backend, but not all of it has a place yet.
    rig.nets[0].wait(|state| state.to_guest.len() == 1);
    rig.add_rx(2000);
    rig.add_rx(2012);
    let mut got = Vec::new();
    for place in 0..3 {
        let used = rig.driver.wait_used(RX);
        if place == 0 {
            assert_eq!(used.data[10..12], [3, 0]);
        }
        got.extend_from_slice(&used.data[..used.written as usize]);
    }
    assert_eq!(got[12..], data);
    rig.add_rx(100);
    assert_eq!(frame(&rig.driver.wait_used(RX)).0, pattern(60, 4));
    assert_eq!(rig.handle.counters().rx_dropped.get(), 0);
}

#[test]
fn a_frame_longer_than_any_may_be_is_dropped() {
    let mut rig = Rig::new(1, None, ALL);
    for _ in 0..100 {
        rig.driver.add(RX, &[Piece::In(1000)]);
    }
    rig.driver.kick(RX);
    rig.nets[0].send(&vec![1; 200_000]);
    rig.nets[0].send(&pattern(60, 4));
    assert_eq!(frame(&rig.driver.wait_used(RX)).0, pattern(60, 4));
    assert_eq!(rig.handle.counters().rx_dropped.get(), 1);
}

#[test]
fn frames_leave_the_guest_in_order_and_their_header_goes_with_them() {
    let mut rig = Rig::simple();
    let header: Vec<u8> = (1..13).collect();
    for seed in 0..100 {
        let data = pattern(60 + seed, seed);
        let (one, two) = data.split_at(13);
        let whole = [&header[..], one].concat();
        rig.driver.add_indirect(TX, &[Piece::Out(&whole), Piece::Out(two)]);
    }
    rig.driver.kick(TX);
    for _ in 0..100 {
        assert_eq!(rig.driver.wait_used(TX).written, 0);
    }
    let state = rig.nets[0].state();
    for (seed, sent) in state.from_guest.iter().enumerate() {
        assert_eq!(sent[..12], header);
        assert_eq!(sent[12..], pattern(60 + seed, seed));
    }
    assert_eq!(rig.handle.counters().tx_frames.get(), 100);
    assert_eq!(rig.handle.counters().tx_bytes.get(), (60..160).sum::<u64>());
}

#[test]
fn a_full_network_makes_the_guest_wait_and_loses_nothing() {
    let mut rig = Rig::simple();
    rig.nets[0].change(|state| state.room = 2);
    let heads: Vec<u16> = (0..5).map(|seed| rig.add_tx(&pattern(60, seed))).collect();
    rig.nets[0].wait(|state| state.full >= 1);
    assert_eq!(rig.driver.wait_used(TX).head, heads[0]);
    assert_eq!(rig.driver.wait_used(TX).head, heads[1]);
    assert_eq!(rig.driver.ring(TX).take_used(), None);
    // A pause puts the frame that waits back; it is the first to go afterwards.
    rig.driver.pause();
    rig.driver.resume();
    rig.nets[0].wait(|state| state.full >= 2);
    rig.nets[0].change(|state| state.room = usize::MAX);
    for head in &heads[2..] {
        assert_eq!(rig.driver.wait_used(TX).head, *head);
    }
    let sent: Vec<_> = rig.nets[0].state().from_guest.iter().map(|frame| frame[12..].to_vec()).collect();
    assert_eq!(sent, (0..5).map(|seed| pattern(60, seed)).collect::<Vec<_>>());
}

#[test]
fn a_broken_backend_costs_frames_and_nothing_else() {
    let mut rig = Rig::simple();
    rig.add_rx(1530);
    rig.nets[0].change(|state| state.broken = true);
    rig.nets[0].send(&[1; 60]);
    let handle = rig.handle.clone();
    until(|| handle.counters().rx_errors.get() == 1);
    for _ in 0..3 {
        rig.add_tx(&[1; 60]);
        rig.driver.wait_used(TX);
    }
    assert_eq!(handle.counters().tx_errors.get(), 3);
    assert_eq!(handle.counters().rx_errors.get(), 1, "nobody turns in circles");
    rig.nets[0].change(|state| state.broken = false);
    rig.driver.initialize(FEATURE_MAC);
    rig.add_rx(1530);
    assert_eq!(frame(&rig.driver.wait_used(RX)).0, [1; 60]);
}

#[test]
fn a_link_that_is_down_carries_nothing_and_the_driver_is_told() {
    let mut rig = Rig::simple();
    let status = |rig: &mut Rig| {
        let mut status = [0; 2];
        rig.driver.read_config(6, &mut status);
        u16::from_le_bytes(status)
    };
    assert_eq!(status(&mut rig), 1);
    let changes = rig.driver.msi.sent(0);
    rig.handle.set_link(false);
    rig.driver.msi.wait_more(0, changes);
    assert_eq!(status(&mut rig), 0);
    rig.handle.set_link(false);
    assert_eq!(rig.driver.msi.sent(0), changes + 1, "no change, no interrupt");
    rig.add_tx(&[1; 60]);
    rig.driver.wait_used(TX);
    rig.nets[0].send(&[2; 60]);
    let handle = rig.handle.clone();
    until(|| handle.counters().rx_dropped.get() == 1);
    assert_eq!(handle.counters().tx_dropped.get(), 1);
    assert!(rig.nets[0].state().from_guest.is_empty());
    rig.handle.set_link(true);
    rig.add_rx(1530);
    rig.nets[0].send(&[3; 60]);
    assert_eq!(frame(&rig.driver.wait_used(RX)).0, [3; 60]);
}

#[test]
fn when_nothing_carries_the_frames_any_more_the_link_is_down_for_good_and_the_guest_goes_on() {
    let mut rig = Rig::simple();
    let status = |rig: &mut Rig| {
        let mut status = [0; 2];
        rig.driver.read_config(6, &mut status);
        u16::from_le_bytes(status)
    };
    rig.add_rx(1530);
    let changes = rig.driver.msi.sent(0);
    rig.nets[0].send(&[1; 60]);
    rig.driver.wait_used(RX);
    rig.add_rx(1530);
    rig.nets[0].change(|state| {
        state.gone = true;
        state.to_guest.push_back(vec![0; 72]);
    });
    rig.driver.msi.wait_more(0, changes);
    assert_eq!(status(&mut rig), 0);
    rig.handle.set_link(false);
    rig.handle.set_link(true);
    assert_eq!(status(&mut rig), 0, "plugging the cable does not help");
    rig.add_tx(&[1; 60]);
    rig.driver.wait_used(TX);
    assert_eq!(rig.handle.counters().tx_dropped.get(), 1);
    assert!(rig.nets[0].state().from_guest.is_empty());
}

#[test]
fn a_cable_that_is_pulled_during_a_pause_is_told_afterwards() {
    let mut rig = Rig::simple();
    let changes = rig.driver.msi.sent(0);
    rig.driver.pause();
    rig.handle.set_link(false);
    assert_eq!(rig.driver.msi.sent(0), changes, "nobody listens");
    rig.driver.resume();
    rig.driver.msi.wait_more(0, changes);
    let mut status = [0; 2];
    rig.driver.read_config(6, &mut status);
    assert_eq!(status, [0; 2]);
    rig.driver.pause();
    rig.driver.resume();
    assert_eq!(rig.driver.msi.sent(0), changes + 1, "told once");
}

#[test]
fn buffers_that_are_held_for_the_next_frame_survive_pause_and_reset() {
    let mut rig = Rig::new(1, None, ALL);
    for _ in 0..10 {
        rig.add_rx(1000);
    }
    for seed in 0..20 {
        rig.driver.pause();
        rig.nets[0].send(&pattern(60, seed));
        rig.driver.resume();
        assert_eq!(frame(&rig.driver.wait_used(RX)).0, pattern(60, seed));
        rig.add_rx(1000);
    }
    rig.driver.initialize(FEATURE_MAC);
    rig.nets[0].send(&pattern(60, 7));
    rig.add_rx(1530);
    assert_eq!(frame(&rig.driver.wait_used(RX)), (&pattern(60, 7)[..], 1));
}

#[test]
fn the_configuration_tells_address_pairs_and_mtu() {
    let mut rig = Rig::new(3, Some(9000), ALL);
    let mut config = [0; 12];
    rig.driver.read_config(0, &mut config);
    assert_eq!(config[..6], MAC);
    assert_eq!(config[6..], [1, 0, 3, 0, 0x28, 0x23]);
    assert_eq!(rig.driver.read(common::QUEUE_COUNT), 7);
}

#[test]
fn features_follow_what_the_backend_can_do() {
    let none = offload_features(Offloads::default());
    assert_eq!(none, 0);
    let checksum = offload_features(Offloads { checksum: true, ..Offloads::default() });
    assert_eq!(checksum, FEATURE_CSUM | FEATURE_GUEST_CSUM | FEATURE_CTRL_GUEST_OFFLOADS);
    // Nothing is segmented whose checksum can't be left out.
    assert_eq!(offload_features(Offloads { tso4: true, uso: true, ..Offloads::default() }), 0);
    assert_eq!(guest_offloads(FEATURE_GUEST_TSO4 | FEATURE_GUEST_ECN), Offloads::default());
    let all = fake_net::OFFLOADS;
    assert_eq!(guest_offloads(offload_features(all)), all);
}
