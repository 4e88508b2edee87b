//! Events: what a server tells clients that registered for it, as MESSAGE packets.
//!
//! Only the variants with a callback number (CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY and its like); every client
//! since libvirt 1.3 asks for them. Source: libvirt's src/remote/remote_protocol.x (versions 9 to 11); nested structures are
//! written flat, which is the same on the wire.
#![expect(missing_docs, reason = "events and fields have the protocol's own names")]

use crate::call::events;
use crate::limits::*;
use crate::types::*;

events! {
    315 NetworkEventLifecycle { callback_id: i32, net: RemoteNetwork, event: i32, detail: i32 };
    318 DomainEventLifecycle { callback_id: i32, dom: RemoteDomain, event: i32, detail: i32 };
    319 DomainEventReboot { callback_id: i32, dom: RemoteDomain };
    320 DomainEventRtcChange { callback_id: i32, dom: RemoteDomain, offset: i64 };
    321 DomainEventWatchdog { callback_id: i32, dom: RemoteDomain, action: i32 };
    322 DomainEventIoError {
        callback_id: i32, dom: RemoteDomain, src_path: String, dev_alias: String, action: i32,
    };
    323 DomainEventGraphics {
        callback_id: i32, dom: RemoteDomain, phase: i32, local: DomainEventGraphicsAddress,
        remote: DomainEventGraphicsAddress, auth_scheme: String,
        subject: Vec<DomainEventGraphicsIdentity> [DOMAIN_EVENT_GRAPHICS_IDENTITY_MAX],
    };
    324 DomainEventIoErrorReason {
        callback_id: i32, dom: RemoteDomain, src_path: String, dev_alias: String, action: i32, reason: String,
    };
    325 DomainEventControlError { callback_id: i32, dom: RemoteDomain };
    326 DomainEventBlockJob { callback_id: i32, dom: RemoteDomain, path: String, kind: i32, status: i32 };
    327 DomainEventDiskChange {
        callback_id: i32, dom: RemoteDomain, old_src_path: Option<String>, new_src_path: Option<String>,
        dev_alias: String, reason: i32,
    };
    328 DomainEventTrayChange { callback_id: i32, dom: RemoteDomain, dev_alias: String, reason: i32 };
    329 DomainEventPmwakeup { callback_id: i32, reason: i32, dom: RemoteDomain };
    330 DomainEventPmsuspend { callback_id: i32, reason: i32, dom: RemoteDomain };
    331 DomainEventBalloonChange { callback_id: i32, dom: RemoteDomain, actual: u64 };
    332 DomainEventPmsuspendDisk { callback_id: i32, reason: i32, dom: RemoteDomain };
    333 DomainEventDeviceRemoved { callback_id: i32, dom: RemoteDomain, dev_alias: String };
    339 DomainEventBlockJob2 { callback_id: i32, dom: RemoteDomain, dst: String, kind: i32, status: i32 };
    346 DomainEventTunable {
        callback_id: i32, dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_EVENT_TUNABLE_MAX],
    };
    348 DomainEventAgentLifecycle { callback_id: i32, dom: RemoteDomain, state: i32, reason: i32 };
    354 DomainEventDeviceAdded { callback_id: i32, dom: RemoteDomain, dev_alias: String };
    362 ConnectEventConnectionClosed { reason: i32 };
    363 DomainEventJobCompleted {
        callback_id: i32, dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_JOB_STATS_MAX],
    };
    367 DomainEventDeviceRemovalFailed { callback_id: i32, dom: RemoteDomain, dev_alias: String };
    370 StoragePoolEventLifecycle { callback_id: i32, pool: RemoteStoragePool, event: i32, detail: i32 };
    373 StoragePoolEventRefresh { callback_id: i32, pool: RemoteStoragePool };
    379 DomainEventMetadataChange { callback_id: i32, dom: RemoteDomain, kind: i32, nsuri: Option<String> };
    385 DomainEventBlockThreshold {
        callback_id: i32, dom: RemoteDomain, dev: String, path: Option<String>, threshold: u64, excess: u64,
    };
    423 DomainEventMemoryFailure {
        callback_id: i32, dom: RemoteDomain, recipient: i32, action: i32, flags: u32,
    };
    438 DomainEventMemoryDeviceSizeChange { callback_id: i32, dom: RemoteDomain, alias: String, size: u64 };
    446 NetworkEventMetadataChange { callback_id: i32, net: RemoteNetwork, kind: i32, nsuri: Option<String> };
    453 DomainEventNicMacChange {
        callback_id: i32, dom: RemoteDomain, alias: String, old_mac: String, new_mac: String,
    };
}
