//! The ACPI power management block: fixed events, the timer, general purpose events, sleep, and the port by which the
//! guest takes ACPI over.
//!
//! Three faces on one state: [`PowerManagement`] (the block at [`board::PM_BASE`]), [`ApmPorts`] (the SMI command port),
//! and [`PowerEvents`], through which the machine presses the power button and signals hot-plug events.
//!
//! Specifications: ACPI 6.5, section 4.8 (register model); Intel ICH9 datasheet (316972), section 13.8.3 (layout of the
//! 128 bytes at PMBASE) and 13.7 (APM ports).

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::board;
use crate::interrupt::InterruptLine;
use crate::register_file::{Effect, RegisterFile, VmRequest};

/// Frequency of the power management timer (ACPI 6.5, section 4.8.2.1), in hertz.
pub const PM_TIMER_HERTZ: u64 = 3_579_545;

/// PM1 status bits, cleared by writing one, and the bits of PM1 enable.
const PM1_TIMER: u16 = 1 << 0;
const PM1_GLOBAL: u16 = 1 << 5;
const PM1_POWER_BUTTON: u16 = 1 << 8;
const PM1_SLEEP_BUTTON: u16 = 1 << 9;
const PM1_RTC: u16 = 1 << 10;
const PM1_WAKE: u16 = 1 << 15;
const PM1_STATUS_BITS: u16 =
    PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC | PM1_WAKE;
const PM1_ENABLE_BITS: u16 = PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC;
/// PM1 control.
const PM1_SCI_ENABLE: u16 = 1 << 0;
const PM1_SLEEP_TYPE_SHIFT: u16 = 10;
const PM1_SLEEP_TYPE: u16 = 0b111 << PM1_SLEEP_TYPE_SHIFT;
const PM1_SLEEP_ENABLE: u16 = 1 << 13;

/// Offsets in the block.
const PM1_STATUS: u64 = 0x00;
const PM1_ENABLE: u64 = 0x02;
const PM1_CONTROL: u64 = 0x04;
const PM_TIMER: u64 = 0x08;
const GPE0_STATUS: u64 = 0x20;
const GPE0_ENABLE: u64 = 0x28;
const GPE0_END: u64 = 0x30;
const SMI_ENABLE: u64 = 0x30;
/// SMI_EN (ICH9, 13.8.3.7): writes to the APM port make SMIs. There is no system management mode, and firmware that finds this set
/// believes that somebody else has set it up.
const SMI_ENABLE_APM: u8 = 1 << 5;

/// How many general purpose events there are.
pub const GPE_COUNT: u8 = 64;

struct State {
    line: Arc<dyn InterruptLine>,
    start: Instant,
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    /// How often the timer's top bit had changed when the guest last looked.
    timer_turns: u64,
    apm_command: u8,
    apm_status: u8,
    line_high: bool,
}

impl State {
    /// The level of the SCI follows from the registers (ACPI 6.5, sections 4.8.3.1 and 4.8.4.1).
    fn drive(&mut self) {
        let pending = self.status & self.enable != 0 || self.gpe_status & self.gpe_enable != 0;
        let high = self.control & PM1_SCI_ENABLE != 0 && pending;
        if high != self.line_high {
            self.line_high = high;
            self.line.set_level(high);
        }
    }

    fn ticks(&self) -> u64 {
        ticks(self.start.elapsed())
    }

    /// Sets TMR_STS when bit 31 of the timer has changed since the guest last looked. The event is noticed at the
    /// guest's next access and never by itself: no operating system waits 20 minutes for it.
    fn follow_timer(&mut self) {
        let turns = self.ticks() >> 31;
        if turns != std::mem::replace(&mut self.timer_turns, turns) {
            self.status |= PM1_TIMER;
        }
    }

    fn read(&mut self, offset: u64) -> u8 {
        let byte =
            |value: u64, first: u64| value.to_le_bytes()[usize::try_from(offset - first).unwrap_or(0) & 7];
        match offset {
            PM1_STATUS..PM1_ENABLE => byte(u64::from(self.status), PM1_STATUS),
            PM1_ENABLE..PM1_CONTROL => byte(u64::from(self.enable), PM1_ENABLE),
            // The upper half of the control register is reserved.
            PM1_CONTROL..PM_TIMER => byte(u64::from(self.control), PM1_CONTROL),
            GPE0_STATUS..GPE0_ENABLE => byte(self.gpe_status, GPE0_STATUS),
            GPE0_ENABLE..GPE0_END => byte(self.gpe_enable, GPE0_ENABLE),
            SMI_ENABLE => SMI_ENABLE_APM,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u8) -> Effect {
        let shift = |first: u64| (offset - first) * 8;
        let wide = |first: u64| u64::from(value) << shift(first);
        let narrow = |first: u64| u16::from(value) << shift(first);
        match offset {
            PM1_STATUS..PM1_ENABLE => self.status &= !narrow(PM1_STATUS),
            PM1_ENABLE..PM1_CONTROL => {
                let kept = self.enable & !(0xff << shift(PM1_ENABLE));
                self.enable = (kept | narrow(PM1_ENABLE)) & PM1_ENABLE_BITS;
            }
            0x04..0x06 => {
                let kept = self.control & !(0xff << shift(PM1_CONTROL));
                let value = kept | narrow(PM1_CONTROL);
                // SLP_EN always reads as zero; SCI_EN belongs to the APM port, as on hardware.
                let own = value & PM1_SLEEP_TYPE;
                self.control = self.control & PM1_SCI_ENABLE | own;
                let sleep_type = (own >> PM1_SLEEP_TYPE_SHIFT).to_le_bytes()[0];
                if value & PM1_SLEEP_ENABLE != 0 && sleep_type == board::SLEEP_TYPE_S5 {
                    return Effect::Ask(VmRequest::PowerOff);
                }
            }
            GPE0_STATUS..GPE0_ENABLE => self.gpe_status &= !wide(GPE0_STATUS),
            GPE0_ENABLE..GPE0_END => {
                let kept = self.gpe_enable & !(0xff << shift(GPE0_ENABLE));
                self.gpe_enable = kept | wide(GPE0_ENABLE);
            }
            _ => {}
        }
        Effect::None
    }
}

/// What the timer counts in `elapsed`, before it is cut to 32 bits.
fn ticks(elapsed: Duration) -> u64 {
    let ticks = elapsed.as_nanos() * u128::from(PM_TIMER_HERTZ) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The block at [`board::PM_PORTS`]. The timer is 32 bits wide (FADT flag `TMR_VAL_EXT`); its lower 24 bits are what a
/// 24-bit timer shows.
pub struct PowerManagement {
    state: Arc<Mutex<State>>,
}

/// The APM control and status ports at [`board::APM_PORTS`].
pub struct ApmPorts {
    state: Arc<Mutex<State>>,
}

/// The machine's side: what happens to the power management hardware from outside. Any thread.
#[derive(Clone)]
pub struct PowerEvents {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for PowerEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PowerEvents").finish_non_exhaustive()
    }
}

/// Whether the guest finds ACPI taken over already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcpiMode {
    /// It asks for it through the SMI command port, as with firmware (legacy mode).
    OnRequest,
    /// SCI_EN is set from the start (hardware-reduced boots, and tables without an SMI command port).
    FromStart,
}

impl AcpiMode {
    /// PM1 control after a reset.
    fn control(self) -> u16 {
        match self {
            Self::OnRequest => 0,
            Self::FromStart => PM1_SCI_ENABLE,
        }
    }
}

/// Builds the power management hardware, whose interrupt is `line` ([`board::SCI_IRQ`]).
pub fn power_management(
    line: Arc<dyn InterruptLine>,
    mode: AcpiMode,
) -> (PowerManagement, ApmPorts, PowerEvents) {
    let state = Arc::new(Mutex::new(State {
        line,
        start: Instant::now(),
        status: 0,
        enable: 0,
        control: mode.control(),
        gpe_status: 0,
        gpe_enable: 0,
        timer_turns: 0,
        apm_command: 0,
        apm_status: 0,
        line_high: false,
    }));
    let (block, ports) = (Arc::clone(&state), Arc::clone(&state));
    (PowerManagement { state: block }, ApmPorts { state: ports }, PowerEvents { state })
}

impl PowerEvents {
    /// Presses the power button: the guest is asked to shut down, if it listens.
    pub fn press_power_button(&self) {
        let mut state = self.state.lock();
        state.status |= PM1_POWER_BUTTON;
        state.drive();
    }

    /// Whether the guest has taken ACPI over and listens to the power button.
    pub fn listens_to_power_button(&self) -> bool {
        let state = self.state.lock();
        state.control & PM1_SCI_ENABLE != 0 && state.enable & PM1_POWER_BUTTON != 0
    }

    /// Raises general purpose event `number` (0 to 63; others are none).
    pub fn raise_gpe(&self, number: u8) {
        let mut state = self.state.lock();
        state.gpe_status |= 1u64.checked_shl(u32::from(number)).unwrap_or(0);
        state.drive();
    }
}

impl RegisterFile for PowerManagement {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut state = self.state.lock();
        state.follow_timer();
        state.drive();
        // One sample for the whole access, so that the timer's bytes belong together.
        let timer = state.ticks().to_le_bytes();
        for (step, byte) in (0u64..).zip(data) {
            let at = offset.saturating_add(step);
            *byte = match at {
                0x08..0x0c => timer[usize::try_from(at - PM_TIMER).unwrap_or(0)],
                _ => state.read(at),
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let mut state = self.state.lock();
        state.follow_timer();
        let mut effect = Effect::None;
        for (step, byte) in (0u64..).zip(data) {
            match state.write(offset.saturating_add(step), *byte) {
                Effect::None => {}
                asked => effect = asked,
            }
        }
        state.status &= PM1_STATUS_BITS;
        state.drive();
        effect
    }
}

impl RegisterFile for ApmPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock();
        for (step, byte) in (0u64..).zip(data) {
            *byte = match offset.saturating_add(step) {
                0 => state.apm_command,
                1 => state.apm_status,
                _ => 0xff,
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let mut state = self.state.lock();
        for (step, byte) in (0u64..).zip(data) {
            match offset.saturating_add(step) {
                0 => {
                    state.apm_command = *byte;
                    match *byte {
                        board::ACPI_ENABLE => state.control |= PM1_SCI_ENABLE,
                        board::ACPI_DISABLE => state.control &= !PM1_SCI_ENABLE,
                        _ => {}
                    }
                }
                1 => state.apm_status = *byte,
                _ => {}
            }
        }
        state.drive();
        Effect::None
    }
}

#[cfg(test)]
#[path = "power_tests.rs"]
mod tests;
