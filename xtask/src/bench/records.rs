//! User-space processing on a replayed stream, by criterion.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report::{Kind, Report, Table};
use super::stage::Stage;
use crate::sh::{Sh, workspace};

const GOAL: f64 = 1e6;

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("records: user-space processing on one core");
    let started = SystemTime::now();
    let bench = Sh::new("cargo").args(["bench", "--package", "miku-probe", "--bench", "records", "--", "--noplot"]);
    let seconds = stage.choose("10", "3");
    bench.args(["--measurement-time", seconds, "--warm-up-time", "1"]).output()?;
    let mut folders = Vec::new();
    find(&workspace().join("target/criterion"), &mut folders)?;
    let mut table = Table::new("Records a second, by the mean time of a replay", &["stream", "records", "records/s"]);
    for folder in folders {
        let estimates = folder.join("estimates.json");
        // Benches of other names may lie there from before.
        if fs::metadata(&estimates).and_then(|file| file.modified()).is_ok_and(|time| time < started) {
            continue;
        }
        let (about, estimates) = (read(&folder.join("benchmark.json"))?, read(&estimates)?);
        let Some(records) = about["throughput"]["Elements"].as_f64() else { continue };
        let nanoseconds = estimates["mean"]["point_estimate"].as_f64().context("criterion tells no mean")?;
        let name = about["full_id"].as_str().context("a bench without a name")?;
        let rate = records / nanoseconds * 1e9;
        table.row(vec![name.to_owned(), records.to_string(), format!("{rate:.0}")]);
        report.number(name, json!({"records": records, "per_second": rate}));
        let goal = format!("{name}: at least 1,000,000 records a second");
        report.verdict(Kind::Measure, goal, format!("{rate:.0}"), rate >= GOAL);
    }
    report.table(table);
    ensure!(report.measured(), "the bench `records` tells no throughput in elements");
    Ok(report)
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

/// The folders in which criterion keeps the latest run of each bench.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry.context("a folder's entry")?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name == "new") {
            found.push(path);
        } else if path.is_dir() {
            find(&path, found)?;
        }
    }
    found.sort();
    Ok(())
}
