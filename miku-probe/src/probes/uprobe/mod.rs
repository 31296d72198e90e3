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

/// The programs of uprobes, loaded.
pub struct Uprobes(Way);

enum Way {
    /// A link for all places of a program in a file.
    Many(ManyPrograms),
    /// A perf event a place. A program for each [`When`], which only user space tells apart.
    Each(BTreeMap<(&'static str, When), UProbe>),
}

impl Uprobes {
    /// Loads `programs` of the object that `ebpf` was made of, sharing its maps, none of which must have been taken.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn load(ebpf: &mut Ebpf, object: &[u8], programs: &[&'static str]) -> Result<Self, UprobeError> {
        if many_is_right() {
            match ManyPrograms::load(ebpf, object, programs) {
                Ok(programs) => return Ok(Self(Way::Many(programs))),
                // A kernel may be built without it; what is wrong with the programs themselves shows below.
                Err(error) => log::info!("uprobes are attached one by one, and detach slowly: {error}"),
            }
        }
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
        Ok(Self(Way::Each(each)))
    }

    /// Attaches a program to places, which are offsets in the file at `path`, in one process only.
    ///
    /// # Errors
    /// When one cannot be; then none is.
    pub fn attach(
        &mut self,
        program: &'static str,
        when: When,
        path: &Path,
        offsets: &[u64],
        tgid: Tgid,
    ) -> Result<Links, UprobeError> {
        let mut links = Links::default();
        match &mut self.0 {
            Way::Many(programs) => links.many.push(programs.attach(program, when, path, offsets, tgid)?),
            Way::Each(programs) => {
                let program = programs.get_mut(&(program, when)).ok_or(UprobeError::NoProgram(program))?;
                let scope = NonZeroU32::new(tgid.0).map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
                for offset in offsets {
                    let link = program.attach(*offset, path, scope)?;
                    links.each.push(program.take_link(link)?);
                }
            }
        }
        Ok(links)
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

/// What holds programs to their places. Dropping it detaches them, one after the other: see [`Links::detach`].
#[derive(Debug, Default)]
pub struct Links {
    many: Vec<OwnedFd>,
    each: Vec<UProbeLink>,
}

impl Links {
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
