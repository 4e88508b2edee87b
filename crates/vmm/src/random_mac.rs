//! Bytes for the MAC addresses of interfaces that were described without one.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Six bytes that differ from machine to machine and from call to call.
///
/// From the standard library's randomly keyed hasher, whose keys come from the host's random source once a thread. An
/// address has to be unlikely to be met twice in a network; it is no secret, so that is enough.
pub fn random_mac() -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_from_call_to_call() {
        let made: std::collections::BTreeSet<_> = (0..100).map(|_| random_mac()).collect();
        assert_eq!(made.len(), 100);
    }
}
