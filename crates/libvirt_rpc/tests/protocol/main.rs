//! The server's half with real clients and with hostile ones: a small service in memory answers virsh, libvirt-python, our own
//! client and raw sockets.

#![expect(clippy::unwrap_used, reason = "what a test asks for has to work")]

mod clients;
mod hostile;
mod service;
mod streams;
