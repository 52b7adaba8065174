//! Which Flatpak application a process is, without ever waiting for that process.
//!
//! Flatpak's word is a file in the root of every sandbox, `/.flatpak-info`, which the application can
//! neither change nor hide. A process outside Flatpak, though, can have for its root a file system
//! that it serves itself (FUSE), and whoever asks that one for anything waits as long as it likes. So
//! it is asked for nothing:
//!
//! - The root is opened with `O_PATH` through `/proc`, which no file system hears of.
//! - The file is looked up in the kernel's cache. Flatpak's root is a tmpfs, where everything is in
//!   the cache, and the file is mounted upon.
//! - The kind of a file system is read from the process's `mountinfo`: `fstatfs` would ask it.
//! - Only a file in a tmpfs is opened. A tmpfs has nobody behind it; a disk can, through a loop
//!   device.
//!
//! A process whose root may not be looked into is opaque and not outside: a sandboxed one can bring
//! that about.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::{asker, mounts};

const FILE: &str = ".flatpak-info";
/// The longest file, in bytes.
const FILE_MAX: usize = 64 << 10;
/// The longest id, in bytes; the same as Flatpak's.
const ID_MAX: usize = 255;

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// In no Flatpak.
    Outside,
    /// In this application's.
    Inside(String),
    /// That could not be found out.
    Opaque,
}

/// Finds out where a process is, by its folder in `/proc`.
pub(crate) fn find(process: &OwnedFd) -> Sandbox {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(process, "root", flags, Mode::empty()) else {
        return Sandbox::Opaque;
    };
    let file = match asker::find(&root, Path::new(FILE), true) {
        // No answer without asking the file system, so it has to be one that can be asked.
        Err(error) if error != Errno::NOENT => match kind(process, &root) {
            Some(Kind::Own | Kind::Tmpfs) => asker::find(&root, Path::new(FILE), false),
            Some(Kind::Other) => return Sandbox::Outside,
            None => return Sandbox::Opaque,
        },
        answer => answer,
    };
    match file {
        Ok(file) => application(process, &file).map_or(Sandbox::Opaque, Sandbox::Inside),
        Err(Errno::NOENT) => Sandbox::Outside,
        Err(_) => Sandbox::Opaque,
    }
}

fn application(process: &OwnedFd, file: &OwnedFd) -> Option<String> {
    let status = asker::status(file, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(status.stx_mode.into()) != FileType::RegularFile
        || kind(process, file)? != Kind::Tmpfs
    {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let text = asker::read_whole(file, FILE_MAX).ok()??;
    name(&text)
}

/// The kind of a file system, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nobody is behind it.
    Tmpfs,
    /// The one that rocketd itself has for its root, and depends on anyway.
    Own,
    /// Any other: never that of a Flatpak's root.
    Other,
}

fn kind(process: &OwnedFd, fd: &OwnedFd) -> Option<Kind> {
    let status = asker::status(fd, StatxFlags::MNT_ID)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let own = rustix::fs::openat(CWD, "/", flags, Mode::empty()).ok()?;
    let device = |status: &Statx| (status.stx_dev_major, status.stx_dev_minor);
    let own = asker::status(&own, StatxFlags::MNT_ID)?;
    match mounts::kind(process, &status)? {
        Some(name) if name == "tmpfs" => Some(Kind::Tmpfs),
        _ if device(&own) == device(&status) => Some(Kind::Own),
        other => other.map(|_| Kind::Other),
    }
}

/// The id in the file, which looks like a desktop entry: that of the application, or of the runtime
/// where that is run by itself.
fn name(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?;
    let (mut group, mut application, mut runtime) = ("", None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            group = name;
        } else if let Some((key, value)) = line.split_once('=')
            && key.trim_end() == "name"
        {
            match group {
                "Application" => application = Some(value.trim_start()),
                "Runtime" => runtime = Some(value.trim_start()),
                _ => {}
            }
        }
    }
    let id = asker::text(runtime.or(application)?.as_bytes(), ID_MAX)?;
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    id.chars().all(is_fit).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_applications() {
        let text = b"[Application]\nname=org.example.App\nruntime=runtime/org.x/x86_64/1\n\n\
            [Instance]\ninstance-id=1\nname=org.wrong\n";
        assert_eq!(name(text), Some("org.example.App".to_owned()));
        assert_eq!(name(b"# x\n[Application]\n name = a_b-1 \n"), Some("a_b-1".to_owned()));
        assert_eq!(name(b"[Runtime]\nname=org.x.Platform"), Some("org.x.Platform".to_owned()));
    }

    #[test]
    fn an_id_is_whole_and_well_formed_or_none() {
        for id in ["", "a b", "a/b", "a\u{e9}", "a\u{1b}", "a\0", "*", "a\rb"] {
            assert_eq!(name(format!("[Application]\nname={id}\n").as_bytes()), None, "{id:?}");
        }
        let long = |len: usize| format!("[Application]\nname={}\n", "x".repeat(len));
        assert_eq!(name(long(255).as_bytes()).map(|id| id.len()), Some(255));
        assert_eq!(name(long(256).as_bytes()), None);
        for none in ["", "name=x", "[Instance]\nname=x", "[Application\nname=x", "[Application]\nx"]
        {
            assert_eq!(name(none.as_bytes()), None, "{none:?}");
        }
        assert_eq!(name(b"[Application]\nname=\xff\n"), None);
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_read() {
        let text = b"[Application]\nname=org.example.App\n[Runtime]\nname=x\n";
        for byte in 0..=255 {
            for at in 0..text.len() {
                let mut text = text.to_vec();
                text[at] = byte;
                if let Some(id) = name(&text) {
                    assert!(id.bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }
    }
}
