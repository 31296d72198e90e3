//! `cargo xtask setup`: finds what the other verbs need, or installs what is missing.
//!
//! What is on the machine is gathered into [`Facts`]; from them alone [`next`] says which one thing to do next, until
//! nothing is left. So the plan can be shown without acting (`--print`), and tested for machines that are not this one.
//!
//! The BPF programs need a compiler with a `core` for the BPF target, and `bpf-linker` linked with an LLVM that is not
//! older than the compiler's. There are two routes:
//! - Debian's `rustc-web` packages bring such a compiler ready-made, and the LLVM of the same version;
//! - elsewhere a pinned nightly of rustup builds `core` from `rust-src`.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::sh::{Sh, say, workspace};

/// The nightly of the second route: its LLVM is [`NIGHTLY_LLVM`].
const NIGHTLY: &str = "nightly-2026-05-20";
const NIGHTLY_LLVM: u32 = 22;
const BPF_LINKER: &str = "0.13.0";

/// What a verb needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// `cargo fmt` and `cargo clippy`.
    Lint,
    /// What checks the dependencies.
    Deny,
    /// A compiler and a linker for the BPF programs.
    Bpf,
    /// Python with virtual environments, for the services that are watched.
    Python,
    /// The load generator that is nobody's own.
    Load,
    /// What boots other kernels.
    Kernels,
    /// What changes the program to see whether a test notices.
    Mutants,
}

impl Need {
    /// What `cargo xtask setup` installs; the rest is installed by the verb that needs it.
    const SETUP: [Self; 6] = [Self::Lint, Self::Deny, Self::Bpf, Self::Python, Self::Load, Self::Kernels];
}

/// A program that cargo builds for this project alone, of a fixed version, because what it prints and takes may change
/// with the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CargoTool {
    Deny,
    Mutants,
    Oha,
}

impl CargoTool {
    const ALL: [Self; 3] = [Self::Deny, Self::Mutants, Self::Oha];

    const fn name(self) -> &'static str {
        match self {
            Self::Deny => "cargo-deny",
            Self::Mutants => "cargo-mutants",
            Self::Oha => "oha",
        }
    }

    const fn version(self) -> &'static str {
        match self {
            Self::Deny => "0.20.2",
            Self::Mutants => "27.1.0",
            Self::Oha => "1.16.0",
        }
    }

    fn install(self) -> Sh {
        let install = Sh::new("cargo");
        // Link-time optimisation, which cargo-deny's own profile asks for, takes longer than all of its checks.
        let install = match self {
            Self::Deny => {
                install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            }
            Self::Mutants | Self::Oha => install,
        };
        let version = ["--version", self.version(), "--locked", "--root"];
        install.args(["install", self.name()]).args(version).arg(tools_folder())
    }

    /// Where it is, when it is installed in this version.
    pub(crate) fn path(self) -> Option<PathBuf> {
        let program = tools_folder().join("bin").join(self.name());
        let command = Sh::new(&program);
        // It takes no option before the word by which cargo calls it.
        let command = if self == Self::Mutants { command.arg("mutants") } else { command };
        let version = command.arg("--version").output().ok()?;
        (version.split_whitespace().last() == Some(self.version())).then_some(program)
    }

    /// A command of it.
    ///
    /// # Errors
    /// Fails when it is not installed.
    pub(crate) fn command(self) -> Result<Sh> {
        let path = self.path().with_context(|| format!("{} is missing: run `cargo xtask setup`", self.name()))?;
        Ok(Sh::new(path))
    }
}

/// One thing that is on a machine, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tool {
    Rustfmt,
    Clippy,
    /// `/usr/bin/rustc` with a `core` for BPF.
    DebianRustc,
    /// The pinned nightly with `rust-src`.
    Nightly,
    /// The LLVM of this version, with its headers.
    Llvm(u32),
    BpfLinker,
    Venv,
    Cargo(CargoTool),
    Qemu,
    /// A busybox that needs no libraries.
    Busybox,
    Cpio,
    Rustup,
    Binstall,
    Apt,
}

impl Tool {
    /// Debian's packages for it; none where it comes another way.
    fn packages(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::DebianRustc => &["rustc-web", "libstd-rust-web-dev-bpf"],
            Self::Llvm(major) => return vec![format!("llvm-{major}-dev")],
            Self::Venv => &["python3", "python3-venv"],
            Self::Qemu => &["qemu-system-x86"],
            Self::Busybox => &["busybox-static"],
            Self::Cpio => &["cpio"],
            Self::Rustfmt
            | Self::Clippy
            | Self::Nightly
            | Self::BpfLinker
            | Self::Cargo(_)
            | Self::Rustup
            | Self::Binstall
            | Self::Apt => &[],
        };
        names.iter().map(ToString::to_string).collect()
    }
}

/// What is known of a machine.
#[derive(Clone, Debug, Default)]
struct Facts {
    root: bool,
    tools: BTreeSet<Tool>,
    /// The LLVM inside `/usr/bin/rustc`.
    debian_llvm: Option<u32>,
    /// Packages that apt could install, of those that are of interest.
    available: BTreeSet<String>,
    /// Whether apt's index is known to be good enough to say that a package does not exist.
    indexed: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    AptUpdate,
    AptInstall(Vec<Tool>),
    Components,
    Nightly,
    /// Build bpf-linker with the LLVM of this version.
    Linker(u32),
    /// Fetch a built bpf-linker.
    BinstallLinker,
    /// Build a program of cargo's.
    Cargo(CargoTool),
}

impl Action {
    fn command(&self) -> Sh {
        let apt = || Sh::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
        match self {
            Self::AptUpdate => apt().arg("update"),
            Self::AptInstall(tools) => apt()
                .args(["install", "--yes", "--no-install-recommends"])
                .args(tools.iter().flat_map(|tool| tool.packages())),
            Self::Components => Sh::new("rustup").args(["component", "add", "rustfmt", "clippy"]),
            Self::Nightly => Sh::new("rustup").args(["toolchain", "install", NIGHTLY]).args([
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]),
            Self::Linker(llvm) => Sh::new("cargo")
                .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
                .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"])
                .args(["--features", &format!("llvm-{llvm}"), "--root"])
                .arg(tools_folder()),
            Self::Cargo(tool) => tool.install(),
            Self::BinstallLinker => Sh::new("cargo")
                .args(["binstall", "--no-confirm", &format!("bpf-linker@{BPF_LINKER}"), "--root"])
                .arg(tools_folder()),
        }
    }

    /// Packages come in silence: apt says a hundred lines where one is enough. Its error still carries its reasons.
    fn run(&self) -> Result<()> {
        let command = self.command();
        if !self.needs_root() {
            return command.run();
        }
        say(format_args!("$ {command}"));
        command.output().map(drop)
    }

    fn needs_root(&self) -> bool {
        matches!(self, Self::AptUpdate | Self::AptInstall(_))
    }
}

/// What [`next`] says.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Ready,
    Do(Action),
    /// Nothing that can be done without a person: what is missing, and the commands that bring it.
    Stuck {
        missing: &'static str,
        remedy: Vec<String>,
    },
}

/// The next thing to do for a need.
fn next(need: Need, facts: &Facts) -> Next {
    let stuck =
        |missing, remedy: &[&str]| Next::Stuck { missing, remedy: remedy.iter().map(ToString::to_string).collect() };
    match need {
        Need::Lint => match (facts.has(Tool::Rustfmt) && facts.has(Tool::Clippy), facts.has(Tool::Rustup)) {
            (true, _) => Next::Ready,
            (false, true) => Next::Do(Action::Components),
            (false, false) => stuck(
                "rustfmt and clippy",
                &["install your distribution's packages for `cargo fmt` and `cargo clippy`"],
            ),
        },
        Need::Bpf => next_for_bpf(facts),
        Need::Python => from_packages(facts, "python3 with venv", &[Tool::Venv], "python3 and its venv module"),
        Need::Deny => next_for_cargo(facts, CargoTool::Deny),
        Need::Load => next_for_cargo(facts, CargoTool::Oha),
        Need::Mutants => next_for_cargo(facts, CargoTool::Mutants),
        Need::Kernels => {
            let tools = [Tool::Qemu, Tool::Busybox, Tool::Cpio];
            from_packages(
                facts,
                "qemu, a static busybox or cpio",
                &tools,
                "qemu-system-x86_64, cpio and a static /bin/busybox",
            )
        }
    }
}

fn next_for_cargo(facts: &Facts, tool: CargoTool) -> Next {
    if facts.has(Tool::Cargo(tool)) { Next::Ready } else { Next::Do(Action::Cargo(tool)) }
}

fn next_for_bpf(facts: &Facts) -> Next {
    if facts.has(Tool::BpfLinker) && (facts.has(Tool::DebianRustc) || facts.has(Tool::Nightly)) {
        return Next::Ready;
    }
    if !facts.has(Tool::DebianRustc) && !facts.has(Tool::Nightly) {
        if let Some(action) = facts.install(&[Tool::DebianRustc]) {
            return Next::Do(action);
        }
        if facts.has(Tool::Rustup) {
            return Next::Do(Action::Nightly);
        }
        return Next::Stuck {
            missing: "a Rust compiler for BPF",
            remedy: vec![
                format!("install rustup, then: {}", Action::Nightly.command()),
                format!("or on Debian 12: {}", Action::AptInstall(vec![Tool::DebianRustc]).command()),
            ],
        };
    }
    let llvm = if facts.has(Tool::DebianRustc) { facts.debian_llvm.unwrap_or(NIGHTLY_LLVM) } else { NIGHTLY_LLVM };
    if facts.has(Tool::Llvm(llvm)) {
        return Next::Do(Action::Linker(llvm));
    }
    if let Some(action) = facts.install(&[Tool::Llvm(llvm)]) {
        return Next::Do(action);
    }
    if facts.has(Tool::Binstall) {
        return Next::Do(Action::BinstallLinker);
    }
    Next::Stuck {
        missing: "bpf-linker",
        remedy: vec![
            format!("install LLVM {llvm} with its headers, then: {}", Action::Linker(llvm).command()),
            format!("or install cargo-binstall, then: {}", Action::BinstallLinker.command()),
        ],
    }
}

fn from_packages(facts: &Facts, missing: &'static str, tools: &[Tool], what: &str) -> Next {
    let absent: Vec<Tool> = tools.iter().copied().filter(|&tool| !facts.has(tool)).collect();
    if absent.is_empty() {
        return Next::Ready;
    }
    facts.install(&absent).map_or_else(
        || Next::Stuck {
            missing,
            remedy: vec![
                format!("install {what} with your system's package manager"),
                format!("on Debian: {}", Action::AptInstall(absent.clone()).command()),
            ],
        },
        Next::Do,
    )
}

impl Facts {
    fn has(&self, tool: Tool) -> bool {
        self.tools.contains(&tool)
    }

    /// How apt would bring these; nothing where it cannot.
    fn install(&self, tools: &[Tool]) -> Option<Action> {
        if !self.has(Tool::Apt) {
            return None;
        }
        if tools.iter().flat_map(|tool| tool.packages()).all(|package| self.available.contains(&package)) {
            return Some(Action::AptInstall(tools.to_vec()));
        }
        (!self.indexed).then_some(Action::AptUpdate)
    }

    /// What will be so once an action is done, as far as it can be known before.
    fn assume(&mut self, action: &Action) {
        match action {
            Action::AptUpdate => {
                self.indexed = true;
                self.available.extend(interesting_packages(self));
            }
            Action::AptInstall(tools) => self.tools.extend(tools),
            Action::Components => self.tools.extend([Tool::Rustfmt, Tool::Clippy]),
            Action::Nightly => {
                self.tools.insert(Tool::Nightly);
            }
            Action::Cargo(tool) => {
                self.tools.insert(Tool::Cargo(*tool));
            }
            Action::Linker(_) | Action::BinstallLinker => {
                self.tools.insert(Tool::BpfLinker);
            }
        }
    }

    /// Looks at this machine. `indexed`: whether apt's index was brought up to date in this run.
    fn gather(indexed: bool) -> Self {
        let mut facts = Self { root: is_root(), indexed, debian_llvm: debian_llvm(), ..Self::default() };
        let succeeds = |command: Sh| command.output().is_ok();
        let mut found = |tool: Tool, present: bool| {
            if present {
                facts.tools.insert(tool);
            }
        };
        found(Tool::Rustfmt, succeeds(Sh::new("cargo").args(["fmt", "--version"])));
        found(Tool::Clippy, succeeds(Sh::new("cargo").args(["clippy", "--version"])));
        found(Tool::DebianRustc, debian_rustc().is_some());
        found(Tool::Nightly, nightly_is_ready());
        found(Tool::BpfLinker, bpf_linker().is_some());
        found(Tool::Venv, succeeds(Sh::new("python3").args(["-c", "import venv, ensurepip"])));
        for tool in CargoTool::ALL {
            found(Tool::Cargo(tool), tool.path().is_some());
        }
        found(Tool::Qemu, on_path("qemu-system-x86_64").is_some());
        found(Tool::Busybox, busybox_is_static());
        found(Tool::Cpio, on_path("cpio").is_some());
        found(Tool::Rustup, on_path("rustup").is_some());
        found(Tool::Binstall, on_path("cargo-binstall").is_some());
        found(Tool::Apt, on_path("apt-get").is_some() && on_path("dpkg").is_some());
        for llvm in [Some(NIGHTLY_LLVM), facts.debian_llvm].into_iter().flatten() {
            // The one is in the package of the tools, the other in that of the headers.
            let parts = ["bin/llvm-config", "lib/libLLVM.so"];
            if parts.iter().all(|part| Path::new(&format!("/usr/lib/llvm-{llvm}/{part}")).exists()) {
                facts.tools.insert(Tool::Llvm(llvm));
            }
        }
        if facts.has(Tool::Apt) {
            let known = |package: &String| Sh::new("apt-cache").args(["show", package]).output().is_ok();
            facts.available = interesting_packages(&facts).into_iter().filter(known).collect();
        }
        facts
    }
}

/// The packages that some need may ask for and that are not on the machine yet.
fn interesting_packages(facts: &Facts) -> Vec<String> {
    let llvm = facts.debian_llvm.unwrap_or(NIGHTLY_LLVM);
    let tools = [Tool::DebianRustc, Tool::Llvm(llvm), Tool::Venv, Tool::Qemu, Tool::Busybox, Tool::Cpio];
    tools.into_iter().filter(|&tool| !facts.has(tool)).flat_map(Tool::packages).collect()
}

/// The compilers and the linker that were found for the BPF programs.
pub(crate) struct BpfToolchain {
    pub(crate) compiler: BpfCompiler,
    pub(crate) linker: PathBuf,
}

/// Which of the two routes compiles the BPF programs.
pub(crate) enum BpfCompiler {
    /// A distribution's compiler with a ready-made `core` for BPF.
    Debian(PathBuf),
    /// This toolchain of rustup, building `core` itself.
    Rustup(&'static str),
}

/// Find what the other verbs need, and install what is missing
#[derive(Args)]
pub(crate) struct Setup {
    /// Only say what would be run
    #[arg(long)]
    print: bool,
}

impl Setup {
    pub(crate) fn run(self) -> Result<()> {
        if !self.print {
            return ensure(&Need::SETUP);
        }
        let mut facts = Facts::gather(false);
        let plan = predict(&Need::SETUP, &mut facts);
        if plan.is_empty() {
            say("setup: nothing is missing");
        }
        for line in plan {
            println!("{line}");
        }
        Ok(())
    }
}

/// Every command that [`ensure`] would run, as far as it can be known before; where it would stop, its advice.
fn predict(needs: &[Need], facts: &mut Facts) -> Vec<String> {
    let mut lines = Vec::new();
    for &need in needs {
        loop {
            match next(need, facts) {
                Next::Ready => break,
                Next::Do(action) => {
                    let sudo = if action.needs_root() && !facts.root { "sudo " } else { "" };
                    lines.push(format!("{sudo}{}", action.command()));
                    facts.assume(&action);
                }
                Next::Stuck { missing, remedy } => {
                    lines.push(format!("# missing: {missing}"));
                    lines.extend(remedy.iter().map(|line| format!("#   {line}")));
                    break;
                }
            }
        }
    }
    lines
}

/// Finds what is needed, or installs it; says in one line each what it found or did.
///
/// # Errors
/// Where something is missing that cannot be installed from here, with the exact commands that bring it.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let mut facts = Facts::gather(false);
    for &need in needs {
        let mut last = None;
        loop {
            match next(need, &facts) {
                Next::Ready => break,
                Next::Do(action) if action.needs_root() && !facts.root => {
                    let plan = predict(needs, &mut facts).join("\n  ");
                    bail!("installing what is missing needs root. What to do:\n  {plan}");
                }
                Next::Do(action) if last.as_ref() == Some(&action) => {
                    bail!("`{}` went well, yet what it should bring is still missing", action.command());
                }
                Next::Do(action) => {
                    let hint = "setup stopped there; `cargo xtask setup --print` shows all that is left to do";
                    action.run().context(hint)?;
                    facts = Facts::gather(facts.indexed || action == Action::AptUpdate);
                    last = Some(action);
                }
                Next::Stuck { missing, .. } => {
                    let plan = predict(needs, &mut facts).join("\n  ");
                    bail!("missing, and not to be installed from here: {missing}. What to do:\n  {plan}");
                }
            }
        }
        say(format_args!("setup: {}", found(need)));
    }
    Ok(())
}

/// One line on what meets a need.
fn found(need: Need) -> String {
    let version = |program: &str, args: &[&str]| {
        let text = Sh::new(program).args(args).output().unwrap_or_default();
        text.lines().next().unwrap_or("of unknown version").to_owned()
    };
    let cargo_tool = |tool: CargoTool| format!("{} {}", tool.name(), tool.version());
    match need {
        Need::Lint => {
            format!("{}, {}", version("cargo", &["fmt", "--version"]), version("cargo", &["clippy", "--version"]))
        }
        Need::Bpf => match bpf() {
            Ok(BpfToolchain { compiler: BpfCompiler::Debian(rustc), linker }) => {
                let rustc = rustc.display().to_string();
                format!("{} ({rustc}) has a core for BPF; linker {}", version(&rustc, &["--version"]), linker.display())
            }
            Ok(BpfToolchain { compiler: BpfCompiler::Rustup(toolchain), linker }) => {
                format!("rustup's {toolchain} builds a core for BPF; linker {}", linker.display())
            }
            Err(error) => format!("no BPF toolchain: {error:#}"),
        },
        Need::Python => format!("{} with venv", version("python3", &["--version"])),
        Need::Deny => cargo_tool(CargoTool::Deny),
        Need::Load => cargo_tool(CargoTool::Oha),
        Need::Mutants => cargo_tool(CargoTool::Mutants),
        Need::Kernels => format!("{}, busybox, cpio", version("qemu-system-x86_64", &["--version"])),
    }
}

/// The BPF toolchain that is on this machine.
///
/// # Errors
/// When there is none; [`ensure`] with [`Need::Bpf`] brings one.
pub(crate) fn bpf() -> Result<BpfToolchain> {
    let linker = bpf_linker().context("bpf-linker is missing: run `cargo xtask setup`")?;
    let compiler = match debian_rustc() {
        Some(rustc) => BpfCompiler::Debian(rustc),
        None if nightly_is_ready() => BpfCompiler::Rustup(NIGHTLY),
        None => bail!("a Rust compiler for BPF is missing: run `cargo xtask setup`"),
    };
    Ok(BpfToolchain { compiler, linker })
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    // SAFETY: `geteuid` takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Where a program is, by `PATH`.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Tools that are installed for this project alone.
fn tools_folder() -> PathBuf {
    workspace().join("target/tools")
}

fn bpf_linker() -> Option<PathBuf> {
    let own = tools_folder().join("bin/bpf-linker");
    let found = if own.is_file() { Some(own) } else { on_path("bpf-linker") }?;
    // A linker whose LLVM has been removed since is as good as none.
    Sh::new(&found).arg("--version").output().ok()?;
    Some(found)
}

fn debian_rustc() -> Option<PathBuf> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let libraries =
        Sh::new(&rustc).args(["--print", "target-libdir", "--target", "bpfel-unknown-none"]).output().ok()?;
    let core = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libcore-");
    let mut entries = fs::read_dir(libraries.trim()).ok()?.flatten();
    entries.any(core).then_some(rustc)
}

fn debian_llvm() -> Option<u32> {
    let text = Sh::new(debian_rustc()?).arg("-vV").output().ok()?;
    text.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
}

fn nightly_is_ready() -> bool {
    let sysroot =
        Sh::new("rustup").args(["run", NIGHTLY, "rustc", "--print", "sysroot"]).env("RUSTUP_AUTO_INSTALL", "0");
    sysroot.output().is_ok_and(|path| Path::new(path.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn busybox_is_static() -> bool {
    // ldd fails on a program that is not dynamic.
    Path::new("/bin/busybox").is_file() && Sh::new("ldd").arg("/bin/busybox").output().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare_debian() -> Facts {
        let tools = BTreeSet::from([Tool::Apt, Tool::Rustup, Tool::Rustfmt, Tool::Clippy]);
        Facts { root: true, tools, ..Facts::default() }
    }

    /// The folder as a command shows it, in quotes if the checkout's path takes some.
    fn tools() -> String {
        Sh::new(tools_folder()).to_string()
    }

    #[test]
    fn a_bare_debian_gets_all_from_packages_and_asks_the_index_once() {
        let plan = predict(&[Need::Lint, Need::Bpf, Need::Python, Need::Kernels], &mut bare_debian());
        let apt = "DEBIAN_FRONTEND=noninteractive apt-get";
        let install = format!("{apt} install --yes --no-install-recommends");
        let expected = [
            format!("{apt} update"),
            format!("{install} rustc-web libstd-rust-web-dev-bpf"),
            format!("{install} llvm-22-dev"),
            format!(
                "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked --no-default-features \
                 --features llvm-22 --root {}",
                tools()
            ),
            format!("{install} python3 python3-venv"),
            format!("{install} qemu-system-x86 busybox-static cpio"),
        ];
        assert_eq!(plan, expected);
    }

    #[test]
    fn the_index_is_left_alone_when_it_already_knows_the_package() {
        let mut facts = bare_debian();
        facts.available = Tool::Venv.packages().into_iter().collect();
        assert_eq!(next(Need::Python, &facts), Next::Do(Action::AptInstall(vec![Tool::Venv])));
    }

    #[test]
    fn the_linker_is_built_with_the_llvm_of_the_compiler_that_is_there() {
        let mut facts = bare_debian();
        facts.debian_llvm = Some(23);
        facts.tools.extend([Tool::DebianRustc, Tool::Llvm(22)]);
        facts.available.insert("llvm-23-dev".to_owned());
        assert_eq!(next(Need::Bpf, &facts), Next::Do(Action::AptInstall(vec![Tool::Llvm(23)])));
    }

    #[test]
    fn a_debian_without_the_packages_takes_the_nightly() {
        let mut facts = bare_debian();
        facts.indexed = true;
        facts.available.insert("llvm-22-dev".to_owned());
        let plan = predict(&[Need::Bpf], &mut facts);
        assert_eq!(plan[0], "rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src");
        assert!(plan[1].ends_with("apt-get install --yes --no-install-recommends llvm-22-dev"), "{plan:?}");
        assert!(plan[2].contains("cargo install bpf-linker"), "{plan:?}");
        assert_eq!(plan.len(), 3);
    }

    #[test]
    fn another_system_gets_the_nightly_and_exact_advice_for_the_linker() {
        let mut facts = Facts { tools: BTreeSet::from([Tool::Rustup]), ..Facts::default() };
        let plan = predict(&[Need::Bpf], &mut facts);
        assert!(plan[0].starts_with("rustup toolchain install"), "{plan:?}");
        assert_eq!(plan[1], "# missing: bpf-linker");
        assert!(plan[2].contains("LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker"), "{plan:?}");
        assert!(plan[3].contains("cargo binstall --no-confirm bpf-linker@0.13.0"), "{plan:?}");
    }

    #[test]
    fn without_apt_and_rustup_every_need_says_what_to_do() {
        // Cargo, which runs this, brings some by itself.
        for need in [Need::Lint, Need::Bpf, Need::Python, Need::Kernels] {
            let Next::Stuck { missing, remedy } = next(need, &Facts::default()) else {
                panic!("{need:?} claims to be possible on a machine with nothing");
            };
            assert!(!missing.is_empty() && !remedy.is_empty(), "{need:?}");
        }
    }

    #[test]
    fn setup_installs_the_check_of_dependencies_and_leaves_mutants_to_their_verb() {
        let plan = predict(&Need::SETUP, &mut bare_debian());
        let install = format!("cargo install cargo-deny --version 0.20.2 --locked --root {}", tools());
        assert!(plan.iter().any(|line| line.ends_with(&install)), "{plan:?}");
        assert!(!plan.iter().any(|line| line.contains("cargo-mutants")), "{plan:?}");
    }

    #[test]
    fn without_root_the_commands_are_shown_with_sudo() {
        let mut facts = Facts { root: false, ..bare_debian() };
        let plan = predict(&[Need::Python], &mut facts);
        assert!(plan.iter().all(|line| line.starts_with("sudo DEBIAN_FRONTEND=noninteractive apt-get")), "{plan:?}");
    }
}
