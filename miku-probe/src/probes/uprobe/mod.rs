//! Attaches programs to places in a file that one process has mapped, and detaches them in time.
//!
//! Two ways, for the end of a perf event of a uprobe takes the kernel some 100 ms and no two end at once: many places by
//! one link ([`many`]) where the kernel has that and gets the process right, else a perf event a place.

mod many;

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use aya::programs::uprobe::{UProbeLink, UProbeScope};
use aya::programs::{ProbeKind, ProgramError, UProbe};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError};

pub use many::ManyError;
use many::ManyPrograms;

use super::statistics::{RunStatistics, run_statistics, statistics_of};
use crate::units::Tgid;

/// Why a program does not stand where it should.
#[derive(Debug, thiserror::Error)]
pub enum UprobeError {
    /// A perf event, or its program.
    #[error(transparent)]
    Each(#[from] ProgramError),
    /// A link to many places, or its program.
    #[error(transparent)]
    Many(#[from] ManyError),
    /// The object could not be read.
    #[error("cannot read the BPF object")]
    Object(#[from] EbpfError),
    /// The object has no such program.
    #[error("the BPF object has no program `{0}` for uprobes")]
    NoProgram(&'static str),
}

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum When {
    /// Before the instruction at the place is executed.
    Before,
    /// When the function that begins at the place returns.
    Returned,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its offset in the file.
    pub offset: u64,
    /// What a program that asks for it is told.
    pub cookie: u64,
}

impl Place {
    /// A place of which there is nothing to tell.
    #[must_use]
    pub const fn at(offset: u64) -> Self {
        Self { offset, cookie: 0 }
    }
}

/// The programs of uprobes, loaded.
pub struct Uprobes(Way);

enum Way {
    /// A link for all places of a program in a file.
    Many(ManyPrograms),
    /// A perf event a place. A program for each [`When`], which only user space tells apart.
    Each(EachProgram),
}

type EachProgram = BTreeMap<(&'static str, When), UProbe>;

impl Uprobes {
    /// Loads `programs` of the object that `ebpf` was made of, sharing its maps, none of which must have been taken; and
    /// those that ask for cookies where these are told.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn load(
        ebpf: &mut Ebpf,
        object: &[u8],
        programs: &[&'static str],
        with_cookies: &[&'static str],
    ) -> Result<Self, UprobeError> {
        if many_is_right() {
            match ManyPrograms::load(ebpf, object, programs.iter().chain(with_cookies).copied()) {
                Ok(programs) => return Ok(Self(Way::Many(programs))),
                // A kernel may be built without it; what is wrong with the programs themselves shows below.
                Err(error) => {
                    log::info!("uprobes are attached one by one, and detach slowly: {}", super::chain(&error));
                }
            }
        }
        Ok(Self(Way::Each(load_each(ebpf, programs)?)))
    }

    /// Loads more programs that do without cookies.
    ///
    /// # Errors
    /// When the kernel refuses one; then none of them is there.
    pub fn add(&mut self, ebpf: &mut Ebpf, object: &[u8], programs: &[&'static str]) -> Result<(), UprobeError> {
        match &mut self.0 {
            Way::Many(many) => many.append(ManyPrograms::load(ebpf, object, programs.iter().copied())?),
            Way::Each(each) => each.append(&mut load_each(ebpf, programs)?),
        }
        Ok(())
    }

    /// Whether programs are told the cookies of their places.
    #[must_use]
    pub const fn has_cookies(&self) -> bool {
        matches!(self.0, Way::Many(_))
    }

    /// Attaches a program to places in the file at `path`, in one process only.
    ///
    /// # Errors
    /// When one cannot be; then none is.
    pub fn attach(
        &mut self,
        program: &'static str,
        when: When,
        path: &Path,
        places: &[Place],
        tgid: Tgid,
    ) -> Result<Links, UprobeError> {
        let mut links = Links::default();
        match &mut self.0 {
            Way::Many(programs) => links.many.push(programs.attach(program, when, path, places, tgid)?),
            Way::Each(programs) => {
                let program = programs.get_mut(&(program, when)).ok_or(UprobeError::NoProgram(program))?;
                let scope = NonZeroU32::new(tgid.0).map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
                for place in places {
                    let link = program.attach(place.offset, path, scope)?;
                    links.each.push(program.take_link(link)?);
                }
            }
        }
        Ok(links)
    }

    /// What each program has cost, as the kernel counts it.
    #[must_use]
    pub fn run_statistics(&self, ebpf: &Ebpf) -> Vec<RunStatistics> {
        match &self.0 {
            Way::Many(programs) => {
                programs.descriptors().iter().filter_map(|(name, program)| statistics_of(name, program)).collect()
            }
            Way::Each(_) => run_statistics(ebpf),
        }
    }

    /// The programs' descriptors where aya does not know them, by name: what they cost is read from these.
    #[must_use]
    pub fn descriptors(&self) -> Vec<(&'static str, File)> {
        match &self.0 {
            Way::Many(programs) => programs.descriptors(),
            Way::Each(_) => Vec::new(),
        }
    }
}

fn load_each(ebpf: &mut Ebpf, programs: &[&'static str]) -> Result<EachProgram, UprobeError> {
    let mut each = BTreeMap::new();
    for name in programs {
        let program = ebpf.program_mut(name).ok_or(UprobeError::NoProgram(name))?;
        let program: &mut UProbe = program.try_into()?;
        program.load()?;
        for (when, kind) in [(When::Before, ProbeKind::Entry), (When::Returned, ProbeKind::Return)] {
            // SAFETY: the program was loaded as a `UProbe` above; the kind says only how it will be attached, and the
            // programs read nothing but registers.
            let handle = unsafe { UProbe::from_program_info(program.info()?, (*name).into(), kind) }?;
            each.insert((*name, when), handle);
        }
    }
    Ok(each)
}

/// What holds programs to their places. Dropping it detaches them, one after the other: see [`Links::detach`].
#[derive(Debug, Default)]
pub struct Links {
    many: Vec<OwnedFd>,
    each: Vec<UProbeLink>,
}

impl Links {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.many.is_empty() && self.each.is_empty()
    }

    /// Takes over the links of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.many.append(&mut other.many);
        self.each.append(&mut other.each);
    }

    /// Detaches, all at once: each link waits for the kernel's grace periods, which they then share.
    pub fn detach(self) {
        thread::scope(|scope| {
            for link in self.many {
                scope.spawn(move || drop(link));
            }
            // Nothing is won by more threads: the kernel ends perf events one by one.
            scope.spawn(move || drop(self.each));
        });
    }
}

/// Whether this kernel holds a link to many places to one process as it should: Linux 6.6 has such links, but until 6.10
/// they were for one thread of it.
fn many_is_right() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 11, 0))
}
