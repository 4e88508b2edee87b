//! `vireo pool`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    ConnectListAllStoragePools, StoragePoolCreate, StoragePoolDelete, StoragePoolDestroy,
    StoragePoolGetAutostart, StoragePoolGetInfo, StoragePoolIsPersistent, StoragePoolRefresh,
    StoragePoolSetAutostart, StoragePoolUndefine,
};
use libvirt_rpc::types::RemoteStoragePool;
use serde_json::{Value, json};

use super::answer;
use crate::completions_command::pools;
use crate::connection::{Attempt, Error, Options, connect};
use crate::output::{harmless, print, print_json, readable, yes_no};
use crate::storage_client::{find_pool, work};
use crate::table::Table;

/// virStoragePoolState of a pool that is in use.
const RUNNING: u8 = 2;

/// List pools: those that are active, or as asked for
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// All pools, active or not
    #[arg(long)]
    all: bool,
    /// Only pools that are not active
    #[arg(long)]
    inactive: bool,
    /// Only pools that start with the daemon
    #[arg(long)]
    autostart: bool,
    /// Show sizes as well
    #[arg(long)]
    details: bool,
    /// Print only names
    #[arg(long)]
    name: bool,
}

/// Show a pool's state and sizes
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    #[command(flatten)]
    pool: PoolArgument,
    /// Sizes in bytes
    #[arg(long)]
    bytes: bool,
}

/// Define a pool whose volumes are the files of a directory, which is made if it is not there
#[derive(Debug, Args)]
pub(crate) struct DefineArguments {
    /// The new pool's name
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is made of
    #[arg(value_name = "TYPE", default_value = "dir")]
    kind: Kind,
    /// The directory
    #[arg(long, value_name = "DIRECTORY")]
    target: PathBuf,
    /// Start it, now and with the daemon
    #[arg(long)]
    start: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Dir,
}

/// Start a pool
#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    #[command(flatten)]
    pool: PoolArgument,
}

/// Stop a pool; its volumes stay where they are
#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    #[command(flatten)]
    pool: PoolArgument,
}

/// Have a pool started with the daemon, or not
#[derive(Debug, Args)]
pub(crate) struct AutostartArguments {
    #[command(flatten)]
    pool: PoolArgument,
    /// Not
    #[arg(long)]
    disable: bool,
}

/// Look for volumes that came or went without the daemon
#[derive(Debug, Args)]
pub(crate) struct RefreshArguments {
    #[command(flatten)]
    pool: PoolArgument,
}

/// Stop a pool and forget its definition; its volumes stay
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    pool: PoolArgument,
    /// Remove its directory too, which has to be empty
    #[arg(long)]
    remove_directory: bool,
}

#[derive(Debug, Args)]
struct PoolArgument {
    /// The pool
    #[arg(value_name = "POOL", add = ArgValueCompleter::new(pools))]
    pool: String,
}

/// What is known of a pool.
struct Known {
    pool: RemoteStoragePool,
    state: u8,
    capacity: u64,
    allocation: u64,
    available: u64,
    autostart: bool,
    persistent: bool,
}

impl Known {
    fn ask(connection: &mut Connection, pool: RemoteStoragePool) -> Result<Self, Error> {
        let action = || format!("cannot look at the pool {}", pool.name);
        let info = connection.call(&StoragePoolGetInfo { pool: pool.clone() }).attempt(action)?;
        let autostart = connection.call(&StoragePoolGetAutostart { pool: pool.clone() }).attempt(action)?;
        let persistent = connection.call(&StoragePoolIsPersistent { pool: pool.clone() }).attempt(action)?;
        Ok(Self {
            state: info.state,
            capacity: info.capacity,
            allocation: info.allocation,
            available: info.available,
            autostart: autostart.autostart != 0,
            persistent: persistent.persistent != 0,
            pool,
        })
    }

    /// virsh's word for the state.
    fn state(&self) -> &'static str {
        match self.state {
            0 => "inactive",
            1 => "building",
            RUNNING => "running",
            3 => "degraded",
            4 => "inaccessible",
            _ => "unknown",
        }
    }

    fn as_json(&self) -> Value {
        let active = self.state >= RUNNING;
        let size = |bytes: u64| active.then_some(bytes);
        json!({
            "name": self.pool.name, "uuid": self.pool.uuid.to_string(), "state": self.state(),
            "active": active, "persistent": self.persistent, "autostart": self.autostart,
            "capacity": size(self.capacity), "allocation": size(self.allocation),
            "available": size(self.available),
        })
    }
}

/// Prints the list.
pub(super) fn list(arguments: &ListArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    // virConnectListAllStoragePoolsFlags: inactive 1, active 2, autostart 16.
    let state = match (arguments.all, arguments.inactive) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    let flags = state | if arguments.autostart { 16 } else { 0 };
    let call = ConnectListAllStoragePools { need_results: 1, flags };
    let listed = connection.call(&call).attempt(|| "cannot list the pools".to_owned())?;
    let mut pools = listed.pools;
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    if arguments.name && !options.json {
        let names: String = pools.iter().map(|pool| format!("{}\n", harmless(&pool.name))).collect();
        print(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut known = Vec::new();
    for pool in pools {
        match Known::ask(&mut connection, pool) {
            Ok(one) => known.push(one),
            // It has gone meanwhile.
            Err(error) if error.exit() == crate::connection::Exit::NoSuchObject => {}
            Err(error) => return Err(error),
        }
    }
    if options.json {
        let all: Vec<_> = known.iter().map(Known::as_json).collect();
        print_json(&json!({ "pools": all }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut heading = vec!["Name", "State", "Autostart"];
    if arguments.details {
        heading.extend(["Persistent", "Capacity", "Allocation", "Available"]);
    }
    let mut table = Table::new(&heading);
    for one in &known {
        let active = one.state >= RUNNING;
        let state = match (arguments.details, active) {
            (true, _) => one.state(),
            (false, true) => "active",
            (false, false) => "inactive",
        };
        let mut row = vec![one.pool.name.as_str().into(), state.into(), yes_no(one.autostart).into()];
        if arguments.details {
            row.push(yes_no(one.persistent).into());
            let sizes = [one.capacity, one.allocation, one.available];
            row.extend(sizes.map(|bytes| if active { readable(bytes) } else { "-".to_owned() }.into()));
        }
        table.row(row);
    }
    print(&table.text(false))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what is known of a pool.
pub(super) fn info(arguments: &InfoArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let pool = find_pool(&mut connection, &arguments.pool.pool)?;
    let known = Known::ask(&mut connection, pool)?;
    if options.json {
        print_json(&known.as_json())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<16}{}\n", harmless(value)));
    line("Name:", &known.pool.name);
    line("UUID:", &known.pool.uuid.to_string());
    line("State:", known.state());
    line("Persistent:", yes_no(known.persistent));
    line("Autostart:", yes_no(known.autostart));
    if known.state >= RUNNING {
        let size = |bytes: u64| if arguments.bytes { bytes.to_string() } else { readable(bytes) };
        line("Capacity:", &size(known.capacity));
        line("Allocation:", &size(known.allocation));
        line("Available:", &size(known.available));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Defines a pool.
pub(super) fn define(arguments: &DefineArguments, options: &Options) -> Result<ExitCode, Error> {
    let DefineArguments { name, kind: Kind::Dir, target, start } = arguments;
    let directory = std::path::absolute(target)
        .map_err(|error| Error::usage(format!("--target: {}: {error}", target.display())))?;
    let done = work(options, |session| {
        session.define_pool(name, &directory, *start)?;
        session.undo.step()
    })?;
    match done {
        Ok(()) => answer(options, "pool", name, if *start { "defined and started" } else { "defined" }),
        Err(code) => Ok(code),
    }
}

/// Starts a pool.
pub(super) fn start(arguments: &StartArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let pool = find_pool(&mut connection, &arguments.pool.pool)?;
    let action = || format!("cannot start the pool {}", pool.name);
    connection.call(&StoragePoolCreate { pool: pool.clone(), flags: 0 }).attempt(action)?;
    answer(options, "pool", &pool.name, "started")
}

/// Stops a pool.
pub(super) fn stop(arguments: &StopArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let pool = find_pool(&mut connection, &arguments.pool.pool)?;
    let action = || format!("cannot stop the pool {}", pool.name);
    connection.call(&StoragePoolDestroy { pool: pool.clone() }).attempt(action)?;
    answer(options, "pool", &pool.name, "stopped")
}

/// Sets whether a pool starts with the daemon.
pub(super) fn autostart(arguments: &AutostartArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let pool = find_pool(&mut connection, &arguments.pool.pool)?;
    let autostart = i32::from(!arguments.disable);
    let call = StoragePoolSetAutostart { pool: pool.clone(), autostart };
    connection
        .call(&call)
        .attempt(|| format!("cannot change whether the pool {} starts with the daemon", pool.name))?;
    let done = if arguments.disable { "unmarked as autostarted" } else { "marked as autostarted" };
    answer(options, "pool", &pool.name, done)
}

/// Has a pool looked at anew.
pub(super) fn refresh(arguments: &RefreshArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let pool = find_pool(&mut connection, &arguments.pool.pool)?;
    let action = || format!("cannot refresh the pool {}", pool.name);
    connection.call(&StoragePoolRefresh { pool: pool.clone(), flags: 0 }).attempt(action)?;
    answer(options, "pool", &pool.name, "refreshed")
}

/// Removes a pool.
pub(super) fn delete(arguments: &DeleteArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let pool = find_pool(&mut connection, &arguments.pool.pool)?;
    let known = Known::ask(&mut connection, pool.clone())?;
    if arguments.remove_directory && !known.persistent {
        return Err(Error::usage(format!(
            "the pool {} is transient: it is gone when it is stopped, and its directory stays",
            pool.name
        )));
    }
    if known.state >= RUNNING {
        let action = || format!("cannot stop the pool {}", pool.name);
        connection.call(&StoragePoolDestroy { pool: pool.clone() }).attempt(action)?;
    }
    if arguments.remove_directory {
        let action = || format!("cannot remove the directory of the pool {}", pool.name);
        let removed = connection.call(&StoragePoolDelete { pool: pool.clone(), flags: 0 }).attempt(action);
        if removed.is_err() && known.state >= RUNNING {
            // As it was before. What is told is why it could not be removed.
            let _ = connection.call(&StoragePoolCreate { pool: pool.clone(), flags: 0 });
        }
        removed?;
    }
    // A transient one has gone when it was stopped.
    if known.persistent {
        let action = || format!("cannot forget the pool {}", pool.name);
        connection.call(&StoragePoolUndefine { pool: pool.clone() }).attempt(action)?;
    }
    answer(options, "pool", &pool.name, "deleted")
}
