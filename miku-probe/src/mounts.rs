//! The two file systems of the kernel that probing needs, mounted where a fresh machine has not done so.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// A file system of the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFs {
    /// Its type, as `mount(8)` calls it.
    pub kind: &'static str,
    /// Where it belongs.
    pub path: &'static str,
    /// Its number in `statfs(2)` (`include/uapi/linux/magic.h`).
    magic: u32,
}

/// The tracepoints' descriptions.
pub const TRACEFS: KernelFs = KernelFs { kind: "tracefs", path: "/sys/kernel/tracing", magic: 0x7472_6163 };

/// Where BPF objects can be pinned.
pub const BPFFS: KernelFs = KernelFs { kind: "bpf", path: "/sys/fs/bpf", magic: 0xcafe_4a11 };

impl KernelFs {
    /// Whether it is mounted where it belongs.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        let Ok(path) = CString::new(self.path) else { return false };
        let mut status = MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the path ends in a zero byte and the buffer is live, writable and of the type that statfs fills.
        let result = unsafe { libc::statfs(path.as_ptr(), status.as_mut_ptr()) };
        // SAFETY: it began as zeros, which is a valid statfs, whatever the call did.
        let kind = unsafe { status.assume_init() }.f_type;
        // The type of the field differs between platforms; its low 32 bits hold the number everywhere.
        result == 0 && kind as u32 == self.magic
    }

    /// The command that mounts it.
    #[must_use]
    pub fn command(&self) -> String {
        format!("mount -t {0} {0} {1}", self.kind, self.path)
    }

    /// Mounts it if it is not, and says so; tells whether it had to.
    ///
    /// # Errors
    /// When the kernel refuses: it takes `CAP_SYS_ADMIN`, and a kernel that has this file system.
    pub fn ensure_mounted(&self) -> io::Result<bool> {
        if self.is_mounted() {
            return Ok(false);
        }
        let (kind, path) = (CString::new(self.kind)?, CString::new(self.path)?);
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        // SAFETY: the three texts end in a zero byte and live through the call; neither file system takes data.
        let result = unsafe { libc::mount(kind.as_ptr(), path.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        log::info!("mounted {} at {}", self.kind, self.path);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_in_its_place_does_not_count() {
        let proc = KernelFs { kind: "proc", path: "/proc", magic: 0x9fa0 };
        assert!(proc.is_mounted(), "the number is that of procfs, which these tests stand on");
        assert!(!KernelFs { path: "/proc", ..TRACEFS }.is_mounted());
        assert!(!KernelFs { path: "/nonexistent", ..TRACEFS }.is_mounted());
        assert!(!proc.ensure_mounted().expect("nothing is to be done"));
        assert_eq!(TRACEFS.command(), "mount -t tracefs tracefs /sys/kernel/tracing");
    }
}
