//! Virtio devices for targets, with backends that need nothing of the host.

use std::sync::Arc;

use block_io::MemoryDisk;
use net_io::Loopback;
use platform::character::{CharacterBackend, Endpoint};
use platform::worker::WorkerHandle;
use virtio::block::{Block, BlockConfig};
use virtio::console::{Console, ConsoleConfig, PortConfig};
use virtio::device::VirtioDevice;
use virtio::net::{Net, NetConfig};
use virtio::rng::{DEFAULT_SOURCE, Rng, RngConfig};

/// How many kinds there are.
pub const KINDS: u8 = 4;

/// A device, and what has to live as long.
pub fn device(kind: u8, worker: WorkerHandle) -> (Box<dyn VirtioDevice>, Option<Loopback>) {
    let character = || Arc::new(CharacterBackend::open(Endpoint::Null, None, &worker).expect("nothing to open"));
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
        _ => {
            let ports = [None, Some("org.example.port".to_owned())]
                .map(|name| PortConfig { name, backend: character(), watcher: None })
                .into();
            let config = ConsoleConfig { ports, worker: worker.clone() };
            (Box::new(Console::build(config).expect("a console")), None)
        }
    }
}
