//! A place of their own for programs: a network that is nothing but loopback, on which some names lead to it.
//!
//! What runs there can take any port, and reaches nobody outside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::{ffi, ptr, thread};

use anyhow::{Context, Result};

/// A network namespace and a mount namespace, which live as long as this or anything that runs in them.
#[derive(Debug)]
pub struct Hermetic {
    network: File,
    mounts: File,
}

impl Hermetic {
    /// Makes one in which `names` are those of the loopback. `folder` takes the file that says so, and has to stay.
    ///
    /// # Errors
    /// When this process may not make namespaces.
    pub fn new(names: &[&str], folder: &Path) -> Result<Self> {
        let hosts = folder.join("hosts");
        let text = format!("127.0.0.1 localhost\n127.0.0.1 {}\n", names.join(" "));
        fs::write(&hosts, text).with_context(|| format!("writing {}", hosts.display()))?;
        let hosts = ffi::CString::new(hosts.into_os_string().into_encoded_bytes()).context("a path without NUL")?;
        // A thread moves into new namespaces and ends; what it has opened keeps them.
        let made = thread::spawn(move || Self::make(&hosts)).join();
        made.unwrap_or_else(|_| Err(anyhow::anyhow!("the thread that makes them panicked")))
    }

    fn make(hosts: &ffi::CStr) -> Result<Self> {
        // SAFETY: unshare takes a number, and changes nothing but what this thread sees.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) }).context("making namespaces")?;
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE).context("keeping mounts to itself")?;
        mount(hosts, c"/etc/hosts", libc::MS_BIND).context("putting a file over /etc/hosts")?;
        loopback_up().context("bringing the loopback up")?;
        let open = |kind: &str| {
            let path = format!("/proc/thread-self/ns/{kind}");
            File::open(&path).with_context(|| format!("opening {path}"))
        };
        Ok(Self { network: open("net")?, mounts: open("mnt")? })
    }

    /// Has a command run there. It keeps its process id: nothing stands between.
    ///
    /// # Panics
    /// When this process has no descriptors left.
    pub fn contain<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let spaces = [&self.network, &self.mounts].map(|space| space.try_clone().expect("a descriptor can be had"));
        // SAFETY: setns is async-signal-safe, and the closure touches no memory but its own.
        unsafe {
            command.pre_exec(move || spaces.iter().try_for_each(|space| checked(libc::setns(space.as_raw_fd(), 0))))
        }
    }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mount(source: &ffi::CStr, target: &ffi::CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: both paths end in NUL and live through the call; with these flags the kernel reads neither type nor data.
    checked(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), flags, ptr::null()) })
}

/// Brings the loopback up, with a second address: resolvers that are asked for addresses of families in use
/// (`AI_ADDRCONFIG`) do not count 127.0.0.1.
fn loopback_up() -> io::Result<()> {
    // SAFETY: socket takes plain numbers; the descriptor that it gives belongs to nobody else.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(socket)
    };
    let configure = |name: &[u8], operation: libc::Ioctl, value: libc::__c_anonymous_ifr_ifru| {
        let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: value };
        for (place, byte) in request.ifr_name.iter_mut().zip(name) {
            *place = byte.cast_signed();
        }
        // SAFETY: the request is of the type that these operations read, and lives through the call.
        checked(unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw const request) })
    };
    let flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    configure(b"lo", libc::SIOCSIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags: flags })?;
    // SAFETY: all zeros are a good value of this plain structure.
    let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
    address.sa_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(2);
    // Behind the port, as in `sockaddr_in`.
    for (place, byte) in address.sa_data[2..].iter_mut().zip([127_u8, 0, 0, 2]) {
        *place = byte.cast_signed();
    }
    configure(b"lo:1", libc::SIOCSIFADDR, libc::__c_anonymous_ifr_ifru { ifru_addr: address })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root, that is; anybody else is told why not.
    #[test]
    fn names_lead_to_a_loopback_that_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        // SAFETY: geteuid cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            let error = Hermetic::new(&["discord.com"], folder.path()).expect_err("namespaces take root");
            assert!(format!("{error:#}").contains("making namespaces"), "{error:#}");
            return test_skips::skip("only root can make network namespaces");
        }
        let place = Hermetic::new(&["discord.com"], folder.path()).expect("root makes namespaces");
        let outside = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = outside.local_addr().expect("an address").port();
        let script = format!("getent hosts discord.com && ! (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null");
        let mut command = Command::new("bash");
        let output = place.contain(command.args(["-c", &script])).output().expect("bash starts");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("127.0.0.1"), "{output:?}");
    }
}
