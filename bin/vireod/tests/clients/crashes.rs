//! A daemon that is killed again and again while clients work: what was answered is there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::{
    ConnectListAllStoragePools, StoragePoolBuild, StoragePoolCreate, StoragePoolDefineXml,
    StoragePoolDestroy, StoragePoolIsActive, StoragePoolListAllVolumes, StoragePoolLookupByName,
    StoragePoolUndefine, StorageVolCreateXml, StorageVolDelete, StorageVolLookupByName,
};
use libvirt_rpc::types::RemoteStoragePool;

use super::*;

/// How often the daemon is killed.
const KILLS: u32 = 50;
/// Clients at a time.
const CLIENTS: u64 = 3;

/// Numbers that differ from run to run. The first is told, so that a run can be understood.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What a client knows of an object: that it is so, or that a call about it got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    Either,
}

/// What one client may expect of its own pools and volumes.
#[derive(Debug, Default)]
struct Expected {
    defined: BTreeMap<String, Known>,
    active: BTreeMap<String, Known>,
    volumes: BTreeMap<String, Known>,
}

fn note(
    map: &mut BTreeMap<String, Known>,
    name: &str,
    target: Known,
    answer: Result<(), ClientError>,
) -> bool {
    match answer {
        Ok(()) => drop(map.insert(name.to_owned(), target)),
        // Refused for good reason: nothing has changed.
        Err(ClientError::Daemon(error)) => {
            panic!("{name} was to become {target:?}, was {:?}: {error}", map.get(name))
        }
        Err(_) => {
            map.insert(name.to_owned(), Known::Either);
            return false;
        }
    }
    true
}

struct Client<'a> {
    place: &'a Place,
    number: u64,
    connection: Connection,
    home: RemoteStoragePool,
}

impl Client<'_> {
    fn pool(&mut self, name: &str) -> Result<RemoteStoragePool, ClientError> {
        let call = StoragePoolLookupByName { name: name.to_owned() };
        self.connection.call(&call).map(|reply| reply.pool)
    }

    /// Changes one of the pools; false when the daemon is gone.
    fn change_pool(&mut self, expected: &mut Expected, random: &mut Random) -> bool {
        let name = format!("c{}-{}", self.number, random.below(4));
        let state = |map: &BTreeMap<String, Known>| map.get(&name).copied().unwrap_or(Known::Gone);
        match (state(&expected.defined), state(&expected.active)) {
            (Known::Gone, _) => {
                let path = self.place.text(&format!("storage/{name}"));
                let xml = format!(
                    "<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
                );
                let answer = self.connection.call(&StoragePoolDefineXml { xml, flags: 0 }).map(drop);
                note(&mut expected.defined, &name, Known::There, answer)
            }
            (Known::There, Known::Gone) if random.below(2) == 0 => {
                let Ok(pool) = self.pool(&name) else { return false };
                let answer = self.connection.call(&StoragePoolUndefine { pool }).map(drop);
                note(&mut expected.defined, &name, Known::Gone, answer)
            }
            (Known::There, Known::Gone) => {
                let Ok(pool) = self.pool(&name) else { return false };
                let built = self.connection.call(&StoragePoolBuild { pool: pool.clone(), flags: 0 });
                if built.is_err() {
                    return false;
                }
                let answer = self.connection.call(&StoragePoolCreate { pool, flags: 0 }).map(drop);
                note(&mut expected.active, &name, Known::There, answer)
            }
            (Known::There, Known::There) => {
                let Ok(pool) = self.pool(&name) else { return false };
                let answer = self.connection.call(&StoragePoolDestroy { pool }).map(drop);
                note(&mut expected.active, &name, Known::Gone, answer)
            }
            _ => unreachable!("what is not known is asked at the start"),
        }
    }

    /// Makes or deletes one of the volumes; false when the daemon is gone.
    fn change_volume(&mut self, expected: &mut Expected, random: &mut Random) -> bool {
        let name = format!("c{}-{}", self.number, random.below(6));
        if expected.volumes.get(&name).is_none_or(|known| *known == Known::Gone) {
            let format = if random.below(2) == 0 { "raw" } else { "qcow2" };
            let xml = format!(
                "<volume><name>{name}</name><capacity unit='MiB'>4</capacity><allocation>0</allocation>\
                 <target><format type='{format}'/></target></volume>"
            );
            let pool = self.home.clone();
            let answer = self.connection.call(&StorageVolCreateXml { pool, xml, flags: 0 }).map(drop);
            return note(&mut expected.volumes, &name, Known::There, answer);
        }
        let call = StorageVolLookupByName { pool: self.home.clone(), name: name.clone() };
        match self.connection.call(&call) {
            Ok(reply) => {
                let answer = self.connection.call(&StorageVolDelete { vol: reply.vol, flags: 0 }).map(drop);
                note(&mut expected.volumes, &name, Known::Gone, answer)
            }
            Err(ClientError::Daemon(error)) => panic!("{name} was there: {error}"),
            Err(_) => false,
        }
    }

    fn work(&mut self, expected: &mut Expected, random: &mut Random, answered: &AtomicU32) {
        loop {
            let goes_on = match random.below(2) {
                0 => self.change_pool(expected, random),
                _ => self.change_volume(expected, random),
            };
            if !goes_on {
                return;
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is there, by the new daemon's word, compared with what has been answered. What was not known is known from now on.
fn settle(map: &mut BTreeMap<String, Known>, found: &BTreeSet<String>, what: &str) {
    for (name, known) in map.iter_mut() {
        let there = if found.contains(name) { Known::There } else { Known::Gone };
        assert!(*known == Known::Either || *known == there, "{what} {name} was answered to be {known:?}");
        *known = there;
    }
}

fn check(place: &Place, home: &RemoteStoragePool, all: &mut [Expected]) {
    let mut connection = place.connect();
    let listed = connection.call(&ConnectListAllStoragePools { need_results: 1, flags: 0 }).unwrap().pools;
    let mut active = BTreeSet::new();
    for pool in &listed {
        if connection.call(&StoragePoolIsActive { pool: pool.clone() }).unwrap().active != 0 {
            active.insert(pool.name.clone());
        }
    }
    let defined = listed.into_iter().map(|pool| pool.name).collect();
    let call = StoragePoolListAllVolumes { pool: home.clone(), need_results: 1, flags: 0 };
    let volumes: BTreeSet<String> =
        connection.call(&call).unwrap().vols.into_iter().map(|volume| volume.name).collect();
    for expected in all {
        settle(&mut expected.defined, &defined, "pool");
        settle(&mut expected.active, &active, "active pool");
        settle(&mut expected.volumes, &volumes, "volume");
    }
    let files: BTreeSet<String> = std::fs::read_dir(place.path("storage/home"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, volumes, "nothing half made is left");
    for name in volumes {
        let file = File::open(place.path("storage/home").join(&name)).unwrap();
        let mut first = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
        let call = StorageVolLookupByName { pool: home.clone(), name: name.clone() };
        let vol = connection.call(&call).unwrap().vol;
        let call = libvirt_rpc::procedures::StorageVolGetInfo { vol };
        assert_eq!(connection.call(&call).unwrap().capacity, 4 << 20, "{name}");
    }
}

#[test]
fn what_was_answered_outlives_fifty_kills() {
    let seed = RandomState::new().hash_one(0) | 1;
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let place = Place::new();
    let first = place.start();
    place.pool("home");
    let home = place.connect().call(&StoragePoolLookupByName { name: "home".into() }).unwrap().pool;
    drop(first);
    let mut all: Vec<Expected> = (0..CLIENTS).map(|_| Expected::default()).collect();
    let answered = AtomicU32::new(0);
    for _ in 0..KILLS {
        let vireod = place.start();
        check(&place, &home, &mut all);
        let pause = Duration::from_micros(random.below(500_000));
        let killed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (number, expected) in (0..).zip(&mut all) {
                let mut random = Random(random.below(u64::MAX - 1) + 1);
                let connection = place.connect();
                let mut client = Client { place: &place, number, connection, home: home.clone() };
                let (answered, killed) = (&answered, &killed);
                scope.spawn(move || {
                    client.work(expected, &mut random, answered);
                    assert!(killed.load(Ordering::Acquire), "the daemon ended by itself");
                });
            }
            // Not to wait for something: the moment of the kill is what is tried.
            std::thread::sleep(pause);
            killed.store(true, Ordering::Release);
            vireod.kill();
        });
    }
    let vireod = place.start();
    check(&place, &home, &mut all);
    eprintln!("{} calls were answered", answered.load(Ordering::Relaxed));
    assert!(answered.load(Ordering::Relaxed) > KILLS, "the clients hardly worked");
    assert!(vireod.end().success());
}
