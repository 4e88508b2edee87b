//! A console or channel as a stream.
//!
//! What a guest prints is read from its log as fast as its client takes it, so a client that stops reading makes nobody wait. What a client
//! types waits a while for a guest that takes nothing and is lost then, as on a line without flow control, because a
//! client whose packets nobody takes is not heard at all.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use libvirt_rpc::RpcError;
use libvirt_rpc::server::{Stream, StreamEnd, StreamInput, StreamReceiver, StreamSender};

use tokio::sync::watch;

use crate::console::{Attached, Lease, Line, LogTail, Typing};

/// How long keys wait for a guest.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// What a client is shown at most of a machine that has ended, bytes: all that its logs can have.
const MOST_AT_LAST: usize = 2 << 20;

/// How long an ended machine's line is read: its process is gone, so there is an end.
const AT_LAST: Duration = Duration::from_secs(1);

/// The keyboard of whoever types; another one when the machine goes on in another process.
type Keyboard = watch::Sender<Option<Arc<Line>>>;

/// Serves a console to a client until one of them leaves, somebody else types, or the machine is over. `over` returns then; when the
/// machine goes on in another process, it puts the new keyboard into the place of the old one.
pub(super) async fn serve<Over: Future<Output = ()>>(
    stream: Stream,
    attached: Attached,
    over: impl FnOnce(Option<Arc<Keyboard>>) -> Over,
) {
    let Stream { mut receiver, mut sender } = stream;
    let Attached { mut screen, typing } = attached;
    let (keyboard, lease) = match typing {
        Some(Typing { keyboard, lease }) => {
            (Some(Arc::new(Keyboard::new(Some(Arc::new(keyboard))))), Some(lease))
        }
        None => (None, None),
    };
    let left = tokio::select! {
        left = hear(&mut receiver, keyboard.as_deref()) => Some(Ok(left)),
        () = lost(lease.as_ref()) => None,
        shown = show(&mut screen, &mut sender, over(keyboard.clone())) => shown.err().map(Err),
    };
    // Before the client hears of the end: it may come again at once, and somebody else may wait.
    drop((keyboard, lease));
    part(receiver, sender, left).await;
}

/// Serves a channel to a client until one of them leaves, somebody else takes over, or the machine is `over`.
pub(super) async fn relay(stream: Stream, typing: Typing, over: impl Future<Output = ()>) {
    let Stream { mut receiver, mut sender } = stream;
    let left = tokio::select! {
        left = send(&mut receiver, &typing.keyboard) => Some(left),
        () = typing.lease.lost() => None,
        received = receive(&typing.keyboard, &mut sender, over) => received.err().map(Err),
    };
    drop(typing);
    part(receiver, sender, left).await;
}

/// Why a stream breaks off.
enum Broken {
    /// Its client is gone.
    Client,
    /// The host's end fails.
    Host(io::Error),
}

impl From<StreamEnd> for Broken {
    fn from(_: StreamEnd) -> Self {
        Self::Client
    }
}

async fn lost(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.lost().await,
        None => std::future::pending().await,
    }
}

/// Ends a stream; `left`: whether its client has ended it as it should, `None`: it is this side that ends it.
async fn part(mut receiver: StreamReceiver, mut sender: StreamSender, left: Option<Result<bool, Broken>>) {
    let left = match left {
        Some(left) => left,
        None => match sender.end_of_data().await {
            Ok(()) => Ok(hear(&mut receiver, None).await),
            Err(StreamEnd) => Ok(false),
        },
    };
    match left {
        // Nobody is left to hear that nobody is left.
        Ok(true) => drop(sender.finish().await),
        Ok(false) | Err(Broken::Client) => {}
        Err(Broken::Host(error)) => sender.fail(&RpcError::system(error.to_string())).await,
    }
}

/// Types what the client sends; true when it ends the stream, false when it is gone.
async fn hear(receiver: &mut StreamReceiver, keyboard: Option<&Keyboard>) -> bool {
    let mut patience = PATIENCE;
    loop {
        let keys = match receiver.receive().await {
            Ok(StreamInput::Data(keys)) => keys,
            Ok(StreamInput::Hole(_)) => continue,
            Ok(StreamInput::Finish) => return true,
            Err(StreamEnd) => return false,
        };
        // Keys that come between two processes of a machine are lost.
        let Some(keyboard) = keyboard.and_then(|keyboard| keyboard.borrow().clone()) else { continue };
        patience = match keyboard.write(&keys, patience).await {
            // It was waited for once; from now on keys are lost at once, until it takes some.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Duration::ZERO,
            // Keys for a machine that is gone are lost; the screen says that it is.
            Ok(()) | Err(_) => PATIENCE,
        };
    }
}

/// Shows what the guest prints until the machine is over.
async fn show(
    screen: &mut LogTail,
    sender: &mut StreamSender,
    over: impl Future<Output = ()>,
) -> Result<(), Broken> {
    tokio::pin!(over);
    loop {
        tokio::select! {
            bytes = screen.next() => sender.send(&bytes.map_err(Broken::Host)?).await?,
            () = &mut over => break,
        }
    }
    // What it has printed at last; no more than that when its domain is started again meanwhile.
    let mut shown = 0;
    while shown < MOST_AT_LAST {
        let bytes = screen.available().map_err(Broken::Host)?;
        if bytes.is_empty() {
            break;
        }
        shown += bytes.len();
        sender.send(&bytes).await?;
    }
    Ok(())
}

/// Sends what the client sends; whether it ended the stream.
async fn send(receiver: &mut StreamReceiver, line: &Line) -> Result<bool, Broken> {
    loop {
        match receiver.receive().await {
            Ok(StreamInput::Data(bytes)) => line.write(&bytes, PATIENCE).await.map_err(Broken::Host)?,
            Ok(StreamInput::Hole(_)) => {}
            Ok(StreamInput::Finish) => return Ok(true),
            Err(StreamEnd) => return Ok(false),
        }
    }
}

/// Passes on what the guest sends until the machine is over.
async fn receive(
    line: &Line,
    sender: &mut StreamSender,
    over: impl Future<Output = ()>,
) -> Result<(), Broken> {
    tokio::pin!(over);
    loop {
        let bytes = tokio::select! {
            bytes = line.read() => bytes.map_err(Broken::Host)?,
            () = &mut over => break,
        };
        if bytes.is_empty() {
            return Ok(());
        }
        sender.send(&bytes).await?;
    }
    // What it has sent at last.
    while let Ok(Ok(bytes)) = tokio::time::timeout(AT_LAST, line.read()).await {
        if bytes.is_empty() {
            break;
        }
        sender.send(&bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};

    use libvirt_rpc::client::{Connection, Input};
    use libvirt_rpc::procedures::{DomainOpenChannel, DomainOpenConsole};
    use libvirt_rpc::server::{Access, CallContext, ClientHandle, Limits, Server, Service, Table};
    use libvirt_rpc::types::RemoteDomain;
    use libvirt_xml::Uuid;

    use super::*;
    use crate::console::{Consoles, End, From, Mode, Port, line};

    const DOMAIN: Uuid = Uuid([7; 16]);
    const LONG: Option<Duration> = Some(Duration::from_secs(20));

    /// A daemon with one machine: a log, and a socket in place of its serial port and of a channel.
    struct Machine {
        consoles: Consoles,
        port: Port,
        over: watch::Sender<bool>,
    }

    impl Service for Machine {
        fn open(&self, _: &ClientHandle, _: Option<&str>) -> Result<(), RpcError> {
            Ok(())
        }
        fn closed(&self, _: &ClientHandle) {}
    }

    impl Machine {
        async fn over(self: Arc<Self>) {
            self.over.subscribe().wait_for(|over| *over).await.unwrap();
        }
    }

    async fn console(
        machine: Arc<Machine>,
        context: CallContext,
        call: DomainOpenConsole,
    ) -> Result<(), RpcError> {
        let mode = [Mode::Writer, Mode::WriterByForce, Mode::Reader][call.flags as usize];
        let attached = machine.consoles.attach(DOMAIN, 0, &machine.port, mode, From::History).await;
        let attached = attached.map_err(|error| RpcError::operation_failed(error.to_string()))?;
        tokio::spawn(serve(context.stream()?, attached, |_| machine.over()));
        Ok(())
    }

    async fn channel(
        machine: Arc<Machine>,
        context: CallContext,
        _: DomainOpenChannel,
    ) -> Result<(), RpcError> {
        let lease = machine.consoles.lease(DOMAIN, "channel0", false).await;
        let lease = lease.ok_or_else(|| RpcError::operation_failed("taken"))?;
        let keyboard = line(&machine.port, 0).await.unwrap();
        tokio::spawn(relay(context.stream()?, Typing { keyboard, lease }, machine.over()));
        Ok(())
    }

    struct Host {
        directory: tempfile::TempDir,
        guest: UnixListener,
        machine: Arc<Machine>,
        _server: Server<Machine>,
    }

    impl Host {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            let guest = UnixListener::bind(path("guest")).unwrap();
            let port = Port {
                alias: "serial0".to_owned(),
                name: None,
                end: End::Socket(path("guest")),
                log: Some(path("log")),
            };
            let over = watch::Sender::new(false);
            let machine = Arc::new(Machine { consoles: Consoles::default(), port, over });
            let server =
                Server::new(Arc::clone(&machine), Table::new().on(console).on(channel), Limits::default());
            server.listen(UnixListener::bind(path("daemon")).unwrap(), Access::ReadWrite).unwrap();
            Self { directory, guest, machine, _server: server }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn print(&self, text: &[u8]) {
            let mut log = std::fs::File::options().append(true).create(true).open(self.path("log")).unwrap();
            io::Write::write_all(&mut log, text).unwrap();
        }

        fn connect(&self) -> Connection {
            connect(&self.path("daemon"))
        }

        /// The guest's end of a line.
        fn accept(&self) -> UnixStream {
            let (guest, _) = self.guest.accept().unwrap();
            guest.set_read_timeout(LONG).unwrap();
            guest
        }

        /// What has been typed, once there is so much of it.
        fn typed(guest: &mut UnixStream, length: usize) -> Vec<u8> {
            let mut typed = vec![0; length];
            io::Read::read_exact(guest, &mut typed).unwrap();
            typed
        }
    }

    fn connect(socket: &Path) -> Connection {
        Connection::open_socket(socket, None, false).unwrap()
    }

    fn domain() -> RemoteDomain {
        RemoteDomain { name: "a".to_owned(), uuid: libvirt_rpc::xdr::Uuid(DOMAIN.0), id: 1 }
    }

    /// 0: writer, 1: by force, 2: reader.
    fn open(flags: u32) -> DomainOpenConsole {
        DomainOpenConsole { dom: domain(), dev_name: None, flags }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keys_go_to_the_guest_and_the_log_comes_back_until_the_machine_is_over() {
        let host = Host::start();
        host.print(b"old ");
        let mut connection = host.connect();
        let ((), mut stream) = connection.open_stream(&open(0)).unwrap();
        let mut guest = host.accept();
        assert_eq!(stream.receive(LONG).unwrap(), Input::Data(b"old ".to_vec()));
        stream.send(b"keys").unwrap();
        assert_eq!(Host::typed(&mut guest, 4), b"keys");
        host.print(b"new");
        assert_eq!(stream.receive(LONG).unwrap(), Input::Data(b"new".to_vec()));
        host.print(b"last words");
        host.machine.over.send_replace(true);
        assert_eq!(stream.receive(LONG).unwrap(), Input::Data(b"last words".to_vec()));
        assert_eq!(stream.receive(LONG).unwrap(), Input::End);
        stream.finish().unwrap();
        // Its keyboard was let go before.
        assert_eq!(io::Read::read(&mut guest, &mut [0]).unwrap(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_who_takes_over_waits_for_no_client_that_does_not_read() {
        let host = Host::start();
        let mut deaf = host.connect();
        let ((), stream) = deaf.open_stream(&open(0)).unwrap();
        let mut first = host.accept();
        // More than the way to the client takes.
        for _ in 0..64 {
            host.print(&vec![b'x'; 256 << 10]);
        }
        let mut other = host.connect();
        assert!(other.open_stream(&open(0)).is_err());
        let mut reader = host.connect();
        let ((), mut reading) = reader.open_stream(&open(2)).unwrap();
        let ((), mut taken) = other.open_stream(&open(1)).unwrap();
        assert_eq!(io::Read::read(&mut first, &mut [0]).unwrap(), 0, "one client at a time");
        let mut second = host.accept();
        taken.send(b"mine").unwrap();
        assert_eq!(Host::typed(&mut second, 4), b"mine");
        // A reader types nothing.
        reading.send(b"not me").unwrap();
        assert!(matches!(reading.receive(LONG).unwrap(), Input::Data(_)));
        reading.abort().unwrap();
        taken.finish().unwrap();
        assert_eq!(io::Read::read(&mut second, &mut [0]).unwrap(), 0);
        drop(stream);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_guest_that_takes_no_keys_does_not_keep_its_client_from_leaving() {
        let host = Host::start();
        let mut connection = host.connect();
        let ((), mut stream) = connection.open_stream(&open(0)).unwrap();
        let _guest = host.accept();
        for _ in 0..40 {
            stream.send(&vec![b'x'; 64 << 10]).unwrap();
        }
        stream.finish().unwrap();
        let ((), stream) = connection.open_stream(&open(0)).unwrap();
        stream.abort().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_channel_passes_both_ways_and_ends_with_its_guest() {
        let host = Host::start();
        let mut connection = host.connect();
        let call = DomainOpenChannel { dom: domain(), name: None, flags: 0 };
        let ((), mut stream) = connection.open_stream(&call).unwrap();
        let mut guest = host.accept();
        assert!(host.connect().open_stream(&call).is_err());
        stream.send(b"to the guest").unwrap();
        assert_eq!(Host::typed(&mut guest, 12), b"to the guest");
        io::Write::write_all(&mut guest, b"back").unwrap();
        assert_eq!(stream.receive(LONG).unwrap(), Input::Data(b"back".to_vec()));
        io::Write::write_all(&mut guest, b"bye").unwrap();
        host.machine.over.send_replace(true);
        drop(guest);
        assert_eq!(stream.receive(LONG).unwrap(), Input::Data(b"bye".to_vec()));
        assert_eq!(stream.receive(LONG).unwrap(), Input::End);
        stream.finish().unwrap();
    }
}
