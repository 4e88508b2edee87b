//! Places that guests take: so many there are, and so many of them one guest may have, so that none can take all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places of one kind.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    most_of_one: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place; the next one has it when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    guest: IpAddr,
}

impl Places {
    pub(super) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, taken: Mutex::default() })
    }

    /// A place for this guest, if there is one.
    pub(super) fn take(self: &Arc<Self>, guest: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let all: usize = taken.values().sum();
        let of_one = taken.get(&guest).copied().unwrap_or(0);
        if all >= self.most || of_one >= self.most_of_one {
            return None;
        }
        taken.insert(guest, of_one + 1);
        Some(Place { places: Arc::clone(self), guest })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.lock().values().sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.guest) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.guest);
            }
        }
    }
}
