//! Random operations against the simplest disk there is: a `Vec<u8>`.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::driver::{Buffer, Driver};
use super::{DISK_BYTES, Subject};
use crate::backend::BlockOperation;

/// One random operation. Offsets and lengths are in blocks, some of them beyond the end.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read { block: u64, blocks: usize, shift: usize },
    Write { block: u64, blocks: usize, shift: usize, durable: bool, seed: u64 },
    Zero { block: u64, blocks: u64, may_unmap: bool },
    Discard { block: u64, blocks: u64 },
    Flush,
}

fn step(most: u64) -> impl Strategy<Value = Step> {
    let block = 0..most + 2;
    let shift = prop_oneof![Just(0usize), Just(1), Just(512)];
    prop_oneof![
        3 => (block.clone(), 1usize..40, shift.clone())
            .prop_map(|(block, blocks, shift)| Step::Read { block, blocks, shift }),
        3 => (block.clone(), 1usize..40, shift, any::<bool>(), any::<u64>()).prop_map(
            |(block, blocks, shift, durable, seed)| Step::Write { block, blocks, shift, durable, seed }
        ),
        1 => (block.clone(), 1u64..100, any::<bool>())
            .prop_map(|(block, blocks, may_unmap)| Step::Zero { block, blocks, may_unmap }),
        1 => (block, 1u64..100).prop_map(|(block, blocks)| Step::Discard { block, blocks }),
        1 => Just(Step::Flush),
    ]
}

/// Whatever is done, in whatever order: reads give what an array of bytes would, and what does not fit is refused.
pub fn behaves_like_an_array_of_bytes(subject: &Subject) {
    if !subject.keeps_data {
        return;
    }
    let block_bytes = subject.disk(DISK_BYTES).geometry().logical_block_bytes as usize;
    let most = DISK_BYTES / block_bytes as u64;
    let mut runner = TestRunner::new(Config { cases: 12, failure_persistence: None, ..Config::default() });
    let result = runner.run(&proptest::collection::vec(step(most), 1..60), |steps| {
        let disk = subject.disk(DISK_BYTES);
        let mut driver = Driver::open(&*disk, 8);
        let mut model = vec![0u8; usize::try_from(DISK_BYTES).expect("a small disk")];
        for step in steps {
            apply(step, &mut driver, &mut model, block_bytes)?;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The model's bytes that a step touches, if they exist.
fn range(model: &[u8], block: u64, blocks: u64, block_bytes: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(block).ok()? * block_bytes;
    let end = start + usize::try_from(blocks).ok()? * block_bytes;
    (end <= model.len()).then_some(start..end)
}

fn apply(step: Step, driver: &mut Driver, model: &mut [u8], block_bytes: usize) -> Result<(), TestCaseError> {
    let at = |block: u64| block * block_bytes as u64;
    match step {
        Step::Flush => prop_assert_eq!(driver.run(BlockOperation::Flush), Ok(())),
        Step::Read { block, blocks, shift } => {
            let mut buffer = Buffer::shifted(blocks * block_bytes, shift);
            let result = driver.read(at(block), buffer.pieces(&[block_bytes, (blocks - 1) * block_bytes]));
            let expected = range(model, block, blocks as u64, block_bytes);
            prop_assert_eq!(result.is_ok(), expected.is_some());
            if let Some(expected) = expected {
                prop_assert!(buffer.bytes() == &model[expected], "wrong data at block {}", block);
            }
        }
        Step::Write { block, blocks, shift, durable, seed } => {
            let mut buffer = Buffer::shifted(blocks * block_bytes, shift);
            buffer.fill_pattern(seed);
            let result =
                driver.write(at(block), buffer.pieces(&[block_bytes, (blocks - 1) * block_bytes]), durable);
            let expected = range(model, block, blocks as u64, block_bytes);
            prop_assert_eq!(result.is_ok(), expected.is_some());
            if let Some(expected) = expected {
                model[expected].copy_from_slice(buffer.bytes());
            }
        }
        Step::Zero { block, blocks, may_unmap } => {
            let bytes = at(blocks);
            let result = driver.run(BlockOperation::WriteZeroes { offset: at(block), bytes, may_unmap });
            let expected = range(model, block, blocks, block_bytes);
            prop_assert_eq!(result.is_ok(), expected.is_some());
            if let Some(expected) = expected {
                model[expected].fill(0);
            }
        }
        Step::Discard { block, blocks } => {
            let result = driver.run(BlockOperation::Discard { offset: at(block), bytes: at(blocks) });
            let expected = range(model, block, blocks, block_bytes);
            prop_assert_eq!(result.is_ok(), expected.is_some());
            if let Some(expected) = expected {
                // Anything may be read now: make the model know what it is.
                let mut buffer = Buffer::filled(expected.len(), 0);
                let whole = [expected.len()];
                prop_assert_eq!(driver.read(at(block), buffer.pieces(&whole)), Ok(()));
                model[expected].copy_from_slice(buffer.bytes());
            }
        }
    }
    Ok(())
}
