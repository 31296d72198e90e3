//! Uprobes at many places by one link (`BPF_TRACE_UPROBE_MULTI` of `linux/bpf.h`), which the library that loads
//! everything else does not offer: it loads programs without that attach type, and makes no such links.
//!
//! It parses and relocates, though. So the object is relocated once more against the maps that are loaded already, and the
//! programs are handed to the kernel from here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::generated::{BPF_F_UPROBE_MULTI_RETURN, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};
use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{Object, ParseError};

use super::{Place, When};
use crate::units::Tgid;

/// Why a program does not stand at its places.
#[derive(Debug, thiserror::Error)]
pub enum ManyError {
    /// The object is not understood.
    #[error("cannot read the BPF object")]
    Parse(#[from] ParseError),
    /// The object does not fit the maps.
    #[error("cannot relocate the BPF object")]
    Relocate(#[from] EbpfRelocationError),
    /// The object has no such program.
    #[error("the BPF object has no program `{0}`")]
    NoProgram(&'static str),
    /// The kernel did not take a program.
    #[error("the kernel refused the program `{program}`")]
    Load {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not attach a program.
    #[error("cannot attach `{program}`")]
    Attach {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The programs, loaded for links to many places.
pub(super) struct ManyPrograms(BTreeMap<&'static str, OwnedFd>);

impl ManyPrograms {
    pub(super) fn load(
        ebpf: &Ebpf,
        object: &[u8],
        programs: impl Iterator<Item = &'static str>,
    ) -> Result<Self, ManyError> {
        let mut object = Object::parse(object)?;
        let descriptors: HashMap<&str, RawFd> =
            ebpf.maps().filter_map(|(name, map)| Some((name, data(map)?.fd().as_fd().as_raw_fd()))).collect();
        let maps = mem::take(&mut object.maps);
        let maps = maps.iter().filter_map(|(name, map)| Some((name.as_str(), *descriptors.get(name.as_str())?, map)));
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(maps, &text)?;
        object.relocate_calls(&text)?;
        let programs = Self(programs.map(|name| Ok((name, load(&object, name)?))).collect::<Result<_, ManyError>>()?);
        programs.ask()?;
        Ok(programs)
    }

    /// Takes over the programs of `other`.
    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Asks the kernel whether it has such links, by one that it must refuse: a folder has no code. That it has none
    /// shows in a different refusal.
    fn ask(&self) -> Result<(), ManyError> {
        let Some((program, _)) = self.0.first_key_value() else { return Ok(()) };
        match self.attach(program, When::Before, Path::new("/"), &[Place::at(0)], Tgid(std::process::id())) {
            Err(ManyError::Attach { source, .. }) if source.raw_os_error() == Some(libc::EBADF) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) fn attach(
        &self,
        program: &'static str,
        when: When,
        path: &Path,
        places: &[Place],
        tgid: Tgid,
    ) -> Result<OwnedFd, ManyError> {
        let descriptor = self.0.get(program).ok_or(ManyError::NoProgram(program))?;
        let failed = |source| ManyError::Attach { program, source };
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
        let offsets: Vec<u64> = places.iter().map(|place| place.offset).collect();
        let cookies: Vec<u64> = places.iter().map(|place| place.cookie).collect();
        // SAFETY: a union of structures of integers, for which zeros are a value.
        let mut attributes = unsafe { mem::zeroed::<bpf_attr>() };
        // SAFETY: every field written is of plain integers, and the kernel reads this member of the union for this command.
        unsafe {
            let link = &mut attributes.link_create;
            link.__bindgen_anon_1.prog_fd = descriptor.as_raw_fd().cast_unsigned();
            link.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
            let many = &mut link.__bindgen_anon_3.uprobe_multi;
            many.path = path.as_ptr() as u64;
            many.offsets = offsets.as_ptr() as u64;
            many.cookies = cookies.as_ptr() as u64;
            many.cnt = u32::try_from(offsets.len()).unwrap_or(u32::MAX);
            many.flags = if when == When::Returned { BPF_F_UPROBE_MULTI_RETURN } else { 0 };
            many.pid = tgid.0;
        }
        // SAFETY: `path`, `offsets` and `cookies` live until the call has returned, and are as long as is said.
        unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }.map_err(failed)
    }

    pub(super) fn descriptors(&self) -> Vec<(&'static str, File)> {
        self.0.iter().filter_map(|(name, descriptor)| Some((*name, descriptor.try_clone().ok()?.into()))).collect()
    }
}

fn load(object: &Object, name: &'static str) -> Result<OwnedFd, ManyError> {
    let program = object.programs.get(name).ok_or(ManyError::NoProgram(name))?;
    let function = object.functions.get(&program.function_key()).ok_or(ManyError::NoProgram(name))?;
    // SAFETY: as in `attach`.
    let mut attributes = unsafe { mem::zeroed::<bpf_attr>() };
    // SAFETY: as in `attach`.
    unsafe {
        let load = &mut attributes.__bindgen_anon_3;
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
        load.expected_attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        load.insns = function.instructions.as_ptr() as u64;
        load.insn_cnt = u32::try_from(function.instructions.len()).unwrap_or(u32::MAX);
        load.license = program.license.as_ptr() as u64;
        // The rest of the name stays zero, the last byte of it in any case.
        let room = load.prog_name.len() - 1;
        for (to, from) in load.prog_name[..room].iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
    }
    // SAFETY: instructions and licence live in `object` until the call has returned.
    unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes) }.map_err(|source| ManyError::Load { program: name, source })
}

/// A `bpf` call that returns a descriptor.
///
/// # Safety
/// What the attributes point to lives until it returns, and is as long as they say.
unsafe fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let attributes: *mut bpf_attr = attributes;
    // SAFETY: the pointer is to live attributes of that size; the caller answers for what they point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, attributes, mem::size_of::<bpf_attr>()) };
    let descriptor = RawFd::try_from(result).ok().filter(|descriptor| *descriptor >= 0);
    // SAFETY: the kernel has just made this descriptor for us.
    descriptor.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).ok_or_else(io::Error::last_os_error)
}

/// What the library keeps of a map, for the kinds that the object has.
const fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data) | Map::RingBuf(data) => {
            Some(data)
        }
        _ => None,
    }
}
