//! What the process gives up when its sockets and files are open: the user that it was started as, all capabilities, new rights by any program, and
//! all system calls that it does not need.
//!
//! What is left: reading files that everybody may read (`/etc/resolv.conf`), sockets of IPv4 and IPv6 to ask others, and what is open.
//! A call that is not on the list fails with EPERM; it does not end the process.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Nobody: what the kernel takes for who is not known.
const NOBODY: u32 = 65_534;

/// Most open files: sockets of guests, and of questions on their way.
const FILES: u64 = 2048;

/// Flags of clone(2).
const THREAD: u64 = libc::CLONE_THREAD.unsigned_abs() as u64;
const NAMESPACES: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS)
    .unsigned_abs() as u64;

/// Why the process is not confined, and does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {reason}")]
pub struct ConfinementError {
    operation: &'static str,
    reason: String,
}

/// Gives up what is not needed any more. Before there is another thread.
pub(crate) fn confine() -> Result<(), ConfinementError> {
    let failed = |operation| {
        move |error: rustix::io::Errno| ConfinementError {
            operation,
            reason: io::Error::from(error).to_string(),
        }
    };
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum: Some(FILES) })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: Some(256) }))
        .map_err(failed("limit its open files"))?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(failed("do without core files"))?;
    if rustix::process::geteuid().is_root() {
        leave_root().map_err(failed("become nobody"))?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(failed("give up capabilities"))?;
    set_no_new_privs(true).map_err(failed("do without new rights"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("hide its memory"))?;
    limit_calls()
        .map_err(|error| ConfinementError { operation: "limit its system calls", reason: error.to_string() })
}

/// Limits the system calls of this thread, and of those that it starts.
fn limit_calls() -> Result<(), seccompiler::Error> {
    // The stricter answer of two filters counts; after the second there are no more.
    seccompiler::apply_filter(&without_clone3()?)?;
    seccompiler::apply_filter(&filter()?)
}

/// What `clone3` is asked for is in memory, where a filter can't look. A C library that is told that the kernel has none uses `clone`.
fn without_clone3() -> Result<BpfProgram, seccompiler::Error> {
    let errno = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let calls = [(libc::SYS_clone3, Vec::new())].into();
    SeccompFilter::new(calls, SeccompAction::Allow, errno, architecture()?)
        .and_then(BpfProgram::try_from)
        .map_err(seccompiler::Error::Backend)
}

fn architecture() -> Result<seccompiler::TargetArch, seccompiler::Error> {
    std::env::consts::ARCH.try_into().map_err(seccompiler::Error::Backend)
}

/// Becomes nobody. In a user namespace that has no nobody, root stays root there, without capabilities.
fn leave_root() -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    match set_thread_groups(&[]).and_then(|()| set_thread_res_gid(group, group, group)) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) if !is_initial_namespace() => return Ok(()),
        result => result?,
    }
    set_thread_res_uid(user, user, user)
}

/// Whether all users are there: the first namespace of users maps every number to itself.
fn is_initial_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: Vec<(i64, Vec<SeccompRule>)> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let argument =
        |place, operator, value| SeccompCondition::new(place, SeccompCmpArgLen::Dword, operator, value);
    // Threads of this process, in its namespaces: no other process, and no user namespace in which it would have all rights.
    let thread = argument(0, SeccompCmpOp::MaskedEq(THREAD | NAMESPACES), THREAD)?;
    rules.push((libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]));
    // Sockets to ask others; nothing of the link, the kernel or other programs.
    let domain = |domain: i32| {
        SeccompRule::new(vec![argument(0, SeccompCmpOp::Eq, u64::from(domain.unsigned_abs()))?])
    };
    rules.push((libc::SYS_socket, vec![domain(libc::AF_INET)?, domain(libc::AF_INET6)?]));
    // Files are opened for reading only.
    let writing = u64::from((libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC).unsigned_abs());
    let reading = argument(2, SeccompCmpOp::MaskedEq(writing), 0)?;
    rules.push((libc::SYS_openat, vec![SeccompRule::new(vec![reading])?]));
    let errno = libc::EPERM.unsigned_abs();
    SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Errno(errno),
        SeccompAction::Allow,
        architecture()?,
    )
    .and_then(BpfProgram::try_from)
    .map_err(seccompiler::Error::Backend)
}

/// What the runtime, the database's writer and the services call.
const ALLOWED: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Refused by another filter, by an error of its own.
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[expect(unsafe_code, reason = "system calls that nobody wraps")]
    fn call(number: i64, flags: i32) -> Option<i32> {
        // SAFETY: `clone` with a stack of nothing is fork(2), whose child leaves at once; the others read no memory of ours but a null pointer.
        let result = unsafe {
            let result = libc::syscall(number, i64::from(flags), 0_i64, 0_i64, 0_i64, 0_i64);
            if result == 0 && number == libc::SYS_clone {
                libc::_exit(0);
            }
            result
        };
        if result < 0 { Error::last_os_error().raw_os_error() } else { None }
    }

    /// The limits are those of the thread that sets them, and of its own threads.
    #[test]
    fn threads_can_be_started_and_no_processes_or_namespaces() {
        let confined = std::thread::Builder::new().spawn(|| {
            set_no_new_privs(true).unwrap();
            limit_calls().unwrap();
            let refused = Some(libc::EPERM);
            assert_eq!(call(libc::SYS_clone, libc::SIGCHLD), refused);
            assert_eq!(call(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD), refused);
            assert_eq!(call(libc::SYS_clone, libc::CLONE_NEWUSER | libc::CLONE_THREAD), refused);
            assert_eq!(call(libc::SYS_clone3, 0), Some(libc::ENOSYS));
            assert_eq!(call(libc::SYS_unshare, libc::CLONE_NEWUSER), refused);
            assert_eq!(call(libc::SYS_execve, 0), refused);
            let another = std::thread::Builder::new().spawn(|| call(libc::SYS_unshare, libc::CLONE_NEWUSER));
            assert_eq!(another.unwrap().join().unwrap(), refused);
        });
        confined.unwrap().join().unwrap();
    }
}
