//! The two engines side by side: everything here runs on the ring (where there is one) and on threads.

use std::ptr::NonNull;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

const CHOICES: [EngineChoice; 2] = [EngineChoice::Automatic, EngineChoice::Threads];

fn file_of(content: &[u8]) -> Target {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    Target { file: Arc::new(file), zeroes_beyond_end: true }
}

#[expect(unsafe_code, reason = "names a test's own buffer")]
fn segment(buffer: &mut [u8]) -> Segment {
    // SAFETY: every test waits for its requests before it looks at or frees a buffer.
    unsafe { Segment::new(NonNull::new(buffer.as_mut_ptr()).unwrap(), buffer.len()) }
}

fn wait_for(engine: &mut FileEngine, count: usize) -> Vec<Done> {
    engine.kick();
    let mut done = Vec::new();
    while done.len() < count {
        poll(&mut [PollFd::from_borrowed_fd(engine.ready_fd(), PollFlags::IN)], None).unwrap();
        engine.reap(&mut done);
    }
    done
}

#[test]
fn a_ring_exists_only_once_something_is_read_or_written() {
    let mut engine = FileEngine::new(vec![file_of(b"abc")], 8, EngineChoice::Automatic).unwrap();
    engine.finish(1, Ok(()));
    engine.start(2, FileOperation::Blocking(Box::new(|| Ok(()))));
    wait_for(&mut engine, 2);
    assert_eq!(engine.has_ring(), None);
    engine.start(3, FileOperation::Sync { file: 0 });
    assert_eq!(wait_for(&mut engine, 1), [(3, Ok(()))]);
    match io_uring::IoUring::new(2) {
        Ok(_) => assert_eq!(engine.has_ring(), Some(true), "io_uring works here, and was not used"),
        Err(error) => eprintln!("skipped: io_uring is not available: {error}"),
    }
}

#[test]
fn threads_are_used_when_asked_for() {
    let mut engine = FileEngine::new(vec![file_of(b"abc")], 8, EngineChoice::Threads).unwrap();
    engine.start(3, FileOperation::Sync { file: 0 });
    assert_eq!(wait_for(&mut engine, 1), [(3, Ok(()))]);
    assert_eq!(engine.has_ring(), Some(false));
}

#[test]
fn a_read_beyond_the_end_of_a_file_gives_zeroes_and_of_a_device_an_error() {
    for choice in CHOICES {
        for (zeroes_beyond_end, expected) in [(true, Ok(())), (false, Err(Errno::IO))] {
            let target = Target { zeroes_beyond_end, ..file_of(&[7; 700]) };
            let mut engine = FileEngine::new(vec![target], 8, choice).unwrap();
            let mut buffers = [[0xee; 600], [0xee; 600]];
            let segments = buffers.iter_mut().map(|buffer| segment(buffer)).collect();
            engine.start(5, FileOperation::Read { file: 0, offset: 0, segments });
            assert_eq!(wait_for(&mut engine, 1), [(5, expected)], "{choice:?}");
            assert_eq!(buffers[0], [7; 600]);
            assert_eq!(buffers[1][..100], [7; 100]);
            if expected.is_ok() {
                assert_eq!(buffers[1][100..], [0; 500], "{choice:?}");
            }
        }
    }
}

#[test]
fn more_pieces_than_one_call_takes_are_transferred() {
    const PIECES: usize = 3000;
    for choice in CHOICES {
        let target = file_of(&[]);
        let mut engine = FileEngine::new(vec![target.clone()], 8, choice).unwrap();
        let mut source: Vec<u8> = (0..=250).cycle().take(PIECES * 3).collect();
        let segments = source.chunks_mut(3).map(segment).collect();
        engine.start(1, FileOperation::Write { file: 0, offset: 10, segments, durable: true });
        assert_eq!(wait_for(&mut engine, 1), [(1, Ok(()))]);
        let mut copy = vec![0; PIECES * 3];
        let segments = copy.chunks_mut(3).map(segment).collect();
        engine.start(2, FileOperation::Read { file: 0, offset: 10, segments });
        assert_eq!(wait_for(&mut engine, 1), [(2, Ok(()))]);
        assert!(copy == source, "{choice:?}");
    }
}

#[test]
fn more_operations_than_the_depth_are_all_done() {
    for choice in CHOICES {
        let mut engine = FileEngine::new(vec![file_of(&[9; 4096])], 2, choice).unwrap();
        let mut buffers = vec![[0u8; 8]; 500];
        for (token, buffer) in (0..).zip(&mut buffers) {
            engine.start(
                token,
                FileOperation::Read { file: 0, offset: token * 8, segments: vec![segment(buffer)] },
            );
        }
        let mut done = wait_for(&mut engine, 500);
        done.sort_by_key(|(token, _)| *token);
        assert!(done.iter().zip(0..).all(|(done, token)| *done == (token, Ok(()))), "{choice:?}");
        assert!(buffers.iter().all(|buffer| *buffer == [9; 8]), "{choice:?}");
    }
}

#[test]
fn an_error_of_the_file_reaches_the_caller() {
    for choice in CHOICES {
        let target = Target { file: Arc::new(File::open("/dev/full").unwrap()), zeroes_beyond_end: false };
        let mut engine = FileEngine::new(vec![target], 8, choice).unwrap();
        let mut buffer = [1; 512];
        let segments = vec![segment(&mut buffer)];
        engine.start(1, FileOperation::Write { file: 0, offset: 0, segments, durable: false });
        assert_eq!(wait_for(&mut engine, 1), [(1, Err(Errno::BADF))], "open for reading only, {choice:?}");

        let writable = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let target = Target { file: Arc::new(writable), zeroes_beyond_end: false };
        let mut engine = FileEngine::new(vec![target], 8, choice).unwrap();
        let segments = vec![segment(&mut buffer)];
        engine.start(1, FileOperation::Write { file: 0, offset: 0, segments, durable: false });
        assert_eq!(wait_for(&mut engine, 1), [(1, Err(Errno::NOSPC))], "{choice:?}");
    }
}

#[test]
fn dropping_waits_for_everything_in_flight() {
    for choice in CHOICES {
        let target = file_of(&[0; 1 << 16]);
        let mut source = vec![3u8; 1 << 16];
        let (begun, wait) =
            (Arc::new(parking_lot::Mutex::new(())), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let mut engine = FileEngine::new(vec![target.clone()], 8, choice).unwrap();
        for (token, piece) in (0..).zip(source.chunks_mut(1024)) {
            engine.start(
                token,
                FileOperation::Write {
                    file: 0,
                    offset: token * 1024,
                    segments: vec![segment(piece)],
                    durable: true,
                },
            );
        }
        let held = begun.lock();
        let (begun_too, wait_too) = (Arc::clone(&begun), Arc::clone(&wait));
        engine.start(
            1000,
            FileOperation::Blocking(Box::new(move || {
                let _waits = begun_too.lock();
                wait_too.store(true, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            })),
        );
        drop(held);
        drop(engine);
        assert!(wait.load(std::sync::atomic::Ordering::SeqCst), "{choice:?}: closures are waited for");
        let mut content = vec![0; 1 << 16];
        std::os::unix::fs::FileExt::read_exact_at(&*target.file, &mut content, 0).unwrap();
        assert!(content == source, "{choice:?}");
    }
}
