//! The board's devices behind their ports: serial port, clock, keyboard controller, power management, system ports.
//!
//! Held true: no access of any width, however it lies across a device, panics; only the ports that are made for it power the
//! machine off or reset it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use platform::character::{CharacterBackend, Endpoint};
use platform::i8042::I8042;
use platform::power::{AcpiMode, power_management};
use platform::rtc::{MemorySize, Rtc};
use platform::system_ports::{PostCode, SystemControl};
use platform::uart::Uart;
use platform::worker::Worker;
use platform::{Bus, Effect, InterruptLine, RegisterFile, SharedDevice, VmRequest, board};
use virtio::testing::FakeLine;

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let worker = Worker::spawn("fuzz").expect("a thread");
    let ports = Bus::new();
    let place = |range, device| ports.insert(range, device).expect("a free place");
    let mode = if input.arbitrary()? { AcpiMode::FromStart } else { AcpiMode::OnRequest };
    let (block, apm, power) = power_management(line(), mode);
    place(board::PM_PORTS, shared(block));
    place(board::APM_PORTS, shared(apm));
    let (data, command) = I8042::new(line()).into_ports();
    place(one(board::I8042_DATA_PORT), data);
    place(one(board::I8042_COMMAND_PORT), command);
    let size = MemorySize { below_4g: 2 << 30, above_4g: input.arbitrary()? };
    place(board::RTC_PORTS, shared(Rtc::new(line(), size, &worker.handle()).expect("a timer")));
    place(board::SYSTEM_CONTROL_PORTS, shared(SystemControl::new()));
    place(board::POST_PORTS, shared(PostCode::default()));
    let backend =
        Arc::new(CharacterBackend::open(Endpoint::Null, None, &worker.handle()).expect("nothing to open"));
    place(board::SERIAL_PORTS, shared(Uart::new(line(), backend)));

    let ranges = [
        board::PM_PORTS,
        board::PM_PORTS,
        board::APM_PORTS,
        0x60..0x65,
        board::RTC_PORTS,
        board::RTC_PORTS,
        board::SYSTEM_CONTROL_PORTS,
        board::POST_PORTS,
        board::SERIAL_PORTS,
        board::SERIAL_PORTS,
    ];
    while !input.is_empty() {
        let kind = input.int_in_range(0..=15u8)?;
        let range = input.choose(&ranges)?;
        let port = input.int_in_range(range.start..=range.end - 1)?;
        let width = input.int_in_range(1..=8usize)?;
        match kind {
            0..=8 => {
                let data = input.arbitrary::<u64>()?.to_le_bytes();
                match ports.write(port, &data[..width]) {
                    Effect::None => {}
                    Effect::Ask(VmRequest::PowerOff) => assert!(board::PM_PORTS.contains(&port), "{port:#x}"),
                    Effect::Ask(VmRequest::Reset) => {
                        assert!((0x60..0x65).contains(&port) || board::SYSTEM_CONTROL_PORTS.contains(&port));
                    }
                }
            }
            9..=12 => ports.read(port, &mut [0; 8][..width]),
            13 => power.press_power_button(),
            _ => power.raise_gpe(input.arbitrary()?),
        }
    }
    Ok(())
}

fn line() -> Arc<dyn InterruptLine> {
    Arc::<FakeLine>::default()
}

fn shared(device: impl RegisterFile + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

fn one(port: u16) -> std::ops::Range<u64> {
    u64::from(port)..u64::from(port) + 1
}
