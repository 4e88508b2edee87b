//! Consoles and channels.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use tokio::sync::watch;

use super::streams::{relay, serve};
use super::{domain_error, only};
use crate::console::{self, ConsoleError, End, From as Beginning, Line, Mode, Port, Typing};
use crate::domain::running::Console;
use crate::domain::{Domain, Live};
use crate::service::Daemon;

/// VIR_DOMAIN_CONSOLE_FORCE, and VIR_DOMAIN_CHANNEL_FORCE.
const FORCE: u32 = 1;
/// VIR_DOMAIN_CONSOLE_SAFE: only if nobody else is there, which holds for everybody who types here.
const SAFE: u32 = 2;
/// An addition to libvirt's flags: to look and not to type, beside others who look or type.
const READ_ONLY: u32 = 1 << 16;
/// An addition to libvirt's flags: what was printed before comes first.
const HISTORY: u32 = 1 << 17;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(open_console).on(open_channel)
}

/// The character devices of a running machine.
fn ports(live: &Live) -> Vec<Port> {
    let port = |console: &Console| Port {
        alias: console.alias.clone(),
        name: console.name.clone(),
        end: match (&console.path, console.terminal) {
            (Some(path), true) => End::Terminal(path.clone()),
            (Some(path), false) => End::Socket(path.clone()),
            (None, _) => End::Other,
        },
        log: console.log.clone(),
    };
    live.consoles.iter().map(port).collect()
}

async fn open_console(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: DomainOpenConsole,
) -> Result<(), RpcError> {
    only(call.flags, FORCE | SAFE | READ_ONLY | HISTORY)?;
    let mode = match (call.flags & READ_ONLY != 0, call.flags & FORCE != 0) {
        (true, true) => {
            return Err(RpcError::invalid_argument("one who only reads takes nothing by force"));
        }
        (true, false) => Mode::Reader,
        (false, true) => Mode::WriterByForce,
        (false, false) => Mode::Writer,
    };
    let from = if call.flags & HISTORY != 0 { Beginning::History } else { Beginning::Now };
    let domain = daemon.domain(&call.dom)?;
    let live = domain.running().map_err(|error| domain_error(&error))?;
    let ports = ports(live);
    let port = console::console(&ports, call.dev_name.as_deref()).map_err(|error| console_error(&error))?;
    let owner = owner(live)?;
    let attached = daemon.consoles.attach(domain.uuid(), owner, port, mode, from).await;
    let attached = attached.map_err(|error| console_error(&error))?;
    let stream = context.stream()?;
    let alias = port.alias.clone();
    let over = |keyboard| over(daemon, domain, alias, keyboard);
    tokio::spawn(serve(stream, attached, over));
    Ok(())
}

/// Returns when the machine of a running domain is over for good. When another process goes on for it, the new one's end of the device
/// `alias` is put into the place of `keyboard`.
async fn over(
    daemon: Arc<Daemon>,
    mut domain: Arc<Domain>,
    alias: String,
    keyboard: Option<Arc<watch::Sender<Option<Arc<Line>>>>>,
) {
    while let Some(live) = domain.live() {
        let id = live.id;
        live.machine.over().await;
        let now = daemon.domains.by_uuid(domain.uuid());
        // Another start is another machine.
        let Some(next) = now.filter(|now| now.id() == Some(id)) else { return };
        if let (Some(keyboard), Some(live)) = (&keyboard, next.live()) {
            keyboard.send_replace(None);
            match another(live, &alias).await {
                Ok(line) => drop(keyboard.send_replace(Some(Arc::new(line)))),
                Err(error) => tracing::warn!("{alias} of domain '{}' after a restart: {error}", next.name()),
            }
        }
        domain = next;
    }
}

/// The host's end of the device `alias` of a machine.
async fn another(live: &Live, alias: &str) -> Result<Line, String> {
    let ports = ports(live);
    let port = console::console(&ports, Some(alias)).map_err(|error| error.to_string())?;
    let owner = live.machine.process().owner().map_err(|error| error.to_string())?;
    console::line(port, owner).await.map_err(|error| error.to_string())
}

async fn open_channel(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: DomainOpenChannel,
) -> Result<(), RpcError> {
    only(call.flags, FORCE)?;
    let domain = daemon.domain(&call.dom)?;
    let live = domain.running().map_err(|error| domain_error(&error))?;
    let ports = ports(live);
    let port = console::channel(&ports, call.name.as_deref()).map_err(|error| console_error(&error))?;
    let lease = daemon.consoles.lease(domain.uuid(), &port.alias, call.flags & FORCE != 0).await;
    let lease = lease.ok_or_else(|| console_error(&ConsoleError::ActiveChannel))?;
    let keyboard = console::line(port, owner(live)?).await.map_err(|error| console_error(&error))?;
    let stream = context.stream()?;
    let machine = Arc::clone(&live.machine);
    let typing = Typing { keyboard, lease };
    tokio::spawn(async move { relay(stream, typing, machine.over()).await });
    Ok(())
}

/// The user of the machine's process.
fn owner(live: &Live) -> Result<u32, RpcError> {
    live.machine
        .process()
        .owner()
        .map_err(|error| RpcError::system(format!("the machine's process: {error}")))
}

/// The one way from a console's errors to libvirt's.
fn console_error(error: &ConsoleError) -> RpcError {
    let text = error.to_string();
    match error {
        ConsoleError::Active | ConsoleError::ActiveChannel => RpcError::operation_failed(text),
        ConsoleError::NoSuchPort { .. } | ConsoleError::NoLog { .. } | ConsoleError::NoLine { .. } => {
            RpcError::internal(text)
        }
        ConsoleError::Host { .. } => RpcError::system(text),
    }
}
