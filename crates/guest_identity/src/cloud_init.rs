//! The documents of a NoCloud seed: what a new machine is called, who may log in, how its network is set up.
//!
//! Sources: cloud-init's documentation of the NoCloud data source (files, and the volume's label `cidata`), of the modules "Users
//! and Groups", "SSH" and "Set Hostname", and of network configuration version 2.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::iso9660::{self, IsoError, IsoFile};

/// The label by which cloud-init finds the volume.
pub const LABEL: &str = "cidata";
/// Most bytes of a document of the user's own.
pub const MOST_DOCUMENT_BYTES: usize = 16 << 20;

/// Why a seed can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Not a name that every Linux takes.
    #[error(
        "{0:?} is not a user name: 1 to 32 characters, the first a small letter or '_', then small letters, digits, '_', '-'"
    )]
    User(String),
    /// Not a host name.
    #[error(
        "{0:?} is not a host name: up to 253 letters, digits and '-', with '.' between parts of 1 to 63 that neither begin nor end with '-'"
    )]
    HostName(String),
    /// Not a public key of ssh.
    #[error("{0} is not a public ssh key: it has to begin like \"ssh-ed25519 AAAA\"")]
    Key(String),
    /// A private key where a public one belongs.
    #[error("{0} is a private ssh key: give the public one, whose name ends in .pub")]
    PrivateKey(String),
    /// A password where its hash belongs.
    #[error("the password hash does not look like one of crypt(5): make it with `openssl passwd -6`")]
    Password,
    /// Nobody would get the password.
    #[error("a password hash needs the name of its user")]
    PasswordWithoutUser,
    /// A document is too large.
    #[error("{0} has more than {MOST_DOCUMENT_BYTES} bytes")]
    TooLarge(&'static str),
    /// The documents can't be written down.
    #[error("cannot write the document: {0}")]
    Document(String),
    /// The volume can't be made.
    #[error(transparent)]
    Volume(#[from] IsoError),
}

/// How a guest sets up its network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeedNetwork {
    /// As its cloud-init does when nothing is said.
    #[default]
    Unsaid,
    /// Every Ethernet interface asks for an address. Interfaces are known by the kernel's names and not by their addresses, so
    /// that a copy of the machine with other addresses has a network as well.
    Dhcp,
    /// A document of the user's own.
    Document(String),
}

/// What a new machine is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seed {
    /// Another one makes cloud-init believe that this is the first start. The domain's UUID is a good one.
    pub instance_id: String,
    /// Host name.
    pub host_name: Option<String>,
    /// A user that is made, and may become root; without one the distribution's own user gets the keys.
    pub user: Option<String>,
    /// Public keys that may log in.
    pub keys: Vec<SshKey>,
    /// Hash of the user's password, of crypt(5). Without one nobody can log in by a password.
    pub password_hash: Option<String>,
    /// Network.
    pub network: SeedNetwork,
    /// A document of the user's own in the place of the one that is made of `user`, `keys` and `password_hash`.
    pub user_data: Option<String>,
}

/// A public key of ssh, one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey(String);

impl SshKey {
    /// The keys in a file's content, or in an argument; `origin` is what messages call it.
    ///
    /// # Errors
    /// No key in it, or something else.
    pub fn parse_all(text: &str, origin: &str) -> Result<Vec<Self>, SeedError> {
        if text.contains("PRIVATE KEY") {
            return Err(SeedError::PrivateKey(origin.to_owned()));
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Self> = lines
            .map(|line| is_public_key(line).then(|| Self(line.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| SeedError::Key(origin.to_owned()))?;
        if keys.is_empty() { Err(SeedError::Key(origin.to_owned())) } else { Ok(keys) }
    }

    /// The line.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Whether a line is type, Base64 and perhaps a comment (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"; options are not taken).
fn is_public_key(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|prefix| kind.starts_with(prefix));
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    // The Base64 begins with the length of the type in 32 bits, which is small.
    let blob = words
        .next()
        .is_some_and(|blob| blob.len() >= 32 && blob.starts_with("AAAA") && blob.bytes().all(base64));
    known && blob && !line.chars().any(char::is_control)
}

/// Checks a host name (RFC 1123, 2.1).
///
/// # Errors
/// It is none.
pub fn check_host_name(name: &str) -> Result<(), SeedError> {
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(good) {
        Ok(())
    } else {
        Err(SeedError::HostName(name.to_owned()))
    }
}

/// Names that useradd(8) takes on every distribution.
fn check_user(name: &str) -> Result<(), SeedError> {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let rest = |byte: u8| first(byte) || byte.is_ascii_digit() || byte == b'-';
    if name.len() <= 32 && name.bytes().next().is_some_and(first) && name.bytes().all(rest) {
        Ok(())
    } else {
        Err(SeedError::User(name.to_owned()))
    }
}

/// A hash of crypt(5) that begins with its method: old DES hashes, and passwords, do not.
fn check_password_hash(hash: &str) -> Result<(), SeedError> {
    let parts = hash.split('$').count();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"$./=,+-*".contains(&byte);
    if hash.starts_with('$') && parts >= 4 && hash.len() < 512 && hash.bytes().all(plain) {
        Ok(())
    } else {
        Err(SeedError::Password)
    }
}

#[derive(Serialize)]
struct MetaData<'a> {
    #[serde(rename = "instance-id")]
    instance_id: &'a str,
    #[serde(rename = "local-hostname", skip_serializing_if = "Option::is_none")]
    local_hostname: Option<&'a str>,
}

#[derive(Serialize)]
struct UserData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fqdn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_root: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_pwauth: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    users: Vec<User<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh_authorized_keys: Vec<&'a str>,
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    shell: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sudo: Option<&'static str>,
    lock_passwd: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    passwd: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh_authorized_keys: Vec<&'a str>,
}

/// The meta-data of a seed that is there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnMetaData {
    #[serde(rename = "instance-id")]
    instance_id: String,
    #[serde(rename = "local-hostname")]
    local_hostname: Option<String>,
}

impl OwnMetaData {
    /// What a document says that this program has written; nothing of others.
    fn of(text: &str) -> Result<Option<Self>, SeedError> {
        let Ok(found) = serde_yaml_ng::from_str::<Self>(text) else { return Ok(None) };
        let same = yaml(&MetaData {
            instance_id: &found.instance_id,
            local_hostname: found.local_hostname.as_deref(),
        })?;
        Ok(Some(found).filter(|_| same == text))
    }
}

/// A host name with the domain of another, if it has none itself.
fn with_domain(old: &str, new: &str) -> String {
    match old.split_once('.') {
        Some((_, domain)) if !new.contains('.') => format!("{new}.{domain}"),
        _ => new.to_owned(),
    }
}

/// How user data begins that is a document of settings.
const CLOUD_CONFIG: &str = "#cloud-config\n";
const DHCP: &str = "version: 2\nethernets:\n  all:\n    match:\n      name: \"e*\"\n    dhcp4: true\n";

impl Seed {
    /// The files of the seed.
    ///
    /// # Errors
    /// Something in it is not what it should be.
    pub fn files(&self) -> Result<Vec<IsoFile>, SeedError> {
        self.check()?;
        let meta_data =
            MetaData { instance_id: &self.instance_id, local_hostname: self.host_name.as_deref() };
        let user_data = match &self.user_data {
            Some(own) => own.clone(),
            None => {
                let mut text = CLOUD_CONFIG.to_owned();
                // An empty document would be written as {}.
                if self.host_name.is_some() || self.user.is_some() || !self.keys.is_empty() {
                    let _ = write!(text, "{}", yaml(&self.user_document())?);
                }
                text
            }
        };
        let mut files = vec![("meta-data", yaml(&meta_data)?), ("user-data", user_data)];
        match &self.network {
            SeedNetwork::Unsaid => {}
            SeedNetwork::Dhcp => files.push(("network-config", DHCP.to_owned())),
            SeedNetwork::Document(own) => files.push(("network-config", own.clone())),
        }
        let file = |(name, content): (&str, String)| IsoFile {
            name: name.to_owned(),
            content: content.into_bytes(),
        };
        Ok(files.into_iter().map(file).collect())
    }

    /// The volume of the seed.
    ///
    /// # Errors
    /// As for [`Seed::files`].
    pub fn volume(&self) -> Result<Vec<u8>, SeedError> {
        Ok(iso9660::volume(LABEL, &self.files()?)?)
    }

    /// The seed of a copy of a machine: the same with another instance and the copy's host name, if `volume` is what
    /// [`Seed::volume`] makes; `None` if it is anything else. A domain that the old host name has is the new one's too. A
    /// document of the user's own stays as it is.
    ///
    /// # Errors
    /// The host name is none.
    pub fn of_copy(
        volume: &[u8],
        instance_id: &str,
        host_name: Option<&str>,
    ) -> Result<Option<Vec<u8>>, SeedError> {
        if let Some(name) = host_name {
            check_host_name(name)?;
        }
        let Some(mut files) = iso9660::files(LABEL, volume) else { return Ok(None) };
        let text = |name: &str| {
            let file = files.iter().find(|file| file.name == name)?;
            String::from_utf8(file.content.clone()).ok()
        };
        let (Some(meta_data), Some(user_data)) = (text("meta-data"), text("user-data")) else {
            return Ok(None);
        };
        let Some(old) = OwnMetaData::of(&meta_data)? else { return Ok(None) };
        let new_name = match (&old.local_hostname, host_name) {
            (Some(old), Some(new)) => Some(with_domain(old, new)),
            // One that was not said stays unsaid.
            _ => None,
        };
        let meta_data = MetaData { instance_id, local_hostname: new_name.as_deref() };
        let mut changed = vec![("meta-data", yaml(&meta_data)?)];
        // What this program writes begins with the name.
        let named = |name: &str| -> Result<String, SeedError> {
            let seed = Self { host_name: Some(name.to_owned()), ..Self::default() };
            Ok(format!("{CLOUD_CONFIG}{}", yaml(&seed.user_document())?))
        };
        if let Some(old) = &old.local_hostname
            && let Some(rest) = user_data.strip_prefix(&named(old)?)
        {
            let begin = new_name.as_deref().map_or_else(|| Ok(CLOUD_CONFIG.to_owned()), named)?;
            changed.push(("user-data", format!("{begin}{rest}")));
        }
        for (name, content) in changed {
            files.iter_mut().filter(|file| file.name == name).for_each(|file| {
                file.content = content.clone().into_bytes();
            });
        }
        Ok(Some(iso9660::volume(LABEL, &files)?))
    }

    fn check(&self) -> Result<(), SeedError> {
        if let Some(name) = &self.host_name {
            check_host_name(name)?;
        }
        if let Some(user) = &self.user {
            check_user(user)?;
        }
        if let Some(hash) = &self.password_hash {
            check_password_hash(hash)?;
            if self.user.is_none() {
                return Err(SeedError::PasswordWithoutUser);
            }
        }
        let network = match &self.network {
            SeedNetwork::Document(own) => Some(own),
            _ => None,
        };
        for (what, document) in
            [("the user data", self.user_data.as_ref()), ("the network configuration", network)]
        {
            if document.is_some_and(|document| document.len() > MOST_DOCUMENT_BYTES) {
                return Err(SeedError::TooLarge(what));
            }
        }
        Ok(())
    }

    fn user_document(&self) -> UserData<'_> {
        let keys: Vec<&str> = self.keys.iter().map(SshKey::text).collect();
        let host_name = self.host_name.as_deref();
        let mut document = UserData {
            hostname: host_name.and_then(|name| name.split('.').next()),
            fqdn: host_name.filter(|name| name.contains('.')),
            disable_root: None,
            ssh_pwauth: self.password_hash.as_ref().map(|_| true),
            users: Vec::new(),
            ssh_authorized_keys: Vec::new(),
        };
        let Some(name) = self.user.as_deref() else {
            document.ssh_authorized_keys = keys;
            return document;
        };
        let root = name == "root";
        document.disable_root = root.then_some(false);
        document.users.push(User {
            name,
            shell: "/bin/bash",
            sudo: (!root).then_some("ALL=(ALL) NOPASSWD:ALL"),
            lock_passwd: self.password_hash.is_none(),
            passwd: self.password_hash.as_deref(),
            ssh_authorized_keys: keys,
        });
        document
    }
}

fn yaml<T: Serialize>(document: &T) -> Result<String, SeedError> {
    serde_yaml_ng::to_string(document).map_err(|error| SeedError::Document(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqYQ0hGZ3Nvb2Vp me@here";

    fn seed() -> Seed {
        Seed { instance_id: "i-1".to_owned(), ..Seed::default() }
    }

    fn file(seed: &Seed, name: &str) -> Option<String> {
        let files = seed.files().unwrap();
        let file = files.into_iter().find(|file| file.name == name)?;
        Some(String::from_utf8(file.content).unwrap())
    }

    #[test]
    fn a_copy_of_a_seed_has_another_instance_and_name_and_nothing_else() {
        let keys = SshKey::parse_all(KEY, "k").unwrap();
        let network = SeedNetwork::Dhcp;
        let old = Seed {
            host_name: Some("web.example.org".into()),
            user: Some("ann".into()),
            keys,
            network,
            ..seed()
        };
        let volume = old.volume().unwrap();
        let copied = |volume: &[u8], name| Seed::of_copy(volume, "i-2", name).unwrap();
        let wanted = |name: Option<&str>| {
            let host_name = name.map(str::to_owned);
            Seed { instance_id: "i-2".to_owned(), host_name, ..old.clone() }.volume().unwrap()
        };
        assert!(copied(&volume, Some("web2")) == Some(wanted(Some("web2.example.org"))));
        assert!(copied(&volume, Some("db.here")) == Some(wanted(Some("db.here"))));
        assert!(copied(&volume, None) == Some(wanted(None)));
        // As a pool may have it.
        let padded = [&volume[..], &[0; 4096]].concat();
        assert!(copied(&padded, Some("db.here")) == Some(wanted(Some("db.here"))));
        assert!(Seed::of_copy(&volume, "i-2", Some("a b")).is_err());
        // What the user has written is the user's.
        let own = "#cloud-config\nruncmd: [true]\n".to_owned();
        let old = Seed { user_data: Some(own.clone()), host_name: Some("web".into()), ..seed() };
        let new = Seed {
            user_data: Some(own),
            host_name: Some("web2".into()),
            instance_id: "i-2".into(),
            ..seed()
        };
        assert!(copied(&old.volume().unwrap(), Some("web2")) == Some(new.volume().unwrap()));
    }

    #[test]
    fn what_is_not_a_seed_of_ours_is_not_touched() {
        let mut volume = seed().volume().unwrap();
        assert!(Seed::of_copy(&volume, "i-2", None).unwrap().is_some());
        let file = |name: &str, content: &str| iso9660::IsoFile {
            name: name.to_owned(),
            content: content.as_bytes().to_vec(),
        };
        let foreign = |meta: &str| {
            iso9660::volume(LABEL, &[file("meta-data", meta), file("user-data", "#cloud-config\n")]).unwrap()
        };
        for meta in ["instance-id: i-1\ndsmode: local\n", "{instance-id: i-1}", "instance-id: [", "", "\u{1}"]
        {
            assert!(Seed::of_copy(&foreign(meta), "i-2", None).unwrap().is_none(), "{meta}");
        }
        let other = iso9660::volume("config", &seed().files().unwrap()).unwrap();
        assert!(Seed::of_copy(&other, "i-2", None).unwrap().is_none());
        for length in (0..volume.len()).step_by(97) {
            assert!(Seed::of_copy(&volume[..length], "i-2", None).unwrap().is_none());
        }
        let meta_data = |volume: &[u8]| {
            let files = iso9660::files(LABEL, volume).unwrap();
            files.into_iter().find(|file| file.name == "meta-data").unwrap().content
        };
        let (mut taken, mut refused) = (0, 0);
        for at in 16 * 2048..volume.len() {
            let before = std::mem::replace(&mut volume[at], 0xff);
            // Most of it is space between files, and texts that say nothing here; what is still a seed becomes another's.
            match Seed::of_copy(&volume, "i-2", None).unwrap() {
                Some(copy) => {
                    let text = String::from_utf8(meta_data(&copy)).unwrap();
                    assert_eq!(text, "instance-id: i-2\n", "byte {at}");
                    taken += 1;
                }
                None => refused += 1,
            }
            volume[at] = before;
        }
        assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    }

    #[test]
    fn a_user_gets_keys_and_no_password() {
        let keys = SshKey::parse_all(&format!("# mine\n\n{KEY}\n"), "k").unwrap();
        let seed =
            Seed { host_name: Some("web.example.org".into()), user: Some("ann".into()), keys, ..seed() };
        let text = file(&seed, "user-data").unwrap();
        assert!(text.starts_with("#cloud-config\n"), "{text}");
        let document: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(document["hostname"], "web");
        assert_eq!(document["fqdn"], "web.example.org");
        let user = &document["users"][0];
        assert_eq!((&user["name"], &user["lock_passwd"]), (&"ann".into(), &true.into()));
        assert_eq!(user["ssh_authorized_keys"][0], KEY);
        assert_eq!(user["sudo"], "ALL=(ALL) NOPASSWD:ALL");
        assert!(document.get("ssh_pwauth").is_none());
        let meta: serde_yaml_ng::Value = serde_yaml_ng::from_str(&file(&seed, "meta-data").unwrap()).unwrap();
        assert_eq!(
            (&meta["instance-id"], &meta["local-hostname"]),
            (&"i-1".into(), &"web.example.org".into())
        );
    }

    #[test]
    fn keys_without_a_user_are_those_of_the_distributions_own() {
        let seed = Seed { keys: SshKey::parse_all(KEY, "k").unwrap(), ..seed() };
        let document: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(&file(&seed, "user-data").unwrap()).unwrap();
        assert_eq!(document["ssh_authorized_keys"][0], KEY);
        assert!(document.get("users").is_none());
    }

    #[test]
    fn own_documents_are_taken_as_they_are() {
        let seed = Seed {
            user_data: Some("#!/bin/sh\n".into()),
            network: SeedNetwork::Document("version: 1\n".into()),
            ..seed()
        };
        assert_eq!(file(&seed, "user-data").unwrap(), "#!/bin/sh\n");
        assert_eq!(file(&seed, "network-config").unwrap(), "version: 1\n");
        assert_eq!(file(&super::Seed { network: SeedNetwork::Unsaid, ..seed }, "network-config"), None);
    }

    #[test]
    fn a_network_by_dhcp_is_a_document_that_can_be_read() {
        let document: serde_yaml_ng::Value = serde_yaml_ng::from_str(
            &file(&Seed { network: SeedNetwork::Dhcp, ..seed() }, "network-config").unwrap(),
        )
        .unwrap();
        assert_eq!(document["ethernets"]["all"]["dhcp4"], true);
    }

    #[test]
    fn what_is_not_what_it_should_be_is_refused() {
        let refused = |change: fn(&mut Seed)| {
            let mut seed = seed();
            change(&mut seed);
            seed.files().unwrap_err()
        };
        for name in ["", "-a", "a-", "a..b", "a b", "ä", "a_b"] {
            assert_eq!(check_host_name(name), Err(SeedError::HostName(name.to_owned())));
        }
        assert!(matches!(refused(|seed| seed.user = Some("Ann".into())), SeedError::User(_)));
        assert!(matches!(refused(|seed| seed.user = Some("a:b".into())), SeedError::User(_)));
        let hash = |seed: &mut Seed| seed.password_hash = Some("$6$salt$hash".into());
        let mut with_hash = seed();
        hash(&mut with_hash);
        assert_eq!(with_hash.files(), Err(SeedError::PasswordWithoutUser));
        with_hash.user = Some("ann".into());
        with_hash.files().unwrap();
        with_hash.password_hash = Some("secret".into());
        assert_eq!(with_hash.files(), Err(SeedError::Password));
        assert_eq!(SshKey::parse_all("", "k"), Err(SeedError::Key("k".into())));
        assert_eq!(SshKey::parse_all("hello", "k"), Err(SeedError::Key("k".into())));
        assert_eq!(
            SshKey::parse_all("-----BEGIN OPENSSH PRIVATE KEY-----", "k"),
            Err(SeedError::PrivateKey("k".into()))
        );
    }
}
