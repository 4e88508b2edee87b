//! Where the daemon's groups may be.

use std::path::{Path, PathBuf};

use super::ControlGroups;

/// The group that the daemon is in when there are groups beside it; also what its unit calls it (`DelegateSubgroup=`).
const OWN: &str = "daemon";
/// The group of the machines' groups, beside the daemon.
const MACHINES: &str = "machines";
/// How the same is called in the root of a tree that nobody keeps, before what tells daemons apart.
const IN_ROOT: &str = "vireo";
/// Longest name that is made from a path, bytes; the file system takes 255.
const LONGEST_NAME: usize = 200;

/// systemd marks what it has handed over with one of these (CGROUP_DELEGATION).
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Where groups can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A tree without systemd, of which nobody else takes care.
    Root(PathBuf),
    /// A group that is the daemon's alone, and that must hold no processes.
    Own(PathBuf),
}

/// What decides about the place.
pub(super) struct Surroundings<'a> {
    /// /proc/self/mountinfo
    pub(super) mounts: &'a str,
    /// /proc/self/cgroup
    pub(super) membership: &'a str,
    /// systemd keeps the tree.
    pub(super) systemd: bool,
    /// Whether a group has been handed over by systemd.
    pub(super) delegated: &'a dyn Fn(&Path) -> bool,
    /// Whether a group is the root of all groups, and not of a container's.
    pub(super) is_root: &'a dyn Fn(&Path) -> bool,
}

/// Where the tree is mounted, and which group of it is the root there.
fn tree(mounts: &str) -> Option<(PathBuf, &str)> {
    // proc(5): number, parent, device, root, mount point, options, optional fields, "-", type, ...
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then(|| (PathBuf::from(unescaped(point)), root))
    })
}

/// A path of /proc/self/mountinfo, in which blanks and backslashes are octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, meant)| text.replace(escape, meant))
}

/// Finds the place; changes nothing.
pub(super) fn find(surroundings: &Surroundings<'_>) -> Result<Place, String> {
    let Surroundings { mounts, membership, systemd, delegated, is_root } = surroundings;
    let (mount, root) =
        tree(mounts).ok_or("this host has no control groups of version 2 (cgroup2 is not mounted)")?;
    let own = membership.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or("the kernel does not say in which control group the daemon is")?;
    let below = own.strip_prefix(if root == "/" { "" } else { root }).filter(|rest| !rest.starts_with("/.."));
    let below = below.ok_or_else(|| format!("the daemon's control group {own} can't be seen from here"))?;
    let own = mount.join(below.trim_start_matches('/'));
    let unit = if own.file_name().is_some_and(|name| name == OWN) { own.parent() } else { None };
    if *systemd {
        // In the unit's group itself systemd could start no next daemon as long as machines are in groups below.
        return unit.filter(|unit| delegated(unit)).map(|unit| Place::Own(unit.to_owned())).ok_or_else(|| {
            format!(
                "systemd keeps the control groups, and the daemon is in {}, not in a group of its own below one that is \
                 handed over to it: its unit has to say Delegate=yes and DelegateSubgroup={OWN} (systemd 254)",
                own.display()
            )
        });
    }
    if is_root(&mount) {
        // From anywhere: without systemd, nobody keeps the root's other groups.
        return Ok(Place::Root(mount));
    }
    Ok(Place::Own(unit.map_or_else(|| own.clone(), Path::to_owned)))
}

/// Finds the place and takes it; `runtime_directory` is what no two daemons share.
pub(super) fn take(runtime_directory: &Path) -> Result<ControlGroups, String> {
    let file = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let place = find(&Surroundings {
        mounts: &file("/proc/self/mountinfo")?,
        membership: &file("/proc/self/cgroup")?,
        // sd_booted(3)
        systemd: Path::new("/run/systemd/system").is_dir(),
        delegated: &|group| DELEGATED.into_iter().any(|name| has_attribute(group, name)),
        // "cgroup.type: exists on non-root cgroups"
        is_root: &|group| !group.join("cgroup.type").exists(),
    })?;
    let groups = match &place {
        Place::Root(root) => in_root(&root.join(name_in_root(runtime_directory))),
        Place::Own(group) => beside_the_daemon(group),
    }?;
    if groups.controllers == super::Controllers::default() {
        // Refused by the kernel when somebody's groups are in it.
        let _ = std::fs::remove_dir(&groups.directory);
        return Err(format!(
            "{} has neither the cpu nor the memory controller (another hierarchy has them)",
            groups.directory.display()
        ));
    }
    Ok(groups)
}

fn has_attribute(group: &Path, name: &str) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(group, name, &mut value[..]).is_ok_and(|length| value.get(..length) == Some(b"1"))
}

fn in_root(place: &Path) -> Result<ControlGroups, String> {
    place.parent().map(hand_down);
    ControlGroups::at(place).map_err(|error| error.to_string())
}

/// As in `vireo-run-vireo` for /run/vireo.
pub(super) fn name_in_root(runtime_directory: &Path) -> String {
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let path = runtime_directory.to_string_lossy();
    let path: String = path.chars().map(|letter| if harmless(letter) { letter } else { '-' }).collect();
    let path = path.trim_matches('-');
    // The end of a path tells more.
    format!("{IN_ROOT}-{}", &path[path.len().saturating_sub(LONGEST_NAME)..])
}

/// Hands a group's controllers to what is below. One that can't be is not there below, which is then seen there.
fn hand_down(group: &Path) {
    for controller in ["+cpu", "+memory"] {
        let _ = super::write(&group.join("cgroup.subtree_control"), controller);
    }
}

fn beside_the_daemon(group: &Path) -> Result<ControlGroups, String> {
    let text = |error: super::GroupError| error.to_string();
    let processes = super::read(&group.join("cgroup.procs")).map_err(text)?;
    let own = std::process::id().to_string();
    let others = processes.lines().filter(|process| **process != *own).count();
    if others > 0 {
        return Err(format!(
            "{others} other processes are in the daemon's control group {}: start it in one of its own",
            group.display()
        ));
    }
    if processes.lines().any(|process| process == own) {
        let leaf = group.join(OWN);
        super::make_directory(&leaf).map_err(text)?;
        super::write(&leaf.join("cgroup.procs"), &own).map_err(text)?;
    }
    hand_down(group);
    ControlGroups::at(&group.join(MACHINES)).map_err(text)
}

/// Takes the group that this process is in, wherever that is.
#[cfg(test)]
pub(crate) fn take_own_group() -> Result<ControlGroups, String> {
    let file = |path: &str| std::fs::read_to_string(path).unwrap();
    let place = find(&Surroundings {
        mounts: &file("/proc/self/mountinfo"),
        membership: &file("/proc/self/cgroup"),
        systemd: false,
        delegated: &|_| false,
        is_root: &|_| false,
    });
    match place? {
        Place::Own(group) => beside_the_daemon(&group),
        Place::Root(_) => Err("a root".to_owned()),
    }
}
