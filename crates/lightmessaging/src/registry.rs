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

use crate::sys::{Fd, Listener, Poll, Socket, fork};
use crate::{Error, Result, ServiceName};

/// A folder in which services are found by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    path: PathBuf,
}

/// A running service, as its registry knows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceInfo {
    /// Its name.
    pub name: ServiceName,
    /// The process that runs it.
    pub pid: u32,
    /// The user who runs it.
    pub uid: u32,
    /// The program, where the system tells.
    pub program: Option<PathBuf>,
    /// How many connections it has.
    pub connections: u32,
}

impl Registry {
    /// The registry that the environment names: the folder `$LIGHTMESSAGING_DIR`, else
    /// `$XDG_RUNTIME_DIR/lightmessaging`, else a folder of the user's own in the temporary
    /// directory.
    pub fn from_env() -> Registry {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = set("LIGHTMESSAGING_DIR")
            .or_else(|| set("XDG_RUNTIME_DIR").map(|folder| folder.join("lightmessaging")))
            .unwrap_or_else(|| {
                let uid = rustix::process::geteuid().as_raw();
                env::temp_dir().join(format!("lightmessaging-{uid}"))
            });
        Registry { path }
    }

    /// The registry in a folder. It is made, with mode 0700, when the first service starts in it.
    pub fn at(path: impl Into<PathBuf>) -> Registry {
        Registry { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The running services, sorted by name. What killed ones left behind is removed.
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
            Err(Errno::NOENT) => return Err(Error::NotFound { service: service.clone() }),
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
            return Err(denied(format!(
                "{path} may be written by others (mode {mode:04o}); use chmod 0700"
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
        let lock_file = format!(".lock.{file}");
        let os = |doing, source| Error::Os { service: service.clone(), doing, source };
        let lock = match self.lock(&lock_file, true) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(Error::NameInUse { service: service.clone() }),
            Err(source) => return Err(os("lock the name", source)),
        };
        // Somebody may listen on a service's behalf until it is started, without a lock.
        if self.is_listened_to(&file) {
            let _ = rustix::fs::unlinkat(&self.fd, &lock_file, AtFlags::empty());
            return Err(Error::NameInUse { service: service.clone() });
        }
        // From here on, whatever fails, dropping the claim removes what was made.
        let claim = Claim { folder: self, file, lock_file, lock, epoch: fork::epoch() };
        let folder = &claim.folder.fd;
        let new_file = new_file(&claim.lock).map_err(|source| os("inspect the lock", source))?;
        let _ = rustix::fs::unlinkat(folder, &new_file, AtFlags::empty());
        let publish = || -> io::Result<Listener> {
            // `sun_path` has room for 107 bytes, the folder's path may be longer, and the socket must
            // be made in the folder that was checked: so that one is named by its descriptor.
            let path = format!("/proc/self/fd/{}/{new_file}", folder.as_fd().as_raw_fd());
            let listener = Listener::bind(Path::new(&path))?;
            rustix::fs::chmodat(folder, &new_file, Mode::from_raw_mode(mode), AtFlags::empty())?;
            claim.set_connections(0);
            rustix::fs::renameat(folder, &new_file, folder, &claim.file)?;
            Ok(listener)
        };
        match publish() {
            Ok(listener) => Ok((claim, listener)),
            Err(source) => {
                let _ = rustix::fs::unlinkat(folder, &new_file, AtFlags::empty());
                Err(os("listen in the registry folder", source))
            }
        }
    }

    /// Connects to whoever listens under a name.
    pub(crate) fn connect(
        &self,
        service: &ServiceName,
        timeout: Option<Duration>,
    ) -> Result<Socket> {
        let not_found = || Error::NotFound { service: service.clone() };
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
                    self.remove_stale(&file);
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

    /// What is there under a name now, without opening it.
    fn target(&self, file: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, file, flags, Mode::empty())
    }

    /// Whether anybody listens on the socket that is there now.
    fn is_listened_to(&self, file: &str) -> bool {
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

    /// Removes a name that nobody holds.
    fn remove_stale(&self, file: &str) {
        let lock_file = format!(".lock.{file}");
        if let Ok(Some(lock)) = self.lock(&lock_file, false) {
            if let Ok(new_file) = new_file(&lock) {
                let _ = rustix::fs::unlinkat(&self.fd, new_file, AtFlags::empty());
            }
            let _ = rustix::fs::unlinkat(&self.fd, file, AtFlags::empty());
            let _ = rustix::fs::unlinkat(&self.fd, &lock_file, AtFlags::empty());
        }
    }

    /// What the lock file says; `None`, and the name is removed, if nobody holds it.
    fn info(&self, name: ServiceName) -> Option<ServiceInfo> {
        let file = file_name(&name);
        let lock_file = format!(".lock.{file}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let lock = rustix::fs::openat(&self.fd, &lock_file, flags, Mode::empty()).ok();
        let held = lock.as_ref().is_some_and(|lock| {
            rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
        });
        // A name without a lock file is not a killed server's: somebody else listens for it.
        let lock = lock?;
        if !held {
            drop(lock);
            self.remove_stale(&file);
            return None;
        }
        let uid = rustix::fs::fstat(&lock).ok()?.st_uid;
        let mut text = [0; 64];
        let len = rustix::io::pread(&lock, &mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        let (pid, connections) = (numbers.next()?, numbers.next()?);
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        Some(ServiceInfo { name, pid, uid, program, connections })
    }
}

/// Connects to the socket that was looked at, whatever has its name by now.
fn dial(target: &OwnedFd, timeout: Option<Duration>) -> io::Result<Socket> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    Socket::connect(Path::new(&path), timeout)
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
    epoch: u64,
}

impl Claim {
    /// Writes down how many connections there are, for those who list the services.
    pub(crate) fn set_connections(&self, connections: usize) {
        let pid = rustix::process::getpid().as_raw_nonzero();
        let _ =
            rustix::io::pwrite(&self.lock, format!("{pid:<10} {connections:<10}\n").as_bytes(), 0);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A forked child's copy is not the holder.
        if self.epoch == fork::epoch() {
            let _ = rustix::fs::unlinkat(&self.folder.fd, &self.file, AtFlags::empty());
            let _ = rustix::fs::unlinkat(&self.folder.fd, &self.lock_file, AtFlags::empty());
        }
    }
}

/// Tells when something changes in a registry's folder (`inotify(7)`).
#[derive(Debug)]
pub(crate) struct Changes {
    fd: Fd,
    /// The folder did not exist: the one above is watched.
    above: bool,
}

impl Changes {
    pub(crate) fn of(registry: &Registry) -> io::Result<Changes> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let fd: OwnedFd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let news = WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::DELETE;
        let above = match add_watch(&fd, &registry.path, news | WatchFlags::ONLYDIR) {
            Ok(_) => false,
            Err(Errno::NOENT) => {
                let above = registry.path.parent().filter(|p| !p.as_os_str().is_empty());
                add_watch(&fd, above.unwrap_or(Path::new(".")), news | WatchFlags::ONLYDIR)?;
                true
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Changes { fd: fd.into(), above })
    }

    /// Whether the folder itself has come since, so that it should be watched anew.
    pub(crate) fn outdated(&self, registry: &Registry) -> bool {
        self.above && registry.path.exists()
    }

    /// Forgets the changes so far.
    pub(crate) fn clear(&self) {
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|len| len > 0) {}
    }

    /// Waits for a change.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let poll = Poll::new()?;
        poll.add(&self.fd, 0)?;
        poll.wait(&mut Vec::new(), timeout)?;
        self.clear();
        Ok(())
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
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
