//! Which notification addresses wake the device directly.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use platform::{Doorbells, guest_warn};

/// A function's bound doorbells. What has been bound is unbound on drop.
pub(super) struct BoundDoorbells {
    host: Arc<dyn Doorbells>,
    bound: Vec<(u64, Arc<OwnedFd>)>,
}

impl BoundDoorbells {
    pub(super) fn new(host: Arc<dyn Doorbells>) -> Self {
        Self { host, bound: Vec::new() }
    }

    /// Binds `wanted` (addresses with the eventfds to signal) instead of what is bound. Does nothing when it is the same.
    ///
    /// A doorbell that can't be bound is a notification that arrives as a register write, only slower.
    pub(super) fn follow(&mut self, wanted: impl ExactSizeIterator<Item = (u64, Arc<OwnedFd>)> + Clone) {
        let same = wanted.len() == self.bound.len()
            && wanted
                .clone()
                .zip(&self.bound)
                .all(|(want, have)| want.0 == have.0 && Arc::ptr_eq(&want.1, &have.1));
        if same {
            return;
        }
        self.unbind_all();
        for (address, event) in wanted {
            match self.host.bind(address, event.as_fd()) {
                Ok(()) => self.bound.push((address, event)),
                Err(error) => guest_warn!(address, %error, "a doorbell can't be bound"),
            }
        }
    }

    fn unbind_all(&mut self) {
        for (address, event) in self.bound.drain(..) {
            if let Err(error) = self.host.unbind(address, event.as_fd()) {
                guest_warn!(address, %error, "a doorbell can't be unbound");
            }
        }
    }
}

impl Drop for BoundDoorbells {
    fn drop(&mut self) {
        self.unbind_all();
    }
}
