//! Where names live: a folder of sockets and lock files, without a daemon.
//!
//! A server holds a lock (`flock(2)`) on its name's lock file for as long as it lives, and no
//! forked child does, so the name of a killed server is free at once. The socket is bound and
//! listening under a temporary name before it is renamed into place. Knows nothing of messages.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, io};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::sys::{Fd, Listener, Socket, fork};
use crate::{Error, Result, ServiceName};

/// A folder in which services are found by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    path: PathBuf,
    /// The only rocketd that is asked, where one was named.
    rocketd: Option<PathBuf>,
}

/// A service, as its registry knows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceInfo {
    /// Its name.
    pub name: ServiceName,
    /// The process that runs it; `None` if it is started on demand, and whoever does that has not
    /// told the registry that it runs.
    pub pid: Option<u32>,
    /// The user who runs it, or to whom its socket belongs.
    pub uid: u32,
    /// The program, where the system tells.
    pub program: Option<PathBuf>,
    /// How many connections it has.
    pub connections: u32,
    /// It asks rocketd to let its name be looked up by those who cannot see the registry.
    pub unlocked: bool,
    /// It was started on demand: somebody else listens under its name when it does not run.
    pub on_demand: bool,
}

impl Registry {
    /// The registry that the environment names: the folder `$LIGHTMESSAGING_DIR`, else
    /// `$XDG_RUNTIME_DIR/lightmessaging`, else a folder of the user's own in the temporary
    /// directory. Its rocketd is the one at the socket `$LIGHTMESSAGING_ROCKETD`, where that is set.
    pub fn from_env() -> Registry {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = set("LIGHTMESSAGING_DIR")
            .or_else(|| set("XDG_RUNTIME_DIR").map(|folder| folder.join("lightmessaging")))
            .unwrap_or_else(|| {
                let uid = rustix::process::geteuid().as_raw();
                env::temp_dir().join(format!("lightmessaging-{uid}"))
            });
        Registry { path, rocketd: set("LIGHTMESSAGING_ROCKETD") }
    }

    /// The registry in a folder. It is made, with mode 0700, when the first service starts in it.
    pub fn at(path: impl Into<PathBuf>) -> Registry {
        Registry { path: path.into(), rocketd: None }
    }

    /// The same, with the rocketd at this socket and no other.
    pub fn with_rocketd(mut self, socket: impl Into<PathBuf>) -> Registry {
        self.rocketd = Some(socket.into());
        self
    }

    /// Where a rocketd may listen: the one that was named, else the user's own, whose folder
    /// `.rocketd` lies in the registry's, and the system's, `/run/rocketd/socket`, which is also
    /// where a sandbox has one that it was given.
    pub fn rocketds(&self) -> Vec<PathBuf> {
        match &self.rocketd {
            Some(socket) => vec![socket.clone()],
            None => vec![self.path.join(".rocketd/socket"), "/run/rocketd/socket".into()],
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The services that run, and those that are started on demand, sorted by name. What killed ones
    /// left behind is removed.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] or [`Error::Os`] about the folder, which then stands for the name. A
    /// folder that does not exist holds no services.
    pub fn services(&self) -> Result<Vec<ServiceInfo>> {
        let about = ServiceName::new("*")?;
        let folder = match self.open(&about, false) {
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            other => other?,
        };
        let os =
            |doing| move |e: Errno| Error::Os { service: about.clone(), doing, source: e.into() };
        let mut found = Vec::new();
        for entry in
            rustix::fs::Dir::read_from(&folder.fd).map_err(os("list the registry folder"))?
        {
            let Ok(entry) = entry else { continue };
            if let Some(name) = from_file_name(entry.file_name().to_bytes())
                && let Some(info) = folder.info(name)
            {
                found.push(info);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Opens the folder and checks, on the open descriptor, that it is safe to trust.
    pub(crate) fn open(&self, service: &ServiceName, create: bool) -> Result<Folder> {
        let denied = |reason: String| Error::Denied { service: service.clone(), reason };
        let path = self.path.display();
        if create {
            match rustix::fs::mkdir(&self.path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => {
                    return Err(denied(format!(
                        "the folder above {path} does not exist; create it"
                    )));
                }
                Err(error) => {
                    return Err(denied(format!(
                        "cannot create {path}: {}",
                        io::Error::from(error)
                    )));
                }
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(not_found(service, "there is no such folder")),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let reason = "is not a folder (symbolic links are not followed)";
                return Err(denied(format!("{path} {reason}")));
            }
            Err(Errno::ACCESS) => {
                return Err(denied(format!("{path} may not be opened by this user")));
            }
            Err(error) => {
                let source = error.into();
                return Err(Error::Os {
                    service: service.clone(),
                    doing: "open the registry folder",
                    source,
                });
            }
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| denied(e.to_string()))?;
        let me = rustix::process::geteuid().as_raw();
        if stat.st_uid != me && stat.st_uid != 0 {
            return Err(denied(format!(
                "{path} belongs to user {}, not to user {me} or root",
                stat.st_uid
            )));
        }
        if stat.st_mode & 0o022 != 0 {
            let mode = stat.st_mode & 0o7777;
            // Nobody is to be told to shut others out of a folder that is everybody's.
            let is_own = stat.st_uid == me && stat.st_mode & 0o1000 == 0;
            let advice = if is_own { "use chmod 0700" } else { "use a folder of your own" };
            return Err(denied(format!(
                "{path} may be written by others (mode {mode:04o}); {advice}"
            )));
        }
        Ok(Folder { fd: fd.into() })
    }
}

/// The open, checked folder.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: Fd,
}

impl Folder {
    /// Takes a name and listens under it.
    pub(crate) fn claim(self, service: &ServiceName, mode: u32) -> Result<(Claim, Listener)> {
        let file = file_name(service);
        let lock_file = lock_file(&file);
        let os = |doing, source| Error::Os { service: service.clone(), doing, source };
        let lock = match self.lock(&lock_file, true) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                return Err(Error::NameInUse { service: service.clone(), on_demand: false });
            }
            Err(source) => return Err(os("lock the name", source)),
        };
        // Somebody may listen on a service's behalf until it is started, without a lock.
        if self.is_listened_to(&file) {
            let _ = rustix::fs::unlinkat(&self.fd, &lock_file, AtFlags::empty());
            return Err(Error::NameInUse { service: service.clone(), on_demand: true });
        }
        // From here on, whatever fails, dropping the claim removes what was made.
        let claim = Claim::new(self, service, lock, true);
        let listener =
            claim.publish(mode).map_err(|source| os("listen in the registry folder", source))?;
        Ok((claim, listener))
    }

    /// Takes note that this process serves a name whose socket is somebody else's, if nobody else
    /// has taken note.
    pub(crate) fn check_in(self, service: &ServiceName) -> Option<Claim> {
        let lock = self.lock(&lock_file(&file_name(service)), true).ok().flatten()?;
        let claim = Claim::new(self, service, lock, false);
        claim.note(0, false);
        Some(claim)
    }

    /// Whether this is the lock of a name, and held by whoever has this descriptor.
    pub(crate) fn is_lock_of(&self, service: &ServiceName, lock: impl AsFd) -> bool {
        let Ok(stat) = rustix::fs::fstat(&lock) else { return false };
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && self.is_current(&lock_file(&file_name(service)), &stat)
            && rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Takes note that this process has the name whose lock it was given, with the socket.
    pub(crate) fn take_over(self, service: &ServiceName, lock: OwnedFd) -> Claim {
        let was_unlocked = self.info(service.clone()).is_some_and(|info| info.unlocked);
        let mut claim = Claim::new(self, service, lock.into(), true);
        claim.was_unlocked = was_unlocked;
        claim.note(0, was_unlocked);
        claim
    }

    /// Connects to whoever listens under a name.
    pub(crate) fn connect(
        &self,
        service: &ServiceName,
        timeout: Option<Duration>,
    ) -> Result<Socket> {
        let not_found = || not_found(service, "nobody serves it there");
        let denied =
            |reason: &str| Error::Denied { service: service.clone(), reason: reason.into() };
        let file = file_name(service);
        let target = match self.target(&file) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Err(not_found()),
            Err(error) => return Err(os(service, "look the name up", error.into())),
        };
        let stat =
            rustix::fs::fstat(&target).map_err(|e| os(service, "look the name up", e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(denied("its file in the registry folder is not a socket"));
        }
        match dial(&target, timeout) {
            Ok(socket) => Ok(socket),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                    self.remove_stale(&file, true);
                    Err(not_found())
                }
                io::ErrorKind::PermissionDenied => {
                    Err(denied("its socket is not open to this user"))
                }
                io::ErrorKind::TimedOut => {
                    Err(Error::TimedOut { service: service.clone(), delivered: false })
                }
                _ => Err(os(service, "connect", error)),
            },
        }
    }

    /// What is there under a name now, without opening it, for somebody else to connect to.
    pub(crate) fn socket_file(&self, service: &ServiceName) -> Option<OwnedFd> {
        self.target(&file_name(service)).ok()
    }

    /// Removes a socket, if the name still leads to it.
    #[cfg(feature = "rocketd")]
    pub(crate) fn remove_socket(&self, service: &ServiceName, socket: std::os::fd::BorrowedFd<'_>) {
        let file = file_name(service);
        if rustix::fs::fstat(socket).is_ok_and(|stat| self.is_current(&file, &stat)) {
            let _ = rustix::fs::unlinkat(&self.fd, &file, AtFlags::empty());
            let _ = rustix::fs::unlinkat(&self.fd, demand_file(&file), AtFlags::empty());
        }
    }

    /// What is there under a file name now, without opening it.
    fn target(&self, file: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, file, flags, Mode::empty())
    }

    /// Whether anybody listens on the socket that is there now.
    pub(crate) fn is_listened_to(&self, file: &str) -> bool {
        let Ok(target) = self.target(file) else { return false };
        match dial(&target, Some(Duration::ZERO)) {
            Ok(_) => true,
            // A full queue is somebody's, too.
            Err(error) => error.kind() == io::ErrorKind::TimedOut,
        }
    }

    /// Locks a name's lock file; `None` if a living process has it.
    fn lock(&self, lock_file: &str, wait: bool) -> io::Result<Option<Fd>> {
        let started = Instant::now();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        loop {
            let lock = rustix::fs::openat(&self.fd, lock_file, flags, Mode::RUSR | Mode::WUSR)?;
            let stat = rustix::fs::fstat(&lock)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
                return Err(io::Error::other("the lock file is not a plain file of one link"));
            }
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if self.is_current(lock_file, &stat) => return Ok(Some(lock.into())),
                // Removed by the last holder while we opened it: try the new one.
                Ok(()) => {}
                // Whoever removes a stale name holds the lock for a moment too.
                Err(Errno::WOULDBLOCK) if wait && started.elapsed() < Duration::from_millis(20) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_current(&self, file: &str, stat: &Stat) -> bool {
        rustix::fs::statat(&self.fd, file, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|now| now.st_ino == stat.st_ino && now.st_dev == stat.st_dev)
    }

    /// Whether a rocketd has listened for a name, and does not any more.
    fn is_deserted(&self, file: &str) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let kept = rustix::fs::openat(&self.fd, demand_file(file), flags, Mode::empty());
        kept.is_ok_and(|kept| {
            rustix::fs::flock(&kept, FlockOperation::NonBlockingLockShared).is_ok()
        })
    }

    /// Says that this process listens for a name on a service's behalf, for as long as it has this.
    #[cfg(feature = "rocketd")]
    pub(crate) fn keep(&self, service: &ServiceName) -> Option<Fd> {
        self.lock(&demand_file(&file_name(service)), true).ok().flatten()
    }

    /// Removes a name that nobody holds, with its socket or without.
    fn remove_stale(&self, file: &str, socket: bool) {
        let lock_file = lock_file(file);
        if let Ok(Some(lock)) = self.lock(&lock_file, false) {
            if let Ok(new_file) = new_file(&lock) {
                let _ = rustix::fs::unlinkat(&self.fd, new_file, AtFlags::empty());
            }
            if socket {
                let _ = rustix::fs::unlinkat(&self.fd, file, AtFlags::empty());
                let _ = rustix::fs::unlinkat(&self.fd, demand_file(file), AtFlags::empty());
            }
            let _ = rustix::fs::unlinkat(&self.fd, &lock_file, AtFlags::empty());
        }
    }

    /// What the lock file says; `None`, and the name is removed, if nobody holds it. A socket that is
    /// somebody else's stays.
    fn info(&self, name: ServiceName) -> Option<ServiceInfo> {
        let file = file_name(&name);
        let lock_file = lock_file(&file);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let lock = rustix::fs::openat(&self.fd, &lock_file, flags, Mode::empty()).ok();
        let held = lock.as_ref().is_some_and(|lock| {
            rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
        });
        // A name without a lock file is not a killed server's: somebody else listens for it.
        let Some(lock) = lock else { return self.on_demand(name) };
        let mut text = [0; 64];
        let len = rustix::io::pread(&lock, &mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let mut words = text.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (pid, connections) = (number(), number());
        let flags = words.next().unwrap_or_default();
        let on_demand = flags.contains(ON_DEMAND);
        if !held {
            drop(lock);
            self.remove_stale(&file, !on_demand);
            return if on_demand { self.on_demand(name) } else { None };
        }
        let (pid, connections): (u32, u32) = (pid?, connections?);
        let uid = rustix::fs::fstat(&lock).ok()?.st_uid;
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let unlocked = flags.contains(UNLOCKED);
        let pid = Some(pid);
        Some(ServiceInfo { name, pid, uid, program, connections, unlocked, on_demand })
    }

    /// A name that somebody listens for, without a process of its own. One that rocketd has left is
    /// removed.
    fn on_demand(&self, name: ServiceName) -> Option<ServiceInfo> {
        let file = file_name(&name);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&self.fd, &file, flags).ok()?;
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        if is_socket && self.is_deserted(&file) {
            self.remove_stale(&file, true);
            return None;
        }
        is_socket.then_some(ServiceInfo {
            name,
            pid: None,
            uid: stat.st_uid,
            program: None,
            connections: 0,
            unlocked: false,
            on_demand: true,
        })
    }
}

/// Connects to the socket that was looked at, whatever has its name by now.
fn dial(target: &OwnedFd, timeout: Option<Duration>) -> io::Result<Socket> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    Socket::connect(Path::new(&path), timeout)
}

fn not_found(service: &ServiceName, reason: &str) -> Error {
    Error::NotFound { service: service.clone(), reason: reason.to_owned() }
}

fn os(service: &ServiceName, doing: &'static str, source: io::Error) -> Error {
    Error::Os { service: service.clone(), doing, source }
}

/// A name that this process holds; free again when it is dropped, or when the process ends.
#[derive(Debug)]
pub(crate) struct Claim {
    folder: Folder,
    file: String,
    lock_file: String,
    lock: Fd,
    /// The socket goes with the claim; else it is that of somebody who starts the service on demand.
    owns_socket: bool,
    /// Whoever had the name before had unlocked it.
    was_unlocked: bool,
    /// Another process holds the name now.
    given: bool,
    epoch: u64,
}

/// In a lock file: the service wants to be unlocked; it is started on demand.
const UNLOCKED: char = 'u';
const ON_DEMAND: char = 'd';

impl Claim {
    fn new(folder: Folder, service: &ServiceName, lock: Fd, owns_socket: bool) -> Claim {
        let file = file_name(service);
        let lock_file = lock_file(&file);
        let (was_unlocked, given, epoch) = (false, false, fork::epoch());
        Claim { folder, file, lock_file, lock, owns_socket, was_unlocked, given, epoch }
    }

    /// The lock: whoever has this descriptor holds the name.
    pub(crate) fn lock(&self) -> &Fd {
        &self.lock
    }

    /// Lets go of a name that another process has the lock of by now.
    pub(crate) fn give(mut self) {
        self.given = true;
    }

    /// Listens under the name.
    fn publish(&self, mode: u32) -> io::Result<Listener> {
        self.note(0, false);
        Listener::publish(&self.folder.fd, &new_file(&self.lock)?, &self.file, mode)
    }

    /// Lets go of the name and leaves its socket to whoever listens: it is served on demand.
    #[cfg(feature = "rocketd")]
    pub(crate) fn leave_socket(mut self) {
        self.owns_socket = false;
    }

    /// Whether the name was unlocked when it was taken over.
    pub(crate) fn was_unlocked(&self) -> bool {
        self.was_unlocked
    }

    /// Writes down how many connections there are and whether the service wants to be unlocked, for
    /// those who list the services.
    pub(crate) fn note(&self, connections: usize, unlocked: bool) {
        let pid = rustix::process::getpid().as_raw_nonzero();
        let mut flags = String::from("-");
        flags.extend(unlocked.then_some(UNLOCKED));
        flags.extend((!self.owns_socket).then_some(ON_DEMAND));
        let line = format!("{pid:<10} {connections:<10} {flags:<4}\n");
        let _ = rustix::io::pwrite(&self.lock, line.as_bytes(), 0);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A forked child's copy is not the holder.
        if self.epoch == fork::epoch() && !self.given {
            if self.owns_socket {
                let _ = rustix::fs::unlinkat(&self.folder.fd, &self.file, AtFlags::empty());
            }
            let _ = rustix::fs::unlinkat(&self.folder.fd, &self.lock_file, AtFlags::empty());
        }
    }
}

fn lock_file(file: &str) -> String {
    format!(".lock.{file}")
}

fn demand_file(file: &str) -> String {
    format!(".demand.{file}")
}

/// The temporary name of a socket: short, and the lock holder's alone.
fn new_file(lock: &Fd) -> io::Result<String> {
    Ok(format!(".new.{:x}", rustix::fs::fstat(lock)?.st_ino))
}

/// The file that stands for a name: itself where it is plain, else `=` and its bytes in base 64.
///
/// Names that begin with a dot, and `=`, are not plain, so lock files and encoded names cannot be
/// taken for names.
pub(crate) fn file_name(name: &ServiceName) -> String {
    let bytes = name.as_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if bytes.iter().all(plain) && bytes[0] != b'.' {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut file = String::from("=");
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            file.push(DIGITS[(word >> (18 - 6 * digit) & 63) as usize] as char);
        }
    }
    file
}

/// Base 64 with the alphabet for file names (RFC 4648, section 5), without padding.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The name that a file stands for, if it stands for one.
fn from_file_name(file: &[u8]) -> Option<ServiceName> {
    let name = match file {
        [b'.', ..] => return None,
        [b'=', digits @ ..] => {
            let mut bytes = Vec::new();
            for four in digits.chunks(4) {
                let mut word = 0u32;
                for digit in four {
                    word = word << 6 | DIGITS.iter().position(|d| d == digit)? as u32;
                }
                word <<= 6 * (4 - four.len());
                bytes.extend_from_slice(&word.to_be_bytes()[1..four.len()]);
            }
            ServiceName::new(bytes).ok()?
        }
        plain => ServiceName::new(plain).ok()?,
    };
    // Only the one true spelling counts.
    (OsStr::from_bytes(file) == OsStr::new(&file_name(&name))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_file_of_its_own_and_comes_back_from_it() {
        let long = "x".repeat(127);
        let odd = "\u{e9}".repeat(63);
        let names = [
            "a",
            "com.example.Echo-1_2",
            ".",
            "..",
            "a/b",
            "=a",
            ".lock.a",
            " ",
            "\n",
            "ü",
            "a b",
            &long,
            &odd,
        ];
        let mut files = std::collections::HashSet::new();
        for name in names {
            let name = ServiceName::new(name).unwrap();
            let file = file_name(&name);
            assert!(!file.contains('/') && !file.starts_with('.') && file.len() < 200, "{file}");
            assert_eq!(from_file_name(file.as_bytes()), Some(name));
            assert!(files.insert(file));
        }
        for file in [".lock.a", "=", "=a", "=YQ", "a b"] {
            assert_eq!(from_file_name(file.as_bytes()), None, "{file}");
        }
    }
}
