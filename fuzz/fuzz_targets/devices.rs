//! Virtio devices for targets, with backends that need nothing of the host.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use block_io::MemoryDisk;
use net_io::Loopback;
use platform::character::{CharacterBackend, Endpoint};
use platform::worker::WorkerHandle;
use virtio::balloon::{Balloon, BalloonConfig, HostPages, PAGE_BYTES};
use virtio::block::{Block, BlockConfig};
use virtio::console::{Console, ConsoleConfig, PortConfig};
use virtio::device::{GuestMemory, VirtioDevice};
use virtio::net::{Net, NetConfig};
use virtio::rng::{DEFAULT_SOURCE, Rng, RngConfig};
use vm_memory::GuestAddress;

/// How many kinds there are.
pub const KINDS: u8 = 5;

/// A device, and what has to live as long.
pub fn device(kind: u8, worker: WorkerHandle) -> (Box<dyn VirtioDevice>, Option<Loopback>) {
    let character =
        || Arc::new(CharacterBackend::open(Endpoint::Null, None, &worker).expect("nothing to open"));
    match kind % KINDS {
        0 => {
            let config = BlockConfig {
                backend: Arc::new(MemoryDisk::new(1 << 20).expect("a disk")),
                queues: 2,
                queue_size: 16,
                serial: "fuzz".to_owned(),
                discard: true,
                workers: vec![worker],
                counters: Arc::default(),
            };
            (Box::new(Block::build(config).expect("a disk")), None)
        }
        1 => {
            let (backend, other) = Loopback::pair().expect("a pair of sockets");
            let config = NetConfig {
                backends: vec![Box::new(backend)],
                mac: [0x52, 1, 2, 3, 4, 5],
                mtu: Some(1500),
                link_up: true,
                queue_size: 16,
                workers: vec![worker],
            };
            (Box::new(Net::build(config).expect("an interface")), Some(other))
        }
        2 => {
            let config = RngConfig { source: DEFAULT_SOURCE.into(), queue_size: 16, worker };
            (Box::new(Rng::build(config).expect("an entropy source")), None)
        }
        3 => {
            let ports = [None, Some("org.example.port".to_owned())]
                .map(|name| PortConfig { name, backend: character(), watcher: None })
                .into();
            let config = ConsoleConfig { ports, worker: worker.clone() };
            (Box::new(Console::build(config).expect("a console")), None)
        }
        _ => {
            let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES as usize)]);
            let config = BalloonConfig {
                pages: Arc::new(CheckedPages),
                memory: Arc::new(memory.expect("guest memory")),
                target_bytes: 7 * PAGE_BYTES,
                deflate_on_oom: true,
                free_page_reporting: true,
                statistics_period: Duration::from_millis(1),
                changed: Some(Box::new(|| {})),
                worker,
            };
            (Box::new(Balloon::new(config)), None)
        }
    }
}

/// Bytes of guest memory.
pub const MEMORY_BYTES: u64 = 0x2_0000;

/// A host that takes pages if they are whole ones of guest memory.
struct CheckedPages;

impl CheckedPages {
    fn check(pages: &Range<u64>) {
        assert!(pages.start < pages.end && pages.end <= MEMORY_BYTES, "{pages:?}");
        assert!((pages.start | pages.end).is_multiple_of(PAGE_BYTES), "{pages:?}");
    }
}

impl HostPages for CheckedPages {
    fn give_back(&self, pages: Range<u64>) -> io::Result<()> {
        Self::check(&pages);
        Ok(())
    }

    fn take_again(&self, pages: Range<u64>) {
        Self::check(&pages);
    }

    fn give_back_free(&self, pages: Range<u64>) -> io::Result<()> {
        Self::check(&pages);
        Ok(())
    }

    fn take_all_again(&self) {}
}
