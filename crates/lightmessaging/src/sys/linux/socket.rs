//! Sequenced-packet Unix sockets (`unix(7)`), with descriptors and the kernel's word on the sender.
//!
//! An unsafe room: `recvmsg(2)` with control messages, of which one kind (`SCM_PIDFD`) is too new
//! for the crate that wraps the rest. It promises that every descriptor received is owned by
//! somebody or closed.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sockopt,
};

use super::Fd;

/// `SO_PASSPIDFD` and `SCM_PIDFD`, since Linux 6.5 (`asm-generic/socket.h`, `linux/socket.h`).
const SO_PASSPIDFD: libc::c_int = 76;
const SCM_PIDFD: libc::c_int = 0x04;

/// The most descriptors that one packet of ours carries; more are closed on arrival.
const FDS_MAX: usize = 4;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket(Fd);

/// Where connections come in.
#[derive(Debug)]
pub(crate) struct Listener(Fd);

/// Who sent a packet, as the kernel says.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pidfd: Option<OwnedFd>,
}

/// What came with the bytes of a packet.
#[derive(Debug, Default)]
pub(crate) struct Packet {
    /// The number of bytes; 0 is the end of the peer.
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) credentials: Option<Credentials>,
    /// Bytes or descriptors are missing: the buffer was too small, or there was no descriptor left.
    pub(crate) truncated: bool,
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

impl Listener {
    /// Listens on a new socket file at `path`, which must be shorter than 108 bytes.
    pub(crate) fn bind(path: &Path) -> io::Result<Listener> {
        let fd = new_socket(SocketFlags::NONBLOCK)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        // The kernel caps this at net.core.somaxconn.
        rustix::net::listen(&fd, 4096)?;
        Ok(Listener(fd.into()))
    }

    /// One that somebody else has bound, and that listens.
    pub(super) fn from_inherited(fd: OwnedFd) -> Listener {
        Listener(fd.into())
    }

    /// Has the kernel note who sends what arrives before it is accepted.
    pub(crate) fn pass_credentials(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_passcred(&self.0, true)?)
    }

    /// The next connection, if one is waiting (`WouldBlock` otherwise).
    pub(crate) fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Socket(rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.0, flags))?.into()))
    }
}

impl Socket {
    /// Connects to the socket file at `path`, waiting up to `timeout` for room in its queue
    /// (`TimedOut` after that).
    pub(crate) fn connect(path: &Path, timeout: Option<Duration>) -> io::Result<Socket> {
        let fd = new_socket(SocketFlags::empty())?;
        // Zero would mean for ever.
        let timeout = timeout.map(|t| t.max(Duration::from_micros(1)));
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, timeout)?;
        let address = SocketAddrUnix::new(path)?;
        match rustix::io::retry_on_intr(|| rustix::net::connect(&fd, &address)) {
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            other => other?,
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Socket(fd.into()))
    }

    /// Asks the kernel to say who sends what arrives from now on.
    pub(crate) fn ask_for_credentials(&self, ask: bool) -> io::Result<()> {
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
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = [IoSlice::new(bytes)];
        // No SIGPIPE in programs that know nothing of our sockets.
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &bytes, &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// Receives one packet with what came along, without waiting.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Packet> {
        // Room for descriptors, credentials and a pidfd; the alignment is that of a header.
        let mut control = [0u64; 16];
        let mut bytes = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero is a valid msghdr: no name, no buffers.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut bytes;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        let len = loop {
            // SAFETY: the header names two live buffers with their true lengths.
            let len = unsafe { libc::recvmsg(self.0.as_fd().as_raw_fd(), &raw mut header, flags) };
            if len >= 0 {
                break len as usize;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
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
    pub(crate) fn hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // It does not wait, so that a signal cannot end it early.
        let ends = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR | PollFlags::NVAL;
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(ends)
    }

    /// Ends the connection for both sides, whoever else holds the descriptor.
    pub(crate) fn shutdown(&self) {
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
