//! The control API: HTTP/1.1 with JSON on a unix socket, with the paths, methods, status codes and fields of Cloud
//! Hypervisor's API v1. `vireo-vmm.yaml` beside this file describes it for programs.
//!
//! A client of the VM driver like any other: it turns a request into an [`crate::control::Action`], waits for the answer
//! and writes it down. It decides nothing about the machine.
//!
//! Trust: whoever can open the socket (mode 0600: the VMM's own user) may do everything the API offers, but may not
//! crash or wedge the VMM. So everything is bounded: connections, bytes of a request, the time that a request takes to
//! arrive and an answer to leave.
//!
//! Threads: one that accepts ([`ApiServer`] owns it) and one for each connection (owned by the first). All of them end
//! when the server is dropped.
//!
//! Source: RFC 9110 (semantics) and RFC 9112 (HTTP/1.1).

mod connection;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod listener;
#[cfg(test)]
mod openapi_tests;
mod router;
mod server;
#[cfg(test)]
mod tests;

pub use listener::SocketError;
pub use server::ApiServer;
