//! Which mutant is active in this process; woven into a copy of miku-probe by `cargo xtask mutants`.

use std::cell::RefCell;
use std::env;
use std::fs::File;
use std::io::Write;
use std::sync::LazyLock;
use std::thread;

static ACTIVE: LazyLock<Option<usize>> = LazyLock::new(|| env::var("MUTANT").ok()?.parse().ok());

/// Where to write which thread, which is named after the test that it runs, reaches which mutant.
static TRACE: LazyLock<Option<File>> = LazyLock::new(|| {
    let path = env::var_os("MUTANT_TRACE")?;
    Some(File::options().create(true).append(true).open(path).expect("the trace can be written"))
});

thread_local! {
    static REACHED: RefCell<Vec<bool>> = const { RefCell::new(Vec::new()) };
}

/// Whether the program is to run with this mutant.
pub fn is_active(id: usize) -> bool {
    if TRACE.is_some() {
        trace(id);
    }
    *ACTIVE == Some(id)
}

fn trace(id: usize) {
    let first = REACHED.try_with(|reached| {
        let mut reached = reached.borrow_mut();
        if reached.len() <= id {
            reached.resize(id + 1, false);
        }
        !std::mem::replace(&mut reached[id], true)
    });
    // A thread that is ending has nothing left to remember by.
    if first.unwrap_or(true) {
        let line = format!("{id} {}\n", thread::current().name().unwrap_or_default());
        TRACE.as_ref().expect("a trace is asked for").write_all(line.as_bytes()).expect("the trace can be written");
    }
}
