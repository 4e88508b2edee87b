//! What a machine's process may use: its control group and the processors of its threads, together.
//!
//! | when | call |
//! |---|---|
//! | before the process is started | [`Limits::prepare`]: the group and its limits |
//! | right after | [`Confinement::attach`]: the process goes into the group, before it has the guest's memory |
//! | once vCPUs have threads, best before they run | [`Confinement::apply_threads`] |
//! | a daemon finds the process of another | [`Limits::reopen`] |
//! | a client changes limits | [`Confinement::change`] |
//! | the process has ended | [`Limits::forget`] |
//!
//! On a host without control groups for machines, places of threads are honoured all the same, and what groups would do is
//! refused when it is demanded. All calls block: a limit of memory may take as long as giving back what is above it.

use std::collections::BTreeSet;
use std::path::Path;

use host_tune::{Host, HostError};
use libvirt_xml::NumberSet;

use super::threads::{ProcessThreads, ThreadError, ThreadKind, ThreadUsage};
use crate::control_group::{ControlGroups, Controllers, Group, GroupError, Unavailable};
use crate::domain::machine::HostDemands;

/// How often threads are looked for that were started while others were placed.
const MOST_ROUNDS: usize = 8;

/// Why a process is not confined as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// There are no groups, and a limit needs one.
    #[error("limits of processors and memory are not available: {0}")]
    Unavailable(#[from] Unavailable),
    /// Its group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Its threads.
    #[error(transparent)]
    Threads(#[from] ThreadError),
    /// The host's processors are not known.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no process any more.
    #[error("the machine's process has ended")]
    Ended,
    /// A vCPU has no thread.
    #[error("vCPU {0} of the machine has no thread")]
    NoThread(u32),
}

impl ConfinementError {
    /// The process, or a thread, is not there any more.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Ended => true,
            Self::Threads(error) | Self::Group(GroupError::Threads(error)) => error.is_end(),
            _ => false,
        }
    }
}

/// What the host can limit.
#[derive(Debug, Clone)]
pub struct Limits {
    groups: Result<ControlGroups, Unavailable>,
}

impl Limits {
    /// Of this host, for the daemon that has the runtime directory; takes its place among the control groups.
    pub fn find(runtime_directory: &Path) -> Self {
        let groups = ControlGroups::find(runtime_directory);
        match &groups {
            Ok(groups) => tracing::info!("machines have control groups: {:?}", groups.controllers()),
            Err(reason) => tracing::info!("machines have no limits of processors and memory: {reason}"),
        }
        Self { groups }
    }

    /// No groups, as on a host without them.
    #[cfg(test)]
    pub(crate) fn none(reason: &str) -> Self {
        Self { groups: Err(Unavailable::because(reason)) }
    }

    /// Which limits machines can have.
    pub fn controllers(&self) -> Controllers {
        self.groups.as_ref().map_or_else(|_| Controllers::default(), ControlGroups::controllers)
    }

    /// A group for the machine that is called `name` (letters, digits, `-`, `_`; unique on the host), with the limits that are
    /// demanded of it as a whole. Nothing is left behind by an error.
    pub fn prepare(&self, name: &str, demands: &HostDemands) -> Result<Confinement, ConfinementError> {
        let group = match &self.groups {
            Ok(groups) => Some(groups.make(name)?),
            Err(reason) if needs_group(demands) => return Err(reason.clone().into()),
            Err(_) => None,
        };
        if let Some(Err(error)) = group.as_ref().map(|group| limit(group, demands)) {
            self.forget(name);
            return Err(error.into());
        }
        Ok(Confinement { group })
    }

    /// Removes the group of a machine that has ended, and ends what it has left there.
    pub fn forget(&self, name: &str) {
        let Ok(groups) = &self.groups else { return };
        if let Err(error) = groups.remove(name) {
            tracing::warn!("the control group of machine {name} stays: {error}");
        }
    }

    /// The confinement of a process that an earlier daemon has started. It is as that daemon left it; without the group, there
    /// are only the places of its threads.
    pub fn reopen(&self, name: &str, pid: i32) -> Confinement {
        let group = self.groups.as_ref().ok().and_then(|groups| {
            let group = groups.reopen(name).and_then(|group| Ok(group.has(pid)?.then_some(group)));
            group.unwrap_or_else(|error| {
                tracing::warn!("the control group of process {pid} is not there any more: {error}");
                None
            })
        });
        Confinement { group }
    }
}

/// What confines a machine's process. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Confinement {
    group: Option<Group>,
}

impl Confinement {
    /// Takes a process that has just been started.
    pub fn attach(&self, pid: i32, demands: &HostDemands) -> Result<(), ConfinementError> {
        if let Some(group) = &self.group {
            group.add(pid)?;
        }
        // What it starts later runs where it does.
        if let Some(places) = emulator_places(demands) {
            ProcessThreads::of(pid).place(pid, places)?;
        }
        Ok(())
    }

    /// Places and limits the threads of a process that has `vcpus` vCPUs.
    pub fn apply_threads(&self, pid: i32, vcpus: u32, demands: &HostDemands) -> Result<(), ConfinementError> {
        let threads = ProcessThreads::of(pid);
        let quota = demands.cpu.quota.is_some_and(|quota| quota > 0);
        if quota || has_places(demands) {
            let there: BTreeSet<u32> = threads.vcpus()?.into_iter().map(|(number, _)| number).collect();
            if let Some(missing) = (0..vcpus).find(|vcpu| !there.contains(vcpu)) {
                return Err(ConfinementError::NoThread(missing));
            }
        }
        if let Some(group) = &self.group {
            group.limit_threads(&demands.cpu, threads)?;
        }
        if has_places(demands) { place_all(threads, demands) } else { Ok(()) }
    }

    /// Confines a running process otherwise than `before`. When something fails, what comes before it has been changed.
    pub fn change(
        &self,
        pid: i32,
        before: &HostDemands,
        demands: &HostDemands,
    ) -> Result<(), ConfinementError> {
        let threads = ProcessThreads::of(pid);
        match &self.group {
            Some(group) => {
                limit(group, demands)?;
                group.limit_threads(&demands.cpu, threads)?;
            }
            None if needs_group(demands) => {
                return Err(GroupError::Limit("the machine has no control group".to_owned()).into());
            }
            None => {}
        }
        if has_places(demands) || has_places(before) { place_all(threads, demands) } else { Ok(()) }
    }

    /// Time on processors: as the group counts it, which is exact, or the process.
    pub fn usage(&self, pid: i32) -> Result<ThreadUsage, ConfinementError> {
        let mut usage = ProcessThreads::of(pid).usage()?;
        if let Some(group) = &self.group {
            let counted = group.usage()?;
            (usage.time, usage.user, usage.system) = (counted.time, counted.user, counted.system);
        }
        Ok(usage)
    }
}

fn limit(group: &Group, demands: &HostDemands) -> Result<(), GroupError> {
    group.limit_cpu(&demands.cpu)?;
    group.limit_memory(&demands.memory)
}

fn needs_group(demands: &HostDemands) -> bool {
    demands.cpu != Default::default() || demands.memory != Default::default()
}

fn has_places(demands: &HostDemands) -> bool {
    demands.cpu_set.is_some() || demands.emulator_pin.is_some() || !demands.vcpu_pins.is_empty()
}

/// Processors of threads that run no vCPU; none: all.
fn emulator_places(demands: &HostDemands) -> Option<&NumberSet> {
    demands.emulator_pin.as_ref().or(demands.cpu_set.as_ref())
}

/// Processors of a vCPU's thread; none: all.
fn vcpu_places(demands: &HostDemands, vcpu: u32) -> Option<&NumberSet> {
    let pin = demands.vcpu_pins.iter().find(|(number, _)| *number == vcpu);
    pin.map(|(_, places)| places).or(demands.cpu_set.as_ref())
}

/// Places every thread: a vCPU that has no pin must not stay where the thread is that started it.
fn place_all(threads: ProcessThreads, demands: &HostDemands) -> Result<(), ConfinementError> {
    let processors = Host::this().processors()?;
    let all: NumberSet =
        processors.iter().filter(|processor| processor.online).map(|processor| processor.id).collect();
    let mut placed = BTreeSet::new();
    for _ in 0..MOST_ROUNDS {
        let before = placed.len();
        for thread in threads.list()? {
            let places = match thread.kind {
                ThreadKind::Vcpu(number) => vcpu_places(demands, number),
                ThreadKind::Other => emulator_places(demands),
            };
            if !placed.insert(thread.id) {
                continue;
            }
            match threads.place(thread.id, places.unwrap_or(&all)) {
                Err(error) if !error.is_end() => return Err(error.into()),
                _ => {}
            }
        }
        if placed.len() == before {
            return Ok(());
        }
    }
    Err(GroupError::Limit("the machine's process starts threads without end".to_owned()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::machine::CpuDemands;
    use crate::machine_process::stand_in::{StandIn, Work};

    fn places(numbers: &[u32]) -> NumberSet {
        numbers.iter().copied().collect()
    }

    /// Places of each vCPU and of the first thread.
    fn of(machine: &StandIn) -> (Vec<NumberSet>, NumberSet) {
        let threads = ProcessThreads::of(machine.pid());
        let vcpus = threads.vcpus().unwrap().into_iter().map(|(_, id)| threads.places(id).unwrap());
        (vcpus.collect(), threads.places(machine.pid()).unwrap())
    }

    #[test]
    fn threads_run_where_the_document_wants_them_and_everywhere_again() {
        let machine = StandIn::start(Work::Idle);
        let (before, all) = of(&machine);
        if all.len() < 2 {
            eprintln!("skipped: this host has one processor for this test");
            return;
        }
        let (first, last) = (places(&all.iter().take(1).collect::<Vec<_>>()), places(&[all.max().unwrap()]));
        let demands = HostDemands {
            emulator_pin: Some(first.clone()),
            vcpu_pins: vec![(1, last.clone())],
            ..HostDemands::default()
        };
        let limits = Limits::none("a test");
        let confinement = limits.prepare("a", &demands).unwrap();
        confinement.attach(machine.pid(), &demands).unwrap();
        assert_eq!(of(&machine), (before.clone(), first.clone()));
        confinement.apply_threads(machine.pid(), 2, &demands).unwrap();
        let (vcpus, emulator) = of(&machine);
        assert_eq!((&vcpus[1], &emulator), (&last, &first));
        assert!(vcpus[0].len() >= all.len(), "{vcpus:?}");
        // A set of the whole domain counts where there is no other.
        let all_on_last = HostDemands { cpu_set: Some(last.clone()), emulator_pin: None, ..demands.clone() };
        confinement.change(machine.pid(), &demands, &all_on_last).unwrap();
        assert_eq!(of(&machine), (vec![last.clone(), last.clone()], last));
        confinement.change(machine.pid(), &all_on_last, &HostDemands::default()).unwrap();
        let (vcpus, emulator) = of(&machine);
        assert!(vcpus.iter().chain([&emulator]).all(|places| places.len() >= all.len()));
    }

    #[test]
    fn a_vcpu_without_thread_is_missed_when_something_is_wanted_of_it() {
        let machine = StandIn::start(Work::Idle);
        let limits = Limits::none("a test");
        let confinement = limits.prepare("a", &HostDemands::default()).unwrap();
        confinement.apply_threads(machine.pid(), 3, &HostDemands::default()).unwrap();
        let (_, all) = of(&machine);
        let demands = HostDemands { cpu_set: Some(all), ..HostDemands::default() };
        confinement.apply_threads(machine.pid(), 2, &demands).unwrap();
        let error = confinement.apply_threads(machine.pid(), 3, &demands).unwrap_err();
        assert!(matches!(error, ConfinementError::NoThread(2)), "{error}");
    }

    #[test]
    fn without_groups_limits_are_refused_with_the_reason() {
        let cpu = CpuDemands { quota: Some(1000), ..CpuDemands::default() };
        let demands = HostDemands { cpu, ..HostDemands::default() };
        let error = Limits::none("the reason").prepare("a", &demands).unwrap_err();
        assert!(error.to_string().ends_with("the reason"), "{error}");
        let machine = StandIn::start(Work::Busy);
        let confinement = Limits::none("").reopen("a", machine.pid());
        assert!(confinement.change(machine.pid(), &HostDemands::default(), &demands).is_err());
        // The process counts by itself; it is busy, so this ends.
        while confinement.usage(machine.pid()).unwrap().time.is_zero() {
            std::thread::yield_now();
        }
    }
}
