//! Debian's package tools: which release this is, installing packages, downloading kernels without installing them.
//!
//! On Debian 12 QEMU and the newer kernel come from bookworm-backports: the release's own QEMU 7.2 can't migrate to a file, and
//! can't be installed where an image already has qemu-utils from backports.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::Context;
use crate::command;
use crate::error::LabError;

const ARCHIVE: &str = "http://deb.debian.org/debian";
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];
const BACKPORTS_LIST: &str = "/etc/apt/sources.list.d/vireo-backports.list";

/// The releases that setup knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Release {
    /// The release of this machine.
    pub(crate) fn current() -> Result<Release, LabError> {
        let path = "/etc/os-release";
        let text = std::fs::read_to_string(path).map_err(LabError::file("reading", path))?;
        Release::parse(&text)
    }

    fn parse(os_release: &str) -> Result<Release, LabError> {
        let field = |name: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"')
        };
        match (field("ID"), field("VERSION_CODENAME")) {
            ("debian", "bookworm") => Ok(Release::Bookworm),
            ("debian", "trixie") => Ok(Release::Trixie),
            (id, _) => Err(LabError::Distribution(format!("{id} {}", field("VERSION_ID")).trim().to_owned())),
        }
    }

    pub(crate) fn codename(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }

    /// The suite that has QEMU 10 and Linux 6.12.
    pub(crate) fn newest_suite(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm-backports",
            Release::Trixie => "trixie",
        }
    }
}

/// apt-get and apt-cache, on this machine's package lists or on private ones.
#[derive(Debug)]
pub(crate) struct Apt<'a> {
    context: &'a Context,
    release: Release,
    options: Vec<OsString>,
}

impl<'a> Apt<'a> {
    /// With this machine's package lists.
    pub(crate) fn system(context: &'a Context) -> Result<Apt<'a>, LabError> {
        Ok(Apt { context, release: Release::current()?, options: Vec::new() })
    }

    pub(crate) fn release(&self) -> Release {
        self.release
    }

    /// With lists of their own in `folder`, which know nothing but `suite`: this machine's stay as they are.
    pub(crate) fn private(&self, folder: &Path, suite: &str) -> Result<Apt<'a>, LabError> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            std::fs::create_dir_all(&part).map_err(LabError::file("creating", &part))?;
        }
        let list = folder.join("sources.list");
        std::fs::write(&list, self.source_line(suite)).map_err(LabError::file("writing", &list))?;
        let mut options = Vec::new();
        for (name, value) in [
            ("Dir::Etc::sourcelist", list),
            ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
            ("Dir::State::lists", folder.join("lists")),
            ("Dir::Cache", folder.join("cache")),
        ] {
            let mut option = OsString::from(format!("-o{name}="));
            option.push(value);
            options.push(option);
        }
        let apt = Apt { context: self.context, release: self.release, options };
        apt.update()?;
        Ok(apt)
    }

    /// The address of the archive that this machine gets Debian from.
    pub(crate) fn archive(&self) -> String {
        let mut files = Vec::new();
        let listed = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
        paths.sort();
        paths.insert(0, PathBuf::from("/etc/apt/sources.list"));
        for path in paths {
            files.extend(std::fs::read_to_string(path));
        }
        let mirror = mirror(files.iter().map(String::as_str), self.release.codename());
        mirror.unwrap_or_else(|| ARCHIVE.to_owned())
    }

    fn source_line(&self, suite: &str) -> String {
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        let keyring = keyring.map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        format!("deb {keyring}{} {suite} main\n", self.archive())
    }

    fn command(&self, program: &str) -> Result<std::process::Command, LabError> {
        let mut command = command::tool(program, "apt")?;
        command.env("DEBIAN_FRONTEND", "noninteractive").args(&self.options);
        Ok(command)
    }

    fn apt_get(&self) -> Result<std::process::Command, LabError> {
        let mut command = self.command("apt-get")?;
        command.args(["-qq", "-oDPkg::Lock::Timeout=600"]);
        Ok(command)
    }

    fn update(&self) -> Result<(), LabError> {
        command::check(self.apt_get()?.arg("update"), &self.context.interrupt).map(drop)
    }

    /// The packages of `wanted` that are not installed.
    pub(crate) fn missing<'p>(&self, wanted: &[&'p str]) -> Result<Vec<&'p str>, LabError> {
        let mut missing = Vec::new();
        for package in wanted {
            let mut query = command::tool("dpkg-query", "dpkg")?;
            query.args(["--show", "--showformat=${db:Status-Abbrev}", package]);
            if !command::run(&mut query, &self.context.interrupt)?.output.starts_with(b"ii") {
                missing.push(*package);
            }
        }
        Ok(missing)
    }

    /// Makes sure that the suite with the newer kernel and QEMU is known and that there are package lists at all.
    pub(crate) fn prepare_sources(&self) -> Result<(), LabError> {
        let policy = command::check(self.command("apt-cache")?.arg("policy"), &self.context.interrupt)?;
        let policy = String::from_utf8_lossy(&policy).into_owned();
        let suite = self.release.newest_suite();
        if knows_suite(&policy, suite) {
            return Ok(());
        }
        if !is_root() {
            let packages = format!("the package lists of {suite}");
            return Err(LabError::MissingProgram { program: "linux-image-amd64".to_owned(), packages });
        }
        if self.release == Release::Bookworm {
            let line = self.source_line(suite);
            self.context.report.say(format_args!("adding {suite} to the package sources ({BACKPORTS_LIST})"));
            std::fs::write(BACKPORTS_LIST, line).map_err(LabError::file("writing", BACKPORTS_LIST))?;
        }
        self.context.report.say("updating the package lists");
        self.update()
    }

    /// Installs `packages`, with what they depend on from the newest suite too if `newest`.
    ///
    /// # Errors
    /// Also when this process is not root; `program` is what is said to be missing then.
    pub(crate) fn install(&self, packages: &[&str], from: Suite, program: &str) -> Result<(), LabError> {
        let names = packages.join(" ");
        if !is_root() {
            return Err(LabError::MissingProgram { program: program.to_owned(), packages: names });
        }
        self.prepare_sources()?;
        self.context.report.say(format_args!("installing {names}"));
        let mut command = self.apt_get()?;
        command.args(["install", "-y", "--no-install-recommends"]);
        if from == Suite::Newest && self.release == Release::Bookworm {
            command.args(["-t", self.release.newest_suite()]);
        }
        command::check(command.args(packages), &self.context.interrupt).map(drop)
    }

    /// The name of the package behind the meta package `meta` in `suite`.
    pub(crate) fn kernel_package(&self, suite: &str, meta: &str) -> Result<Option<String>, LabError> {
        let mut command = self.command("apt-cache")?;
        let finished = command::run(command.args(["-t", suite, "depends", meta]), &self.context.interrupt)?;
        Ok(image_dependency(&String::from_utf8_lossy(&finished.output)))
    }

    /// Downloads `package` to `folder`; returns the file.
    pub(crate) fn download(&self, package: &str, suite: &str, folder: &Path) -> Result<PathBuf, LabError> {
        let mut command = self.apt_get()?;
        command.current_dir(folder).arg("download").arg(format!("{package}/{suite}"));
        if !command::run(&mut command, &self.context.interrupt)?.status.success() {
            // Of several suites with this package the name alone finds the newest.
            let mut command = self.apt_get()?;
            command.current_dir(folder).arg("download").arg(package);
            command::check(&mut command, &self.context.interrupt)?;
        }
        let prefix = format!("{package}_");
        let entries = std::fs::read_dir(folder).map_err(LabError::file("reading", folder))?;
        let file = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        file.map(|entry| entry.path())
            .ok_or_else(|| LabError::Image(folder.into(), "apt-get downloaded nothing"))
    }
}

/// Where a package is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// The installed release.
    Release,
    /// The one with QEMU 10 and Linux 6.12.
    Newest,
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether `apt-cache policy` knows a suite by this codename.
fn knows_suite(policy: &str, codename: &str) -> bool {
    let field = format!("n={codename}");
    policy.lines().any(|line| {
        line.trim_start()
            .strip_prefix("release ")
            .is_some_and(|fields| fields.split(',').any(|one| one == field))
    })
}

/// The first real kernel image in the output of `apt-cache depends`.
fn image_dependency(output: &str) -> Option<String> {
    output.lines().find_map(|line| {
        let package = line.trim().strip_prefix("Depends: ")?;
        let version = package.strip_prefix("linux-image-")?;
        version.starts_with(|first: char| first.is_ascii_digit()).then(|| package.to_owned())
    })
}

/// The archive's address in source lists of either format (sources.list(5)) for the suite `codename`.
fn mirror<'t>(files: impl Iterator<Item = &'t str>, codename: &str) -> Option<String> {
    files
        .into_iter()
        .find_map(|text| one_line_mirror(text, codename).or_else(|| deb822_mirror(text, codename)))
}

fn one_line_mirror(text: &str, codename: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
        if let Some(options) = rest.strip_prefix('[') {
            rest = options.split_once(']')?.1;
        }
        let mut words = rest.split_whitespace();
        let (address, suite) = (words.next()?, words.next()?);
        (suite == codename && words.any(|component| component == "main")).then(|| address.to_owned())
    })
}

fn deb822_mirror(text: &str, codename: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        let suites = field("Suites")?;
        let has_suite = suites.split_whitespace().any(|suite| suite == codename);
        let address = field("URIs")?.split_whitespace().next()?;
        has_suite.then(|| address.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart_and_others_refused() {
        let text = |id: &str, name: &str| format!("ID={id}\nVERSION_ID=\"12\"\nVERSION_CODENAME={name}\n");
        assert_eq!(Release::parse(&text("debian", "bookworm")).unwrap(), Release::Bookworm);
        assert_eq!(Release::parse(&text("debian", "trixie")).unwrap(), Release::Trixie);
        let error = Release::parse("ID=fedora\nVERSION_ID=42\n").unwrap_err();
        assert!(error.to_string().contains("this is fedora 42"), "{error}");
        assert!(Release::parse("").is_err());
    }

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let old = "# deb http://no bookworm main\ndeb [arch=amd64 signed-by=/k] http://old/debian bookworm main contrib\n";
        let other = "deb https://packages.example/apt tools-bookworm main\n";
        let new = "Types: deb\n# a comment: here\nURIs: http://new/debian\nSuites: bookworm bookworm-updates\n\n\
                   Types: deb\nURIs: http://new/security\nSuites: bookworm-security\n";
        assert_eq!(mirror([other, old].into_iter(), "bookworm").as_deref(), Some("http://old/debian"));
        assert_eq!(mirror([other, new].into_iter(), "bookworm").as_deref(), Some("http://new/debian"));
        assert_eq!(mirror([new].into_iter(), "bookworm-security").as_deref(), Some("http://new/security"));
        assert_eq!(mirror([other, "garbage\n[\n:\n"].into_iter(), "bookworm"), None);
    }

    #[test]
    fn the_kernel_behind_a_meta_package_is_found() {
        let output = "linux-image-amd64\n  Depends: linux-base\n  Depends: linux-image-6.12.9+deb12-amd64\n";
        assert_eq!(image_dependency(output).as_deref(), Some("linux-image-6.12.9+deb12-amd64"));
        assert_eq!(image_dependency("linux-image-amd64\n  Depends: linux-image-cloud\n"), None);
    }

    #[test]
    fn a_suite_is_known_by_its_whole_name() {
        let policy = " 100 http://deb.debian.org/debian bookworm-backports/main amd64 Packages\n     \
                      release o=Debian Backports,a=oldstable-backports,n=bookworm-backports,c=main\n";
        assert!(knows_suite(policy, "bookworm-backports"));
        assert!(!knows_suite(policy, "bookworm"));
    }
}
