//! Puts rules back when somebody removes them: `nft flush ruleset`, a reload of firewalld, a start of Docker.
//!
//! The kernel tells of every change (the group `NFNLGRP_NFTABLES`). What is there is compared with what
//! should be there then, and made whole if it is not. Others change their rules in many steps, and two that put theirs back
//! all the time should not keep a host busy: one look takes place per [`PAUSE`] at most, the first at once. The old packet
//! filter tells nothing; where it is in use, it is looked at every [`LEGACY`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::host::{HostNetwork, blocking};
use crate::legacy;
use crate::netlink::{Socket, messages};
use crate::state::Shared;

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h is 7.
const GROUP: u32 = 1 << 6;
/// `NFT_MSG_NEWGEN`, which ends each transaction.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two looks at the old filter.
const LEGACY: Duration = Duration::from_secs(10);

/// Watches as long as it is kept.
#[derive(Debug)]
pub struct Watcher {
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HostNetwork {
    /// Puts rules back from now on.
    ///
    /// # Errors
    /// The kernel has no nftables.
    pub fn watch(&self) -> io::Result<Watcher> {
        let socket = Socket::listen(Some(netlink::NETFILTER), GROUP)?;
        let socket = registered(socket)?;
        let task = tokio::spawn(watch(socket, self.shared()));
        Ok(Watcher { task })
    }
}

/// A socket whose readability can be waited for.
#[expect(unsafe_code, reason = "the registration relies on the descriptor staying the same")]
fn registered(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a socket owns one descriptor, open until it is dropped, and nobody takes it out of the registration.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

async fn watch(socket: AsyncFd<Socket>, shared: Arc<Shared>) {
    loop {
        match tokio::time::timeout(LEGACY, changed(&socket)).await {
            Ok(Ok(false)) => continue,
            Ok(Ok(true)) => {}
            Ok(Err(error)) => return tracing::error!("rules are not watched any more: {error}"),
            Err(_) if legacy::in_use("filter") => {}
            Err(_) => continue,
        }
        let state = Arc::clone(&shared);
        match blocking(move || state.put_back(false)).await.and_then(|done| done) {
            Ok(true) => tracing::warn!("somebody has removed rules of our networks: they are put back"),
            Ok(false) => {}
            Err(error) => tracing::warn!("rules of our networks can't be put back: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for messages; whether rules have changed.
async fn changed(socket: &AsyncFd<Socket>) -> io::Result<bool> {
    let mut ready = socket.readable().await?;
    let (mut buffer, mut any) = (Vec::new(), false);
    loop {
        match socket.get_ref().receive(&mut buffer) {
            // Who has made it is not asked: what has been made from here is found complete.
            Ok(datagram) => any |= messages(datagram).any(|message| message.kind == NEW_GENERATION),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.clear_ready();
                return Ok(any);
            }
            // More than the socket holds: something has changed.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => any = true,
            Err(error) => return Err(error),
        }
    }
}
