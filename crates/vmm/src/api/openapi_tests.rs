//! Holds `vireo-vmm.yaml` to what the router and the wire types do.

use std::collections::{BTreeMap, BTreeSet};

use machine_spec::wire::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::router::{Endpoint, ROOT, ROUTES};
use crate::control::Action;

fn document() -> Value {
    serde_yaml_ng::from_str(include_str!("vireo-vmm.yaml")).unwrap()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

fn strings(array: &Value) -> BTreeSet<&str> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn the_document_has_exactly_the_routes_of_the_server() {
    let document = document();
    assert_eq!(document["servers"][0]["url"], format!("http://localhost{ROOT}"));
    let written: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| keys(item).into_iter().map(|method| (path.clone(), method.to_uppercase())))
        .collect();
    let served: BTreeSet<_> =
        ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_owned())).collect();
    assert_eq!(written, served);
    assert_eq!(served.len(), ROUTES.len(), "a route is there twice");
}

#[test]
fn every_operation_has_the_response_and_body_that_the_server_has() {
    let document = document();
    let mut identifiers = BTreeSet::new();
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert!(identifiers.insert(operation["operationId"].as_str().unwrap().to_owned()), "{}", route.path);
        let (response, body, refusable) = match route.endpoint {
            Endpoint::Ping => (Some("VmmPingResponse"), None, false),
            Endpoint::Create => (None, Some("VmConfig"), true),
            Endpoint::Resize => (None, Some("VmResize"), true),
            Endpoint::ResizeDisk => (None, Some("VmResizeDisk"), true),
            Endpoint::SetLink => (None, Some("VmSetLink"), true),
            Endpoint::Act(action) => match action() {
                Action::Info => (Some("VmInfo"), None, true),
                Action::Counters => (Some("VmCounters"), None, true),
                _ => (None, None, true),
            },
        };
        let reference = |schema: Option<&str>| match schema {
            Some(schema) => json!(format!("#/components/schemas/{schema}")),
            None => Value::Null,
        };
        let json = "application/json";
        let responses = keys(&operation["responses"]);
        assert_eq!(responses.contains("200"), response.is_some(), "{}", route.path);
        assert_eq!(responses.contains("204"), response.is_none(), "{}", route.path);
        assert_eq!(responses.contains("400"), body.is_some(), "{}", route.path);
        assert_eq!(responses.contains("default"), refusable, "{}", route.path);
        let content = &operation["responses"]["200"]["content"][json]["schema"]["$ref"];
        assert_eq!(*content, reference(response), "{}", route.path);
        let content = &operation["requestBody"]["content"][json]["schema"]["$ref"];
        assert_eq!(*content, reference(body), "{}", route.path);
    }
}

/// Checks the schema `name` against a value of its type in which every field is there: fields, required ones, defaults,
/// and that no other field is allowed.
fn check_object<T: Serialize + DeserializeOwned>(document: &Value, name: &str, full: &T) {
    let schema = &document["components"]["schemas"][name];
    let full = serde_json::to_value(full).unwrap();
    assert_eq!(keys(&schema["properties"]), keys(&full), "fields of {name}");
    assert_eq!(schema["additionalProperties"], json!(false), "{name}");
    let refused = |value: &Value| serde_json::from_value::<T>(value.clone()).is_err();
    assert!(!refused(&full), "{name}");
    let mut required = BTreeSet::new();
    let mut least = full.clone();
    for field in keys(&full) {
        let mut without = full.clone();
        without.as_object_mut().unwrap().remove(field);
        if refused(&without) {
            required.insert(field);
        } else {
            least.as_object_mut().unwrap().remove(field);
        }
    }
    assert_eq!(strings(&schema["required"]), required, "required fields of {name}");
    let least = serde_json::to_value(serde_json::from_value::<T>(least).unwrap()).unwrap();
    for (field, property) in schema["properties"].as_object().unwrap() {
        let has_own_schema = property.get("$ref").is_some();
        match (least.get(field), property.get("default")) {
            (Some(value), None) if !has_own_schema && !required.contains(field.as_str()) => {
                panic!("{name}.{field} is {value} when absent: write it down");
            }
            (value, Some(default)) => assert_eq!(value, Some(default), "default of {name}.{field}"),
            _ => {}
        }
    }
}

fn check_enumeration<T: Serialize + DeserializeOwned>(document: &Value, name: &str, all: &[T]) {
    let all = serde_json::to_value(all).unwrap();
    assert_eq!(strings(&document["components"]["schemas"][name]["enum"]), strings(&all), "{name}");
}

fn full_config() -> VmConfig {
    let path = || Some("/p".into());
    VmConfig {
        cpus: CpusConfig {
            topology: Some(CpuTopologyConfig {
                threads_per_core: 1,
                cores_per_die: 1,
                dies_per_package: 1,
                packages: 1,
            }),
            ..CpusConfig::default()
        },
        memory: MemoryConfig { hugepage_size: Some(2 << 20), ..MemoryConfig::default() },
        payload: PayloadConfig {
            kernel: path(),
            cmdline: Some(String::new()),
            initramfs: path(),
            firmware: path(),
            nvram: path(),
        },
        disks: Some(vec![DiskConfig {
            path: path(),
            image_type: Some(ImageType::Raw),
            backing_directories: Some(vec!["/p".into()]),
            cache: Some(CacheMode::Writeback),
            id: Some("d".into()),
            serial: Some("s".into()),
            ..DiskConfig::default()
        }]),
        net: Some(vec![NetConfig {
            tap: Some("t".into()),
            ip: Some([10, 0, 0, 1].into()),
            mask: Some([255, 0, 0, 0].into()),
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            mtu: Some(1500),
            num_queues: Some(2),
            id: Some("n".into()),
            fds: Some(vec![3]),
            socket_fd: Some(4),
            ..NetConfig::default()
        }]),
        rng: Some(RngConfig { src: "/dev/urandom".into() }),
        balloon: Some(BalloonConfig::default()),
        serial: Some(SerialConfig { mode: ConsoleMode::Off, file: path(), socket: path(), log: path() }),
        console: Some(ConsoleConfig { mode: ConsoleMode::Off, file: path(), socket: path(), log: path() }),
        console_ports: Some(vec![ConsolePortConfig {
            name: Some("a".into()),
            mode: ConsoleMode::Null,
            file: path(),
            socket: path(),
            log: path(),
        }]),
        on_reset: Some(OnResetConfig::Exit),
        platform: None,
    }
}

#[test]
fn the_schemas_are_the_wire_types() {
    let document = document();
    let config = full_config();
    check_object(&document, "VmConfig", &config);
    check_object(&document, "CpusConfig", &config.cpus);
    check_object(&document, "CpuTopology", &config.cpus.topology.unwrap());
    check_object(&document, "MemoryConfig", &config.memory);
    check_object(&document, "PayloadConfig", &config.payload);
    check_object(&document, "DiskConfig", &config.disks.as_ref().unwrap()[0]);
    check_object(&document, "NetConfig", &config.net.as_ref().unwrap()[0]);
    check_object(&document, "RngConfig", config.rng.as_ref().unwrap());
    check_object(&document, "BalloonConfig", config.balloon.as_ref().unwrap());
    check_object(&document, "SerialConfig", config.serial.as_ref().unwrap());
    check_object(&document, "ConsoleConfig", config.console.as_ref().unwrap());
    check_object(&document, "ConsolePortConfig", &config.console_ports.as_ref().unwrap()[0]);
    let ping =
        VmmPingResponse { build_version: String::new(), version: String::new(), pid: 1, features: vec![] };
    check_object(&document, "VmmPingResponse", &ping);
    check_object(&document, "VmInfo", &VmInfo { config, state: VmState::Created, memory_actual_size: 0 });
    let resize = VmResize { desired_balloon: Some(1), balloon_statistics_period: Some(1) };
    check_object(&document, "VmResize", &resize);
    check_object(&document, "VmSetLink", &VmSetLink { id: "n".into(), up: false });
    check_object(&document, "VmResizeDisk", &VmResizeDisk { id: "d".into(), desired_size: 1 });
    {
        use CacheMode::{Directsync, None, Unsafe, Writeback, Writethrough};
        use ImageType::{FixedVhd, FlatVmdk, Qcow2, Raw, Vdi, Vhdx};
        check_enumeration(&document, "ImageType", &[Raw, Qcow2, FlatVmdk, FixedVhd, Vhdx, Vdi]);
        check_enumeration(&document, "CacheMode", &[Writeback, None, Writethrough, Directsync, Unsafe]);
    }
    use {ConsoleMode as M, VmState as S};
    check_enumeration(&document, "ConsoleMode", &[M::Off, M::Pty, M::Tty, M::File, M::Socket, M::Null]);
    check_enumeration(&document, "VmState", &[S::Created, S::Running, S::Shutdown, S::Paused]);
    check_enumeration(&document, "OnReset", &[OnResetConfig::Reboot, OnResetConfig::Exit]);
}

/// Every `$ref` of the document, and how often.
fn references<'a>(value: &'a Value, found: &mut BTreeMap<&'a str, usize>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => *found.entry(target).or_default() += 1,
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere_and_nothing_is_left_over() {
    let document = document();
    let mut found = BTreeMap::new();
    references(&document, &mut found);
    let parts = ["schemas", "responses"].into_iter().flat_map(|kind| {
        keys(&document["components"][kind]).into_iter().map(move |name| format!("#/components/{kind}/{name}"))
    });
    let parts: BTreeSet<String> = parts.collect();
    let targets: BTreeSet<String> = found.keys().map(|target| (*target).to_owned()).collect();
    assert_eq!(targets, parts);
}
