//! A service in memory: two domains, one pool with one volume, a console that echoes, a call that waits.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libvirt_rpc::client::Connection;
use libvirt_rpc::events::DomainEventLifecycle;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{
    Access, CallContext, ClientHandle, Limits, Server, Service, Stream, StreamInput, Table,
};
use libvirt_rpc::types::*;
use libvirt_rpc::xdr::Uuid;
use libvirt_rpc::{ErrorDomain, RpcError};
use tokio::sync::Semaphore;

/// What the daemon side of the tests knows.
#[derive(Debug)]
pub(crate) struct Memory {
    domains: Vec<RemoteDomain>,
    pub(crate) volume: Mutex<Vec<u8>>,
    subscribers: Mutex<BTreeMap<u64, ClientHandle>>,
    /// DOMAIN_SUSPEND waits for a permit.
    pub(crate) gate: Semaphore,
    pub(crate) waiting: AtomicUsize,
    pub(crate) closed: AtomicUsize,
    /// How streams that were not finished ended.
    pub(crate) broken_streams: AtomicUsize,
}

impl Service for Memory {
    fn open(&self, _: &ClientHandle, name: Option<&str>) -> Result<(), RpcError> {
        match name {
            None | Some("qemu:///system") => Ok(()),
            Some(other) => Err(RpcError::invalid_argument(format!("{other} is not served here"))),
        }
    }

    fn closed(&self, client: &ClientHandle) {
        self.subscribers.lock().unwrap().remove(&client.id());
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Memory {
    fn find(&self, name: &str) -> Result<RemoteDomain, RpcError> {
        let found = self.domains.iter().find(|domain| domain.name == name);
        found.cloned().ok_or_else(|| RpcError::no_domain(format!("no domain with matching name '{name}'")))
    }

    pub(crate) fn lifecycle(&self, name: &str, event: i32, detail: i32) {
        let dom = self.find(name).unwrap();
        for client in self.subscribers.lock().unwrap().values() {
            client.event(&DomainEventLifecycle { callback_id: 7, dom: dom.clone(), event, detail });
        }
    }

    pub(crate) fn subscribed(&self) -> usize {
        self.subscribers.lock().unwrap().len()
    }
}

type Answer<T> = Result<T, RpcError>;

async fn lookup(
    memory: Arc<Memory>,
    _: CallContext,
    call: DomainLookupByName,
) -> Answer<DomainLookupByNameReply> {
    Ok(DomainLookupByNameReply { dom: memory.find(&call.name)? })
}

async fn list(
    memory: Arc<Memory>,
    _: CallContext,
    call: ConnectListAllDomains,
) -> Answer<ConnectListAllDomainsReply> {
    let ret = u32::try_from(memory.domains.len()).unwrap();
    let domains = if call.need_results != 0 { memory.domains.clone() } else { Vec::new() };
    Ok(ConnectListAllDomainsReply { domains, ret })
}

async fn state(memory: Arc<Memory>, _: CallContext, call: DomainGetState) -> Answer<DomainGetStateReply> {
    let running = memory.find(&call.dom.name)?.id >= 0;
    Ok(DomainGetStateReply { state: if running { 1 } else { 5 }, reason: 1 })
}

async fn suspend(memory: Arc<Memory>, _: CallContext, _: DomainSuspend) -> Answer<()> {
    memory.waiting.fetch_add(1, Ordering::SeqCst);
    let permit = memory.gate.acquire().await.map_err(|_| RpcError::internal("the gate is gone"))?;
    permit.forget();
    memory.waiting.fetch_sub(1, Ordering::SeqCst);
    Ok(())
}

async fn subscribe(
    memory: Arc<Memory>,
    call: CallContext,
    _: ConnectDomainEventCallbackRegisterAny,
) -> Answer<ConnectDomainEventCallbackRegisterAnyReply> {
    memory.subscribers.lock().unwrap().insert(call.id(), call.client().clone());
    Ok(ConnectDomainEventCallbackRegisterAnyReply { callback_id: 7 })
}

async fn unsubscribe(
    memory: Arc<Memory>,
    call: CallContext,
    _: ConnectDomainEventCallbackDeregisterAny,
) -> Answer<()> {
    memory.subscribers.lock().unwrap().remove(&call.id());
    Ok(())
}

fn volume() -> RemoteStorageVol {
    RemoteStorageVol { pool: "default".into(), name: "disk".into(), key: "/memory/disk".into() }
}

async fn download(memory: Arc<Memory>, call: CallContext, args: StorageVolDownload) -> Answer<()> {
    let stream = call.stream()?;
    let bytes = memory.volume.lock().unwrap().clone();
    let start = usize::try_from(args.offset).unwrap_or(usize::MAX).min(bytes.len());
    let sparse = args.flags & 1 != 0;
    tokio::spawn(async move {
        if send_volume(stream, &bytes[start..], sparse).await.is_err() {
            memory.broken_streams.fetch_add(1, Ordering::SeqCst);
        }
    });
    Ok(())
}

async fn send_volume(
    mut stream: Stream,
    bytes: &[u8],
    sparse: bool,
) -> Result<(), libvirt_rpc::server::StreamEnd> {
    for block in bytes.chunks(1 << 20) {
        if sparse && block.iter().all(|byte| *byte == 0) {
            stream.sender.send_hole(block.len() as u64).await?;
        } else {
            stream.sender.send(block).await?;
        }
    }
    stream.complete().await
}

async fn upload(memory: Arc<Memory>, call: CallContext, _: StorageVolUpload) -> Answer<()> {
    let mut stream = call.stream()?;
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        loop {
            match stream.receiver.receive().await {
                Ok(StreamInput::Data(data)) => bytes.extend_from_slice(&data),
                Ok(StreamInput::Hole(length)) if bytes.len() as u64 + length < 1 << 30 => {
                    bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0);
                }
                Ok(StreamInput::Hole(_)) => {
                    return stream.sender.fail(&RpcError::operation_failed("no space left")).await;
                }
                Ok(StreamInput::Finish) => {
                    *memory.volume.lock().unwrap() = bytes;
                    let _ = stream.sender.finish().await;
                    return;
                }
                Err(_) => {
                    memory.broken_streams.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        }
    });
    Ok(())
}

async fn console(_: Arc<Memory>, call: CallContext, _: DomainOpenConsole) -> Answer<()> {
    let mut stream = call.stream()?;
    tokio::spawn(async move {
        while let Ok(StreamInput::Data(data)) = stream.receiver.receive().await {
            if stream.sender.send(&data).await.is_err() {
                return;
            }
        }
        let _ = stream.sender.finish().await;
    });
    Ok(())
}

fn table() -> Table<Memory> {
    let table = Table::new()
        .on(lookup)
        .on(list)
        .on(state)
        .on(suspend)
        .on(subscribe)
        .on(unsubscribe)
        .on(download)
        .on(upload)
        .on(console);
    table
        .on(|_, _, _: ConnectGetUri| async { Ok(ConnectGetUriReply { uri: "qemu:///system".into() }) })
        .on(|_, _, _: ConnectGetType| async { Ok(ConnectGetTypeReply { kind: "QEMU".into() }) })
        .on(|_, _, _: ConnectGetVersion| async { Ok(ConnectGetVersionReply { hv_ver: 8_002_000 }) })
        .on(|_, _, _: ConnectGetLibVersion| async { Ok(ConnectGetLibVersionReply { lib_ver: 10_000_000 }) })
        .on(|_, _, _: ConnectGetHostname| async { Ok(ConnectGetHostnameReply { hostname: "here".into() }) })
        .on(|_, _, _: NodeGetInfo| async {
            Ok(NodeGetInfoReply {
                model: ModelName::new("x86_64"),
                memory: 4096,
                cpus: 2,
                mhz: 2400,
                nodes: 1,
                sockets: 1,
                cores: 2,
                threads: 1,
            })
        })
        .on(|_, _, _: DomainGetXmlDesc| async { Ok(DomainGetXmlDescReply { xml: "<domain/>".into() }) })
        .on(|_, _, call: StoragePoolLookupByName| async move {
            if call.name == "default" {
                return Ok(StoragePoolLookupByNameReply {
                    pool: RemoteStoragePool { name: call.name, uuid: Uuid([3; 16]) },
                });
            }
            let message = format!("no storage pool with matching name '{}'", call.name);
            Err(RpcError::no_storage_pool(message).from_part(ErrorDomain::Storage))
        })
        .on(|_, _, _: StoragePoolIsActive| async { Ok(StoragePoolIsActiveReply { active: 1 }) })
        .on(|_, _, _: StorageVolLookupByName| async { Ok(StorageVolLookupByNameReply { vol: volume() }) })
        .on(|memory: Arc<Memory>, _, _: StorageVolGetInfo| async move {
            let length = memory.volume.lock().unwrap().len() as u64;
            Ok(StorageVolGetInfoReply { kind: 0, capacity: length, allocation: length })
        })
}

/// A server on a socket of its own, with its runtime.
pub(crate) struct Fixture {
    pub(crate) memory: Arc<Memory>,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) server: Option<Server<Memory>>,
    directory: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), &[("alpha", 1), ("beta", -1)])
    }

    pub(crate) fn with(limits: Limits, domains: &[(&str, i32)]) -> Self {
        let domains = domains.iter().enumerate().map(|(index, (name, id))| RemoteDomain {
            name: (*name).into(),
            uuid: Uuid([u8::try_from(index).unwrap() + 1; 16]),
            id: *id,
        });
        let memory = Arc::new(Memory {
            domains: domains.collect(),
            volume: Mutex::default(),
            subscribers: Mutex::default(),
            gate: Semaphore::new(0),
            waiting: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            broken_streams: AtomicUsize::new(0),
        });
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = Server::new(Arc::clone(&memory), table(), limits);
        {
            let _inside = runtime.enter();
            for (name, access) in [("sock", Access::ReadWrite), ("sock-ro", Access::ReadOnly)] {
                let listener = UnixListener::bind(directory.path().join(name)).unwrap();
                server.listen(listener, access).unwrap();
            }
        }
        Self { memory, runtime, server: Some(server), directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    pub(crate) fn read_only_socket(&self) -> PathBuf {
        self.directory.path().join("sock-ro")
    }

    pub(crate) fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.socket().display())
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.uri(), false).unwrap()
    }
}

/// Waits for what another thread brings about; a test that waits too long has failed.
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn domain(name: &str) -> RemoteDomain {
    RemoteDomain { name: name.into(), uuid: Uuid([1; 16]), id: 1 }
}

pub(crate) fn test_volume() -> RemoteStorageVol {
    volume()
}
