//! Puts programs on hooks, and takes them off in time.

use std::thread;

use aya::Btf;
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::trace_point::TracePointLink;
use aya::programs::{BtfTracePoint, Link as _, Program, ProgramError, RawTracePoint, TracePoint};

use super::Hook;

/// What holds programs to their hooks. Dropping it detaches them.
#[derive(Debug, Default)]
pub struct Attachments(Vec<Attachment>);

#[derive(Debug)]
enum Attachment {
    BtfTracepoint(BtfTracePointLink),
    RawTracepoint(RawTracePointLink),
    Tracepoint(TracePointLink),
}

impl Attachment {
    fn end(self) -> Result<(), ProgramError> {
        match self {
            Self::BtfTracepoint(link) => link.detach(),
            Self::RawTracepoint(link) => link.detach(),
            Self::Tracepoint(link) => link.detach(),
        }
    }
}

impl Attachments {
    /// Loads a program for a hook, if that was not done yet.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load(program: &mut Program, hook: Hook, btf: Option<&Btf>) -> Result<(), ProgramError> {
        match program {
            _ if program.fd().is_ok() => Ok(()),
            Program::BtfTracePoint(program) => {
                program.load(hook.name(), btf.ok_or(ProgramError::UnexpectedProgramType)?)
            }
            Program::RawTracePoint(program) => program.load(),
            Program::TracePoint(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// Attaches a program to a hook; loads it before if that was not done yet, for which some hooks need the kernel's types.
    ///
    /// # Errors
    /// When the kernel refuses either.
    pub fn attach(&mut self, program: &mut Program, hook: Hook, btf: Option<&Btf>) -> Result<(), ProgramError> {
        Self::load(program, hook, btf)?;
        let attachment = match hook {
            Hook::BtfTracepoint(_) => {
                let program: &mut BtfTracePoint = program.try_into()?;
                let link = program.attach()?;
                Attachment::BtfTracepoint(program.take_link(link)?)
            }
            Hook::RawTracepoint(name) => {
                let program: &mut RawTracePoint = program.try_into()?;
                let link = program.attach(name)?;
                Attachment::RawTracepoint(program.take_link(link)?)
            }
            Hook::Tracepoint(category, name) => {
                let program: &mut TracePoint = program.try_into()?;
                let link = program.attach(category, name)?;
                Attachment::Tracepoint(program.take_link(link)?)
            }
        };
        self.0.push(attachment);
        Ok(())
    }

    /// Detaches, all at once: each waits for the kernel's grace periods, which they then share. The programs stay loaded.
    ///
    /// # Errors
    /// When the kernel does not let go of one; it is the first that is told.
    pub fn detach(&mut self) -> Result<(), ProgramError> {
        thread::scope(|scope| {
            let ends: Vec<_> = self.0.drain(..).map(|attachment| scope.spawn(|| attachment.end())).collect();
            ends.into_iter().filter_map(|end| end.join().ok()).collect()
        })
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            log::debug!("a program stays attached until this process ends: {error}");
        }
    }
}
