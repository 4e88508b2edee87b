//! Which addresses there are, who has them and who gets which: one pool a family of addresses, without input or output.
//!
//! The same holder gets the same address for as long as it is not needed by others, also after its lease is over. A new one gets
//! the address that its hardware address leads to, or the next free one: after a loss of the database most guests would get what they had.
//!
//! All of it is bounded: by the ranges, and by [`MOST_LEASES`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lease::{Holder, Lease, LeaseChange, LeaseEvent};
use crate::mac::MacAddress;

/// Most leases of a pool that are remembered, in force or over.
pub(crate) const MOST_LEASES: usize = 65_536;

/// Seconds for which an address that was offered is kept for whom it was offered to.
const OFFERED: u64 = 60;

/// Seconds for which an address is not given to anybody after a guest has found somebody else with it.
const QUARANTINED: u64 = 600;

/// Identity associations of one hardware address that can have leases.
const ASSOCIATIONS: usize = 8;

/// An IP address as a number, for arithmetic.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// Where a pool's addresses come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Supply {
    /// First and last address of each range; in order and apart from each other.
    pub(crate) ranges: Vec<(u128, u128)>,
    /// Addresses that nobody gets: the host's own.
    pub(crate) never: Vec<u128>,
    /// Addresses that belong to one guest each.
    pub(crate) reserved: HashSet<u128>,
    /// IPv4: addresses that end with 0 or 255 are not given, which old hosts take for a network or a broadcast.
    pub(crate) version4: bool,
}

impl Supply {
    /// How many addresses the ranges have.
    fn total(&self) -> u128 {
        self.ranges
            .iter()
            .fold(0, |sum: u128, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// The address with this place in the ranges.
    fn at(&self, mut place: u128) -> Option<u128> {
        for (first, last) in &self.ranges {
            let length = (last - first).saturating_add(1);
            if place < length {
                return Some(first + place);
            }
            place -= length;
        }
        None
    }

    /// Whether somebody without a reservation may get it.
    fn is_for_anybody(&self, address: u128) -> bool {
        let in_range = self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&address));
        let ends_badly = self.version4 && matches!(address & 0xff, 0 | 255);
        in_range && !ends_badly && !self.never.contains(&address) && !self.reserved.contains(&address)
    }
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    in_force: bool,
}

/// Addresses of one family and who has them.
#[derive(Debug)]
pub(crate) struct Pool {
    supply: Supply,
    leases: BTreeMap<u128, Entry>,
    of_holder: BTreeMap<Holder, u128>,
    offers: HashMap<u128, (Holder, u64)>,
    offer_of: HashMap<Holder, u128>,
    quarantine: HashMap<u128, u64>,
    /// Until when it is known that no address is free, without looking again.
    full_until: u64,
    /// Before this nothing ends: no lease, no offer and no quarantine; none if nothing of it is there.
    next_end: Option<u64>,
}

impl Pool {
    /// A pool with the leases that are remembered.
    pub(crate) fn new(supply: Supply, remembered: impl IntoIterator<Item = Lease>, now: u64) -> Self {
        let mut pool = Self {
            supply,
            leases: BTreeMap::new(),
            of_holder: BTreeMap::new(),
            offers: HashMap::new(),
            offer_of: HashMap::new(),
            quarantine: HashMap::new(),
            full_until: 0,
            next_end: None,
        };
        for lease in remembered.into_iter().take(MOST_LEASES) {
            let address = number(lease.address);
            if pool.leases.contains_key(&address) || pool.of_holder.contains_key(&lease.holder()) {
                continue;
            }
            pool.of_holder.insert(lease.holder(), address);
            let in_force = !lease.is_over(now);
            pool.ends_at(lease.expires.filter(|_| in_force));
            pool.leases.insert(address, Entry { lease, in_force });
        }
        pool
    }

    /// Puts other ranges and reservations in the place of the former; leases stay until they are renewed or over.
    pub(crate) fn supply_from(&mut self, supply: Supply) {
        self.supply = supply;
        self.offers.clear();
        self.offer_of.clear();
        self.full_until = 0;
    }

    /// The leases in force.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(|entry| entry.in_force).map(|entry| &entry.lease)
    }

    /// The lease in force of a holder.
    pub(crate) fn lease_of(&self, holder: Holder) -> Option<&Lease> {
        let entry = self.leases.get(self.of_holder.get(&holder)?)?;
        entry.in_force.then_some(&entry.lease)
    }

    /// Whether nobody else has it, was offered it or uses it without having been given it.
    fn is_free_for(&self, holder: Holder, address: u128, now: u64) -> bool {
        let others = |other: Holder| other != holder;
        let leased =
            self.leases.get(&address).is_some_and(|entry| entry.in_force && others(entry.lease.holder()));
        let offered = self.offers.get(&address).is_some_and(|(other, until)| *until > now && others(*other));
        let quarantined = self.quarantine.get(&address).is_some_and(|until| *until > now);
        !leased && !offered && !quarantined
    }

    /// Whether the holder can be given this address. One with a reservation gets no other while it can have that.
    pub(crate) fn may_have(
        &self,
        holder: Holder,
        address: u128,
        reservation: Option<u128>,
        now: u64,
    ) -> bool {
        match reservation {
            Some(reserved) if self.is_free_for(holder, reserved, now) => reserved == address,
            _ => {
                self.supply.is_for_anybody(address)
                    && self.is_free_for(holder, address, now)
                    && (self.leases.contains_key(&address) || self.has_room())
                    && self.is_no_hoarder(holder)
            }
        }
    }

    /// An address for the holder, kept for it for a time. None when there is none.
    pub(crate) fn offer(
        &mut self,
        holder: Holder,
        wanted: Option<u128>,
        reservation: Option<u128>,
        now: u64,
    ) -> Option<u128> {
        let before = self.of_holder.get(&holder).copied();
        let offered = self.offer_of.get(&holder).copied();
        let known = [reservation, before, offered, wanted].into_iter().flatten().find(|&address| {
            let untouched = Some(address) != wanted || self.remembers_nobody_but(holder, address);
            untouched && self.may_have(holder, address, reservation, now)
        });
        let address = known.or_else(|| self.new_address(holder, now))?;
        self.withdraw(holder);
        let until = now.saturating_add(OFFERED);
        // One that is over may still be there, of somebody whom nothing is kept for any more.
        if let Some((former, _)) = self.offers.insert(address, (holder, until)) {
            self.offer_of.remove(&former);
        }
        self.offer_of.insert(holder, address);
        self.ends_at(Some(until));
        Some(address)
    }

    /// Whether the address is nobody's by memory either.
    fn remembers_nobody_but(&self, holder: Holder, address: u128) -> bool {
        self.leases.get(&address).is_none_or(|entry| entry.lease.holder() == holder)
    }

    /// The addresses that are remembered of a hardware address.
    fn held_by(&self, mac: MacAddress) -> impl Iterator<Item = (&Holder, &u128)> {
        self.of_holder.range(Holder { mac, iaid: None }..=Holder { mac, iaid: Some(u32::MAX) })
    }

    /// What was offered to the holder is anybody's again.
    fn withdraw(&mut self, holder: Holder) {
        if let Some(address) = self.offer_of.remove(&holder) {
            self.offers.remove(&address);
        }
    }

    fn has_room(&self) -> bool {
        self.leases.len().max(self.offers.len()) < MOST_LEASES
    }

    /// Whether the guest has not got addresses for very many identity associations already.
    fn is_no_hoarder(&self, holder: Holder) -> bool {
        holder.iaid.is_none()
            || self.of_holder.contains_key(&holder)
            || self.held_by(holder.mac).count() < ASSOCIATIONS
    }

    fn new_address(&mut self, holder: Holder, now: u64) -> Option<u128> {
        if now < self.full_until || !self.is_no_hoarder(holder) {
            return None;
        }
        let total = self.supply.total();
        if total > 0 && self.has_room() {
            let begin = place(holder) % total;
            // Each step that fails is over an address that is taken, reserved or never given, all of which are bounded.
            let free = (0..total)
                .filter_map(|step| self.supply.at((begin + step) % total))
                .take(MOST_LEASES * 3)
                .find(|&address| {
                    self.supply.is_for_anybody(address)
                        && !self.leases.contains_key(&address)
                        && self.is_free_for(holder, address, now)
                });
            if free.is_some() {
                return free;
            }
        }
        let over = |(address, entry): &(&u128, &Entry)| {
            !entry.in_force
                && self.supply.is_for_anybody(**address)
                && self.is_free_for(holder, **address, now)
        };
        let oldest = self.leases.iter().filter(over).min_by_key(|(_, entry)| entry.lease.expires);
        let oldest = oldest.map(|(address, _)| *address);
        if oldest.is_none() {
            self.full_until = now.saturating_add(1);
        }
        oldest
    }

    /// Gives an address that [`Self::may_have`] allowed or [`Self::offer`] chose.
    pub(crate) fn grant(&mut self, mut lease: Lease) -> Vec<LeaseEvent> {
        let (holder, address) = (lease.holder(), number(lease.address));
        let mut events = Vec::new();
        self.withdraw(holder);
        if let Some(former) = self.of_holder.get(&holder).copied().filter(|former| *former != address) {
            events.extend(self.forget(former));
        }
        let mut change = LeaseChange::Added;
        match self.leases.get(&address) {
            Some(Entry { lease: former, in_force: true }) if former.holder() == holder => {
                change = LeaseChange::Renewed;
                lease.since = former.since;
            }
            Some(entry) if entry.lease.holder() != holder => events.extend(self.forget(address)),
            _ => {}
        }
        self.of_holder.insert(holder, address);
        self.ends_at(lease.expires);
        self.leases.insert(address, Entry { lease: lease.clone(), in_force: true });
        events.push(LeaseEvent { change, lease });
        events
    }

    /// Takes a lease out, which makes two events when it was in force: its end, and that nothing is remembered of it.
    fn forget(&mut self, address: u128) -> Vec<LeaseEvent> {
        let Some(Entry { lease, in_force }) = self.leases.remove(&address) else { return Vec::new() };
        self.of_holder.remove(&lease.holder());
        self.full_until = 0;
        let released = in_force.then(|| LeaseEvent { change: LeaseChange::Released, lease: lease.clone() });
        released.into_iter().chain([LeaseEvent { change: LeaseChange::Forgotten, lease }]).collect()
    }

    /// Ends the lease of the holder, if it is for this address; it is remembered.
    pub(crate) fn release(&mut self, holder: Holder, address: u128, now: u64) -> Option<LeaseEvent> {
        self.withdraw(holder);
        let entry =
            self.leases.get_mut(&address).filter(|entry| entry.in_force && entry.lease.holder() == holder)?;
        entry.in_force = false;
        entry.lease.expires = Some(now);
        self.full_until = 0;
        Some(LeaseEvent { change: LeaseChange::Released, lease: entry.lease.clone() })
    }

    /// Ends all leases of a hardware address.
    pub(crate) fn release_all(&mut self, mac: MacAddress, now: u64) -> Vec<LeaseEvent> {
        let found: Vec<_> = self.held_by(mac).map(|(holder, address)| (*holder, *address)).collect();
        found.into_iter().filter_map(|(holder, address)| self.release(holder, address, now)).collect()
    }

    /// The holder has found somebody else with the address that it was given: nobody gets it for a time.
    pub(crate) fn decline(&mut self, holder: Holder, address: u128, now: u64) -> Vec<LeaseEvent> {
        let offered = self.offers.get(&address).is_some_and(|(other, _)| *other == holder);
        let leased = self.leases.get(&address).is_some_and(|entry| entry.lease.holder() == holder);
        if !offered && !leased {
            return Vec::new();
        }
        self.withdraw(holder);
        let until = now.saturating_add(QUARANTINED);
        self.quarantine.insert(address, until);
        self.ends_at(Some(until));
        self.forget(address)
    }

    /// When something ends next, seconds since 1970, or sooner; none if nothing does.
    pub(crate) fn next_end(&self) -> Option<u64> {
        self.next_end
    }

    /// Something ends then.
    fn ends_at(&mut self, end: Option<u64>) {
        self.next_end = self.next_end.into_iter().chain(end).min();
    }

    /// Ends what is over, and drops offers that nobody took.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<LeaseEvent> {
        if self.next_end.is_none_or(|end| end > now) {
            return Vec::new();
        }
        let offer_of = &mut self.offer_of;
        self.offers.retain(|_, (holder, until)| {
            let stays = *until > now;
            if !stays {
                offer_of.remove(holder);
            }
            stays
        });
        self.quarantine.retain(|_, until| *until > now);
        let mut events = Vec::new();
        for entry in self.leases.values_mut().filter(|entry| entry.in_force && entry.lease.is_over(now)) {
            entry.in_force = false;
            events.push(LeaseEvent { change: LeaseChange::Expired, lease: entry.lease.clone() });
        }
        let in_force = self.leases.values().filter(|entry| entry.in_force);
        let leases = in_force.filter_map(|entry| entry.lease.expires);
        let offers = self.offers.values().map(|(_, until)| *until);
        self.next_end = leases.chain(offers).chain(self.quarantine.values().copied()).min();
        events
    }
}

/// A number that stays the same for a holder (FNV-1a).
fn place(holder: Holder) -> u128 {
    let association = holder.iaid.map(u32::to_be_bytes).unwrap_or_default();
    let hash = holder.mac.0.iter().chain(&association).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u128::from(hash)
}

/// A number that [`number`] made of an IPv4 address.
pub(crate) fn version4(number: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(number).unwrap_or_default())
}

/// A number that [`number`] made of an IPv6 address.
pub(crate) fn version6(number: u128) -> Ipv6Addr {
    Ipv6Addr::from(number)
}

#[cfg(test)]
mod tests;
