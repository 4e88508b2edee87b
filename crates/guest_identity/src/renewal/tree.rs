//! What is changed in the tree of a root file system, by debugfs(8).
//!
//! Paths are constants, so that a guest chooses none; what debugfs lists is compared with names that are known, and never used otherwise.
//! debugfs follows symbolic links inside of the file system only. Sources: debugfs(8) and e2fsck(8) of e2fsprogs, machine-id(5), sshd(8).

use super::sandbox::{Ended, Sandbox};
use super::{NewIdentity, RenewalError};
use crate::disk_layout::Partition;

const PACKAGE: &str = "e2fsprogs";
/// e2fsck: no errors, or corrected ones (and then, of mounted file systems, restart the system).
const CHECKED: [i32; 3] = [0, 1, 2];
/// Types of ssh host keys, and whether new ones are still made: DSA keys are not used any more.
const KEY_TYPES: [(&str, bool); 4] = [("rsa", true), ("ecdsa", true), ("ed25519", true), ("dsa", false)];
/// A file's type in its mode, and that of a regular file.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const SECURITY_LABEL: &str = "security.selinux";

/// A copy of a file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) file: &'a str,
    pub(super) partition: Partition,
}

/// A directory's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    name: String,
    mode: u32,
    user: u32,
    group: u32,
}

impl Listed {
    fn is_regular(&self) -> bool {
        self.mode & TYPE_MASK == REGULAR
    }
}

/// One file's change.
#[derive(Debug)]
struct Change {
    path: String,
    is_there: bool,
    becomes: Becomes,
}

#[derive(Debug)]
enum Becomes {
    Nothing,
    Link(&'static str),
    /// A file with the content of one of ours.
    File {
        content: String,
        mode: u32,
        user: u32,
        group: u32,
    },
}

impl Tree<'_> {
    /// Changes the identity, if this is a root file system; what was changed, for people.
    pub(super) fn renew(&self, identity: &NewIdentity) -> Result<Option<Vec<String>>, RenewalError> {
        let checked = self.sandbox.run("e2fsck", PACKAGE, &["-f", "-p", &self.disk()])?;
        if !checked.code().is_some_and(|code| CHECKED.contains(&code)) {
            return Err(RenewalError::Damaged { partition: self.partition, said: checked.last_words() });
        }
        let etc = self.list("/etc")?;
        if !["passwd", "os-release", "machine-id"].iter().any(|name| find(&etc, name).is_some()) {
            return Ok(None);
        }
        let mut told = Vec::new();
        let mut changes = self.machine_id(&etc, &mut told)?;
        changes.extend(self.host_keys(identity, &mut told)?);
        if let Some(name) = &identity.host_name {
            changes.push(self.host_name(&etc, name)?);
            told.push(format!("host name {name}"));
        }
        self.carry_out(&changes)?;
        self.verify(&changes)?;
        Ok(Some(told))
    }

    fn disk(&self) -> String {
        Sandbox::inside(self.file)
    }

    fn machine_id(&self, etc: &[Listed], told: &mut Vec<String>) -> Result<Vec<Change>, RenewalError> {
        let mut changes = Vec::new();
        if let Some(old) = find(etc, "machine-id") {
            self.sandbox.write("empty", b"")?;
            let mode = if old.is_regular() { old.mode & 0o777 } else { 0o444 };
            let becomes =
                Becomes::File { content: "empty".to_owned(), mode, user: old.user, group: old.group };
            changes.push(Change { path: "/etc/machine-id".to_owned(), is_there: true, becomes });
            told.push("machine-id, made anew at the next start".to_owned());
        }
        if find(&self.list("/var/lib/dbus")?, "machine-id").is_some_and(Listed::is_regular) {
            let path = "/var/lib/dbus/machine-id".to_owned();
            changes.push(Change { path, is_there: true, becomes: Becomes::Link("/etc/machine-id") });
        }
        if find(&self.list("/var/lib/systemd")?, "random-seed").is_some() {
            let path = "/var/lib/systemd/random-seed".to_owned();
            changes.push(Change { path, is_there: true, becomes: Becomes::Nothing });
            told.push("stored random seed removed".to_owned());
        }
        Ok(changes)
    }

    fn host_keys(&self, identity: &NewIdentity, told: &mut Vec<String>) -> Result<Vec<Change>, RenewalError> {
        let there = self.list("/etc/ssh")?;
        let mut changes = Vec::new();
        for (kind, made) in KEY_TYPES {
            let names = ["", ".pub", "-cert.pub"].map(|suffix| format!("ssh_host_{kind}_key{suffix}"));
            let [private, public, certificate] = &names;
            let Some(old) = find(&there, private) else { continue };
            if made {
                self.make_key(kind, identity.host_name.as_deref())?;
                told.push(format!("ssh host key {kind}"));
            } else {
                told.push(format!("ssh host key {kind} removed"));
            }
            for (name, content) in [(private, format!("key_{kind}")), (public, format!("key_{kind}.pub"))] {
                let present = find(&there, name);
                let owner = present.unwrap_or(old);
                // What the distribution gave them, and never more than a group that reads a private key.
                let most = if name == private { 0o640 } else { 0o644 };
                let mode = present.map_or(0o644, |present| present.mode) & most;
                let becomes = Becomes::File { content, mode, user: owner.user, group: owner.group };
                let becomes = if made { becomes } else { Becomes::Nothing };
                let (path, is_there) = (format!("/etc/ssh/{name}"), present.is_some());
                if made || is_there {
                    changes.push(Change { path, is_there, becomes });
                }
            }
            if find(&there, certificate).is_some() {
                let path = format!("/etc/ssh/{certificate}");
                changes.push(Change { path, is_there: true, becomes: Becomes::Nothing });
            }
        }
        Ok(changes)
    }

    fn make_key(&self, kind: &str, host_name: Option<&str>) -> Result<(), RenewalError> {
        let (file, comment) = (format!("key_{kind}"), format!("root@{}", host_name.unwrap_or("localhost")));
        if self.sandbox.path(&file).exists() {
            // Another root file system of this disk has got it: they are one machine.
            return Ok(());
        }
        let arguments = ["-q", "-t", kind, "-N", "", "-C", &comment, "-f", &file];
        let ended = self.sandbox.run_trusted("ssh-keygen", "openssh-client", &arguments)?;
        if !ended.status.success() {
            return Err(self.failed("ssh-keygen", &ended));
        }
        self.sandbox.show(&file)?;
        self.sandbox.show(&format!("{file}.pub"))
    }

    fn host_name(&self, etc: &[Listed], name: &str) -> Result<Change, RenewalError> {
        self.sandbox.write("hostname", format!("{name}\n").as_bytes())?;
        let old = find(etc, "hostname");
        let becomes = Becomes::File {
            content: "hostname".to_owned(),
            mode: 0o644,
            user: old.map_or(0, |old| old.user),
            group: old.map_or(0, |old| old.group),
        };
        Ok(Change { path: "/etc/hostname".to_owned(), is_there: old.is_some(), becomes })
    }

    /// Has debugfs do it, in one go.
    fn carry_out(&self, changes: &[Change]) -> Result<(), RenewalError> {
        let mut commands = String::new();
        for (number, Change { path, is_there, becomes }) in changes.iter().enumerate() {
            let label = if *is_there { self.label(path, number)? } else { None };
            if *is_there {
                commands += &format!("rm {path}\n");
            }
            match becomes {
                Becomes::Nothing => continue,
                Becomes::Link(target) => commands += &format!("symlink {path} {target}\n"),
                Becomes::File { content, mode, user, group } => {
                    commands += &format!("write {} {path}\n", Sandbox::inside(content));
                    for (field, value) in [
                        ("mode", format!("0{:o}", REGULAR | mode)),
                        ("uid", user.to_string()),
                        ("gid", group.to_string()),
                    ] {
                        commands += &format!("set_inode_field {path} {field} {value}\n");
                    }
                }
            }
            if let Some(label) = label {
                commands += &format!("ea_set -f {label} {path} {SECURITY_LABEL}\n");
            }
        }
        self.sandbox.write("commands", commands.as_bytes())?;
        let ended = self.sandbox.run(
            "debugfs",
            PACKAGE,
            &["-w", "-f", &Sandbox::inside("commands"), &self.disk()],
        )?;
        // It tells of failed commands in words only: `verify` looks.
        if ended.status.success() { Ok(()) } else { Err(self.failed("debugfs", &ended)) }
    }

    /// A file with the security label of a path, if it has one.
    fn label(&self, path: &str, number: usize) -> Result<Option<String>, RenewalError> {
        let file = format!("label{number}");
        self.ask(&format!("ea_get -f {file} {path} {SECURITY_LABEL}"))?;
        let there = !self.sandbox.read_scratch(&file, 1).is_empty();
        Ok(there.then_some(file))
    }

    /// Looks whether every change is there, and whether the file system is whole.
    fn verify(&self, changes: &[Change]) -> Result<(), RenewalError> {
        let wrong = |reason: String| RenewalError::Unchanged { partition: self.partition, reason };
        let checked = self.sandbox.run("e2fsck", PACKAGE, &["-f", "-n", &self.disk()])?;
        if checked.code() != Some(0) {
            return Err(wrong(checked.last_words()));
        }
        for Change { path, becomes, .. } in changes {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let there = self.list(directory)?;
            let found = find(&there, name);
            match becomes {
                Becomes::Nothing if found.is_none() => {}
                Becomes::Link(_) if found.is_some_and(|found| found.mode & TYPE_MASK == 0o120_000) => {}
                Becomes::File { content, mode, user, group } => {
                    let expected =
                        Listed { name: name.to_owned(), mode: REGULAR | mode, user: *user, group: *group };
                    let ours = self.sandbox.path(content);
                    let ours = std::fs::read(&ours)
                        .map_err(RenewalError::host(format!("read {}", ours.display())))?;
                    // The whole content, or else the file system is full.
                    if found != Some(&expected) || self.ask(&format!("dump {path} dumped"))?.code() != Some(0)
                    {
                        return Err(wrong(format!("{path} is not there")));
                    }
                    let theirs = self.sandbox.read_scratch("dumped", ours.len() as u64 + 1);
                    if ours != theirs {
                        return Err(wrong(format!(
                            "{path} does not have its new content: is the file system full?"
                        )));
                    }
                }
                _ => return Err(wrong(format!("{path} is still there"))),
            }
        }
        Ok(())
    }

    /// The entries of a directory; none when there is no such directory.
    fn list(&self, directory: &str) -> Result<Vec<Listed>, RenewalError> {
        let ended = self.ask(&format!("ls -p {directory}"))?;
        Ok(listed(&String::from_utf8_lossy(&ended.said)))
    }

    fn ask(&self, request: &str) -> Result<Ended, RenewalError> {
        let ended = self.sandbox.run("debugfs", PACKAGE, &["-R", request, &self.disk()])?;
        if ended.status.success() { Ok(ended) } else { Err(self.failed("debugfs", &ended)) }
    }

    fn failed(&self, program: &'static str, ended: &Ended) -> RenewalError {
        RenewalError::Program { program, partition: self.partition, said: ended.last_words() }
    }
}

fn find<'a>(there: &'a [Listed], name: &str) -> Option<&'a Listed> {
    there.iter().find(|entry| entry.name == name)
}

/// Takes lines as `/12/100644/0/0/name/89/` apart; others are none.
fn listed(text: &str) -> Vec<Listed> {
    let entry = |line: &str| {
        let mut parts = line.strip_prefix('/')?.split('/');
        let _inode: u64 = parts.next()?.parse().ok()?;
        let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
        let (user, group) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Listed { name: parts.next()?.to_owned(), mode, user, group })
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_taken_apart_and_the_rest_of_it_ignored() {
        let text = "debugfs 1.47.0 (5-Feb-2023)\n/15/040755/0/0/.//\n/16/100600/1/2/ssh_host_rsa_key/399/\nx\n/a/b/c\n//\n";
        let found = listed(text);
        assert_eq!(found.len(), 2);
        let key = find(&found, "ssh_host_rsa_key").unwrap();
        assert!(key.is_regular());
        assert_eq!((key.mode & 0o777, key.user, key.group), (0o600, 1, 2));
    }
}
