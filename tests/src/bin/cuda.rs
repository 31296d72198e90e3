//! A process that asks the CUDA driver for memory as it is told, and says what came of it.
//!
//! Lines of its standard input: `load PATH` loads the library, `FUNCTION BYTES COUNT` asks so many times. Each is answered by
//! `done N REFUSED`, with the number of the line.

use std::io::{BufRead, stdin};
use std::path::Path;

use anyhow::{Context, Result};
use miku_probe_tests::cuda::Cuda;

fn main() -> Result<()> {
    let mut cuda = None;
    println!("ready");
    for (number, line) in stdin().lock().lines().enumerate() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let mut refused = 0;
        match words[..] {
            ["load", path] => cuda = Some(Cuda::load(Path::new(path))?),
            [function, bytes, count] => {
                let cuda = cuda.context("nothing is loaded")?;
                for _ in 0..count.parse()? {
                    refused += u64::from(cuda.allocate(function, bytes.parse()?)?.1 != 0);
                }
            }
            _ => anyhow::bail!("`{line}` means nothing"),
        }
        println!("done {} {refused}", number + 1);
    }
    Ok(())
}
