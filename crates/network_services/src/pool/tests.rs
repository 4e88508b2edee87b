//! Whatever guests do, an address belongs to one of them, is one that may be given, and stays theirs.

use std::collections::HashSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const RANGE: (u128, u128) = (0x0a00_0002, 0x0a00_0011);

fn supply() -> Supply {
    Supply {
        ranges: vec![RANGE],
        never: vec![RANGE.0 + 3],
        reserved: HashSet::from([RANGE.0 + 5]),
        version4: true,
    }
}

fn holder(number: u8) -> Holder {
    Holder { mac: MacAddress([2, 0, 0, 0, 0, number]), iaid: None }
}

fn lease(holder: Holder, address: u128, now: u64) -> Lease {
    Lease {
        mac: holder.mac,
        address: IpAddr::V4(version4(address)),
        prefix: 24,
        hostname: None,
        client_id: None,
        iaid: holder.iaid,
        since: now,
        expires: Some(now + 100),
    }
}

fn obtain(pool: &mut Pool, number: u8, reservation: Option<u128>, now: u64) -> Option<u128> {
    let address = pool.offer(holder(number), None, reservation, now)?;
    assert!(pool.may_have(holder(number), address, reservation, now), "an offer can be taken");
    pool.grant(lease(holder(number), address, now));
    Some(address)
}

#[test]
fn a_guest_has_the_same_address_again_after_its_lease_was_over_and_after_a_release() {
    let mut pool = Pool::new(supply(), [], 0);
    let address = obtain(&mut pool, 1, None, 0).unwrap();
    assert_eq!(pool.expire(100).len(), 1);
    assert_eq!(pool.leases().count(), 0);
    for other in 2..8 {
        assert_ne!(obtain(&mut pool, other, None, 100), Some(address));
    }
    assert_eq!(obtain(&mut pool, 1, None, 150), Some(address));
    assert!(pool.release(holder(1), address, 160).is_some());
    assert_eq!(obtain(&mut pool, 1, None, 160), Some(address));
    // As from another daemon's database.
    let remembered: Vec<Lease> = pool.leases().cloned().collect();
    assert_eq!(obtain(&mut Pool::new(supply(), remembered, 1000), 1, None, 1000), Some(address));
}

#[test]
fn a_full_pool_gives_nothing_until_the_longest_unused_address_is_over() {
    let mut pool = Pool::new(supply(), [], 0);
    // 16 addresses, of which one is the host's and one reserved.
    let addresses: HashSet<u128> =
        (0..14).map(|number| obtain(&mut pool, number, None, number.into()).unwrap()).collect();
    assert_eq!(addresses.len(), 14);
    assert_eq!(obtain(&mut pool, 100, None, 50), None);
    let first = number(pool.lease_of(holder(0)).unwrap().address);
    pool.expire(100);
    assert_eq!(obtain(&mut pool, 100, None, 102), Some(first));
}

#[test]
fn a_reserved_address_goes_to_nobody_else_and_to_its_guest_only_while_it_is_free() {
    let mut pool = Pool::new(supply(), [], 0);
    let reserved = RANGE.0 + 5;
    assert!(!pool.may_have(holder(1), reserved, None, 0));
    assert_eq!(obtain(&mut pool, 1, Some(reserved), 0), Some(reserved));
    assert!(!pool.may_have(holder(1), RANGE.0, Some(reserved), 0), "it has its own");
    // A clone is known by the same client identifier.
    let other = obtain(&mut pool, 2, Some(reserved), 0).unwrap();
    assert_ne!(other, reserved);
}

#[test]
fn a_declined_address_is_given_to_nobody_for_a_time() {
    let mut pool = Pool::new(supply(), [], 0);
    let address = obtain(&mut pool, 1, None, 0).unwrap();
    assert_eq!(pool.decline(holder(2), address, 0), [], "only its own guest can decline it");
    let changes: Vec<_> = pool.decline(holder(1), address, 0).iter().map(|event| event.change).collect();
    assert_eq!(changes, [LeaseChange::Released, LeaseChange::Forgotten]);
    assert!(!pool.may_have(holder(1), address, None, 1) && !pool.may_have(holder(2), address, None, 1));
    pool.expire(QUARANTINED);
    assert!(pool.may_have(holder(2), address, None, QUARANTINED));
}

#[test]
fn one_guest_does_not_get_all_addresses_by_many_associations() {
    let mut pool = Pool::new(supply(), [], 0);
    let mac = holder(1).mac;
    let given = (0..100).filter(|iaid| {
        let holder = Holder { mac, iaid: Some(*iaid) };
        let address = pool.offer(holder, None, None, 0);
        address.map(|address| pool.grant(lease(holder, address, 0))).is_some()
    });
    assert_eq!(given.count(), ASSOCIATIONS);
}

#[test]
fn an_offer_that_nobody_took_does_not_take_the_next_guest_s_with_it() {
    let mut pool = Pool::new(supply(), [], 0);
    let wanted = Some(RANGE.0 + 7);
    assert_eq!(pool.offer(holder(1), wanted, None, 0), wanted);
    // The clock has not come by in between.
    assert_eq!(pool.offer(holder(2), wanted, None, OFFERED), wanted);
    pool.release(holder(1), RANGE.0 + 7, OFFERED);
    assert_ne!(pool.offer(holder(3), wanted, None, OFFERED), wanted, "it is still kept for the second");
    pool.expire(2 * OFFERED);
    assert_eq!((pool.offers.len(), pool.offer_of.len()), (0, 0));
}

#[test]
fn it_is_known_when_something_ends_next() {
    let mut pool = Pool::new(supply(), [], 0);
    assert_eq!(pool.next_end(), None);
    let address = pool.offer(holder(1), None, None, 10).unwrap();
    assert_eq!(pool.next_end(), Some(10 + OFFERED));
    pool.grant(lease(holder(1), address, 20));
    let remembered: Vec<Lease> = pool.leases().cloned().collect();
    assert_eq!(Pool::new(supply(), remembered, 20).next_end(), Some(120), "as another process finds it");
    assert_eq!(pool.expire(10 + OFFERED), []);
    assert_eq!(pool.next_end(), Some(120), "the offer was taken");
    assert_eq!(pool.expire(120).len(), 1);
    assert_eq!(pool.next_end(), None);
    let address = pool.offer(holder(2), None, None, 200).unwrap();
    pool.decline(holder(2), address, 200);
    pool.expire(200 + OFFERED);
    assert_eq!(pool.next_end(), Some(200 + QUARANTINED));
}

#[derive(Debug, Clone)]
enum Step {
    Offer(u8, Option<u128>),
    Obtain(u8, Option<u128>),
    Take(u8, u128),
    Release(u8, u128),
    Decline(u8, u128),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let address = || (RANGE.0 - 2)..=(RANGE.1 + 2);
    prop_oneof![
        2 => (0..24u8, proptest::option::of(address())).prop_map(|(guest, wanted)| Step::Offer(guest, wanted)),
        4 => (0..24u8, proptest::option::of(address())).prop_map(|(guest, wanted)| Step::Obtain(guest, wanted)),
        2 => (0..24u8, address()).prop_map(|(guest, address)| Step::Take(guest, address)),
        1 => (0..24u8, address()).prop_map(|(guest, address)| Step::Release(guest, address)),
        1 => (0..24u8, address()).prop_map(|(guest, address)| Step::Decline(guest, address)),
        1 => (1..80u64).prop_map(Step::Wait),
    ]
}

/// Whether no lease in force of another guest has ended.
fn nobody_else_loses(events: &[LeaseEvent], guest: u8) -> bool {
    events.iter().all(|event| event.change != LeaseChange::Released || event.lease.mac == holder(guest).mac)
}

proptest! {
    #[test]
    fn no_address_is_given_twice_or_that_may_not_be_given(steps in proptest::collection::vec(step(), 1..200)) {
        let mut pool = Pool::new(supply(), [], 0);
        let mut now = 0;
        let reserved = RANGE.0 + 5;
        let reservation = |guest| (guest == 7).then_some(reserved);
        for step in steps {
            match step {
                Step::Offer(guest, wanted) => drop(pool.offer(holder(guest), wanted, reservation(guest), now)),
                Step::Obtain(guest, wanted) => {
                    if let Some(address) = pool.offer(holder(guest), wanted, reservation(guest), now) {
                        prop_assert!(pool.may_have(holder(guest), address, reservation(guest), now));
                        let events = pool.grant(lease(holder(guest), address, now));
                        prop_assert!(nobody_else_loses(&events, guest));
                    }
                }
                Step::Take(guest, address) => {
                    if pool.may_have(holder(guest), address, reservation(guest), now) {
                        let events = pool.grant(lease(holder(guest), address, now));
                        prop_assert!(nobody_else_loses(&events, guest));
                    }
                }
                Step::Release(guest, address) => drop(pool.release(holder(guest), address, now)),
                Step::Decline(guest, address) => drop(pool.decline(holder(guest), address, now)),
                Step::Wait(seconds) => {
                    now += seconds;
                    pool.expire(now);
                }
            }
            let kept: HashSet<_> = pool.offers.iter().map(|(address, (holder, _))| (*holder, *address)).collect();
            prop_assert_eq!(kept, pool.offer_of.iter().map(|(holder, address)| (*holder, *address)).collect());
            let ends = pool.leases().filter_map(|lease| lease.expires).chain(pool.quarantine.values().copied());
            prop_assert!(ends.chain(pool.offers.values().map(|(_, until)| *until)).all(|end| pool.next_end() <= Some(end)));
            prop_assert!(pool.next_end().is_none_or(|end| end > now));
            let leases: Vec<&Lease> = pool.leases().collect();
            let macs: HashSet<_> = leases.iter().map(|lease| lease.mac).collect();
            prop_assert_eq!(macs.len(), leases.len(), "one lease a guest");
            for lease in leases {
                let address = number(lease.address);
                prop_assert!((RANGE.0..=RANGE.1).contains(&address) && address != RANGE.0 + 3);
                prop_assert!(address != reserved || lease.mac == holder(7).mac);
                prop_assert!(!lease.is_over(now));
            }
        }
    }
}
