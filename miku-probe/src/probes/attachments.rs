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
    /// Attaches a program to a hook; loads it before if that was not done yet, for which some hooks need the kernel's types.
    ///
    /// # Errors
    /// When the kernel refuses either.
    pub fn attach(&mut self, program: &mut Program, hook: Hook, btf: Option<&Btf>) -> Result<(), ProgramError> {
        let attachment = match hook {
            Hook::BtfTracepoint(name) => {
                let program: &mut BtfTracePoint = program.try_into()?;
                if program.fd().is_err() {
                    program.load(name, btf.ok_or(ProgramError::UnexpectedProgramType)?)?;
                }
                let link = program.attach()?;
                Attachment::BtfTracepoint(program.take_link(link)?)
            }
            Hook::RawTracepoint(name) => {
                let program: &mut RawTracePoint = program.try_into()?;
                if program.fd().is_err() {
                    program.load()?;
                }
                let link = program.attach(name)?;
                Attachment::RawTracepoint(program.take_link(link)?)
            }
            Hook::Tracepoint(category, name) => {
                let program: &mut TracePoint = program.try_into()?;
                if program.fd().is_err() {
                    program.load()?;
                }
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
