//! For fuzz targets: a connection's work on a request, without its socket and its waits.

use super::http::{self, Parsed};
use super::router;
use crate::control::Controller;

/// The response to the request that `bytes` begin with and how many of them it took, all of them if the connection ends
/// after it; `None` while the request has not arrived whole.
pub fn respond(bytes: &[u8], controller: &Controller) -> Option<(Vec<u8>, usize)> {
    let (head, head_bytes) = match http::parse_head(bytes) {
        Ok(Parsed::Partial) => return None,
        Ok(Parsed::Head(head, head_bytes)) => (head, head_bytes),
        Err(response) => return Some((response.bytes(true), bytes.len())),
    };
    assert!(head_bytes <= http::MAX_HEAD_BYTES && head.body_bytes <= http::MAX_BODY_BYTES, "{head:?}");
    let end = head_bytes + head.body_bytes;
    let body = bytes.get(head_bytes..end)?;
    let response = match router::route(&head.method, &head.path) {
        Ok(endpoint) => router::respond(endpoint, body, controller),
        Err(response) => response,
    };
    Some((response.bytes(head.closes), if head.closes { bytes.len() } else { end }))
}
