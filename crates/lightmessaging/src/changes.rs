//! Tells when something comes, goes or is written in one of several folders, which need not exist yet
//! (`inotify(7)`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use crate::sys::Fd;

/// Watches folders, or where they would be.
#[derive(Debug)]
pub struct Changes {
    fd: Fd,
    /// What does not exist yet, up to where something does: once it comes, it is to be watched.
    missing: Vec<PathBuf>,
    /// One of the folders has gone or was moved; another may come in its place.
    gone: AtomicBool,
}

impl Changes {
    /// Watches what can be watched.
    pub fn of<'a>(folders: impl IntoIterator<Item = &'a Path>) -> io::Result<Changes> {
        let fd: OwnedFd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let news = WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE_SELF;
        let mut missing = Vec::new();
        for folder in folders {
            let mut next = None;
            for there in folder.ancestors() {
                let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
                match add_watch(&fd, there, news | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD) {
                    Err(Errno::NOENT) => next = Some(there),
                    // Watched, or not to be seen: there is nothing to be learnt above it either.
                    _ => break,
                }
            }
            missing.extend(next.map(Path::to_owned));
        }
        Ok(Changes { fd: fd.into(), missing, gone: AtomicBool::new(false) })
    }

    /// Whether a folder has come or gone since, so that all should be watched anew. Knows of those that
    /// went only once the changes were [cleared](Changes::clear).
    pub fn outdated(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || self.missing.iter().any(|path| path.exists())
    }

    /// Forgets the changes so far.
    pub fn clear(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.fd, &mut buffer);
        loop {
            match events.next() {
                // A folder that is removed is watched no more, which is said like this.
                Ok(event) => {
                    if event.events().intersects(ReadFlags::IGNORED | ReadFlags::MOVE_SELF) {
                        self.gone.store(true, Ordering::Relaxed);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
