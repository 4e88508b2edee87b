mod fake_disk;
mod malformed;

use std::sync::Arc;

use platform::worker::Worker;
use rustix::io::Errno;

use self::fake_disk::{FakeDisk, Record, Shared};
use super::*;
use crate::testing::{FakeDriver, Piece, Used, common};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const DISK_BYTES: usize = 1 << 20;
const ALL: u64 = u64::MAX;

struct Rig {
    driver: FakeDriver,
    handle: BlockHandle,
    disk: Arc<FakeDisk>,
    _worker: Worker,
}

fn rig(disk: FakeDisk, features: u64) -> Rig {
    rig_with(disk, features, true)
}

fn rig_with(disk: FakeDisk, features: u64, discard: bool) -> Rig {
    let disk = Arc::new(disk);
    let worker = Worker::spawn("disk").unwrap();
    let block = Block::build(BlockConfig {
        backend: Arc::new(Shared(Arc::clone(&disk))),
        queues: 2,
        queue_size: 128,
        serial: "S3RIAL".to_owned(),
        discard,
        workers: vec![worker.handle()],
        counters: Arc::default(),
    })
    .unwrap();
    let handle = block.handle();
    let mut driver = FakeDriver::new(Box::new(block));
    driver.initialize(features);
    Rig { driver, handle, disk, _worker: worker }
}

fn default_rig() -> Rig {
    rig(FakeDisk::new(DISK_BYTES), ALL)
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..4].copy_from_slice(&kind.to_le_bytes());
    raw[8..].copy_from_slice(&sector.to_le_bytes());
    raw
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&sector.to_le_bytes());
    raw[8..12].copy_from_slice(&sectors.to_le_bytes());
    raw[12..].copy_from_slice(&flags.to_le_bytes());
    raw
}

fn status(used: &Used) -> u8 {
    *used.data.last().unwrap()
}

/// A request whose data the device reads.
fn out(rig: &mut Rig, kind: u32, sector: u64, data: &[u8]) -> Used {
    let head = header(kind, sector);
    let mut pieces = vec![Piece::Out(&head)];
    if !data.is_empty() {
        pieces.push(Piece::Out(data));
    }
    pieces.push(Piece::In(1));
    rig.driver.request(0, &pieces)
}

/// A request whose data the device writes.
fn into(rig: &mut Rig, kind: u32, sector: u64, bytes: u32) -> Used {
    rig.driver.request(0, &[Piece::Out(&header(kind, sector)), Piece::In(bytes), Piece::In(1)])
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn what_was_written_is_read_back_whatever_the_buffers_look_like() {
    let mut rig = default_rig();
    let data = pattern(4096);
    let head = header(OUT, 8);
    // Header and data share buffers, as the specification allows (2.7.4.1).
    let mut first = head[..10].to_vec();
    let mut second = head[10..].to_vec();
    second.extend_from_slice(&data[..1000]);
    let written = rig
        .driver
        .request(1, &[Piece::Out(&first), Piece::Out(&second), Piece::Out(&data[1000..]), Piece::In(1)]);
    assert_eq!((written.written, written.data), (1, vec![OK]));
    first = header(IN, 8).to_vec();
    let head = rig.driver.add_indirect(0, &[Piece::Out(&first), Piece::In(7), Piece::In(4090)]);
    rig.driver.kick(0);
    let read = rig.driver.wait_used(0);
    assert_eq!((read.head, read.written), (head, 4097));
    assert_eq!(read.data[..4096], data);
    assert_eq!(read.data[4096], OK);
    assert_eq!(rig.disk.data()[4096..8192], data);
    let counters = rig.handle.counters();
    assert_eq!((counters.reads.get(), counters.read_bytes.get()), (1, 4096));
    assert_eq!((counters.writes.get(), counters.write_bytes.get()), (1, 4096));
    assert_eq!(counters.errors.get(), 0);
}

#[test]
fn the_time_of_requests_is_summed_up_by_kind() {
    let mut rig = default_rig();
    let start = std::time::Instant::now();
    let (write, flush, read) = (header(OUT, 3), header(FLUSH, 0), header(IN, 3));
    let data = pattern(512);
    let times = |rig: &Rig| {
        let counters = rig.handle.counters();
        [&counters.write_nanoseconds, &counters.flush_nanoseconds, &counters.read_nanoseconds]
            .map(crate::counter::Counter::get)
    };
    assert_eq!(times(&rig), [0; 3]);
    let requests: [&[Piece<'_>]; 3] = [
        &[Piece::Out(&write), Piece::Out(&data), Piece::In(1)],
        &[Piece::Out(&flush), Piece::In(1)],
        &[Piece::Out(&read), Piece::In(512), Piece::In(1)],
    ];
    for (done, request) in requests.into_iter().enumerate() {
        rig.driver.add_indirect(0, request);
        rig.driver.kick(0);
        assert_eq!(status(&rig.driver.wait_used(0)), OK);
        let times = times(&rig);
        assert!(
            times[..=done].iter().all(|time| *time > 0) && times[done + 1..].iter().all(|time| *time == 0)
        );
    }
    let all = u128::from(times(&rig).iter().sum::<u64>());
    assert!(all <= start.elapsed().as_nanos());
}

#[test]
fn more_requests_than_one_batch_are_all_answered() {
    let mut rig = default_rig();
    let data = pattern(512);
    let head = header(OUT, 3);
    for _ in 0..3 {
        for _ in 0..42 {
            rig.driver.add(0, &[Piece::Out(&head), Piece::Out(&data), Piece::In(1)]);
        }
        rig.driver.kick(0);
        for _ in 0..42 {
            assert_eq!(rig.driver.wait_used(0).data, [OK]);
        }
    }
    for sector in 0..100u64 {
        rig.driver.add_indirect(1, &[Piece::Out(&header(IN, sector)), Piece::In(512), Piece::In(1)]);
    }
    rig.driver.kick(1);
    for _ in 0..100 {
        assert_eq!(status(&rig.driver.wait_used(1)), OK);
    }
    assert_eq!(rig.handle.counters().writes.get(), 126);
    assert_eq!(rig.handle.counters().reads.get(), 100);
}

#[test]
fn flush_reaches_the_disk_and_the_serial_number_is_told() {
    let mut rig = default_rig();
    assert_eq!(out(&mut rig, FLUSH, 0, &[]).data, [OK]);
    assert_eq!(rig.disk.records(), [Record::Flush]);
    assert_eq!(rig.handle.counters().flushes.get(), 1);
    let id = into(&mut rig, GET_ID, 0, 20);
    assert_eq!(id.written, 21);
    assert_eq!(&id.data[..20], b"S3RIAL\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(status(&id), OK);
    // What lies between the serial number and the status is not written, and not claimed to be.
    let long = into(&mut rig, GET_ID, 0, 30);
    assert_eq!((long.written, status(&long), long.data[20]), (20, OK, 0xa5));
}

#[test]
fn several_ranges_are_discarded_one_after_the_other() {
    let mut rig = default_rig();
    let data = [range(8, 8, 0), range(0, 0, 0), range(32, 16, 0)].concat();
    assert_eq!(out(&mut rig, DISCARD, 0, &data).data, [OK]);
    assert_eq!(
        rig.disk.records(),
        [Record::Discard { offset: 4096, bytes: 4096 }, Record::Discard { offset: 16384, bytes: 8192 }]
    );
    assert_eq!(rig.handle.counters().discards.get(), 1);
    let data = [range(1, 1, 1), range(2, 1, 0)].concat();
    assert_eq!(out(&mut rig, WRITE_ZEROES, 0, &data).data, [OK]);
    assert_eq!(
        rig.disk.records()[2..],
        [
            Record::WriteZeroes { offset: 512, bytes: 512, may_unmap: true },
            Record::WriteZeroes { offset: 1024, bytes: 512, may_unmap: false }
        ]
    );
    assert_eq!(rig.handle.counters().write_zeroes.get(), 1);
    // Ranges of no length are done at once.
    assert_eq!(out(&mut rig, DISCARD, 0, &range(0, 0, 0)).data, [OK]);
    assert_eq!(rig.disk.records().len(), 4);
}

#[test]
fn zeroes_are_followed_by_a_flush_where_writes_are_durable() {
    let mut rig = default_rig();
    rig.driver.write_config(32, &[0]);
    let data = [range(0, 1, 0), range(2, 1, 1)].concat();
    assert_eq!(out(&mut rig, WRITE_ZEROES, 0, &data).data, [OK]);
    assert_eq!(
        rig.disk.records(),
        [
            Record::WriteZeroes { offset: 0, bytes: 512, may_unmap: false },
            Record::WriteZeroes { offset: 1024, bytes: 512, may_unmap: true },
            Record::Flush
        ]
    );
    assert_eq!((rig.handle.counters().write_zeroes.get(), rig.handle.counters().flushes.get()), (1, 0));
}

#[test]
fn a_disk_that_keeps_its_storage_discards_nothing() {
    let mut rig = rig_with(FakeDisk::new(DISK_BYTES), ALL, false);
    assert_eq!(rig.driver.offered() & FEATURE_DISCARD, 0);
    assert_eq!(out(&mut rig, DISCARD, 0, &range(0, 8, 0)).data, [UNSUPP]);
    assert_eq!(out(&mut rig, WRITE_ZEROES, 0, &range(0, 8, 1)).data, [OK]);
    assert_eq!(rig.disk.records(), [Record::WriteZeroes { offset: 0, bytes: 4096, may_unmap: false }]);
    let mut may_unmap = [7];
    rig.driver.read_config(56, &mut may_unmap);
    assert_eq!(may_unmap, [0]);
}

#[test]
fn a_cluster_is_told_as_the_unit_of_discards_and_not_as_a_physical_block() {
    let mut disk = FakeDisk::new(DISK_BYTES);
    disk.geometry = block_io::BlockGeometry {
        logical_block_bytes: 512,
        physical_block_bytes: 65536,
        discard_bytes: 65536,
    };
    let mut rig = rig(disk, ALL);
    let mut config = [0; 60];
    rig.driver.read_config(0, &mut config);
    assert_eq!(config[24], 3, "physical blocks of 4096 bytes");
    assert_eq!(u16::from_le_bytes([config[26], config[27]]), 8, "min_io_size");
    assert_eq!(u32::from_le_bytes(config[44..48].try_into().unwrap()), 128, "discard_sector_alignment");
}

#[test]
fn a_failing_disk_makes_requests_fail_without_claiming_data() {
    let mut rig = default_rig();
    rig.disk.fail(Errno::IO);
    let read = into(&mut rig, IN, 0, 512);
    assert_eq!((read.written, status(&read)), (0, IOERR));
    let write = out(&mut rig, OUT, 0, &[0; 512]);
    assert_eq!((write.written, status(&write)), (1, IOERR));
    assert_eq!(out(&mut rig, FLUSH, 0, &[]).data, [IOERR]);
    // The second range is not tried after the first has failed.
    assert_eq!(out(&mut rig, DISCARD, 0, &[range(0, 8, 0), range(8, 8, 0)].concat()).data, [IOERR]);
    assert_eq!(rig.disk.records().len(), 4);
    assert_eq!(rig.handle.counters().errors.get(), 4);
    assert_eq!(rig.handle.counters().reads.get(), 0);
}

#[test]
fn the_configuration_describes_the_disk_and_follows_a_resize() {
    let mut rig = default_rig();
    let mut config = [0; 60];
    rig.driver.read_config(0, &mut config);
    let u32_at = |config: &[u8], at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), DISK_BYTES as u64 / 512);
    assert_eq!(u32_at(&config, 12), 126, "seg_max");
    assert_eq!(u32_at(&config, 20), 512, "blk_size");
    assert_eq!((config[24], config[25]), (3, 0), "eight logical blocks in a physical one");
    assert_eq!(u16::from_le_bytes([config[26], config[27]]), 8, "min_io_size");
    assert_eq!(config[32], 1, "writeback");
    assert_eq!(u16::from_le_bytes([config[34], config[35]]), 2, "num_queues");
    assert_eq!(u32_at(&config, 40), MAX_RANGES, "max_discard_seg");
    assert_eq!(u32_at(&config, 44), 8, "discard_sector_alignment");
    assert_eq!(config[56], 1, "write_zeroes_may_unmap");
    let generation = rig.driver.read(common::CONFIG_GENERATION);
    let changes = rig.driver.msi.sent(0);
    rig.handle.resize(2 * DISK_BYTES as u64).unwrap();
    assert_eq!(rig.handle.capacity(), 2 * DISK_BYTES as u64);
    rig.driver.msi.wait_more(0, changes);
    assert_ne!(rig.driver.read(common::CONFIG_GENERATION), generation);
    let mut capacity = [0; 8];
    rig.driver.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 2 * DISK_BYTES as u64 / 512);
    assert_eq!(status(&into(&mut rig, IN, DISK_BYTES as u64 / 512, 512)), OK, "the new end is used");
}

#[test]
fn features_follow_what_the_disk_can_do() {
    let offered = |disk: FakeDisk| rig(disk, 0).driver.offered() & 0xff_ffff;
    let basic = FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_TOPOLOGY | FEATURE_MQ;
    let cache = FEATURE_FLUSH | FEATURE_CONFIG_WCE;
    let all = offered(FakeDisk::new(DISK_BYTES));
    assert_eq!(all, basic | cache | FEATURE_DISCARD | FEATURE_WRITE_ZEROES);
    let mut read_only = FakeDisk::new(DISK_BYTES);
    read_only.read_only = true;
    assert_eq!(offered(read_only), basic | cache | FEATURE_RO);
    let mut stable = FakeDisk::new(DISK_BYTES);
    stable.write_cache = false;
    stable.geometry.discard_bytes = 0;
    assert_eq!(offered(stable), basic | FEATURE_WRITE_ZEROES);
}

#[test]
fn writes_are_durable_when_the_cache_is_off_or_can_not_be_flushed() {
    let durable = |rig: &mut Rig| {
        assert_eq!(out(rig, OUT, 0, &[1; 512]).data, [OK]);
        match rig.disk.records().last() {
            Some(Record::Write { durable, .. }) => *durable,
            other => panic!("the last operation is a write, not {other:?}"),
        }
    };
    let mut rig = default_rig();
    assert!(!durable(&mut rig));
    rig.driver.write_config(32, &[0]);
    assert!(durable(&mut rig));
    let mut writeback = [0];
    rig.driver.read_config(32, &mut writeback);
    assert_eq!(writeback, [0]);
    rig.driver.write_config(32, &[1]);
    assert!(!durable(&mut rig));
    rig.driver.initialize(ALL & !FEATURE_FLUSH & !FEATURE_CONFIG_WCE);
    assert!(durable(&mut rig), "a driver that never flushes");
    rig.driver.initialize(ALL);
    assert!(!durable(&mut rig), "the choice of the driver before is forgotten");
}

#[test]
fn a_reset_waits_for_what_is_in_flight_and_the_disk_can_be_used_again() {
    let mut rig = default_rig();
    rig.disk.hold();
    rig.driver.add(0, &[Piece::Out(&header(OUT, 0)), Piece::Out(&[7; 512]), Piece::In(1)]);
    rig.driver.kick(0);
    rig.disk.wait_for_held(1);
    rig.driver.write(common::STATUS, 0);
    assert_ne!(rig.driver.status(), 0, "the buffer is still in use");
    rig.disk.release();
    rig.driver.reset();
    rig.driver.initialize(ALL);
    let read = into(&mut rig, IN, 0, 512);
    assert_eq!((status(&read), read.data[0]), (OK, 7));
}

#[test]
fn a_pause_waits_for_what_is_in_flight_and_loses_nothing() {
    let mut rig = default_rig();
    rig.disk.hold();
    let held = rig.driver.add(0, &[Piece::Out(&header(OUT, 0)), Piece::Out(&[7; 512]), Piece::In(1)]);
    rig.driver.kick(0);
    rig.disk.wait_for_held(1);
    rig.driver.function.request_pause();
    assert!(!rig.driver.function.poll_paused(), "an operation is in flight");
    rig.disk.release();
    rig.driver.pause();
    assert_eq!(rig.driver.wait_used(0).head, held);
    let operations = rig.disk.records().len();
    let during = rig.driver.add(0, &[Piece::Out(&header(IN, 0)), Piece::In(512), Piece::In(1)]);
    rig.driver.kick(0);
    assert_eq!(rig.disk.records().len(), operations, "a paused disk stands still");
    rig.driver.resume();
    let used = rig.driver.wait_used(0);
    assert_eq!((used.head, used.data[0], status(&used)), (during, 7, OK));
    for _ in 0..50 {
        rig.driver.pause();
        rig.driver.resume();
        assert_eq!(out(&mut rig, FLUSH, 0, &[]).data, [OK]);
    }
}
