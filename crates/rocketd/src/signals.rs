//! Signals, heard in the loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Signals, as bytes in a socket.
#[derive(Debug)]
pub(crate) struct Signals {
    end: UnixStream,
    reload: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Signals> {
        let (end, wake) = UnixStream::pair()?;
        end.set_nonblocking(true)?;
        let (reload, stop) = Default::default();
        for (signal, flag) in [(SIGHUP, &reload), (SIGINT, &stop), (SIGTERM, &stop)] {
            // The flag before the byte: who sees the byte finds it.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        Ok(Signals { end, reload, stop })
    }

    /// Whether files are to be read again. Forgets what has come so far.
    pub(crate) fn take_reload(&self) -> bool {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.end, &mut bytes).is_ok_and(|len| len > 0) {}
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Whether it is time to go.
    pub(crate) fn is_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
