//! What `vireo create` is told, and what of it fits together.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use libvirt_xml::storage::VolumeFormat;
use net_io::passt::Forward;

use crate::completions_command::networks;
use crate::connection::Error;
use crate::image_command::{image_path, size};
use crate::user_network::UserNetwork;

const EXAMPLES: &str = "\
Examples:
  vireo create web --memory 4G --cpus 2 --disk 20G --image debian-13.qcow2 --user ann --ssh-key ~/.ssh/id_ed25519.pub
  vireo create test --image base.qcow2 --overlay --network none --no-start
  vireo create tiny --memory 256M --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'

With any of --user, --ssh-key, --password-hash, --hostname, --network-config and --user-data the machine gets a cloud-init seed: a small
read-only disk that is labelled cidata. It then says as well that interfaces ask for their addresses by DHCP (--network-config none:
nothing is said), and that the host is called as the machine is.";

/// Make a machine: its disk, network interface, cloud-init seed and definition, and start it.
#[derive(Debug, Default, Args)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", crate::connection::EXIT_CODES), after_help = crate::connection::EXIT_CODES)]
pub(crate) struct Arguments {
    /// Name of the machine
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = size)]
    pub(super) memory: u64,
    /// Virtual processors
    #[arg(long, visible_alias = "vcpus", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) cpus: u32,
    /// Size of the disk; an image that is smaller grows [default: that of the image]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) disk: Option<u64>,
    /// Image whose content the disk gets: copied, sharing storage where the file system can
    #[arg(long, value_name = "FILE", value_parser = image_path)]
    pub(super) image: Option<PathBuf>,
    /// Format of the image [default: what its first bytes say, if it is based on no other file]
    #[arg(long, value_name = "FORMAT", requires = "image")]
    pub(super) image_format: Option<ImageFormat>,
    /// Base the disk on the image instead of copying it: the image must not change any more
    #[arg(long, requires = "image")]
    pub(super) overlay: bool,
    /// Format of the disk [default: that of the image; otherwise qcow2]
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<DiskFormat>,
    /// Storage pool for the disk: its name, or its directory (absolute; made a pool if it is none yet)
    #[arg(long, value_name = "POOL")]
    pub(super) pool: Option<String>,
    /// Kernel to boot directly
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,
    /// Initial RAM disk of the kernel
    #[arg(long, visible_alias = "initramfs", value_name = "FILE", requires = "kernel")]
    pub(super) initrd: Option<PathBuf>,
    /// Command line of the kernel [default: console=ttyS0]
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub(super) cmdline: Option<String>,
    /// Network: none, user (through passt, without any rights; user,tcp=2222:22,udp=53 forwards ports of the host), bridge=NAME,
    /// tap=NAME, a network's name or network=NAME [default: the network "default", if there is one]
    #[arg(long, value_name = "NETWORK", value_parser = network, add = ArgValueCompleter::new(networks))]
    pub(super) network: Option<NetworkChoice>,
    /// Address of the network interface [default: assigned]
    #[arg(long, value_name = "ADDRESS", value_parser = mac)]
    pub(super) mac: Option<libvirt_xml::MacAddress>,
    /// A user that cloud-init makes, who may become root; its keys are ~/.ssh/*.pub unless others or a password are given
    #[arg(long, value_name = "NAME", help_heading = "Cloud-init", conflicts_with = "user_data")]
    pub(super) user: Option<String>,
    /// Public ssh key that may log in: a file, or the key itself; can be repeated
    #[arg(long, value_name = "KEY", help_heading = "Cloud-init", conflicts_with = "user_data")]
    pub(super) ssh_key: Vec<String>,
    /// Hash of the user's password, as `openssl passwd -6` makes it
    #[arg(long, value_name = "HASH", help_heading = "Cloud-init", requires = "user")]
    pub(super) password_hash: Option<String>,
    /// Host name
    #[arg(long, value_name = "NAME", help_heading = "Cloud-init")]
    pub(super) hostname: Option<String>,
    /// Network of the guest: dhcp, none (nothing is said), or a file with cloud-init's network configuration
    #[arg(long, value_name = "CONFIG", help_heading = "Cloud-init")]
    pub(super) network_config: Option<String>,
    /// A file with user data of your own
    #[arg(long, value_name = "FILE", help_heading = "Cloud-init")]
    pub(super) user_data: Option<PathBuf>,
    /// A line for people
    #[arg(long, value_name = "TEXT")]
    pub(super) title: Option<String>,
    /// A text for people
    #[arg(long, value_name = "TEXT")]
    pub(super) description: Option<String>,
    /// Start it with the host
    #[arg(long)]
    pub(super) autostart: bool,
    /// Do not start it
    #[arg(long, visible_alias = "noreboot", conflicts_with_all = ["paused", "console"])]
    pub(super) no_start: bool,
    /// Start it, but run no instruction before `vireo resume`
    #[arg(long, conflicts_with = "console")]
    pub(super) paused: bool,
    /// Attach to its console after the start
    #[arg(long)]
    pub(super) console: bool,
    /// Print the definition, and make nothing
    #[arg(long, visible_alias = "dry-run")]
    pub(super) print_xml: bool,
    /// Keep what was made when a later step fails
    #[arg(long)]
    pub(super) keep_on_failure: bool,
}

/// Formats of images that a disk can come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ImageFormat {
    Raw,
    Qcow2,
    Vmdk,
    Vhdx,
    Vpc,
    Vdi,
}

impl From<ImageFormat> for block_io::operations::ImageFormat {
    fn from(format: ImageFormat) -> Self {
        match format {
            ImageFormat::Raw => Self::Raw,
            ImageFormat::Qcow2 => Self::Qcow2,
            ImageFormat::Vmdk => Self::Vmdk,
            ImageFormat::Vhdx => Self::Vhdx,
            ImageFormat::Vpc => Self::Vpc,
            ImageFormat::Vdi => Self::Vdi,
        }
    }
}

/// Formats that a disk can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DiskFormat {
    Raw,
    Qcow2,
}

impl DiskFormat {
    pub(super) fn of_volume(self) -> VolumeFormat {
        match self {
            Self::Raw => VolumeFormat::Raw,
            Self::Qcow2 => VolumeFormat::Qcow2,
        }
    }

    pub(super) fn of_disk(self) -> libvirt_xml::domain::disk::ImageFormat {
        match self {
            Self::Raw => libvirt_xml::domain::disk::ImageFormat::Raw,
            Self::Qcow2 => libvirt_xml::domain::disk::ImageFormat::Qcow2,
        }
    }

    /// How the volume's name ends.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "img",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Where the interface goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetworkChoice {
    None,
    Bridge(String),
    Tap(String),
    Network(String),
    User(Vec<Forward>),
}

/// The name of an interface of the host, as the kernel takes them (linux/if.h, IFNAMSIZ; its dev_valid_name).
pub(crate) fn interface_name(name: &str) -> Result<String, String> {
    let letter =
        |letter: char| letter == '/' || letter == ':' || letter.is_whitespace() || letter.is_control();
    let good = (1..16).contains(&name.len()) && !name.chars().any(letter) && name != "." && name != "..";
    if good { Ok(name.to_owned()) } else { Err(format!("{name:?} is not the name of an interface")) }
}

fn network(text: &str) -> Result<NetworkChoice, String> {
    if let Some(UserNetwork { forwards, rest }) = UserNetwork::parse(text)? {
        return match rest.first() {
            None => Ok(NetworkChoice::User(forwards)),
            Some(word) => Err(format!("{word:?} is not known: use user, with tcp= and udp= for ports")),
        };
    }
    match text.split_once('=') {
        Some(("bridge", name)) => interface_name(name).map(NetworkChoice::Bridge),
        Some(("tap", name)) => interface_name(name).map(NetworkChoice::Tap),
        Some(("network", name)) if !name.is_empty() => Ok(NetworkChoice::Network(name.to_owned())),
        Some(_) => Err("use none, user, bridge=NAME, tap=NAME or the name of a network".to_owned()),
        None if text == "none" => Ok(NetworkChoice::None),
        None if text.is_empty() => Err("the name is empty".to_owned()),
        None => Ok(NetworkChoice::Network(text.to_owned())),
    }
}

/// An Ethernet address of one station.
pub(crate) fn mac(text: &str) -> Result<libvirt_xml::MacAddress, String> {
    let address = <libvirt_xml::MacAddress as libvirt_xml::Value>::read(text)
        .map_err(|_| format!("{text:?} is not an Ethernet address as in 52:54:00:12:34:56"))?;
    if address.is_multicast() { Err(format!("{text} is the address of a group")) } else { Ok(address) }
}

/// Names that a domain and the volumes called after it can have.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let bad = name.trim().is_empty()
        || name.trim() != name
        || name.starts_with(['-', '.'])
        || name.len() > 200
        || name.chars().any(|letter| letter == '/' || letter.is_control());
    if bad {
        let rule =
            "up to 200 bytes without '/' and control characters, beginning with neither blank, '-' nor '.'";
        return Err(Error::usage(format!("{name:?} is not a name for a domain: {rule}")));
    }
    Ok(())
}

impl Arguments {
    /// What clap can't see.
    pub(super) fn check(&self) -> Result<(), Error> {
        check_name(&self.name)?;
        if self.memory < 1 << 20 {
            return Err(Error::usage("--memory: a machine needs a megabyte at least"));
        }
        if self.disk == Some(0) {
            return Err(Error::usage("--disk: a disk without a byte is none"));
        }
        if self.disk.is_none() && self.image.is_none() && self.kernel.is_none() {
            return Err(Error::usage(
                "there is nothing to boot from: give --image FILE, --disk SIZE or --kernel FILE",
            ));
        }
        if self.disk.is_none()
            && self.image.is_none()
            && (self.format.is_some() || self.pool.is_some())
            && !self.has_seed()
        {
            return Err(Error::usage("--format and --pool are for a disk: give --disk SIZE or --image FILE"));
        }
        if self.overlay && self.format == Some(DiskFormat::Raw) {
            return Err(Error::usage("--overlay: only a qcow2 disk can be based on an image"));
        }
        if self.mac.is_some() && self.network == Some(NetworkChoice::None) {
            return Err(Error::usage("--mac: there is no interface with --network none"));
        }
        Ok(())
    }

    /// Whether cloud-init is told anything.
    pub(super) fn has_seed(&self) -> bool {
        self.user.is_some()
            || !self.ssh_key.is_empty()
            || self.password_hash.is_some()
            || self.hostname.is_some()
            || self.network_config.is_some()
            || self.user_data.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_apart() {
        assert_eq!(network("none"), Ok(NetworkChoice::None));
        assert_eq!(network("bridge=br0"), Ok(NetworkChoice::Bridge("br0".into())));
        assert_eq!(network("tap=t0"), Ok(NetworkChoice::Tap("t0".into())));
        assert_eq!(network("lan"), Ok(NetworkChoice::Network("lan".into())));
        assert_eq!(network("network=user"), Ok(NetworkChoice::Network("user".into())));
        assert_eq!(network("user"), Ok(NetworkChoice::User(vec![])));
        for wrong in [
            "",
            "bridge=",
            "tap=a name",
            "bridge=a-name-that-is-too-long",
            "user=x",
            "user,mtu=1400",
            "user,tcp=0",
        ] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_can_be_files_names() {
        check_name("web-1.example").unwrap();
        for wrong in ["", " ", "a/b", "-a", ".a", "a\nb", " a", &"x".repeat(201)] {
            check_name(wrong).unwrap_err();
        }
    }

    #[test]
    fn addresses_of_groups_are_refused() {
        mac("52:54:00:00:00:01").unwrap();
        mac("01:00:5e:00:00:01").unwrap_err();
        mac("52:54:00").unwrap_err();
    }
}
