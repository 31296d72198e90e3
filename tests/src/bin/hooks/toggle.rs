//! What is switched on and off, in one place and quickly, while somebody else measures the difference.

use std::fs;
use std::io::{self, BufRead as _};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapInfo};
use miku_probe::probes::{Attachments, Kernel, Maps};

use crate::variants::{SIZES, attach_empty, slot};

/// Something with two states.
pub(crate) trait Toggle {
    fn turn(&mut self, on: bool) -> Result<()>;
}

/// Obeys `on` and `off` on standard input, a line each, until it ends; every line is answered by its number once it is done.
pub(crate) fn obey(toggle: &mut dyn Toggle) -> Result<()> {
    for (number, line) in (1..).zip(io::stdin().lock().lines()) {
        match line.context("cannot read orders")?.as_str() {
            "on" => toggle.turn(true)?,
            "off" => toggle.turn(false)?,
            other => bail!("an order is `on` or `off`, not {other:?}"),
        }
        // Standard output ends every line by itself.
        println!("{number}");
    }
    Ok(())
}

/// Empty programs on every hook of the probe, or nothing there.
pub(crate) struct Empty {
    attachments: Attachments,
    ebpf: Ebpf,
    event_loops: bool,
}

impl Empty {
    pub(crate) fn load(object: &[u8], event_loops: bool) -> Result<Self> {
        let ebpf = Ebpf::load(object).context("the kernel refuses the object")?;
        Ok(Self { attachments: Attachments::default(), ebpf, event_loops })
    }
}

impl Toggle for Empty {
    fn turn(&mut self, on: bool) -> Result<()> {
        if on {
            attach_empty(&mut self.ebpf, &mut self.attachments, self.event_loops)
        } else {
            Ok(self.attachments.detach()?)
        }
    }
}

/// The probe's own programs on its hooks with nobody to watch, or nothing there. They stay loaded.
pub(crate) struct Idle {
    kernel: Kernel,
    /// The programs are loaded when they are attached for the first time, and need them until then.
    _maps: Maps,
    event_loops: bool,
}

impl Idle {
    pub(crate) fn load(event_loops: bool) -> Result<Self> {
        let (kernel, maps) = Kernel::load(SIZES)?;
        Ok(Self { kernel, _maps: maps, event_loops })
    }
}

impl Toggle for Idle {
    fn turn(&mut self, on: bool) -> Result<()> {
        if !on {
            return Ok(self.kernel.detach()?);
        }
        self.kernel.attach()?;
        if self.event_loops {
            self.kernel.tell_turns();
        }
        Ok(())
    }
}

/// A running probe's sight of a process: its hooks stay attached, and its programs take the process for a stranger's.
pub(crate) struct Sight {
    filter: Array<MapData, u64>,
    slot: u32,
}

impl Sight {
    /// Of the probe `probe`, which watches `pid`.
    pub(crate) fn of(probe: u32, pid: u32) -> Result<Self> {
        let folder = format!("/proc/{probe}/fdinfo");
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry.context("cannot read a folder")?.path()) else { continue };
            let Some(id) = text.lines().find_map(|line| line.strip_prefix("map_id:")) else { continue };
            let id = id.trim().parse().with_context(|| format!("the number of a map: {id:?}"))?;
            if MapInfo::from_id(id)?.name_as_str() == Some("FILTER") {
                let filter = Map::from_map_data(MapData::from_id(id)?)?.try_into().context("the filter is no array")?;
                return Ok(Self { filter, slot: slot(pid) });
            }
        }
        bail!("process {probe} holds no filter: it is no probe")
    }
}

impl Toggle for Sight {
    fn turn(&mut self, on: bool) -> Result<()> {
        self.filter.set(self.slot, u64::from(on), 0).context("cannot change the filter")
    }
}
