//! Brings Debian's kernel images, without touching what apt knows of this machine.
//!
//! Each suite gets a private apt state under `target/kernels/apt`, with the mirrors that the machine itself uses. An
//! image that has been brought is kept, and looked for anew after a week.

use std::cmp::Reverse;
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sh::{Sh, say};

/// How long a kernel counts as the latest of its line.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);

/// Which kernel is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The latest whose version begins with these numbers.
    Version(String),
    /// The latest in Debian's unstable suite.
    Newest,
    /// This file.
    File(PathBuf),
}

impl Line {
    pub(crate) fn version(text: &str) -> Self {
        Self::Version(text.to_owned())
    }

    /// The suites that hold it.
    fn suites(&self) -> &'static [&'static str] {
        match self {
            Self::File(_) => &[],
            Self::Newest => &["sid"],
            Self::Version(version) => match version.as_str() {
                "5.10" => &["bullseye", "bullseye-security"],
                "6.1" => &["bookworm", "bookworm-security"],
                "6.12" => &["trixie", "trixie-security"],
                _ => &["bookworm-backports", "trixie", "trixie-security", "trixie-backports", "sid", "experimental"],
            },
        }
    }

    fn admits(&self, version: &[u32]) -> bool {
        match self {
            Self::Version(text) => version.starts_with(&numbers(text)),
            Self::Newest | Self::File(_) => true,
        }
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => f.write_str(version),
            Self::Newest => f.write_str("newest"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A kernel that can be booted.
pub(crate) struct Image {
    /// Its release, as `uname -r` says it; or the name of the file.
    pub(crate) release: String,
    pub(crate) path: PathBuf,
}

impl Image {
    /// Finds a kernel in the folder, or downloads it there.
    ///
    /// # Errors
    /// When no suite has such a kernel, or it cannot be downloaded or unpacked.
    pub(crate) fn bring(line: Line, folder: &Path) -> Result<Self> {
        if let Line::File(path) = line {
            let path = path.canonicalize().with_context(|| format!("no kernel image at {}", path.display()))?;
            return Ok(Self { release: path.display().to_string(), path });
        }
        let kept = folder.join("images").join(line.to_string());
        let Some((image, age)) = Self::kept(&kept) else {
            return Self::download(&line, folder, &kept);
        };
        if age < FRESH {
            return Ok(image);
        }
        Self::download(&line, folder, &kept).or_else(|error| {
            say(format_args!(
                "kernels: staying with {}, because looking for a later one failed: {error:#}",
                image.release
            ));
            Ok(image)
        })
    }

    fn download(line: &Line, folder: &Path, kept: &Path) -> Result<Self> {
        fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
        let apt = PrivateApt::new(&folder.join("apt").join(line.to_string()), line.suites())?;
        apt.update()?;
        let package = latest(&apt.kernels()?, line).with_context(|| format!("no suite has a kernel {line}"))?;
        let image = apt.unpack(&package, kept)?;
        fs::write(kept.join("release"), &image.release).context("cannot note the release")?;
        Ok(image)
    }

    /// The kernel that an earlier run brought, and how long ago.
    fn kept(folder: &Path) -> Option<(Self, Duration)> {
        let noted = folder.join("release");
        let age = noted.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default();
        let image = Self { release: fs::read_to_string(&noted).ok()?, path: folder.join("vmlinuz") };
        image.path.is_file().then_some((image, age))
    }
}

/// The numbers of a version, in order: `6.12.117+deb13` is 6, 12, 117, 13.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The package with the latest kernel of a line, among package names.
///
/// The cloud flavour is taken: it is the smallest. From 7.x on the image is in `linux-binary-*`, and `linux-image-*` of
/// the same version only depends on it.
fn latest(names: &[String], line: &Line) -> Option<String> {
    let version = |name: &str| {
        let version = name.strip_prefix("linux-binary-").or_else(|| name.strip_prefix("linux-image-"))?;
        let version = version.strip_suffix("-cloud-amd64")?;
        version.starts_with(|c: char| c.is_ascii_digit()).then(|| numbers(version))
    };
    let candidates = names.iter().filter_map(|name| Some((version(name)?, name)));
    // A name with one number less is a meta-package.
    let admitted = candidates.filter(|(version, _)| version.len() > 2 && line.admits(version));
    admitted
        .max_by_key(|(version, name)| (version.clone(), Reverse(name.starts_with("linux-image-"))))
        .map(|(_, name)| name.clone())
}

/// The mirrors that a machine's own package sources name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mirrors {
    main: Option<String>,
    security: Option<String>,
    /// The options of a one-line source, such as `signed-by=…`.
    signed_by: Option<String>,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let etc = Path::new("/etc/apt");
        let mut files = vec![etc.join("sources.list")];
        if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
            let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            more.sort();
            files.extend(more);
        }
        let mut mirrors = Self::default();
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("list") => mirrors.read_lines(&text),
                Some("sources") => mirrors.read_stanzas(&text),
                _ => {}
            }
        }
        if mirrors.main.is_none() {
            bail!("the sources in /etc/apt name no Debian mirror; give the path of a kernel image instead");
        }
        Ok(mirrors)
    }

    /// Reads the one-line format: `deb [options] URI suite component…`.
    fn read_lines(&mut self, text: &str) {
        for line in text.lines() {
            let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
            let rest = rest.trim();
            let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((options, rest)) => (options, rest),
                None => ("", rest),
            };
            let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
            let words: Vec<&str> = rest.split_whitespace().collect();
            if let [uri, _suite, components @ ..] = words.as_slice() {
                self.take(uri, components, signed_by);
            }
        }
    }

    /// Reads the deb822 format: fields by line, stanzas by empty line.
    fn read_stanzas(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        for stanza in lines.split(|line| line.trim().is_empty()) {
            let field = |name: &str| {
                let line = stanza
                    .iter()
                    .find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)));
                line.map_or_else(Vec::new, |(_, value)| value.split_whitespace().collect::<Vec<_>>())
            };
            let enabled = field("Enabled").first().is_none_or(|value| *value != "no");
            if enabled
                && field("Types").contains(&"deb")
                && let Some(uri) = field("URIs").first()
            {
                let signed_by = field("Signed-By").first().copied().filter(|path| path.starts_with('/'));
                self.take(uri, &field("Components"), signed_by);
            }
        }
    }

    fn take(&mut self, uri: &str, components: &[&str], signed_by: Option<&str>) {
        if !components.contains(&"main") {
            return;
        }
        // A list of mirrors, as in `mirror+file:/etc/apt/mirrors/debian.list`, is as good as a mirror.
        let name = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default().trim_end_matches(".list");
        let place = match name {
            "debian" => &mut self.main,
            "debian-security" => &mut self.security,
            _ => return,
        };
        place.get_or_insert_with(|| uri.to_owned());
        if let Some(path) = signed_by {
            self.signed_by.get_or_insert_with(|| path.to_owned());
        }
    }

    /// The text of a sources file for these suites. A suite without a mirror is left out.
    fn sources(&self, suites: &[&str]) -> String {
        let options = self.signed_by.as_ref().map_or_else(String::new, |path| format!("[signed-by={path}] "));
        let line = |suite: &&str| {
            let uri = if suite.ends_with("-security") { &self.security } else { &self.main };
            Some(format!("deb {options}{} {suite} main\n", uri.as_ref()?))
        };
        suites.iter().filter_map(line).collect()
    }
}

/// An apt whose state, cache and sources are its own.
struct PrivateApt {
    settings: PathBuf,
}

impl PrivateApt {
    fn new(folder: &Path, suites: &[&str]) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        write("sources.list", &Mirrors::of_this_machine()?.sources(suites))?;
        // Nothing is installed as far as this apt knows.
        write("status", "")?;
        let settings = write("apt.conf", &Self::settings(folder))?;
        Ok(Self { settings })
    }

    /// What this apt does otherwise than the machine's; see apt.conf(5).
    fn settings(folder: &Path) -> String {
        let folder = folder.display();
        format!(
            r#"Dir::State "{folder}";
Dir::State::Lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Architecture "amd64";
APT::Sandbox::User "root";
// What the machine does after its own updates is not for this one.
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
// An index that cannot be fetched is an error here, not a warning.
APT::Update::Error-Mode "any";
Acquire::Retries "3";
// A suite that has left support is as good as ever for its kernel.
Acquire::Check-Valid-Until "false";
// Of the indexes, the packages alone.
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
"#
        )
    }

    /// One of apt's programs. The file on its command line is read last, so it has the last word.
    fn command(&self, program: &str) -> Sh {
        Sh::new(program).arg("-c").arg(&self.settings)
    }

    fn update(&self) -> Result<()> {
        self.command("apt-get").args(["--quiet=2", "update"]).output().map(drop)
    }

    /// The names of all packages that may hold a kernel.
    fn kernels(&self) -> Result<Vec<String>> {
        let pattern = "^linux-(binary|image)-[0-9].*-cloud-amd64$";
        let text = self.command("apt-cache").args(["search", "--names-only", pattern]).output()?;
        Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Downloads a package and takes the kernel out of it.
    fn unpack(&self, package: &str, folder: &Path) -> Result<Image> {
        say(format_args!("kernels: downloading {package}"));
        let scratch = folder.join("scratch");
        if scratch.exists() {
            fs::remove_dir_all(&scratch).context("cannot clear a scratch folder")?;
        }
        fs::create_dir_all(&scratch).context("cannot make a scratch folder")?;
        self.command("apt-get").args(["--quiet=2", "download", package]).dir(&scratch).output()?;
        let mut entries = fs::read_dir(&scratch).context("cannot read a scratch folder")?.flatten();
        let archive = entries.next().with_context(|| format!("{package} was not downloaded"))?.path();
        Sh::new("dpkg").arg("-x").args([&archive, &scratch]).output()?;
        let release = package.trim_start_matches("linux-binary-").trim_start_matches("linux-image-").to_owned();
        // From 7.x on the image lies with its modules.
        let places = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        let mut images = places.iter().map(|place| scratch.join(place)).filter(|image| image.is_file());
        let image = images.next().with_context(|| format!("{package} holds no kernel image"))?;
        let path = folder.join("vmlinuz");
        fs::rename(&image, &path).context("cannot move the kernel image")?;
        fs::remove_dir_all(&scratch).context("cannot remove a scratch folder")?;
        Ok(Image { release, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest_of(names: &[&str], line: &Line) -> Option<String> {
        latest(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), line)
    }

    #[test]
    fn the_latest_is_by_number_and_of_the_line_that_was_asked_for() {
        let names = [
            "linux-image-5.10-cloud-amd64",
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.12.90+deb13.1-cloud-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64",
        ];
        let line = Line::version;
        assert_eq!(latest_of(&names, &line("5.10")).as_deref(), Some("linux-image-5.10.0-46-cloud-amd64"));
        assert_eq!(latest_of(&names, &line("6.1")).as_deref(), Some("linux-image-6.1.0-0.deb11.52-cloud-amd64"));
        assert_eq!(latest_of(&names, &Line::Newest).as_deref(), Some("linux-image-6.12.117+deb13-cloud-amd64"));
        assert_eq!(latest_of(&names, &line("5.4")), None);
    }

    #[test]
    fn a_split_kernel_is_taken_from_the_package_that_holds_the_image() {
        let names = [
            "linux-image-7.2.13+deb14-cloud-amd64",
            "linux-binary-7.2.13+deb14-cloud-amd64",
            "linux-binary-unsigned-7.2.13+deb14-cloud-amd64",
        ];
        assert_eq!(latest_of(&names, &Line::Newest).as_deref(), Some("linux-binary-7.2.13+deb14-cloud-amd64"));
    }

    #[test]
    fn both_formats_of_sources_name_the_same_mirrors() {
        let stanzas = "Types: deb\n# a remark\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                       Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\nTypes: deb\n\
                       URIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
                       Types: deb\nURIs: http://elsewhere.example/tools\nSuites: bookworm\nComponents: main\n";
        let lines = "# a remark\ndeb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main\n\
                     deb-src http://mirror.example/debian bookworm main\n\
                     deb http://mirror.example/debian-security bookworm-security main contrib\n";
        let (mut from_stanzas, mut from_lines) = (Mirrors::default(), Mirrors::default());
        from_stanzas.read_stanzas(stanzas);
        from_lines.read_lines(lines);
        assert_eq!(from_stanzas, from_lines);
        assert_eq!(
            from_lines.sources(&["trixie", "trixie-security"]),
            "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian trixie main\n\
             deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian-security trixie-security main\n"
        );
    }

    #[test]
    fn a_list_of_mirrors_is_as_good_as_a_mirror() {
        let mut mirrors = Mirrors::default();
        mirrors.read_stanzas(
            "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian-security.list\nSuites: x\nComponents: main\n",
        );
        assert_eq!(mirrors.security.as_deref(), Some("mirror+file:///etc/apt/mirrors/debian-security.list"));
    }

    #[test]
    fn a_disabled_source_and_a_suite_without_a_mirror_are_left_out() {
        let mut mirrors = Mirrors::default();
        mirrors
            .read_stanzas("Enabled: no\nTypes: deb\nURIs: http://old.example/debian\nSuites: sid\nComponents: main\n");
        assert_eq!(mirrors, Mirrors::default());
        mirrors.read_stanzas("Types: deb\nURIs: http://old.example/debian\nSuites: sid\nComponents: contrib\n");
        assert_eq!(mirrors, Mirrors::default());
        mirrors.read_lines("deb http://mirror.example/debian/ bookworm main");
        assert_eq!(
            mirrors.sources(&["bullseye", "bullseye-security"]),
            "deb http://mirror.example/debian/ bullseye main\n"
        );
    }
}
