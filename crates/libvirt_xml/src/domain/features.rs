//! Features of the hypervisor, clock and power management (formatdomain, "Hypervisor features", "Time keeping", "Power Management").
//!
//! Refused: features of Xen, LXC and other architectures (`hap`, `viridian`, `privnet`, `capabilities`, `gic`, `hpt`, `htm`, …).

use crate::model::model;
use crate::value::{OnOff, YesNo, words};

words! {
    /// How Hyper-V's features are chosen.
    pub enum HypervMode { Custom = "custom", Passthrough = "passthrough", }

    /// Who emulates the I/O APIC.
    pub enum IoapicDriver { Kvm = "kvm", Qemu = "qemu", }

    /// What happens to accesses of unknown model specific registers.
    pub enum UnknownMsrs { Fault = "fault", Ignore = "ignore", }
}

model! {
    /// The local APIC.
    pub struct Apic {
        /// Paravirtual end of interrupt.
        eoi: attribute("eoi") => Option<OnOff>,
    }

    /// A switch; on when it says nothing.
    pub struct FeatureState {
        /// The state.
        state: defaulted("state") => OnOff,
    }

    /// A feature of Hyper-V.
    pub struct HypervFeature {
        /// The state.
        state: defaulted("state") => OnOff,
        /// Of spinlocks.
        retries: attribute("retries") => Option<u32>,
        /// Of the vendor identifier, at most 12 characters.
        value: attribute("value") => Option<String>,
        /// Of timers: without a message; of TLB flushes: by direct call.
        direct: child("direct") => Option<FeatureState>,
        /// Of TLB flushes.
        extended: child("extended") => Option<FeatureState>,
    }

    /// Hyper-V's features (Hypervisor Top Level Functional Specification).
    pub struct Hyperv {
        /// How they are chosen.
        mode: defaulted("mode") => HypervMode,
        /// Relaxed timing.
        relaxed: child("relaxed") => Option<HypervFeature>,
        /// Virtual APIC.
        vapic: child("vapic") => Option<HypervFeature>,
        /// Spin locks.
        spinlocks: child("spinlocks") => Option<HypervFeature>,
        /// Index of the vCPU.
        vpindex: child("vpindex") => Option<HypervFeature>,
        /// Time that a vCPU ran.
        runtime: child("runtime") => Option<HypervFeature>,
        /// Synthetic interrupts.
        synic: child("synic") => Option<HypervFeature>,
        /// Synthetic timers.
        stimer: child("stimer") => Option<HypervFeature>,
        /// Reset.
        reset: child("reset") => Option<HypervFeature>,
        /// Vendor identifier.
        vendor_id: child("vendor_id") => Option<HypervFeature>,
        /// Frequencies.
        frequencies: child("frequencies") => Option<HypervFeature>,
        /// Reenlightenment.
        reenlightenment: child("reenlightenment") => Option<HypervFeature>,
        /// TLB flushes.
        tlbflush: child("tlbflush") => Option<HypervFeature>,
        /// Interrupts between vCPUs.
        ipi: child("ipi") => Option<HypervFeature>,
        /// Enlightened VMCS.
        evmcs: child("evmcs") => Option<HypervFeature>,
        /// APIC virtualization.
        avic: child("avic") => Option<HypervFeature>,
        /// Extended MSR bitmap.
        emsr_bitmap: child("emsr_bitmap") => Option<HypervFeature>,
        /// Extended hypercalls input.
        xmm_input: child("xmm_input") => Option<HypervFeature>,
    }

    /// The ring of dirty pages.
    pub struct DirtyRing {
        /// The state.
        state: defaulted("state") => OnOff,
        /// Entries.
        size: attribute("size") => Option<u32>,
    }

    /// KVM's features.
    pub struct Kvm {
        /// Hides the hypervisor.
        hidden: child("hidden") => Option<FeatureState>,
        /// vCPUs have a CPU for themselves.
        hint_dedicated: child("hint-dedicated") => Option<FeatureState>,
        /// Polling when idle.
        poll_control: child("poll-control") => Option<FeatureState>,
        /// Interrupts between vCPUs.
        pv_ipi: child("pv-ipi") => Option<FeatureState>,
        /// Dirty pages.
        dirty_ring: child("dirty-ring") => Option<DirtyRing>,
    }

    /// System Management Mode.
    pub struct Smm {
        /// The state.
        state: defaulted("state") => OnOff,
        /// Size of its memory.
        tseg: child("tseg") => Option<Tseg>,
    }

    /// The I/O APIC.
    pub struct Ioapic {
        /// Who emulates it.
        driver: required("driver") => IoapicDriver,
    }

    /// Model specific registers.
    pub struct Msrs {
        /// Unknown ones.
        unknown: required("unknown") => UnknownMsrs,
    }

    /// Features.
    pub struct Features {
        /// ACPI tables; without them a guest can't be shut down.
        acpi: flag("acpi") => bool,
        /// Interrupt controllers.
        apic: child("apic") => Option<Apic>,
        /// Physical address extension.
        pae: flag("pae") => bool,
        /// Hyper-V's.
        hyperv: child("hyperv") => Option<Hyperv>,
        /// KVM's.
        kvm: child("kvm") => Option<Kvm>,
        /// Paravirtual spin locks.
        pvspinlock: child("pvspinlock") => Option<FeatureState>,
        /// Performance counters.
        pmu: child("pmu") => Option<FeatureState>,
        /// VMware's port.
        vmport: child("vmport") => Option<FeatureState>,
        /// System Management Mode.
        smm: child("smm") => Option<Smm>,
        /// I/O APIC.
        ioapic: child("ioapic") => Option<Ioapic>,
        /// Notes for crash dumps.
        vmcoreinfo: child("vmcoreinfo") => Option<FeatureState>,
        /// Model specific registers.
        msrs: child("msrs") => Option<Msrs>,
        /// PS/2 keyboard and mouse.
        ps2: child("ps2") => Option<FeatureState>,
    }
}

/// The size of SMM's memory, bytes; MiB when no unit is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tseg(pub u64);

impl crate::model::Model for Tseg {
    fn take(fields: &mut crate::Fields<'_>) -> Result<Self, crate::XmlError> {
        let unit = fields.attribute("unit").unwrap_or("MiB");
        crate::size::scaled(&fields.text(), unit).map(Self).map_err(|fault| fields.fault(fault))
    }

    /// In the largest unit that says it without remainder.
    fn put(&self, element: &mut crate::Element) {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let fitting = units.into_iter().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale));
        let (unit, scale) = fitting.unwrap_or(("B", 1));
        element.attributes.push(("unit".to_owned(), unit.to_owned()));
        element.push_text(self.0 / scale);
    }
}

#[cfg(test)]
impl crate::draw::Draw for Tseg {
    fn draw(bytes: &mut crate::draw::Bytes) -> Self {
        Self(u64::draw(bytes))
    }
}

words! {
    /// What the guest's clock starts with.
    pub enum ClockOffset {
        Utc = "utc",
        Localtime = "localtime",
        Timezone = "timezone",
        Variable = "variable",
        Absolute = "absolute",
    }

    /// What a variable offset is from.
    pub enum ClockBasis { Utc = "utc", Localtime = "localtime", }

    /// Timers.
    pub enum TimerName {
        Rtc = "rtc",
        Pit = "pit",
        Hpet = "hpet",
        Tsc = "tsc",
        Kvmclock = "kvmclock",
        Hypervclock = "hypervclock",
        Platform = "platform",
    }
    refused "armvtimer";

    /// What happens to ticks that the guest missed.
    pub enum TickPolicy { Delay = "delay", Catchup = "catchup", Merge = "merge", Discard = "discard", }

    /// What a timer follows.
    pub enum TimerTrack { Boot = "boot", Guest = "guest", Wall = "wall", Realtime = "realtime", }

    /// How the time stamp counter is given.
    pub enum TimerMode {
        Auto = "auto",
        Native = "native",
        Emulate = "emulate",
        Paravirt = "paravirt",
        Smpsafe = "smpsafe",
    }
}

model! {
    /// How missed ticks are caught up.
    pub struct TimerCatchup {
        /// Ticks.
        threshold: attribute("threshold") => Option<u64>,
        /// Parts in a million.
        slew: attribute("slew") => Option<u64>,
        /// Ticks.
        limit: attribute("limit") => Option<u64>,
    }

    /// A timer.
    pub struct Timer {
        /// Which.
        name: required("name") => TimerName,
        /// Whether the guest has it.
        present: attribute("present") => Option<YesNo>,
        /// Missed ticks.
        tick_policy: attribute("tickpolicy") => Option<TickPolicy>,
        /// What it follows.
        track: attribute("track") => Option<TimerTrack>,
        /// Hertz.
        frequency: attribute("frequency") => Option<u64>,
        /// How it is given.
        mode: attribute("mode") => Option<TimerMode>,
        /// How ticks are caught up.
        catchup: child("catchup") => Option<TimerCatchup>,
    }

    /// The guest's clock.
    pub struct Clock {
        /// What it starts with.
        offset: defaulted("offset") => ClockOffset,
        /// Seconds, or `reset`.
        adjustment: attribute("adjustment") => Option<String>,
        /// What the adjustment is from.
        basis: attribute("basis") => Option<ClockBasis>,
        /// A time zone.
        timezone: attribute("timezone") => Option<String>,
        /// Seconds since 1970.
        start: attribute("start") => Option<u64>,
        /// Timers.
        timers: children("timer") => Vec<Timer>,
    }

    /// A question about a sleep state.
    pub struct SleepState {
        /// Whether the guest is offered it.
        enabled: required("enabled") => YesNo,
    }

    /// Sleep states.
    pub struct PowerManagement {
        /// ACPI S3.
        suspend_to_mem: child("suspend-to-mem") => Option<SleepState>,
        /// ACPI S4.
        suspend_to_disk: child("suspend-to-disk") => Option<SleepState>,
    }
}
