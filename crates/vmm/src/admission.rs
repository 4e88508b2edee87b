//! Which action is allowed where in a machine's life: a pure table, no locks, no I/O.

use crate::control::{Action, ControlError, VmState};

/// Whether `action` may be carried out on a machine in `state` (`None`: no machine has been created).
///
/// The driver carries out one action at a time and takes what guests did meanwhile first, so the state alone decides.
pub(crate) fn admit(state: Option<VmState>, action: &Action) -> Result<(), ControlError> {
    use VmState::{Created, Paused, Running};
    let refuse = |action, state| Err(ControlError::WrongState { action, state });
    match (action, state) {
        (Action::Create(_), None) | (Action::ShutdownVmm, _) => Ok(()),
        (Action::Create(_), Some(_)) => Err(ControlError::AlreadyCreated),
        (_, None) => Err(ControlError::NotCreated),
        (Action::Info | Action::Delete, Some(_)) => Ok(()),
        (Action::Boot | Action::BootPaused, Some(Created)) => Ok(()),
        (Action::Boot | Action::BootPaused, Some(state)) => refuse("boot", state),
        (Action::Pause, Some(Running)) => Ok(()),
        (Action::Pause, Some(state)) => refuse("pause", state),
        (Action::Resume, Some(Paused)) => Ok(()),
        (Action::Resume, Some(state)) => refuse("resume", state),
        (Action::PowerButton, Some(Running)) => Ok(()),
        (Action::PowerButton, Some(state)) => refuse("press the power button of", state),
        (Action::Nmi, Some(Running)) => Ok(()),
        (Action::Nmi, Some(state)) => refuse("send a non-maskable interrupt to", state),
        (Action::Reboot, Some(Running | Paused)) => Ok(()),
        (Action::Reboot, Some(state)) => refuse("reboot", state),
        (Action::Shutdown, Some(Running | Paused)) => Ok(()),
        (Action::Shutdown, Some(state)) => refuse("shut down", state),
        // The driver of a paused guest is told when it goes on.
        (Action::ChangeBalloon { .. }, Some(Running | Paused)) => Ok(()),
        (Action::ChangeBalloon { .. }, Some(state)) => refuse("change the balloon of", state),
        // The driver of a paused guest could not be told.
        (Action::ResizeDisk { .. }, Some(Running)) => Ok(()),
        (Action::ResizeDisk { .. }, Some(state)) => refuse("resize a disk of", state),
        // The driver of a paused guest is told when it goes on.
        (Action::SetLink { .. }, Some(Running | Paused)) => Ok(()),
        (Action::SetLink { .. }, Some(state)) => refuse("plug or pull a cable of", state),
        (Action::Counters, Some(Running | Paused)) => Ok(()),
        (Action::Counters, Some(state)) => refuse("read the counters of", state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Option<VmState>; 4] =
        [None, Some(VmState::Created), Some(VmState::Running), Some(VmState::Paused)];

    fn admitted(action: &Action) -> Vec<Option<VmState>> {
        STATES.into_iter().filter(|state| admit(*state, action).is_ok()).collect()
    }

    #[test]
    fn only_a_running_machine_can_be_paused_and_only_a_paused_one_resumed() {
        assert_eq!(admitted(&Action::Pause), [Some(VmState::Running)]);
        assert_eq!(admitted(&Action::Resume), [Some(VmState::Paused)]);
    }

    #[test]
    fn only_a_machine_with_a_guest_is_resized() {
        let balloon = Action::ChangeBalloon { bytes: Some(0), statistics_period: None };
        assert_eq!(admitted(&balloon), [Some(VmState::Running), Some(VmState::Paused)]);
        assert_eq!(admitted(&Action::ResizeDisk { id: String::new(), bytes: 0 }), [Some(VmState::Running)]);
    }

    #[test]
    fn a_cable_is_plugged_while_the_guest_runs_or_waits() {
        let action = Action::SetLink { id: String::new(), up: false };
        assert_eq!(admitted(&action), [Some(VmState::Running), Some(VmState::Paused)]);
    }

    #[test]
    fn a_machine_is_booted_only_when_it_does_not_run() {
        assert_eq!(admitted(&Action::Boot), [Some(VmState::Created)]);
    }

    #[test]
    fn the_process_can_always_be_ended() {
        assert_eq!(admitted(&Action::ShutdownVmm), STATES);
    }

    #[test]
    fn everything_but_creation_needs_a_machine() {
        for action in [Action::Boot, Action::Delete, Action::Info, Action::Nmi, Action::Counters] {
            assert!(matches!(admit(None, &action), Err(ControlError::NotCreated)), "{action:?}");
        }
    }
}
