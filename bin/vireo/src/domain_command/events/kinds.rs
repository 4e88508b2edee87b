//! Kinds of events, and what each says, in virsh's words.
//!
//! Numbers: virDomainEventID, virDomainEventType and the details of each in libvirt's include/libvirt/libvirt-domain.h.

use libvirt_rpc::client::Message;
use libvirt_rpc::events::*;
use libvirt_rpc::xdr::XdrError;
use serde_json::json;

use crate::domain_command::as_json;
use crate::domain_command::stats::as_object;
use crate::listening::Told;

/// Numbers and names of all kinds that can be listened to.
pub(super) const KINDS: [(i32, &str); 27] = [
    (0, "lifecycle"),
    (1, "reboot"),
    (2, "rtc-change"),
    (3, "watchdog"),
    (4, "io-error"),
    (5, "graphics"),
    (6, "io-error-reason"),
    (7, "control-error"),
    (8, "block-job"),
    (9, "disk-change"),
    (10, "tray-change"),
    (11, "pm-wakeup"),
    (12, "pm-suspend"),
    (13, "balloon-change"),
    (14, "pm-suspend-disk"),
    (15, "device-removed"),
    (16, "block-job-2"),
    (17, "tunable"),
    (18, "agent-lifecycle"),
    (19, "device-added"),
    (21, "job-completed"),
    (22, "device-removal-failed"),
    (23, "metadata-change"),
    (24, "block-threshold"),
    (25, "memory-failure"),
    (26, "memory-device-size-change"),
    (27, "nic-mac-change"),
];

/// What a message says; none when it is no event of a domain.
pub(super) fn told(message: &Message) -> Result<Option<Told>, XdrError> {
    macro_rules! kinds {
        ($($event:ident $kind:literal |$e:ident| [$($name:literal: $value:expr),*];)*) => {
            $(if let Some($e) = message.event::<$event>() {
                let $e = $e?;
                let details = vec![$(($name, json!($value))),*];
                let (about, name, who) = ("domain", $e.dom.name.clone(), as_json(&$e.dom));
                return Ok(Some(Told { kind: $kind, about, name, who, details }));
            })*
        };
    }
    kinds! {
        DomainEventLifecycle "lifecycle" |e| [
            "type": lifecycle(e.event).0, "detail": detail(e.event, e.detail)
        ];
        DomainEventReboot "reboot" |e| [];
        DomainEventRtcChange "rtc-change" |e| ["offset": e.offset];
        DomainEventWatchdog "watchdog" |e| ["action": e.action];
        DomainEventIoError "io-error" |e| ["path": e.src_path, "device": e.dev_alias, "action": e.action];
        DomainEventGraphics "graphics" |e| ["phase": e.phase, "auth_scheme": e.auth_scheme];
        DomainEventIoErrorReason "io-error-reason" |e| [
            "path": e.src_path, "device": e.dev_alias, "action": e.action, "reason": e.reason
        ];
        DomainEventControlError "control-error" |e| [];
        DomainEventBlockJob "block-job" |e| ["path": e.path, "type": e.kind, "status": e.status];
        DomainEventDiskChange "disk-change" |e| [
            "old_path": e.old_src_path, "new_path": e.new_src_path, "device": e.dev_alias, "reason": e.reason
        ];
        DomainEventTrayChange "tray-change" |e| ["device": e.dev_alias, "reason": e.reason];
        DomainEventPmwakeup "pm-wakeup" |e| [];
        DomainEventPmsuspend "pm-suspend" |e| [];
        DomainEventPmsuspendDisk "pm-suspend-disk" |e| [];
        DomainEventBalloonChange "balloon-change" |e| ["actual_kib": e.actual];
        DomainEventDeviceRemoved "device-removed" |e| ["device": e.dev_alias];
        DomainEventBlockJob2 "block-job-2" |e| ["target": e.dst, "type": e.kind, "status": e.status];
        DomainEventTunable "tunable" |e| ["params": as_object(&e.params)];
        DomainEventAgentLifecycle "agent-lifecycle" |e| ["state": e.state, "reason": e.reason];
        DomainEventDeviceAdded "device-added" |e| ["device": e.dev_alias];
        DomainEventJobCompleted "job-completed" |e| ["params": as_object(&e.params)];
        DomainEventDeviceRemovalFailed "device-removal-failed" |e| ["device": e.dev_alias];
        DomainEventMetadataChange "metadata-change" |e| ["type": metadata(e.kind), "uri": e.nsuri];
        DomainEventBlockThreshold "block-threshold" |e| [
            "device": e.dev, "path": e.path, "threshold": e.threshold, "excess": e.excess
        ];
        DomainEventMemoryFailure "memory-failure" |e| [
            "recipient": e.recipient, "action": e.action, "flags": e.flags
        ];
        DomainEventMemoryDeviceSizeChange "memory-device-size-change" |e| [
            "device": e.alias, "size_kib": e.size
        ];
        DomainEventNicMacChange "nic-mac-change" |e| [
            "device": e.alias, "old_mac": e.old_mac, "new_mac": e.new_mac
        ];
    }
    Ok(None)
}

/// virDomainMetadataType, and virNetworkMetadataType, which has the same numbers.
pub(crate) fn metadata(kind: i32) -> &'static str {
    match kind {
        0 => "description",
        1 => "title",
        2 => "element",
        _ => "unknown",
    }
}

/// What happened (virDomainEventType), and how it came to it.
fn lifecycle(event: i32) -> (&'static str, &'static [&'static str]) {
    match event {
        0 => ("Defined", &["Added", "Updated", "Renamed", "Snapshot"]),
        1 => ("Undefined", &["Removed", "Renamed"]),
        2 => ("Started", &["Booted", "Migrated", "Restored", "Snapshot", "Event wakeup"]),
        3 => (
            "Suspended",
            &[
                "Paused",
                "Migrated",
                "I/O Error",
                "Watchdog",
                "Restored",
                "Snapshot",
                "API error",
                "Post-copy",
                "Post-copy Error",
            ],
        ),
        4 => ("Resumed", &["Unpaused", "Migrated", "Snapshot", "Post-copy", "Post-copy Error"]),
        5 => ("Stopped", &["Shutdown", "Destroyed", "Crashed", "Migrated", "Saved", "Failed", "Snapshot"]),
        6 => ("Shutdown", &["Finished", "Finished after guest request", "Finished after host request"]),
        7 => ("PMSuspended", &["Memory", "Disk"]),
        8 => ("Crashed", &["Panicked", "Crashloaded"]),
        _ => ("Unknown", &[]),
    }
}

fn detail(event: i32, detail: i32) -> &'static str {
    let (_, details) = lifecycle(event);
    usize::try_from(detail).ok().and_then(|detail| details.get(detail)).copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_than_this_program_is_unknown_and_no_panic() {
        assert_eq!(lifecycle(5).0, "Stopped");
        assert_eq!(detail(5, 1), "Destroyed");
        for number in [-1, 9, i32::MAX, i32::MIN] {
            assert_eq!((lifecycle(number).0, detail(number, 0)), ("Unknown", "unknown"));
            assert_eq!(detail(3, number.saturating_mul(2)), "unknown");
        }
    }

    #[test]
    fn other_messages_are_passed_over() {
        assert!(told(&Message { number: 370, body: Vec::new() }).unwrap().is_none());
        told(&Message { number: 318, body: vec![0; 3] }).unwrap_err();
    }
}
