//! Where rocketd listens: its socket's file, which sandboxes are given the folder of.

use std::fmt::Display;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use lightmessaging::rocketd::{Listener, Socket};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::Failure;

/// The socket of ours, from its folder being there to listening on it.
pub(crate) fn listen(path: &Path, mode: u32) -> Result<Listener, Failure> {
    let cannot = |what: &str, error: &dyn Display| {
        Failure::new(format!("cannot {what} {}: {error}", path.display()))
    };
    let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(cannot("listen at", &"it is not the path of a file"));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Those above are the user's own too: the registry's, as a rule.
    let is_root = rustix::process::geteuid().is_root();
    let mode_of_folder = if is_root { 0o755 } else { 0o700 };
    let made = DirBuilder::new().recursive(true).mode(mode_of_folder).create(folder);
    made.map_err(|error| cannot("make the folder of", &error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|error| cannot("open the folder of", &error))?;
    // Whoever may write there may put itself in rocketd's place.
    let stat = rustix::fs::fstat(&folder).map_err(|e| cannot("inspect the folder of", &e))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me && stat.st_uid != 0 {
        return Err(cannot("listen at", &format!("its folder belongs to user {}", stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0 {
        return Err(cannot("listen at", &"others may write its folder; use chmod go-w"));
    }
    let there = rustix::fs::statat(&folder, file, AtFlags::SYMLINK_NOFOLLOW);
    if there.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Socket) {
        return Err(cannot("listen at", &"something else than a socket is there"));
    }
    if Socket::connect(path, Some(Duration::ZERO)).is_ok() {
        return Err(cannot("listen at", &"another rocketd does already; stop that one first"));
    }
    let new = format!(".new.{}", std::process::id());
    Listener::publish(&folder, &new, file, mode).map_err(|error| cannot("listen at", &error))
}

/// Which file it is that is at a path.
pub(crate) fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
