//! DOMAIN_GET_GUEST_INFO: what the agent knows, as typed parameters (virDomainGetGuestInfo names them).

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::limits::DOMAIN_GUEST_INFO_PARAMS_MAX;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{TypedParam, TypedValue};
use libvirt_xml::domain::Domain as Definition;

use super::guest::{agent_error, target_of};
use super::{domain_error, only};
use crate::domain::Form;
use crate::guest_agent::{
    AgentError, FileSystem, GuestAgent, GuestDisk, Interface, Load, OperatingSystem, TimeZone, User,
};
use crate::service::Daemon;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(information)
}

/// What can be asked for (virDomainGuestInfoTypes), in the order of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Users = 1,
    OperatingSystem = 2,
    TimeZone = 4,
    HostName = 8,
    FileSystems = 16,
    Disks = 32,
    Interfaces = 64,
    Load = 128,
}

const TOPICS: [Topic; 8] = [
    Topic::Users,
    Topic::OperatingSystem,
    Topic::TimeZone,
    Topic::HostName,
    Topic::FileSystems,
    Topic::Disks,
    Topic::Interfaces,
    Topic::Load,
];

async fn information(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetGuestInfo,
) -> Result<DomainGetGuestInfoReply, RpcError> {
    only(call.flags, 0)?;
    only(call.types, TOPICS.iter().fold(0, |all, topic| all | *topic as u32))?;
    let domain = daemon.domain(&call.dom)?;
    let agent = daemon.agent(&domain).await?;
    let definition = domain.definition(Form::Live).map_err(|error| domain_error(&error))?;
    let mut parameters = Parameters::default();
    for topic in TOPICS {
        if call.types != 0 && call.types & topic as u32 == 0 {
            continue;
        }
        match ask(&agent, topic, &definition, &mut parameters).await {
            Ok(()) => {}
            // Who asks for everything gets what there is.
            Err(AgentError::Refused { unsupported: true, .. }) if call.types == 0 => {}
            Err(error) => return Err(agent_error(&error)),
        }
    }
    let params = parameters.0;
    if params.len() > DOMAIN_GUEST_INFO_PARAMS_MAX {
        let message =
            format!("guest information has {} parameters, more than fit into an answer", params.len());
        return Err(RpcError::internal(message));
    }
    Ok(DomainGetGuestInfoReply { params })
}

async fn ask(
    agent: &GuestAgent<'_>,
    topic: Topic,
    definition: &Definition,
    parameters: &mut Parameters,
) -> Result<(), AgentError> {
    match topic {
        Topic::Users => parameters.users(agent.users().await?),
        Topic::OperatingSystem => parameters.operating_system(agent.operating_system().await?),
        Topic::TimeZone => parameters.time_zone(agent.time_zone().await?),
        Topic::HostName => parameters.text("hostname", Some(agent.host_name().await?)),
        Topic::FileSystems => parameters.file_systems(agent.file_systems().await?, definition),
        Topic::Disks => parameters.disks(agent.disks().await?, definition),
        Topic::Interfaces => parameters.interfaces(agent.interfaces().await?),
        Topic::Load => parameters.load(agent.load().await?),
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Parameters(Vec<TypedParam>);

impl Parameters {
    fn add(&mut self, name: impl Into<String>, value: TypedValue) {
        self.0.push(TypedParam::new(name, value));
    }

    fn text(&mut self, name: impl Into<String>, value: Option<String>) {
        if let Some(value) = value {
            self.add(name, TypedValue::String(value));
        }
    }

    fn count(&mut self, of: impl std::fmt::Display, count: usize) {
        self.add(format!("{of}.count"), TypedValue::UInt(u32::try_from(count).unwrap_or(u32::MAX)));
    }

    fn users(&mut self, users: Vec<User>) {
        self.count("user", users.len());
        for (number, user) in users.into_iter().enumerate() {
            self.text(format!("user.{number}.name"), Some(user.user));
            self.text(format!("user.{number}.domain"), user.domain);
            self.add(format!("user.{number}.login-time"), TypedValue::ULLong(milliseconds(user.login_time)));
        }
    }

    fn operating_system(&mut self, system: OperatingSystem) {
        for (name, value) in [
            ("id", system.id),
            ("name", system.name),
            ("pretty-name", system.pretty_name),
            ("version", system.version),
            ("version-id", system.version_id),
            ("machine", system.machine),
            ("variant", system.variant),
            ("variant-id", system.variant_id),
            ("kernel-release", system.kernel_release),
            ("kernel-version", system.kernel_version),
        ] {
            self.text(format!("os.{name}"), value);
        }
    }

    fn time_zone(&mut self, zone: TimeZone) {
        self.text("timezone.name", zone.zone);
        self.add("timezone.offset", TypedValue::Int(zone.offset));
    }

    fn file_systems(&mut self, systems: Vec<FileSystem>, definition: &Definition) {
        self.count("fs", systems.len());
        for (number, system) in systems.into_iter().enumerate() {
            let prefix = format!("fs.{number}");
            self.text(format!("{prefix}.name"), Some(system.name));
            self.text(format!("{prefix}.mountpoint"), Some(system.mountpoint));
            self.text(format!("{prefix}.fstype"), Some(system.kind));
            for (name, bytes) in [("total-bytes", system.total_bytes), ("used-bytes", system.used_bytes)] {
                if let Some(bytes) = bytes {
                    self.add(format!("{prefix}.{name}"), TypedValue::ULLong(bytes));
                }
            }
            self.count(format_args!("{prefix}.disk"), system.disk.len());
            for (number, disk) in system.disk.into_iter().enumerate() {
                let prefix = format!("{prefix}.disk.{number}");
                self.text(format!("{prefix}.alias"), target_of(definition, &disk));
                self.text(format!("{prefix}.serial"), disk.serial);
                self.text(format!("{prefix}.device"), disk.dev);
            }
        }
    }

    fn disks(&mut self, disks: Vec<GuestDisk>, definition: &Definition) {
        self.count("disk", disks.len());
        for (number, disk) in disks.into_iter().enumerate() {
            let prefix = format!("disk.{number}");
            self.text(format!("{prefix}.name"), Some(disk.name));
            self.add(format!("{prefix}.partition"), TypedValue::Boolean(disk.partition));
            self.count(format_args!("{prefix}.dependency"), disk.dependencies.len());
            for (number, name) in disk.dependencies.into_iter().enumerate() {
                self.text(format!("{prefix}.dependency.{number}.name"), Some(name));
            }
            if let Some(address) = disk.address {
                self.text(format!("{prefix}.alias"), target_of(definition, &address));
                self.text(format!("{prefix}.serial"), address.serial);
                self.text(format!("{prefix}.device"), address.dev);
            }
            self.text(format!("{prefix}.guest_alias"), disk.alias);
        }
    }

    fn interfaces(&mut self, interfaces: Vec<Interface>) {
        self.count("if", interfaces.len());
        for (number, interface) in interfaces.into_iter().enumerate() {
            let prefix = format!("if.{number}");
            self.text(format!("{prefix}.name"), Some(interface.name));
            self.text(format!("{prefix}.hwaddr"), interface.hardware_address);
            self.count(format_args!("{prefix}.addr"), interface.ip_addresses.len());
            for (number, address) in interface.ip_addresses.into_iter().enumerate() {
                let prefix = format!("{prefix}.addr.{number}");
                self.text(format!("{prefix}.type"), Some(address.ip_address_type));
                self.text(format!("{prefix}.addr"), Some(address.ip_address));
                self.add(format!("{prefix}.prefix"), TypedValue::UInt(address.prefix));
            }
        }
    }

    fn load(&mut self, load: Load) {
        for (name, value) in [("1m", load.one), ("5m", load.five), ("15m", load.fifteen)] {
            self.add(format!("load.{name}"), TypedValue::Double(value));
        }
    }
}

/// A guest's seconds; 0 for those that are none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, as is wanted of a guest's claim"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_agent_says_is_told_by_libvirts_names() {
        let definition = "<domain type='kvm'><name>a</name><memory>65536</memory><os><type>hvm</type></os><devices>
            <disk type='file' device='disk'><source file='/a'/><target dev='vda' bus='virtio'/></disk></devices></domain>";
        let definition = Definition::parse(definition).unwrap();
        let mut parameters = Parameters::default();
        let users = json!([{ "user": "root", "login-time": 1.5 }, { "user": "x", "login-time": -1e300, "domain": "D" }]);
        parameters.users(serde_json::from_value(users).unwrap());
        let systems = json!([{ "name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 5,
            "disk": [{ "serial": "s", "dev": "/dev/vda1", "bus-type": "virtio", "bus": 0 }] }]);
        parameters.file_systems(serde_json::from_value(systems).unwrap(), &definition);
        let interfaces = json!([{ "name": "lo", "ip-addresses":
            [{ "ip-address": "::1", "ip-address-type": "ipv6", "prefix": 128 }] }]);
        parameters.interfaces(serde_json::from_value(interfaces).unwrap());
        let disks = json!([{ "name": "/dev/vda1", "partition": true, "dependencies": ["/dev/vda"],
            "address": { "dev": "/dev/vda" } }]);
        parameters.disks(serde_json::from_value(disks).unwrap(), &definition);
        let all: Vec<_> =
            parameters.0.iter().map(|param| format!("{} {:?}", param.field, param.value)).collect();
        let expected = [
            "user.count UInt(2)",
            "user.0.name String(\"root\")",
            "user.0.login-time ULLong(1500)",
            "user.1.name String(\"x\")",
            "user.1.domain String(\"D\")",
            "user.1.login-time ULLong(0)",
            "fs.count UInt(1)",
            "fs.0.name String(\"vda1\")",
            "fs.0.mountpoint String(\"/\")",
            "fs.0.fstype String(\"ext4\")",
            "fs.0.used-bytes ULLong(5)",
            "fs.0.disk.count UInt(1)",
            "fs.0.disk.0.alias String(\"vda\")",
            "fs.0.disk.0.serial String(\"s\")",
            "fs.0.disk.0.device String(\"/dev/vda1\")",
            "if.count UInt(1)",
            "if.0.name String(\"lo\")",
            "if.0.addr.count UInt(1)",
            "if.0.addr.0.type String(\"ipv6\")",
            "if.0.addr.0.addr String(\"::1\")",
            "if.0.addr.0.prefix UInt(128)",
            "disk.count UInt(1)",
            "disk.0.name String(\"/dev/vda1\")",
            "disk.0.partition Boolean(true)",
            "disk.0.dependency.count UInt(1)",
            "disk.0.dependency.0.name String(\"/dev/vda\")",
            "disk.0.alias String(\"vda\")",
            "disk.0.device String(\"/dev/vda\")",
        ];
        assert_eq!(all, expected);
    }
}
