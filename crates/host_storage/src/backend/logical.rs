//! Volume groups of LVM, through its commands. Source: lvm(8), lvmreport(7).

use std::path::PathBuf;

use libvirt_xml::storage::{PoolSizes, PoolSource, VolumeFormat, VolumeKind};
use serde::Deserialize;

use super::filesystem::require_empty;
use super::{BuildMode, Known, Seen};
use crate::command::Commands;
use crate::error::StorageError;
use crate::formats::FormatOrigin;
use crate::undo::UndoStack;

/// A report of LVM: one key, under which every row is an object of strings.
#[derive(Debug, Deserialize)]
struct Report {
    report: Vec<Rows>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rows {
    vg: Vec<Group>,
    lv: Vec<Volume>,
    pv: Vec<Physical>,
}

#[derive(Debug, Deserialize)]
struct Group {
    vg_size: String,
    vg_free: String,
}

#[derive(Debug, Deserialize)]
struct Volume {
    lv_name: String,
    lv_uuid: String,
    lv_attr: String,
    origin: String,
}

#[derive(Debug, Deserialize)]
struct Physical {
    pv_name: String,
    vg_name: String,
}

/// Asks one of LVM's reporting commands for some fields.
fn report(
    commands: &Commands,
    program: &str,
    fields: &str,
    group: Option<&str>,
) -> Result<Rows, StorageError> {
    let mut arguments = vec!["--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields];
    arguments.extend(group);
    let text = commands.run(program, &arguments)?;
    parse(&text).map_err(|error| StorageError::system("understand the output of", program, error))
}

fn parse(text: &str) -> Result<Rows, serde_json::Error> {
    let report: Report = serde_json::from_str(text)?;
    Ok(report.report.into_iter().next().unwrap_or_default())
}

pub(super) fn build(
    commands: &Commands,
    group: &str,
    devices: &[String],
    mode: BuildMode,
) -> Result<(), StorageError> {
    if devices.is_empty() {
        let rule =
            format!("the source of the pool names no device of which the volume group {group} could be made");
        return Err(StorageError::InvalidArgument(rule));
    }
    commands.require("vgcreate")?;
    for device in devices {
        if mode != BuildMode::Overwrite {
            require_empty(commands, device)?;
        }
    }
    let mut undo = UndoStack::new(format!("build the volume group {group}"));
    for device in devices {
        commands.run("pvcreate", &["--yes", "--force", device])?;
        let (commands, device) = (commands.clone(), device.clone());
        undo.push(format!("take {device} from LVM"), move || {
            commands.run("pvremove", &["--yes", device.as_str()])?;
            Ok(())
        });
    }
    let arguments: Vec<&str> = std::iter::once(group).chain(devices.iter().map(String::as_str)).collect();
    commands.run("vgcreate", &arguments)?;
    undo.commit();
    Ok(())
}

pub(super) fn delete(commands: &Commands, group: &str, devices: &[String]) -> Result<(), StorageError> {
    commands.run("vgremove", &["--force", group])?;
    for device in devices {
        commands.run("pvremove", &["--yes", device.as_str()])?;
    }
    Ok(())
}

pub(super) fn start(commands: &Commands, group: &str, undo: &mut UndoStack) -> Result<(), StorageError> {
    commands.run("vgchange", &["--activate", "ly", group])?;
    let (commands, group) = (commands.clone(), group.to_owned());
    undo.push(format!("deactivate the volume group {group}"), move || Ok(stop(&commands, &group)?));
    Ok(())
}

pub(super) fn stop(commands: &Commands, group: &str) -> Result<(), StorageError> {
    commands.run("vgchange", &["--activate", "ln", group]).map(drop)
}

pub(super) fn sizes(commands: &Commands, group: &str) -> Result<PoolSizes, StorageError> {
    let rows = report(commands, "vgs", "vg_size,vg_free", Some(group))?;
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    let found = rows.vg.first().map_or((0, 0), |group| (number(&group.vg_size), number(&group.vg_free)));
    let (capacity, available) = found;
    Ok(PoolSizes { capacity, allocation: capacity.saturating_sub(available), available })
}

pub(super) fn scan(commands: &Commands, group: &str) -> Result<Seen, StorageError> {
    let rows = report(commands, "lvs", "lv_name,lv_uuid,lv_attr,origin", Some(group))?;
    let volumes = rows.lv.iter().filter(|volume| is_disk(&volume.lv_attr)).map(|volume| Known {
        name: volume.lv_name.clone(),
        key: volume.lv_uuid.clone(),
        path: path_of(group, &volume.lv_name),
        kind: VolumeKind::Block,
        // What a guest writes into a device does not change what the device is.
        format: VolumeFormat::Raw,
        origin: FormatOrigin::Told,
    });
    Ok(Seen { volumes: volumes.collect(), sizes: sizes(commands, group)?, permissions: None })
}

/// Whether guests can use it: active, and not a pool of thin volumes (lvs(8), "lv_attr").
fn is_disk(attributes: &str) -> bool {
    let at = |index: usize| attributes.as_bytes().get(index).copied();
    at(4) == Some(b'a') && !matches!(at(0), Some(b't'))
}

/// Where a logical volume appears.
pub(crate) fn path_of(group: &str, name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/{group}/{name}"))
}

/// Refuses names that LVM does not accept (lvm(8), "VALID NAMES").
pub(crate) fn check_name(name: &str) -> Result<(), StorageError> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "+_.-".contains(character);
    let reserved = ["snapshot", "pvmove"].iter().any(|prefix| name.starts_with(prefix));
    if name.is_empty()
        || matches!(name, "." | "..")
        || name.starts_with('-')
        || !name.chars().all(allowed)
        || reserved
    {
        let rule = format!("{name:?} is not the name of a logical volume (letters, digits, + _ . -)");
        return Err(StorageError::InvalidArgument(rule));
    }
    Ok(())
}

/// Snapshots of the group, each with the volume that it is one of.
pub(crate) fn snapshots(commands: &Commands, group: &str) -> Result<Vec<(String, String)>, StorageError> {
    let rows = report(commands, "lvs", "lv_name,lv_uuid,lv_attr,origin", Some(group))?;
    let pairs = rows.lv.into_iter().filter(|volume| !volume.origin.is_empty());
    Ok(pairs.map(|volume| (volume.lv_name, volume.origin)).collect())
}

/// Makes a logical volume: `bytes` long, with so much of it reserved, on top of another volume of the group if there is one.
pub(crate) fn create(
    commands: &Commands,
    group: &str,
    name: &str,
    bytes: u64,
    reserved: u64,
    origin: Option<&str>,
) -> Result<(), StorageError> {
    let size = format!("{}b", bytes.next_multiple_of(512));
    let kept = format!("{}b", reserved.max(512).next_multiple_of(512));
    let origin = origin.map(|origin| format!("{group}/{origin}"));
    let mut arguments = vec!["--yes", "--name", name];
    match &origin {
        Some(origin) => arguments.extend(["--snapshot", "--size", &size, origin]),
        None if reserved < bytes => {
            arguments.extend(["--type", "snapshot", "--virtualsize", &size, "--size", &kept, group]);
        }
        None => arguments.extend(["--size", &size, group]),
    }
    commands.run("lvcreate", &arguments).map(drop)
}

/// Changes the size of a logical volume.
pub(crate) fn resize(commands: &Commands, group: &str, name: &str, bytes: u64) -> Result<(), StorageError> {
    let size = format!("{}b", bytes.next_multiple_of(512));
    let volume = format!("{group}/{name}");
    commands.run("lvresize", &["--yes", "--force", "--size", &size, &volume]).map(drop)
}

/// Removes a logical volume.
pub(crate) fn remove(commands: &Commands, group: &str, name: &str) -> Result<(), StorageError> {
    commands.run("lvremove", &["--force", &format!("{group}/{name}")]).map(drop)
}

/// Volume groups of this host.
pub(crate) fn sources(commands: &Commands) -> Result<Vec<PoolSource>, StorageError> {
    let rows = report(commands, "pvs", "pv_name,vg_name", None)?;
    let mut found: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for physical in rows.pv.into_iter().filter(|physical| !physical.vg_name.is_empty()) {
        found.entry(physical.vg_name).or_default().push(physical.pv_name);
    }
    Ok(found
        .into_iter()
        .map(|(volume_group, devices)| PoolSource::Logical { volume_group, devices })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_understood_and_rubbish_is_not() {
        let text = r#"{"report":[{"vg":[{"vg_size":"8585740288","vg_free":"4290772992"}]}]}"#;
        assert_eq!(parse(text).unwrap().vg[0].vg_free, "4290772992");
        assert!(parse("{}").is_err() && parse("").is_err());
        assert!(parse(r#"{"report":[]}"#).unwrap().lv.is_empty());
        assert!(is_disk("-wi-a-----") && is_disk("swi-aos---") && is_disk("Vwi-aotz--"));
        assert!(!is_disk("-wi-------") && !is_disk("twi-aotz--") && !is_disk(""));
    }

    #[test]
    fn names_that_lvm_would_take_for_options_or_paths_are_refused() {
        for name in ["", "-f", "a/b", "..", "a b", "snapshot1", "pvmove0", "\u{e4}"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("vm-disk_1.raw+x").unwrap();
    }
}
