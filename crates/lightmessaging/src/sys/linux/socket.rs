//! Sequenced-packet Unix sockets (`unix(7)`), with descriptors and the kernel's word on the sender.
//!
//! An unsafe room: `recvmsg(2)` with control messages, of which one kind (`SCM_PIDFD`) is too new
//! for the crate that wraps the rest. It promises that every descriptor received is owned by
//! somebody or closed.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sockopt,
};

use super::{Fd, discard, limit};

/// `SO_PASSPIDFD` and `SCM_PIDFD`, since Linux 6.5 (`asm-generic/socket.h`, `linux/socket.h`).
const SO_PASSPIDFD: libc::c_int = 76;
const SCM_PIDFD: libc::c_int = 0x04;

/// The most descriptors that one packet of ours carries; more are closed on arrival.
const FDS_MAX: usize = 4;
/// The most that the kernel lets anybody send at once, `SCM_MAX_FD`. There is room for all of them, as
/// the kernel would close those that find none while we wait.
const FDS_SENT: usize = 253;

/// More packets than a queue has room for (`net.unix.max_dgram_qlen`).
const QUEUE: usize = 1024;

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(Fd);

/// Where connections come in.
#[derive(Debug)]
pub struct Listener(Fd);

/// Who sent a packet, as the kernel says.
#[derive(Debug)]
pub struct Credentials {
    /// Its process id, as we see it.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// A handle to the process.
    pub pidfd: Option<OwnedFd>,
}

/// What came with the bytes of a packet.
#[derive(Debug, Default)]
pub struct Packet {
    /// The number of bytes; 0 is the end of the peer.
    pub len: usize,
    /// The descriptors that came along.
    pub fds: Vec<OwnedFd>,
    /// Who sent it, if that was asked for.
    pub credentials: Option<Credentials>,
    /// Bytes or descriptors are missing: the buffer was too small, or there was no descriptor left.
    pub truncated: bool,
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let kind = SocketType::SEQPACKET;
    Ok(limit::within(|| rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None))?)
}

/// Whether it is a socket of the kind that we use. None of these calls blocks, whatever it is.
pub(super) fn is_ours(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET)
}

/// What of this news there is, once there is any, the time is over or a signal handler has run.
fn poll_for(fd: &Fd, news: PollFlags, time: Duration) -> PollFlags {
    let mut fds = [PollFd::new(fd, news)];
    // A time beyond the kernel's range is for ever.
    let time = Timespec::try_from(time).ok();
    match poll(&mut fds, time.as_ref()) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

impl Listener {
    /// Listens on a new socket file at `path`, which must be shorter than 108 bytes.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        let fd = new_socket(SocketFlags::NONBLOCK)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        // The kernel caps this at net.core.somaxconn.
        rustix::net::listen(&fd, 4096)?;
        Ok(Listener(fd.into()))
    }

    /// Listens at `file` in a folder: bound as `new_file`, which is the caller's alone, and renamed, so
    /// that whoever looks finds somebody who listens. A failure leaves nothing behind.
    pub fn publish(
        folder: impl AsFd,
        new_file: &str,
        file: impl rustix::path::Arg,
        mode: u32,
    ) -> io::Result<Listener> {
        let folder = folder.as_fd();
        let remove = || {
            let _ = rustix::fs::unlinkat(folder, new_file, AtFlags::empty());
        };
        remove();
        let publish = || {
            // `sun_path` has room for 107 bytes, the folder's path may be longer, and the socket must
            // be made in the folder that was checked: so that one is named by its descriptor.
            let path = format!("/proc/self/fd/{}/{new_file}", folder.as_raw_fd());
            let listener = Listener::bind(Path::new(&path))?;
            // Before anybody can come.
            listener.pass_credentials()?;
            rustix::fs::chmodat(folder, new_file, Mode::from_raw_mode(mode), AtFlags::empty())?;
            rustix::fs::renameat(folder, new_file, folder, file)?;
            Ok(listener)
        };
        publish().inspect_err(|_| remove())
    }

    /// The file that it was bound to, as its binder named it, where that is a whole path.
    pub fn path(&self) -> Option<PathBuf> {
        let address = rustix::net::getsockname(&self.0).ok()?;
        let address = SocketAddrUnix::try_from(address).ok()?;
        let path = Path::new(OsStr::from_bytes(address.path_bytes()?));
        path.is_absolute().then(|| path.to_owned())
    }

    /// One that somebody else has bound, if it listens and is of our kind.
    pub fn from_peer(fd: OwnedFd) -> Result<Listener, &'static str> {
        let listens = sockopt::socket_acceptconn(&fd) == Ok(true);
        if is_ours(&fd) && listens { Ok(Listener(fd.into())) } else { Err("a socket that is none") }
    }

    /// One that was found to be of our kind.
    pub(super) fn from_inherited(fd: OwnedFd) -> Listener {
        Listener(fd.into())
    }

    /// Lets nobody connect any more; those who have can still be accepted.
    pub(crate) fn refuse(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Read);
    }

    /// Has the kernel note who sends what arrives before it is accepted.
    pub fn pass_credentials(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_passcred(&self.0, true)?)
    }

    /// Whether a connection is waiting.
    pub(crate) fn has_waiting(&self) -> bool {
        !poll_for(&self.0, PollFlags::IN, Duration::ZERO).is_empty()
    }

    /// The next connection, if one is waiting (`WouldBlock` otherwise).
    pub fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.0, flags));
        let fd = limit::within(accept)?;
        limit::keep_room(&fd);
        Ok(Socket(fd.into()))
    }
}

/// Whether this process or the system has run out of something, which says nothing about the other side.
pub fn is_exhausted(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Whether trying again in a moment may do: a queue is full, or too many descriptors of this user are on
/// their way (`unix(7)`).
pub fn is_momentary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ETOOMANYREFS))
}

impl Socket {
    /// Connects to the socket file at `path`, waiting up to `timeout` for room in its queue
    /// (`TimedOut` after that).
    pub fn connect(path: &Path, timeout: Option<Duration>) -> io::Result<Socket> {
        let fd = new_socket(SocketFlags::NONBLOCK)?;
        // A connection takes a few more, some of which are received: these are lost if there is no room.
        limit::keep_room(&fd);
        let address = SocketAddrUnix::new(path)?;
        let connect = || rustix::io::retry_on_intr(|| rustix::net::connect(&fd, &address));
        // Nearly always there is room, and nothing to be waited for.
        match connect() {
            Err(rustix::io::Errno::AGAIN) => {}
            connected => {
                connected?;
                return Ok(Socket(fd.into()));
            }
        }
        // Zero would mean for ever.
        let timeout = timeout.map(|t| t.max(Duration::from_micros(1)));
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, timeout)?;
        rustix::io::ioctl_fionbio(&fd, false)?;
        match connect() {
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            other => other?,
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Socket(fd.into()))
    }

    /// Takes a connected socket from somebody else, if it is one of our kind.
    pub fn from_peer(fd: OwnedFd) -> Result<Socket, &'static str> {
        let listens = sockopt::socket_acceptconn(&fd) != Ok(false);
        if is_ours(&fd) && !listens {
            Ok(Socket(fd.into()))
        } else {
            Err("a connection that is none")
        }
    }

    /// Asks the kernel to say who sends what arrives from now on.
    pub fn ask_for_credentials(&self, ask: bool) -> io::Result<()> {
        sockopt::set_socket_passcred(&self.0, ask)?;
        let value = libc::c_int::from(ask);
        // SAFETY: the pointer and length describe `value`, which outlives the call. Kernels that
        // do not know the option refuse it, and then there is no pidfd.
        unsafe {
            libc::setsockopt(
                self.0.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PASSPIDFD,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Ok(())
    }

    /// Sends one packet, without waiting (`WouldBlock` if the queue is full).
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = [IoSlice::new(bytes)];
        // No SIGPIPE in programs that know nothing of our sockets; and others may have the descriptor
        // too, and with it the flag that says whether it blocks.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.0, &bytes, &mut control, flags))?;
        Ok(())
    }

    /// Receives one packet with what came along, without waiting. In the place of descriptors that are
    /// better not closed here, such as those of files, [others](discard) are received.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Packet> {
        let mut packet = self.receive_all(buffer)?;
        let count = packet.fds.len();
        packet.fds = packet.fds.into_iter().filter_map(discard::tame).collect();
        packet.truncated |= count > FDS_MAX || packet.fds.len() < count;
        Ok(packet)
    }

    /// The same with all descriptors, from somebody who can be trusted with them.
    pub(crate) fn receive_all(&self, buffer: &mut [u8]) -> io::Result<Packet> {
        // Room for descriptors, credentials and a pidfd; the alignment is that of a header.
        let mut control = [0u64; 16 + FDS_SENT / 2];
        let mut bytes = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero is a valid msghdr: no name, no buffers.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut bytes;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        let mut was_reset = false;
        let len = loop {
            // SAFETY: the header names two live buffers with their true lengths.
            let len = unsafe { libc::recvmsg(self.0.as_fd().as_raw_fd(), &raw mut header, flags) };
            if len >= 0 {
                break len as usize;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                // Said once, if the peer has closed its end without reading all of ours, and before
                // what it had sent, which may be why.
                io::ErrorKind::ConnectionReset if !was_reset => was_reset = true,
                _ => return Err(error),
            }
        };
        let mut packet = Packet { len, ..Packet::default() };
        packet.truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        let mut pidfd = None;
        // SAFETY: the header was filled by the kernel, and its control buffer is alive.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        while !next.is_null() {
            // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header in the buffer.
            let message = unsafe { &*next };
            // SAFETY: as above; the data follows the header.
            let data = unsafe { libc::CMSG_DATA(next) };
            // SAFETY: pure arithmetic.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let len = (message.cmsg_len as usize).saturating_sub(head);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for index in 0..len / size_of::<RawFd>() {
                        // SAFETY: the kernel wrote `len` bytes of descriptors at `data`.
                        let fd = unsafe { data.cast::<RawFd>().add(index) };
                        // SAFETY: as above, at whatever alignment.
                        let fd = unsafe { fd.read_unaligned() };
                        // SAFETY: the kernel has just made it for us; nobody else knows it.
                        packet.fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
                (libc::SOL_SOCKET, SCM_PIDFD) if len >= size_of::<RawFd>() => {
                    // SAFETY: as above: one descriptor.
                    let fd = unsafe { data.cast::<RawFd>().read_unaligned() };
                    // A negative one says that the process was reaped already.
                    if fd >= 0 {
                        // SAFETY: as above: made for us.
                        pidfd = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if len >= size_of::<libc::ucred>() => {
                    // SAFETY: the kernel wrote a whole ucred at `data`.
                    let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                    packet.credentials = Some(Credentials {
                        pid: who.pid as u32,
                        uid: who.uid,
                        gid: who.gid,
                        pidfd: None,
                    });
                }
                _ => {}
            }
            // SAFETY: `next` lies in the header's control buffer.
            next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
        }
        if let Some(credentials) = &mut packet.credentials {
            credentials.pidfd = pidfd;
        }
        Ok(packet)
    }

    /// Whether the peer has closed its end, whatever is still in the queue.
    pub fn hung_up(&self) -> bool {
        // It does not wait, so that a signal cannot end it early.
        let ends = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR | PollFlags::NVAL;
        poll_for(&self.0, PollFlags::RDHUP, Duration::ZERO).intersects(ends)
    }

    /// Sleeps until there is something to receive, the peer has closed its end, the time is over or a
    /// signal handler has run.
    pub(crate) fn wait(&self, time: Duration) {
        poll_for(&self.0, PollFlags::IN | PollFlags::RDHUP, time);
    }

    /// Lets the peer send nothing more, which it is told when it tries; what it has sent can still be
    /// received.
    pub(crate) fn refuse(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Read);
    }

    /// Takes what the peer has sent out of the queue, and lets it send nothing more: before the socket is
    /// closed, as descriptors in the queue would be closed with it, whatever they are.
    pub fn clear(&self) {
        self.refuse();
        for _ in 0..QUEUE {
            match self.receive(&mut [0]) {
                // Of the end nobody is the sender.
                Ok(packet) if packet.len == 0 && packet.credentials.is_none() => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends the connection for both sides, whoever else holds the descriptor.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
