//! The states of domains and how they came to them, in virsh's words.
//!
//! Numbers: virDomainState and the virDomain*Reason enumerations of libvirt's include/libvirt/libvirt-domain.h.

use std::fmt;

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Unknown,
    Running,
    Blocked,
    Paused,
    ShuttingDown,
    ShutOff,
    Crashed,
    Suspended,
}

impl State {
    /// The meaning of virDomainState; what is newer than this program is unknown.
    pub(super) fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Running,
            2 => Self::Blocked,
            3 => Self::Paused,
            4 => Self::ShuttingDown,
            5 => Self::ShutOff,
            6 => Self::Crashed,
            7 => Self::Suspended,
            _ => Self::Unknown,
        }
    }

    /// As virsh prints it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "no state",
            Self::Running => "running",
            Self::Blocked => "idle",
            Self::Paused => "paused",
            Self::ShuttingDown => "in shutdown",
            Self::ShutOff => "shut off",
            Self::Crashed => "crashed",
            Self::Suspended => "pmsuspended",
        }
    }

    /// Whether there is a machine.
    pub(super) fn is_active(self) -> bool {
        !matches!(self, Self::ShutOff | Self::Unknown)
    }

    /// What the number of a reason means in this state.
    pub(super) fn reason(self, number: i32) -> &'static str {
        const RUNNING: [&str; 12] = [
            "unknown",
            "booted",
            "migrated",
            "restored",
            "from snapshot",
            "unpaused",
            "migration canceled",
            "save canceled",
            "event wakeup",
            "crashed",
            "post-copy",
            "post-copy failed",
        ];
        const PAUSED: [&str; 15] = [
            "unknown",
            "user",
            "migrating",
            "saving",
            "dumping",
            "I/O error",
            "watchdog",
            "from snapshot",
            "shutting down",
            "creating snapshot",
            "crashed",
            "starting up",
            "post-copy",
            "post-copy failed",
            "api error",
        ];
        const SHUT_OFF: [&str; 9] = [
            "unknown",
            "shutdown",
            "destroyed",
            "crashed",
            "migrated",
            "saved",
            "failed",
            "from snapshot",
            "daemon",
        ];
        let reasons: &[&str] = match self {
            Self::Running => &RUNNING,
            Self::Paused => &PAUSED,
            Self::ShutOff => &SHUT_OFF,
            Self::ShuttingDown => &["unknown", "user"],
            Self::Crashed => &["unknown", "panicked"],
            Self::Unknown | Self::Blocked | Self::Suspended => &["unknown"],
        };
        usize::try_from(number).ok().and_then(|number| reasons.get(number)).copied().unwrap_or("unknown")
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_those_that_are_known_have_a_word_too() {
        for number in [i32::MIN, -1, 8, 99, i32::MAX] {
            assert_eq!(State::from_number(number), State::Unknown);
            for state in (0..8).map(State::from_number) {
                assert_eq!(state.reason(number.saturating_mul(100)), "unknown");
            }
        }
        assert_eq!(State::from_number(3).reason(5), "I/O error");
    }
}
