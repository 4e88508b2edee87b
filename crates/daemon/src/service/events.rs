//! Events: who wants to hear of what.
//!
//! A client registers for a kind of event, of one domain or of all, and gets a callback number that its events carry. The
//! numbers are unique in a connection. Source: libvirt's src/remote/remote_protocol.x, procedures 316 and 317.

use std::collections::HashMap;
use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, ClientHandle, Table};
use parking_lot::Mutex;

use super::Daemon;

/// Most registrations of one connection: virsh needs 27 at a time.
const MOST: usize = 1024;

/// Kinds of pool events there are (VIR_STORAGE_POOL_EVENT_ID_LAST of libvirt 10).
const POOL_EVENTS: std::ops::Range<i32> = 0..2;

/// Kinds of network events there are (VIR_NETWORK_EVENT_ID_LAST of libvirt 10).
const NETWORK_EVENTS: std::ops::Range<i32> = 0..2;

/// Kinds of domain events there are (VIR_DOMAIN_EVENT_ID_LAST of libvirt 10).
const DOMAIN_EVENTS: std::ops::Range<i32> = 0..28;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(register_domain)
        .on(deregister_domain)
        .on(register_pool)
        .on(deregister_pool)
        .on(register_network)
        .on(deregister_network)
}

/// What a registration is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Domains; the number is a virDomainEventID.
    Domain(i32),
    /// Storage pools; the number is a virStoragePoolEventID.
    Pool(i32),
    /// Networks; the number is a virNetworkEventID.
    Network(i32),
}

#[derive(Debug)]
struct Subscription {
    callback: i32,
    subject: Subject,
    /// The only object of interest; all if none.
    uuid: Option<[u8; 16]>,
}

#[derive(Debug)]
struct Subscriber {
    client: ClientHandle,
    next: i32,
    subscriptions: Vec<Subscription>,
}

/// All registrations, by connection.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Mutex<HashMap<u64, Subscriber>>);

impl Subscriptions {
    fn add(&self, client: &ClientHandle, subject: Subject, uuid: Option<[u8; 16]>) -> Result<i32, RpcError> {
        let mut all = self.0.lock();
        let subscriber = all.entry(client.id()).or_insert_with(|| Subscriber {
            client: client.clone(),
            next: 0,
            subscriptions: Vec::new(),
        });
        let callback = subscriber.next;
        let next = callback.checked_add(1).filter(|_| subscriber.subscriptions.len() < MOST);
        subscriber.next =
            next.ok_or_else(|| RpcError::busy("too many event callbacks of this connection"))?;
        subscriber.subscriptions.push(Subscription { callback, subject, uuid });
        if client.is_closed() {
            // It has gone meanwhile, and nobody says so again.
            all.remove(&client.id());
        }
        Ok(callback)
    }

    fn remove(&self, client: &ClientHandle, callback: i32) -> Result<(), RpcError> {
        let mut all = self.0.lock();
        let subscriptions = all.get_mut(&client.id()).map(|subscriber| &mut subscriber.subscriptions);
        let at = subscriptions.as_ref().and_then(|of| of.iter().position(|one| one.callback == callback));
        match (subscriptions, at) {
            (Some(subscriptions), Some(at)) => {
                subscriptions.remove(at);
                Ok(())
            }
            _ => {
                let message = format!("event callback {callback} is not registered");
                Err(RpcError::invalid_argument(message))
            }
        }
    }

    /// A connection is gone.
    pub(super) fn forget(&self, client: &ClientHandle) {
        self.0.lock().remove(&client.id());
    }

    /// Everybody who wants to hear of `subject` of the object: the client and the callback's number.
    pub(crate) fn listeners(&self, subject: Subject, uuid: &[u8; 16]) -> Vec<(ClientHandle, i32)> {
        let all = self.0.lock();
        let interested = |one: &&Subscription| {
            one.subject == subject && one.uuid.as_ref().is_none_or(|wanted| wanted == uuid)
        };
        let mut listeners = Vec::new();
        for subscriber in all.values() {
            let callbacks = subscriber.subscriptions.iter().filter(interested).map(|one| one.callback);
            listeners.extend(callbacks.map(|callback| (subscriber.client.clone(), callback)));
        }
        listeners
    }
}

async fn register_domain(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: ConnectDomainEventCallbackRegisterAny,
) -> Result<ConnectDomainEventCallbackRegisterAnyReply, RpcError> {
    if !DOMAIN_EVENTS.contains(&call.event_id) {
        return Err(RpcError::invalid_argument(format!("unsupported event ID {}", call.event_id)));
    }
    let uuid = call.dom.map(|domain| domain.uuid.0);
    let callback_id = daemon.subscriptions.add(context.client(), Subject::Domain(call.event_id), uuid)?;
    Ok(ConnectDomainEventCallbackRegisterAnyReply { callback_id })
}

async fn deregister_domain(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: ConnectDomainEventCallbackDeregisterAny,
) -> Result<(), RpcError> {
    daemon.subscriptions.remove(context.client(), call.callback_id)
}

async fn register_pool(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: ConnectStoragePoolEventRegisterAny,
) -> Result<ConnectStoragePoolEventRegisterAnyReply, RpcError> {
    if !POOL_EVENTS.contains(&call.event_id) {
        return Err(RpcError::invalid_argument(format!("unsupported event ID {}", call.event_id)));
    }
    let uuid = call.pool.map(|pool| pool.uuid.0);
    let callback_id = daemon.subscriptions.add(context.client(), Subject::Pool(call.event_id), uuid)?;
    Ok(ConnectStoragePoolEventRegisterAnyReply { callback_id })
}

async fn deregister_pool(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: ConnectStoragePoolEventDeregisterAny,
) -> Result<(), RpcError> {
    daemon.subscriptions.remove(context.client(), call.callback_id)
}

async fn register_network(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: ConnectNetworkEventRegisterAny,
) -> Result<ConnectNetworkEventRegisterAnyReply, RpcError> {
    if !NETWORK_EVENTS.contains(&call.event_id) {
        return Err(RpcError::invalid_argument(format!("unsupported event ID {}", call.event_id)));
    }
    let uuid = call.net.map(|network| network.uuid.0);
    let callback_id = daemon.subscriptions.add(context.client(), Subject::Network(call.event_id), uuid)?;
    Ok(ConnectNetworkEventRegisterAnyReply { callback_id })
}

async fn deregister_network(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: ConnectNetworkEventDeregisterAny,
) -> Result<(), RpcError> {
    daemon.subscriptions.remove(context.client(), call.callback_id)
}
