//! The names that services have unlocked, and where each is connected to.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use lightmessaging::ServiceName;
use rustix::fs::{FileType, Mode, OFlags, StatxFlags};

use crate::asker::{self, Asker};
use crate::mounts;

/// A service that has unlocked its name.
#[derive(Debug)]
pub(crate) struct Announcement {
    /// Which connection it came by: it counts for as long as that lasts.
    pub(crate) talk: usize,
    /// Its socket's file.
    pub(crate) file: OwnedFd,
    pub(crate) who: Asker,
}

/// Who has unlocked what. Of several services of one name the last one counts, and the one before it
/// again when that is gone: so a service may be replaced by another of its kind.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<ServiceName, Vec<Announcement>>);

impl Names {
    pub(crate) fn add(&mut self, name: ServiceName, announcement: Announcement) {
        self.0.entry(name).or_default().push(announcement);
    }

    pub(crate) fn remove(&mut self, name: &ServiceName, talk: usize) {
        if let Some(all) = self.0.get_mut(name) {
            all.retain(|announcement| announcement.talk != talk);
            if all.is_empty() {
                self.0.remove(name);
            }
        }
    }

    /// Those of a name, the one that counts first.
    pub(crate) fn of(&self, name: &ServiceName) -> impl Iterator<Item = &Announcement> {
        self.0.get(name).into_iter().flat_map(|all| all.iter().rev())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ServiceName> {
        self.0.keys()
    }

    /// How many names a user has unlocked.
    pub(crate) fn count(&self, uid: u32) -> usize {
        self.0.values().flatten().filter(|announcement| announcement.who.uid == uid).count()
    }
}

/// Whether a descriptor that somebody has sent is a socket's file of their own.
///
/// rocketd connects to it with its own rights, so it must not be led to a socket that the sender could
/// not connect to: a file can be opened with `O_PATH` by whoever may enter its folder. And it must not
/// be led to a file system in user space, which may let it wait for ever; so nothing here asks the
/// file system itself.
pub(crate) fn check_file(file: &OwnedFd, who: &Asker) -> Result<(), &'static str> {
    let wanted = StatxFlags::TYPE | StatxFlags::UID | StatxFlags::MNT_ID;
    let stat = asker::status(file, wanted).ok_or("its socket cannot be inspected")?;
    // Anything but a path only would be a connection, or an open file.
    let flags = rustix::fs::fcntl_getfl(file).map_err(|_| "its socket cannot be inspected")?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Socket
        || !flags.contains(OFlags::PATH)
    {
        return Err("what it sent is not a socket's file");
    }
    if stat.stx_uid != who.uid && who.uid != 0 {
        return Err("the socket belongs to another user");
    }
    let kind_as_seen_by = |process: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = rustix::fs::open(format!("/proc/{process}"), flags, Mode::empty()).ok()?;
        mounts::kind(process, &stat).flatten()
    };
    let kind = kind_as_seen_by("self").or_else(|| {
        // It may be mounted where only the sender sees it. From within a sandbox what looks like a file
        // system of the kernel's may have one in user space below.
        kind_as_seen_by(&who.pid.to_string()).filter(|kind| who.is_outside || kind == "tmpfs")
    });
    match kind {
        Some(kind) if kind.starts_with("fuse") => {
            Err("the socket lies on a file system in user space")
        }
        Some(_) => Ok(()),
        None => Err("the socket lies on a file system that cannot be seen from here"),
    }
}
