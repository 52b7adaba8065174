//! Who asks: what the kernel tells of a process besides its credentials. Every look-up reads it, so
//! nothing here waits for anybody: the process may have any file system for its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::flatpak::{self, Sandbox};
use crate::quota::Client;

/// The longest cgroup, in bytes.
const CGROUP_MAX: usize = 512;
/// The longest label, in bytes.
const LABEL_MAX: usize = 255;
/// The longest file of `/proc` that is read for them, in bytes.
const FILE_MAX: usize = 64 << 10;

/// A process that asks for something, as far as it is known.
///
/// The user and the group are what the kernel vouches for. The rest tells a user's programs apart as
/// long as the user does not mind: outside Flatpak, a user's process can start any program and make
/// it do its bidding, and can build a sandbox that looks like any Flatpak application's. What holds
/// for certain is the other direction: a program inside Flatpak cannot pass for another application,
/// nor for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The process, as rocketd sees it; 0 if it cannot.
    pub pid: u32,
    /// The user.
    pub uid: u32,
    /// The user's first group.
    pub gid: u32,
    /// The program: only if it is still the one that rocketd finds at this path, and so not for a
    /// sandbox's own programs, and not for one that has been replaced since it was started.
    pub executable: Option<PathBuf>,
    /// The Flatpak application's id.
    pub application: Option<String>,
    /// The control group of the unified hierarchy.
    pub cgroup: Option<String>,
    /// The label of the security module, such as `firefox (enforce)`; none if it is unconfined.
    pub label: Option<String>,
    /// Whether it is in a Flatpak could not be found out, so `application` says nothing. A process
    /// can bring this about, by forbidding that it be looked into (`PR_SET_DUMPABLE` in `prctl(2)`).
    pub is_opaque: bool,
    /// Whether it is in no sandbox, as far as that shows: in no Flatpak, and with the user namespace
    /// (`user_namespaces(7)`) that rocketd itself is in.
    pub is_outside: bool,
}

impl Asker {
    /// An asker of whom nothing is known but the credentials.
    pub fn unknown(pid: u32, uid: u32, gid: u32) -> Asker {
        Asker {
            pid,
            uid,
            gid,
            executable: None,
            application: None,
            cgroup: None,
            label: None,
            is_opaque: true,
            is_outside: false,
        }
    }

    /// Who it is counted with.
    pub fn client(&self) -> Client {
        Client { uid: self.uid, application: self.application.clone() }
    }

    /// Looks at a process without ever waiting for it. With a `pidfd`, what was read counts only if
    /// the process has not ended meanwhile: its number may be another's by then.
    pub fn inspect(pid: u32, uid: u32, gid: u32, pidfd: Option<BorrowedFd<'_>>) -> Asker {
        let unknown = Asker::unknown(pid, uid, gid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // One process's folder stays that process's, whoever gets its number.
        let Ok(process) = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()) else {
            return unknown;
        };
        let (application, is_opaque) = match flatpak::find(&process) {
            Sandbox::Outside => (None, false),
            Sandbox::Inside(application) => (Some(application), false),
            Sandbox::Opaque => (None, true),
        };
        let is_outside = application.is_none() && !is_opaque && shares_users(&process);
        let asker = Asker {
            is_outside,
            executable: executable(&process),
            cgroup: read(&process, "cgroup").and_then(|text| cgroup(&text)),
            label: read(&process, "attr/current").and_then(|text| label(&text)),
            application,
            is_opaque,
            ..unknown
        };
        if pidfd.is_some_and(has_ended) { Asker::unknown(pid, uid, gid) } else { asker }
    }
}

/// Whether a process is in the user namespace that this one is in.
fn shares_users(process: &OwnedFd) -> bool {
    let theirs = rustix::fs::readlinkat(process, "ns/user", Vec::new());
    let ours = rustix::fs::readlinkat(CWD, "/proc/self/ns/user", Vec::new());
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// The program's path, if rocketd finds the same file there. In a file system of its own a process
/// can have any program at any path.
fn executable(process: &OwnedFd) -> Option<PathBuf> {
    let path = rustix::fs::readlinkat(process, "exe", Vec::new()).ok()?.into_bytes();
    let path = PathBuf::from(OsString::from_vec(path));
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let running = rustix::fs::openat(process, "exe", flags, Mode::empty()).ok()?;
    let found = find(CWD, &path, true).ok()?;
    let (running, found) = (inode(&running)?, inode(&found)?);
    (path.is_absolute() && running == found).then_some(path)
}

/// Opens a path for inspection. `is_cached`: only if all of it is in the kernel's cache, as nobody is
/// asked then. What is in use always is; `EAGAIN` says that it is not, or that it could not be told.
pub(crate) fn find(folder: impl AsFd, path: &Path, is_cached: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut how = ResolveFlags::NO_SYMLINKS;
    how.set(ResolveFlags::CACHED, is_cached);
    let open = || rustix::fs::openat2(&folder, path, flags, Mode::empty(), how);
    match open() {
        Err(Errno::AGAIN) => open(),
        result => result,
    }
}

/// Attributes as the kernel remembers them: the file system is not asked, in contrast to `fstat` and
/// `fstatfs`, which wait for a FUSE server.
pub(crate) fn status(fd: impl AsFd, mask: StatxFlags) -> Option<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(fd, "", flags, mask).ok()
}

fn inode(fd: &OwnedFd) -> Option<(u32, u32, u64)> {
    let status = status(fd, StatxFlags::INO)?;
    Some((status.stx_dev_major, status.stx_dev_minor, status.stx_ino))
}

/// A small file of the process's own folder.
fn read(process: &OwnedFd, file: &str) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    read_whole(rustix::fs::openat(process, file, flags, Mode::empty()).ok()?, FILE_MAX).ok()?
}

/// The whole file, if it is no longer than this.
pub(crate) fn read_whole(file: OwnedFd, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::from(file).take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() <= most))
}

/// Text that can be passed on: whole or not at all.
pub(crate) fn text(bytes: &[u8], most: usize) -> Option<String> {
    let text = str::from_utf8(bytes).ok()?;
    let is_fit = !text.is_empty() && text.len() <= most && !text.contains(char::is_control);
    is_fit.then(|| text.to_owned())
}

/// From the lines of `cgroups(7)`: that of the unified hierarchy has the number 0.
fn cgroup(lines: &[u8]) -> Option<String> {
    let mut lines = lines.split(|byte| *byte == b'\n');
    text(lines.find_map(|line| line.strip_prefix(b"0::"))?, CGROUP_MAX)
}

/// From `attr/current`, which ends in a newline or a NUL byte, depending on the security module.
fn label(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\0'))?;
    text(&bytes[..=end], LABEL_MAX).filter(|label| label != "unconfined")
}

/// A pidfd can be read from when its process has ended.
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut fds, Some(&at_once)) {
            Err(Errno::INTR) => {}
            // Whatever it is, it does not say that the process lives.
            Err(_) => return true,
            Ok(_) => return !fds[0].revents().is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, PidfdFlags};

    use super::*;

    fn pidfd(child: &Child) -> OwnedFd {
        rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap()
    }

    #[test]
    fn this_process_is_known_to_itself() {
        let asker = Asker::inspect(std::process::id(), 1, 2, None);
        assert_eq!((asker.uid, asker.gid), (1, 2));
        assert_eq!(asker.executable, Some(std::env::current_exe().unwrap()));
        assert!(asker.cgroup.is_none_or(|cgroup| cgroup.starts_with('/')));
        let is_in_flatpak = Path::new("/.flatpak-info").exists();
        assert_eq!((asker.application.is_some(), asker.is_opaque), (is_in_flatpak, false));
        assert_eq!(asker.is_outside, !is_in_flatpak);
    }

    #[test]
    fn of_a_process_that_is_not_there_nothing_is_known() {
        assert_eq!(Asker::inspect(0, 1, 2, None), Asker::unknown(0, 1, 2));
        assert_eq!(Asker::inspect(u32::MAX, 1, 2, None), Asker::unknown(u32::MAX, 1, 2));
    }

    #[test]
    fn what_was_read_of_a_process_that_has_ended_does_not_count() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = pidfd(&child);
        let asker = Asker::inspect(child.id(), 1, 2, Some(pidfd.as_fd()));
        assert!(!asker.is_opaque);
        // Not reaped, its number is still its own, and then this process's, to be sure.
        child.kill().unwrap();
        while !has_ended(pidfd.as_fd()) {
            std::thread::yield_now();
        }
        for pid in [child.id(), std::process::id()] {
            let asker = Asker::inspect(pid, 1, 2, Some(pidfd.as_fd()));
            assert_eq!(asker, Asker::unknown(pid, 1, 2));
        }
        child.wait().unwrap();
        assert!(has_ended(pidfd.as_fd()));
    }

    #[test]
    fn a_program_that_was_replaced_is_not_the_one_at_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("cat");
        // By another process: a program that this one has open for writing may be so in a child of
        // another test's too, and does not start then.
        assert!(Command::new("cp").arg("/bin/cat").arg(&program).status().unwrap().success());
        let mut child = Command::new(&program).stdin(Stdio::piped()).spawn().unwrap();
        let executable = || Asker::inspect(child.id(), 1, 2, None).executable;
        assert_eq!(executable(), Some(program.canonicalize().unwrap()));
        std::fs::rename(&program, folder.path().join("old")).unwrap();
        std::fs::copy("/bin/cat", &program).unwrap();
        assert_eq!(executable(), Some(folder.path().canonicalize().unwrap().join("old")));
        std::fs::rename(&program, folder.path().join("old")).unwrap();
        assert_eq!(executable(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_cgroup_is_the_unified_one() {
        assert_eq!(cgroup(b"0::/a.slice/b\n"), Some("/a.slice/b".to_owned()));
        assert_eq!(cgroup(b"9:name=systemd:/x\n1:cpu:/y\n0::/\n"), Some("/".to_owned()));
        assert_eq!(cgroup(b"9:name=systemd:/x\n"), None);
        assert_eq!(cgroup(b"0::\n"), None);
        assert_eq!(cgroup(b"0::/a\x1bb\n"), None);
        assert_eq!(cgroup(b"0::/a\xff\n"), None);
        let long = |len: usize| format!("0::/{}\n", "x".repeat(len));
        assert_eq!(cgroup(long(511).as_bytes()).map(|cgroup| cgroup.len()), Some(512));
        assert_eq!(cgroup(long(512).as_bytes()), None);
    }

    #[test]
    fn a_label_is_whole_or_none() {
        assert_eq!(label(b"firefox (enforce)\n"), Some("firefox (enforce)".to_owned()));
        assert_eq!(label(b"u:r:t:s0\0"), Some("u:r:t:s0".to_owned()));
        for none in [&b"unconfined\n"[..], b"unconfined", b"", b"\n", b"\0", b"a\0b\0", b"a\nb"] {
            assert_eq!(label(none), None, "{none:?}");
        }
        assert_eq!(label(&[b'x'; 255]).map(|label| label.len()), Some(255));
        assert_eq!(label(&[b'x'; 256]), None);
    }
}
