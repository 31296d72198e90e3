//! A process that does what it is told, a line of its standard input each, so that a test knows what it did.
//!
//! After each it says the order's number, counted from 1, and `done` or what was asked for.

use std::fs::File;
use std::io::{BufRead, Write, stdin, stdout};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use std::{ptr, thread};

fn main() {
    let mut memory: Vec<Vec<u8>> = Vec::new();
    let mut files: Vec<File> = Vec::new();
    // One that another thread's `exec` made goes on counting where its predecessor was.
    let before = std::env::args().nth(1).map_or(0, |text| text.parse::<usize>().expect("a number"));
    if before > 0 {
        println!("{before} done");
    }
    for (place, line) in stdin().lock().lines().enumerate() {
        let say = |answer: &str| {
            let mut output = stdout();
            writeln!(output, "{} {answer}", before + place + 1)
                .and_then(|()| output.flush())
                .expect("somebody listens");
        };
        let line = line.expect("orders are text");
        let (order, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let number = || argument.parse::<usize>().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        match order {
            "allocate" => memory.push(touched(number())),
            "open" => files.extend((0..number()).map(|_| File::open("/dev/null").expect("it is there"))),
            "close" => files.clear(),
            "limit" => limit(number()),
            "threads" => (0..number()).for_each(|_| drop(thread::spawn(park))),
            "burn" => burn(number()),
            "wait" => (0..number()).for_each(|_| thread::sleep(Duration::from_millis(1))),
            "write" => write(number()),
            "fault" => fault(number()),
            "run" => drop(Command::new(argument).status().expect("it can be run")),
            "fork" => {
                say(&fork(number()).to_string());
                continue;
            }
            "usage" => {
                say(&usage());
                continue;
            }
            "become" => become_anew(before + place + 1),
            "leave" => leave(number()),
            "raise" => raise(number()),
            // Without what the runtime does at an end: the code alone is what counts.
            "exit" => exit(number()),
            other => panic!("nobody knows how to {other}"),
        }
        say("done");
    }
}

fn park() {
    loop {
        thread::park();
    }
}

/// Memory of which every page was written.
fn touched(bytes: usize) -> Vec<u8> {
    const PAGE: usize = 4096;
    let mut memory = vec![0; bytes];
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    std::hint::black_box(memory)
}

fn limit(files: usize) {
    let files = files as libc::rlim_t;
    let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
    // SAFETY: the pointer is to a live rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn used() -> libc::rusage {
    let mut usage = MaybeUninit::zeroed();
    // SAFETY: the pointer is to writable memory of the right type, for which zeros are a value.
    unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    }
}

fn seconds(time: libc::timeval) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a test lasts seconds")]
    let seconds = time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds
}

/// Computes for this many milliseconds of processor time.
fn burn(milliseconds: usize) {
    #[allow(clippy::cast_precision_loss, reason = "a test lasts seconds")]
    let end = seconds(used().ru_utime) + milliseconds as f64 / 1e3;
    while seconds(used().ru_utime) < end {
        std::hint::black_box((0..100_000_u64).fold(0, |sum, number| sum ^ std::hint::black_box(number)));
    }
}

/// Writes this many bytes to a file that nobody else sees, and has them go to the disk.
fn write(bytes: usize) {
    drop(written(bytes));
}

/// Reads this many pages of such a file from the disk by touching them, each by a major fault of its own.
fn fault(pages: usize) {
    const PAGE: usize = 4096;
    let length = pages * PAGE;
    let file = written(length);
    // SAFETY: the descriptor is live; the kernel chooses where the mapping is, which is as long as the file and outlives every
    // access; what is written to the disk may leave memory.
    unsafe {
        assert_eq!(libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED), 0);
        let memory = libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
        assert_ne!(memory, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        // None is read because its neighbour is.
        assert_eq!(libc::madvise(memory, length, libc::MADV_RANDOM), 0);
        for page in 0..pages {
            assert_eq!(memory.cast::<u8>().add(page * PAGE).read_volatile(), 39);
        }
        libc::munmap(memory, length);
    }
}

/// A file of this many bytes that nobody else sees, all of them on the disk.
fn written(bytes: usize) -> File {
    // SAFETY: the path ends in a zero byte; the descriptor is new and owned by nobody else.
    let mut file = unsafe {
        let fd = libc::open(c"/var/tmp".as_ptr(), libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC, 0o600);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        File::from(OwnedFd::from_raw_fd(fd))
    };
    file.write_all(&vec![39; bytes]).and_then(|()| file.sync_all()).expect("there is room");
    file
}

/// Has a child end with this code, and tells the status that the system gave.
fn fork(code: usize) -> i32 {
    // SAFETY: this process has one thread, and the child calls nothing but `_exit`.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(as_code(code));
        }
        assert!(child > 0, "{}", std::io::Error::last_os_error());
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    }
}

fn usage() -> String {
    let used = used();
    format!(
        r#"{{"user": {}, "system": {}, "voluntary": {}, "involuntary": {}, "minor": {}, "major": {}}}"#,
        seconds(used.ru_utime),
        seconds(used.ru_stime),
        used.ru_nvcsw,
        used.ru_nivcsw,
        used.ru_minflt,
        used.ru_majflt
    )
}

/// Becomes this program anew, by another thread than the first.
fn become_anew(orders: usize) {
    let program = std::env::current_exe().expect("it has a path");
    let thread = thread::spawn(move || Command::new(program).arg(orders.to_string()).exec());
    panic!("it does not become another: {:?}", thread.join());
}

/// Ends the first thread alone; another one ends the process a moment later, with this code.
fn leave(code: usize) {
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        exit(code);
    });
    // SAFETY: the call ends this thread, which holds nothing that the other one needs.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

fn raise(signal: usize) {
    let signal = as_code(signal);
    // It is meant to die, and nobody looks at what is left of it.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit; the others take numbers, and the runtime's own handlers are for faults, of which
    // this is none.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_CORE, &raw const none), 0);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn exit(code: usize) {
    // SAFETY: it takes a number and does not return.
    unsafe { libc::_exit(as_code(code)) }
}

fn as_code(number: usize) -> i32 {
    i32::try_from(number).expect("it is a small number")
}
