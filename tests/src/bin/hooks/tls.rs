//! Empty programs in the TLS libraries of a process: where the probe's own stand, and where a design that knows nothing
//! of machine code puts them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use miku_probe::discovery::libraries::{Function, Kind, Library, LibraryFinder, Seen};
use miku_probe::discovery::process::ProcFs;
use miku_probe::probes::RunStatistics;
use miku_probe::probes::plan::{Returns, places};
use miku_probe::probes::uprobe::{Links, Place, Uprobes, When};
use miku_probe::units::Tgid;
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

/// The empty program.
const EMPTY: &str = "empty_uprobe";

/// What everybody hooks who wants to see messages.
const MESSAGES: [Function; 4] = [Function::Read, Function::ReadEx, Function::Write, Function::WriteEx];

/// Where the programs stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// In the probe's places.
    Chosen,
    /// On the first instructions of the functions that move messages, and on their returns.
    Starts,
}

/// Empty programs in the TLS libraries of processes; dropping it detaches.
pub(crate) struct EmptyTls {
    // Before the programs, which they hold on to.
    _links: Links,
    uprobes: Uprobes,
    ebpf: Ebpf,
}

impl EmptyTls {
    pub(crate) fn attach(at: Where, object: &[u8], watched: &[u32]) -> Result<Self> {
        let mut ebpf = Ebpf::load(object).context("the kernel refuses the object")?;
        let mut uprobes = Uprobes::load(&mut ebpf, object, &[EMPTY], &[])?;
        let (proc, mut finder, mut links) = (ProcFs::default(), LibraryFinder::new(), Links::default());
        ensure!(!watched.is_empty(), "nobody was named whose TLS libraries are meant");
        for &pid in watched {
            let process = proc.process(Tgid(pid)).with_context(|| format!("there is no process {pid}"))?;
            let mut libraries = finder.scan(&process, &mut Seen::default())?.libraries;
            libraries.retain(|library| library.build.flavour.kind() == Kind::Tls);
            if libraries.is_empty() {
                bail!("process {pid} has no TLS library mapped");
            }
            for library in &libraries {
                let wanted = match at {
                    Where::Chosen => places(&library.build, Returns::of_this_kernel()).collect(),
                    Where::Starts => starts(&library.attach_path)?,
                };
                for when in [When::Before, When::Returned] {
                    let places: Vec<Place> = of(when, &wanted);
                    if !places.is_empty() {
                        let attached = uprobes.attach(EMPTY, when, &library.attach_path, &places, process.tgid);
                        links.append(attached.with_context(|| in_words(library))?);
                    }
                }
            }
        }
        Ok(Self { _links: links, uprobes, ebpf })
    }

    pub(crate) fn run_statistics(&self) -> Vec<RunStatistics> {
        self.uprobes.run_statistics(&self.ebpf)
    }
}

fn of(when: When, places: &[(When, Place)]) -> Vec<Place> {
    places.iter().filter(|(which, _)| *which == when).map(|(_, place)| *place).collect()
}

fn in_words(library: &Library) -> String {
    format!("cannot attach to {}", library.shown_path.display())
}

/// The starts of the functions that move messages, as the library's own table tells them.
fn starts(path: &Path) -> Result<Vec<(When, Place)>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no library", path.display()))?;
    let mut starts = Vec::new();
    for symbol in file.dynamic_symbols().filter(object::ObjectSymbol::is_definition) {
        let named = |function: &Function| symbol.name() == Ok(function.symbol());
        if !MESSAGES.iter().any(named) {
            continue;
        }
        let address = symbol.address();
        let offset = file.segments().find_map(|segment| {
            let (start, length) = segment.file_range();
            address.checked_sub(segment.address()).filter(|within| *within < length).map(|within| start + within)
        });
        let place = Place::at(offset.with_context(|| format!("{address:x} is nowhere in {}", path.display()))?);
        starts.extend([(When::Before, place), (When::Returned, place)]);
    }
    ensure!(!starts.is_empty(), "{} exports none of the functions", path.display());
    Ok(starts)
}
