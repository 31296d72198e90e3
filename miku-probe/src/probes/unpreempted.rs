//! Keeps a thread on its processor while it uses maps.
//!
//! Within a system call on a map the kernel leaves out all programs in the ordinary form on that processor (see
//! [`super::Form`]). A thread that is preempted there makes that last until it runs again: until then nothing is seen of
//! whoever took its place. One of a real-time policy is not preempted by those that have none.

use std::marker::PhantomData;
use std::sync::LazyLock;

use super::Form;

/// While it lives, no thread without a real-time policy takes the processor from the one that made it. To be held for as long
/// as a map is used, and no longer.
pub(super) struct Unpreempted {
    /// The policy before, if it was changed.
    before: Option<libc::c_int>,
    /// It is the thread's that made it.
    thread: PhantomData<*const ()>,
}

impl Unpreempted {
    /// For the calling thread, where what is exact elsewhere depends on programs in the ordinary form: changing a policy costs
    /// more than the use of a map.
    pub(super) fn new() -> Self {
        static FORM: LazyLock<Form> = LazyLock::new(Form::of_this_kernel);
        match *FORM {
            Form::Ordinary => Self::take(),
            Form::Raw => Self { before: None, thread: PhantomData },
        }
    }

    /// Where the system refuses, which it may, all is as it was.
    fn take() -> Self {
        // SAFETY: the call takes no pointer.
        let before = unsafe { libc::sched_getscheduler(0) };
        let ordinary = matches!(before, libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE);
        let changed = ordinary && set(libc::SCHED_FIFO, 1);
        Self { before: changed.then_some(before), thread: PhantomData }
    }
}

impl Drop for Unpreempted {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && !set(before, 0)
        {
            log::warn!("a thread keeps a real-time policy: {}", std::io::Error::last_os_error());
        }
    }
}

/// Gives the calling thread a policy; its nice value stays. Says whether the system did.
fn set(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to live parameters, which the call reads.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: the call takes no pointer.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn what_it_changes_it_changes_back_and_only_the_outer_one_does() {
        let before = policy();
        let outer = Unpreempted::take();
        if outer.before.is_none() {
            return test_skips::skip("this thread may not take a real-time policy (CAP_SYS_NICE)");
        }
        assert_eq!(policy(), libc::SCHED_FIFO);
        drop(Unpreempted::take());
        assert_eq!(policy(), libc::SCHED_FIFO, "the inner one changed nothing");
        drop(outer);
        assert_eq!(policy(), before);
    }
}
