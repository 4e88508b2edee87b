//! Pools and volumes of the daemon, as verbs use them that make, copy and remove disks.
//!
//! Files are named by absolute paths that the daemon sees as well: it runs on this host, because it was reached by a unix socket.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use libvirt_rpc::client::{ClientError, Connection, Input};
use libvirt_rpc::procedures::{
    ConnectListAllStoragePools, StoragePoolBuild, StoragePoolCreate, StoragePoolCreateXml,
    StoragePoolDefineXml, StoragePoolGetXmlDesc, StoragePoolIsActive, StoragePoolListAllVolumes,
    StoragePoolLookupByName, StoragePoolLookupByVolume, StoragePoolRefresh, StoragePoolSetAutostart,
    StorageVolCreateXml, StorageVolCreateXmlFrom, StorageVolDownload, StorageVolGetPath,
    StorageVolGetXmlDesc, StorageVolLookupByPath, StorageVolResize, StorageVolUpload,
};
use libvirt_rpc::types::{RemoteStoragePool, RemoteStorageVol};
use libvirt_rpc::{Call, ErrorCode};
use libvirt_xml::storage::{
    Permissions, PoolDefinition, PoolSizes, PoolSource, PoolTarget, VolumeDefinition,
};

use crate::connection::{Attempt, Error, Exit, Options, connect};
use crate::output::readable;
use crate::undo::{Made, Undo};

/// The pool that volumes go to when none is named.
const DEFAULT_POOL: &str = "default";
/// What virStorageVolCreateXMLFrom is told for a copy that shares storage (VIR_STORAGE_VOL_CREATE_REFLINK).
pub(crate) const REFLINK: u32 = 2;
/// Bytes that go up at a time.
const PIECE: usize = 1 << 20;
/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// The connection, and what was made by it.
pub(crate) struct Session<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) undo: &'a mut Undo,
    /// Whether progress may be shown: a person looks, and not a program.
    pub(crate) shown: bool,
}

/// Work of several steps: a signal ends it, and what it has made goes when it fails.
///
/// # Errors
/// The daemon can't be reached, or the work's own.
pub(crate) fn work<T>(
    options: &Options,
    work: impl FnOnce(&mut Session<'_>) -> Result<T, Error>,
) -> Result<Result<T, ExitCode>, Error> {
    let mut connection = connect(options)?;
    let mut undo = Undo::new()?;
    let mut session = Session { connection: &mut connection, undo: &mut undo, shown: !options.json };
    let result = work(&mut session);
    undo.end(&mut connection, result, false)
}

/// Whether the daemon says that there is no such object.
pub(crate) fn is(error: &ClientError, codes: &[ErrorCode]) -> bool {
    matches!(error, ClientError::Daemon(error) if codes.contains(&error.code))
}

impl Session<'_> {
    /// Makes a call; `action` says what it is for.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn call<C: Call>(
        &mut self,
        call: &C,
        action: impl FnOnce() -> String,
    ) -> Result<C::Reply, Error> {
        self.connection.call(call).attempt(action)
    }

    /// The pool for new volumes: the one that is named, or whose directory is, or the default one, which is made when missing.
    ///
    /// # Errors
    /// There is none of that name, or it can't be made or started.
    pub(crate) fn pool(&mut self, wanted: Option<&str>) -> Result<RemoteStoragePool, Error> {
        let pool = match wanted {
            Some(path) if path.starts_with('/') => self.pool_of_directory(Path::new(path))?,
            Some(name) => find_pool(self.connection, name)?,
            None => match self.pool_by_name(DEFAULT_POOL)? {
                Some(pool) => pool,
                None => {
                    let directory = self.default_directory()?;
                    self.define_pool(DEFAULT_POOL, &directory, true)?
                }
            },
        };
        self.start_pool(&pool)?;
        Ok(pool)
    }

    /// Where [`Session::pool`]'s volumes would be, without making anything.
    ///
    /// # Errors
    /// There is no such pool.
    pub(crate) fn foreseen_directory(&mut self, wanted: Option<&str>) -> Result<PathBuf, Error> {
        match wanted {
            Some(path) if path.starts_with('/') => Ok(path.into()),
            Some(name) => {
                let pool = find_pool(self.connection, name)?;
                self.directory(&pool)
            }
            None => match self.pool_by_name(DEFAULT_POOL)? {
                Some(pool) => self.directory(&pool),
                None => self.default_directory(),
            },
        }
    }

    fn pool_by_name(&mut self, name: &str) -> Result<Option<RemoteStoragePool>, Error> {
        pool_by_name(self.connection, name)
    }

    /// The pool that keeps its volumes in a directory; a new one, which stays, when there is none.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn pool_of_directory(&mut self, directory: &Path) -> Result<RemoteStoragePool, Error> {
        if let Some(pool) = self.find_pool_of(directory)? {
            return Ok(pool);
        }
        let stem = directory.file_name().map_or_else(|| "images".into(), |name| name.to_string_lossy());
        let stem: String =
            stem.chars().filter(|letter| letter.is_alphanumeric() || "-_.".contains(*letter)).collect();
        let mut name = stem.clone();
        let mut number = 1;
        while self.pool_by_name(&name)?.is_some() {
            number += 1;
            name = format!("{stem}-{number}");
        }
        self.define_pool(&name, directory, true)
    }

    /// The pool whose volumes are in a directory.
    fn find_pool_of(&mut self, directory: &Path) -> Result<Option<RemoteStoragePool>, Error> {
        let listed = self.call(&ConnectListAllStoragePools { need_results: 1, flags: 0 }, || {
            "cannot list the pools".to_owned()
        })?;
        for pool in listed.pools {
            // One that has just gone is none.
            let Ok(reply) = self.connection.call(&StoragePoolGetXmlDesc { pool: pool.clone(), flags: 0 })
            else {
                continue;
            };
            let target = libvirt_xml::parse(&reply.xml)
                .ok()
                .and_then(|root| Some(root.first("target")?.first("path")?.own_text()));
            if target.is_some_and(|target| same(Path::new(&target), directory)) {
                return Ok(Some(pool));
            }
        }
        Ok(None)
    }

    /// Where the default pool is made: with this project's state for the system, with a user's data for a user.
    fn default_directory(&mut self) -> Result<PathBuf, Error> {
        let uri = self.connection.uri().attempt(|| "cannot learn whose daemon it is".to_owned())?;
        if !uri.ends_with("/session") {
            return Ok("/var/lib/vireo/images".into());
        }
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        data.map(|data| data.join("vireo/images")).ok_or_else(|| {
            let advice = "set one of them, or name a pool or a directory with --pool";
            let message = "there is no place for the default pool: neither XDG_DATA_HOME nor HOME is set";
            Error::trouble(Exit::Failed, message.to_owned(), advice)
        })
    }

    /// Defines and builds a pool of a directory; started, now and with the daemon, if `start`.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn define_pool(
        &mut self,
        name: &str,
        directory: &Path,
        start: bool,
    ) -> Result<RemoteStoragePool, Error> {
        let xml = pool_document(name, directory)?;
        let defined =
            self.call(&StoragePoolDefineXml { xml, flags: 0 }, || format!("cannot define the pool {name}"))?;
        let pool = defined.pool;
        self.undo.push(Made::PoolDefinition(pool.clone()));
        let new = !directory.exists();
        let place = || format!("cannot make the directory {} of the pool {name}", directory.display());
        self.call(&StoragePoolBuild { pool: pool.clone(), flags: 0 }, place)?;
        if new {
            self.undo.push(Made::PoolDirectory(pool.clone()));
        }
        if start {
            self.start_pool(&pool)?;
            self.call(&StoragePoolSetAutostart { pool: pool.clone(), autostart: 1 }, || {
                format!("cannot have the pool {name} started with the daemon")
            })?;
        }
        Ok(pool)
    }

    /// Starts a pool that is not active.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn start_pool(&mut self, pool: &RemoteStoragePool) -> Result<(), Error> {
        let name = || pool.name.clone();
        let active = self.call(&StoragePoolIsActive { pool: pool.clone() }, || {
            format!("cannot look at the pool {}", name())
        })?;
        if active.active == 0 {
            self.call(&StoragePoolCreate { pool: pool.clone(), flags: 0 }, || {
                format!("cannot start the pool {}", name())
            })?;
            self.undo.push(Made::ActivePool(pool.clone()));
        }
        Ok(())
    }

    /// The directory of a pool.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn directory(&mut self, pool: &RemoteStoragePool) -> Result<PathBuf, Error> {
        let reply = self.call(&StoragePoolGetXmlDesc { pool: pool.clone(), flags: 0 }, || {
            format!("cannot look at the pool {}", pool.name)
        })?;
        let target = libvirt_xml::parse(&reply.xml)
            .ok()
            .and_then(|root| Some(root.first("target")?.first("path")?.own_text()));
        target.map(PathBuf::from).ok_or_else(|| {
            Error::trouble(
                Exit::Failed,
                format!("the pool {} has no directory", pool.name),
                "name another with --pool",
            )
        })
    }

    /// The volume at a path, if a running pool has it.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn volume_at(&mut self, path: &str) -> Result<Option<RemoteStorageVol>, Error> {
        match self.connection.call(&StorageVolLookupByPath { path: path.to_owned() }) {
            Ok(reply) => Ok(Some(reply.vol)),
            Err(error) if is(&error, &[ErrorCode::NoStorageVolume, ErrorCode::NoStoragePool]) => Ok(None),
            Err(error) => Err(Error::daemon(format!("cannot look up the volume {path}"), error)),
        }
    }

    /// The volume at a path. A file that no pool has is reached by a passing pool of its directory, as virt-install does.
    ///
    /// # Errors
    /// There is no such file, or the daemon can't reach it.
    pub(crate) fn volume_or_file(&mut self, path: &str) -> Result<RemoteStorageVol, Error> {
        if let Some(volume) = self.volume_at(path)? {
            return Ok(volume);
        }
        let place = Path::new(path);
        let nowhere = || {
            let message = format!("{path} is not in any storage pool, and the daemon can't reach it");
            Error::trouble(Exit::Failed, message, "put it into the directory of a pool")
        };
        let directory = place.parent().filter(|_| place.is_absolute()).ok_or_else(nowhere)?;
        if let Some(pool) = self.find_pool_of(directory)? {
            // The pool may not have seen it yet.
            self.start_pool(&pool)?;
            self.call(&StoragePoolRefresh { pool: pool.clone(), flags: 0 }, || {
                format!("cannot refresh the pool {}", pool.name)
            })?;
        } else {
            self.reach_directory(directory)?;
        }
        self.volume_at(path)?.ok_or_else(nowhere)
    }

    /// The pool of a directory: a passing one if it has none.
    ///
    /// # Errors
    /// The daemon can't look into it.
    pub(crate) fn reach_directory(&mut self, directory: &Path) -> Result<RemoteStoragePool, Error> {
        if let Some(pool) = self.find_pool_of(directory)? {
            self.start_pool(&pool)?;
            return Ok(pool);
        }
        let name = format!("vireo-passing-{}", uuid::Uuid::new_v4());
        let xml = pool_document(&name, directory)?;
        let action = || format!("cannot look into {}", directory.display());
        let pool = self.call(&StoragePoolCreateXml { xml, flags: 0 }, action)?.pool;
        self.undo.pass_through(pool.clone());
        Ok(pool)
    }

    /// The pool of a volume.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn pool_of(&mut self, volume: &RemoteStorageVol) -> Result<RemoteStoragePool, Error> {
        let action = || format!("cannot look up the pool of {}", volume.key);
        Ok(self.call(&StoragePoolLookupByVolume { vol: volume.clone() }, action)?.pool)
    }

    /// What the daemon says about a volume.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn describe(&mut self, volume: &RemoteStorageVol) -> Result<VolumeDefinition, Error> {
        let action = || format!("cannot look at the volume {}", volume.key);
        let xml = self.call(&StorageVolGetXmlDesc { vol: volume.clone(), flags: 0 }, action)?.xml;
        let described = libvirt_xml::parse(&xml).and_then(|root| VolumeDefinition::from_element(&root));
        described.map_err(|error| {
            Error::trouble(
                Exit::Failed,
                format!("the daemon's description of {} can't be read: {error}", volume.key),
                "",
            )
        })
    }

    /// Names of a pool's volumes.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn volume_names(&mut self, pool: &RemoteStoragePool) -> Result<Vec<String>, Error> {
        let call = StoragePoolListAllVolumes { pool: pool.clone(), need_results: 1, flags: 0 };
        let reply = self.call(&call, || format!("cannot list the volumes of {}", pool.name))?;
        Ok(reply.vols.into_iter().map(|volume| volume.name).collect())
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn create(
        &mut self,
        pool: &RemoteStoragePool,
        volume: &VolumeDefinition,
    ) -> Result<RemoteStorageVol, Error> {
        self.undo.step()?;
        let call = StorageVolCreateXml { pool: pool.clone(), xml: volume.element().to_string(), flags: 0 };
        let made = self.call(&call, || format!("cannot make the volume {}", volume.name))?.vol;
        self.undo.push(Made::Volume(made.clone()));
        Ok(made)
    }

    /// Makes a volume with the content of another, while a spinner shows that it takes its time.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn create_from(
        &mut self,
        pool: &RemoteStoragePool,
        volume: &VolumeDefinition,
        source: &RemoteStorageVol,
        flags: u32,
    ) -> Result<RemoteStorageVol, ClientError> {
        let spinner = self.shown.then(|| spinner(&format!("copying {}", source.name))).flatten();
        let xml = volume.element().to_string();
        let reply = self.connection.call(&StorageVolCreateXmlFrom {
            pool: pool.clone(),
            xml,
            clonevol: source.clone(),
            flags,
        });
        if let Some(spinner) = spinner {
            spinner.finish_and_clear();
        }
        let made = reply?.vol;
        self.undo.push(Made::Volume(made.clone()));
        Ok(made)
    }

    /// Sends content of `bytes` bytes into a volume.
    ///
    /// # Errors
    /// The content can't be read, the daemon's, or a signal has come.
    pub(crate) fn upload(
        &mut self,
        volume: &RemoteStorageVol,
        mut content: impl Read,
        bytes: u64,
    ) -> Result<(), Error> {
        let action = || format!("cannot write the volume {}", volume.key);
        let call = StorageVolUpload { vol: volume.clone(), offset: 0, length: bytes, flags: 0 };
        let bar = self.shown.then(|| bar(bytes)).flatten();
        let (_, mut stream) = self.connection.open_stream(&call).attempt(action)?;
        self.undo.overwrite(volume);
        let mut buffer = vec![0; PIECE];
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let count = content.read(&mut buffer[..most]).map_err(|error| {
                Error::trouble(Exit::Failed, format!("cannot read what is to be copied: {error}"), "")
            })?;
            if count == 0 {
                return Err(Error::trouble(
                    Exit::Failed,
                    "what is to be copied has become shorter".to_owned(),
                    "",
                ));
            }
            stream.send(&buffer[..count]).attempt(action)?;
            left -= count as u64;
            if let Some(bar) = &bar {
                bar.set_position(bytes - left);
            }
            self.undo.step()?;
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        stream.finish().attempt(action)
    }

    /// The content of a volume, if it has at most `most` bytes.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn content(&mut self, volume: &RemoteStorageVol, most: u64) -> Result<Option<Vec<u8>>, Error> {
        let capacity = self.describe(volume)?.capacity.unwrap_or(u64::MAX);
        if capacity > most {
            return Ok(None);
        }
        let action = || format!("cannot read the volume {}", volume.key);
        let call = StorageVolDownload { vol: volume.clone(), offset: 0, length: capacity, flags: 0 };
        let (_, mut stream) = self.connection.open_stream(&call).attempt(action)?;
        let mut content = Vec::new();
        loop {
            match stream.receive(None).attempt(action)? {
                // More than was asked for is not taken.
                Input::Data(bytes) if content.len() as u64 + bytes.len() as u64 > capacity => {
                    return Ok(None);
                }
                Input::Data(bytes) => content.extend(bytes),
                Input::Hole(_) | Input::Nothing => return Ok(None),
                Input::End => break,
            }
        }
        stream.finish().attempt(action)?;
        Ok(Some(content))
    }

    /// Writes a volume's content somewhere. Its stream has as many bytes as its file, which are not those of its disk in all formats.
    ///
    /// # Errors
    /// The daemon's, the place can't be written, or a signal has come.
    pub(crate) fn download(&mut self, volume: &RemoteStorageVol, to: &mut impl Write) -> Result<(), Error> {
        let action = || format!("cannot read the volume {}", volume.key);
        let call = StorageVolDownload { vol: volume.clone(), offset: 0, length: 0, flags: 0 };
        let shown = self.shown.then(|| spinner(&format!("reading {}", volume.name))).flatten();
        let (_, mut stream) = self.connection.open_stream(&call).attempt(action)?;
        let mut read = 0_u64;
        loop {
            self.undo.step()?;
            let bytes = match stream.receive(None).attempt(action)? {
                Input::Data(bytes) => bytes,
                Input::End => break,
                Input::Nothing => continue,
                Input::Hole(_) => {
                    let message = format!("the daemon left out a part of the volume {}", volume.key);
                    return Err(Error::trouble(Exit::Failed, message, ""));
                }
            };
            to.write_all(&bytes).map_err(|error| {
                Error::trouble(Exit::Failed, format!("cannot write what was read: {error}"), "")
            })?;
            read += bytes.len() as u64;
            if let Some(shown) = &shown {
                shown.set_message(format!("reading {}: {}", volume.name, readable(read)));
            }
        }
        if let Some(shown) = shown {
            shown.finish_and_clear();
        }
        stream.finish().attempt(action)
    }

    /// Grows a volume.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn resize(&mut self, volume: &RemoteStorageVol, bytes: u64) -> Result<(), Error> {
        let call = StorageVolResize { vol: volume.clone(), capacity: bytes, flags: 0 };
        self.call(&call, || format!("cannot resize the volume {}", volume.key))
    }

    /// Where a volume is.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) fn path(&mut self, volume: &RemoteStorageVol) -> Result<String, Error> {
        let call = StorageVolGetPath { vol: volume.clone() };
        Ok(self.call(&call, || format!("cannot find the volume {}", volume.key))?.name)
    }
}

/// The pool of a name, if there is one.
fn pool_by_name(connection: &mut Connection, name: &str) -> Result<Option<RemoteStoragePool>, Error> {
    match connection.call(&StoragePoolLookupByName { name: name.to_owned() }) {
        Ok(reply) => Ok(Some(reply.pool)),
        Err(error) if is(&error, &[ErrorCode::NoStoragePool]) => Ok(None),
        Err(error) => Err(Error::daemon(format!("cannot look up the pool {name}"), error)),
    }
}

/// The pool of a name.
///
/// # Errors
/// There is none, with names that are nearly this one; or the daemon can't be asked.
pub(crate) fn find_pool(connection: &mut Connection, name: &str) -> Result<RemoteStoragePool, Error> {
    pool_by_name(connection, name)?.ok_or_else(|| {
        let all = connection.call(&ConnectListAllStoragePools { need_results: 1, flags: 0 });
        let names = all.map(|all| all.pools.into_iter().map(|pool| pool.name).collect());
        Error::no_such("storage pool", name, names.unwrap_or_default())
    })
}

/// The definition of a pool of a directory.
///
/// # Errors
/// The directory's name can't be written down.
fn pool_document(name: &str, directory: &Path) -> Result<String, Error> {
    let Some(path) = directory.to_str() else {
        let message = format!("the directory {} has a name that XML can't hold", directory.display());
        return Err(Error::trouble(Exit::Failed, message, ""));
    };
    let pool = PoolDefinition {
        name: name.to_owned(),
        uuid: None,
        sizes: PoolSizes::default(),
        copy_on_write: None,
        source: PoolSource::Directory,
        target: PoolTarget { path: path.to_owned(), permissions: Permissions::default() },
    };
    Ok(pool.element().to_string())
}

/// Whether two paths name one directory.
pub(crate) fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

fn bar(bytes: u64) -> Option<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3}%  {bytes_per_sec}  {eta} left").ok()?;
    Some(ProgressBar::new(bytes).with_style(style))
}

/// Shown on a terminal only, as bars are.
pub(crate) fn spinner(message: &str) -> Option<ProgressBar> {
    let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}").ok()?;
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(message.to_owned());
    spinner.enable_steady_tick(TICK);
    Some(spinner)
}
