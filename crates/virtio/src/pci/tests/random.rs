//! Any access to any register, of any width, in any state.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Bar(u64, u64, usize),
    ReadBar(u64, usize),
    Config(u16, u32, usize),
    Initialize,
    Garbage(u16, Vec<u8>),
    Kick,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![6 => 0..0x40u64, 1 => 0x1000..0x1004u64, 1 => 0x2000..0x200cu64, 2 => 0x3000..0x3010u64,
        1 => 0x4000..0x4040u64, 1 => 0x7000..0x7010u64, 1 => 0..0x8010u64, 1 => any::<u64>()];
    let value = prop_oneof![4 => 0..16u64, 1 => Just(0u64), 1 => any::<u64>()];
    prop_oneof![
        8 => (offset.clone(), value, 1..9usize).prop_map(|(offset, value, width)| Step::Bar(offset, value, width)),
        2 => (offset, 1..9usize).prop_map(|(offset, width)| Step::ReadBar(offset, width)),
        2 => (0..0x40u16, any::<u32>(), 1..5usize).prop_map(|(dword, value, width)| Step::Config(dword * 4, value, width)),
        1 => Just(Step::Initialize),
        2 => (0..0x600u16, prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, bytes)| Step::Garbage(at, bytes)),
        2 => Just(Step::Kick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_access_breaks_the_function(steps in prop::collection::vec(step(), 1..40)) {
        let (mut driver, _control, _worker) = echo(&[16, 8]);
        for step in steps {
            match step {
                Step::Bar(offset, value, width) => {
                    let effect = driver.function.write_bar(place::BAR, offset, &value.to_le_bytes()[..width]);
                    prop_assert_eq!(effect, platform::Effect::None);
                }
                Step::ReadBar(offset, width) => {
                    driver.function.read_bar(place::BAR, offset, &mut [0; 8][..width]);
                }
                Step::Config(offset, value, width) => write_config(&mut driver, offset, &value.to_le_bytes()[..width]),
                Step::Initialize => {
                    driver.initialize(u64::MAX);
                }
                // Into the rings, which the fake driver keeps at the start of its heap.
                Step::Garbage(at, bytes) => {
                    use vm_memory::Bytes as _;
                    driver.memory.write_slice(&bytes, vm_memory::GuestAddress(0x1_0000 + u64::from(at))).unwrap();
                }
                Step::Kick => driver.kick(0),
            }
        }
        // Back to where the firmware would leave it, then a driver that keeps to the rules.
        write_config(&mut driver, 0x10, &0xe000_0000u32.to_le_bytes());
        write_config(&mut driver, 0x14, &[0; 4]);
        write_config(&mut driver, 4, &[6, 0]);
        driver.initialize(u64::MAX);
        check_request(&mut driver, 0);
        check_request(&mut driver, 1);
    }
}
