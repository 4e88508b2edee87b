//! One thread a vCPU: runs the guest, passes its accesses to the devices, obeys the driver.
//!
//! Commands go one way through a channel, acknowledgements the other way through another; the driver never holds a lock
//! while it waits for them, and a vCPU never waits for anything but its next command or its own device access. After
//! the guest asked for something that ends the machine as it is (power off, reset, a crash), its vCPU stays out of the
//! guest until it is told what to do.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use kvm_host::{Exit, Kick, Vcpu};
use platform::{Bus, Effect, VmRequest};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// What the driver tells a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    /// Run the guest.
    Run,
    /// Stay out of the guest.
    Pause,
    /// Inject a non-maskable interrupt.
    Nmi,
}

/// What new vCPUs do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// They run the guest.
    Run,
    /// They wait until they are told to.
    Wait,
}

/// What a guest did that concerns the whole machine.
#[derive(Debug)]
pub(crate) enum GuestEvent {
    /// It asked for something through a device.
    Ask(VmRequest),
    /// It cannot go on: what happened, with registers.
    Crashed(String),
    /// It has opened or closed channels.
    Channels,
    /// It has changed how much its balloon holds. Said once until somebody looks.
    BalloonChanged,
}

/// The address spaces that every vCPU reaches.
#[derive(Debug, Clone)]
pub(crate) struct AddressSpaces {
    /// Port I/O.
    pub(crate) ports: Arc<Bus>,
    /// Memory-mapped I/O.
    pub(crate) memory: Arc<Bus>,
}

/// How vCPU threads report events to the driver.
pub(crate) type EventSink = Arc<dyn Fn(GuestEvent) + Send + Sync>;

type Acknowledgement = Result<(), String>;

/// All vCPUs of a machine. Dropping the value takes them out of the guest and joins their threads.
#[derive(Debug)]
pub(crate) struct VcpuThreads {
    threads: Vec<VcpuThread>,
    acknowledgements: Receiver<Acknowledgement>,
}

#[derive(Debug)]
struct VcpuThread {
    /// `None` once the thread is to end.
    commands: Option<Sender<Command>>,
    kick: Kick,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThreads {
    /// A thread for each of `vcpus`, in order, which runs the guest from the beginning, or waits to be told to. All of them have
    /// their names when this returns: whoever confines the machine from outside looks for those next.
    pub(crate) fn start(
        vcpus: Vec<Vcpu>,
        spaces: &AddressSpaces,
        events: &EventSink,
        first: First,
    ) -> std::io::Result<Self> {
        let (acknowledge, acknowledgements) = mpsc::channel();
        let mut all = Self { threads: Vec::with_capacity(vcpus.len()), acknowledgements };
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (commands, inbox) = mpsc::channel();
            let kick = vcpu.kick();
            let work = VcpuWork {
                vcpu,
                inbox,
                acknowledge: acknowledge.clone(),
                spaces: spaces.clone(),
                events: Arc::clone(events),
            };
            // The others wait until the guest starts them.
            let here = (index == 0).then(Here::stay).flatten();
            let processors = here.as_ref().map(|here| here.processors);
            let thread = std::thread::Builder::new().name(format!("vcpu{index}")).spawn(move || {
                if let Some(processors) = processors {
                    let _ = sched_setaffinity(None, &processors);
                }
                work.run(first);
            })?;
            drop(here);
            all.threads.push(VcpuThread { commands: Some(commands), kick, thread: Some(thread) });
        }
        drop(acknowledge);
        for _ in &all.threads {
            // Each thread tells it before anything else; an error would say that all of them have ended.
            let _ = all.acknowledgements.recv();
        }
        Ok(all)
    }

    /// Lets the guest go on.
    pub(crate) fn run(&self) -> Result<(), String> {
        self.tell_all(Command::Run)
    }

    /// Takes every vCPU out of the guest.
    pub(crate) fn pause(&self) -> Result<(), String> {
        self.tell_all(Command::Pause)
    }

    /// Sends a non-maskable interrupt to every vCPU.
    pub(crate) fn nmi(&self) -> Result<(), String> {
        self.tell_all(Command::Nmi)
    }

    /// Sends a command to every vCPU, then waits until each has acknowledged it.
    fn tell_all(&self, command: Command) -> Result<(), String> {
        let mut told = 0;
        for thread in &self.threads {
            if thread.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok()) {
                told += 1;
                thread.kick.kick();
            }
        }
        let mut result =
            if told == self.threads.len() { Ok(()) } else { Err("a vCPU thread has ended".to_owned()) };
        for _ in 0..told {
            match self.acknowledgements.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => result = Err(error),
                Err(_) => return Err("every vCPU thread has ended".to_owned()),
            }
        }
        result
    }
}

/// Keeps this thread, and a thread that it starts meanwhile, on the processor where it is.
///
/// The kernel puts a new thread on an idle processor, which has to wake first. The thread that starts the first vCPU has nothing to
/// do but wait for it, and has warmed this processor's caches with all that the vCPU is about to use.
struct Here {
    /// Where the thread may run otherwise.
    processors: CpuSet,
}

impl Here {
    /// `None` if the host does not let a thread choose, or has more processors than the set holds: it is only about time.
    fn stay() -> Option<Self> {
        let processors = sched_getaffinity(None).ok()?;
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).ok()?;
        Some(Self { processors })
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // What was allowed before is allowed again.
        let _ = sched_setaffinity(None, &self.processors);
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            thread.commands = None;
            thread.kick.kick();
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.thread.take() {
                // A panic of the thread has been reported by the panic hook.
                let _ = handle.join();
            }
        }
    }
}

/// What a vCPU's thread owns.
struct VcpuWork {
    vcpu: Vcpu,
    inbox: Receiver<Command>,
    acknowledge: Sender<Acknowledgement>,
    spaces: AddressSpaces,
    events: EventSink,
}

/// Where a vCPU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// In the guest or handling one of its accesses.
    Guest,
    /// Waiting for a command.
    Parked,
    /// The driver is gone.
    Done,
}

impl VcpuWork {
    fn run(mut self, first: First) {
        // The thread is there, and has its name. `start` waits for this.
        let _ = self.acknowledge.send(Ok(()));
        let mut at = match first {
            // A command to run would cost a start two more switches between threads.
            First::Run => Whereabouts::Guest,
            First::Wait => Whereabouts::Parked,
        };
        loop {
            at = match at {
                Whereabouts::Parked => match self.inbox.recv() {
                    Ok(command) => self.obey(command, at),
                    Err(_) => Whereabouts::Done,
                },
                Whereabouts::Guest => self.run_guest(),
                Whereabouts::Done => return,
            };
        }
    }

    /// Carries out a command and acknowledges it; returns where the vCPU is then.
    fn obey(&mut self, command: Command, at: Whereabouts) -> Whereabouts {
        let (result, at) = match command {
            Command::Run => (Ok(()), Whereabouts::Guest),
            Command::Pause => (Ok(()), Whereabouts::Parked),
            Command::Nmi => (self.vcpu.inject_nmi().map_err(|error| error.to_string()), at),
        };
        // The driver waits for it or is gone; then the next command says so.
        let _ = self.acknowledge.send(result);
        at
    }

    /// Runs the guest until something takes this vCPU out of it.
    fn run_guest(&mut self) -> Whereabouts {
        let Self { vcpu, spaces, events, .. } = self;
        let event = loop {
            let effect = match vcpu.run() {
                Ok(Exit::PortIn { port, size, data }) => {
                    for access in data.chunks_mut(size) {
                        spaces.ports.read(u64::from(port), access);
                    }
                    Effect::None
                }
                Ok(Exit::PortOut { port, size, data }) => {
                    let write = |access| spaces.ports.write(u64::from(port), access);
                    data.chunks(size)
                        .map(write)
                        .find(|effect| *effect != Effect::None)
                        .unwrap_or(Effect::None)
                }
                Ok(Exit::MmioRead { address, data }) => {
                    spaces.memory.read(address, data);
                    Effect::None
                }
                Ok(Exit::MmioWrite { address, data }) => spaces.memory.write(address, data),
                Ok(Exit::Interrupted) => return self.look_for_commands(),
                Ok(exit) => break GuestEvent::Crashed(describe(&exit)),
                Err(error) => break GuestEvent::Crashed(error.to_string()),
            };
            match effect {
                Effect::None => {}
                Effect::Ask(request) => break GuestEvent::Ask(request),
            }
        };
        let event = match event {
            GuestEvent::Crashed(what) => {
                let index = vcpu.index();
                GuestEvent::Crashed(match vcpu.registers() {
                    Ok(registers) => format!("vCPU {index}: {what}\n{registers}"),
                    Err(error) => format!("vCPU {index}: {what} (registers: {error})"),
                })
            }
            other => other,
        };
        events(event);
        Whereabouts::Parked
    }

    fn look_for_commands(&mut self) -> Whereabouts {
        let mut at = Whereabouts::Guest;
        loop {
            match self.inbox.try_recv() {
                Ok(command) => at = self.obey(command, at),
                Err(mpsc::TryRecvError::Empty) => return at,
                Err(mpsc::TryRecvError::Disconnected) => return Whereabouts::Done,
            }
        }
    }
}

/// What an exit that ends the guest means, for a person.
fn describe(exit: &Exit<'_>) -> String {
    match exit {
        Exit::Shutdown => "triple fault: the guest could not handle an exception".into(),
        Exit::Halt => "halted for good".into(),
        Exit::InternalError { suberror, data } => {
            let cause = match suberror {
                1 => "an instruction could not be emulated",
                2 => "exceptions while an exception was delivered",
                3 => "an event could not be delivered",
                4 => "an exit that KVM does not know",
                _ => "unknown cause",
            };
            format!("KVM internal error {suberror}: {cause} (details {data:x?})")
        }
        Exit::FailEntry { reason, cpu } => {
            format!("the processor refused to enter the guest: reason {reason:#x} on host CPU {cpu}")
        }
        other => format!("KVM exit that a machine of this kind does not have: {other:?}"),
    }
}
