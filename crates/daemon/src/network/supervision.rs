//! A network's services are started again when their process ends by itself: guests keep their addresses, which are in its database.
//!
//! One task a running network waits for the end of the process (a pidfd, which also takes the process out of the kernel's table). It owns
//! nothing else: whether the network still runs, and is served by that very process, is asked of the registry at the end, under the turn of
//! whoever changes networks, so nothing has to be told when a network stops.
//!
//! A process that has served for some time is replaced at once. When one does not live long or does not start, the next is waited with,
//! longer each time.

use std::sync::Weak;
use std::time::{Duration, Instant};

use libvirt_xml::Uuid;

use super::Running;
use crate::machine_process::{Ending, MachineProcess, ProcessIdentity};

/// What ends sooner has not served anybody for long.
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// What is waited when the second attempt in a row has not led to anything, and the most that is waited.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long the next attempt is waited with after so many short lives and failures in a row.
fn pause(attempts: u32) -> Duration {
    match attempts.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => (FIRST_PAUSE * 2_u32.saturating_pow(doublings.min(16))).min(LONGEST_PAUSE),
    }
}

/// A process that serves a network, and is watched.
pub(super) struct Watched {
    pub(super) uuid: Uuid,
    pub(super) identity: ProcessIdentity,
    /// None when it has ended already.
    pub(super) process: Option<MachineProcess>,
    /// Short lives and failures in a row before it.
    pub(super) attempts: u32,
}

/// Begins to watch.
pub(super) fn begin(running: Weak<Running>, watched: Watched) {
    tokio::spawn(watch(running, watched));
}

async fn watch(running: Weak<Running>, watched: Watched) {
    let Watched { uuid, identity, process, mut attempts } = watched;
    let since = Instant::now();
    let mut why = end_of(process).await;
    attempts = if since.elapsed() < SHORT_LIFE { attempts.saturating_add(1) } else { 1 };
    loop {
        tokio::time::sleep(pause(attempts)).await;
        let Some(running) = running.upgrade() else { return };
        let turn = running.turn().await;
        // A network that was stopped meanwhile, or is served by another process, needs nothing.
        let Some((network, live)) = running.served_by(uuid, &identity) else { return };
        tracing::warn!("services of network '{}' {why}: started again", network.name());
        let started = match turn {
            Ok(_turn) => running.start_services(uuid, &live, attempts).await,
            Err(error) => Err(error),
        };
        let Err(error) = started else { return };
        why = format!("do not start ({error})");
        attempts = attempts.saturating_add(1);
        let next = pause(attempts).as_secs();
        tracing::error!("services of network '{}' {why}: next attempt in {next} s", network.name());
    }
}

/// Waits for the end of a process; how it was.
async fn end_of(process: Option<MachineProcess>) -> String {
    let Some(process) = process else { return "have ended".to_owned() };
    let how = match process.ended().await {
        Ending::Exited(code) => format!("ended with code {code}"),
        Ending::Killed(signal) => format!("were ended by signal {signal}"),
        Ending::Unknown => "have ended".to_owned(),
    };
    format!("{how} ({})", process.last_words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_made_at_once_and_the_others_are_further_and_further_apart() {
        let pauses: Vec<u64> = [0, 1, 2, 3, 4, 7, 8, 9, u32::MAX].map(|tries| pause(tries).as_secs()).into();
        assert_eq!(pauses, [0, 0, 1, 2, 4, 32, 60, 60, 60]);
    }
}
