//! Round trips of a null call over a unix socket: one client, then several at once, server and clients in one process.
//!
//!     cargo run --release -p libvirt_rpc --example null_calls [CALLS]
//!     cargo run --release -p libvirt_rpc --example null_calls serve SOCKET     # for clients of another kind

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libvirt_rpc::RpcError;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    ConnectGetLibVersion, ConnectGetLibVersionReply, ConnectGetUri, ConnectGetUriReply,
};
use libvirt_rpc::server::{Access, ClientHandle, Limits, Server, Service, Table};

struct Null;

impl Service for Null {
    fn open(&self, _: &ClientHandle, _: Option<&str>) -> Result<(), RpcError> {
        Ok(())
    }
    fn closed(&self, _: &ClientHandle) {}
}

fn calls(socket: &Path, count: u32) -> Duration {
    let mut connection = Connection::open_socket(socket, None, false).expect("a connection");
    let start = Instant::now();
    for _ in 0..count {
        connection.call(&ConnectGetLibVersion {}).expect("a reply");
    }
    start.elapsed()
}

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let table = Table::new()
        .on(|_, _, _: ConnectGetLibVersion| async { Ok(ConnectGetLibVersionReply { lib_ver: 10_000_000 }) })
        .on(|_, _, _: ConnectGetUri| async { Ok(ConnectGetUriReply { uri: "qemu:///system".into() }) });
    let server = Server::new(Arc::new(Null), table, Limits::default());
    let mut words = std::env::args().skip(1);
    let word = words.next();
    let directory = tempfile::tempdir()?;
    let own = directory.path().join("sock");
    let given = words.next();
    let socket = given.as_deref().map_or(own.as_path(), Path::new);
    let listener = UnixListener::bind(socket)?;
    {
        let _inside = runtime.enter();
        server.listen(listener, Access::ReadWrite)?;
    }
    if word.as_deref() == Some("serve") {
        println!("serving at {}; ends with its input", socket.display());
        std::io::stdin().lines().for_each(drop);
        return Ok(());
    }
    let count: u32 = word.and_then(|word| word.parse().ok()).unwrap_or(50_000);
    calls(socket, count / 10);
    for clients in [1, 2, 4, 8] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| calls(socket, count / clients));
            }
        });
        let elapsed = start.elapsed();
        let each = elapsed.as_secs_f64() / f64::from(count);
        println!(
            "{clients} clients: {:.0} calls/s, {:.1} us a call",
            1.0 / each,
            each * 1e6 * f64::from(clients)
        );
    }
    Ok(())
}
