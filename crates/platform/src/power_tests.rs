use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Line(AtomicBool);

impl InterruptLine for Line {
    fn set_level(&self, high: bool) {
        assert_ne!(self.0.swap(high, Ordering::SeqCst), high, "the line is driven only when it changes");
    }
}

struct Setup {
    block: PowerManagement,
    apm: ApmPorts,
    events: PowerEvents,
    line: Arc<Line>,
}

impl Setup {
    fn new() -> Self {
        let line = Arc::new(Line::default());
        let sci = Arc::clone(&line) as Arc<dyn InterruptLine>;
        let (block, apm, events) = power_management(sci, AcpiMode::OnRequest);
        Self { block, apm, events, line }
    }
    fn sci(&self) -> bool {
        self.line.0.load(Ordering::SeqCst)
    }
    fn set(&mut self, offset: u64, value: u16) -> Effect {
        self.block.write(offset, &value.to_le_bytes())
    }
    fn get(&mut self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.block.read(offset, &mut data);
        u16::from_le_bytes(data)
    }
}

#[test]
fn the_power_button_interrupts_once_the_guest_listens_and_until_it_clears_the_status() {
    let mut setup = Setup::new();
    setup.events.press_power_button();
    assert!(!setup.sci() && !setup.events.listens_to_power_button());
    assert_eq!(setup.get(0), PM1_POWER_BUTTON);
    assert_eq!(setup.set(2, PM1_POWER_BUTTON), Effect::None);
    assert!(!setup.sci(), "ACPI is not enabled");
    assert_eq!(setup.apm.write(0, &[board::ACPI_ENABLE]), Effect::None);
    assert!(setup.sci() && setup.events.listens_to_power_button());
    assert_eq!(setup.get(4), PM1_SCI_ENABLE);
    let _ = setup.set(0, PM1_POWER_BUTTON);
    assert!(!setup.sci());
    assert_eq!(setup.get(0), 0);
    setup.events.press_power_button();
    assert!(setup.sci());
    let _ = setup.apm.write(0, &[board::ACPI_DISABLE]);
    assert!(!setup.sci());
}

#[test]
fn acpi_can_be_on_from_the_start() {
    let line = Arc::new(Line::default());
    let (mut block, _, _) = power_management(line as Arc<dyn InterruptLine>, AcpiMode::FromStart);
    let mut data = [0; 2];
    block.read(4, &mut data);
    assert_eq!(data, [1, 0]);
}

#[test]
fn soft_off_powers_off_and_other_sleep_states_do_nothing() {
    let mut setup = Setup::new();
    let s5 = u16::from(board::SLEEP_TYPE_S5) << PM1_SLEEP_TYPE_SHIFT;
    assert_eq!(setup.set(4, s5), Effect::None);
    assert_eq!(setup.set(4, s5 | PM1_SLEEP_ENABLE), Effect::Ask(VmRequest::PowerOff));
    assert_eq!(setup.get(4) & PM1_SLEEP_ENABLE, 0, "write-only");
    assert_eq!(setup.set(4, 1 << PM1_SLEEP_TYPE_SHIFT | PM1_SLEEP_ENABLE), Effect::None);
    assert_eq!(setup.get(4), 1 << PM1_SLEEP_TYPE_SHIFT);
}

#[test]
fn general_purpose_events_interrupt_and_clear() {
    let mut setup = Setup::new();
    let _ = setup.apm.write(0, &[board::ACPI_ENABLE]);
    setup.events.raise_gpe(9);
    setup.events.raise_gpe(64);
    assert!(!setup.sci());
    let _ = setup.block.write(0x29, &[0x02]);
    assert!(setup.sci());
    assert_eq!(setup.get(0x20), 1 << 9);
    let _ = setup.block.write(0x21, &[0x02]);
    assert!(!setup.sci());
}

#[test]
fn the_timer_counts_at_its_frequency_and_never_backwards() {
    assert_eq!(ticks(Duration::from_secs(1)), PM_TIMER_HERTZ);
    assert_eq!(ticks(Duration::from_secs(3600)), 3600 * PM_TIMER_HERTZ);
    let mut setup = Setup::new();
    let mut last = 0;
    for _ in 0..1000 {
        let mut data = [0; 4];
        setup.block.read(8, &mut data);
        let now = u32::from_le_bytes(data);
        assert!(now >= last);
        last = now;
    }
    assert!(last > 0);
}

#[test]
fn the_timer_status_is_set_when_the_top_bit_changes() {
    let mut setup = Setup::new();
    assert_eq!(setup.get(0) & PM1_TIMER, 0);
    setup.block.state.lock().timer_turns = 7;
    assert_eq!(setup.get(0) & PM1_TIMER, PM1_TIMER);
    let _ = setup.set(0, PM1_TIMER);
    assert_eq!(setup.get(0) & PM1_TIMER, 0);
}

proptest! {
    #[test]
    fn no_access_panics_and_the_line_follows_the_registers(
        steps in proptest::collection::vec((0u8..6, 0u64..0x84, any::<[u8; 8]>(), 1usize..=8), 0..100)
    ) {
        let mut setup = Setup::new();
        for (what, offset, mut bytes, length) in steps {
            match what {
                0 => setup.block.read(offset, &mut bytes[..length]),
                1 => { let _ = setup.block.write(offset, &bytes[..length]); }
                2 => setup.apm.read(offset % 2, &mut bytes[..length]),
                3 => { let _ = setup.apm.write(offset % 2, &[bytes[0] % 5, 0][..1]); }
                4 => setup.events.press_power_button(),
                _ => setup.events.raise_gpe(bytes[0]),
            }
            let state = setup.block.state.lock();
            let pending = state.status & state.enable != 0 || state.gpe_status & state.gpe_enable != 0;
            prop_assert_eq!(setup.sci(), pending && state.control & 1 != 0);
        }
    }
}
