//! Processors, how they belong together, and what they did.
//!
//! Sources: Documentation/admin-guide/cputopology.rst and Documentation/ABI/stable/sysfs-devices-system-cpu of Linux; proc(5).

use std::time::Duration;

use crate::{Host, HostError, number_list};

/// Clock ticks a second in /proc/stat: USER_HZ, which is part of the kernel's interface on x86 and never differs.
const TICKS_A_SECOND: u64 = 100;

/// A logical processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processor {
    /// The kernel's number for it.
    pub id: u32,
    /// Whether it takes part; socket, die, core and siblings are known only then.
    pub online: bool,
    /// Physical package.
    pub socket: u32,
    /// Die within the package.
    pub die: u32,
    /// Core within the package.
    pub core: u32,
    /// NUMA cell.
    pub cell: u32,
    /// Processors of the same core, this one included.
    pub siblings: Vec<u32>,
}

/// How processors spent their time since the host was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In programs, "nice" ones included.
    pub user: Duration,
    /// In the kernel, interrupts included.
    pub kernel: Duration,
    /// Nothing to do.
    pub idle: Duration,
    /// Nothing to do while a disk works.
    pub iowait: Duration,
}

impl Host {
    /// All processors that are present, by number.
    pub fn processors(&self) -> Result<Vec<Processor>, HostError> {
        let list = |name: &str| -> Result<Option<Vec<u32>>, HostError> {
            let path = format!("sys/devices/system/cpu/{name}");
            let Some(text) = self.read_if_there(&path)? else { return Ok(None) };
            let numbers = number_list(&text);
            numbers.map(Some).ok_or_else(|| self.senseless(&path, format!("{:?} is not a list", text.trim())))
        };
        let present = match list("present")? {
            Some(present) => present,
            None => self.numbered("sys/devices/system/cpu", "cpu", "")?,
        };
        let online = list("online")?.unwrap_or_else(|| present.clone());
        let cells = self.cell_of_processors()?;
        let processor = |id| {
            let cell = cells.get(&id).copied().unwrap_or_default();
            self.processor(id, online.contains(&id), cell)
        };
        present.into_iter().map(processor).collect()
    }

    fn processor(&self, id: u32, online: bool, cell: u32) -> Result<Processor, HostError> {
        let mut processor = Processor { id, online, socket: 0, die: 0, core: 0, cell, siblings: Vec::new() };
        if !online {
            return Ok(processor);
        }
        let topology = format!("sys/devices/system/cpu/cpu{id}/topology");
        // The kernel says -1 where the hardware says nothing.
        let number = |name: &str| -> Result<u32, HostError> {
            let text = self.read_if_there(&format!("{topology}/{name}"))?;
            Ok(text.and_then(|text| text.trim().parse().ok()).unwrap_or_default())
        };
        processor.socket = number("physical_package_id")?;
        processor.die = number("die_id")?;
        processor.core = number("core_id")?;
        let siblings = self.read_if_there(&format!("{topology}/thread_siblings_list"))?;
        processor.siblings = siblings.and_then(|text| number_list(&text)).unwrap_or_else(|| vec![id]);
        Ok(processor)
    }

    /// What the processors are called, as in "AMD EPYC 7763", and their speed in MHz; empty and 0 where nobody says.
    pub fn processor_model(&self) -> Result<(String, u32), HostError> {
        let text = self.read("proc/cpuinfo")?;
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
        };
        let megahertz = field("cpu MHz").and_then(|value| value.split('.').next()?.parse().ok());
        Ok((field("model name").unwrap_or_default().to_owned(), megahertz.unwrap_or_default()))
    }

    /// How one processor, or all together, spent their time.
    pub fn cpu_times(&self, processor: Option<u32>) -> Result<CpuTimes, HostError> {
        let path = "proc/stat";
        let text = self.read(path)?;
        let name = processor.map_or_else(|| "cpu".to_owned(), |id| format!("cpu{id}"));
        let line = text.lines().find(|line| line.split(' ').next() == Some(&name));
        let line = line.ok_or_else(|| HostError::Unknown(format!("processor {}", &name[3..])))?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
        let [user, nice, system, idle, iowait, interrupts, soft_interrupts, ..] = ticks[..] else {
            return Err(self.senseless(path, format!("{line:?} has too few fields")));
        };
        let time = |ticks: u64| {
            let rest = Duration::from_millis(ticks % TICKS_A_SECOND * 1000 / TICKS_A_SECOND);
            Duration::from_secs(ticks / TICKS_A_SECOND).saturating_add(rest)
        };
        Ok(CpuTimes {
            user: time(user.saturating_add(nice)),
            kernel: time(system.saturating_add(interrupts).saturating_add(soft_interrupts)),
            idle: time(idle),
            iowait: time(iowait),
        })
    }
}
