//! Virtual environments, made from the package index once and kept in the build folder.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::target_folder;

const SUITE: &str = env!("CARGO_MANIFEST_DIR");

/// An interpreter, with the packages of a virtual environment or with none.
#[derive(Clone, Debug)]
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// The environment that holds these requirement files of the suite, made if need be. The interpreter is `python3`,
    /// or what `MIKU_PROBE_PYTHON` names.
    ///
    /// # Errors
    /// When there is no Python with `venv`, or the packages cannot be had.
    pub fn with(name: &str, requirements: &[&str]) -> Result<Self> {
        let interpreter = std::env::var_os("MIKU_PROBE_PYTHON").unwrap_or_else(|| "python3".into());
        Self::of(Path::new(&interpreter), name, requirements)
    }

    /// [`Python::with`] for an interpreter of one's choice.
    ///
    /// # Errors
    /// When it has no `venv`, or the packages cannot be had.
    pub fn of(interpreter: &Path, name: &str, requirements: &[&str]) -> Result<Self> {
        let version = run(Command::new(interpreter).arg("-VV")).context("no Python")?;
        let files: Vec<PathBuf> =
            requirements.iter().map(|file| Path::new(SUITE).join("requirements").join(file)).collect();
        let mut hasher = DefaultHasher::new();
        version.hash(&mut hasher);
        for file in &files {
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?.hash(&mut hasher);
        }
        let folder = target_folder().join("venvs");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let environment = folder.join(format!("{name}-{:016x}", hasher.finish()));
        let python = Self { interpreter: environment.join("bin/python") };
        let complete = environment.join("complete");
        let _lock = lock(&folder.join("lock"))?;
        if complete.exists() {
            return Ok(python);
        }
        // What an earlier run left half done.
        if environment.exists() {
            fs::remove_dir_all(&environment).with_context(|| format!("removing {}", environment.display()))?;
        }
        eprintln!("making a Python environment of {}", requirements.join(" and "));
        run(Command::new(interpreter).args(["-m", "venv"]).arg(&environment)).context("python3 -m venv")?;
        let mut pip = Command::new(&python.interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
        for file in &files {
            pip.arg("-r").arg(file);
        }
        run(&mut pip).context("pip install")?;
        File::create(&complete).with_context(|| format!("writing {}", complete.display()))?;
        Ok(python)
    }

    /// The interpreter of [`Python::with`] without any packages: itself, and not what may stand for it on the search
    /// path.
    ///
    /// # Errors
    /// When there is none that speaks TLS.
    pub fn plain() -> Result<Self> {
        let interpreter = std::env::var_os("MIKU_PROBE_PYTHON").unwrap_or_else(|| "python3".into());
        let path = run(Command::new(interpreter).args(["-c", "import ssl, sys; print(sys.executable)"]))?;
        Ok(Self { interpreter: path.trim().into() })
    }

    /// Where the interpreter is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.interpreter
    }

    /// A command that runs a script of the suite's `services` folder.
    #[must_use]
    pub fn script(&self, name: &str) -> Command {
        self.file(&service(name))
    }

    /// A command that runs any script.
    #[must_use]
    pub fn file(&self, path: &Path) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// An interpreter of CPython 3.`minor` that can make environments and speak TLS: of the search path, or one that pyenv
/// has built.
///
/// # Errors
/// When there is none.
pub fn interpreter(minor: u8) -> Result<PathBuf> {
    let home = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let built = home.and_then(|home| fs::read_dir(home.join("versions")).ok());
    let start = format!("3.{minor}.");
    let mut found: Vec<PathBuf> = built
        .into_iter()
        .flat_map(std::iter::Iterator::flatten)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&start))
        .map(|entry| entry.path().join("bin/python3"))
        .collect();
    found.sort();
    found.push(format!("python3.{minor}").into());
    found.push("python3".into());
    let program = format!("import ssl, venv, sys; sys.exit(sys.version_info[:2] != (3, {minor}))");
    found
        .into_iter()
        .find(|interpreter| run(Command::new(interpreter).args(["-c", &program])).is_ok())
        .with_context(|| format!("no CPython 3.{minor} with ssl and venv"))
}

/// The versions 3.x of CPython for which there is an [`interpreter`], the oldest first: of those that the suite's
/// packages are made for.
pub fn minors() -> impl DoubleEndedIterator<Item = u8> {
    (9..20).filter(|minor| interpreter(*minor).is_ok())
}

/// Where a script of the suite's `services` folder is.
#[must_use]
pub fn service(name: &str) -> PathBuf {
    Path::new(SUITE).join("services").join(name)
}

/// Holds off other runs of the suite until the file is dropped.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    // SAFETY: flock takes any descriptor.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    ensure!(result == 0, "locking {}: {}", path.display(), std::io::Error::last_os_error());
    Ok(file)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
